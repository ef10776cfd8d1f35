//! What HTTP/2's header compression may remember of a response (RFC 7541).

use http::{HeaderMap, HeaderName};

/// Keeps all values out of the table of compressed fields but those that an app says again and
/// again, by marking them as never indexed.
///
/// A value that is another one each time (an id of the request, a date) pushes out those that are
/// worth their place, and is compared with all of its name that came before: some fifty times in a
/// response, when measured. And what is not in the table cannot be guessed by its length (RFC 7541
/// section 7.1), whatever an app has in fields of its own.
pub(super) fn index_only_repeating(headers: &mut HeaderMap) {
    for (name, value) in headers {
        if !is_repeating(name) {
            value.set_sensitive(true);
        }
    }
}

/// Fields whose values say something about the app or the site rather than about one response.
fn is_repeating(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "accept-ranges"
            | "access-control-allow-credentials"
            | "access-control-allow-headers"
            | "access-control-allow-methods"
            | "access-control-allow-origin"
            | "access-control-expose-headers"
            | "access-control-max-age"
            | "allow"
            | "cache-control"
            | "content-encoding"
            | "content-language"
            | "content-security-policy"
            | "content-security-policy-report-only"
            | "content-type"
            | "cross-origin-embedder-policy"
            | "cross-origin-opener-policy"
            | "cross-origin-resource-policy"
            | "permissions-policy"
            | "pragma"
            | "referrer-policy"
            | "server"
            | "strict-transport-security"
            | "vary"
            | "via"
            | "x-content-type-options"
            | "x-frame-options"
            | "x-powered-by"
            | "x-xss-protection"
    )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_what_repeats_may_be_remembered() {
        let fields = [
            ("content-type", "text/html", true),
            ("cache-control", "no-store", true),
            ("x-frame-options", "DENY", true),
            ("date", "Thu, 26 Nov 2026 20:00:00 GMT", false),
            ("x-request-id", "0f6d", false),
            ("x-csrf-token", "secret", false),
            ("set-cookie", "a=1", false),
            ("set-cookie", "b=2", false),
            ("x-frame-option", "DENY", false),
        ];
        let mut headers = HeaderMap::new();
        for (name, value, _) in fields {
            headers.append(name, HeaderValue::from_static(value));
        }
        index_only_repeating(&mut headers);
        for (name, value, indexed) in fields {
            let mut values = headers.get_all(name).iter();
            let found = values.find(|found| *found == value).unwrap();
            assert_eq!(!found.is_sensitive(), indexed, "{name}");
        }
    }
}
