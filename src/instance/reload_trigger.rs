//! Watches files, and reports when a reload is due.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, Interval};

use super::housekeeping::ticks_every;
use crate::clock::Clock;
use crate::config::{Config, Digest, FileChange, Watch, content_digest};

/// The interval between two checks of the files.
const PERIOD: Duration = Duration::from_secs(1);

/// The time for which new content of the key file must stay unchanged before the gateway uses the
/// new content.
const KEYS_STABLE: Duration = Duration::from_secs(10);

/// The pause after the first failed reload, and the longest pause. Each pause is twice as long as
/// the previous pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// The cause of a reload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum ReloadCause {
    /// An earlier reload for a file change has failed. The new reload uses the same settings text
    /// as the failed reload. The new attempt may succeed, because a file that was missing before
    /// may exist now.
    Retry,
    /// The process received a signal. The reload reads all settings again.
    Signal,
    /// Another file has replaced the settings file. The reload reads all settings again.
    SettingsFile,
    /// `login.state_key_file` contains new keys. The reload uses the current settings with the new
    /// keys.
    KeyFile,
}

/// Watches the files of a running gateway. The whole process has one trigger, and this trigger also
/// sees the changes that happen during a reload.
#[derive(Debug)]
pub(super) struct ReloadTrigger {
    clock: Clock,
    ticks: Option<Interval>,
    settings: Option<Watch>,
    keys: Option<KeyFile>,
    retry: Option<Retry>,
}

/// A pending retry of a failed reload. The next attempt may succeed, because the operator may write
/// a missing key file or certificate after the settings file.
#[derive(Clone, Copy, Debug)]
struct Retry {
    /// With [`ReloadCause::Retry`], the retry loads settings and keys. With
    /// [`ReloadCause::KeyFile`], the retry loads only the keys.
    cause: ReloadCause,
    pause: Duration,
    at: Instant,
}

/// The key file and its content.
#[derive(Debug)]
struct KeyFile {
    path: PathBuf,
    current: Option<Digest>,
    /// The digest of the file's new content, which differs from `current`, and the time when the
    /// trigger first saw the new content.
    other: Option<(Digest, Instant)>,
    /// The digest of the content for which the trigger last requested a reload.
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

    /// Returns true if the key file has a new content that has stayed unchanged for ten seconds.
    /// The function returns true only one time for each new content.
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
    /// Starts to watch the settings file and the key file of `config`. A change that happened after
    /// `config` was read also causes a reload.
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

    /// Watches the settings file and the key file of `config`. `config` contains the current
    /// settings of the gateway. A settings file that is already watched stays watched.
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

    /// Records that a reload for `cause` has applied `config`.
    pub(super) fn succeeded(&mut self, cause: ReloadCause, config: &Config) {
        // If the reload changed only the keys, a pending retry of the settings is still needed.
        if cause != ReloadCause::KeyFile {
            self.retry = None;
        }
        self.track(config);
    }

    /// Records that a reload for `cause` failed. If a change of a file caused the reload, the
    /// trigger requests another reload after a pause. Each pause is longer than the previous pause,
    /// up to [`LONGEST_PAUSE`]. If a signal caused the reload, there is no retry, because the
    /// operator reads the log.
    pub(super) fn failed(&mut self, cause: ReloadCause) {
        let before = self.retry;
        let cause = match (cause, before.map(|retry| retry.cause)) {
            // The reload after the signal failed, so the new keys were not applied. The trigger
            // therefore keeps a pending retry that loads new keys.
            (ReloadCause::Signal, Some(ReloadCause::KeyFile)) => return,
            (ReloadCause::Signal, _) => {
                self.retry = None;
                return;
            }
            // If a retry of the settings is already pending, the retry also reads the new keys.
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

    /// Waits until a reload is due.
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
                // The trigger cancels a retry that would read the settings file, because the
                // settings file may be incomplete while it is being written.
                let keys = |retry: &Retry| retry.cause == ReloadCause::KeyFile;
                self.retry = self.retry.filter(keys);
                tracing::warn!(
                    key = "watch",
                    "The settings file was written in place and is not read: rename a finished \
                     file to its path, or send SIGHUP"
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
        // A failed reload of the keys does not cause a reload of the settings file.
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
        // The key file is only partly written.
        write("two\n");
        assert_eq!(changes(&mut keys, 9), 0);
        write("two\none\n");
        assert_eq!(changes(&mut keys, 10), 0);
        assert_eq!(changes(&mut keys, 60), 1);
        // The test creates a new `KeyFile`, as the gateway does after a reload.
        keys = KeyFile::new(path.clone(), content_digest(&path));
        // The key file was removed for a moment and has the same content again.
        std::fs::remove_file(&path).unwrap();
        assert_eq!(changes(&mut keys, 30), 0);
        write("two\none\n");
        assert_eq!(changes(&mut keys, 60), 0);
    }
}
