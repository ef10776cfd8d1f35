//! The type `Session`: the session of a signed-in browser, for the code that handles requests.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderValue;

use super::device::Device;
use super::index::Rank;
use super::limits::SessionLimits;
use super::record::{self, Contents};
use super::stored::Stored;
use super::{SessionKey, SessionState};
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::token::TokenSet;

/// The session of a signed-in browser: an immutable value. A refresh creates a new `Session` value.
///
/// A `Session` value can become out of date. Before a later use of a `Session` value, check with
/// [`Session::state`] that the value is still current. A look-up of a session decodes the `Session`
/// value from the cached record. The data that changes, such as the time of the last use, is in the
/// cached record. The `Session` value refers to the cached record.
#[derive(Debug)]
pub struct Session {
    stored: Arc<Stored>,
    contents: Contents,
    /// The limits at the time of the look-up.
    limits: SessionLimits,
    computed: OnceLock<Box<[OnceLock<ComputedFields>; REMEMBERED]>>,
}

/// The maximum number of apps for which a [`Session`] keeps computed fields.
const REMEMBERED: usize = 4;

/// The id of a set of computed fields, and the values of these fields.
type ComputedFields = (u64, Box<[Option<HeaderValue>]>);

impl Session {
    pub(super) fn new(rank: Rank, last_used: Timestamp, contents: Contents) -> Self {
        let stored = Arc::new(Stored::new(rank, last_used, &contents));
        Self::with(stored, contents)
    }

    /// Returns true if the session belongs to an imagined user ([`Session::imagined`]). Every real
    /// session ends at some time.
    pub(crate) fn is_imagined(&self) -> bool {
        self.stored.ends_at() == Timestamp::MAX
    }

    /// Decodes a session from its cached record. Returns `None` if the record has no contents.
    pub(super) fn of(stored: Arc<Stored>) -> Option<Self> {
        let contents = record::decode(stored.contents())?;
        Some(Self::with(stored, contents))
    }

    fn with(stored: Arc<Stored>, contents: Contents) -> Self {
        Self {
            stored,
            contents,
            limits: SessionLimits::default(),
            computed: OnceLock::new(),
        }
    }

    /// Returns the next version of the session, which has the new `tokens`. If `identity` is
    /// `Some`, the next version also has this new identity. A session with a new identity still
    /// counts toward the session limit of the user who signed in.
    pub(super) fn next(&self, tokens: TokenSet, identity: Option<Identity>) -> Self {
        let contents = Contents {
            version: self.contents.version.saturating_add(1),
            provider: self.contents.provider.clone(),
            identity: identity.unwrap_or_else(|| self.contents.identity.clone()),
            tokens,
            opened_at: self.contents.opened_at,
            sid: self.contents.sid.clone(),
            device: self.contents.device.clone(),
            newer: self.contents.newer.clone(),
        };
        let next = Self::new(*self.stored.rank(), self.stored.last_used(), contents);
        next.stored.note_use_of(&self.stored);
        next
    }

    /// Returns the limits at the time of the look-up.
    pub(super) fn limits(&self) -> &SessionLimits {
        &self.limits
    }

    /// Stores the limits at the time of the look-up.
    pub(super) fn set_limits(&mut self, limits: SessionLimits) {
        self.limits = limits;
    }

    /// Returns the cached record.
    pub(super) fn stored(&self) -> &Arc<Stored> {
        &self.stored
    }

    /// Returns the key under which the session is stored.
    pub(crate) fn key(&self) -> &SessionKey {
        self.stored.key()
    }

    /// Returns how many times the session has been replaced since the login.
    pub fn version(&self) -> u64 {
        self.contents.version
    }

    /// States whether this value of the session is current, is out of date, or has ended.
    pub(crate) fn state(&self) -> SessionState {
        self.stored.state()
    }

    /// Returns the configured name of the provider at which the user signed in.
    pub(crate) fn provider(&self) -> &str {
        &self.contents.provider
    }

