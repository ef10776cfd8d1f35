//! The layers of the settings: compiled-in defaults, the file, environment variables and flags. The
//! settings of a provider override its profile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs, io};

use figment::providers::{Env, Format as _, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::paths::{self, Kind};
use super::problem::{self, Problems};
use super::watch::FileVersion;
use crate::provider::profile;
use crate::secret::Environment;

/// The prefix of Sidegate's environment variables. The prefix ends with two underscores, because
/// Kubernetes injects variables such as `SIDEGATE_PORT` for a service that is named `sidegate`.
pub(super) const VARIABLES: &str = "SIDEGATE__";

/// The name of the layer with the environment variables.
pub(super) const ENVIRONMENT: &str = "environment variables";

/// The text of the lowest layer, which contains the defaults. The text of the defaults is the
/// reference file `config/sidegate.toml`, so the documented defaults are the real defaults.
pub(super) const DEFAULTS: &str = include_str!("../../config/sidegate.toml");

/// Selects whether environment variables are a layer of the settings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Variables {
    /// Environment variables override the file.
    Read,
    /// Environment variables are ignored. The demo and the tests ignore environment variables, so
    /// that the environment cannot change their settings.
    Ignore,
}

/// The settings from the command line, which override the file and the environment variables.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `server.listen`.
    pub listen: Option<String>,
    /// `log.level`.
    pub log_level: Option<String>,
    /// `log.format`.
    pub log_format: Option<String>,
}

/// The sources of the settings: the settings file, environment variables and flags. Each reload
/// reads the settings file and the environment variables again.
#[derive(Clone, Debug)]
pub struct Source {
    /// The settings file.
    pub path: PathBuf,
    /// The content of the file, if the file was already read. If `content` is not `None`, the
    /// gateway does not read the settings file again.
    pub content: Option<FileContent>,
    /// States whether environment variables are read.
    pub variables: Variables,
    /// The settings from the command line.
    pub flags: Flags,
}

/// The content and the version of a settings file. The `Debug` output does not show the content.
#[derive(Clone)]
pub struct FileContent {
    pub(super) text: Arc<str>,
    pub(super) version: Option<FileVersion>,
}

impl FileContent {
    fn read(path: &Path) -> io::Result<Self> {
        // This function determines the version of the file before it reads the text. If the file
        // changes just before the text is read, the version of the old file is stored with the new
        // text. The next comparison of file versions then shows that the file has changed.
        let version = FileVersion::of(path);
        let text = fs::read_to_string(path)?.into();
        Ok(Self { text, version })
    }
}

impl fmt::Debug for FileContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileContent").finish_non_exhaustive()
    }
}

impl Source {
    /// Returns a source that reads only the file at `path`, without environment variables and
    /// flags.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            content: None,
            variables: Variables::Ignore,
            flags: Flags::default(),
        }
    }

    /// Returns the environment variables, or no variables if this source ignores them.
    pub(super) fn environment(&self) -> Environment {
        match self.variables {
            Variables::Read => Environment::of_process(),
            Variables::Ignore => Environment::default(),
        }
    }

    /// Returns the stored content of the file. Reads the file if there is no stored content.
    pub(crate) fn read(&self) -> Result<FileContent, Problems> {
        let read = self
            .content
            .clone()
            .map_or_else(|| FileContent::read(&self.path), Ok);
        let why = |error: io::Error| {
            if error.kind() == io::ErrorKind::InvalidData {
                "is not UTF-8 text; save the file as UTF-8".to_owned()
            } else {
                format!("cannot be read: {error}")
            }
        };
        read.map_err(|error| Problems::single(&self.path, why(error)))
    }

    /// Returns all layers. A later layer overrides an earlier layer. `text` is the content of the
    /// file. This function does not read the file again, because the content of the file could have
    /// changed.
    pub(super) fn layers(&self, text: &str) -> Figment {
        // The caller has already checked that the text is TOML.
        let file = self.layer(
            Metadata::from("TOML file", &*self.path),
            values_of(&Toml::string(text)),
        );
        let settings = Figment::from(Toml::string(DEFAULTS)).merge(file);
        let settings = match self.variables {
            Variables::Read => {
                let mut values = values_of(&Env::prefixed(VARIABLES).split("__"));
                for (key, value) in &mut values {
                    read_json(value);
                    *value = with_lists(value.clone(), settings.find_value(key).ok().as_ref());
                }
                let layer = self.layer(Metadata::named(ENVIRONMENT), values);
                settings.merge(layer)
            }
            Variables::Ignore => settings,
        };
        with_profiles(settings.merge(self.flags.layer()))
    }
}

