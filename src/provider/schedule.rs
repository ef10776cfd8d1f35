//! The time when an access token is refreshed.
//!
//! The refresh time of an access token is never later than its expiry. A token that is in use is
//! refreshed before its expiry, so that no request has to wait for the new token. The lead time is
//! the time from the refresh of an access token to the expiry of the access token. The lead time
//! has a random part, so that the refreshes of many sessions do not happen at the same time.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::secret::random;
use crate::token::Lifetime;

/// The longest time between the refresh and the expiry of an access token, before a random time is
/// added.
const LEAD_TIME: Duration = Duration::from_mins(1);

/// The maximum random time that is added to the time between the refresh and the expiry of an
/// access token.
const MAX_JITTER: Duration = Duration::from_mins(5);

/// The longest time between the refresh and the expiry of the old access token, if the refresh
/// revokes the old access token. The gateway starts the refresh late, because a request that still
/// uses the old access token fails after the refresh.
const LATE_LEAD_TIME: Duration = Duration::from_secs(2);

/// The minimum time between two refreshes, if an access token has a long or unknown lifetime.
pub(super) const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// The minimum time between two refreshes, if an access token has a very short lifetime. If this
/// minimum were zero, each request would cause a refresh at a provider that issues expired tokens.
const SHORTEST_REFRESH_INTERVAL: Duration = Duration::from_millis(500);

/// States whether a refresh is sent well before expiry or just before expiry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum RefreshTiming {
    /// The refresh is sent well before the access token expires.
    Early,
    /// The refresh is sent just before expiry, because a refresh revokes the old access token.
    Late,
}

/// Returns the lifetime of an access token that was requested at `obtained_at`. The random number
/// `fraction`, from 0 to 1, determines the random part of the lead time.
pub(super) fn lifetime(
    obtained_at: Timestamp,
    expires_at: Option<Timestamp>,
    timing: Option<RefreshTiming>,
    fraction: f64,
) -> Lifetime {
    let lifetime = expires_at.map(|end| end.since(obtained_at));
    // The minimum time between two refreshes is half of the token's lifetime, but at least 0.5
    // seconds and at most 10 seconds. With this minimum, the gateway can refresh even a token with
    // a short lifetime before the token expires, but does not refresh too often.
    let floor = lifetime.map_or(MIN_REFRESH_INTERVAL, |lifetime| {
        lifetime
            .mul_f64(0.5)
            .clamp(SHORTEST_REFRESH_INTERVAL, MIN_REFRESH_INTERVAL)
    });
    let not_before = obtained_at.plus(floor);
    let refresh_at = |timing, lifetime: Duration, end: Timestamp| {
        let before_end = lifetime.saturating_sub(lead_time(timing, lifetime, fraction));
        // If the lifetime of the token is very short, `not_before` can be later than the expiry.
        // The refresh time must not be later than the expiry, because requests after the expiry
        // have to wait for the refresh.
        obtained_at.plus(before_end).max(not_before).min(end)
    };
    Lifetime {
        obtained_at,
        expires_at,
        refresh_at: timing
            .zip(lifetime)
            .zip(expires_at)
            .map(|((timing, lifetime), end)| refresh_at(timing, lifetime, end)),
        not_before,
    }
}

/// Returns how long before its expiry a token is refreshed. This time is always a small part of the
/// lifetime of the token.
fn lead_time(timing: RefreshTiming, lifetime: Duration, fraction: f64) -> Duration {
    let fraction = fraction.clamp(0.0, 1.0);
    match timing {
        RefreshTiming::Early => {
            let tenth = lifetime.mul_f64(0.1);
            LEAD_TIME
                .min(tenth)
                .saturating_add(MAX_JITTER.min(tenth).mul_f64(fraction))
        }
        RefreshTiming::Late => {
            let most = LATE_LEAD_TIME.min(lifetime.mul_f64(0.05));
            most.mul_f64(0.5 + fraction * 0.5)
        }
    }
}