    /// Returns the id of the session of the user at the provider (claim `sid` of the ID token).
    pub(crate) fn sid(&self) -> Option<&str> {
        self.contents.sid.as_deref()
    }

    /// Returns the device with which the user has signed in. `None` if an older version of the
    /// gateway has created the session.
    pub(crate) fn device(&self) -> Option<&Device> {
        self.contents.device.as_ref()
    }

    /// Returns the identity of the signed-in user.
    pub fn identity(&self) -> &Identity {
        &self.contents.identity
    }

    /// Returns the tokens of the grant.
    pub fn tokens(&self) -> &TokenSet {
        &self.contents.tokens
    }

    /// Returns the values of the computed fields with the id `id`. The values of computed fields
    /// depend only on the session. The values are computed once and remembered, but not for more
    /// than [`REMEMBERED`] ids.
    pub(crate) fn computed_fields(
        &self,
        id: u64,
        compute: impl FnOnce() -> Box<[Option<HeaderValue>]>,
    ) -> Cow<'_, [Option<HeaderValue>]> {
        let remembered = self.computed.get_or_init(Box::default);
        let known = remembered.iter().map_while(OnceLock::get);
        if let Some((_, values)) = known.into_iter().find(|(known, _)| *known == id) {
            return Cow::Borrowed(values);
        }
        let mut values = compute();
        for place in remembered.iter() {
            match place.set((id, values)) {
                Ok(()) => {
                    let values = place.get().map(|(_, values)| &**values);
                    return Cow::Borrowed(values.unwrap_or_default());
                }
                Err((_, unused)) => values = unused,
            }
        }
        Cow::Owned(values.into_vec())
    }

    /// Returns the time of the last use, as far as this replica knows it.
    pub(crate) fn last_used(&self) -> Timestamp {
        self.stored.last_used()
    }

    /// Returns the longest time since the login for which no request has used the session, as far as
    /// this replica knows it. A restart of the process forgets this time.
    pub(crate) fn longest_pause(&self) -> Duration {
        self.stored.longest_pause()
    }

    /// Returns the time at which the user has authenticated at the provider. Without an ID token,
    /// returns the time of the login. Returns `None` if the ID token does not contain the time.
    pub(crate) fn authenticated_at(&self) -> Option<Timestamp> {
        match self.tokens().authentication() {
            Some(authentication) => authentication.auth_time,
            None => Some(self.opened_at()),
        }
    }

    /// Returns true if the user has authenticated at the provider within the time `max_age`.
    pub(crate) fn is_authenticated_within(&self, max_age: Duration, now: Timestamp) -> bool {
        self.authenticated_at()
            .is_some_and(|at| at.plus(max_age) > now)
    }

    /// Returns the time of the login.
    pub(crate) fn opened_at(&self) -> Timestamp {
        self.contents.opened_at
    }

    /// Returns true if a refresh is due or the tokens have expired. The method `is_due` needs only
    /// one atomic load and one comparison.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.stored.is_due(now)
    }

    /// If a refresh is due, reserves the refresh for the caller and returns `true`. If several
    /// callers try to reserve the same refresh before the time `until`, only one of the callers
    /// gets `true`.
    #[must_use]
    pub(crate) fn claim_refresh(&self, now: Timestamp, until: Timestamp) -> bool {
        self.stored.claim_refresh(now, self.until(until))
    }

    /// Sets the time of the next refresh to the earlier of two times: `until`, and the expiry of
    /// the access token.
    pub(crate) fn postpone_refresh(&self, until: Timestamp) {
        self.stored.postpone_refresh(self.until(until));
    }

    /// Returns the earlier of two times: `until`, and the expiry of the access token. A refresh is
    /// never postponed beyond the expiry of the access token.
    fn until(&self, until: Timestamp) -> Timestamp {
        until.min(self.tokens().expires_at().unwrap_or(Timestamp::MAX))
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
