//! What is wrong with the settings: each problem with its key, its source and a reason.

use std::fmt;

use figment::error::Kind;
use figment::{Figment, Metadata, Source};

/// One thing that is wrong, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// The key, with dots; empty when it is about the whole.
    pub key: String,
    /// The file or variable that the value comes from.
    pub(crate) source: String,
    /// What is wrong, never with a secret in it.
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

/// Everything that is wrong. Side: gateway; the operator mends the settings.
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

/// Where the value of a key comes from, in an operator's words.
pub(super) fn source_of(settings: &Figment, key: &str) -> String {
    let mut key = key;
    loop {
        if let Some(metadata) = settings.find_metadata(key) {
            return describe(metadata, key);
        }
        // A key that is missing belongs to the table that it is missing from.
        match key.rsplit_once('.') {
            Some((table, _)) => key = table,
            None => return "not set".to_owned(),
        }
    }
}

fn describe(metadata: &Metadata, key: &str) -> String {
    match &metadata.source {
        Some(Source::File(path)) => path.display().to_string(),
        _ if metadata.name.contains("environment") => {
            format!("variable {}", variable(key))
        }
        _ if metadata.name.contains("TOML source") => "default".to_owned(),
        _ => metadata.name.to_string(),
    }
}

/// Where a file is not TOML, and why. The line itself is left out: it may hold a secret that should not
/// be there, and the text goes to a log.
pub(super) fn syntax(error: &figment::Error) -> String {
    let quotes = |line: &&str| {
        let rest = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        rest.starts_with('|')
    };
    let text = error.kind.to_string();
    let said: Vec<&str> = text.lines().filter(|line| !quotes(line)).collect();
    said.join(": ")
}

/// The name of the variable that sets a key.
pub(super) fn variable(key: &str) -> String {
    format!(
        "{}{}",
        super::layers::VARIABLES,
        key.replace('.', "__").to_ascii_uppercase()
    )
}

/// The reason of an error, with the closest known key for an unknown one.
pub(super) fn reason(kind: &Kind) -> String {
    match kind {
        Kind::UnknownField(name, known) => unknown(name, known.iter().copied()),
        Kind::UnknownVariant(name, known) => {
            format!("`{name}` is not one of {}", known.join(", "))
        }
        Kind::MissingField(name) => format!("`{name}` is missing"),
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            // The library's word is not an operator's.
            let expected = match &**expected {
                "a nonzero u32" | "a nonzero u64" | "a nonzero usize" => "a whole number from 1",
                "a sequence" => "a list such as [\"...\"]",
                other => other,
            };
            format!("expected {expected}, found {found}")
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

pub(super) fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    if name == "client_secret" {
        return "secrets are never written into settings; name a file with client_secret_file"
            .to_owned();
    }
    let closest = known
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    match closest {
        Some((_, closest)) => format!("there is no such key; did you mean `{closest}`?"),
        None => "there is no such key".to_owned(),
    }
}
