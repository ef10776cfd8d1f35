//! Problems in the settings, each with its key, its source and an explanation.

use std::fmt;

use figment::error::Kind;
use figment::value::Value;
use figment::{Figment, Metadata, Source};

use super::habits;

/// One problem in the settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// The key, with dots between its parts. `key` is empty if the problem concerns the whole file.
    pub key: String,
    /// The source of the value: a file, an environment variable or the command line.
    pub(crate) source: String,
    /// The explanation of the problem. The explanation never contains a secret.
    pub(crate) reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            source,
            reason,
        } = self;
        if key.is_empty() {
            write!(f, "{source}: {reason}")
        } else {
            write!(f, "{key} ({source}): {reason}")
        }
    }
}

/// All problems in the settings. The operator has to correct the settings.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        let count = self.0.len();
        write!(
            f,
            "{count} problem{} in the settings",
            if count == 1 { "" } else { "s" }
        )
    }
}

/// Returns the source of a value (file, environment variable or flag) as text for the operator.
pub(super) fn source_of(settings: &Figment, key: &str) -> String {
    let mut parts = key.split('.');
    let Ok(mut value) = settings.find_value(parts.next().unwrap_or_default()) else {
        return "not set".to_owned();
    };
    // A missing key has no source, so the function returns the source of the table that should
    // contain the key.
    let mut tag = value.tag();
    for part in parts {
        let below = if let Value::Array(_, list) = value {
            let index = part.parse::<usize>().ok();
            index.and_then(|index| list.into_iter().nth(index))
        } else {
            value.into_dict().and_then(|mut table| table.remove(part))
        };
        let Some(below) = below else { break };
        tag = below.tag();
        value = below;
    }
    match settings.get_metadata(tag) {
        Some(metadata) => describe(metadata, key),
        None => "not set".to_owned(),
    }
}

fn describe(metadata: &Metadata, key: &str) -> String {
    match &metadata.source {
        Some(Source::File(path)) => path.display().to_string(),
        _ if metadata.name == super::layers::ENVIRONMENT => {
            format!("variable {}", variable_that_sets(key))
        }
        _ if metadata.name.contains("TOML source") => "default".to_owned(),
        _ => metadata.name.to_string(),
    }
}

/// Returns the line, the column and the reason of a TOML syntax error. The message does not quote
/// the wrong line, because the line can contain a secret and the message can appear in a log.
pub(super) fn syntax(text: &str, error: &figment::Error) -> String {
    let quotes = |line: &&str| {
        let rest = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        rest.starts_with('|')
    };
    let message = error.kind.to_string();
    let said: Vec<&str> = message.lines().filter(|line| !quotes(line)).collect();
    let said = said.join(": ");
    match other_language(text) {
        Some(language) => format!(
            "this looks like {language}, but settings are TOML; write key = \"value\" and [table] ({said})"
        ),
        None => said,
    }
}

/// Returns the name of the language of a settings file that is probably not TOML. The function
/// reads only the first line that is neither empty nor a comment.
fn other_language(text: &str) -> Option<&'static str> {
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let key = first.split_once(':').map(|(key, _)| key);
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    if first.starts_with('{') {
        Some("JSON")
    } else if first == "---" || key.is_some_and(|key| !key.is_empty() && key.chars().all(plain)) {
        Some("YAML")
    } else {
        None
    }
}

/// Returns the name of the environment variable from which the value of `key` was read. The
/// variable sets `key`, or a list or a table that contains `key`.
fn variable_that_sets(key: &str) -> String {
    let ends = key.match_indices('.').map(|(end, _)| end);
    let shorter = ends.rev().filter_map(|end| key.get(..end));
    let mut names = std::iter::once(key).chain(shorter).map(variable);
    let found = names.find(|name| std::env::var_os(name).is_some());
    found.unwrap_or_else(|| variable(key))
}

/// Returns the name of the environment variable that sets a key.
pub(super) fn variable(key: &str) -> String {
    format!(
        "{}{}",
        super::layers::VARIABLES,
        key.replace('.', "__").to_ascii_uppercase()
    )
}

/// Returns the explanation of an error. The explanation of an unknown key suggests the most similar
/// known key.
pub(super) fn reason(kind: &Kind) -> String {
    match kind {
        Kind::UnknownField(name, known) => unknown(name, known.iter().copied()),
        Kind::UnknownVariant(name, known) => {
            format!("`{name}` is not one of {}", known.join(", "))
        }
        Kind::MissingField(_) => "is missing".to_owned(),
        Kind::InvalidType(_, expected) if expected == "newtype variant" => {
            "this word needs keys; write a table with the keys, as in config/sidegate.toml"
                .to_owned()
        }
        Kind::InvalidType(_, expected) if expected == "unit" => {
            "this word has no keys; write only the word, in quotes".to_owned()
        }
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            format!("expected {}, found {found}", in_plain_words(expected))
        }
        other @ (Kind::Message(_)
        | Kind::InvalidLength(..)
        | Kind::DuplicateField(_)
        | Kind::ISizeOutOfRange(_)
        | Kind::USizeOutOfRange(_)
        | Kind::Unsupported(_)
        | Kind::UnsupportedKey(..)) => other.to_string(),
    }
}

/// Replaces the names of Rust types in the messages of the serde library by words that an operator
/// knows.
fn in_plain_words(expected: &str) -> &str {
    match expected {
        "a nonzero u32" | "a nonzero u64" | "a nonzero usize" => "a whole number above 0",
        "u16" | "u32" | "u64" | "usize" => "a whole number",
        "a boolean" => "true or false, without quotes",
        "a string" => "a text in quotes",
        "a sequence" => "a list such as [\"...\"]",
        "a map" => "a table",
        word if word.starts_with("enum ") => "a word in quotes (config/sidegate.toml lists them)",
        table if table.starts_with("struct ") => "a table",
        other => other,
    }
}

pub(super) fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    if let Some(advice) = habits::advice(name) {
        return format!("is not a known key; {advice}");
    }
    match closest(name, known) {
        Some(closest) => format!("is not a known key; did you mean `{closest}`?"),
        None => "is not a known key; config/sidegate.toml lists all keys".to_owned(),
    }
}

/// Returns the known key that is most similar to `name`, if a known key is similar enough.
pub(super) fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likely = known
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(likeness, _)| *likeness > 0.8);
    let best = likely.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.map(|(_, closest)| closest)
}
