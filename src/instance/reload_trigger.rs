//! What asks for a reload without a signal: files that were replaced.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, Interval};

use super::housekeeping::ticks_every;
use crate::clock::Clock;
use crate::config::{Config, Digest, FileChange, Watch, content_digest};

/// How often the files are looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// How long other content of the key file has to stay as it is.
const KEYS_STABLE: Duration = Duration::from_secs(10);

/// The first pause after a reload that failed, and the longest. Each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// What has changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum ReloadCause {
    /// A reload failed that files had asked for: the same text is to be tried again, since a file that
    /// it names may have come meanwhile.
    Retry,
    /// Nothing, but a signal asks for all settings to be read again.
    Signal,
    /// The settings file was replaced: all settings are to be read again.
    SettingsFile,
    /// `login.state_key_file` holds other keys: the settings in force are to be opened again.
    KeyFile,
}

/// Follows the files of a running gateway. One trigger lasts as long as the process, so that no
/// reload misses what happens meanwhile.
#[derive(Debug)]
pub(super) struct ReloadTrigger {
    clock: Clock,
    ticks: Option<Interval>,
    settings: Option<Watch>,
    keys: Option<KeyFile>,
    retry: Option<Retry>,
}

/// A reload that failed and may succeed later: a file that the settings name may come a moment after
/// them.
#[derive(Clone, Copy, Debug)]
struct Retry {
    /// [`ReloadCause::Retry`] for settings, [`ReloadCause::KeyFile`] for keys alone.
    cause: ReloadCause,
    pause: Duration,
    at: Instant,
}

/// The file of keys, followed by its content.
#[derive(Debug)]
struct KeyFile {
    path: PathBuf,
    current: Option<Digest>,
    /// Other content, and since when the file holds it.
    other: Option<(Digest, Instant)>,
    /// The content for which a reload was asked.
    asked: Option<Digest>,
}

impl KeyFile {
    fn new(path: PathBuf, current: Option<Digest>) -> Self {
        Self {
            path,
            current,
            other: None,
            asked: None,
        }
    }

    /// Returns true once, when other content has stayed for ten seconds.
    fn has_changed(&mut self, now: Instant) -> bool {
        let content = content_digest(&self.path);
        let Some(other) = content.filter(|_| content != self.current) else {
            self.other = None;
            return false;
        };
        let since = match self.other {
            Some((content, since)) if content == other => since,
            Some(_) | None => now,
        };
        self.other = Some((other, since));
        let is_new = self.asked != Some(other);
        let changed = is_new && now.saturating_duration_since(since) >= KEYS_STABLE;
        if changed {
            self.asked = Some(other);
        }
        changed
    }
}

impl ReloadTrigger {
    /// Follows what `config` names, from its state when it was read.
    pub(super) fn new(config: &Config, clock: Clock) -> Self {
        let mut trigger = Self {
            clock,
            ticks: None,
            settings: None,
            keys: None,
            retry: None,
        };
        trigger.track(config);
        trigger
    }

    /// Follows what `config` names, which is in force now. What is followed already goes on being
    /// followed.
    fn track(&mut self, config: &Config) {
        if !config.watch {
            self.settings = None;
        } else if self.settings.is_none() {
            let path = &config.source.path;
            let watch = Watch::new(path, config.file_version(), self.clock.instant());
            self.settings = watch.inspect_err(|error| not_watched(path, error)).ok();
        }
        let keys = config.key_file.as_ref();
        self.keys = keys.map(|file| KeyFile::new(file.path.clone(), file.content));
    }

    /// A reload for `cause` has put `config` in force.
    pub(super) fn succeeded(&mut self, cause: ReloadCause, config: &Config) {
        // Settings that failed are still wanted when only the keys are others.
        if cause != ReloadCause::KeyFile {
            self.retry = None;
        }
        self.track(config);
    }

