//! Reads secrets and keys from the files and the environment variables that the settings name.

use std::path::Path;

use zeroize::Zeroizing;

use super::SetupError;
use crate::secret::{Environment, Secret, only_line, read_file};

/// The error text for a secret that has other text before or after the secret.
const NOT_ONLY_THE_SECRET: &str =
    "has white space around the secret, or several lines; write only the secret";

/// Reads a file that contains a secret. The line breaks at the end of the file are not part of the
/// secret. The gateway refuses a secret that has several lines, or other white space at its start
/// or end, because the file probably contains a mistake.
pub(crate) fn secret_file(key: &'static str, path: &Path) -> Result<Secret<String>, SetupError> {
    let text = Zeroizing::new(read_text(key, path)?);
    let Some(secret) = only_line(&text) else {
        let problem = "names a file with white space around the secret, or with several lines; write \
                       only the secret";
        return Err(SetupError::Setting { key, problem });
    };
    Ok(Secret::new(secret.to_owned()))
}

/// Reads a small text file that must not be empty.
pub(super) fn read_text(key: &'static str, path: &Path) -> Result<String, SetupError> {
    let text = read_file(path).map_err(|source| SetupError::Read {
        key,
        path: path.to_owned(),
        source,
    })?;
    let text = text.expose();
    if text.trim().is_empty() {
        let path = path.to_owned();
        return Err(SetupError::EmptyFile { key, path });
    }
    Ok(text.to_owned())
}

/// Reads the environment variable `name`, which the setting `key` names.
pub(super) fn variable<'a>(
    key: &'static str,
    name: &str,
    environment: &'a Environment,
) -> Result<&'a Secret<String>, SetupError> {
    let problem = "is not set, or is empty";
    environment
        .get(name)
        .filter(|value| !value.expose().trim().is_empty())
        .ok_or_else(|| SetupError::Variable {
            key,
            name: name.into(),
            problem,
        })
}

/// Reads a secret from an environment variable. The rules of [`secret_file`] apply.
pub(crate) fn secret_variable(
    key: &'static str,
    name: &str,
    environment: &Environment,
) -> Result<Secret<String>, SetupError> {
    let text = variable(key, name, environment)?;
    let secret = only_line(text.expose()).ok_or_else(|| SetupError::Variable {
        key,
        name: name.into(),
        problem: NOT_ONLY_THE_SECRET,
    })?;
    Ok(Secret::new(secret.to_owned()))
}
