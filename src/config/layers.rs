//! The layers of the settings: compiled-in defaults, the file, environment variables and flags. The
//! settings of a provider override its profile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs, io};

use figment::providers::{Env, Format as _, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::problem::{self, Problems};
use super::watch::FileVersion;
use crate::provider::profile;

/// The prefix of our environment variables. The prefix ends with two underscores, because
/// Kubernetes injects variables such as `SIDEGATE_PORT` for a service that is named `sidegate`.
pub(super) const VARIABLES: &str = "SIDEGATE__";

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

/// The settings file, environment variables and flags. Each reload reads the settings file and the
/// environment variables again.
#[derive(Clone, Debug)]
pub struct Source {
    /// The settings file.
    pub path: PathBuf,
    /// The content of the file, if the file was already read. A `Source` that contains the content
    /// does not read the file again.
    pub content: Option<FileContent>,
    /// Selects whether environment variables are read.
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
        // The version is determined before the text is read. If the file changes between these two
        // steps, the version of the old file is stored with the new text. A later comparison then
        // finds that the file has changed.
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

    /// Returns the stored content of the file. Reads the file if there is no stored content.
    pub(crate) fn read(&self) -> Result<FileContent, Problems> {
        let read = self
            .content
            .clone()
            .map_or_else(|| FileContent::read(&self.path), Ok);
        read.map_err(|error| Problems::single(&self.path, format!("cannot be read: {error}")))
    }

    /// Returns all layers. A later layer overrides an earlier layer. `text` is the content of the
    /// file. `text` is an argument because a second read of the file could return a different text.
    pub(super) fn layers(&self, text: &str) -> Figment {
        let file = Layer {
            metadata: Metadata::from("TOML file", &*self.path),
            // The caller has already checked that the text is TOML.
            values: Toml::string(text)
                .data()
                .ok()
                .and_then(|mut values| values.remove(&Profile::Default))
                .unwrap_or_default(),
        };
        let settings = Figment::from(Toml::string(DEFAULTS)).merge(file);
        let settings = match self.variables {
            Variables::Read => settings.merge(Env::prefixed(VARIABLES).split("__")),
            Variables::Ignore => settings,
        };
        with_profiles(settings.merge(self.flags.layer()))
    }
}

impl Flags {
    fn layer(&self) -> Layer {
        let set = [
            ("server.listen", &self.listen),
            ("log.level", &self.log_level),
            ("log.format", &self.log_format),
        ];
        let set = set
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.clone()?)));
        let merged = set.fold(Figment::new(), |merged, (key, value)| {
            merged.merge(Serialized::default(key, value))
        });
        Layer {
            metadata: Metadata::named("command line"),
            values: merged.extract().unwrap_or_default(),
        }
    }
}

/// A layer: values, and the name of the source of the values. Error messages show the source to the
/// operator.
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
            let values: Dict = Figment::from(Toml::string(text))
                .extract()
                .unwrap_or_default();
            let below = Dict::from([(name, Value::from(values))]);
            // `join` keeps existing values, so the operator's values take precedence.
            settings.join(Layer {
                metadata: Metadata::named("its profile"),
                values: Dict::from([("providers".to_owned(), Value::from(below))]),
            })
        })
}

/// Returns warnings about environment variables that have one underscore and look like one of our
/// keys. The operator probably wrote one underscore instead of two.
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
