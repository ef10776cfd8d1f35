//! Compares the warnings and errors in the code with the table of `docs/operations.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::layering::rust_files;

/// The heading of the table.
const HEADING: &str = "## What each warning means";

/// Texts that the code passes to a function that writes an event, with the rest of the message.
const PASSED: [(&str, &str); 2] = [
    (
        "A path was refused, because its routes do not allow its unusual forms",
        ". This warning is logged once a day",
    ),
    (
        "A request of another site was refused",
        ". This warning is logged once a day",
    ),
];

/// The message of each warning and error in `code`: its last string, with `…` for each placeholder.
fn messages(code: &str) -> BTreeSet<String> {
    let starts = ["tracing::warn!(", "tracing::error!("];
    let starts = starts.iter().flat_map(|start| code.match_indices(start));
    let messages = starts.map(|(at, start)| {
        let arguments = &code[at + start.len()..];
        without_placeholders(&last_string(arguments))
    });
    messages.collect()
}

/// The last string literal before the parenthesis that closes the arguments.
fn last_string(arguments: &str) -> String {
    let (mut depth, mut last) = (1, String::new());
    let mut rest = arguments.chars();
    while depth > 0 {
        match rest.next().expect("the macro is not closed") {
            '(' => depth += 1,
            ')' => depth -= 1,
            '"' => last = string(&mut rest),
            _ => {}
        }
    }
    last
}

/// The rest of a string literal, with its line continuations removed.
fn string(rest: &mut std::str::Chars<'_>) -> String {
    let mut text = String::new();
    loop {
        match rest.next().expect("the string is not closed") {
            '"' => return text,
            '\\' => match rest.next() {
                Some('\n') => *rest = rest.as_str().trim_start().chars(),
                Some(other) => text.push(other),
                None => return text,
            },
            other => text.push(other),
        }
    }
}

/// Replaces `{name}` by `…`.
fn without_placeholders(text: &str) -> String {
    let mut parts = text.split('{');
    let mut replaced = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        replaced.push('…');
        replaced.push_str(part.split_once('}').map_or("", |(_, rest)| rest));
    }
    replaced
}

/// The first column of the table.
fn documented(page: &str) -> Vec<String> {
    let (_, section) = page.split_once(HEADING).expect("no section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    // The first two rows are the heading of the table, and bold text is a heading between rows.
    let events = cells.filter(|cell| !cell.starts_with("**") && *cell != "event");
    events
        .filter(|cell| !cell.starts_with("---"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_page_about_operation_explains_every_warning_and_error() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut expected = BTreeSet::new();
    let sources = root.join("src");
    for file in rust_files(&sources) {
        let name = file.strip_prefix(&sources).unwrap().display().to_string();
        // The demonstration is no gateway. The tests of the log write events of their own.
        if name.starts_with("demo") || name.contains("tests") {
            continue;
        }
        let code = fs::read_to_string(&file).unwrap();
        let code = code.split("\n#[cfg(test)]").next().unwrap_or_default();
        for (passed, rest) in PASSED {
            if code.contains(&format!("\"{passed}\"")) {
                expected.insert(format!("{passed}{rest}"));
            }
        }
        expected.extend(messages(code));
    }
    // Such a message is a text of another place: of [`PASSED`], or of `sidegate check`.
    expected.retain(|message| !message.starts_with('…'));
    assert!(expected.len() > 60, "{}", expected.len());
    let page = fs::read_to_string(root.join("docs/operations.md")).unwrap();
    let documented = documented(&page);
    let found: BTreeSet<_> = documented.iter().cloned().collect();
    assert_eq!(found.len(), documented.len(), "a row is repeated");
    let missing: Vec<_> = expected.difference(&found).collect();
    let unknown: Vec<_> = found.difference(&expected).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "docs/operations.md does not explain {missing:#?}, and explains {unknown:#?}, which the code \
         does not write"
    );
}

#[test]
fn a_message_is_the_last_string_of_an_event() {
    let code =
        "tracing::warn!(a = f(\"x\"), \"One \\\n   {two} three\"); tracing::error!(\"{a}. B\")";
    let expected = ["One … three", "…. B"].map(str::to_owned);
    assert_eq!(messages(code), BTreeSet::from(expected));
}
