//! Groups of sessions: all sessions of a user, or all sessions that belong to one session of a user
//! at the provider.
//!
//! [`Sessions::end_all`] ends a group in one commit. [`Sessions::list`] returns the sessions of a
//! group. The store finds both groups without a search through all sessions.
//!
//! The store remembers for one hour which groups have ended, and when. A login that began before
//! the end of a group cannot open a session of this group. A local store remembers the ended groups
//! and the used notices in memory, so a restart forgets them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{self, SHA256};

use super::index::UserHash;
use super::live::Session;
use super::marks::{Mark, Marks, Once};
use super::named::NamedHash;
use super::record::Contents;
use super::store::Opening;
use super::stored::Stored;
use super::{EndReason, SessionKey, Sessions, StoreError};
use crate::clock::Timestamp;

/// The time for which the store remembers the end of a group. The setting `login.timeout_secs`
/// accepts at most one hour, so no login takes longer.
pub(super) const REMEMBERED: Duration = Duration::from_hours(1);

/// The maximum number of ended groups that the store remembers. If there are more ended groups, the
/// store forgets the group that ended first.
const MAX_REMEMBERED: usize = 100_000;

/// Selects a group of sessions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SessionsOf<'a> {
    /// The sessions of all users.
    Everyone,
    /// The sessions with these keys.
    Keys(&'a [SessionKey]),
    /// The sessions of one user.
    User {
        /// The issuer of the identity.
        issuer: &'a str,
        /// The subject of the identity. The setting `identity.subject` can name another claim than
        /// `sub`.
        subject: &'a str,
    },
    /// The sessions whose logins belong to one session of the user at the provider.
    ProviderSession {
        /// The issuer of the identity.
        issuer: &'a str,
        /// The session id of the provider: the claim `sid` of the ID token (OpenID Connect
        /// Back-Channel Logout 1.0 section 2.1).
        sid: &'a str,
        /// The user of the session at the provider, if known. The group then also contains the
        /// sessions of this user whose login got no `sid`. Such a session may belong to the session
        /// at the provider.
        subject: Option<&'a str>,
    },
}

/// A group of sessions, as a store finds it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Group {
    /// All sessions of the store.
    All,
    /// The sessions with these keys.
    Keys(Vec<SessionKey>),
    /// The sessions that an app names. The store only remembers the end of such a group, and finds
    /// no session of the group.
    Named(NamedHash),
    /// The sessions whose login has created the session of the provider with this hash.
    ProviderSession(ProviderSessionHash),
    /// The sessions of this user.
    User(UserHash),
    /// The sessions of this user whose login got no `sid` from the provider.
    UserWithoutSid(UserHash),
}

impl SessionsOf<'_> {
    /// Returns the groups of the store that contain these sessions. A session is in only one of the
    /// groups.
    fn groups(&self) -> Vec<Group> {
        match self {
            Self::Everyone => vec![Group::All],
            Self::Keys(keys) => vec![Group::Keys(keys.to_vec())],
            Self::User { issuer, subject } => {
                vec![Group::User(UserHash::of_subject(issuer, subject))]
            }
            Self::ProviderSession {
                issuer,
                sid,
                subject,
            } => {
                let of_sid = Group::ProviderSession(ProviderSessionHash::of(issuer, sid));
                let user = subject.map(|subject| UserHash::of_subject(issuer, subject));
                let without_sid = user.map(Group::UserWithoutSid);
                [of_sid].into_iter().chain(without_sid).collect()
            }
        }
    }
}

impl Group {
    /// Returns the groups of a session, except the groups of the kinds [`Group::Keys`] and
    /// [`Group::Named`]. `provider_session` is the session at the provider to which the session
    /// belongs.
    pub(super) fn of(
        session: &Stored,
        provider_session: Option<ProviderSessionHash>,
    ) -> impl Iterator<Item = Self> + use<> {
        let user = session.user();
        let of_sid = match provider_session {
            Some(provider_session) => Some(Self::ProviderSession(provider_session)),
            None => user.map(Self::UserWithoutSid),
        };
        let groups = [Some(Self::All), user.map(Self::User), of_sid];
        groups.into_iter().flatten()
    }
}

