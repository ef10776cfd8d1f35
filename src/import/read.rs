//! Reads the options of oauth2-proxy from flags, from variables and from settings files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Format as _, Toml};
use serde_json::{Map, Value};

use super::alpha::{self, Alpha};
use super::options::{self, Kind, Row};
use super::{Error, Grade, Input, Remark};
use crate::secret;

/// The prefix of the environment variables of oauth2-proxy.
const PREFIX: &str = "OAUTH2_PROXY_";

/// The place of a setting of oauth2-proxy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    Flag,
    Variable,
    File,
}

/// The value of an option.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) row: Row,
    /// The values of a list, or the only value. The list is empty if the value can be a secret.
    pub(super) values: Vec<String>,
    /// The name of the option as the operator has written it.
    pub(super) written: String,
    pub(super) place: Place,
}

/// All settings of oauth2-proxy.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// The settings by the names of their flags.
    pub(super) settings: BTreeMap<&'static str, Setting>,
    /// The parts of the alpha configuration that no flag has.
    pub(super) alpha: Alpha,
    /// The settings that the table of options does not contain.
    pub(super) unknown: Vec<Remark>,
}

impl Given {
    /// Reads all sources. A flag overrides a variable, and a variable overrides a file.
    pub(super) fn read(input: &Input) -> Result<Self, Error> {
        let mut given = Self::default();
        let mut higher = Self::default();
        if let Some(path) = &input.variables {
            higher.read_variables(&text_of(path)?);
        }
        higher.merge(Self::of_flags(&input.flags));
        let named = ["config", "alpha-config"].into_iter();
        let named = named.filter_map(|name| higher.settings.get(name)?.values.first());
        let named: Vec<PathBuf> = named.map(PathBuf::from).collect();
        for path in input.files.iter().chain(&named) {
            let is_yaml = path
                .extension()
                .is_some_and(|end| end == "yaml" || end == "yml");
            let text = text_of(path)?;
            if is_yaml {
                let read = alpha::parse(text.expose()).map_err(|place| Error::Syntax {
                    path: path.clone(),
                    language: "YAML",
                    place,
                })?;
                given.read_alpha(read);
            } else {
                given.read_toml(path, text.expose())?;
            }
        }
        given.merge(higher);
        Ok(given)
    }

    /// Adds the settings of a source with a higher precedence.
    fn merge(&mut self, higher: Self) {
        self.settings.extend(higher.settings);
        self.unknown.extend(higher.unknown);
    }

    /// Adds a value. Further values of a list in the same source are added to the list.
    fn add(&mut self, row: Row, values: Vec<String>, written: String, place: Place) {
        let values = if row.kind == Kind::Secret {
            Vec::new()
        } else {
            values
        };
        let setting = self.settings.entry(row.name).or_insert_with(|| Setting {
            row,
            values: Vec::new(),
            written,
            place,
        });
        if row.kind == Kind::List {
            setting.values.extend(values);
        } else {
            setting.values = values;
        }
    }

    fn add_unknown(&mut self, written: impl Into<String>, text: &str) {
        self.unknown.push(Remark {
            option: written.into(),
            grade: Grade::Lost,
            text: text.to_owned(),
        });
    }

    fn of_flags(flags: &[String]) -> Self {
        let mut given = Self::default();
        let mut rest = flags.iter().peekable();
        while let Some(flag) = rest.next() {
            let Some(name) = flag.strip_prefix('-') else {
                let text = "This argument is not a flag, so Sidegate ignores the argument.";
                given.add_unknown("an argument without a name", text);
                continue;
            };
            let name = name.strip_prefix('-').unwrap_or(name);
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            let written = format!("--{name}");
            let Some(row) = options::by_flag(name) else {
                if value.is_none() {
                    // The next argument is probably the value of the unknown flag.
                    let _value = rest.next_if(|next| !next.starts_with('-'));
                }
                given.add_unknown(written, UNKNOWN);
                continue;
            };
            let value = match (value, row.kind) {
                (Some(value), _) => value,
                (None, Kind::Flag) => "true".to_owned(),
                (None, Kind::Text | Kind::List | Kind::Secret) => {
                    rest.next().cloned().unwrap_or_default()
                }
            };
            given.add(row, values_of(row, &value), written, Place::Flag);
        }
        given
    }

