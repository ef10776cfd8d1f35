//! Warnings about files that other users of the machine can read or change.
//!
//! The settings never contain secrets, so everybody may read the settings file. Files with secrets
//! or private keys are for Sidegate alone, and nobody else may change any file that the settings
//! name.

use std::collections::BTreeSet;
use std::path::Path;

use figment::Figment;
use figment::value::{Dict, Value};

use crate::secret::{Content, Environment, exposures, open_folder};

/// The keys whose files contain a secret or a private key.
const SECRET: [&str; 9] = [
    "client_key_file",
    "client_secret_file",
    "key_file",
    "key_files",
    "password_file",
    "private_key_file",
    "sentinel_password_file",
    "state_key_file",
    "webhook_key_files",
];

/// The keys whose files are not secret. A change of one of these files can change whom Sidegate
/// trusts, or what users see.
const PUBLIC: [&str; 8] = [
    "body_file",
    "ca_file",
    "certificate_file",
    "client_cert_file",
    "jwks_file",
    "public_key_files",
    "sentinel_username_file",
    "username_file",
];

/// The key of the session file. Sidegate itself sets the permissions of this file.
const OWN: &str = "file";

/// The variable that Kubernetes sets in each container.
const IN_POD: &str = "KUBERNETES_SERVICE_HOST";

/// Returns a warning for each file that other users of the machine can use in a way that they should
/// not, and for each folder in which they can replace such a file. `path` is the settings file.
///
/// In a pod of Kubernetes, there are no warnings. Kubernetes decides about the permissions of the
/// mounted files, and only the containers of the pod see the files.
pub(super) fn warnings(path: &Path, settings: &Figment, environment: &Environment) -> Vec<String> {
    if environment.get(IN_POD).is_some() {
        return Vec::new();
    }
    let mut found = Found::default();
    found.check("settings file", path, Content::Public);
    let tree: Dict = settings.extract().unwrap_or_default();
    found.check_all("", &tree);
    found.warnings
}

#[derive(Default)]
struct Found {
    warnings: Vec<String>,
    /// Folders with a warning. Several files can be in one folder.
    folders: BTreeSet<String>,
}

impl Found {
    /// Checks all files that a table of the settings names. `above` is the key of the table.
    fn check_all(&mut self, above: &str, table: &Dict) {
        for (name, value) in table {
            let key = match above {
                "" => name.clone(),
                above => format!("{above}.{name}"),
            };
            self.check_value(&key, name, value);
        }
    }

    fn check_value(&mut self, key: &str, name: &str, value: &Value) {
        match value {
            Value::Dict(_, table) => self.check_all(key, table),
            Value::Array(_, list) => {
                for (index, entry) in list.iter().enumerate() {
                    self.check_value(&format!("{key}.{index}"), name, entry);
                }
            }
            Value::String(_, path) if SECRET.contains(&name) => {
                self.check(key, Path::new(path), Content::Secret);
            }
            Value::String(_, path) if PUBLIC.contains(&name) => {
                self.check(key, Path::new(path), Content::Public);
            }
            Value::String(_, path) if name == OWN => self.check_folder(key, Path::new(path)),
            Value::String(..)
            | Value::Bool(..)
            | Value::Char(..)
            | Value::Empty(..)
            | Value::Num(..) => {}
        }
    }

    fn check(&mut self, key: &str, path: &Path, content: Content) {
        let exposures = exposures(path, content);
        let of_file = exposures
            .iter()
            .map(|exposure| format!("{key}: {exposure}"));
        self.warnings.extend(of_file);
        self.check_folder(key, path);
    }

    fn check_folder(&mut self, key: &str, path: &Path) {
        if let Some(folder) = open_folder(path).map(|folder| folder.to_string())
            && self.folders.insert(folder.clone())
        {
            self.warnings.push(format!("{key}: {folder}"));
        }
    }
}

#[cfg(test)]
#[path = "open_files_tests.rs"]
mod tests;
