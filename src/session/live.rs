//! One signed-in browser.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use super::SessionKey;
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::token::TokenSet;

/// What one session costs beside the bytes that it holds, as measured with 262,144 of them: its own
/// fields and the allocator's share (500), the cache's entry (400), and the index (250).
const OVERHEAD: usize = 1150;

/// One signed-in browser: an immutable value that is replaced whole when its tokens are renewed.
///
/// Whoever holds one while time passes asks [`Session::state`] whether it still stands.
#[derive(Debug)]
pub struct Session {
    key: SessionKey,
    version: u64,
    provider: Box<str>,
    identity: Identity,
    tokens: TokenSet,
    opened_at: Timestamp,
    ends_at: Timestamp,
    last_used: AtomicU64,
    next_refresh: AtomicU64,
    state: AtomicU8,
}

/// Whether a value that somebody holds is still the session's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// It is.
    Live,
    /// Another value stands for the session, or it is on disk only: it has to be looked up again.
    Superseded,
    /// The session is over.
    Ended,
}

/// What a session is made of at its login, or when it is read from disk.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) key: SessionKey,
    pub(super) version: u64,
    pub(super) provider: Box<str>,
    pub(super) identity: Identity,
    pub(super) tokens: TokenSet,
    pub(super) opened_at: Timestamp,
    pub(super) ends_at: Timestamp,
    pub(super) last_used: Timestamp,
}

impl Session {
    pub(super) fn new(parts: Parts) -> Self {
        let life = parts.tokens.life();
        let next_refresh = life.refresh_at.or(life.expires_at);
        let next_refresh = next_refresh.unwrap_or(Timestamp::MAX);
        Self {
            key: parts.key,
            version: parts.version,
            provider: parts.provider,
            identity: parts.identity,
            tokens: parts.tokens,
            opened_at: parts.opened_at,
            ends_at: parts.ends_at,
            last_used: AtomicU64::new(parts.last_used.as_millis()),
            next_refresh: AtomicU64::new(next_refresh.as_millis()),
            state: AtomicU8::new(LIVE),
        }
    }

    /// The next version: other tokens, another identity if one is given, all else as it is.
    pub(super) fn next(&self, tokens: TokenSet, identity: Option<Identity>) -> Self {
        Self::new(Parts {
            key: self.key,
            version: self.version.saturating_add(1),
            provider: self.provider.clone(),
            identity: identity.unwrap_or_else(|| self.identity.clone()),
            tokens,
            opened_at: self.opened_at,
            ends_at: self.ends_at,
            last_used: self.last_used(),
        })
    }

    /// Under which it is kept.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// How often it was replaced; 0 at the login.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether this value still stands.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            LIVE => State::Live,
            SUPERSEDED => State::Superseded,
            _ => State::Ended,
        }
    }

    pub(super) fn supersede(&self) {
        // What has ended stays so.
        self.state.fetch_max(SUPERSEDED, Ordering::Release);
    }

    pub(super) fn end(&self) {
        self.state.store(ENDED, Ordering::Release);
    }

    /// The configured name of the provider that signed this person in.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// Who is signed in.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The tokens of the grant.
    pub fn tokens(&self) -> &TokenSet {
        &self.tokens
    }

    /// When it was opened.
    pub fn opened_at(&self) -> Timestamp {
        self.opened_at
    }

    /// When it ends, whatever its use.
    pub fn ends_at(&self) -> Timestamp {
        self.ends_at
    }

    /// Whether the tokens want a look: they should be renewed ahead of their end, or it has come.
    /// One load and a comparison.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.next_refresh.load(Ordering::Relaxed) <= now.as_millis()
    }

    /// Takes the renewal that is due for oneself: true for one caller alone, for whom nobody else
    /// takes it before `until`.
    #[must_use]
    pub fn claim_refresh(&self, now: Timestamp, until: Timestamp) -> bool {
        let due = self.next_refresh.load(Ordering::Relaxed);
        let order = Ordering::Relaxed;
        due <= now.as_millis()
            && self
                .next_refresh
                .compare_exchange(due, self.until(until), order, order)
                .is_ok()
    }

    /// Lets nobody renew the tokens ahead of their end before `until`.
    pub fn postpone_refresh(&self, until: Timestamp) {
        let until = self.until(until);
        self.next_refresh.store(until, Ordering::Relaxed);
    }

    /// Not beyond the end of the access token: whatever was put off, that wants a look.
    fn until(&self, until: Timestamp) -> u64 {
        let end = self.tokens.expires_at().unwrap_or(Timestamp::MAX);
        until.min(end).as_millis()
    }

    pub(super) fn last_used(&self) -> Timestamp {
        Timestamp::from_millis(self.last_used.load(Ordering::Relaxed))
    }

    /// Notes a use. A write a second is enough for an idle deadline, and keeps the line shared
    /// between cores. Gives back the use before, when this one was written.
    pub(super) fn note_use(&self, now: Timestamp) -> Option<Timestamp> {
        let before = self.last_used();
        if now.since(before) < Duration::from_secs(1) {
            return None;
        }
        self.last_used.store(now.as_millis(), Ordering::Relaxed);
        Some(before)
    }

    /// Takes over the last use of another value of the same session, if that was later.
    pub(super) fn note_use_of(&self, other: &Self) {
        self.note_use_at(other.last_used());
    }

    /// Takes over a last use that is known, if that was later.
    pub(super) fn note_use_at(&self, used: Timestamp) {
        self.last_used
            .fetch_max(used.as_millis(), Ordering::Relaxed);
    }

    pub(super) fn deadline(&self, idle: Duration) -> Timestamp {
        self.last_used().plus(idle).min(self.ends_at)
    }

    pub(super) fn weight(&self) -> usize {
        let parts = [
            self.identity.weight(),
            self.tokens.weight(),
            self.provider.len(),
        ];
        parts.into_iter().fold(OVERHEAD, usize::saturating_add)
    }
}

const LIVE: u8 = 0;
const SUPERSEDED: u8 = 1;
const ENDED: u8 = 2;
