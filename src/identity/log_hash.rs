//! The hash that names a user in the log.

use std::fmt;
use std::sync::OnceLock;

use crate::telemetry::UserClaim;

/// The hash of the claim that names a user in the log. The gateway computes the hash for the first
/// logged request of a session, and uses the same hash for all later requests of the session.
#[derive(Clone, Default)]
pub struct LogHash(OnceLock<Box<(UserClaim, Box<str>)>>);

impl LogHash {
    /// Calls the function `then` with the hash of `claim`. `compute` computes the hash. The first
    /// call stores `claim` and its hash. If a later call has a different claim, this call computes
    /// the hash and does not store it.
    pub(crate) fn with<T>(
        &self,
        claim: UserClaim,
        compute: impl Fn() -> Box<str>,
        then: impl FnOnce(&str) -> T,
    ) -> T {
        let (first, hash) = &**self.0.get_or_init(|| Box::new((claim, compute())));
        if *first == claim {
            then(hash)
        } else {
            then(&compute())
        }
    }
}

/// The hash depends only on the claims, so two identities with equal claims are equal.
impl PartialEq for LogHash {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for LogHash {}

impl fmt::Debug for LogHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogHash")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_hash_is_computed_once_until_the_claim_changes() {
        let (hash, count) = (LogHash::default(), Cell::new(0));
        let of = |claim, text: &str| {
            let compute = || {
                count.set(count.get() + 1);
                text.into()
            };
            hash.with(claim, compute, str::to_owned)
        };
        assert_eq!(of(UserClaim::Subject, "a"), "a");
        assert_eq!(of(UserClaim::Subject, "b"), "a");
        assert_eq!(count.get(), 1);
        assert_eq!(of(UserClaim::Email, "c"), "c");
        assert_eq!(of(UserClaim::Subject, "d"), "a");
        assert_eq!(count.get(), 2);
    }
}