    /// Reads a file with lines such as `OAUTH2_PROXY_CLIENT_ID=me`.
    fn read_variables(&mut self, text: &secret::Secret<String>) {
        for line in text.expose().lines().map(str::trim) {
            let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
            let Some((name, value)) = line.split_once('=').filter(|_| !line.starts_with('#'))
            else {
                continue;
            };
            let Some(key) = name.trim().strip_prefix(PREFIX) else {
                continue;
            };
            if let Some(row) = options::by_key(key) {
                let values = values_of(row, unquoted(value.trim()));
                self.add(row, values, name.trim().to_owned(), Place::Variable);
            } else {
                let variable = |key: &str| format!("{PREFIX}{}", key.to_ascii_uppercase());
                self.add_unknown(name.trim(), &unread(key, variable));
            }
        }
    }

    fn read_toml(&mut self, path: &Path, text: &str) -> Result<(), Error> {
        let read = Figment::from(Toml::string(text)).extract::<Map<String, Value>>();
        let read = read.map_err(|error| Error::Syntax {
            path: path.to_owned(),
            language: "TOML",
            // The other lines of the message quote the file, which can contain a secret.
            place: error
                .to_string()
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned(),
        })?;
        for (key, value) in read {
            if let (Some(row), Some(values)) = (options::by_key(&key), texts(&value)) {
                let values = value.as_str().map_or(values, |text| values_of(row, text));
                self.add(row, values, key, Place::File);
            } else {
                let text = unread(&key, str::to_owned);
                self.add_unknown(key, &text);
            }
        }
        Ok(())
    }

    fn read_alpha(&mut self, read: Value) {
        let leaves = alpha::leaves(read, &mut self.alpha);
        for written in std::mem::take(&mut self.alpha.unknown) {
            self.add_unknown(written, UNKNOWN_ALPHA);
        }
        for written in std::mem::take(&mut self.alpha.with_variables) {
            let text = "oauth2-proxy replaces ${NAME} by the value of a variable. Settings of \
                        Sidegate contain no variables. Write the value.";
            self.add_unknown(written, text);
        }
        for (path, written, value) in leaves {
            let row = options::rows().find(|row| row.alpha.eq_ignore_ascii_case(&path));
            match (row.filter(|row| !row.alpha.is_empty()), texts(&value)) {
                (Some(row), Some(values)) => self.add(row, values, written, Place::File),
                (None, _) | (_, None) => self.add_unknown(written, UNKNOWN_ALPHA),
            }
        }
    }
}

const UNKNOWN: &str = "The import does not know this option of oauth2-proxy.";

const UNKNOWN_ALPHA: &str = "The import does not know this key of the alpha configuration.";

/// Returns the remark about a key of a settings file, or about the name of a variable without its
/// prefix, that oauth2-proxy does not read. `name` turns the right key into the name that the
/// operator has to write.
fn unread(key: &str, name: impl Fn(&str) -> String) -> String {
    match options::by_singular(key) {
        Some(row) => {
            let name = name(&row.key());
            format!(
                "oauth2-proxy reads this list only under the name {name}. The import ignores it."
            )
        }
        None => UNKNOWN.to_owned(),
    }
}

