//! Leases of sessions. The clock of the server decides when a lease ends, and nobody renews a lease.
//!
//! A server that takes over after a failover can lack a lease. A replica therefore takes its leases again after each
//! new connection. The replicas have some time for this, during which no replica gets another lease
//! ([`super::arrival`]).

#![expect(
    clippy::disallowed_types,
    reason = "a lock for refreshes; no request with a cached session takes it"
)]

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Cmd;
use tokio::runtime::Handle;

use super::Shared;
use super::calls::millis;
use super::link::Failure;
use super::scripts::{LEASE, Names, RELEASE};
use crate::clock::Timestamp;
use crate::secret::random;
use crate::session::lease::{HeldLease, Holder, Lease, StoreLease};
use crate::session::{SessionKey, StoreError};

/// The token of a lease, which identifies its holder: random bytes.
pub(super) type Token = [u8; 16];

/// The leases that this replica has.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<HashMap<Token, Release>>);

/// The data that a release of a lease needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Release {
    pub(super) key: SessionKey,
    pub(super) token: Token,
    /// The end of the lease. Afterwards, no release is necessary.
    pub(super) until: Timestamp,
}

/// Whether a replica asks for a lease for the first time, or takes a lease again that it has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Asking {
    First,
    Again,
}

impl Leases {
    fn all(&self) -> MutexGuard<'_, HashMap<Token, Release>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the commands that take all leases again.
    pub(super) fn commands(&self, names: &Names, now: Timestamp) -> Vec<Cmd> {
        let all = self.all();
        let current = all.values().filter(|lease| now < lease.until);
        current
            .map(|lease| lease.acquisition(names, now, Asking::Again))
            .collect()
    }
}

impl Release {
    fn acquisition(&self, names: &Names, now: Timestamp, asking: Asking) -> Cmd {
        let duration = self.until.since(now).max(Duration::from_millis(1));
        let lease = names.lease(self.key.as_bytes());
        let mut command = names.call(LEASE, [lease, names.time_to_repeat()]);
        command
            .arg(self.token.as_slice())
            .arg(millis(duration))
            .arg(u8::from(asking == Asking::Again));
        command
    }

    /// Returns the command that releases the lease.
    pub(super) fn command(&self, names: &Names) -> Cmd {
        let mut command = names.call(RELEASE, [names.lease(self.key.as_bytes())]);
        command
            .arg(self.token.as_slice())
            .arg(self.key.as_bytes().as_slice());
        command
    }
}

/// A lease of this replica.
struct RedisLease {
    shared: Arc<Shared>,
    runtime: Handle,
    release: Release,
    /// False if the server has certainly not given the lease to this replica.
    may_be_held: bool,
}

impl fmt::Debug for RedisLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLease")
            .field("key", &self.release.key.log_prefix())
            .finish_non_exhaustive()
    }
}

impl HeldLease for RedisLease {}

impl Drop for RedisLease {
    fn drop(&mut self) {
        self.shared.leases.all().remove(&self.release.token);
        if !self.may_be_held {
            return;
        }
        let (shared, release) = (Arc::clone(&self.shared), self.release);
        self.runtime.spawn(async move {
            let command = release.command(&shared.names);
            if shared.send::<i64>(&command).await.is_err() {
                shared.pending.release(release);
            }
        });
    }
}

impl Shared {
    /// Acquires the lease of a session until the time `until`.
    pub(super) async fn lease(
        self: Arc<Self>,
        runtime: Handle,
        key: SessionKey,
        (now, until): (Timestamp, Timestamp),
    ) -> Result<StoreLease, StoreError> {
        let token: Token = random().map_err(|error| StoreError::Refused(Arc::new(error)))?;
        let release = Release { key, token, until };
        let command = release.acquisition(&self.names, now, Asking::First);
        // Without a connection, the server does not get the command, so nothing has to be released.
        let connection = self.connection().await?;
        // If the answer is lost, the server may have given the lease. The drop of this value then
        // releases the lease.
        let mut lease = RedisLease {
            shared: Arc::clone(&self),
            runtime,
            release,
            may_be_held: true,
        };
        let answer = self.send_on(connection, &command).await;
        if let Err(Failure {
            is_answered: true, ..
        }) = answer
        {
            lease.may_be_held = false;
        }
        let (left, is_held): (i64, i64) = answer.map_err(|failure| failure.error)?;
        let Ok(left) = u64::try_from(left) else {
            // A negative number means that the server has given the lease to this replica.
            self.leases.all().insert(token, release);
            return Ok(StoreLease::Granted(Lease::new(lease)));
        };
        lease.may_be_held = false;
        // A lease that ends in this millisecond must not be asked for in a busy loop.
        let left = Duration::from_millis(left.max(1));
        Ok(StoreLease::Held(if is_held == 0 {
            // The replicas still bring back their changes.
            Holder::for_time(left, now.plus(left))
        } else {
            Holder::silent_until(now.plus(left))
        }))
    }
}
