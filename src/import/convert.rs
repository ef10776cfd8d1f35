//! The import in progress: the settings that were read, and the settings and remarks that the
//! import has written.

use super::document::{Document, Value};
use super::options::{Form, Handling, Kind, Row};
use super::read::{Given, Place, Setting};
use super::{Grade, Imported, Remark};

/// The import in progress.
#[derive(Debug)]
pub(super) struct Import {
    pub(super) given: Given,
    pub(super) document: Document,
    remarks: Vec<Remark>,
}

impl Import {
    pub(super) fn new(mut given: Given) -> Self {
        let remarks = std::mem::take(&mut given.unknown);
        let mut import = Self {
            given,
            document: Document::new(),
            remarks,
        };
        for written in std::mem::take(&mut import.given.alpha.unreadable) {
            let text = if written == "providers[1]" {
                "oauth2-proxy itself uses only the first provider. With Sidegate, add the other \
                 providers as [providers.NAME]."
            } else {
                "The import cannot read this part of the alpha configuration."
            };
            import.remark(written, Grade::Lost, text);
        }
        import
    }

    /// Converts the options whose handling is in the table.
    pub(super) fn convert_rows(&mut self) {
        let settings: Vec<Setting> = self.given.settings.values().cloned().collect();
        for setting in settings {
            let row = setting.row;
            if row.kind != Kind::Secret && row.is_harmless(&setting.values) {
                continue;
            }
            match row.handling {
                Handling::Code => {}
                Handling::Set(form, key) => self.set_in_form(&setting, form, key),
                Handling::Covered => self.remark(setting.written, Grade::Covered, row.remark),
                Handling::Lost => self.remark(setting.written, Grade::Lost, row.remark),
                Handling::Safe => self.remark(setting.written, Grade::Safe, row.remark),
            }
        }
    }

    fn set_in_form(&mut self, setting: &Setting, form: Form, key: &str) {
        let (row, values) = (setting.row, &setting.values);
        let text = values.first().cloned().unwrap_or_default();
        if text.is_empty() {
            return;
        }
        let value = match form {
            Form::Same => same(row, values),
            Form::List => Some(Value::List(vec![text])),
            Form::Words => Some(Value::List(words(&text))),
            Form::One => Some(Value::Text(text)).filter(|_| values.len() == 1),
            Form::Seconds => seconds(&text).map(Value::Number),
        };
        match value {
            Some(value) => self.document.set(key, value, &setting.written),
            None if row.remark.is_empty() => {
                let text = format!("The import cannot read the value. Write {key}.");
                self.remark(&setting.written, Grade::Lost, &text);
            }
            None => self.remark(&setting.written, Grade::Lost, row.remark),
        }
    }

    pub(super) fn remark(&mut self, option: impl Into<String>, grade: Grade, text: &str) {
        let remark = Remark {
            option: option.into(),
            grade,
            text: text.to_owned(),
        };
        if !self.remarks.contains(&remark) {
            self.remarks.push(remark);
        }
    }

    /// Sets a key from an option.
    pub(super) fn set(&mut self, key: &str, value: Value, from: impl Into<String>) {
        self.document.set(key, value, from);
    }

    /// Sets a key that has no value yet.
    pub(super) fn set_default(&mut self, key: &str, value: Value, from: impl Into<String>) {
        if !self.document.has(key) {
            self.document.set(key, value, from);
        }
    }

    /// Returns an option if the settings contain it.
    pub(super) fn setting(&self, name: &str) -> Option<&Setting> {
        self.given.settings.get(name)
    }

    /// Returns the name of an option as the operator has written it. If the settings do not contain
    /// the option, returns the name of the flag.
    pub(super) fn written(&self, name: &str) -> String {
        let setting = self.setting(name);
        setting.map_or_else(|| format!("--{name}"), |setting| setting.written.clone())
    }

    /// Returns the text of an option that is not empty, and the name of the option.
    pub(super) fn text(&self, name: &str) -> Option<(String, String)> {
        let setting = self.setting(name)?;
        let text = setting.values.first().filter(|text| !text.is_empty())?;
        Some((text.clone(), setting.written.clone()))
    }

    /// Returns the entries of a list.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let setting = self.setting(name);
        setting
            .map(|setting| setting.values.clone())
            .unwrap_or_default()
    }

    /// Returns true if the flag is set. `default` is the default of oauth2-proxy.
    pub(super) fn flag(&self, name: &str, default: bool) -> bool {
        let text = self.text(name);
        text.and_then(|(text, _)| boolean(&text)).unwrap_or(default)
    }

    /// Writes the place of a secret, and a remark that states what the operator has to do. If the
    /// secret is in a variable, the variable stays in use.
    pub(super) fn set_secret(
        &mut self,
        name: &str,
        key: &str,
        file: &str,
    ) -> Option<(String, Value)> {
        let setting = self.setting(name)?.clone();
        let written = setting.written;
        if setting.place == Place::Variable {
            return Some((format!("{key}_env"), Value::Text(written)));
        }
        let path = format!("/run/secrets/sidegate/{file}");
        let text = format!(
            "Settings of Sidegate contain no secrets. Write the value into the file {path}."
        );
        self.remark(written, Grade::ToDo, &text);
        Some((format!("{key}_file"), Value::Text(path)))
    }

    pub(super) fn finish(self) -> Imported {
        let mut remarks = self.remarks;
        remarks.sort_by(|one, other| (one.grade, &one.option).cmp(&(other.grade, &other.option)));
        Imported {
            settings: format!(
                "# Written by `sidegate import oauth2-proxy`.\n{}",
                self.document
            ),
            remarks,
        }
    }
}

/// Returns the value of an option in the form that the option has.
fn same(row: Row, values: &[String]) -> Option<Value> {
    let text = values.first().cloned().unwrap_or_default();
    match row.kind {
        Kind::Flag => boolean(&text).map(Value::Flag),
        Kind::Text => Some(Value::Text(text)),
        Kind::List => Some(Value::List(values.to_vec())),
        Kind::Secret => None,
    }
}

/// Returns the words of a text.
pub(super) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Reads true or false in the forms that oauth2-proxy accepts.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Reads a duration such as `1h30m` in whole seconds. Parts of a second count as a second.
pub(super) fn seconds(text: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 7] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("ms", 1e-3),
        ("h", 3600.0),
        ("m", 60.0),
        ("s", 1.0),
    ];
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(end)?;
        let number: f64 = number.parse().ok()?;
        let (unit, factor) = UNITS
            .into_iter()
            .find(|(unit, _)| after.starts_with(unit))?;
        total = number.mul_add(factor, total);
        rest = after.strip_prefix(unit)?;
    }
    // A longer time than a century is a mistake, and would not fit into a deadline.
    let limit = 100.0 * 365.0 * 24.0 * 3600.0;
    (!text.is_empty() && total <= limit).then(|| whole(total.ceil()))
}

/// Converts a number of seconds between 0 and a century, without a fraction.
fn whole(number: f64) -> u64 {
    std::time::Duration::try_from_secs_f64(number).map_or(0, |duration| duration.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_seconds() {
        for (text, expected) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("168h0m0s", Some(604_800)),
            ("1h30m", Some(5400)),
            ("1.5h", Some(5400)),
            ("500ms", Some(1)),
            ("2m0.5s", Some(121)),
            ("", None),
            ("5", None),
            ("-1h", None),
            ("1d", None),
            ("999999999h", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
