//! The session cookie's name and attributes.
//!
//! `__Host-` binds a cookie to one host, to `Path=/` and to secure transport, so that neither a
//! sibling domain nor a plain-text response can plant one (RFC 6265bis section 4.1.3).

use std::time::Duration;

use http::HeaderValue;

use super::SessionId;

/// The name of the session cookie.
pub const SESSION: &str = "__Host-sidegate";

/// What the names of all our other cookies begin with.
pub(crate) const OTHERS: &str = "__Host-sidegate-";

/// Whether a cookie is one of ours: it never passes to an upstream, nor from one to a browser.
pub fn is_own(name: &[u8]) -> bool {
    name == SESSION.as_bytes() || name.starts_with(OTHERS.as_bytes())
}

/// A `Set-Cookie` value that gives the browser a session.
pub(crate) fn session(id: &SessionId, lifetime: Duration) -> HeaderValue {
    set(SESSION, id.to_text().expose(), lifetime)
}

/// A `Set-Cookie` value for one of our cookies. `name` and `value` are of our own making: cookie
/// octets only.
pub(crate) fn set(name: &str, value: &str, lifetime: Duration) -> HeaderValue {
    written(name, value, lifetime, "Lax")
}

/// As [`set`], for a cookie that a form of another site brings along. It must prove nothing by
/// itself.
pub(crate) fn set_across_sites(name: &str, value: &str, lifetime: Duration) -> HeaderValue {
    written(name, value, lifetime, "None")
}

fn written(name: &str, value: &str, lifetime: Duration, same_site: &str) -> HeaderValue {
    let seconds = lifetime.as_secs();
    let text = format!(
        "{name}={value}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite={same_site}"
    );
    // Names and values are base64url, digits and hyphens; an empty field sets nothing.
    let mut field = HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    field.set_sensitive(true);
    field
}

/// A `Set-Cookie` value that makes the browser forget one of our cookies. It carries the same
/// attributes, since browsers refuse a `__Host-` deletion without them.
pub(crate) fn clear(name: &str) -> HeaderValue {
    set(name, "", Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::StoreTag;

    #[test]
    fn c_01_the_session_cookie_has_every_attribute() {
        let id = SessionId::random(StoreTag::random().unwrap()).unwrap();
        let field = session(&id, Duration::from_hours(8));
        let text = field.to_str().unwrap();
        let (pair, attributes) = text.split_once("; ").unwrap();
        assert_eq!(
            attributes,
            "Path=/; Max-Age=28800; Secure; HttpOnly; SameSite=Lax"
        );
        assert!(pair.starts_with("__Host-sidegate=") && pair.len() <= 4096);
        assert!(field.is_sensitive());
    }

    #[test]
    fn a_cookie_for_forms_of_other_sites_differs_in_nothing_else() {
        let field = set_across_sites("__Host-sidegate-0a", "x", Duration::from_mins(10));
        assert_eq!(
            field.to_str().unwrap(),
            "__Host-sidegate-0a=x; Path=/; Max-Age=600; Secure; HttpOnly; SameSite=None"
        );
        assert!(field.is_sensitive());
    }

    #[test]
    fn a_deletion_keeps_the_attributes_that_browsers_insist_on() {
        let field = clear(SESSION);
        assert_eq!(
            field.to_str().unwrap(),
            "__Host-sidegate=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax"
        );
    }

    #[test]
    fn h_26_only_exact_names_are_ours() {
        for own in [
            "__Host-sidegate",
            "__Host-sidegate-round",
            "__Host-sidegate-0a",
        ] {
            assert!(is_own(own.as_bytes()), "{own}");
        }
        for other in [
            "__host-sidegate",
            "__Host-sidegatex",
            "sidegate",
            "",
            "\u{a0}__Host-sidegate",
        ] {
            assert!(!is_own(other.as_bytes()), "{other}");
        }
    }
}
