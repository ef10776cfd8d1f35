//! Leases: the right to refresh a session, which one process has at a time.
//!
//! Two processes that share a store would otherwise both use a refresh token that the provider accepts
//! once. A lease only saves the second call: a holder that comes too late loses nothing, because
//! [`Sessions::replace`] accepts the next version of a session only once.

#![expect(
    clippy::disallowed_types,
    reason = "held for one look-up; only a refresh takes it"
)]

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::cache::ReadGuard;
use super::store::StoreError;
use super::{SessionKey, Sessions};
use crate::clock::Timestamp;

/// The right to refresh a session. Dropping it releases the lease.
#[derive(Debug)]
#[must_use = "dropping a lease releases it"]
pub(crate) struct Lease(
    #[expect(
        dead_code,
        reason = "the store releases the lease when this is dropped"
    )]
    Box<dyn HeldLease>,
);

/// A store's part of a lease: dropping it releases the lease.
pub(super) trait HeldLease: fmt::Debug + Send {}

/// The answer of a store that was asked for a lease.
#[derive(Debug)]
#[must_use]
pub(super) enum StoreLease {
    Granted(Lease),
    /// Somebody else has the lease.
    Held(Holder),
}

/// Somebody else's lease.
pub(super) struct Holder {
    /// The lease ends at this time at the latest.
    until: Timestamp,
    /// Completes when the lease is released.
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
    /// Somebody else refreshes the session.
    Held(HeldElsewhere<'a>),
}

/// A lease of somebody else, and what happens to the session meanwhile.
#[derive(Debug)]
pub(crate) struct HeldElsewhere<'a> {
    holder: Holder,
    session: ReadGuard<'a>,
}

impl HeldElsewhere<'_> {
    /// The time at which the lease ends, unless it is released before.
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
    /// Takes the right to refresh a session until a time, unless somebody else has it.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave a lease that nobody uses until its time is over.
    pub(crate) async fn lease(
        &self,
        key: &SessionKey,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Leased<'_>, StoreError> {
        // Before the store is asked, so that no change is missed.
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
    /// The number of leases that were granted so far.
    count: u64,
}

#[derive(Debug)]
struct Granted {
    number: u64,
    until: Timestamp,
    /// Whoever waits for the end of the lease learns of it when this is dropped.
    end: watch::Sender<()>,
}

/// A lease of this process's store.
#[derive(Debug)]
struct LocalLease {
    leases: Arc<Leases>,
    key: SessionKey,
    number: u64,
}

impl HeldLease for LocalLease {}

impl Leases {
    /// Grants the lease of a session until a time, unless somebody else has it.
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
            // It fails as soon as the sender is dropped, and nothing is ever sent.
            let released = Box::pin(async move { drop(end.changed().await) });
            return StoreLease::Held(Holder { until, released });
        }
        let number = table.count;
        table.count = table.count.wrapping_add(1);
        let end = watch::Sender::new(());
        let granted = Granted { number, until, end };
        // A lease whose time is over ends with this.
        table.granted.insert(key, granted);
        drop(table);
        let leases = Arc::clone(self);
        StoreLease::Granted(Lease(Box::new(LocalLease {
            leases,
            key,
            number,
        })))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LocalLease {
    fn drop(&mut self) {
        let mut table = self.leases.table();
        // Somebody else may have the lease by now.
        let granted = table.granted.get(&self.key);
        if granted.is_some_and(|granted| granted.number == self.number) {
            table.granted.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::session::kit::{Kit, NOW, open, session, tokens};
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

    /// Whether a wait ends without another event.
    async fn is_over(wait: Pin<&mut impl Future<Output = ()>>) -> bool {
        tokio::select! {
            biased;
            () = wait => true,
            () = tokio::task::yield_now() => false,
        }
    }

    #[tokio::test]
    async fn g_12_one_holder_has_a_lease_until_it_releases_it_or_its_time_is_over() {
        let kit = Kit::disk();
        let [first, second] = kit.start_two(NOW);
        let alice = open(&first, "alice", NOW).await.key();
        let bob = open(&first, "bob", NOW).await.key();
        let lease_of_first = granted(lease(&first, &alice, 0).await);
        let _other = granted(lease(&second, &bob, 0).await);
        for front in [&first, &second] {
            let held = held(lease(front, &alice, 59).await);
            assert_eq!(held.until(), after(60));
        }
        let mut wait = Box::pin(held(lease(&second, &alice, 1).await).over());
        assert!(!is_over(wait.as_mut()).await);
        drop(lease_of_first);
        wait.await;
        // The time of a lease that nobody releases runs out.
        let late = granted(lease(&second, &alice, 2).await);
        let mut wait = Box::pin(held(lease(&first, &alice, 61).await).over());
        assert!(!is_over(wait.as_mut()).await);
        let next = granted(lease(&first, &alice, 62).await);
        wait.await;
        // The late holder does not release the lease of the next one.
        drop(late);
        drop(held(lease(&second, &alice, 63).await));
        drop(next);
        drop(granted(lease(&second, &alice, 63).await));
    }

    #[tokio::test]
    async fn a_wait_for_a_lease_is_over_when_the_session_is_replaced_or_ended() {
        let kit = Kit::disk();
        let [first, second] = kit.start_two(NOW);
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
