//! Leases. A lease is the right to refresh a session. Only one process has the lease of a session
//! at a time.
//!
//! Some providers accept a refresh token only one time. Without a lease, two processes that share a
//! store could both use the same refresh token. A lease does not prevent changes of the session in
//! the store. If two processes refresh a session despite the lease, [`Sessions::replace`] accepts
//! only one of the two new versions.

#![expect(
    clippy::disallowed_types,
    reason = "held for one look-up; only a refresh takes it"
)]

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::cache::ReadGuard;
use super::store::StoreError;
use super::{SessionKey, Sessions};
use crate::clock::Timestamp;

/// The right to refresh a session. When a `Lease` is dropped, the store releases the lease.
#[derive(Debug)]
#[must_use = "dropping a lease releases it"]
pub(crate) struct Lease(
    #[expect(
        dead_code,
        reason = "the store releases the lease when this is dropped"
    )]
    Box<dyn HeldLease>,
);

impl Lease {
    /// Creates a lease that the store of `held` has granted.
    pub(super) fn new(held: impl HeldLease + 'static) -> Self {
        Self(Box::new(held))
    }
}

/// The part of a [`Lease`] that the store creates. When the `HeldLease` is dropped, the store
/// releases the lease.
pub(super) trait HeldLease: fmt::Debug + Send {}

/// The answer of a store to a request for a lease.
#[derive(Debug)]
#[must_use]
pub(super) enum StoreLease {
    Granted(Lease),
    /// Another holder has the lease.
    Held(Holder),
}

impl Holder {
    /// Describes a lease whose release the store reports to the cache as a change of the session.
    pub(super) fn silent_until(until: Timestamp) -> Self {
        let released = Box::pin(std::future::pending());
        Self { until, released }
    }

    /// Describes a time during which the store gives no lease. The time `until` is the end of `time`.
    pub(super) fn for_time(time: Duration, until: Timestamp) -> Self {
        let released = Box::pin(async move { tokio::time::sleep(time).await });
        Self { until, released }
    }
}

/// Describes a lease that another holder has.
pub(super) struct Holder {
    /// The time at which the lease ends, if the holder does not release the lease earlier.
    until: Timestamp,
    /// A future that is ready when the lease is released.
    released: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holder")
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

/// The result of [`Sessions::lease`].
#[derive(Debug)]
#[must_use]
pub(crate) enum Leased<'a> {
    Granted(Lease),
    /// Another process has the lease and refreshes the session.
    Held(HeldElsewhere<'a>),
}

/// The process that holds the lease of a session, and a guard that detects changes of the session.
#[derive(Debug)]
pub(crate) struct HeldElsewhere<'a> {
    holder: Holder,
    session: ReadGuard<'a>,
}

impl HeldElsewhere<'_> {
    /// Returns the time at which the lease ends, unless its holder releases the lease earlier.
    pub(crate) fn until(&self) -> Timestamp {
        self.holder.until
    }

    /// Waits until the lease is released, or the session is replaced or ended.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn over(self) {
        tokio::select! {
            () = self.holder.released => {}
            () = self.session.changed() => {}
        }
    }
}

impl Sessions {
    /// Acquires the lease of a session until the time `until`, unless another holder has the lease.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the store may grant a lease that nobody uses. A lease that is not
    /// released ends at the time `until`.
    pub(crate) async fn lease(
        &self,
        key: &SessionKey,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Leased<'_>, StoreError> {
        // The guard is created before the store is called, so that the guard also detects a change
        // of the session during the call.
        let session = self.store.cache().begin_read(*key);
        Ok(match self.store.lease(*key, now, until).await? {
            StoreLease::Granted(lease) => Leased::Granted(lease),
            StoreLease::Held(holder) => Leased::Held(HeldElsewhere { holder, session }),
        })
    }
}

/// The leases of a store in this process.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    granted: HashMap<SessionKey, Granted>,
    /// The number of leases that the store has granted.
    count: u64,
}

#[derive(Debug)]
struct Granted {
    number: u64,
    until: Timestamp,
    /// When this sender is dropped, the tasks that wait for the end of the lease stop waiting.
    end: watch::Sender<()>,
}

/// A lease that the store of this process has granted.
#[derive(Debug)]
struct LocalLease {
    leases: Arc<Leases>,
    key: SessionKey,
    number: u64,
}

impl HeldLease for LocalLease {}