impl Source {
    /// Creates a layer. Relative paths are relative to the folder of the settings file, so that
    /// relative paths do not depend on the working directory of the process.
    fn layer(&self, metadata: Metadata, mut values: Dict) -> Layer {
        if let Some(folder) = self.path.parent() {
            make_absolute(&mut values, folder);
        }
        Layer { metadata, values }
    }
}

/// Puts `folder` before each relative path.
fn make_absolute(values: &mut Dict, folder: &Path) {
    paths::for_each(values, &mut |_key, kind, path| match kind {
        Kind::Folder | Kind::Own | Kind::Public | Kind::Secret if !path.is_empty() => {
            *path = folder.join(&*path).display().to_string();
        }
        Kind::Folder | Kind::Own | Kind::Public | Kind::Secret | Kind::Address => {}
    });
}

/// Returns the values of a source, or an empty table if the source cannot be read.
fn values_of(source: &impl Provider) -> Dict {
    let values = source.data().ok();
    let values = values.and_then(|mut values| values.remove(&Profile::Default));
    values.unwrap_or_default()
}

/// Parses each text that is a JSON array or a JSON object, and replaces the text by the parsed list
/// or table. Figment itself reads only its own notation, with `=` between the key and the value of
/// a table.
fn read_json(value: &mut Value) {
    match value {
        Value::Dict(_, table) => table.values_mut().for_each(read_json),
        Value::String(_, text) if text.trim_start().starts_with(['[', '{']) => {
            let json = serde_json::from_str::<serde_json::Value>(text).ok();
            if let Some(read) = json.and_then(|json| Value::serialize(json).ok()) {
                *value = read;
            }
        }
        Value::Array(..)
        | Value::Bool(..)
        | Value::Char(..)
        | Value::Empty(..)
        | Value::Num(..)
        | Value::String(..) => {}
    }
}

/// Turns tables from variables into lists: a variable such as `SIDEGATE__ROUTES__0__PREFIX` sets
/// `prefix` in the first entry of the list `routes`. `below` is the value of the same key in the
/// lower layers. A table does not become a list if one of its keys is not a number, or if an index
/// of the list would be missing.
fn with_lists(value: Value, below: Option<&Value>) -> Value {
    let Value::Dict(tag, table) = value else {
        return value;
    };
    let numbers: Option<BTreeMap<usize, Value>> = table
        .iter()
        .map(|(key, value)| Some((key.parse().ok()?, value.clone())))
        .collect();
    let numbers = numbers.filter(|numbers| !numbers.is_empty());
    let (tag_of_list, mut list) = match (below, numbers.is_some()) {
        (Some(Value::Array(tag, list)), true) => (*tag, list.clone()),
        (None, true) => (tag, Vec::new()),
        (_, _) => {
            let member = |(key, value): (String, Value)| {
                let below = below.and_then(|below| below.find_ref(&key));
                let value = with_lists(value, below);
                (key, value)
            };
            return Value::Dict(tag, table.into_iter().map(member).collect());
        }
    };
    for (index, value) in numbers.unwrap_or_default() {
        let count = list.len();
        match list.get_mut(index) {
            Some(entry) => *entry = merged(entry.clone(), with_lists(value, Some(entry))),
            None if index == count => list.push(with_lists(value, None)),
            None => return Value::Dict(tag, table),
        }
    }
    Value::Array(tag_of_list, list)
}

