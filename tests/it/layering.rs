//! Checks which modules of the crate name each other.
//!
//! A module is one name under `src/`. A module may name only modules of a lower layer. Modules of
//! one layer may not name each other. `lib.rs` and `main.rs` may name all modules.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules by layer, lowest first.
const LAYERS: &[&[&str]] = &[
    &["secret", "clock", "network"],
    &["telemetry"],
    &[
        "seal", "tls", "identity", "token", "fields", "target", "upload", "relay",
    ],
    &["origin", "server"],
    &["provider", "session", "upstream"],
    &["access", "login"],
    &["gateway", "admin"],
    &["config", "import"],
    &["instance", "snippet"],
    &["demo"],
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// The module of a path below `src/`; `None` for `lib.rs` and `main.rs`.
fn module_of(path: &Path) -> Option<String> {
    let first = path.components().next()?.as_os_str().to_str()?;
    let module = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(module, "lib" | "main")).then(|| module.to_owned())
}

/// The code of one line without its comment. A `//` inside a string also cuts the line, which is
/// harmless: the rest of a string names no module.
fn without_comment(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _comment)| code)
}

/// Every module that `code` names as `crate::module` or inside `crate::{module, other::Item}`.
fn named_rooms(code: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => modules.extend(heads_of_group(group)),
            None => modules.push(leading_name(rest)),
        }
    }
    modules.retain(|module| !module.is_empty());
    modules
}

fn leading_name(text: &str) -> String {
    text.trim_start()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// The first name of each entry in a brace group, without nested groups.
fn heads_of_group(group: &str) -> Vec<String> {
    let mut heads = vec![leading_name(group)];
    let mut depth = 0_i32;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(leading_name(&group[at + 1..])),
            _ => {}
        }
    }
    heads
}

/// The violations in one file, as `path:line: text`.
fn offences(path: &Path, text: &str) -> Vec<String> {
    let Some(module) = module_of(path) else {
        return Vec::new();
    };
    let shown = path.display();
    let Some(own_layer) = layer(&module) else {
        return vec![format!(
            "src/{shown}:1: {module} is not in the table of modules"
        )];
    };
    // Comments are removed and lines are joined, so that a group over several lines is found. The
    // line number is computed afterwards.
    let code: String = text
        .lines()
        .map(without_comment)
        .flat_map(|line| [line, "\n"])
        .collect::<String>();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        // Finds one `crate::` at a time. The character before `crate::` shows whether `crate` is a
        // whole word.
        let start = code[..at].char_indices().next_back().map_or(at, |(i, _)| i);
        let end = code[at + 7..]
            .find("crate::")
            .map_or(code.len(), |next| at + 7 + next);
        for named in named_rooms(&code[start..end]) {
            let named_layer = layer(&named);
            if named != module && named_layer.is_none_or(|other| other >= own_layer) {
                found.push(format!("src/{shown}:{line}: {module} names {named}"));
            }
        }
    }
    for (at, _) in code.match_indices("super::super") {
        let line = code[..at].matches('\n').count() + 1;
        found.push(format!("src/{shown}:{line}: super::super"));
    }
    found
}

/// Every Rust file below `folder`, sorted.
pub(crate) fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

#[test]
fn no_room_names_a_module_of_its_own_layer_or_above() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = rust_files(&source);
    assert!(files.len() > 5, "the source files were not found");
    let found: Vec<String> = files
        .iter()
        .flat_map(|file| {
            offences(
                file.strip_prefix(&source).unwrap(),
                &fs::read_to_string(file).unwrap(),
            )
        })
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn made_up_offences_are_found() {
    let cases = [
        (
            "session/mod.rs",
            "use crate::login::Login;",
            "src/session/mod.rs:1: session names login",
        ),
        (
            "session/x.rs",
            "\nlet a = crate::provider::B;",
            "src/session/x.rs:2: session names provider",
        ),
        (
            "secret.rs",
            "use crate::clock::Clock;",
            "src/secret.rs:1: secret names clock",
        ),
        (
            "origin/pool.rs",
            "use crate::{\n    clock::Clock, // fine\n    server::{A, B},\n};",
            "src/origin/pool.rs:1: origin names server",
        ),
        (
            "access/rule.rs",
            "use super::super::x;",
            "src/access/rule.rs:1: super::super",
        ),
        (
            "access/rule.rs",
            "use crate::helpers::x;",
            "src/access/rule.rs:1: access names helpers",
        ),
        (
            "utils.rs",
            "",
            "src/utils.rs:1: utils is not in the table of modules",
        ),
        (
            "token.rs",
            "fn f(x: &crate::config::C) {}",
            "src/token.rs:1: token names config",
        ),
    ];
    for (path, text, expected) in cases {
        assert_eq!(
            offences(Path::new(path), text),
            [expected],
            "{path}: {text}"
        );
    }
}

#[test]
fn what_is_allowed_is_no_offence() {
    let cases = [
        (
            "session/mod.rs",
            "use crate::{clock::Clock, token::TokenSet};\nuse crate::session::x;",
        ),
        (
            "session/mod.rs",
            "// crate::login would be wrong\n//! [`crate::demo`]\n/// crate::config",
        ),
        ("lib.rs", "use crate::demo::x;"),
        ("main.rs", "use crate::demo::x;"),
        (
            "demo/mod.rs",
            "use crate::config::Config;\nlet x = mycrate::demo2();",
        ),
        ("access/rule.rs", "use super::route;"),
    ];
    for (path, text) in cases {
        assert_eq!(offences(Path::new(path), text), [""; 0], "{path}: {text}");
    }
}
