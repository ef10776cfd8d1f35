//! The index of a local store. The index contains all sessions in the order of their users. The
//! index shows which sessions are only in the file. A request that uses a session does not access
//! the index.
//!
//! For each session, the index contains one pointer to the session's record. The index contains no
//! copies of the sort keys, because each record is in memory and contains its sort key. The
//! sessions are not sorted by deadline, because a second sorted list would need more memory. The
//! thread of the store finds expired sessions by a search through all sessions, one small part at a
//! time.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU64;
use std::ops::Bound;
use std::sync::Arc;

use super::SessionKey;
use super::groups::{Group, ProviderSessionHash, ProviderSessions, digest_of};
use super::stored::Stored;
use crate::clock::Timestamp;
use crate::identity::Identity;

/// Identifies a user by the first half of the SHA-256 digest of the issuer and the subject. Every
/// process computes the same `UserHash` for the same user. The digest needs no secret key, because
/// an attacker would have to try about 2^128 subjects to find the digest of another user.
///
/// The first number of a `UserHash` is never zero, so `Option<UserHash>` needs no more memory than
/// `UserHash`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct UserHash(NonZeroU64, u64);

impl UserHash {
    /// Returns the hash of the user to whom the identity belongs. Returns `None` if the identity
    /// has no subject, because the gateway cannot distinguish users without a subject.
    pub(super) fn of(identity: &Identity) -> Option<Self> {
        let subject = identity.subject.as_ref()?;
        Some(Self::of_subject(&identity.issuer, subject.as_str()))
    }

    /// Returns the bytes of the hash.
    pub(super) fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let (first, second) = bytes.split_at_mut(8);
        first.copy_from_slice(&self.0.get().to_be_bytes());
        second.copy_from_slice(&self.1.to_be_bytes());
        bytes
    }

    /// Creates a hash from the bytes that [`UserHash::to_bytes`] returned. Returns `None` for any
    /// bytes that are not a hash.
    pub(super) fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        let (first, second) = bytes.split_first_chunk()?;
        let second = second.first_chunk()?;
        let first = NonZeroU64::new(u64::from_be_bytes(*first))?;
        Some(Self(first, u64::from_be_bytes(*second)))
    }

    /// Returns the hash of the user with this subject.
    pub(super) fn of_subject(issuer: &str, subject: &str) -> Self {
        let hash = digest_of(issuer, subject);
        let mut halves = hash.as_ref().as_chunks().0.iter();
        let mut half = || halves.next().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let first = NonZeroU64::new(half()).unwrap_or(NonZeroU64::MIN);
        Self(first, half())
    }
}

/// The sort key of a session: the user, and then the end of the lifetime.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Rank {
    pub(super) user: Option<UserHash>,
    pub(super) ends_at: Timestamp,
    pub(super) key: SessionKey,
}

/// A session that is ordered by its [`Rank`].
#[derive(Debug)]
struct Ranked(Arc<Stored>);

/// The number of parts into which a search through all sessions is divided. Each sweep searches one
/// part of the sessions, so a search through all sessions takes some minutes.
const PARTS: usize = 256;
/// The minimum number of sessions in the part that one sweep searches.
const MIN_PART: usize = 4096;

/// The index of all sessions of the store.
#[derive(Debug, Default)]
pub(super) struct Index {
    all: BTreeSet<Ranked>,
    /// The records of the sessions that are only in the file.
    file_only: HashMap<SessionKey, Arc<Stored>>,
    /// The last session that an unfinished search for expired sessions has read. The next sweep
    /// continues with the session after the session `walked`. The value is `None` while no search
    /// is in progress.
    walked: Option<Rank>,
    provider_sessions: ProviderSessions,
}

