//! A look at all sessions of a file: which of them count where other keys or providers do.

use std::collections::BTreeMap;
use std::time::Duration;

use redb::{ReadTransaction, ReadableTable as _};

use super::SessionKey;
use super::file::{SESSIONS, USED, corrupted};
use super::record::{Contents, Entry};
use super::registration::{self, Registrations};
use super::store::Loaded;
use crate::clock::Timestamp;
use crate::seal::KeyRing;

/// By what a session counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    pub(super) keys: &'a KeyRing,
    pub(super) idle: Duration,
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

/// Looks at all sessions and gives those that count to `take`.
pub(super) fn survey(
    transaction: &ReadTransaction,
    rules: &Rules<'_>,
    mut take: impl FnMut(SessionKey, Loaded),
) -> Result<Found, redb::Error> {
    let (sessions, used) = (
        transaction.open_table(SESSIONS)?,
        transaction.open_table(USED)?,
    );
    let mut found = Found::default();
    for entry in sessions.iter()? {
        let (key, value) = entry?;
        let used = used.get(key.value())?.map(|used| used.value());
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
        let contents = entry.open(&key, rules.keys);
        let contents = contents.ok_or_else(|| corrupted("an entry does not open"))?;
        let loaded = loaded(&entry, contents, used.map(Timestamp::from_millis));
        let provider = &loaded.contents.provider;
        if loaded.last_used.plus(rules.idle) <= rules.now {
            found.expired.push(key);
        } else if registration::counts(provider, rules.before, rules.after) {
            take(key, loaded);
        } else {
            found.note_other(key, provider);
        }
    }
    Ok(found)
}

/// `used` is when the session was used last, as far as the file knows.
pub(super) fn loaded(entry: &Entry<'_>, contents: Contents, used: Option<Timestamp>) -> Loaded {
    Loaded {
        ends_at: entry.ends_at,
        last_used: used.unwrap_or_default().max(contents.opened_at),
        contents,
    }
}
