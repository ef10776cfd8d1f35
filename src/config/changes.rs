//! Reports the effect of new settings on a running gateway and on its sessions, before the settings
//! are applied.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::Config;
use crate::clock::{Clock, Timestamp};
use crate::provider::Providers;
use crate::session::{self, FileError, MoveError, Moved, Preview, Registrations, StoreSettings};

/// Returns a map from the name of each provider to the provider's fingerprint. The fingerprint
/// represents the issuer and the client id. A session is valid only while the fingerprint of its
/// provider stays the same.
pub(crate) fn registrations(providers: &Providers) -> Registrations {
    let providers = providers.iter();
    providers
        .map(|(name, provider)| (name.clone(), provider.fingerprint()))
        .collect()
}

impl Config {
    /// Lists the sessions in the session file that a start or a reload with these settings would
    /// end. `sessions_that_end` reads the whole session file, even while a running gateway uses the
    /// file.
    ///
    /// # Errors
    ///
    /// Returns [`FileError`] if these settings cannot be used with the session file.
    pub fn sessions_that_end(&self, now: Timestamp) -> Result<Vec<String>, FileError> {
        let (settings, keys) = &self.session;
        let StoreSettings::Disk(disk) = &settings.store else {
            return Ok(Vec::new());
        };
        let registrations = registrations(&self.site.providers);
        Ok(
            match session::preview(&disk.file, keys, &registrations, now)? {
                Preview::Ends(sessions) => ends(&sessions),
                // A running gateway changes the session file while this function reads it, so the
                // counts of sessions could be wrong.
                Preview::InUse => vec![format!(
                    "cannot say whether sessions in {} would end: a running gateway is changing the file",
                    disk.file.display()
                )],
            },
        )
    }

    /// Moves the sessions of a session file to the shared store of these settings. No gateway may
    /// use the file. Blocks the calling thread, which must not be in a runtime.
    ///
    /// # Errors
    ///
    /// [`MoveError`].
    pub fn move_sessions(&self, from: &Path, clock: &Clock) -> Result<Moved, MoveError> {
        let (settings, keys) = &self.session;
        let StoreSettings::Redis(redis) = &settings.store else {
            return Err(MoveError::NoSharedStore);
        };
        let to = session::Destination {
            settings: (**redis).clone(),
            keys: Arc::clone(keys),
            providers: registrations(&self.site.providers),
            idle: settings.idle,
        };
        session::move_sessions(from, to, clock)
    }

    /// Compares these settings with `before`, the settings of a running gateway. Lists the
    /// providers whose sessions a reload would end, with the reason for each provider, and the
    /// changed settings that need a restart.
    pub fn changes_since(&self, before: &Self) -> Vec<String> {
        let (old, new) = (&before.site.providers, &self.site.providers);
        let mut lines = Vec::new();
        for (name, provider) in &**old {
            let why = match new.get(name) {
                None => "it is no longer configured",
                Some(other) if other.fingerprint() != provider.fingerprint() => {
                    "its issuer, URL or client_id has changed"
                }
                Some(_) => continue,
            };
            lines.push(format!("ends the sessions of the provider `{name}`: {why}"));
        }
        let keys = before.restart_only.differences(&self.restart_only);
        let keys = keys
            .iter()
            .map(|key| format!("changes only with a restart: {key}"));
        lines.extend(keys);
        lines
    }
}

fn ends(sessions: &BTreeMap<Box<str>, u64>) -> Vec<String> {
    let line = |(name, count): (&str, u64)| {
        let sessions = if count == 1 { "session" } else { "sessions" };
        format!(
            "ends {count} {sessions} of the provider `{name}`: it is no longer configured, or its \
             issuer, URL or client_id has changed"
        )
    };
    let sessions = sessions.iter().map(|(name, count)| (&**name, *count));
    sessions.map(line).collect()
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{SMALL, TestSettings};

    #[test]
    fn changes_since_lists_ended_sessions_and_settings_that_need_a_restart() {
        let before = TestSettings::new(SMALL).load().unwrap();
        let changes = |from: &str, to: &str| {
            let text = SMALL.replace(from, to);
            assert_ne!(text, SMALL);
            TestSettings::new(&text)
                .load()
                .unwrap()
                .changes_since(&before)
        };
        assert_eq!(before.changes_since(&before), Vec::<String>::new());
        assert_eq!(
            changes("client_id = \"me\"", "client_id = \"other\""),
            ["ends the sessions of the provider `main`: its issuer, URL or client_id has changed"]
        );
        assert_eq!(
            changes("[providers.main]", "[providers.other]"),
            ["ends the sessions of the provider `main`: it is no longer configured"]
        );
        assert_eq!(
            changes("public_url", "server.workers = 3\npublic_url"),
            ["changes only with a restart: server.workers"]
        );
    }
}
