//! The signed assertions of a worker. A worker sends an assertion again for half of the lifetime of
//! the assertion, so that most requests need no new signature.

use std::cell::RefCell;
use std::collections::HashMap;

use http::{HeaderValue, Method, Request, header};

use super::Permit;
use super::permit::write_or_remove;
use crate::clock::Timestamp;
use crate::session::SessionKey;
use crate::upstream::{SignedAssertion, SignedRequest};

/// The maximum number of assertions that a worker keeps.
const MAX_ASSERTIONS: usize = 4096;

/// The assertions that one worker has signed. Only the worker uses this value, so this value has no
/// lock.
#[derive(Debug, Default)]
pub(super) struct SignedAssertions(RefCell<HashMap<Key, Kept>>);

/// The values on which the claims of an assertion depend. A new version of a session can have a new
/// identity.
#[derive(Debug, Eq, Hash, PartialEq)]
struct Key {
    session: SessionKey,
    version: u64,
    assertion: u64,
    method: Method,
    host: HeaderValue,
}

/// A signed assertion.
#[derive(Debug)]
struct Kept {
    value: HeaderValue,
    since: Timestamp,
    until: Timestamp,
}

impl Kept {
    /// Whether the assertion may be sent again. If the clock was set back, the issue time of the
    /// assertion is in the future, so that an app would refuse the assertion.
    fn is_usable(&self, now: Timestamp) -> bool {
        self.since <= now && now < self.until
    }
}

impl SignedAssertions {
    /// Returns the kept assertion for `key`, or the assertion that `sign` returns with the time
    /// until which it may be kept.
    fn get(
        &self,
        key: Key,
        now: Timestamp,
        sign: impl FnOnce() -> Option<(HeaderValue, Timestamp)>,
    ) -> Option<HeaderValue> {
        let mut kept = self.0.borrow_mut();
        if let Some(known) = kept.get(&key).filter(|known| known.is_usable(now)) {
            return Some(known.value.clone());
        }
        let (value, until) = sign()?;
        if kept.len() >= MAX_ASSERTIONS {
            kept.retain(|_key, known| known.is_usable(now));
        }
        if kept.len() >= MAX_ASSERTIONS {
            kept.clear();
        }
        let returned = value.clone();
        let since = now;
        kept.insert(
            key,
            Kept {
                value,
                since,
                until,
            },
        );
        Some(returned)
    }
}

impl Permit {
    /// Writes the signed assertion into a request, if the app gets a signed assertion. `request`
    /// has the canonical authority in its `Host` field. A request without a user gets no signed
    /// assertion.
    pub(super) fn write_signed<B>(&self, request: &mut Request<B>) {
        if let Some(assertion) = &self.route.fields.signed {
            let value = self.signed(assertion, request);
            write_or_remove(request.headers_mut(), assertion.field(), value);
        }
    }

    fn signed<B>(&self, assertion: &SignedAssertion, request: &Request<B>) -> Option<HeaderValue> {
        let session = self.session.as_ref()?;
        let host = request.headers().get(header::HOST)?;
        let now = self.access.refresher.clock().now();
        let key = Key {
            session: *session.key(),
            version: session.version(),
            assertion: assertion.id(),
            method: request.method().clone(),
            host: host.clone(),
        };
        self.access.signed.get(key, now, || {
            let signed = SignedRequest {
                method: request.method(),
                host,
                provider: session.provider(),
            };
            let report = |left_out| self.report_groups(session, left_out);
            let value = assertion.sign(session.identity(), signed, now, report)?;
            Some((value, assertion.reusable_until(now)))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::runtime::Handle;

    use super::*;
    use crate::access::refresh::tests::{Fixture, NOW};
    use crate::token::Lifetime;

    async fn key(method: &str) -> Key {
        let session = Fixture::new(Handle::current())
            .open(Lifetime::default())
            .await;
        Key {
            session: *session.key(),
            version: 0,
            assertion: 0,
            method: Method::from_bytes(method.as_bytes()).unwrap(),
            host: HeaderValue::from_static("gw.test"),
        }
    }

    fn again(key: &Key) -> Key {
        Key {
            method: key.method.clone(),
            host: key.host.clone(),
            ..*key
        }
    }

    /// A signer that returns `text`, which may be kept for 30 seconds.
    fn signer(
        text: &'static str,
        now: Timestamp,
    ) -> impl FnOnce() -> Option<(HeaderValue, Timestamp)> {
        let until = now.plus(Duration::from_secs(30));
        move || Some((HeaderValue::from_static(text), until))
    }

    #[tokio::test]
    async fn an_assertion_is_signed_again_after_half_of_its_lifetime() {
        let (kept, key) = (SignedAssertions::default(), key("GET").await);
        let at = |seconds| NOW.plus(Duration::from_secs(seconds));
        for (seconds, expected) in [(0, "first"), (29, "first"), (30, "third"), (59, "third")] {
            let text = match seconds {
                0 => "first",
                29 => "second",
                30 => "third",
                _ => "fourth",
            };
            let now = at(seconds);
            let value = kept.get(again(&key), now, signer(text, now));
            assert_eq!(value.unwrap(), expected, "{seconds}");
        }
        // After the clock was set back, the assertion would be from the future.
        let value = kept.get(key, at(29), signer("fifth", at(29)));
        assert_eq!(value.unwrap(), "fifth");
    }

    #[tokio::test]
    async fn h_44_an_assertion_is_kept_for_one_user_app_host_and_method_only() {
        let (kept, key) = (SignedAssertions::default(), key("GET").await);
        let sign = |key, text| kept.get(key, NOW, signer(text, NOW)).unwrap();
        assert_eq!(sign(again(&key), "first"), "first");
        assert_eq!(sign(again(&key), "unused"), "first");
        let mut other = again(&key);
        other.method = Method::POST;
        assert_eq!(sign(other, "method"), "method");
        let mut other = again(&key);
        other.host = HeaderValue::from_static("other.test");
        assert_eq!(sign(other, "host"), "host");
        let mut other = again(&key);
        other.version = 1;
        assert_eq!(sign(other, "version"), "version");
        let mut other = again(&key);
        other.assertion = 1;
        assert_eq!(sign(other, "app"), "app");
        let other = self::key("GET").await;
        assert_eq!(sign(other, "session"), "session");
        assert_eq!(sign(key, "unused"), "first");
    }

    #[tokio::test]
    async fn d_42_the_number_of_kept_assertions_is_limited() {
        let (kept, key) = (SignedAssertions::default(), key("GET").await);
        for version in 0..3 * u64::try_from(MAX_ASSERTIONS).unwrap() {
            let key = Key {
                version,
                ..again(&key)
            };
            kept.get(key, NOW, signer("a", NOW)).unwrap();
            assert!(kept.0.borrow().len() <= MAX_ASSERTIONS);
        }
        // Assertions that may no longer be sent are removed first.
        let later = NOW.plus(Duration::from_secs(30));
        kept.0.borrow_mut().clear();
        for version in 0..u64::try_from(MAX_ASSERTIONS).unwrap() {
            let key = Key {
                version,
                ..again(&key)
            };
            let now = if version == 7 { later } else { NOW };
            kept.get(key, now, signer("a", now)).unwrap();
        }
        kept.get(key, later, signer("b", later)).unwrap();
        assert_eq!(kept.0.borrow().len(), 2);
    }
}