/// Merges the settings `above` into the settings `below`. If `above` and `below` contain the same
/// key, the result contains the value from `above`.
fn merged(below: Value, above: Value) -> Value {
    match (below, above) {
        (Value::Dict(tag, mut table), Value::Dict(_, above)) => {
            for (key, value) in above {
                let value = match table.remove(&key) {
                    Some(below) => merged(below, value),
                    None => value,
                };
                table.insert(key, value);
            }
            Value::Dict(tag, table)
        }
        (_, above) => above,
    }
}

impl Flags {
    fn layer(&self) -> Layer {
        let set = [
            ("server", "listen", &self.listen),
            ("log", "level", &self.log_level),
            ("log", "format", &self.log_format),
        ];
        let mut values = Dict::new();
        for (section, key, value) in set {
            let Some(value) = value else { continue };
            let table = Value::from(Dict::from([(key.to_owned(), Value::from(value.as_str()))]));
            let table = match values.remove(section) {
                Some(other) => merged(other, table),
                None => table,
            };
            values.insert(section.to_owned(), table);
        }
        Layer {
            metadata: Metadata::named("command line"),
            values,
        }
    }
}

/// A layer: values, and the name of the source of the values. Error messages show the source of a
/// value to the operator.
struct Layer {
    metadata: Metadata,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

pub(super) fn defaults() -> Dict {
    // Parsing does not fail: the file with the defaults is compiled in, and a test parses the file.
    Figment::from(Toml::string(DEFAULTS))
        .extract()
        .unwrap_or_default()
}

/// Adds the profile of each provider as a layer below the values that the operator wrote.
fn with_profiles(settings: Figment) -> Figment {
    let Ok(providers) = settings.extract_inner::<BTreeMap<String, Value>>("providers") else {
        return settings;
    };
    providers
        .into_iter()
        .fold(settings, |settings, (name, provider)| {
            let named = provider.find_ref("profile").and_then(Value::as_str);
            let text = named.and_then(profile::find);
            let Some(text) = text else { return settings };
            let mut values: Dict = Figment::from(Toml::string(text))
                .extract()
                .unwrap_or_default();
            leave_out_replaced(&mut values, &provider);
            let below = Dict::from([(name, Value::from(values))]);
            // The method `join` keeps existing values, so the operator's values take precedence.
            settings.join(Layer {
                metadata: Metadata::named("its profile"),
                values: Dict::from([("providers".to_owned(), Value::from(below))]),
            })
        })
}

/// Removes from a profile what a key of the operator replaces. The operator cannot remove a table of
/// a profile, and the two keys together would be a contradiction. If the operator writes both keys,
/// the contradiction remains and is reported.
fn leave_out_replaced(profile: &mut Dict, operator: &Value) {
    let is_written = |key: &str| operator.find_ref(key).is_some();
    let Some(Value::Dict(_, sign_out)) = profile.get_mut("sign_out") else {
        return;
    };
    for (written, replaced) in [
        ("revocation_endpoint", "revocation_request"),
        ("end_session_endpoint", "page"),
    ] {
        if is_written(written) && !is_written(&format!("sign_out.{replaced}")) {
            sign_out.remove(replaced);
        }
    }
}

/// Returns warnings about environment variables that have one underscore and look like a key of
/// Sidegate. The operator probably wrote one underscore instead of two.
pub(super) fn misspelled_variables(settings: &Figment) -> Vec<String> {
    let plain = |text: &str| text.replace(['_', '.'], "").to_ascii_lowercase();
    let mut keys = BTreeMap::new();
    let tree: Dict = settings.extract().unwrap_or_default();
    for (section, value) in &tree {
        keys.insert(plain(section), section.clone());
        for key in value.as_dict().into_iter().flat_map(Dict::keys) {
            let key = format!("{section}.{key}");
            keys.insert(plain(&key), key);
        }
    }
    let single = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    single
        .filter(|name| name.starts_with("SIDEGATE_") && !name.starts_with(VARIABLES))
        .filter_map(|name| {
            let key = keys.get(&plain(name.trim_start_matches("SIDEGATE_")))?;
            let right = problem::variable(key);
            Some(format!(
                "the variable {name} is ignored; did you mean {right}?"
            ))
        })
        .collect()
}