/// Returns a random number from 0 to 1. If the operating system returns no random bytes, the result
/// is 0.5. The random number does not have to be secret, so a fixed number is sufficient.
pub(super) fn random_fraction() -> f64 {
    random::<4>().map_or(0.5, |bytes| {
        f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    /// Returns three times from the refresh schedule of a token that is valid for `lifetime`
    /// milliseconds. Each time is a number of milliseconds after `START`. The first returned value
    /// is the earliest possible time of the planned refresh. The second value is the latest
    /// possible time of the planned refresh. The third value is the earliest time at which a
    /// refresh is allowed.
    fn refresh_times(lifetime: u64, timing: RefreshTiming) -> (u64, u64, u64) {
        let end = START.plus(Duration::from_millis(lifetime));
        let schedule = |fraction| super::lifetime(START, Some(end), Some(timing), fraction);
        let after = |at: Timestamp| u64::try_from(at.since(START).as_millis()).unwrap();
        let at = |fraction| after(schedule(fraction).refresh_at.unwrap());
        (at(1.0), at(0.0), after(schedule(0.5).not_before))
    }

    #[test]
    fn f_37_tokens_of_any_lifetime_are_refreshed_at_a_sensible_time() {
        const YEAR: u64 = 365 * 86_400_000;
        for (lifetime, early, late, floor) in [
            (0, (0, 0), (0, 0), 500),
            (200, (200, 200), (200, 200), 500),
            (1_000, (800, 900), (950, 975), 500),
            (5_000, (4_000, 4_500), (4_750, 4_875), 2_500),
            (60_000, (48_000, 54_000), (58_000, 59_000), 10_000),
            (300_000, (240_000, 270_000), (298_000, 299_000), 10_000),
            (
                3_600_000,
                (3_240_000, 3_540_000),
                (3_598_000, 3_599_000),
                10_000,
            ),
            (
                10 * YEAR,
                (10 * YEAR - 360_000, 10 * YEAR - 60_000),
                (10 * YEAR - 2_000, 10 * YEAR - 1_000),
                10_000,
            ),
        ] {
            let (first, last, not_before) = refresh_times(lifetime, RefreshTiming::Early);
            assert_eq!((first, last), early, "{lifetime}");
            assert_eq!(not_before, floor, "{lifetime}");
            let (first, last, not_before) = refresh_times(lifetime, RefreshTiming::Late);
            assert_eq!((first, last), late, "{lifetime}");
            assert_eq!(not_before, floor, "{lifetime}");
        }
    }

    #[test]
    fn a_token_without_expiry_or_refresh_token_has_no_refresh_time() {
        let end = START.plus(Duration::from_mins(5));
        let endless = lifetime(START, None, Some(RefreshTiming::Early), 0.5);
        assert_eq!(endless.refresh_at, None);
        assert_eq!(endless.not_before, START.plus(MIN_REFRESH_INTERVAL));
        let without_refresh = lifetime(START, Some(end), None, 0.5);
        assert_eq!(without_refresh.refresh_at, None);
        assert_eq!(without_refresh.expires_at, Some(end));
        // The expiry of the token is earlier than the time of the token request.
        let expired = lifetime(end, Some(START), Some(RefreshTiming::Early), 0.5);
        assert_eq!(expired.refresh_at, Some(START));
        assert!(expired.not_before > end);
        let endless = lifetime(START, Some(Timestamp::MAX), Some(RefreshTiming::Early), 1.0);
        assert!(endless.refresh_at <= Some(Timestamp::MAX));
    }

    #[test]
    fn a_thousand_tokens_of_one_moment_are_refreshed_at_different_times() {
        let end = START.plus(Duration::from_hours(1));
        let mut at: Vec<_> = (0..1000)
            .filter_map(|_| {
                lifetime(
                    START,
                    Some(end),
                    Some(RefreshTiming::Early),
                    random_fraction(),
                )
                .refresh_at
            })
            .collect();
        at.sort_unstable();
        let (first, last) = (at.first().unwrap(), at.last().unwrap());
        // A thousand random times from a range of five minutes almost certainly differ by more than
        // one minute.
        assert!(last.since(*first) > Duration::from_mins(1));
        assert!(end.since(*last) >= LEAD_TIME);
    }

    proptest! {
        #[test]
        fn f_37_a_token_is_refreshed_late_in_its_lifetime_and_before_expiry(
            lifetime in 1_000_u64..400_000_000_000,
            fraction in 0.0..=1.0,
            late: bool,
        ) {
            let end = START.plus(Duration::from_millis(lifetime));
            let timing = if late { RefreshTiming::Late } else { RefreshTiming::Early };
            let schedule = super::lifetime(START, Some(end), Some(timing), fraction);
            let at = schedule.refresh_at.unwrap();
            prop_assert!(at < end && at >= schedule.not_before);
            prop_assert!(at.since(START) >= Duration::from_millis(lifetime).mul_f64(0.79));
            prop_assert!(end.since(at) <= Duration::from_secs(361));
        }
    }
}
