//! Leases of sessions. The clock of the server decides when a lease ends, and nobody renews a lease.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::Shared;
use super::pending::Release;
use super::scripts::LEASE;
use crate::clock::Timestamp;
use crate::secret::random;
use crate::session::lease::{HeldLease, Holder, Lease, StoreLease};
use crate::session::{SessionKey, StoreError};

/// The token of a lease, which identifies its holder: random bytes.
pub(super) type Token = [u8; 16];

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
        if !self.may_be_held {
            return;
        }
        let (shared, release) = (Arc::clone(&self.shared), self.release);
        self.runtime.spawn(async move {
            let command = shared.release_command(&release);
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
        let duration = until.since(now).max(Duration::from_millis(1));
        let mut command = self.names.call(LEASE);
        command
            .arg(key.as_bytes().as_slice())
            .arg(token.as_slice())
            .arg(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        // If the answer is lost, the server may have given the lease. The drop of this value then
        // releases the lease.
        let mut lease = RedisLease {
            shared: Arc::clone(&self),
            runtime,
            release: Release { key, token, until },
            may_be_held: true,
        };
        let left: i64 = self.send(&command).await?;
        Ok(match u64::try_from(left) {
            // A negative number means that the server has given the lease to this replica.
            Err(_granted) => StoreLease::Granted(Lease::new(lease)),
            Ok(left) => {
                lease.may_be_held = false;
                // A lease that ends in this millisecond must not be asked for in a busy loop.
                let left = Duration::from_millis(left.max(1));
                StoreLease::Held(Holder::silent_until(now.plus(left)))
            }
        })
    }
}
