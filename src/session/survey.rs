//! A look at all sessions of a file: which of them count where other keys or providers do.

use std::collections::BTreeMap;
use std::time::Duration;

use redb::{ReadTransaction, ReadableTable as _};

use super::SessionKey;
use super::backend::Loaded;
use super::file::{SESSIONS, USED, corrupted};
use super::record::{self, Contents, Entry};
use super::registration::{self, Registrations};
use crate::clock::Timestamp;
use crate::seal::KeyRing;

/// The rules by which a session is valid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    pub(super) keys: &'a KeyRing,
    pub(super) now: Timestamp,
    /// What the providers were when the sessions were opened.
    pub(super) before: &'a Registrations,
    /// What the providers are.
    pub(super) after: &'a Registrations,
}

/// What does not count.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Sessions that have passed their deadline.
    pub(super) expired: Vec<SessionKey>,
    /// Sessions whose provider is not there any more, or is another one: they say nothing about
    /// anybody there.
    pub(super) of_others: Vec<SessionKey>,
    /// How many those are, by the provider's name.
    pub(super) ended: BTreeMap<Box<str>, u64>,
    /// How many are sealed with a key that is not there.
    pub(super) unknown: usize,
}

impl Found {
    /// Notes a session whose provider is not there any more, or is another one.
    pub(super) fn note_other(&mut self, key: SessionKey, provider: &str) {
        self.of_others.push(key);
        if let Some(count) = self.ended.get_mut(provider) {
            *count = count.saturating_add(1);
        } else {
            self.ended.insert(provider.into(), 1);
        }
    }
}

/// Looks at all sessions. How long they have been idle is left out: a process that runs knows more of
/// that than its file.
pub(super) fn survey(
    transaction: &ReadTransaction,
    rules: &Rules<'_>,
) -> Result<Found, redb::Error> {
    look(transaction, rules, |_, _| Ok(Counts::Yes))
}

/// Looks at all sessions and gives those that count to `take`. None does that was idle for longer.
pub(super) fn survey_and_take(
    transaction: &ReadTransaction,
    rules: &Rules<'_>,
    idle: Duration,
    mut take: impl FnMut(SessionKey, Loaded),
) -> Result<Found, redb::Error> {
    let used = transaction.open_table(USED)?;
    look(transaction, rules, |opened, plain| {
        let contents = record::decode(plain).ok_or_else(not_opened)?;
        let used = used.get(opened.key.as_bytes())?;
        let used = used.map(|used| Timestamp::from_millis(used.value()));
        let loaded = loaded(opened.ends_at, contents, used);
        if loaded.last_used.plus(idle) <= rules.now {
            return Ok(Counts::Expired);
        }
        take(opened.key, loaded);
        Ok(Counts::Yes)
    })
}

/// Whether a session counts whose provider does.
enum Counts {
    Yes,
    Expired,
}

/// A session whose entry could be opened.
struct Opened {
    key: SessionKey,
    ends_at: Timestamp,
}

fn look(
    transaction: &ReadTransaction,
    rules: &Rules<'_>,
    mut counts: impl FnMut(&Opened, &[u8]) -> Result<Counts, redb::Error>,
) -> Result<Found, redb::Error> {
    let mut found = Found::default();
    for entry in transaction.open_table(SESSIONS)?.iter()? {
        let (key, value) = entry?;
        let entry = Entry::new(value.value()).ok_or_else(|| corrupted("an entry is cut"))?;
        let key = SessionKey::from_bytes(*key.value());
        if entry.ends_at <= rules.now {
            found.expired.push(key);
            continue;
        }
        if !entry.is_known_to(rules.keys) {
            found.unknown = found.unknown.saturating_add(1);
            continue;
        }
        let plain = entry.unseal(&key, rules.keys).ok_or_else(not_opened)?;
        let provider = record::provider(&plain).ok_or_else(not_opened)?;
        if !registration::counts(provider, rules.before, rules.after) {
            found.note_other(key, provider);
            continue;
        }
        let ends_at = entry.ends_at;
        match counts(&Opened { key, ends_at }, &plain)? {
            Counts::Yes => {}
            Counts::Expired => found.expired.push(key),
        }
    }
    Ok(found)
}

fn not_opened() -> redb::Error {
    corrupted("an entry does not open")
}

/// `used` is when the session was used last, as far as the file knows.
pub(super) fn loaded(ends_at: Timestamp, contents: Contents, used: Option<Timestamp>) -> Loaded {
    Loaded {
        ends_at,
        last_used: used.unwrap_or_default().max(contents.opened_at),
        contents,
    }
}
