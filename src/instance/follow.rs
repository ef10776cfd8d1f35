//! What asks for a reload without a signal: files that were replaced.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use tokio::time::{Instant, Interval};
use zeroize::Zeroizing;

use super::housekeeping::every;
use crate::clock::Clock;
use crate::config::{Look, Watch};

/// How often the files are looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// How long other content of the key file has to stay as it is.
const KEYS_STABLE: Duration = Duration::from_secs(10);

/// What has changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Changed {
    /// The settings file was replaced: all settings are to be read again.
    Settings,
    /// `login.state_key_file` holds other keys: the settings in force are to be opened again.
    Keys,
}

/// Follows the files of a running gateway.
#[derive(Debug)]
pub(super) struct Follower {
    clock: Clock,
    ticks: Option<Interval>,
    settings: Option<Watch>,
    keys: Option<KeyFile>,
}

/// The file of keys, followed by its content.
#[derive(Debug)]
struct KeyFile {
    path: PathBuf,
    in_force: Option<Content>,
    other: Option<(Content, Instant)>,
}

type Content = [u8; SHA256_OUTPUT_LEN];

impl KeyFile {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            in_force: content(path),
            other: None,
        }
    }

    /// Whether the file holds something else, and has for a while. It is said once.
    fn has_changed(&mut self, now: Instant) -> bool {
        let content = content(&self.path);
        let Some(other) = content.filter(|_| content != self.in_force) else {
            self.other = None;
            return false;
        };
        let since = match self.other {
            Some((content, since)) if content == other => since,
            Some(_) | None => now,
        };
        self.other = Some((other, since));
        let changed = now.saturating_duration_since(since) >= KEYS_STABLE;
        if changed {
            self.in_force = Some(other);
        }
        changed
    }
}

fn content(path: &Path) -> Option<Content> {
    let text = Zeroizing::new(std::fs::read(path).ok()?);
    digest(&SHA256, &text).as_ref().try_into().ok()
}

impl Follower {
    /// Follows the settings file, if there is one to follow, and the file of keys, if there is one.
    pub(super) fn new(clock: Clock, settings: Option<&Path>, keys: Option<&Path>) -> Self {
        Self {
            clock,
            ticks: None,
            settings: settings.and_then(|path| {
                let watch = Watch::new(path);
                watch.inspect_err(|error| not_watched(path, error)).ok()
            }),
            keys: keys.map(KeyFile::new),
        }
    }

    /// Waits until something has changed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn changed(&mut self) -> Changed {
        loop {
            let ticks = self.ticks.get_or_insert_with(|| every(PERIOD));
            ticks.tick().await;
            let now = self.clock.instant();
            match self.settings.as_mut().map(|watch| watch.look(now)) {
                None | Some(Ok(Look::Nothing)) => {}
                Some(Ok(Look::Replaced)) => return Changed::Settings,
                Some(Ok(Look::WrittenInPlace)) => tracing::warn!(
                    key = "watch",
                    "The settings file was written in place and is not read: rename a finished \
                     file to its path, or send SIGHUP"
                ),
                Some(Err(error)) => {
                    tracing::error!(key = "watch", %error, "The settings file is no longer watched");
                    self.settings = None;
                }
            }
            if self.keys.as_mut().is_some_and(|keys| keys.has_changed(now)) {
                return Changed::Keys;
            }
        }
    }
}

fn not_watched(path: &Path, error: &io::Error) {
    let path = path.display();
    tracing::error!(key = "watch", file.path = %path, %error, "The settings file is not watched");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_keys_count_once_they_have_stayed_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("one\n");
        let mut keys = KeyFile::new(&path);
        let start = Clock::system().instant();
        let mut second = 0;
        let mut changes = |keys: &mut KeyFile, seconds: u64| {
            let looks = (second..second + seconds).map(|at| start + Duration::from_secs(at));
            let changes = looks.filter(|now| keys.has_changed(*now)).count();
            second += seconds;
            changes
        };
        assert_eq!(changes(&mut keys, 60), 0);
        // A file that is being written.
        write("two\n");
        assert_eq!(changes(&mut keys, 9), 0);
        write("two\none\n");
        assert_eq!(changes(&mut keys, 10), 0);
        assert_eq!(changes(&mut keys, 60), 1);
        // It was away for a moment, and came back the same.
        std::fs::remove_file(&path).unwrap();
        assert_eq!(changes(&mut keys, 30), 0);
        write("two\none\n");
        assert_eq!(changes(&mut keys, 60), 0);
    }
}