impl Opening {
    /// Returns the groups of the new session `session`, except [`Group::Keys`].
    pub(super) fn groups(&self, session: &Stored) -> impl Iterator<Item = Group> {
        let named = self.named.iter().copied().map(Group::Named);
        Group::of(session, self.provider_session).chain(named)
    }
}

/// Identifies a session of a user at the provider by the first half of the SHA-256 digest of the
/// issuer and the `sid`. Every process computes the same hash for the same session.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct ProviderSessionHash([u8; 16]);

impl ProviderSessionHash {
    fn of(issuer: &str, sid: &str) -> Self {
        let digest = digest_of(issuer, sid);
        let mut hash = [0; 16];
        for (byte, of_digest) in hash.iter_mut().zip(digest.as_ref()) {
            *byte = *of_digest;
        }
        Self(hash)
    }

    /// Returns the bytes of the hash.
    pub(super) fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// Creates a hash from the bytes that [`ProviderSessionHash::to_bytes`] returned.
    pub(super) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the hash for a session with these contents. Returns `None` if the provider has sent
    /// no `sid`.
    pub(super) fn of_contents(contents: &Contents) -> Option<Self> {
        let sid = contents.sid.as_ref()?;
        Some(Self::of(&contents.identity.issuer, sid))
    }
}

/// Returns the SHA-256 digest of two texts. The hashed bytes contain the length of the first text,
/// so that no other pair of texts has the same bytes.
pub(super) fn digest_of(first: &str, second: &str) -> digest::Digest {
    let mut hash = digest::Context::new(&SHA256);
    let length = u64::try_from(first.len()).unwrap_or(u64::MAX);
    hash.update(&length.to_be_bytes());
    hash.update(first.as_bytes());
    hash.update(second.as_bytes());
    hash.finish()
}

/// A message that asks for the end of sessions, such as a logout token. A notice has an effect only
/// one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogoutNotice {
    /// The hash that identifies the notice.
    pub(crate) mark: Mark,
    /// The time until which the store recognizes the same notice. The caller must refuse the notice
    /// after this time.
    pub(crate) until: Timestamp,
}

/// The order to end groups of sessions.
#[derive(Debug)]
pub(super) struct EndAll {
    pub(super) groups: Vec<Group>,
    pub(super) why: EndReason,
    pub(super) now: Timestamp,
    /// The notice that asks for the end of the groups. `None` if nobody can repeat the order.
    pub(super) notice: Option<LogoutNotice>,
    /// True if the order completes the effect of the notice. The store then marks the notice as
    /// used.
    pub(super) uses_notice: bool,
}

/// The result of [`Sessions::end_all`].
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum EndedAll {
    /// These sessions have ended. The list is empty if the group had no session.
    Ended(Vec<SessionKey>),
    /// The same notice has already had its effect, so nothing has changed.
    Repeated,
}

impl Sessions {
    /// Ends all sessions of a group in one commit. The same commit marks `notice` as used. A login
    /// that began before `now` cannot open a session of this group, unless the group is
    /// [`SessionsOf::Keys`].
    ///
    /// # Errors
    ///
    /// [`StoreError`]: no session has ended, and the notice is not marked as used.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the caller does not know whether the sessions have ended.
    pub(crate) async fn end_all(
        &self,
        of: SessionsOf<'_>,
        why: EndReason,
        (notice, now): (Option<LogoutNotice>, Timestamp),
    ) -> Result<EndedAll, StoreError> {
        self.store
            .end_all(EndAll {
                groups: of.groups(),
                why,
                now,
                notice,
                uses_notice: true,
            })
            .await
    }

