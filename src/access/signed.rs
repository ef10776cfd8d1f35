//! The signed assertions of a worker. A worker sends an assertion again for half of the lifetime of
//! the assertion, so that most requests need no new signature.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderValue, Method, Request, header};

use super::Permit;
use super::permit::write_or_remove;
use crate::clock::Timestamp;
use crate::session::SessionKey;
use crate::upstream::{SignedAssertion, SignedRequest};

/// The maximum memory of the assertions that a worker keeps, in bytes.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// After this time, the next new assertion removes all assertions that may no longer be sent.
const SWEEP_AFTER: Duration = Duration::from_mins(1);

/// The assertions that one worker has signed. Only the worker uses this value, so this value has no
/// lock.
#[derive(Debug, Default)]
pub(super) struct SignedAssertions(RefCell<Cache>);

#[derive(Debug, Default)]
struct Cache {
    kept: HashMap<Key, Kept>,
    /// The memory of all kept assertions.
    bytes: usize,
    /// The time of the last removal of assertions that may no longer be sent.
    swept: Timestamp,
}

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
        // A client can invent any number of methods, so only a request with a known method gets a
        // kept assertion.
        if !is_known(&key.method) {
            return sign().map(|(value, _until)| value);
        }
        let mut cache = self.0.borrow_mut();
        if let Some(known) = cache.kept.get(&key).filter(|known| known.is_usable(now)) {
            return Some(known.value.clone());
        }
        let (value, until) = sign()?;
        let since = now;
        let kept = Kept {
            value: value.clone(),
            since,
            until,
        };
        cache.insert(key, kept, now);
        Some(value)
    }
}

impl Cache {
    fn insert(&mut self, mut key: Key, new: Kept, now: Timestamp) {
        // The value in `key` can be a part of a buffer with the whole head of the request. A copy
        // of the value does not keep this buffer in memory.
        if let Ok(host) = HeaderValue::from_bytes(key.host.as_bytes()) {
            key.host = host;
        }
        let size = memory_of(&key, &new);
        let is_full = |bytes: usize| bytes.saturating_add(size) > MAX_BYTES;
        // If the clock was set back, the time of the last removal is in the future.
        let is_old = now < self.swept || now.since(self.swept) >= SWEEP_AFTER;
        if is_old || is_full(self.bytes) {
            self.kept.retain(|_key, kept| kept.is_usable(now));
            let sizes = self.kept.iter().map(|(key, kept)| memory_of(key, kept));
            self.bytes = sizes.sum();
            self.swept = now;
        }
        if is_full(self.bytes) {
            self.kept.clear();
            self.bytes = 0;
        }
        // The cache can still contain an assertion that may no longer be sent. Its size is the size
        // of the old value and of the same key.
        let old = self.kept.remove(&key);
        let old = old.map_or(0, |old| memory_of(&key, &old));
        self.bytes = self.bytes.saturating_sub(old).saturating_add(size);
        self.kept.insert(key, new);
    }
}

/// The memory of a kept assertion, in bytes.
fn memory_of(key: &Key, kept: &Kept) -> usize {
    let fixed = size_of::<(Key, Kept)>();
    let texts = key.host.len().saturating_add(kept.value.len());
    fixed.saturating_add(texts)
}

/// Whether `method` is one of the methods of RFC 9110 and RFC 5789.
fn is_known(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::PATCH
            | Method::DELETE
            | Method::OPTIONS
            | Method::CONNECT
            | Method::TRACE
    )
}

impl Permit {
    /// Writes the signed assertion into a request, if the app gets a signed assertion. `request`
    /// has the canonical authority in its `Host` field. A request without a user gets no signed
    /// assertion.
    pub(super) fn write_signed<B>(&self, request: &mut Request<B>) {
        if let Some(assertion) = &self.route.fields.signed {
            let host = request.headers().get(header::HOST);
            let value = host.and_then(|host| self.signed(assertion, (request.method(), host)));
            write_or_remove(request.headers_mut(), assertion.field(), value);
        }
    }

