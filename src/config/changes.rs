//! What other settings would do to a gateway and its sessions, told before they are in force.

use std::collections::BTreeMap;

use super::Config;
use crate::clock::Timestamp;
use crate::provider::Providers;
use crate::session::{self, FileError, Preview, Registrations, StoreSettings};

/// What each provider is. Sessions count only where it is the same.
pub(crate) fn registrations(providers: &Providers) -> Registrations {
    let providers = providers.iter();
    providers
        .map(|(name, provider)| (name.clone(), provider.fingerprint()))
        .collect()
}

impl Config {
    /// Says which sessions of the session file these settings would end, at a start or a reload. The
    /// file may be one that a running gateway uses; all of it is read.
    ///
    /// # Errors
    ///
    /// [`FileError`]: why these settings cannot be used with the file.
    pub fn sessions_that_end(&self, now: Timestamp) -> Result<Vec<String>, FileError> {
        let (settings, keys) = &self.session;
        let StoreSettings::Disk(disk) = &settings.store else {
            return Ok(Vec::new());
        };
        let registrations = registrations(&self.site.providers);
        Ok(
            match session::preview(&disk.file, keys, &registrations, now)? {
                Preview::Ends(sessions) => ends(&sessions),
                Preview::InUse => vec![format!(
                    "whether sessions in {} end cannot be told: a running gateway changes the file",
                    disk.file.display()
                )],
            },
        )
    }

    /// Says what a gateway that runs with the settings `before` would do at a reload of these: which
    /// providers lose their sessions and why, and which settings need a restart.
    pub fn changes_since(&self, before: &Self) -> Vec<String> {
        let (old, new) = (&before.site.providers, &self.site.providers);
        let mut lines = Vec::new();
        for (name, provider) in &**old {
            let why = match new.get(name) {
                None => "it is not configured any more",
                Some(other) if other.fingerprint() != provider.fingerprint() => {
                    "its issuer, its URL or its client_id is another one"
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
            "ends {count} {sessions} of the provider `{name}`: it is not configured any more, or its \
             issuer, its URL or its client_id is another one"
        )
    };
    let sessions = sessions.iter().map(|(name, count)| (&**name, *count));
    sessions.map(line).collect()
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{SMALL, TestSettings};

    #[test]
    fn what_a_reload_would_end_or_not_change_is_said() {
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
            [
                "ends the sessions of the provider `main`: its issuer, its URL or its client_id is \
                 another one"
            ]
        );
        assert_eq!(
            changes("[providers.main]", "[providers.other]"),
            ["ends the sessions of the provider `main`: it is not configured any more"]
        );
        assert_eq!(
            changes("public_url", "server.workers = 3\npublic_url"),
            ["changes only with a restart: server.workers"]
        );
    }
}
