//! Reads the sections of the settings in sequence and continues after each problem.

use std::collections::{BTreeMap, BTreeSet};

use figment::Figment;
use figment::error::{Actual, Kind};
use figment::value::{Dict, Value};
use serde::de::DeserializeOwned;

use super::layers::ENVIRONMENT;
use super::problem::{Problem, closest, reason, source_of};

/// Reads a merged tree of settings, section by section. When a key has a problem, the `Reader`
/// reports the problem, resets the key to its default, and reads the section again. The `Reader`
/// reads the section again and again until the `Reader` has found every problem of the section.
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

    /// Returns true if the settings do not contain `key`, or if its value is an empty list.
    pub(super) fn is_absent(&self, key: &str) -> bool {
        match self.settings.find_value(key) {
            Ok(Value::Array(_, list)) => list.is_empty(),
            Ok(_) => false,
            Err(_missing) => true,
        }
    }

    /// Returns true if the number at `key` is different from the default number.
    pub(super) fn changes_number(&self, key: &str) -> bool {
        let number = |value: &Value| value.deserialize::<u64>().ok();
        let default = Value::from(self.defaults.clone()).find(key);
        let set = self.settings.find_value(key).ok();
        set.as_ref().and_then(number) != default.as_ref().and_then(number)
    }

    /// Reads the value at `key`, whose parts are separated by dots.
    pub(super) fn read<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        let value = self
            .settings
            .find_value(key)
            .unwrap_or_else(|_| Value::from(Dict::new()));
        self.read_value(key, value)
    }

    /// Returns true if no problem was reported for `key` or for a key below `key`.
    pub(super) fn is_clean(&self, key: &str) -> bool {
        let below = |problem: &Problem| {
            let rest = problem.key.strip_prefix(key);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        !self.problems.iter().any(below)
    }

    /// Parses `value`, which is the value at `key`.
    pub(super) fn read_value<T: DeserializeOwned>(
        &mut self,
        key: &str,
        mut value: Value,
    ) -> Option<T> {
        let mut reset: Vec<Vec<String>> = Vec::new();
        let mut removed = RemovedEntries::default();
        // The loop ends, because each iteration resets a key with a problem or returns.
        loop {
            let error = match value.deserialize::<T>() {
                Ok(section) => return Some(section),
                Err(error) => error,
            };
            for error in error {
                let remaining = path_of(&error);
                let path = removed.original(&remaining);
                let advice = match self.list_in_variable(&error, at(&mut value, &remaining), &path)
                {
                    Some(ListInVariable::Read) => continue,
                    Some(ListInVariable::Ambiguous(advice)) => Some(advice),
                    None => None,
                };
                if reset.iter().any(|reset| follows_from(&error, &path, reset)) {
                    return None;
                }
                let mut full = vec![key.to_owned()];
                full.extend(path.iter().cloned());
                self.note(
                    &full.join("."),
                    advice.unwrap_or_else(|| reason(&error.kind)),
                );
                let can_reset = !matches!(error.kind, Kind::MissingField(_)) && !path.is_empty();
                if can_reset && remove_entry(&mut value, &remaining) {
                    removed.add(&path);
                } else if !can_reset || !self.reset_to_default(key, &mut value, &remaining) {
                    return None;
                }
                // If an unknown key is probably a misspelling of a known key, the known key is
                // added to the list `reset`.
                let mut mistaken = path;
                if let Kind::UnknownField(name, known) = &error.kind
                    && let Some(meant) = closest(name, known.iter().copied())
                    && let Some(last) = mistaken.last_mut()
                {
                    meant.clone_into(last);
                }
                reset.push(mistaken);
            }
        }
    }

    /// Splits the text of an environment variable at its commas, if the setting at `path` is a
    /// list. If the entries of the list are ambiguous, returns advice for the operator. A text
    /// without a comma is a list with one entry.
    fn list_in_variable(
        &self,
        error: &figment::Error,
        value: Option<&mut Value>,
        path: &[String],
    ) -> Option<ListInVariable> {
        let value = value?;
        let Kind::InvalidType(Actual::Str(text), expected) = &error.kind else {
            return None;
        };
        let metadata = self.settings.get_metadata(value.tag());
        if expected != "a sequence" || metadata.is_none_or(|from| from.name != ENVIRONMENT) {
            return None;
        }
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let key = path.last()?;
        let may_have_comma = matches!(&**key, "groups" | "subjects") || key.ends_with("_files");
        let plain = |part: &&str| !part.is_empty() && !part.contains(char::is_whitespace);
        if parts.len() > 1 && may_have_comma {
            return Some(ListInVariable::Ambiguous(format!(
                "expected a list, and a comma can be part of an entry; write {} for one entry, or {} \
                 for several",
                list([text.as_str()]),
                list(parts)
            )));
        }
        if !parts.iter().all(plain) {
            let words = text.split([',', ' ']).filter(|word| !word.is_empty());
            let advice = list(words);
            return Some(ListInVariable::Ambiguous(format!(
                "expected a list; write {advice}"
            )));
        }
        *value = Value::from(parts);
        Some(ListInVariable::Read)
    }

    /// Resets the part of `value` at `path` to its default. The argument `value` is the value of
    /// the setting `key`. If no default exists for `path`, this function removes the value at
    /// `path`. Returns true if this function has changed `value`.
    fn reset_to_default(&self, key: &str, value: &mut Value, path: &[String]) -> bool {
        let Value::Dict(_, table) = value else {
            return false;
        };
        let defaults = find(&self.defaults, key.split('.'));
        replace(table, path, defaults.and_then(Value::into_dict))
    }
}

