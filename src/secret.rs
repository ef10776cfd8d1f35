//! Values that are never printed.
//!
//! Every value that an attacker could use is a [`Secret`]: client secrets, session ids, codes, PKCE
//! verifiers, tokens and keys. A `Secret` prints as `[redacted]`. The duration of a comparison does
//! not depend on the bytes of the secret. When a `Secret` is dropped, its memory is overwritten.
//! [`Secret::expose`] is the only way to read the value, so a search for `expose` finds every use
//! of a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroize;

/// A value that is never printed and is compared in constant time. When a `Secret` is dropped, its
/// memory is overwritten.
///
/// ```
/// use sidegate::secret::Secret;
///
/// let password = Secret::new(String::from("hunter2"));
/// assert_eq!(format!("{password:?}"), "[redacted]");
/// assert!(password.matches(b"hunter2"));
/// ```
///
/// `Secret` does not implement `Display`:
///
/// ```compile_fail
/// use sidegate::secret::Secret;
///
/// println!("{}", Secret::new(String::from("hunter2")));
/// ```
#[derive(Clone)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Wraps `value`.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// Returns a reference to the value. Call `expose` only where the secret itself is needed.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize + AsRef<[u8]>> Secret<T> {
    /// Compares the value with `other` in constant time. The duration of the comparison can reveal
    /// only whether the lengths are equal.
    #[must_use]
    pub fn matches(&self, other: &[u8]) -> bool {
        verify_slices_are_equal(self.0.as_ref(), other).is_ok()
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The maximum size of a file with a secret or a key, in bytes.
const MAX_FILE: u64 = 64 * 1024;

const BYTE_ORDER_MARK: char = '\u{feff}';

/// Reads a small text file that can contain a secret. Some editors write a byte order mark at the start of a file. The
/// byte order mark is not part of the text.
///
/// # Errors
///
/// An error of the operating system, [`ErrorKind::FileTooLarge`], or [`ErrorKind::InvalidData`] if
/// the file is not UTF-8.
pub(crate) fn read_file(path: &Path) -> io::Result<Secret<String>> {
    let file = File::open(path)?;
    let mut text = Secret::new(String::new());
    // If the gateway can read one byte more than the maximum, the file is too large.
    let length = file
        .take(MAX_FILE.saturating_add(1))
        .read_to_string(&mut text.0)?;
    if u64::try_from(length).map_or(true, |length| length > MAX_FILE) {
        return Err(ErrorKind::FileTooLarge.into());
    }
    if text.0.starts_with(BYTE_ORDER_MARK) {
        text.0.remove(0);
    }
    Ok(text)
}

/// Returns the only line of a text, without the line breaks at its end. Returns `None` if the text is empty, or has several
/// lines or other white space around the line, because a file with such a secret probably contains a mistake.
pub(crate) fn only_line(text: &str) -> Option<&str> {
    let line = text.trim_end_matches(['\r', '\n']);
    let is_alone = !line.is_empty() && line.trim() == line && !line.contains(['\r', '\n']);
    is_alone.then_some(line)
}

/// The kind of content of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Content {
    /// A secret or a private key.
    Secret,
    /// Settings, certificates or public keys.
    Public,
}

/// What other users of the machine can do with a file or a folder, although they should not. The text
/// form states the mode of the file and the command that corrects the mode.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Exposure {
    path: PathBuf,
    mode: u32,
    who_can: &'static str,
    correction: &'static str,
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            mode,
            who_can,
            correction,
        } = self;
        let path = path.display();
        write!(
            f,
            "{path} has the mode {mode:04o}, so {who_can}; run `chmod {correction} {path}`"
        )
    }
}

/// The bits of a mode (`chmod(1)`).
const MODE: u32 = 0o7777;
const STICKY: u32 = 0o1000;
const GROUP_WRITES: u32 = 0o020;
const OTHERS_READ: u32 = 0o004;
const OTHERS_WRITE: u32 = 0o002;

/// Returns what other users of the machine can do with a file. The rules are those of OpenSSH and
/// sudo, with two exceptions:
///
/// - The group of a file may read a secret, because services often get a secret through their group.
/// - A group with the same number as the owner may change a file, because many systems give each user
///   a group of this kind.
///
/// A missing file and a file that a container runtime has mounted have no exposures.
pub(crate) fn exposures(path: &Path, content: Content) -> Vec<Exposure> {
    let Ok(about) = std::fs::metadata(path) else {
        return Vec::new();
    };
    if is_mounted_secret(path) {
        return Vec::new();
    }
    let mode = about.mode() & MODE;
    let reads = content == Content::Secret && mode & OTHERS_READ != 0;
    let group_writes = mode & GROUP_WRITES != 0 && about.gid() != about.uid();
    let found = [
        (
            mode & OTHERS_WRITE != 0,
            "every user of this machine can change it",
            "o-w",
        ),
        (reads, "every user of this machine can read it", "o-r"),
        (group_writes, "its whole group can change it", "g-w"),
    ];
    let found = found.into_iter().filter(|(is_so, ..)| *is_so);
    let exposure = |(_, who_can, correction)| Exposure {
        path: path.to_owned(),
        mode,
        who_can,
        correction,
    };
    found.map(exposure).collect()
}