/// Reads a file that can contain a secret.
fn text_of(path: &Path) -> Result<secret::Secret<String>, Error> {
    secret::read_file(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

/// Returns the values of an option that is written as one text. The entries of a list are separated
/// by commas. An entry in quotes can contain a comma.
fn values_of(row: Row, text: &str) -> Vec<String> {
    if row.kind != Kind::List {
        return vec![text.to_owned()];
    }
    let mut entries = vec![String::new()];
    let mut is_quoted = false;
    for c in text.chars() {
        match (c, entries.last_mut()) {
            ('"', _) => is_quoted = !is_quoted,
            (',', _) if !is_quoted => entries.push(String::new()),
            (c, Some(entry)) => entry.push(c),
            (_, None) => {}
        }
    }
    entries.retain(|entry| !entry.is_empty());
    entries
}

/// Returns the text without the quotation marks around it.
fn unquoted(text: &str) -> &str {
    let inside = |mark: char| text.strip_prefix(mark)?.strip_suffix(mark);
    inside('"').or_else(|| inside('\'')).unwrap_or(text)
}

/// Returns the entries of a list, or the only value. Returns `None` if the value has members.
pub(super) fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Bool(flag) => Some(vec![flag.to_string()]),
        Value::Number(number) => Some(vec![number.to_string()]),
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) => {
            let lists: Option<Vec<_>> = list.iter().map(texts).collect();
            lists.map(|lists| lists.concat())
        }
        Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(given: &Given, name: &str) -> Vec<String> {
        given.settings[name].values.clone()
    }

    #[test]
    fn flags_have_two_forms_and_lists_can_be_repeated() {
        let flags = [
            "--client-id=me",
            "-provider",
            "oidc",
            "--reverse-proxy",
            "--pass-basic-auth=false",
            "--skip-auth-route=^/a/,^/b/",
            "--skip-auth-route",
            "\"^/c{1,2}/\"",
            "--client-secret",
            "s3cret-canary",
            "--new-option",
            "value",
            "--email-domain=*",
            "stray",
        ];
        let given = Given::of_flags(&flags.map(str::to_owned));
        assert_eq!(values(&given, "client-id"), ["me"]);
        assert_eq!(values(&given, "provider"), ["oidc"]);
        assert_eq!(values(&given, "reverse-proxy"), ["true"]);
        assert_eq!(values(&given, "pass-basic-auth"), ["false"]);
        assert_eq!(
            values(&given, "skip-auth-route"),
            ["^/a/", "^/b/", "^/c{1,2}/"]
        );
        assert_eq!(values(&given, "email-domain"), ["*"]);
        assert!(given.settings.contains_key("client-secret"));
        assert!(!format!("{given:?}").contains("canary"));
        let unknown: Vec<_> = given.unknown.iter().map(|remark| &*remark.option).collect();
        assert_eq!(unknown, ["--new-option", "an argument without a name"]);
    }

    #[test]
    fn a_flag_overrides_a_variable_and_a_variable_overrides_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let file = "client_id = \"a\"\nprovider = \"a\"\nemail_domains = [\"a\"]\nscope = \"a\"\n";
        let variables = "# none\nexport OAUTH2_PROXY_CLIENT_ID=\"b\"\nOAUTH2_PROXY_PROVIDER='b'\n\
                         OAUTH2_PROXY_EMAIL_DOMAINS=b,c\nOTHER=x\nOAUTH2_PROXY_ODD=x\n";
        let input = Input {
            files: vec![at("a.cfg", file)],
            variables: Some(at("b.env", variables)),
            flags: vec!["--client-id=c".to_owned()],
            ..Input::default()
        };
        let given = Given::read(&input).unwrap();
        assert_eq!(values(&given, "client-id"), ["c"]);
        assert_eq!(values(&given, "provider"), ["b"]);
        assert_eq!(values(&given, "email-domain"), ["b", "c"]);
        assert_eq!(values(&given, "scope"), ["a"]);
        assert_eq!(given.settings["provider"].written, "OAUTH2_PROXY_PROVIDER");
        assert_eq!(given.unknown.len(), 1);
    }

    #[test]
    fn an_error_does_not_quote_the_file() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.cfg", "a.yaml"] {
            let path = folder.path().join(name);
            std::fs::write(&path, "client_secret = \"s3cret-canary\n: - [").unwrap();
            let input = Input {
                files: vec![path],
                ..Input::default()
            };
            let error = Given::read(&input).unwrap_err().to_string();
            assert!(error.contains("line"), "{error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
