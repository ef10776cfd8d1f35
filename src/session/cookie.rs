//! The names and the attributes of the gateway's cookies.
//!
//! The prefix `__Host-` binds a cookie to one host, to `Path=/` and to secure transport. Neither a
//! sibling domain nor a response over plain HTTP can set a cookie with the prefix `__Host-` (RFC
//! 6265bis section 4.1.3).

use std::time::Duration;

use http::HeaderValue;

use crate::secret::Secret;

/// The name of the session cookie.
pub const SESSION: &str = "__Host-sidegate";

/// The names of all other cookies of the gateway with the path `/` begin with this prefix.
pub(crate) const OTHERS: &str = "__Host-sidegate-";

/// Returns true if `name` is the name of a cookie of the gateway that browsers send to an app. The
/// cookies of saved pages ([`set_at`]) are not included, because browsers send them only to an
/// endpoint of the gateway. The gateway removes its own cookies from requests to an upstream. The
/// gateway also removes cookies with its own names from responses of an upstream.
pub fn is_own(name: &[u8]) -> bool {
    name == SESSION.as_bytes() || name.starts_with(OTHERS.as_bytes())
}

/// Returns the `Set-Cookie` value for the cookie of a session. `id` is a session id or a host id.
/// Without a lifetime, the browser deletes the cookie when the user closes the browser.
pub(crate) fn session(id: &Secret<String>, lifetime: Option<Duration>) -> HeaderValue {
    written((SESSION, id.expose()), "/", lifetime)
}

/// Returns the `Set-Cookie` value for a cookie of the gateway. `name` and `value` come from the
/// gateway and contain only characters that a cookie allows.
pub(crate) fn set(name: &str, value: &str, lifetime: Duration) -> HeaderValue {
    set_at("/", (name, value), lifetime)
}

/// Returns the `Set-Cookie` value for a cookie that the browser sends only to `path` and to the
/// paths below `path`. If `path` is not `/`, the name must not have the prefix `__Host-`.
pub(crate) fn set_at(path: &str, (name, value): (&str, &str), lifetime: Duration) -> HeaderValue {
    written((name, value), path, Some(lifetime))
}

fn written((name, value): (&str, &str), path: &str, lifetime: Option<Duration>) -> HeaderValue {
    let age = lifetime.map(|lifetime| format!("; Max-Age={}", lifetime.as_secs()));
    let age = age.unwrap_or_default();
    let text = format!("{name}={value}; Path={path}{age}; Secure; HttpOnly; SameSite=Lax");
    // The conversion to a field value does not fail, because names and values of cookies contain
    // only base64url, digits and hyphens, and paths contain only visible characters. If the
    // conversion to a field value failed, the field value would be empty, and the browser would
    // store no cookie.
    let mut field = HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    field.set_sensitive(true);
    field
}

/// Returns the `Set-Cookie` value that deletes a cookie that [`set_at`] has set.
pub(crate) fn clear_at(path: &str, name: &str) -> HeaderValue {
    set_at(path, (name, ""), Duration::ZERO)
}

/// Returns the `Set-Cookie` value that deletes a cookie of the gateway. The `Set-Cookie` value
/// contains all attributes of the cookie, because browsers do not delete a `__Host-` cookie if one
/// of these attributes is missing.
pub(crate) fn clear(name: &str) -> HeaderValue {
    set(name, "", Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{SessionId, StoreTag};

    #[test]
    fn c_01_the_session_cookie_has_every_attribute() {
        let id = SessionId::random(StoreTag::random().unwrap()).unwrap();
        let field = session(&id.to_text(), Some(Duration::from_hours(8)));
        let text = field.to_str().unwrap();
        let (pair, attributes) = text.split_once("; ").unwrap();
        assert_eq!(
            attributes,
            "Path=/; Max-Age=28800; Secure; HttpOnly; SameSite=Lax"
        );
        assert!(pair.starts_with("__Host-sidegate=") && pair.len() <= 4096);
        assert!(field.is_sensitive());
        let field = session(&id.to_text(), None);
        let (_, attributes) = field.to_str().unwrap().split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/; Secure; HttpOnly; SameSite=Lax");
        assert!(field.is_sensitive());
    }

    #[test]
    fn a_deletion_has_the_attributes_that_browsers_require() {
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
