//! The return path: the page to which the browser returns after a login.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::pending::{Tab, associated_data};
use super::{Error, OwnPaths, PublicUrl};
use crate::seal::KeyRing;
use crate::secret::NoRandomness;
use crate::target::{Reading, readings_of};

/// The longest return path, in bytes. Many servers and proxies accept request lines of at most 8 KB.
const MAX: usize = 8192;

/// The longest return path in the `state` parameter, in bytes. A longer page is saved in cookies
/// ([`super::Login::save_page`]).
const MAX_SHORT: usize = 1024;

/// A path on our own origin, with an optional query. After a login, the gateway sends the browser
/// to this path.
///
/// [`ReturnTo::parse`] accepts only text that matches a strict grammar, so that no link can send
/// the browser to another origin. A check of the origin of the parsed URL would not be safe,
/// because URL parsers disagree about `/\evil.test`, `/.//evil.test` and `https:evil.test`. The
/// gateway always writes a configured origin before the path ([`ReturnTo::absolute`]).
#[derive(Clone, Eq, PartialEq)]
pub struct ReturnTo(Box<str>);

/// The reason why no login may return to a page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum NoReturn {
    /// The page is an endpoint of the gateway.
    OwnEndpoint,
    /// The address is too long, or two programs could read the address in different ways.
    Unusable,
}

fn sealed_for(origin: &str) -> Vec<u8> {
    associated_data(b"return_to", &[origin.as_bytes()])
}

impl ReturnTo {
    /// Returns the start page, `/`.
    pub fn root() -> Self {
        Self("/".into())
    }

    /// Like [`ReturnTo::read`], but without the reason of a refusal.
    pub(crate) fn parse(text: &str, own: &OwnPaths) -> Option<Self> {
        Self::read(text, own).ok()
    }

    /// Accepts a path with an optional query, and removes a fragment.
    ///
    /// # Errors
    ///
    /// [`NoReturn::OwnEndpoint`] for every path of the gateway's own endpoints, in any spelling,
    /// because a return to a login endpoint would start an endless loop. [`NoReturn::Unusable`] for:
    ///
    /// - text of more than 8192 bytes, and text with a backslash or with bytes that are not visible
    ///   ASCII;
    /// - a path that [`Target`](crate::target::Target) always refuses: a path that does not start
    ///   with exactly one slash, or that has dot segments, control characters or double encodings;
    /// - control characters other than tabs and line ends in the query, after one or two
    ///   percent-decodings;
    /// - a first segment that looks like a URL scheme if a program drops the leading slash.
    ///
    /// `read` accepts the unusual forms of a path that the settings of a route can allow. When the
    /// browser returns to such a path, the gateway judges the path again.
    pub(crate) fn read(text: &str, own: &OwnPaths) -> Result<Self, NoReturn> {
        let visible = text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        if text.len() > MAX || !visible {
            return Err(NoReturn::Unusable);
        }
        let local = match text.split_once('#') {
            // `&#` is refused, because `&#` begins an HTML character reference and not a fragment.
            Some((before, _)) if before.ends_with('&') => return Err(NoReturn::Unusable),
            Some((before, _)) => before,
            None => text,
        };
        let (path, query) = match local.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (local, None),
        };
        let (path, readings) = readings_of(path).ok_or(NoReturn::Unusable)?;
        if readings.iter().any(|reading| own.may_cover(reading)) {
            return Err(NoReturn::OwnEndpoint);
        }
        let is_refused = |reading: &Reading| {
            let first_segment = reading.path().split('/').nth(1).unwrap_or_default();
            first_segment.ends_with(':')
        };
        if readings.iter().any(is_refused) || query.is_some_and(has_control) {
            return Err(NoReturn::Unusable);
        }
        let whole = match query {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        if whole.len() > MAX {
            return Err(NoReturn::Unusable);
        }
        Ok(Self(whole.into()))
    }

