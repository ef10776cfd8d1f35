//! Reads the sections of the settings in sequence and continues after each problem.

use figment::Figment;
use figment::error::Kind;
use figment::value::{Dict, Value};
use serde::de::DeserializeOwned;

use super::problem::{Problem, reason, source_of};

/// Reads a merged tree of settings, section by section. When a key has a problem, the reader
/// reports the problem and resets the key to its default. The reader then reads the section again,
/// until every problem of the section is found.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    settings: &'a Figment,
    defaults: Dict,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(settings: &'a Figment, defaults: Dict) -> Self {
        Self {
            settings,
            defaults,
            problems: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, key: &str, reason: impl Into<String>) {
        let source = source_of(self.settings, key);
        self.problems.push(Problem {
            key: key.to_owned(),
            source,
            reason: reason.into(),
        });
    }

    /// Returns true if `key` is missing or contains an empty list.
    pub(super) fn is_absent(&self, key: &str) -> bool {
        match self.settings.find_value(key) {
            Ok(Value::Array(_, list)) => list.is_empty(),
            Ok(_) => false,
            Err(_missing) => true,
        }
    }

    /// Reads the value at `key`, whose parts are separated by dots.
    pub(super) fn read<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        let value = self
            .settings
            .find_value(key)
            .unwrap_or_else(|_| Value::from(Dict::new()));
        self.read_value(key, value)
    }

    /// Parses `value`, which is the value at `key`.
    pub(super) fn read_value<T: DeserializeOwned>(
        &mut self,
        key: &str,
        mut value: Value,
    ) -> Option<T> {
        // The loop ends, because each iteration resets a key with a problem or returns.
        loop {
            let error = match value.deserialize::<T>() {
                Ok(section) => return Some(section),
                Err(error) => error,
            };
            for error in error {
                let mut path = error.path.clone();
                // For an unknown key, the path in figment's error does not contain the key itself.
                if let Kind::UnknownField(name, _) = &error.kind
                    && path.last() != Some(name)
                {
                    path.push(name.clone());
                }
                let below = path.join(".");
                let full = if below.is_empty() {
                    key.to_owned()
                } else {
                    format!("{key}.{below}")
                };
                self.note(&full, reason(&error.kind));
                let can_reset = !matches!(error.kind, Kind::MissingField(_)) && !path.is_empty();
                if !can_reset || !self.reset_to_default(key, &mut value, &path) {
                    return None;
                }
            }
        }
    }

    /// Resets the value at `path`, which is below `key`, to its default. If there is no default,
    /// removes the value. Returns true if `value` has changed.
    fn reset_to_default(&self, key: &str, value: &mut Value, path: &[String]) -> bool {
        let default = find(
            &self.defaults,
            key.split('.').chain(path.iter().map(String::as_str)),
        );
        let Value::Dict(_, table) = value else {
            return false;
        };
        replace(table, path, default)
    }
}

fn replace(table: &mut Dict, path: &[String], default: Option<Value>) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return false;
    };
    if !rest.is_empty()
        && let Some(Value::Dict(_, below)) = table.get_mut(first)
    {
        return replace(below, rest, default);
    }
    // `first` is either the last part of the path, or the name of a list. A problem in one entry
    // removes the whole list.
    let old = table.remove(first);
    // If the default equals the value with the problem, the default would have the same problem, so
    // the key is removed.
    let default = default.filter(|default| rest.is_empty() && old.as_ref() != Some(default));
    if let Some(default) = default {
        table.insert(first.clone(), default);
    }
    old.is_some()
}

fn find<'k>(dict: &Dict, path: impl Iterator<Item = &'k str>) -> Option<Value> {
    let mut value = Value::from(dict.clone());
    for key in path {
        value = value.into_dict()?.remove(key)?;
    }
    Some(value)
}
