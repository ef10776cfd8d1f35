//! `sidegate import oauth2-proxy`: each option, and the settings of `config/examples/oauth2-proxy`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use figment::Figment;
use figment::providers::{Format as _, Toml};
use serde_json::Value;
use sidegate::clock::Clock;
use sidegate::config::{Config, Reusable, Source};
use sidegate::import::{Imported, Input, oauth2_proxy};
use sidegate::tls::development_certificates;
use tempfile::TempDir;

use crate::examples::assert_decisions;
use crate::support::gateway::PROGRAM;

const OPTIONS: &str = include_str!("../data/oauth2_proxy_options.txt");
const EXAMPLES: &str = include_str!("../data/imported_examples.txt");
const SECRET: &str = "s3cret-canary";

/// The flags of a small deployment. A row of the table adds a flag, or replaces the flag with the
/// same name.
const BASE: [&str; 7] = [
    "--provider=oidc",
    "--oidc-issuer-url=https://id.example.com",
    "--client-id=sidegate",
    "--client-secret-file={folder}/client_secret",
    "--email-domain=*",
    "--upstream=http://127.0.0.1:8080/",
    "--redirect-url=https://app.example.com/oauth2/callback",
];

/// A folder with the files that rows name.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        development_certificates(folder.path(), &[], Clock::system().now()).unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        for name in ["client_secret", "app_password"] {
            write(name, SECRET);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        write("client_key.pem", &key.serialize_pem());
        write("public_key.pem", &key.public_key_pem());
        write("emails", "# staff\nalice@example.com\n\nbob@example.com\n");
        write("empty.cfg", "");
        write("empty.yaml", "{}");
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Puts the path of the folder into a flag.
    fn fill(&self, text: &str) -> String {
        text.replace("{folder}", &self.path().display().to_string())
    }

    /// Imports flags.
    fn import(&self, flags: &[String]) -> Imported {
        let flags = flags.iter().map(|flag| self.fill(flag)).collect();
        let input = Input {
            flags,
            ..Input::default()
        };
        oauth2_proxy(&input).unwrap()
    }

    /// The problems that `sidegate check` finds in the imported settings after the operator has
    /// written the secrets and the kind of the proxy that asks for auth checks.
    fn problems(&self, imported: &Imported) -> Option<String> {
        self.problems_of(&imported.settings.replace("kind = \"\"", "kind = \"nginx\""))
    }

    /// The problems that `sidegate check` finds in settings after the operator has written the
    /// secrets.
    fn problems_of(&self, settings: &str) -> Option<String> {
        let folder = format!("{}/", self.path().display());
        let text = settings.replace("/run/secrets/sidegate/", &folder);
        let path = self.path().join("sidegate.toml");
        fs::write(&path, text).unwrap();
        let loaded = Config::load(&Source::file(path), &Reusable::default(), &Clock::system());
        loaded.err().map(|problems| problems.to_string())
    }

    /// The settings as lines with a key and a value.
    fn lines(&self, imported: &Imported) -> BTreeSet<String> {
        let read: Value = Figment::from(Toml::string(&imported.settings))
            .extract()
            .unwrap();
        let mut lines = BTreeSet::new();
        flatten("", &read, &mut lines);
        let folder = self.path().display().to_string();
        lines
            .into_iter()
            .map(|line| line.replace(&folder, "{folder}"))
            .collect()
    }
}

fn flatten(path: &str, value: &Value, lines: &mut BTreeSet<String>) {
    let below = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    let list = value
        .as_array()
        .filter(|list| list.iter().any(Value::is_object));
    if let Some(table) = value.as_object().filter(|table| !table.is_empty()) {
        for (name, value) in table {
            flatten(&below(name), value, lines);
        }
    } else if let Some(list) = list {
        for (index, value) in list.iter().enumerate() {
            flatten(&below(&index.to_string()), value, lines);
        }
    } else {
        lines.insert(format!("{path} = {value}"));
    }
}

/// The base flags and the flags of a row.
fn flags(row: &[String]) -> Vec<String> {
    let name = |flag: &str| flag.split('=').next().unwrap().to_owned();
    let replaced: Vec<_> = row.iter().map(|flag| name(flag)).collect();
    let kept = BASE
        .into_iter()
        .filter(|flag| !replaced.contains(&name(flag)));
    kept.map(str::to_owned).chain(row.iter().cloned()).collect()
}

