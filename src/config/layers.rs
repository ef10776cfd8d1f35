//! The layers of settings: compiled-in defaults, a file, variables, flags, and below what the
//! operator wrote of each provider its profile.

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

/// What the names of our variables begin with. Two underscores: an orchestrator that injects
/// `SIDEGATE_PORT` for a service of this name means something else.
pub(super) const VARIABLES: &str = "SIDEGATE__";

/// The reference file is the layer of defaults: what it documents is what holds.
pub(super) const DEFAULTS: &str = include_str!("../../config/sidegate.toml");

/// Whether the process's variables are a layer of the settings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Variables {
    /// They are.
    Read,
    /// They are not: the file is somebody else's.
    Ignore,
}

/// What the command line sets; each wins over file and variables.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `server.listen`.
    pub listen: Option<String>,
    /// `log.level`.
    pub log_level: Option<String>,
    /// `log.format`.
    pub log_format: Option<String>,
}

/// Where settings come from. The same source is read again by each reload.
#[derive(Clone, Debug)]
pub struct Source {
    /// The settings file.
    pub path: PathBuf,
    /// What the file held once, to be taken in its place.
    pub content: Option<FileContent>,
    /// Whether the process's variables count.
    pub variables: Variables,
    /// What the command line sets.
    pub flags: Flags,
}

/// What a settings file held when it was read. It does not print.
#[derive(Clone)]
pub struct FileContent {
    pub(super) text: Arc<str>,
    pub(super) version: Option<FileVersion>,
}

impl FileContent {
    fn read(path: &Path) -> io::Result<Self> {
        // Before the text: whoever compares it later must not miss a change.
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
    /// A file alone.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            content: None,
            variables: Variables::Ignore,
            flags: Flags::default(),
        }
    }

    /// What the settings file holds, or held.
    pub(crate) fn read(&self) -> Result<FileContent, Problems> {
        let read = self
            .content
            .clone()
            .map_or_else(|| FileContent::read(&self.path), Ok);
        read.map_err(|error| Problems::single(&self.path, format!("cannot be read: {error}")))
    }

    /// All layers, the strongest last. `text` is what the file holds: it was read once, so that a
    /// file which is being written is not looked at twice.
    pub(super) fn layers(&self, text: &str) -> Figment {
        let file = Layer {
            metadata: Metadata::from("TOML file", &*self.path),
            // That it is TOML was checked before.
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

/// Values with the name of where they come from, for whoever has to mend them.
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
    // The reference file is compiled in and a test reads it.
    Figment::from(Toml::string(DEFAULTS))
        .extract()
        .unwrap_or_default()
}

/// Puts each provider's profile below what the operator wrote.
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
            settings.join(Layer {
                metadata: Metadata::named("its profile"),
                values: Dict::from([("providers".to_owned(), Value::from(below))]),
            })
        })
}

/// Variables with one underscore that look like a key of ours: somebody meant to set it.
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