    /// Returns the signed assertion for a request with this method and this canonical authority.
    pub(super) fn signed(
        &self,
        assertion: &SignedAssertion,
        (method, host): (&Method, &HeaderValue),
    ) -> Option<HeaderValue> {
        let session = self.session.as_ref()?;
        let now = self.access.refresher.clock().now();
        let key = Key {
            session: *session.key(),
            version: session.version(),
            assertion: assertion.id(),
            method: method.clone(),
            host: host.clone(),
        };
        self.access.signed.get(key, now, || {
            let signed = SignedRequest {
                method,
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
    use bytes::Bytes;
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

    /// Keeps an assertion with `length` bytes for a version of a session.
    fn keep(kept: &SignedAssertions, key: &Key, version: u64, length: usize, now: Timestamp) {
        let key = Key {
            version,
            ..again(key)
        };
        let until = now.plus(Duration::from_secs(30));
        let value = HeaderValue::try_from("a".repeat(length)).unwrap();
        kept.get(key, now, || Some((value, until))).unwrap();
        let cache = kept.0.borrow();
        let sizes = cache.kept.iter().map(|(key, kept)| memory_of(key, kept));
        assert_eq!(cache.bytes, sizes.sum::<usize>());
        assert!(cache.bytes <= MAX_BYTES, "{}", cache.bytes);
    }

    #[tokio::test]
    async fn d_42_the_memory_of_kept_assertions_is_limited() {
        let (kept, key) = (SignedAssertions::default(), key("GET").await);
        for length in [1024, 64 * 1024] {
            let count = MAX_BYTES / length;
            for version in 0..u64::try_from(2 * count).unwrap() {
                keep(&kept, &key, version, length, NOW);
            }
            // The limit removes no more than necessary.
            let least = u64::try_from(count / 2).unwrap();
            kept.0.borrow_mut().kept.clear();
            kept.0.borrow_mut().bytes = 0;
            for version in 0..least {
                keep(&kept, &key, version, length, NOW);
            }
            assert_eq!(kept.0.borrow().kept.len(), count / 2);
        }
    }

    #[tokio::test]
    async fn d_42_assertions_that_may_no_longer_be_sent_are_removed() {
        let (kept, key) = (SignedAssertions::default(), key("GET").await);
        let at = |seconds| NOW.plus(Duration::from_secs(seconds));
        let count = || kept.0.borrow().kept.len();
        for version in 0..100 {
            keep(&kept, &key, version, 10, NOW);
        }
        // A new assertion of the same key replaces the old assertion.
        keep(&kept, &key, 7, 20, at(40));
        assert_eq!(count(), 100);
        keep(&kept, &key, 100, 10, at(59));
        assert_eq!(count(), 101);
        keep(&kept, &key, 101, 10, at(60));
        assert_eq!(count(), 3);
        // All assertions are from the future after the clock was set back.
        keep(&kept, &key, 102, 10, at(20));
        assert_eq!(count(), 1);
    }

    #[tokio::test]
    async fn d_42_no_assertion_is_kept_for_a_method_that_a_client_invents() {
        let kept = SignedAssertions::default();
        for (method, count) in [
            ("INVENTED", 0),
            ("get", 0),
            ("PROPFIND", 0),
            ("PATCH", 1),
            ("PATCH", 2),
        ] {
            let key = key(method).await;
            for text in ["first", "second"] {
                let value = kept.get(again(&key), NOW, signer(text, NOW)).unwrap();
                let expected = if count == 0 { text } else { "first" };
                assert_eq!(value, expected, "{method}");
            }
            assert_eq!(kept.0.borrow().kept.len(), count, "{method}");
        }
    }

    #[tokio::test]
    async fn d_42_a_kept_assertion_does_not_keep_the_head_of_its_request() {
        let (kept, mut key) = (SignedAssertions::default(), key("GET").await);
        let head = Bytes::from("gw.test".to_owned());
        let bytes = head.clone();
        key.host = HeaderValue::from_maybe_shared(bytes).unwrap();
        kept.get(key, NOW, signer("a", NOW)).unwrap();
        assert_eq!(kept.0.borrow().kept.len(), 1);
        assert!(head.is_unique());
    }
}
