//! Limits the number of concurrent calls to one provider.
//!
//! If a provider is slow, only the requests that need a call to this provider have to wait. Some
//! slots are reserved for logins, because the user of a login sees an empty page until the call
//! ends.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::settings::GrantType;

/// One slot in five is reserved for logins.
const SLOTS_PER_RESERVED_ONE: usize = 5;

/// The slots for the calls to one provider.
#[derive(Debug)]
pub(super) struct CallSlots {
    all: Semaphore,
    refreshes: Semaphore,
}

/// A slot for one call to the provider. The slot becomes free when the `CallSlot` is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct CallSlot<'a> {
    _all: SemaphorePermit<'a>,
    _refreshes: Option<SemaphorePermit<'a>>,
}

impl CallSlots {
    pub(super) fn new(slots: NonZeroU32) -> Self {
        let slots = usize::try_from(slots.get()).unwrap_or(usize::MAX);
        let slots = slots.min(Semaphore::MAX_PERMITS);
        // If there is only one slot, the slot is not reserved for logins, because refreshes also
        // need the slot.
        let kept = slots
            .div_ceil(SLOTS_PER_RESERVED_ONE)
            .min(slots.saturating_sub(1));
        Self {
            all: Semaphore::new(slots),
            refreshes: Semaphore::new(slots.saturating_sub(kept)),
        }
    }

    /// Waits until a slot is free, but at most for the duration `patience`. Returns `None` if no
    /// slot became free in time.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn take(&self, grant: GrantType, patience: Duration) -> Option<CallSlot<'_>> {
        let taking = async {
            // A refresh first waits for a free slot for refreshes. A waiting refresh does not
            // occupy a slot that a login could use.
            let refreshes = match grant {
                GrantType::AuthorizationCode => None,
                GrantType::RefreshToken => Some(self.refreshes.acquire().await?),
            };
            Ok::<_, tokio::sync::AcquireError>(CallSlot {
                _all: self.all.acquire().await?,
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
            let slots = CallSlots::new(NonZeroU32::new(all).unwrap());
            let mut held = Vec::new();
            let second = Duration::from_secs(1);
            for grant in [GrantType::RefreshToken, GrantType::AuthorizationCode] {
                while let Some(slot) = slots.take(grant, second).await {
                    held.push(slot);
                }
                if grant == GrantType::RefreshToken {
                    assert_eq!(held.len(), refreshes, "of {all}");
                }
            }
            assert_eq!(held.len(), usize::try_from(all).unwrap());
            held.clear();
            assert!(slots.take(GrantType::RefreshToken, second).await.is_some());
        }
    }
}
