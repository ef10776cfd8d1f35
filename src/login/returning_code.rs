//! Codes that have left the queue of codes without a turn.
//!
//! The page of a code that did not get its turn sends the code again, and the code then has priority
//! over codes that come for the first time. The gateway does not remember such codes, because
//! invented codes would fill every memory. Instead, the answer sets a cookie that proves it. The
//! cookie is bound to the state of the login, and is valid for a short time, so that an attacker
//! cannot collect many of them. Every replica with the same keys accepts the cookie.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;

use super::pending::{ReturnedState, associated_data};
use super::{Callback, Login, PublicUrl};
use crate::clock::Timestamp;
use crate::fields::cookie::{self as cookies, Found};
use crate::provider::QueuedCode;
use crate::seal::KeyRing;
use crate::session::cookie;

/// The name of the cookie. The prefix `__Host-` is not possible, because the cookie has a path.
const NAME: &str = "__Secure-sidegate-waited";

/// The time for which the cookie is valid. The page sends the code again after a second.
const LIFETIME: Duration = Duration::from_mins(1);

/// The longest value of the cookie, in bytes.
const MAX_VALUE: usize = 256;

impl Login {
    /// Returns the code of `callback`, as the queue sees it.
    pub(super) fn queued_code(
        &self,
        returned: &ReturnedState,
        callback: &Callback<'_>,
    ) -> QueuedCode {
        let (state, origin) = (returned.fingerprint(), callback.public_url.origin());
        let ends_at = match cookies::find(callback.headers, NAME.as_bytes()) {
            Found::One(value) => open(value, &self.keys, (origin, &state)),
            Found::Absent | Found::Conflicting => None,
        };
        QueuedCode {
            client: self.queue_client(callback),
            state,
            returns: ends_at.is_some_and(|ends_at| self.process.clock.now() < ends_at),
        }
    }

    /// Returns the `Set-Cookie` value for a browser whose code did not get its turn. Returns `None`
    /// if the operating system returns no random bytes.
    pub(super) fn remember_waiting(
        &self,
        returned: &ReturnedState,
        public_url: &PublicUrl,
    ) -> Option<HeaderValue> {
        let ends_at = self.process.clock.now().plus(LIFETIME);
        let state = (public_url.origin(), &returned.fingerprint());
        let value = seal(ends_at, &self.keys, state)?;
        Some(cookie::set_at(
            self.redirection().path(),
            (NAME, &value),
            LIFETIME,
        ))
    }
}

fn seal(ends_at: Timestamp, keys: &KeyRing, state: (&str, &[u8; 32])) -> Option<String> {
    let sealed = keys.seal(&context(state), &ends_at.as_millis().to_be_bytes());
    Some(URL_SAFE_NO_PAD.encode(sealed.ok()?))
}

fn open(value: &[u8], keys: &KeyRing, state: (&str, &[u8; 32])) -> Option<Timestamp> {
    if value.len() > MAX_VALUE {
        return None;
    }
    let sealed = URL_SAFE_NO_PAD.decode(value).ok()?;
    let ends_at = keys.open(&context(state), &sealed)?;
    let ends_at = u64::from_be_bytes(ends_at.as_slice().try_into().ok()?);
    Some(Timestamp::from_millis(ends_at))
}

/// The cookie is valid only for one origin and one state.
fn context((origin, state): (&str, &[u8; 32])) -> Vec<u8> {
    associated_data(b"waited", &[origin.as_bytes(), state])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d_21_the_proof_that_a_code_returns_is_valid_for_one_state_and_one_origin() {
        let keys = KeyRing::random().unwrap();
        let ends_at = Timestamp::from_millis(12_345);
        let own = ("https://a.test", &[7; 32]);
        let sealed = seal(ends_at, &keys, own).unwrap();
        assert!(sealed.len() <= MAX_VALUE, "{}", sealed.len());
        let opened = |keys, state| open(sealed.as_bytes(), keys, state);
        assert_eq!(opened(&keys, own), Some(ends_at));
        assert_eq!(opened(&keys, ("https://a.test", &[8; 32])), None);
        assert_eq!(opened(&keys, ("https://b.test", &[7; 32])), None);
        assert_eq!(opened(&KeyRing::random().unwrap(), own), None);
        assert_eq!(open(&vec![b'A'; 100_000], &keys, own), None);
    }
}
