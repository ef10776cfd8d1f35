//! The keys of the settings whose values are paths.
//!
//! A new key with a path needs a line in [`PATHS`], or a test fails. The line decides what a relative
//! path means, and which permissions the path should have.

use figment::value::{Dict, Value};

/// What is at a path of the settings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// A file with a secret or a private key.
    Secret,
    /// A file that is not secret. A change of the file can change whom Sidegate trusts, or what users
    /// see.
    Public,
    /// A file or a socket whose permissions Sidegate itself sets.
    Own,
    /// A folder in which Sidegate creates files. On some file systems, such a file has a name for a
    /// moment.
    Folder,
    /// The address of a server. An address `unix:///PATH` is the path of a socket.
    Address,
}

/// All keys whose value is a path or a list of paths, with the kind of the path. `*` stands for the
/// name of a table, or for the number of a table in a list.
const PATHS: [(&str, Kind); 26] = [
    ("operations.admin_socket_file", Kind::Own),
    ("server.certificate_file", Kind::Public),
    ("server.key_file", Kind::Secret),
    ("server.spill_dir", Kind::Folder),
    ("login.state_key_file", Kind::Secret),
    ("signing.key_files", Kind::Secret),
    ("session.store.disk.file", Kind::Own),
    ("session.store.redis.urls", Kind::Address),
    ("session.store.redis.username_file", Kind::Public),
    ("session.store.redis.password_file", Kind::Secret),
    ("session.store.redis.sentinel_username_file", Kind::Public),
    ("session.store.redis.sentinel_password_file", Kind::Secret),
    ("session.store.redis.ca_file", Kind::Public),
    ("session.store.redis.client_cert_file", Kind::Public),
    ("session.store.redis.client_key_file", Kind::Secret),
    ("providers.*.client_secret_file", Kind::Secret),
    ("providers.*.ca_file", Kind::Public),
    (
        "providers.*.client_assertion.private_key_file",
        Kind::Secret,
    ),
    ("providers.*.id_token.jwks_file", Kind::Public),
    ("providers.*.id_token.public_key_files", Kind::Public),
    ("providers.*.access_token.public_key_files", Kind::Public),
    ("providers.*.sign_out.webhook_key_files", Kind::Secret),
    ("upstreams.*.ca_file", Kind::Public),
    ("upstreams.*.basic.password_file", Kind::Secret),
    ("routes.*.basic.password_file", Kind::Secret),
    ("routes.*.answer.body_file", Kind::Public),
];

/// Calls `act` for each path in the settings, with its key, its kind and its text.
pub(super) fn for_each(values: &mut Dict, act: &mut dyn FnMut(&str, Kind, &mut String)) {
    of_table(&[], values, act);
}

fn of_table(above: &[String], table: &mut Dict, act: &mut dyn FnMut(&str, Kind, &mut String)) {
    for (name, value) in table {
        of_value(&[above, std::slice::from_ref(name)].concat(), value, act);
    }
}

fn of_value(place: &[String], value: &mut Value, act: &mut dyn FnMut(&str, Kind, &mut String)) {
    match value {
        Value::Dict(_, table) => of_table(place, table, act),
        Value::Array(_, list) => {
            for (index, entry) in list.iter_mut().enumerate() {
                of_value(&[place, &[index.to_string()]].concat(), entry, act);
            }
        }
        Value::String(_, text) => {
            if let Some(kind) = kind_at(place) {
                act(&place.join("."), kind, text);
            }
        }
        Value::Bool(..) | Value::Char(..) | Value::Empty(..) | Value::Num(..) => {}
    }
}

/// Returns the kind of a text in the settings. Returns `None` if the text is not a path.
fn kind_at(place: &[String]) -> Option<Kind> {
    let is_at = |key: &str| {
        let (mut parts, mut wanted) = (place.iter(), key.split('.'));
        let begins = wanted.all(|wanted| {
            let part = parts.next();
            part.is_some_and(|part| wanted == "*" || part == wanted)
        });
        // The text can be an entry of a list of paths.
        let rest = parts.as_slice();
        let is_entry = |rest: &String| rest.bytes().all(|byte| byte.is_ascii_digit());
        begins && rest.len() <= 1 && rest.iter().all(is_entry)
    };
    let mut paths = PATHS.iter();
    let found = paths.find(|(key, _)| is_at(key));
    found.map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    /// Returns all Rust files below a folder.
    fn rust_files(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let files = paths.flat_map(|path| {
            if path.is_dir() {
                rust_files(&path)
            } else {
                vec![path]
            }
        });
        files
            .filter(|path| path.extension().is_some_and(|end| end == "rs"))
            .collect()
    }

    /// Returns the names of all fields that are paths, in structures that the settings parser reads.
    fn path_fields(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut is_read = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[derive(") {
                is_read = line.contains("Deserialize");
            }
            let field = line.split_once(": ").filter(|(_, kind)| {
                let kind = kind.trim_end_matches(',');
                is_read && matches!(kind, "PathBuf" | "Option<PathBuf>" | "Vec<PathBuf>")
            });
            found.extend(field.map(|(name, _)| name.rsplit(' ').next().unwrap().to_owned()));
        }
        found
    }

    /// The settings of another program have other keys.
    #[test]
    fn t_14_t_15_every_key_with_a_path_has_a_line() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut read = BTreeSet::new();
        for file in rust_files(&source) {
            let fields = path_fields(&fs::read_to_string(&file).unwrap());
            read.extend(fields);
        }
        // The addresses of the store are texts.
        read.insert("urls".to_owned());
        let name = |key: &str| key.rsplit('.').next().unwrap().to_owned();
        let known: BTreeSet<String> = PATHS.iter().map(|(key, _)| name(key)).collect();
        assert_eq!(read, known);
    }

    #[test]
    fn a_path_is_found_by_its_whole_key() {
        let place = |key: &str| key.split('.').map(str::to_owned).collect::<Vec<_>>();
        for (key, kind) in [
            ("server.key_file", Some(Kind::Secret)),
            (
                "providers.main.id_token.public_key_files.1",
                Some(Kind::Public),
            ),
            (
                "providers.main.id_token.public_key_files",
                Some(Kind::Public),
            ),
            ("routes.12.basic.password_file", Some(Kind::Secret)),
            ("session.store.disk.file", Some(Kind::Own)),
            ("session.store.redis.urls.0", Some(Kind::Address)),
            ("server.spill_dir", Some(Kind::Folder)),
            ("file", None),
            ("upstreams.app.file", None),
            ("providers.key_file", None),
            ("server.key_file.x", None),
            ("server", None),
            ("x.server.key_file", None),
        ] {
            assert_eq!(kind_at(&place(key)), kind, "{key}");
        }
    }
}