/// The result of reading a list from the text of an environment variable.
enum ListInVariable {
    /// The text of the variable was converted to a list.
    Read,
    /// Several lists are possible. The message tells the operator what to write.
    Ambiguous(String),
}

/// Formats a list as TOML.
fn list<'a>(entries: impl IntoIterator<Item = &'a str>) -> String {
    let entries: Vec<String> = entries
        .into_iter()
        .map(|entry| format!("{entry:?}"))
        .collect();
    format!("[{}]", entries.join(", "))
}

/// The positions of the entries that were removed from lists because of a problem. The path of each
/// list is a key of the map.
#[derive(Default)]
struct RemovedEntries(BTreeMap<Vec<String>, BTreeSet<usize>>);

impl RemovedEntries {
    /// Records that the entry at `path` was removed. The indexes in `path` are the positions in the
    /// lists that the operator wrote, before any entry was removed.
    fn add(&mut self, path: &[String]) {
        if let Some((index, list)) = path.split_last()
            && let Ok(index) = index.parse()
        {
            self.0.entry(list.to_vec()).or_default().insert(index);
        }
    }

    /// Removing entries from a list changes the indexes of later entries. This function replaces
    /// each changed index in `path` by the index of the same entry in the operator's settings.
    fn original(&self, path: &[String]) -> Vec<String> {
        let mut original = Vec::new();
        for part in path {
            let removed = self.0.get(&original).into_iter().flatten();
            let part = match part.parse::<usize>() {
                // The indexes of the removed entries are in ascending order.
                Ok(index) => removed
                    .fold(index, |index, removed| {
                        index.saturating_add(usize::from(*removed <= index))
                    })
                    .to_string(),
                Err(_) => part.clone(),
            };
            original.push(part);
        }
        original
    }
}

/// Returns the value at `path`.
fn at<'v>(value: &'v mut Value, path: &[String]) -> Option<&'v mut Value> {
    path.iter().try_fold(value, |value, part| match value {
        Value::Dict(_, table) => table.get_mut(part),
        Value::Array(_, list) => list.get_mut(part.parse::<usize>().ok()?),
        Value::Bool(..)
        | Value::Char(..)
        | Value::Empty(..)
        | Value::Num(..)
        | Value::String(..) => None,
    })
}

/// If `path` leads to an entry of a list, removes the entry and returns true.
fn remove_entry(value: &mut Value, path: &[String]) -> bool {
    if let Some((index, list)) = path.split_last()
        && let Some(Value::Array(_, list)) = at(value, list)
        && let Ok(index) = index.parse::<usize>()
        && index < list.len()
    {
        list.remove(index);
        return true;
    }
    false
}

/// Returns the complete path of the key that caused `error`. If the path in `error` does not
/// contain the unknown or missing key, this function adds the key.
fn path_of(error: &figment::Error) -> Vec<String> {
    let mut path = error.path.clone();
    if let Kind::UnknownField(name, _) = &error.kind
        && path.last() != Some(name)
    {
        path.push(name.clone());
    } else if let Kind::MissingField(name) = &error.kind {
        path.push(name.clone().into_owned());
    }
    path
}

/// Returns true if the error at `path` is probably a consequence of the reset of the key at
/// `reset`. If a key has no default, the `Reader` resets the key by removing it. If a table needs
/// the removed key, the table is then invalid. A message about a missing key would confuse the
/// operator, who has written the key.
fn follows_from(error: &figment::Error, path: &[String], reset: &[String]) -> bool {
    let is_missing = matches!(error.kind, Kind::MissingField(_));
    reset.starts_with(path) && (is_missing || path.len() < reset.len())
}

fn replace(table: &mut Dict, path: &[String], defaults: Option<Dict>) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return false;
    };
    let default = defaults.and_then(|mut defaults| defaults.remove(first));
    if !rest.is_empty()
        && let Some(Value::Dict(_, below)) = table.get_mut(first)
    {
        return replace(below, rest, default.and_then(Value::into_dict));
    }
    // Either `first` is the only part of `path`, or the value of `first` is not a table but, for
    // example, a list of tables. If one table in a list of tables has a problem, this function
    // resets the whole list.
    let old = table.remove(first);
    // If the wrong value is equal to the default, the key is removed, because the default would
    // cause the same problem.
    if let Some(default) = default.filter(|default| old.as_ref() != Some(default)) {
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
