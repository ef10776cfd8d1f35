//! Limits how often the log repeats an event about the same subject.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The number of slots of an [`EventLimiter`]. Each slot stores one subject (such as a user or a
/// setting) about which the gateway has reported an event.
const SLOTS: usize = 1024;

/// Remembers which subjects (such as a user or a setting) the gateway has reported in the current
/// period. An [`EventLimiter`] has a fixed size and takes no lock. If two subjects share a slot, a
/// subject can be reported more than once.
#[derive(Debug)]
pub(crate) struct EventLimiter {
    period: Duration,
    slots: Box<[AtomicU64]>,
}

impl EventLimiter {
    pub(crate) fn new(period: Duration) -> Self {
        let slots = (0..SLOTS).map(|_slot| AtomicU64::new(0));
        Self {
            period,
            slots: slots.collect(),
        }
    }

    /// Returns true if the gateway has not yet reported `subject` (such as a user or a setting) in
    /// the current period. `now` is the time since the Unix epoch.
    pub(crate) fn is_due(&self, subject: impl Hash, now: Duration) -> bool {
        let hash = |value: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            value(&mut hasher);
            hasher.finish()
        };
        let place = hash(&|hasher| subject.hash(hasher));
        let period = now.as_secs().checked_div(self.period.as_secs());
        let report = hash(&|hasher| (place, period).hash(hasher));
        let slots = u64::try_from(self.slots.len()).unwrap_or(1).max(1);
        let slot = usize::try_from(place.checked_rem(slots).unwrap_or(0)).unwrap_or(0);
        self.slots
            .get(slot)
            .is_some_and(|slot| slot.swap(report, Ordering::Relaxed) != report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_due_once_in_a_period() {
        let hours = EventLimiter::new(Duration::from_hours(1));
        let at = Duration::from_secs;
        assert!(hours.is_due(("op", "alice"), at(7200)));
        assert!(!hours.is_due(("op", "alice"), at(7201)));
        assert!(hours.is_due(("op", "bob"), at(7201)));
        assert!(!hours.is_due(("op", "alice"), at(10_799)));
        assert!(hours.is_due(("op", "alice"), at(10_800)));
    }
}