impl Leases {
    /// Grants the lease of a session until the time `until`, unless another holder has the lease.
    pub(super) fn lease(
        self: &Arc<Self>,
        key: SessionKey,
        now: Timestamp,
        until: Timestamp,
    ) -> StoreLease {
        let mut table = self.table();
        if let Some(granted) = table.granted.get(&key)
            && now < granted.until
        {
            let until = granted.until;
            let mut end = granted.end.subscribe();
            drop(table);
            // No code sends a value through this channel, so `changed` returns only when the sender
            // is dropped.
            let released = Box::pin(async move { drop(end.changed().await) });
            return StoreLease::Held(Holder { until, released });
        }
        let number = table.count;
        table.count = table.count.wrapping_add(1);
        let end = watch::Sender::new(());
        let granted = Granted { number, until, end };
        // If the table contains an old lease whose time is over, the new lease replaces the old
        // lease. The call of `insert` drops the old lease with its channel `end`, which wakes the
        // tasks that wait for the end of the old lease.
        table.granted.insert(key, granted);
        drop(table);
        let leases = Arc::clone(self);
        StoreLease::Granted(Lease::new(LocalLease {
            leases,
            key,
            number,
        }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LocalLease {
    fn drop(&mut self) {
        let mut table = self.leases.table();
        // After this lease has expired, the table may contain a new lease of another holder. An
        // entry is removed from the table of leases only if the entry has the same number as this
        // lease.
        let granted = table.granted.get(&self.key);
        if granted.is_some_and(|granted| granted.number == self.number) {
            table.granted.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::fixture::{Fixture, NOW, open, session, tokens};
    use crate::session::{EndReason, Replaced};

    fn after(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    async fn lease<'a>(sessions: &'a Sessions, key: &SessionKey, now: u64) -> Leased<'a> {
        let now = after(now);
        let until = now.plus(Duration::from_mins(1));
        let leased = sessions.lease(key, now, until).await;
        leased.unwrap()
    }

    fn granted(leased: Leased<'_>) -> Lease {
        match leased {
            Leased::Granted(lease) => lease,
            Leased::Held(held) => panic!("{held:?}"),
        }
    }

    fn held(leased: Leased<'_>) -> HeldElsewhere<'_> {
        match leased {
            Leased::Granted(lease) => panic!("{lease:?}"),
            Leased::Held(held) => held,
        }
    }

    /// Returns true if the future `wait` is ready.
    async fn is_over(wait: Pin<&mut impl Future<Output = ()>>) -> bool {
        tokio::select! {
            biased;
            () = wait => true,
            () = tokio::task::yield_now() => false,
        }
    }

    #[tokio::test]
    async fn g_12_one_holder_has_a_lease_until_it_releases_it_or_its_time_is_over() {
        let fixture = Fixture::disk();
        let [first, second] = fixture.start_two(NOW);
        let alice = open(&first, "alice", NOW).await.key();
        let bob = open(&first, "bob", NOW).await.key();
        let lease_of_first = granted(lease(&first, &alice, 0).await);
        let _other = granted(lease(&second, &bob, 0).await);
        for replica in [&first, &second] {
            let held = held(lease(replica, &alice, 59).await);
            assert_eq!(held.until(), after(60));
        }
        let mut wait = Box::pin(held(lease(&second, &alice, 1).await).over());
        assert!(!is_over(wait.as_mut()).await);
        drop(lease_of_first);
        wait.await;
        // A lease that nobody releases ends when its time is over.
        let late = granted(lease(&second, &alice, 2).await);
        let mut wait = Box::pin(held(lease(&first, &alice, 61).await).over());
        assert!(!is_over(wait.as_mut()).await);
        let next = granted(lease(&first, &alice, 62).await);
        wait.await;
        // Dropping an old lease must not release the lease of the next holder.
        drop(late);
        drop(held(lease(&second, &alice, 63).await));
        drop(next);
        drop(granted(lease(&second, &alice, 63).await));
    }

    #[tokio::test]
    async fn a_wait_for_a_lease_is_over_when_the_session_is_replaced_or_ended() {
        let fixture = Fixture::disk();
        let [first, second] = fixture.start_two(NOW);
        let (alice, bob) = (
            open(&first, "alice", NOW).await,
            open(&first, "bob", NOW).await,
        );
        let _lease = granted(lease(&first, &alice.key(), 0).await);
        let mut wait = Box::pin(held(lease(&second, &alice.key(), 0).await).over());
        first.end(&bob.key(), EndReason::SignedOut).await.unwrap();
        assert!(!is_over(wait.as_mut()).await);
        let old = session(&first, &alice).await;
        let replaced = first.replace(&old, tokens("token-1"), None).await;
        assert!(matches!(replaced, Ok(Replaced::Stored(_))));
        wait.await;
        let wait = held(lease(&second, &alice.key(), 0).await).over();
        first.end(&alice.key(), EndReason::SignedOut).await.unwrap();
        wait.await;
    }
}
