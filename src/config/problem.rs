//! Problems in the settings, each with its key, its source and an explanation.

use std::fmt;

use figment::error::Kind;
use figment::{Figment, Metadata, Source};

/// One problem in the settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// The key, with dots between its parts. `key` is empty if the problem concerns the whole file.
    pub key: String,
    /// The source of the value: a file, an environment variable or the command line.
    pub(crate) source: String,
    /// The explanation, which never contains a secret.
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
    let mut key = key;
    loop {
        if let Some(metadata) = settings.find_metadata(key) {
            return describe(metadata, key);
        }
        // A missing key has no source, so the function returns the source of the table that should
        // contain the key.
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

/// Returns the line, the column and the reason of a TOML syntax error. The text does not quote the
/// wrong line, because the line can contain a secret and the text can appear in a log.
pub(super) fn syntax(error: &figment::Error) -> String {
    let quotes = |line: &&str| {
        let rest = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        rest.starts_with('|')
    };
    let text = error.kind.to_string();
    let said: Vec<&str> = text.lines().filter(|line| !quotes(line)).collect();
    said.join(": ")
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
        Kind::MissingField(name) => format!("`{name}` is missing"),
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            // In `expected`, the serde library names Rust types, which an operator does not know.
            let expected = match &**expected {
                "a nonzero u32" | "a nonzero u64" | "a nonzero usize" => "a whole number above 0",
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
        return "a secret must not be in the settings; name a file with client_secret_file"
            .to_owned();
    }
    let closest = known
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    match closest {
        Some((_, closest)) => format!("is not a known key; did you mean `{closest}`?"),
        None => "is not a known key".to_owned(),
    }
}
