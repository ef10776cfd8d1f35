//! The limits of sessions: the idle time, the lifetime, and the number of sessions of a user. A
//! reload changes the limits of running sessions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::stored::Stored;
use super::{EndReason, Session, record};
use crate::clock::Timestamp;

/// The longest time between two look-ups of a session that is in use, in milliseconds. Between two look-ups, a connection
/// uses the session that it remembers. The order of evictions does not depend on this time, because each use also reads
/// the cache, at most once per second.
const LONGEST_WITHOUT_LOOK_UP: u64 = 30_000;

/// The longest time between the use of a session and the report of this use to the store, in
/// milliseconds.
const LONGEST_UNWRITTEN: u64 = 60_000;

/// The limits of the sessions of one provider. Each limit is shorter than the limit of all sessions.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ProviderLimits {
    /// A session ends if no request uses the session for this time. `None` means that the limit of
    /// all sessions applies.
    pub idle: Option<Duration>,
    /// A session ends when this time has passed since its login. `None` means that the limit of all
    /// sessions applies.
    pub absolute: Option<Duration>,
}

/// The limits of the providers that have limits of their own, by the configured names.
pub type LimitsOfProviders = BTreeMap<Box<str>, ProviderLimits>;

/// The limits of all sessions. All threads read these limits, and only a reload writes them.
#[derive(Debug)]
pub(super) struct Limits {
    /// The idle time in milliseconds.
    idle: AtomicU64,
    /// The lifetime in milliseconds.
    absolute: AtomicU64,
    /// The shortest idle time of a provider in milliseconds.
    shortest_idle: AtomicU64,
    /// The maximum number of sessions of a user.
    per_person: AtomicUsize,
    /// `None` if no provider has limits of its own.
    of_providers: ArcSwapOption<LimitsOfProviders>,
    /// The number of changes of the limits, counted from one.
    generation: AtomicU64,
}

/// The limits of one session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SessionLimits {
    idle: Duration,
    ends_at: Timestamp,
    /// The generation of [`Limits`] from which these limits come.
    generation: u64,
}

impl SessionLimits {
    /// Returns the time at which the session ends if no request uses the session.
    pub(super) fn deadline(&self, last_used: Timestamp) -> Timestamp {
        last_used.plus(self.idle).min(self.ends_at)
    }

    /// Returns the time at which the session ends at the latest.
    pub(super) fn ends_at(&self) -> Timestamp {
        self.ends_at
    }

    /// Returns the reason for the end of the session, if the session has passed a deadline.
    pub(super) fn expired(&self, last_used: Timestamp, now: Timestamp) -> Option<EndReason> {
        if self.ends_at <= now {
            Some(EndReason::Absolute)
        } else if self.deadline(last_used) <= now {
            Some(EndReason::Idle)
        } else {
            None
        }
    }
}

impl Limits {
    pub(super) fn new(
        idle: Duration,
        absolute: Duration,
        per_person: usize,
        of_providers: LimitsOfProviders,
    ) -> Arc<Self> {
        let limits = Self {
            idle: AtomicU64::new(0),
            absolute: AtomicU64::new(0),
            shortest_idle: AtomicU64::new(0),
            per_person: AtomicUsize::new(0),
            of_providers: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
        };
        limits.set((idle, absolute), per_person, of_providers);
        Arc::new(limits)
    }

