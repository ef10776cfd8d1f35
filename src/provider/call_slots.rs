//! Limits the number of concurrent calls to one provider.
//!
//! If a provider is slow, only the requests that need a call to this provider have to wait. Some
//! slots are reserved for logins, because the user of a login sees an empty page until the call
//! ends.
//!
//! Replicas that share a session store divide the slots: each call of a replica takes as many slots as
//! there are replicas.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::settings::GrantType;

/// One slot in five is reserved for logins.
const SLOTS_PER_RESERVED_ONE: u32 = 5;

/// The slots for the calls to one provider.
#[derive(Debug)]
pub(super) struct CallSlots {
    all: Slots,
    refreshes: Slots,
}

#[derive(Debug)]
struct Slots {
    number: u32,
    free: Semaphore,
}

impl Slots {
    fn new(number: u32) -> Self {
        let free = Semaphore::new(usize::try_from(number).unwrap_or(Semaphore::MAX_PERMITS));
        Self { number, free }
    }

    /// Takes the slots of one call. Every replica can always make one call.
    async fn take(&self, replicas: NonZeroU32) -> Result<SemaphorePermit<'_>, AcquireError> {
        let slots = replicas.get().min(self.number);
        self.free.acquire_many(slots).await
    }
}

/// The slots of one call to the provider. The slots become free when the `CallSlot` is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct CallSlot<'a> {
    _all: SemaphorePermit<'a>,
    _refreshes: Option<SemaphorePermit<'a>>,
}

impl CallSlots {
    pub(super) fn new(slots: NonZeroU32) -> Self {
        let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        let slots = slots.get().min(most);
        // If there is only one slot, the slot is not reserved for logins, because refreshes also
        // need the slot.
        let kept = slots
            .div_ceil(SLOTS_PER_RESERVED_ONE)
            .min(slots.saturating_sub(1));
        Self {
            all: Slots::new(slots),
            refreshes: Slots::new(slots.saturating_sub(kept)),
        }
    }

    /// Waits until this replica may make one more call, but at most for the duration `patience`.
    /// Returns `None` if no slot became free in time.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn take(
        &self,
        (grant, replicas): (GrantType, NonZeroU32),
        patience: Duration,
    ) -> Option<CallSlot<'_>> {
        let taking = async {
            // A refresh first waits for a free slot for refreshes. A waiting refresh does not
            // occupy a slot that a login could use.
            let refreshes = match grant {
                GrantType::AuthorizationCode => None,
                GrantType::RefreshToken => Some(self.refreshes.take(replicas).await?),
            };
            Ok::<_, AcquireError>(CallSlot {
                _all: self.all.take(replicas).await?,
                _refreshes: refreshes,
            })
        };
        // The semaphores are never closed, so the only possible failure is the timeout.
        timeout(patience, taking).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn d_26_refreshes_leave_call_slots_for_logins() {
        for (all, refreshes) in [(1, 1), (2, 1), (5, 4), (6, 4), (64, 51)] {
            let alone = NonZeroU32::MIN;
            let slots = CallSlots::new(NonZeroU32::new(all).unwrap());
            let mut held = Vec::new();
            let second = Duration::from_secs(1);
            for grant in [GrantType::RefreshToken, GrantType::AuthorizationCode] {
                while let Some(slot) = slots.take((grant, alone), second).await {
                    held.push(slot);
                }
                if grant == GrantType::RefreshToken {
                    assert_eq!(held.len(), refreshes, "of {all}");
                }
            }
            assert_eq!(held.len(), usize::try_from(all).unwrap());
            held.clear();
            let again = slots.take((GrantType::RefreshToken, alone), second).await;
            assert!(again.is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn d_26_replicas_divide_the_concurrent_calls() {
        for (all, replicas, calls, refreshes) in [
            (64, 1, 64, 51),
            (64, 3, 21, 17),
            (64, 10, 6, 5),
            (4, 3, 1, 1),
            (1, 9, 1, 1),
        ] {
            let slots = CallSlots::new(NonZeroU32::new(all).unwrap());
            let replicas = NonZeroU32::new(replicas).unwrap();
            let second = Duration::from_secs(1);
            for (grant, expected) in [
                (GrantType::RefreshToken, refreshes),
                (GrantType::AuthorizationCode, calls),
            ] {
                let mut held = Vec::new();
                while let Some(slot) = slots.take((grant, replicas), second).await {
                    held.push(slot);
                }
                assert_eq!(held.len(), expected, "{all} {replicas} {grant:?}");
            }
        }
    }
}
