//! Silent sign-ins: logins during which the provider must not show a page (`prompt=none`).
//!
//! A silent sign-in that does not sign the user in returns to the requested page. The page must then
//! not begin another silent sign-in, so a cookie records the attempt. If the browser stores no
//! cookies, a parameter in the address of the page has the same effect. The same cookie records a
//! sign-out of the user, because a silent sign-in would undo the sign-out.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use url::form_urlencoded;

use super::hosts::parameter;
use super::{Login, PublicUrl, ReturnTo};
use crate::fields::cookie::{self as cookies, Found};
use crate::session::cookie;

/// The cookie that prevents another silent sign-in.
const SILENT: &str = "__Host-sidegate-silent";

/// The value of [`SILENT`] while the provider has not answered.
const TRIED: &[u8] = b"tried";

/// The parameter that prevents a silent sign-in in a browser that stores no cookies.
const PARAMETER: &str = "sidegate_silent";

/// The value of [`PARAMETER`].
const NO: &str = "no";

/// The time without another attempt after the provider has answered that the user is not signed in.
const AFTER_ANSWER: Duration = Duration::from_mins(15);

/// The time without another attempt if the browser does not come back from the provider. Some
/// providers answer `prompt=none` with an error page.
const WITHOUT_ANSWER: Duration = Duration::from_hours(24);

/// The time without an attempt after a sign-out: the longest lifetime of a cookie (RFC 6265bis
/// section 5.5). The next login deletes the cookie.
const AFTER_SIGN_OUT: Duration = Duration::from_hours(400 * 24);

impl Login {
    /// Returns true if a page load may begin a silent sign-in: the browser has not tried recently,
    /// and the user has not signed out. `query` is the query of the page.
    pub(crate) fn may_sign_in_silently(&self, headers: &HeaderMap, query: Option<&str>) -> bool {
        self.settings.silent_sign_in
            && matches!(cookies::find(headers, SILENT.as_bytes()), Found::Absent)
            && query.is_none_or(|query| parameter(query, PARAMETER) != NO)
    }

    /// Returns the `Set-Cookie` value that records the beginning of a silent sign-in.
    pub(super) fn note_silent_attempt() -> HeaderValue {
        cookie::set(SILENT, "tried", WITHOUT_ANSWER)
    }

    /// Returns the `Set-Cookie` value that records the answer of the provider to a silent sign-in.
    /// Returns `None` if `headers` contain no record of the attempt.
    pub(crate) fn note_silent_answer(headers: &HeaderMap) -> Option<HeaderValue> {
        match cookies::find(headers, SILENT.as_bytes()) {
            Found::One(TRIED) => Some(cookie::set(SILENT, "answered", AFTER_ANSWER)),
            Found::One(_) | Found::Absent | Found::Conflicting => None,
        }
    }

    /// Returns the `Set-Cookie` value that records a sign-out, if a route signs users in silently.
    pub(super) fn note_sign_out(&self) -> Option<HeaderValue> {
        let is_used = self.settings.silent_sign_in;
        is_used.then(|| cookie::set(SILENT, "signed-out", AFTER_SIGN_OUT))
    }

    /// Returns the `Set-Cookie` value that allows silent sign-ins after a login.
    pub(super) fn allow_silent_sign_in(&self) -> Option<HeaderValue> {
        self.settings.silent_sign_in.then(|| cookie::clear(SILENT))
    }

    /// Returns the URL at which `host` continues after a silent sign-in that has signed nobody in.
    /// Without random bytes from the system, the URL is the URL of the page.
    pub(crate) fn after_silent_sign_in(&self, return_to: &ReturnTo, host: &PublicUrl) -> String {
        match self.seal(return_to, host) {
            Ok(sealed) => {
                let mut query = form_urlencoded::Serializer::new(String::new());
                query.append_pair("to", &sealed);
                let (origin, path) = (host.origin(), self.own().silent());
                format!("{origin}{path}?{}", query.finish())
            }
            Err(_no_randomness) => return_to.absolute(host.origin()),
        }
    }

    /// Returns the URL of the page that the user asked for, and the `Set-Cookie` values of the
    /// redirect to the page. `query` is the query of the request to [`Login::after_silent_sign_in`].
    pub(crate) fn page_without_user(
        &self,
        query: &str,
        (public_url, headers): (&PublicUrl, &HeaderMap),
    ) -> (String, Option<HeaderValue>) {
        let page = self.unseal(&parameter(query, "to"), public_url);
        let page = page.unwrap_or_else(ReturnTo::root);
        let url = page.absolute(public_url.origin());
        match cookies::find(headers, SILENT.as_bytes()) {
            Found::One(_) | Found::Conflicting => (url, Self::note_silent_answer(headers)),
            Found::Absent => {
                let separator = if url.contains('?') { '&' } else { '?' };
                (format!("{url}{separator}{PARAMETER}={NO}"), None)
            }
        }
    }
}