    /// A reload for `cause` failed. If files had asked for it, it is asked for again after a pause
    /// that grows; whoever sent a signal sees what the log says.
    pub(super) fn failed(&mut self, cause: ReloadCause) {
        let before = self.retry;
        let cause = match (cause, before.map(|retry| retry.cause)) {
            (ReloadCause::Signal, Some(ReloadCause::KeyFile)) => return,
            (ReloadCause::Signal, _) => {
                self.retry = None;
                return;
            }
            // Settings that are wanted bring the keys along.
            (ReloadCause::KeyFile, None | Some(ReloadCause::KeyFile)) => ReloadCause::KeyFile,
            (ReloadCause::KeyFile | ReloadCause::Retry | ReloadCause::SettingsFile, _) => {
                ReloadCause::Retry
            }
        };
        let before = before.map_or(Duration::ZERO, |retry| retry.pause);
        let pause = before.saturating_mul(2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        let now = self.clock.instant();
        self.retry = Some(Retry {
            cause,
            pause,
            at: now.checked_add(pause).unwrap_or(now),
        });
    }

    /// Waits until something has changed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn reload_due(&mut self) -> ReloadCause {
        loop {
            let ticks = self.ticks.get_or_insert_with(|| ticks_every(PERIOD));
            ticks.tick().await;
            if let Some(cause) = self.look(self.clock.instant()) {
                return cause;
            }
        }
    }

    fn look(&mut self, now: Instant) -> Option<ReloadCause> {
        match self.settings.as_mut().map(|watch| watch.poll(now)) {
            None | Some(Ok(FileChange::Nothing)) => {}
            Some(Ok(FileChange::Replaced)) => {
                self.retry = None;
                return Some(ReloadCause::SettingsFile);
            }
            Some(Ok(FileChange::WrittenInPlace)) => {
                // Another try might read half of it.
                let keys = |retry: &Retry| retry.cause == ReloadCause::KeyFile;
                self.retry = self.retry.filter(keys);
                tracing::warn!(
                    key = "watch",
                    "The settings file was written in place and is not read: rename a finished file \
                     to its path, or send SIGHUP"
                );
            }
            Some(Err(error)) => {
                tracing::error!(key = "watch", %error, "The settings file is no longer watched");
                self.settings = None;
            }
        }
        if self.keys.as_mut().is_some_and(|keys| keys.has_changed(now)) {
            return Some(ReloadCause::KeyFile);
        }
        let due = self.retry.filter(|retry| retry.at <= now);
        due.map(|retry| retry.cause)
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
    fn a_failed_reload_is_retried_unless_a_signal_caused_it() {
        let clock = Clock::system();
        let mut trigger = ReloadTrigger {
            clock: clock.clone(),
            ticks: None,
            settings: None,
            keys: None,
            retry: None,
        };
        let after = |seconds| clock.instant() + Duration::from_secs(seconds);
        assert_eq!(trigger.look(after(1000)), None);
        trigger.failed(ReloadCause::SettingsFile);
        assert_eq!(trigger.look(clock.instant()), None);
        assert_eq!(trigger.look(after(1)), Some(ReloadCause::Retry));
        for (pause, early) in [(2, 1), (4, 3), (8, 7)] {
            trigger.failed(ReloadCause::Retry);
            assert_eq!(trigger.look(after(early)), None);
            assert_eq!(trigger.look(after(pause)), Some(ReloadCause::Retry));
        }
        trigger.failed(ReloadCause::Signal);
        assert_eq!(trigger.look(after(1000)), None);
        // Other keys that failed are no reason to read the settings file.
        trigger.failed(ReloadCause::KeyFile);
        trigger.failed(ReloadCause::KeyFile);
        trigger.failed(ReloadCause::Signal);
        assert_eq!(trigger.look(after(1000)), Some(ReloadCause::KeyFile));
        trigger.failed(ReloadCause::SettingsFile);
        trigger.failed(ReloadCause::KeyFile);
        assert_eq!(trigger.look(after(1000)), Some(ReloadCause::Retry));
    }

    #[test]
    fn new_keys_are_used_when_the_file_has_been_stable_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("one\n");
        let mut keys = KeyFile::new(path.clone(), content_digest(&path));
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
        // A reload took them, and they are in force.
        keys = KeyFile::new(path.clone(), content_digest(&path));
        // The file was away for a moment, and came back the same.
        std::fs::remove_file(&path).unwrap();
        assert_eq!(changes(&mut keys, 30), 0);
        write("two\none\n");
        assert_eq!(changes(&mut keys, 60), 0);
    }
}
