//! Where a login leads back to.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::OWN_PREFIX;
use super::pending::associated_data;
use crate::seal::KeyRing;
use crate::secret::NoRandomness;
use crate::target::{Prefix, canonical_path};

/// The longest return-to, in bytes: it travels inside `state`.
const MAX: usize = 1024;

/// A path and query on our own site, to which a browser is sent after a login.
///
/// It is taken by a grammar that allows little, not by joining URLs and comparing origins: parsers
/// differ about what `/\evil.test`, `/.//evil.test` or `https:evil.test` mean. What comes out is
/// written behind a configured origin ([`ReturnTo::absolute`]), never alone.
#[derive(Clone, Eq, PartialEq)]
pub struct ReturnTo(Box<str>);

fn sealed_for(origin: &str) -> Vec<u8> {
    associated_data(b"return_to", &[origin.as_bytes()])
}

impl ReturnTo {
    /// The start page, `/`.
    pub fn root() -> Self {
        Self("/".into())
    }

    /// Takes a path with an optional query; a fragment is dropped. `None` for everything else:
    ///
    /// - longer than 1024 bytes, or with bytes that are not visible ASCII, or a backslash;
    /// - a path that a [`Target`](crate::target::Target) would be refused for (not starting with
    ///   one slash, dot segments, hidden separators, double encodings);
    /// - control characters after one or two percent-decodings, in the query too;
    /// - a first segment that reads as a scheme once somebody drops the leading slash;
    /// - anything under `own_prefix`, in whatever spelling: a login that led to the login would
    ///   never end. A prefix that is no path allows nothing.
    pub(crate) fn parse(text: &str, own_prefix: &str) -> Option<Self> {
        let visible = text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        if text.len() > MAX || !visible || has_control(text) {
            return None;
        }
        let local = match text.split_once('#') {
            // `&#` begins an HTML character reference, not a fragment.
            Some((before, _)) if before.ends_with('&') => return None,
            Some((before, _)) => before,
            None => text,
        };
        let (path, query) = match local.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (local, None),
        };
        let path = canonical_path(path).ok()?;
        let first_segment = path.split('/').nth(1).unwrap_or_default();
        if first_segment.ends_with(':') || Prefix::parse(own_prefix).ok()?.covers(&path) {
            return None;
        }
        let whole = match query {
            Some(query) => format!("{path}?{query}"),
            None => path.into_owned(),
        };
        (whole.len() <= MAX).then(|| Self(whole.into()))
    }

    /// Seals it for a link of our own on `origin`: what a link says without a seal is not believed.
    pub(super) fn seal(&self, keys: &KeyRing, origin: &str) -> Result<String, NoRandomness> {
        let sealed = keys.seal(&sealed_for(origin), self.0.as_bytes())?;
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Opens what [`ReturnTo::seal`] gave for `origin`.
    pub(super) fn unseal(text: &str, keys: &KeyRing, origin: &str) -> Option<Self> {
        // A sealed one is a third longer, and the cipher adds less than a hundred bytes.
        if text.len() > MAX.saturating_mul(2) {
            return None;
        }
        let sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
        let plain = keys.open(&sealed_for(origin), &sealed)?;
        Self::parse(std::str::from_utf8(&plain).ok()?, OWN_PREFIX)
    }

    /// The path and query.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text of a `Location`: this path on `origin` (`scheme://host[:port]`, from
    /// configuration).
    pub(crate) fn absolute(&self, origin: &str) -> String {
        [origin.trim_end_matches('/'), &self.0].concat()
    }
}

impl fmt::Debug for ReturnTo {
    /// The path alone: a query may carry what nobody should read in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.split('?').next().unwrap_or_default();
        f.debug_tuple("ReturnTo").field(&path).finish()
    }
}

/// Whether one or two percent-decodings give a control character.
fn has_control(text: &str) -> bool {
    let once: Vec<u8> = percent_encoding::percent_decode_str(text).collect();
    let mut twice = percent_encoding::percent_decode(&once);
    once.iter().any(u8::is_ascii_control) || twice.any(|byte| byte.is_ascii_control())
}

#[cfg(test)]
#[path = "return_to_tests.rs"]
mod tests;