    /// Returns the keys of the sessions of a group. The order of the keys has no meaning.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn keys_of(&self, of: SessionsOf<'_>) -> Result<Vec<SessionKey>, StoreError> {
        let mut keys = Vec::new();
        for group in of.groups() {
            keys.extend(self.store.list(group).await?);
        }
        Ok(keys)
    }

    /// Returns the sessions of a group, without sessions that are damaged. The function does not put
    /// the sessions into the cache and does not count as a use of the sessions. The result can
    /// contain sessions that have passed a deadline, and does not contain sessions that end during
    /// the call. For [`SessionsOf::Everyone`], [`Sessions::keys_of`] needs much less memory.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn list(&self, of: SessionsOf<'_>) -> Result<Vec<Arc<Session>>, StoreError> {
        let mut sessions = Vec::new();
        for key in self.keys_of(of).await? {
            match self.peek(key).await {
                // The other sessions must stay visible to their user.
                Err(StoreError::Damaged) => {}
                read => sessions.extend(read?),
            }
        }
        Ok(sessions)
    }

    /// Reads a session from the store. The function does not put the session into the cache and
    /// does not count as a use of the session.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn peek(&self, key: SessionKey) -> Result<Option<Arc<Session>>, StoreError> {
        let stored = self.store.get(key).await?;
        let session = stored.map(|stored| self.session_of(stored).ok_or(StoreError::Damaged));
        Ok(session.transpose()?.map(Arc::new))
    }
}

/// Finds the sessions that belong to a session of the provider. The index contains only sessions
/// whose provider has sent a `sid`. Such a session needs about 120 bytes of this index.
#[derive(Debug, Default)]
pub(super) struct ProviderSessions {
    sets: BTreeSet<(ProviderSessionHash, SessionKey)>,
    of: HashMap<SessionKey, ProviderSessionHash>,
}

impl ProviderSessions {
    pub(super) fn insert(&mut self, key: SessionKey, of: ProviderSessionHash) {
        self.sets.insert((of, key));
        self.of.insert(key, of);
    }

    pub(super) fn remove(&mut self, key: &SessionKey) {
        if let Some(of) = self.of.remove(key) {
            self.sets.remove(&(of, *key));
        }
    }

    /// Returns the session at the provider to which the session belongs. Returns `None` if the login
    /// of the session got no `sid` from the provider.
    pub(super) fn get(&self, key: &SessionKey) -> Option<ProviderSessionHash> {
        self.of.get(key).copied()
    }

    pub(super) fn find(&self, of: ProviderSessionHash) -> Vec<SessionKey> {
        let all = self
            .sets
            .range((of, SessionKey::FIRST)..=(of, SessionKey::LAST));
        all.map(|(_, key)| *key).collect()
    }
}

/// The groups that have ended, and the notices that have had their effect.
#[derive(Debug, Default)]
pub(super) struct EndedGroups {
    notices: Marks,
    /// For each group, the time at which the group has ended.
    ended_at: HashMap<Group, Timestamp>,
    /// The ended groups in the order of their ends.
    order: VecDeque<(Timestamp, Group)>,
}

impl EndedGroups {
    /// Returns true if the notice has already had its effect.
    pub(super) fn knows(&mut self, notice: &LogoutNotice, now: Timestamp) -> bool {
        self.notices.is_marked(&notice.mark, now)
    }

    /// Notes that groups have ended.
    pub(super) fn note(&mut self, end: EndAll) {
        let now = end.now;
        if let Some(LogoutNotice { mark, until }) = end.notice
            && end.uses_notice
        {
            // The caller has checked that the notice is new.
            let _first: Once = self.notices.once(mark, now, until);
        }
        for group in end.groups {
            if !matches!(group, Group::Keys(_)) {
                self.note_group(group, now);
            }
        }
    }

    fn note_group(&mut self, group: Group, now: Timestamp) {
        while let Some((ended_at, _)) = self.order.front() {
            if self.order.len() < MAX_REMEMBERED && ended_at.plus(REMEMBERED) > now {
                break;
            }
            if let Some((ended_at, oldest)) = self.order.pop_front()
                && self.ended_at.get(&oldest) == Some(&ended_at)
            {
                self.ended_at.remove(&oldest);
            }
        }
        self.ended_at.insert(group.clone(), now);
        self.order.push_back((now, group));
    }

    /// Returns true if a group of the new session has ended after the start of the login.
    pub(super) fn have_ended(&self, session: &Stored, opening: &Opening) -> bool {
        opening.groups(session).any(|group| {
            let ended_at = self.ended_at.get(&group);
            ended_at.is_some_and(|ended_at| opening.begun_at < *ended_at)
        })
    }
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;
