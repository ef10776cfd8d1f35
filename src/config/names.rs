//! This module refuses unknown top-level keys, placeholders, and more than one session store,
//! before the gateway reads the sections of the settings.

use figment::Figment;
use figment::value::{Dict, Value};

use super::problem;
use super::section::Reader;

/// The top-level keys of a settings file.
pub(super) const SECTIONS: [&str; 13] = [
    "public_url",
    "watch",
    "server",
    "operations",
    "session",
    "login",
    "assertions",
    "signing",
    "log",
    "providers",
    "upstreams",
    "routes",
    "auth_check",
];

/// Refuses unknown top-level keys, placeholders in any value, and more than one session store.
pub(super) fn check_names(settings: &Figment, reader: &mut Reader<'_>) {
    let names: Dict = settings.extract().unwrap_or_default();
    for name in names
        .keys()
        .filter(|name| !SECTIONS.contains(&name.as_str()))
    {
        reader.note(name, problem::unknown(name, SECTIONS.into_iter()));
    }
    for name in SECTIONS {
        if let Ok(value) = settings.find_value(name) {
            check_placeholders(name, &value, reader);
        }
    }
    check_one_store(settings, reader);
}

/// Refuses text with a placeholder such as `${NAME}`. Other programs replace a placeholder by the
/// value of a variable, but the gateway does not.
fn check_placeholders(key: &str, value: &Value, reader: &mut Reader<'_>) {
    match value {
        Value::String(_, text) if text.contains("${") => {
            let reason = format!(
                "placeholders such as ${{NAME}} are not replaced; set the variable {}",
                problem::variable(key)
            );
            reader.note(key, reason);
        }
        Value::Dict(_, table) => {
            for (name, value) in table {
                check_placeholders(&format!("{key}.{name}"), value, reader);
            }
        }
        Value::Array(_, list) => {
            for (index, value) in list.iter().enumerate() {
                check_placeholders(&format!("{key}.{index}"), value, reader);
            }
        }
        Value::String(..)
        | Value::Char(..)
        | Value::Bool(..)
        | Value::Num(..)
        | Value::Empty(..) => {}
    }
}

/// Refuses settings with several session stores, because the gateway would use only one of the
/// stores.
fn check_one_store(settings: &Figment, reader: &mut Reader<'_>) {
    if let Ok(Value::Dict(_, stores)) = settings.find_value("session.store")
        && stores.len() > 1
    {
        let reason = "names several stores; write \"memory\", { disk.file = \"...\" } or { redis = { ... } }";
        reader.note("session.store", reason);
    }
}