impl Index {
    /// Adds a session. `provider_session` is the session at the provider to which the session
    /// belongs, if the provider has sent its id.
    pub(super) fn insert(
        &mut self,
        stored: Arc<Stored>,
        provider_session: Option<ProviderSessionHash>,
    ) {
        if let Some(of) = provider_session {
            self.provider_sessions.insert(*stored.key(), of);
        }
        self.all.insert(Ranked(stored));
    }

    /// Replaces the value of a session, unless the session has ended.
    pub(super) fn replace(&mut self, new: &Arc<Stored>) {
        self.file_only.remove(new.key());
        if self.all.contains(new.rank()) {
            self.all.replace(Ranked(Arc::clone(new)));
        }
    }

    /// Returns true if the index contains the value `stored` itself, and not another version of the
    /// session.
    pub(super) fn has(&self, stored: &Arc<Stored>) -> bool {
        let known = self.all.get(stored.rank());
        known.is_some_and(|known| Arc::ptr_eq(&known.0, stored))
    }

    /// Returns the record of a session that is only in the file.
    pub(super) fn file_only(&self, key: &SessionKey) -> Option<&Arc<Stored>> {
        self.file_only.get(key)
    }

    /// Records that a session is in the file and not in memory.
    pub(super) fn set_file_only(&mut self, stored: &Stored) {
        let away = Arc::new(stored.without_contents());
        self.replace(&away);
        self.file_only.insert(*away.key(), away);
    }

    /// Removes a session, and returns its record. `in_memory` is the value of the session in the
    /// cache.
    pub(super) fn remove(
        &mut self,
        key: &SessionKey,
        in_memory: Option<Arc<Stored>>,
    ) -> Option<Arc<Stored>> {
        let stored = self.file_only.remove(key).or(in_memory)?;
        self.all.remove(stored.rank());
        self.provider_sessions.remove(key);
        Some(stored)
    }

    /// Returns the keys of the sessions of a group. For [`Group::Keys`], the function returns all
    /// keys of the group, even if there is no session with the key.
    pub(super) fn keys_of(&self, group: &Group) -> Vec<SessionKey> {
        match group {
            Group::All => self.all().map(|stored| *stored.key()).collect(),
            Group::Keys(keys) => keys.clone(),
            Group::Named(_) => Vec::new(),
            Group::ProviderSession(of) => self.provider_sessions.find(*of),
            Group::User(user) => self.of_user(*user).collect(),
            Group::UserWithoutSid(user) => {
                let all = self.of_user(*user);
                all.filter(|key| self.provider_session(key).is_none())
                    .collect()
            }
        }
    }

    /// Returns the session at the provider to which a session belongs.
    pub(super) fn provider_session(&self, key: &SessionKey) -> Option<ProviderSessionHash> {
        self.provider_sessions.get(key)
    }

    /// Returns the keys of the sessions of a user. The key of the session whose lifetime ends first
    /// is at the beginning.
    fn of_user(&self, user: UserHash) -> impl Iterator<Item = SessionKey> {
        let rank = |ends_at, key| Rank {
            user: Some(user),
            ends_at,
            key,
        };
        let first = rank(Timestamp::default(), SessionKey::FIRST);
        let last = rank(Timestamp::MAX, SessionKey::LAST);
        let sessions = self.all.range(first..=last);
        sessions.map(|Ranked(stored)| *stored.key())
    }

    /// Returns the user's sessions that must end before the user's next login, so that the user has
    /// at most `max` sessions after the login. The result is sorted: the session whose lifetime
    /// ends first is at the beginning. The sessions in `ending` do not count toward `max`, because
    /// these sessions are about to end.
    pub(super) fn above_limit(
        &self,
        user: UserHash,
        max: usize,
        ending: &[SessionKey],
    ) -> Vec<SessionKey> {
        let keys = self.of_user(user);
        let mut keys: Vec<_> = keys.filter(|key| !ending.contains(key)).collect();
        let above_limit = keys.len().saturating_add(1).saturating_sub(max);
        keys.truncate(above_limit);
        keys
    }