    /// Returns the page that a request asks for.
    ///
    /// # Errors
    ///
    /// Returns [`Error::PageNotKept`] if no login may return to the page, or if the URL of the page
    /// is too long for a login.
    pub(crate) fn requested(text: &str, own: &OwnPaths) -> Result<Self, Error> {
        Self::parse(text, own).ok_or(Error::PageNotKept)
    }

    /// Accepts a return address in a link that the gateway does not trust: a return path, or an
    /// absolute URL of `public_url`.
    pub(crate) fn in_link(text: &str, public_url: &PublicUrl, own: &OwnPaths) -> Option<Self> {
        let local = match text.strip_prefix(public_url.origin()) {
            Some("") => "/",
            Some(rest) => rest,
            None => text,
        };
        Self::parse(local, own)
    }

    /// Creates the return path that leads to a saved page or to a kept form. `path` is the path of
    /// the endpoint of the page or of the form.
    pub(super) fn saved(path: &str) -> Self {
        Self(path.into())
    }

    /// Reads a return path from encrypted data. In encrypted data, a return path can also be the
    /// endpoint of a saved page or of a kept form.
    pub(super) fn from_sealed(text: &str, own: &OwnPaths) -> Option<Self> {
        let name = own.saved_page_name(text);
        let name = name.or_else(|| own.tab_page_name(text));
        let name = name.or_else(|| own.kept_form_name(text));
        match name.and_then(Tab::parse) {
            Some(_tab) => Some(Self::saved(text)),
            None => Self::parse(text, own),
        }
    }

    /// Returns true if the `state` parameter can contain the return path.
    pub(crate) fn is_short(&self) -> bool {
        self.0.len() <= MAX_SHORT
    }

    /// Encrypts the return path for use in a link to the gateway. `origin` is the public origin of
    /// the gateway. The gateway does not trust an unencrypted return path in a link.
    pub(super) fn seal(&self, keys: &KeyRing, origin: &str) -> Result<String, NoRandomness> {
        let sealed = keys.seal(&sealed_for(origin), self.0.as_bytes())?;
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Decrypts a return path that [`ReturnTo::seal`] encrypted for `origin`.
    pub(super) fn unseal(
        text: &str,
        (keys, own): (&KeyRing, &OwnPaths),
        origin: &str,
    ) -> Option<Self> {
        // The encrypted form of a short path is shorter than twice `MAX_SHORT`, because base64 adds
        // one third, and the cipher adds fewer than 100 bytes.
        if text.len() > MAX_SHORT.saturating_mul(2) {
            return None;
        }
        let sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
        let plain = keys.open(&sealed_for(origin), &sealed)?;
        Self::from_sealed(std::str::from_utf8(&plain).ok()?, own)
    }

    /// The path and query.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the value of a `Location` field: the return path on `origin`, a configured
    /// `scheme://host[:port]`.
    pub(crate) fn absolute(&self, origin: &str) -> String {
        // The slash at the end of the origin is removed, so that the result contains no `//` before
        // the path.
        [origin.trim_end_matches('/'), &self.0].concat()
    }
}

impl fmt::Debug for ReturnTo {
    /// The debug output of a return path contains only the path, because the query may contain
    /// secrets that must not be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.split('?').next().unwrap_or_default();
        f.debug_tuple("ReturnTo").field(&path).finish()
    }
}

/// Returns true when `query` contains a control character after one or two percent-decodings. Tabs
/// and line ends are allowed, because a query may contain a text with several lines. The gateway
/// never decodes the query, so a line end cannot end the `Location` field.
fn has_control(query: &str) -> bool {
    let is_refused = |byte: u8| byte.is_ascii_control() && !b"\t\n\r".contains(&byte);
    let once: Vec<u8> = percent_encoding::percent_decode_str(query).collect();
    let mut twice = percent_encoding::percent_decode(&once);
    once.iter().any(|byte| is_refused(*byte)) || twice.any(is_refused)
}

#[cfg(test)]
#[path = "return_to_tests.rs"]
mod tests;