    pub(super) fn set(
        &self,
        (idle, absolute): (Duration, Duration),
        per_person: usize,
        of_providers: LimitsOfProviders,
    ) {
        let own = of_providers.values().filter_map(|limits| limits.idle);
        let shortest = own.fold(idle, Duration::min);
        self.idle.store(millis(idle), Ordering::Relaxed);
        self.absolute.store(millis(absolute), Ordering::Relaxed);
        self.shortest_idle
            .store(millis(shortest), Ordering::Relaxed);
        self.per_person.store(per_person, Ordering::Relaxed);
        let of_providers = (!of_providers.is_empty()).then(|| Arc::new(of_providers));
        self.of_providers.store(of_providers);
        // A thread that sees the new generation also sees the new limits.
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(super) fn per_person(&self) -> usize {
        self.per_person.load(Ordering::Relaxed)
    }

    /// Returns the idle time of the sessions of all providers without limits of their own.
    pub(super) fn idle(&self) -> Duration {
        Duration::from_millis(self.idle.load(Ordering::Relaxed))
    }

    /// Returns the longest lifetime of a session.
    pub(super) fn absolute(&self) -> Duration {
        Duration::from_millis(self.absolute.load(Ordering::Relaxed))
    }

    /// Returns the lifetime of the sessions of a provider.
    pub(super) fn absolute_of(&self, provider: &str) -> Duration {
        let (own, absolute) = (self.of_provider(provider).absolute, self.absolute());
        own.map_or(absolute, |own| own.min(absolute))
    }

    fn of_provider(&self, provider: &str) -> ProviderLimits {
        let of_providers = self.of_providers.load();
        let own = of_providers.as_ref().and_then(|all| all.get(provider));
        own.copied().unwrap_or_default()
    }

    /// Returns true if at least one provider has limits of its own.
    pub(super) fn differ_by_provider(&self) -> bool {
        self.of_providers.load().is_some()
    }

    /// Returns the limits of a session.
    pub(super) fn of(&self, session: &Session) -> SessionLimits {
        let times = (session.opened_at(), session.stored().ends_at());
        self.of_login(session.provider(), times)
    }

    /// Returns the limits of a session of `provider`. The session was opened at `opened_at`, and its
    /// record ends at `ends_at`.
    pub(super) fn of_login(
        &self,
        provider: &str,
        (opened_at, ends_at): (Timestamp, Timestamp),
    ) -> SessionLimits {
        // The generation is read first, so that limits that change meanwhile belong to an old
        // generation.
        let generation = self.generation.load(Ordering::Acquire);
        let idle = self.idle();
        let own = self.of_provider(provider);
        SessionLimits {
            idle: own.idle.map_or(idle, |own| own.min(idle)),
            ends_at: match own.absolute {
                Some(absolute) => opened_at.plus(absolute).min(ends_at),
                None => ends_at,
            },
            generation,
        }
    }

    /// Returns true if no reload has changed the limits since `limits` were computed.
    pub(super) fn are_current(&self, limits: &SessionLimits) -> bool {
        self.generation.load(Ordering::Relaxed) == limits.generation
    }

    /// Returns the reason for the end of the session with the record `stored`, if the session has
    /// passed a deadline. A record without contents does not name its provider, so only the limits
    /// of all sessions apply.
    pub(super) fn expired(&self, stored: &Stored, now: Timestamp) -> Option<EndReason> {
        let contents = stored.contents();
        let provider = self
            .differ_by_provider()
            .then(|| record::provider(contents));
        let own = provider.flatten().map(|name| self.of_provider(name));
        let ProviderLimits { idle, absolute } = own.unwrap_or_default();
        let of_login = absolute.and_then(|absolute| {
            let opened_at = record::decode(contents)?.opened_at;
            Some(opened_at.plus(absolute))
        });
        let limits = SessionLimits {
            idle: idle.unwrap_or(Duration::MAX).min(self.idle()),
            ends_at: of_login.unwrap_or(Timestamp::MAX).min(stored.ends_at()),
            generation: 0,
        };
        limits.expired(stored.last_used(), now)
    }

    /// Returns the time for which a session may be used without another look-up.
    pub(super) fn without_look_up(&self) -> Duration {
        Duration::from_millis(self.tenth().min(LONGEST_WITHOUT_LOOK_UP))
    }

    /// Returns the length of the report interval in milliseconds, which is at least one. In each
    /// interval, a replica reports only the first use of a session to the store.
    pub(super) fn report_interval(&self) -> u64 {
        self.tenth().clamp(1, LONGEST_UNWRITTEN)
    }

    fn tenth(&self) -> u64 {
        self.shortest_idle.load(Ordering::Relaxed) / 10
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
