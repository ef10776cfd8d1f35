//! What the keeper remembers beside the cache: whose sessions there are, and when each is due for
//! a look. Nothing here is touched by a request that uses a session.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use aws_lc_rs::digest::{Context, SHA256};

use super::{Session, SessionKey};
use crate::clock::Timestamp;
use crate::identity::Identity;

/// An issuer and a subject at it, as the first half of a digest: a second person with the same one
/// would take 2^128 tries.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Person([u8; 16]);

impl Person {
    /// Nameless people cannot be told apart, so they are nobody.
    pub(super) fn of(identity: &Identity) -> Option<Self> {
        let subject = identity.subject.as_ref()?;
        let mut context = Context::new(&SHA256);
        // The length in front keeps where the issuer ends.
        context.update(&identity.issuer.len().to_be_bytes());
        context.update(identity.issuer.as_bytes());
        context.update(subject.as_str().as_bytes());
        let digest = context.finish();
        digest.as_ref().first_chunk().copied().map(Self)
    }
}

#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashMap<SessionKey, Entry>,
    due: BTreeSet<(Timestamp, SessionKey)>,
    by_person: BTreeSet<(Person, Timestamp, SessionKey)>,
}

#[derive(Debug)]
struct Entry {
    /// The value in memory, if there is one.
    session: Weak<Session>,
    due: Timestamp,
    opened_at: Timestamp,
    person: Option<Person>,
}

impl Index {
    /// Remembers a session that is due for a look at `due`.
    pub(super) fn insert(&mut self, session: &Arc<Session>, due: Timestamp) {
        let (key, opened_at) = (*session.key(), session.opened_at());
        let person = Person::of(session.identity());
        self.due.insert((due, key));
        if let Some(person) = person {
            self.by_person.insert((person, opened_at, key));
        }
        let entry = Entry {
            session: Arc::downgrade(session),
            due,
            opened_at,
            person,
        };
        self.entries.insert(key, entry);
    }

    /// Whether a session is known.
    pub(super) fn contains(&self, key: &SessionKey) -> bool {
        self.entries.contains_key(key)
    }

    /// The value in memory of a known session.
    pub(super) fn in_memory(&self, key: &SessionKey) -> Option<Arc<Session>> {
        self.entries.get(key)?.session.upgrade()
    }

    /// A person's oldest sessions, as many as must go so that with one more there are `most`; those
    /// that go anyhow are given.
    pub(super) fn surplus(
        &self,
        person: Person,
        most: usize,
        going: &[SessionKey],
    ) -> Vec<SessionKey> {
        let first = (person, Timestamp::default(), SessionKey::FIRST);
        let last = (person, Timestamp::MAX, SessionKey::LAST);
        let keys = self.by_person.range(first..=last).map(|(_, _, key)| *key);
        let mut keys: Vec<_> = keys.filter(|key| !going.contains(key)).collect();
        let surplus = keys.len().saturating_add(1).saturating_sub(most);
        keys.truncate(surplus);
        keys
    }

    /// Puts another value in memory for a known session. Its person stays who it was.
    pub(super) fn set(&mut self, session: &Arc<Session>) {
        if let Some(entry) = self.entries.get_mut(session.key()) {
            entry.session = Arc::downgrade(session);
        }
    }

    /// Notes that the value in memory is gone, and when the session is due for a look now.
    pub(super) fn set_away(&mut self, key: &SessionKey, due: Timestamp) {
        if let Some(entry) = self.entries.get_mut(key) {
            // What is only pointed to weakly keeps its memory.
            entry.session = Weak::new();
            self.due.remove(&(entry.due, *key));
            self.due.insert((due, *key));
            entry.due = due;
        }
    }

    /// Forgets a session, and gives its value in memory.
    pub(super) fn remove(&mut self, key: &SessionKey) -> Option<Arc<Session>> {
        let entry = self.entries.remove(key)?;
        self.due.remove(&(entry.due, *key));
        if let Some(person) = entry.person {
            self.by_person.remove(&(person, entry.opened_at, *key));
        }
        entry.session.upgrade()
    }

    /// Looks at up to `most` sessions that are due. Those whose deadline (as `deadline` says of
    /// the value in memory) has passed are given back for removal; the others become due again at
    /// their new deadline.
    pub(super) fn expired(
        &mut self,
        now: Timestamp,
        most: usize,
        deadline: impl Fn(&Session) -> Timestamp,
    ) -> (Vec<SessionKey>, Looked) {
        let due = self.due.iter().take_while(|(due, _)| *due <= now);
        let batch: Vec<_> = due.take(most).copied().collect();
        let looked = if batch.len() < most {
            Looked::AtAllDue
        } else {
            Looked::AtSome
        };
        let mut expired = Vec::new();
        for (due, key) in batch {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            let session = entry.session.upgrade();
            let next = session.map_or(now, |session| deadline(&session));
            if next <= now {
                expired.push(key);
            } else {
                entry.due = next;
                self.due.remove(&(due, key));
                self.due.insert((next, key));
            }
        }
        (expired, looked)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Whether a batch reached the end of what was due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Looked {
    AtAllDue,
    AtSome,
}
