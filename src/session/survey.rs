//! Finds out which sessions in a file are valid with given keys and providers, and which sessions
//! are invalid.

use std::collections::BTreeMap;

use redb::{ReadTransaction, ReadableTable as _};

use super::SessionKey;
use super::backend::Loaded;
use super::entry::{Entry, Format};
use super::file::{SESSIONS, USED, corrupted};
use super::limits::Limits;
use super::record::{self, Contents};
use super::registration::Registrations;
use crate::clock::Timestamp;
use crate::seal::KeyRing;

/// The conditions for a valid session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    pub(super) keys: &'a KeyRing,
    pub(super) now: Timestamp,
    pub(super) format: Format<'a>,
    /// The fingerprints of the providers in the new settings.
    pub(super) providers: &'a Registrations,
}

/// The stored sessions that are not valid any more, with the reasons.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Sessions that have passed a deadline.
    pub(super) expired: Vec<SessionKey>,
    /// Sessions whose provider was removed, or whose provider's name now belongs to another server
    /// or client. An identity from the old server or client does not identify a user of the new
    /// server or client.
    pub(super) of_changed_providers: Vec<SessionKey>,
    /// The number of sessions whose provider has changed, for each provider name.
    pub(super) ended: BTreeMap<Box<str>, u64>,
    /// The number of sessions that cannot be decrypted with any of the keys.
    pub(super) unknown_key: usize,
}

impl Survey {
    /// Records a session whose provider was removed from the settings, or whose provider's name now
    /// belongs to another server or client.
    pub(super) fn note_changed_provider(&mut self, key: SessionKey, provider: &str) {
        self.of_changed_providers.push(key);
        if let Some(count) = self.ended.get_mut(provider) {
            *count = count.saturating_add(1);
        } else {
            self.ended.insert(provider.into(), 1);
        }
    }
}

/// Finds the invalid sessions. This function does not check idle deadlines, because the file does
/// not contain the times of the latest uses of the sessions while the process runs.
pub(super) fn survey(
    transaction: &ReadTransaction,
    rules: &Rules<'_>,
) -> Result<Survey, redb::Error> {
    survey_all(transaction, rules, |_, _| Ok(Validity::Valid))
}

/// Finds the invalid sessions, and calls `take` with each valid session. A session that has passed
/// one of the `limits` has expired, too.
pub(super) fn survey_and_take(
    transaction: &ReadTransaction,
    rules: &Rules<'_>,
    limits: &Limits,
    mut take: impl FnMut(SessionKey, Loaded),
) -> Result<Survey, redb::Error> {
    let used = transaction.open_table(USED)?;
    survey_all(transaction, rules, |opened, plain| {
        let contents = record::decode(plain).ok_or_else(not_opened)?;
        let used = used.get(opened.key.as_bytes())?;
        let used = used.map(|used| Timestamp::from_millis(used.value()));
        let loaded = loaded(opened.ends_at, contents, used);
        let times = (loaded.contents.opened_at, loaded.ends_at);
        let limits = limits.of_login(&loaded.contents.provider, times);
        if limits.expired(loaded.last_used, rules.now).is_some() {
            return Ok(Validity::Expired);
        }
        take(opened.key, loaded);
        Ok(Validity::Valid)
    })
}

/// States whether a session of an unchanged provider is valid or expired.
enum Validity {
    Valid,
    Expired,
}

/// A session whose entry is decrypted.
struct OpenedEntry {
    key: SessionKey,
    ends_at: Timestamp,
}

fn survey_all(
    transaction: &ReadTransaction,
    rules: &Rules<'_>,
    mut validate: impl FnMut(&OpenedEntry, &[u8]) -> Result<Validity, redb::Error>,
) -> Result<Survey, redb::Error> {
    let mut found = Survey::default();
    for entry in transaction.open_table(SESSIONS)?.iter()? {
        let (key, value) = entry?;
        let entry = Entry::new(value.value(), rules.format);
        let entry = entry.ok_or_else(|| corrupted("an entry is too short"))?;
        let key = SessionKey::from_bytes(*key.value());
        // The deadline of a session is checked before the key of the entry, because an expired
        // session is removed even if the key is unknown.
        if entry.ends_at <= rules.now {
            found.expired.push(key);
            continue;
        }
        if !entry.is_known_to(rules.keys) {
            found.unknown_key = found.unknown_key.saturating_add(1);
            continue;
        }
        let plain = entry.unseal(&key, rules.keys).ok_or_else(not_opened)?;
        let provider = record::provider(&plain).ok_or_else(not_opened)?;
        if !entry.is_of(provider, rules.providers) {
            found.note_changed_provider(key, provider);
            continue;
        }
        let ends_at = entry.ends_at;
        match validate(&OpenedEntry { key, ends_at }, &plain)? {
            Validity::Valid => {}
            Validity::Expired => found.expired.push(key),
        }
    }
    Ok(found)
}

fn not_opened() -> redb::Error {
    corrupted("an entry cannot be opened")
}

/// Converts one entry of the file to a loaded session. The argument `used` is the time of the last
/// use that the file contains.
pub(super) fn loaded(ends_at: Timestamp, contents: Contents, used: Option<Timestamp>) -> Loaded {
    Loaded {
        ends_at,
        last_used: used.unwrap_or_default().max(contents.opened_at),
        contents,
    }
}
