//! Warnings about files that other users of the machine can read or change.
//!
//! The settings never contain secrets, so everybody may read the settings file. Files with secrets
//! or private keys are for Sidegate alone, and nobody else may change any file that the settings
//! name, or replace a file or a socket of Sidegate.

use std::collections::BTreeSet;
use std::path::Path;

use figment::Figment;
use figment::value::Dict;
use url::Url;

use super::paths::{self, Kind};
use crate::secret::{Content, Environment, exposures, open_folder};

/// The variable that Kubernetes sets in each container.
const IN_POD: &str = "KUBERNETES_SERVICE_HOST";

/// Returns a warning for each file that other users of the machine can use in a way that they should
/// not, and for each folder in which they can replace a file or a socket. `path` is the settings file.
///
/// In a pod of Kubernetes, there are no warnings. Kubernetes decides about the permissions of the
/// mounted files, and only the containers of the pod see the files.
pub(super) fn warnings(path: &Path, settings: &Figment, environment: &Environment) -> Vec<String> {
    if environment.get(IN_POD).is_some() {
        return Vec::new();
    }
    let mut found = Found::default();
    found.check("settings file", path, Content::Public);
    let mut tree: Dict = settings.extract().unwrap_or_default();
    paths::for_each(&mut tree, &mut |key, kind, text| {
        found.check_path(key, text, kind);
    });
    found.warnings
}

#[derive(Default)]
struct Found {
    warnings: Vec<String>,
    /// Folders with a warning. Several files can be in one folder.
    folders: BTreeSet<String>,
}

impl Found {
    fn check_path(&mut self, key: &str, text: &str, kind: Kind) {
        let path = Path::new(text);
        match kind {
            Kind::Secret => self.check(key, path, Content::Secret),
            Kind::Public => self.check(key, path, Content::Public),
            Kind::Own => self.check_folder(key, path),
            Kind::Folder => {
                self.check_folder(key, path);
                self.check_folder(key, &path.join("file"));
            }
            Kind::Address => {
                let url = Url::parse(text).ok();
                if let Some(url) = url.filter(|url| url.scheme() == "unix") {
                    self.check_folder(key, Path::new(url.path()));
                }
            }
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
