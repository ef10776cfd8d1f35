//! The settings that need a restart.

use std::collections::{BTreeMap, BTreeSet};

use figment::Figment;
use figment::value::Value;

/// The settings that a reload cannot change, by key. These settings configure the parts that exist
/// as long as the process: sockets, threads, the session store and the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RestartOnly(BTreeMap<String, Value>);

/// The keys and tables whose changes need a restart.
const RESTART_KEYS: [&str; 5] = [
    "server",
    "operations",
    "session.capacity_mib",
    "session.store",
    "log",
];

/// The keys that a reload can change, although the other keys of their tables need a restart
/// ([`RESTART_KEYS`]).
const RELOAD_KEYS: [&str; 11] = [
    "log.user",
    "log.user_hashed",
    "server.trusted_proxies",
    "server.body_mib",
    "server.buffer_mib",
    "server.spill_dir",
    "server.spill_mib",
    "server.certificate_file",
    "server.key_file",
    "server.ping_path",
    "server.ready_path",
];

impl RestartOnly {
    pub(super) fn of(settings: &Figment) -> Self {
        let mut values = BTreeMap::new();
        for key in RESTART_KEYS {
            if let Ok(value) = settings.find_value(key) {
                flatten(key.to_owned(), value, &mut values);
            }
        }
        // The defaults contain an empty table `operations`, which is not a setting.
        values.retain(|key, _value| !RELOAD_KEYS.contains(&&**key) && key != "operations");
        // A reload can replace the certificate, but cannot switch the listener between TLS and
        // plain HTTP. To add or remove the certificate, the operator must restart the gateway.
        let encrypted = settings.find_value("server.certificate_file").is_ok();
        values.insert("server.certificate_file".to_owned(), Value::from(encrypted));
        Self(values)
    }

    /// Returns the keys that have different values in `self` and `other`, in alphabetical order.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let keys: BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        let differs = |key: &&&String| self.0.get(**key) != other.0.get(**key);
        keys.iter()
            .filter(differs)
            .map(|key| (*key).clone())
            .collect()
    }
}

/// Splits a tree of settings into single values, each with its full key. An empty table counts as a
/// value, because the name of a table can select the variant of an enum.
fn flatten(key: String, value: Value, values: &mut BTreeMap<String, Value>) {
    if let Value::Dict(_, table) = &value
        && !table.is_empty()
    {
        for (name, value) in table {
            flatten(format!("{key}.{name}"), value.clone(), values);
        }
    } else {
        values.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    fn restart_only(text: &str) -> RestartOnly {
        RestartOnly::of(&Source::file("sidegate.toml").layers(text))
    }

    fn differences(one: &str, other: &str) -> Vec<String> {
        restart_only(one).differences(&restart_only(other))
    }

    #[test]
    fn a_setting_that_needs_a_restart_is_named_by_its_key() {
        for (text, key) in [
            ("server.listen = '127.0.0.1:1'", "server.listen"),
            ("server.workers = 3", "server.workers"),
            ("server.drain_secs = 7", "server.drain_secs"),
            ("operations.listen = '127.0.0.1:2'", "operations.listen"),
            (
                "operations.admin_socket_file = '/run/a'",
                "operations.admin_socket_file",
            ),
            ("session.capacity_mib = 1", "session.capacity_mib"),
            ("log.level = 'debug'", "log.level"),
            (
                "server.certificate_file = 'a.pem'",
                "server.certificate_file",
            ),
        ] {
            assert_eq!(differences("", text), [key], "{text}");
        }
        let stores = differences("", "session.store.disk.file = 'a'");
        assert!(
            stores.iter().all(|key| key.starts_with("session.store")),
            "{stores:?}"
        );
        assert!(!stores.is_empty());
    }

    #[test]
    fn a_setting_that_a_reload_can_change_is_not_named() {
        for text in [
            "public_url = 'https://a.example'",
            "server.trusted_proxies = ['10.0.0.0/8']",
            "server.body_mib = 1",
            "server.ping_path = '/ping'",
            "server.spill_dir = '/var/tmp'",
            "log.user = 'off'",
            "log.user_hashed = false",
            "assertions.groups_format = 'json'",
            "session.idle_secs = 60",
            "session.refresh_wait_secs = 1",
            "login.timeout_secs = 60",
            "assertions.email = 'X-Mail'",
            "[[routes]]\nprefix = '/x'",
            "[upstreams.app]\nurl = 'http://127.0.0.1:1'",
        ] {
            assert_eq!(differences("", text), Vec::<String>::new(), "{text}");
        }
        let certificates = "server.certificate_file = ";
        let other = differences(&format!("{certificates}'a'"), &format!("{certificates}'b'"));
        assert_eq!(other, Vec::<String>::new());
    }
}