    /// Calls the function `find` for the next sessions in the index. Returns at most `max` values
    /// from `find`, each with the key of its session.
    pub(super) fn walk<T>(
        &mut self,
        max: usize,
        find: impl Fn(&Stored) -> Option<T>,
    ) -> (Vec<(SessionKey, T)>, WalkEnd) {
        let mut left = (self.all.len() / PARTS).max(MIN_PART);
        let from = self.walked.map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = Vec::new();
        for Ranked(stored) in self.all.range((from, Bound::Unbounded)) {
            if left == 0 || found.len() == max {
                let end = if left == 0 {
                    WalkEnd::PartDone
                } else {
                    WalkEnd::EnoughFound
                };
                return (found, end);
            }
            left = left.saturating_sub(1);
            found.extend(find(stored).map(|what| (*stored.key(), what)));
            self.walked = Some(*stored.rank());
        }
        // The next call of `walk` starts a new search.
        self.walked = None;
        (found, WalkEnd::PartDone)
    }

    /// Makes the next call of `walk` start a new search.
    pub(super) fn restart_walk(&mut self) {
        self.walked = None;
    }

    /// Returns all sessions, ordered by user.
    pub(super) fn all(&self) -> impl Iterator<Item = &Stored> {
        self.all.iter().map(|Ranked(stored)| &**stored)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

/// The reason why a search of the index has stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum WalkEnd {
    /// One call of `walk` searches one part of the index. The search has checked all sessions in
    /// this part of the index.
    PartDone,
    /// The search has found `max` sessions.
    EnoughFound,
}

impl Borrow<Rank> for Ranked {
    fn borrow(&self) -> &Rank {
        self.0.rank()
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.rank().cmp(other.0.rank())
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Eq for Ranked {}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;
    use crate::identity::Claim;
    use crate::session::fixture::{tokens, user};
    use crate::session::record::Contents;
    use crate::session::{SessionId, StoreTag};

    fn stored(rank: Rank, identity: Identity) -> Arc<Stored> {
        let contents = Contents {
            version: 0,
            provider: "op".into(),
            identity,
            tokens: tokens("token"),
            opened_at: Timestamp::default(),
            sid: None,
            device: None,
            newer: Box::default(),
        };
        Arc::new(Stored::new(rank, Timestamp::default(), &contents))
    }

    /// Returns an index of the sessions of several users. The argument `people` is the number of
    /// users, and the argument `each` is the number of sessions of each user. The sessions reach
    /// the end of their lifetimes at different times.
    fn index(people: u32, each: u32) -> Index {
        let mut index = Index::default();
        let mut subjects = (0..people).cycle();
        for number in 0..people.checked_mul(each).unwrap() {
            let identity = user(&subjects.next().unwrap().to_string());
            let mut key = [0; SessionKey::LENGTH];
            key[..4].copy_from_slice(&number.to_be_bytes());
            let rank = Rank {
                user: UserHash::of(&identity),
                ends_at: Timestamp::from_millis(number.into()),
                key: SessionKey::from_bytes(key),
            };
            index.insert(stored(rank, identity), None);
        }
        index
    }

    #[test]
    fn g_11_every_process_computes_the_same_value_of_16_bytes_for_a_person() {
        let identity = |issuer: &str, subject: &str| Identity {
            subject: Claim::new(subject),
            ..Identity::nameless(issuer)
        };
        let alice = UserHash::of(&identity("https://op", "alice")).unwrap();
        // The command `printf '\0\0\0\0\0\0\0\012https://opalice' | sha256sum` printed the expected
        // digest.
        let known = UserHash(
            NonZeroU64::new(0x7b3e_dbeb_2785_8a0d).unwrap(),
            0x128e_4e72_9dfc_6eb8,
        );
        assert_eq!(alice, known);
        assert_ne!(UserHash::of(&identity("https://o", "palice")), Some(alice));
        assert_eq!(UserHash::of(&Identity::nameless("https://op")), None);
        assert_eq!(size_of::<Option<UserHash>>(), 16);
    }

    #[test]
    fn a_walk_visits_every_session_once_and_then_starts_again() {
        let mut index = index(3, 1500);
        for _round in 0..2 {
            let (mut seen, mut stops) = (HashSet::new(), Vec::new());
            for _walk in 0..2 {
                let (part, walked) = index.walk(5000, |_| Some(()));
                stops.push((part.len(), walked));
                seen.extend(part);
            }
            assert_eq!(stops, [(4096, WalkEnd::PartDone), (404, WalkEnd::PartDone)]);
            assert_eq!(seen.len(), 4500);
        }
    }

    #[test]
    fn a_walk_stops_when_it_has_found_enough_and_continues_there() {
        let mut index = index(3, 100);
        let mut left = 300_usize;
        while let (over, WalkEnd::EnoughFound) = index.walk(70, |_| Some(())) {
            assert_eq!(over.len(), 70);
            left = left.checked_sub(70).unwrap();
        }
        assert_eq!(left, 20);
        let half = Timestamp::from_millis(150);
        let is_over = |stored: &Stored| (stored.ends_at() < half).then_some(());
        assert_eq!(index.walk(1000, is_over).0.len(), 150);
    }

    #[test]
    fn the_value_of_a_session_can_be_replaced_until_the_session_is_removed() {
        let mut index = index(2, 2);
        let (keys, _) = index.walk(1, |_| Some(()));
        let first = Arc::clone(&index.all.first().unwrap().0);
        index.set_file_only(&first);
        assert!(!index.has(&first));
        let away = index.file_only(&keys[0].0).unwrap();
        assert!(away.contents().is_empty());
        assert_eq!((index.len(), index.file_only.len()), (4, 1));
        index.replace(&first);
        assert!(index.has(&first) && index.file_only(&keys[0].0).is_none());
        assert!(index.remove(&keys[0].0, Some(Arc::clone(&first))).is_some());
        index.replace(&first);
        assert!(!index.has(&first));
        assert_eq!((index.len(), index.file_only.len()), (3, 0));
    }

    /// Generates short issuers and subjects from a few different characters, so that many of the
    /// texts are similar.
    fn similar() -> impl Strategy<Value = String> {
        let characters = prop::sample::select(vec!['a', 'b', '/', ':', '|', ',', '.', ' ']);
        prop::collection::vec(characters, 1..5).prop_map(String::from_iter)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn g_11_no_two_people_share_a_place_in_the_index(
            people in prop::collection::vec((similar(), similar()), 1000)
        ) {
            let mut index = Index::default();
            let (mut known, mut keys, mut by_key) = (HashMap::new(), HashSet::new(), HashMap::new());
            for (issuer, subject) in people {
                let identity = Identity { subject: Claim::new(&subject), ..Identity::nameless(&issuer) };
                let Some(subject_text) = identity.subject.as_ref().map(|claim| claim.as_str().to_owned()) else {
                    continue;
                };
                let id = SessionId::random(StoreTag::random().unwrap()).unwrap();
                prop_assert!(keys.insert(id.key()), "two sessions have the same key");
                let user = UserHash::of(&identity).unwrap();
                let rank = Rank { user: Some(user), ends_at: Timestamp::MAX, key: id.key() };
                let session = stored(rank, identity);
                // In this test, a user may have only one session, so each login ends the earlier
                // session of the same user.
                let pushed = index.above_limit(user, 1, &[]);
                for key in &pushed {
                    prop_assert!(index.remove(key, by_key.remove(key)).is_some());
                }
                by_key.insert(id.key(), Arc::clone(&session));
                index.insert(session, None);
                let before = known.insert((issuer, subject_text), id.key());
                prop_assert_eq!(pushed, Vec::from_iter(before));
            }
        }
    }
}
