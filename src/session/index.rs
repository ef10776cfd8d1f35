//! What the control plane remembers beside the cache: whose sessions there are, and when each is
//! due for a look. Nothing here is touched by a request that uses a session.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Weak};

use super::{Session, SessionKey};
use crate::clock::Timestamp;
use crate::identity::Identity;

/// An issuer and a subject at it.
type Person = (Box<str>, Box<str>);

#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashMap<SessionKey, Entry>,
    due: BTreeSet<(Timestamp, SessionKey)>,
    by_person: HashMap<Person, VecDeque<SessionKey>>,
}

#[derive(Debug)]
struct Entry {
    session: Weak<Session>,
    due: Timestamp,
    person: Option<Person>,
}

impl Index {
    /// Remembers a session that is due for a look at `due`. Gives back the person's oldest
    /// sessions beyond `per_person`, which the caller ends.
    pub(super) fn insert(
        &mut self,
        key: SessionKey,
        session: &Arc<Session>,
        due: Timestamp,
        per_person: usize,
    ) -> Vec<SessionKey> {
        let person = person(session.identity());
        self.due.insert((due, key));
        let entry = Entry {
            session: Arc::downgrade(session),
            due,
            person: person.clone(),
        };
        self.entries.insert(key, entry);
        let Some(person) = person else {
            return Vec::new();
        };
        let keys = self.by_person.entry(person).or_default();
        keys.push_back(key);
        let surplus = keys.len().saturating_sub(per_person);
        keys.drain(..surplus).collect()
    }

    /// Forgets a session; unknown keys are fine.
    pub(super) fn remove(&mut self, key: &SessionKey) {
        let Some(entry) = self.entries.remove(key) else {
            return;
        };
        self.due.remove(&(entry.due, *key));
        let Some(person) = entry.person else { return };
        if let Some(keys) = self.by_person.get_mut(&person) {
            keys.retain(|other| other != key);
            if keys.is_empty() {
                self.by_person.remove(&person);
            }
        }
    }

    /// Looks at up to `most` sessions that are due. Those whose deadline (as `deadline` says of
    /// the live session) has passed are given back for removal; the others become due again at
    /// their new deadline.
    pub(super) fn expired(
        &mut self,
        now: Timestamp,
        most: usize,
        deadline: impl Fn(&Session) -> Timestamp,
    ) -> (Vec<SessionKey>, Looked) {
        let batch: Vec<_> = self
            .due
            .iter()
            .take_while(|(due, _)| *due <= now)
            .take(most)
            .copied()
            .collect();
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
            let next = entry
                .session
                .upgrade()
                .map_or(now, |session| deadline(&session));
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

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.entries.len(), self.due.len());
        self.entries.len()
    }
}

/// Whether a batch reached the end of what was due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Looked {
    AtAllDue,
    AtSome,
}

/// Nameless people cannot be told apart, so they have no cap of their own.
fn person(identity: &Identity) -> Option<Person> {
    let subject = identity.subject.as_ref()?;
    Some((identity.issuer.clone(), subject.as_str().into()))
}