/// Returns the exposure of the folder that contains `path`, if every user of the machine can replace
/// the files in the folder. In a folder with the sticky bit, such as `/tmp`, only the owner of a file
/// can replace the file.
pub(crate) fn open_folder(path: &Path) -> Option<Exposure> {
    let folder = match path.parent()? {
        folder if folder.as_os_str().is_empty() => Path::new("."),
        folder => folder,
    };
    let mode = std::fs::metadata(folder).ok()?.mode() & MODE;
    let is_open = mode & OTHERS_WRITE != 0 && mode & STICKY == 0;
    let exposure = || Exposure {
        path: folder.to_owned(),
        mode,
        who_can: "every user of this machine can replace its files",
        correction: "o-w",
    };
    is_open.then(exposure)
}

/// Returns true if a container runtime has mounted a file as a secret. Docker and Podman use
/// `/run/secrets`, and Kubernetes uses links to a folder whose name begins with two dots. These
/// runtimes often give the file the mode 0444, and show the file only to its container.
fn is_mounted_secret(path: &Path) -> bool {
    let is_below = |folder| path.starts_with(folder);
    let real = path.canonicalize().unwrap_or_default();
    let folder = real.parent().and_then(Path::file_name);
    let is_of_kubernetes = folder.is_some_and(|name| name.as_encoded_bytes().starts_with(b".."));
    is_below("/run/secrets") || is_below("/var/run/secrets") || is_of_kubernetes
}

/// The environment variables of the process. The value of an environment variable can be a secret.
#[derive(Clone, Debug, Default)]
pub struct Environment(Arc<BTreeMap<String, Secret<String>>>);

impl Environment {
    /// Reads the environment variables of the process. An environment variable that is not UTF-8 is
    /// ignored.
    pub fn of_process() -> Self {
        let variables = std::env::vars_os();
        variables
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// Returns the value of an environment variable. An environment variable without a value is
    /// treated as missing.
    pub fn get(&self, name: &str) -> Option<&Secret<String>> {
        let value = self.0.get(name);
        value.filter(|value| !value.expose().is_empty())
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let variables = variables.into_iter();
        let variables = variables.map(|(name, value)| (name.into(), Secret::new(value.into())));
        Self(Arc::new(variables.collect()))
    }
}

/// The operating system returned no random bytes. Every operation that needs random bytes can fail
/// with `NoRandomness`.
#[derive(Debug, thiserror::Error)]
#[error("the operating system returned no random bytes")]
pub struct NoRandomness;

/// Fills an array with bytes from the operating system's random number generator.
///
/// # Errors
///
/// Returns [`NoRandomness`] if the generator fails. This function never uses a weaker generator
/// than the operating system's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    // The error of the generator has no details, so `NoRandomness` does not include the generator's
    // error.
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_unspecified| NoRandomness)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_a_structure_does_not_print() {
        #[derive(Debug)]
        #[expect(dead_code, reason = "the test uses only its Debug output")]
        struct Holder {
            key: Secret<Vec<u8>>,
        }
        let shown = format!(
            "{:?}",
            Holder {
                key: Secret::new(b"canary".to_vec())
            }
        );
        assert!(
            !shown.contains("canary") && shown.contains("[redacted]"),
            "{shown}"
        );
    }

    #[test]
    fn comparison_needs_every_byte() {
        let secret = Secret::new(b"abcd".to_vec());
        assert!(secret.matches(b"abcd"));
        for other in [&b"abce"[..], b"abc", b"abcde", b"", b"ABCD"] {
            assert!(!secret.matches(other));
        }
    }

    #[test]
    fn a_file_with_a_secret_has_one_line_and_may_begin_with_a_byte_order_mark() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (content, line) in [
            ("secret", Some("secret")),
            ("\u{feff}a secret\r\n", Some("a secret")),
            ("secret\n\n", Some("secret")),
            ("", None),
            ("\n", None),
            ("\u{feff}", None),
            (" secret", None),
            ("secret \n", None),
            ("one\ntwo\n", None),
        ] {
            std::fs::write(file.path(), content).unwrap();
            let text = read_file(file.path()).unwrap();
            assert_eq!(only_line(text.expose()), line, "{content:?}");
        }
        std::fs::write(file.path(), "a".repeat(64 * 1024 + 1)).unwrap();
        let error = read_file(file.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn random_bytes_differ() {
        assert_ne!(random::<32>().unwrap(), random::<32>().unwrap());
    }
}
