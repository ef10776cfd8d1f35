//! The mistakes of `tests/data/settings_mistakes.txt`: settings that operators write by habit, and
//! the lines that `sidegate check` prints about these settings.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::gateway::PROGRAM;

const TABLE: &str = include_str!("../data/settings_mistakes.txt");

/// Settings without a problem. The lines of a case replace and extend these lines.
const GOOD: [(&str, &[&str]); 3] = [
    ("", &["public_url = \"https://app.example.com\""]),
    (
        "[providers.main]",
        &[
            "profile = \"oidc\"",
            "issuer = \"https://id.example.com\"",
            "client_id = \"me\"",
            "client_secret_file = \"secret\"",
        ],
    ),
    ("[upstreams.app]", &["url = \"http://127.0.0.1:8080\""]),
];

/// One case of the table.
struct Case<'a> {
    name: &'a str,
    /// Lines of TOML.
    settings: Vec<&'a str>,
    variables: Vec<(&'a str, &'a str)>,
    flags: Vec<&'a str>,
    files: Vec<(&'a str, Vec<u8>)>,
    /// The modes of files, in octal digits.
    modes: Vec<(&'a str, &'a str)>,
    /// The lines of `sidegate check`.
    said: Vec<&'a str>,
}

impl<'a> Case<'a> {
    fn parse(text: &'a str) -> Self {
        let mut lines = text.lines();
        let mut case = Self {
            name: lines.next().unwrap(),
            settings: Vec::new(),
            variables: Vec::new(),
            flags: Vec::new(),
            files: Vec::new(),
            modes: Vec::new(),
            said: Vec::new(),
        };
        for line in lines.filter(|line| !line.is_empty()) {
            match line.split_once(' ').unwrap_or((line, "")) {
                ("$", variable) => case.variables.push(variable.split_once('=').unwrap()),
                ("+", flags) => case.flags.extend(flags.split(' ')),
                ("<", file) => {
                    let (name, text) = file.split_once(' ').unwrap();
                    let text: String = serde_json::from_str(text).unwrap();
                    // U+00FF stands for the byte FF, which is never a part of UTF-8.
                    let bytes = text.chars().flat_map(|c| match c {
                        '\u{ff}' => vec![0xff],
                        other => other.to_string().into_bytes(),
                    });
                    case.files.push((name, bytes.collect()));
                }
                ("%", mode) => case.modes.push(mode.split_once(' ').unwrap()),
                ("=>", said) => case.said.push(said),
                _ => case.settings.push(line),
            }
        }
        case
    }

    /// Returns the good settings with the lines of the case. A line replaces the line with the same
    /// key in the same table.
    fn settings(&self) -> String {
        let mut tables: Vec<(&str, Vec<&str>)> = GOOD
            .iter()
            .map(|(header, lines)| (*header, lines.to_vec()))
            .collect();
        let mut current = 0;
        for line in &self.settings {
            if line.starts_with('[') {
                let known = tables.iter().position(|(header, _)| header == line);
                let known = known.filter(|_| !line.starts_with("[["));
                current = known.unwrap_or(tables.len());
                if known.is_none() {
                    tables.push((line, Vec::new()));
                }
                continue;
            }
            let key = |line: &str| line.split('=').next().unwrap().to_owned();
            let lines = &mut tables[current].1;
            match lines.iter_mut().find(|other| key(other) == key(line)) {
                Some(other) => *other = line,
                None => lines.push(line),
            }
        }
        let text = |(header, lines): (&str, Vec<&str>)| format!("{header}\n{}\n", lines.join("\n"));
        tables.into_iter().map(text).collect()
    }

    /// Runs `sidegate check` in a folder without the settings file, so that relative paths have to
    /// be relative to the settings file. Returns the lines without the name of the folder, and
    /// whether the settings are good.
    fn check(&self) -> (Vec<String>, bool) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let set_mode = |name: &str, mode| {
            fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
        };
        let write = |name: &str, bytes: &[u8]| {
            fs::write(at(name), bytes).unwrap();
            set_mode(name, 0o600);
        };
        write("secret", b"s3cret-canary\n");
        write("sidegate.toml", self.settings().as_bytes());
        for (name, bytes) in &self.files {
            write(name, bytes);
        }
        for (name, mode) in &self.modes {
            set_mode(name, u32::from_str_radix(mode, 8).unwrap());
        }
        let mut program = Command::new(PROGRAM);
        program
            .arg("check")
            .arg("--config")
            .arg(at("sidegate.toml"))
            .args(&self.flags)
            .envs(self.variables.iter().copied())
            // In a pod, there are no warnings about modes.
            .env_remove("KUBERNETES_SERVICE_HOST")
            .current_dir(Path::new("/"));
        let output = program.output().unwrap();
        let said = String::from_utf8([output.stderr, output.stdout].concat()).unwrap();
        assert!(!said.contains("canary"), "{}: {said}", self.name);
        let here = format!("{}/", folder.path().display());
        let said = said.replace(&here, "").replace(" (sidegate.toml):", ":");
        let lines = said
            .lines()
            .filter(|line| !line.ends_with("in the settings"));
        let lines = lines.map(str::to_owned).collect();
        let good = match output.status.code() {
            Some(0) => true,
            Some(78) => false,
            other => panic!("{}: {other:?} {said}", self.name),
        };
        (lines, good)
    }
}

#[test]
fn x_06_each_mistake_has_one_line_with_its_key_its_cause_and_its_cure() {
    let cases: Vec<_> = TABLE.split("\n== ").skip(1).map(Case::parse).collect();
    assert!(cases.len() >= 150, "{}", cases.len());
    let names: BTreeSet<_> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len(), "two cases have the same name");
    let mut wrong = Vec::new();
    for case in &cases {
        let (said, good) = case.check();
        if said != case.said {
            let expected = case.said.join("\n=> ");
            let said = said.join("\n=> ");
            wrong.push(format!(
                "== {}\n=> {said}\n   instead of\n=> {expected}\n",
                case.name
            ));
        }
        let praised = case
            .said
            .iter()
            .any(|line| line.ends_with("the settings are good"));
        assert_eq!(good, praised, "{}", case.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
}