/// The rows of a table, each with its columns.
fn rows(table: &str) -> Vec<Vec<&str>> {
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split('\t').collect()).collect()
}

#[test]
fn every_option_is_imported_as_the_table_states() {
    let files = Files::new();
    let base = files.lines(&files.import(&flags(&[])));
    let mut wrong = Vec::new();
    let mut options = BTreeSet::new();
    for row in rows(OPTIONS) {
        let [option, value, expected] = row[..] else {
            panic!("not three columns: {row:?}")
        };
        options.insert(option);
        let (value, others) = value.split_once(" --").unwrap_or((value, ""));
        let others = others.split(" --").filter(|flag| !flag.is_empty());
        let others = others.map(|flag| format!("--{flag}"));
        let first = format!("--{option}={value}");
        let given: Vec<String> = std::iter::once(first).chain(others).collect();
        let imported = files.import(&flags(&given));
        let lines = files.lines(&imported);
        let added = lines.difference(&base).cloned();
        let remarks = imported.remarks.iter().filter(|remark| {
            let named = remark.option.split(' ').next().unwrap();
            named == format!("--{option}")
        });
        let remarks = remarks.map(|remark| format!("({})", remark.grade.as_str()));
        let found: Vec<String> = added.chain(remarks).collect();
        let found = found.join("; ");
        if found != expected {
            wrong.push(format!("{}\t{}\t{found}", row[0], row[1]));
        }
        if let Some(problems) = files.problems(&imported) {
            wrong.push(format!(
                "{option} {value}: {problems}\n{}",
                imported.settings
            ));
        }
        let shown = format!("{}{:?}", imported.settings, imported.remarks);
        assert!(!shown.contains("canary"), "{option}");
    }
    assert_eq!(options.len(), 172, "an option has no row");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The comment of a line with a setting.
fn comment(line: &str) -> &str {
    line.rsplit_once(" # ").map_or("", |(_, comment)| comment)
}

#[test]
fn each_line_that_an_option_adds_names_an_option_or_states_what_to_write() {
    let files = Files::new();
    let base = files.import(&flags(&[])).settings;
    let base: BTreeSet<&str> = base.lines().collect();
    let table = rows(OPTIONS);
    let options: BTreeSet<String> = table.iter().map(|row| format!("--{}", row[0])).collect();
    let names = |line: &str, is_wanted: &dyn Fn(&str) -> bool| {
        let mut words = comment(line).split([' ', ',', ':', ';']);
        words.any(is_wanted)
    };
    let (mut lines, mut wrong) = (0, Vec::new());
    for row in &table {
        let given = format!("{}={}", row[0], row[1]);
        let given: Vec<String> = given.split(" --").map(|flag| format!("--{flag}")).collect();
        let settings = files.import(&flags(&given)).settings;
        let added = settings.lines().filter(|line| !base.contains(line));
        // The line of a header has no value.
        let added = added.filter(|line| !line.is_empty() && !line.starts_with('['));
        let added: Vec<&str> = added.collect();
        lines += added.len();
        for line in &added {
            let is_marked = comment(line).starts_with("CHANGE THIS: ");
            if !is_marked && !names(line, &|word| options.contains(word)) {
                wrong.push(format!("{given:?}: {line}"));
            }
        }
        let is_own = |word: &str| {
            given
                .iter()
                .any(|flag| flag.split('=').next() == Some(word))
        };
        let explains = |line: &&str| comment(line).starts_with("CHANGE") || names(line, &is_own);
        if !added.is_empty() && !added.iter().any(explains) {
            wrong.push(format!(
                "{given:?}: no line names one of these flags: {added:?}"
            ));
        }
    }
    assert!(lines > 100, "{lines}");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn check_refuses_the_settings_until_the_kind_of_the_asking_proxy_is_written() {
    let files = Files::new();
    let given = ["--upstream=static://202", "--set-authorization-header=true"];
    let imported = files.import(&flags(&given.map(str::to_owned)));
    let line = "kind = \"\" # CHANGE THIS: ";
    assert!(imported.settings.contains(line), "{}", imported.settings);
    let problems = files.problems_of(&imported.settings).unwrap();
    assert!(problems.contains("auth_check.proxies.0.kind"), "{problems}");
}

#[test]
fn a_line_that_admits_more_is_marked() {
    let files = Files::new();
    let imported = files.import(&flags(&["--skip-auth-route=^/healthz$".to_owned()]));
    let line = "prefix = \"/healthz\" # CHECK THIS";
    assert!(imported.settings.contains(line), "{}", imported.settings);
    assert!(!imported.is_complete());
}

/// The flags in the comment at the start of an example.
fn flags_of_example(text: &str) -> Vec<String> {
    let comment = text.lines().take_while(|line| line.starts_with('#'));
    let words = comment.flat_map(str::split_whitespace);
    words
        .filter(|word| word.starts_with("--"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn every_example_is_imported_and_decides_as_the_table_states() {
    let folder = tempfile::tempdir().unwrap();
    let variables = folder.path().join("env");
    let secrets =
        format!("OAUTH2_PROXY_CLIENT_SECRET={SECRET}\nOAUTH2_PROXY_COOKIE_SECRET={SECRET}\n");
    fs::write(&variables, secrets).unwrap();
    let import = |text: String| {
        let input = Input {
            variables: text.contains("OAUTH2_PROXY_").then(|| variables.clone()),
            flags: flags_of_example(&text),
            public_url: Some("https://app.example.com".to_owned()),
            ..Input::default()
        };
        oauth2_proxy(&input).unwrap().settings
    };
    assert_decisions(EXAMPLES, import).await;
}

/// Runs `sidegate import oauth2-proxy` in a folder.
fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut program = Command::new(PROGRAM);
    program.args(["import", "oauth2-proxy"]).args(arguments);
    let Output {
        status,
        stdout,
        stderr,
    } = program.current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn the_exit_code_states_whether_everything_was_carried_over() {
    let files = Files::new();
    let complete = "provider = \"oidc\"\noidc_issuer_url = \"https://id.example.com\"\n\
                    client_id = \"me\"\nclient_secret = \"s3cret-canary\"\nemail_domains = \"*\"\n\
                    upstreams = [\"http://127.0.0.1:8080/\"]\ncookie_secret = \"s3cret-canary\"\n\
                    redirect_url = \"https://app.example.com/oauth2/callback\"\n";
    fs::write(files.path().join("a.cfg"), complete).unwrap();
    let (code, settings, said) = run(files.path(), &["a.cfg"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        settings.contains("client_id = \"me\" # client_id\n"),
        "{settings}"
    );
    assert!(settings.contains("client_secret_file = \"/run/secrets/sidegate/client_secret\""));
    assert!(said.contains("to do: client_secret: "), "{said}");
    assert!(said.contains("no key needed: cookie_secret: "), "{said}");
    assert!(!format!("{settings}{said}").contains("canary"));

    let (code, _, said) = run(files.path(), &["a.cfg", "--", "--htpasswd-file=users"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.starts_with("not carried over: --htpasswd-file: "),
        "{said}"
    );

    let (code, settings, said) = run(files.path(), &["missing.cfg"]);
    assert_eq!((code, &*settings), (Some(1), ""), "{said}");
    assert!(said.contains("missing.cfg cannot be read"), "{said}");

    let (code, settings, _) = run(files.path(), &["--public-url", "https://app.example.com"]);
    assert_eq!((code, &*settings), (Some(64), ""));
}

#[test]
fn the_alpha_configuration_is_imported() {
    let files = Files::new();
    let alpha = include_str!("../data/oauth2_proxy_alpha.yaml");
    fs::write(files.path().join("alpha.yaml"), files.fill(alpha)).unwrap();
    let core = "email_domains = [\"example.com\"]\nskip_auth_routes = [\"^/wiki/pub/\", \"^/old/pub/\"]\nredirect_url = \"https://app.example.com/oauth2/callback\"\n";
    fs::write(files.path().join("core.cfg"), core).unwrap();
    let input = Input {
        files: vec![
            files.path().join("core.cfg"),
            files.path().join("alpha.yaml"),
        ],
        ..Input::default()
    };
    let imported = oauth2_proxy(&input).unwrap();
    assert_eq!(files.problems(&imported), None, "{}", imported.settings);
    let lines: Vec<String> = files.lines(&imported).into_iter().collect();
    let remarks = imported.remarks.iter();
    let remarks = remarks.map(|remark| format!("({}) {}", remark.grade.as_str(), remark.option));
    let found: Vec<String> = lines.into_iter().chain(remarks).collect();
    let expected = include_str!("../data/oauth2_proxy_alpha.txt");
    assert_eq!(found.join("\n"), expected.trim_end());
}
