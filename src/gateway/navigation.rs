//! Functions that decide whether a request is a page load of a browser, a prefetch, or something
//! else.

use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};

use super::page::Page;
use super::{Body, page};

/// The fields in which current and old browsers, and the scripts Turbo, htmx and Next.js, announce a
/// prefetch.
const PREFETCH_FIELDS: [&str; 7] = [
    "hx-preloaded",
    "next-router-prefetch",
    "purpose",
    "sec-purpose",
    "x-moz",
    "x-purpose",
    "x-sec-purpose",
];

/// Whether a request is a prefetch. A prefetch must not start a login and must not use up an
/// authorization code.
pub(super) fn is_prefetch(headers: &HeaderMap) -> bool {
    PREFETCH_FIELDS
        .iter()
        .any(|name| headers.contains_key(*name))
}

/// Whether a browser requests something other than a document, such as an image, a frame, or data.
/// If the request has no `Sec-Fetch-*` fields, the result is `false`.
fn is_subresource(headers: &HeaderMap) -> bool {
    let other = |name: &str, expected: &[u8]| {
        let value = headers.get(name);
        value.is_some_and(|value| value.as_bytes() != expected)
    };
    other("sec-fetch-mode", b"navigate") || other("sec-fetch-dest", b"document")
}

/// Whether a browser loads a page into a frame of another page.
pub(super) fn is_in_frame(parts: &Parts) -> bool {
    let sends = |name: &str, values: &[&[u8]]| {
        let value = parts.headers.get(name);
        value.is_some_and(|value| values.contains(&value.as_bytes()))
    };
    parts.method == Method::GET
        && !is_prefetch(&parts.headers)
        && sends("sec-fetch-mode", &[b"navigate"])
        && sends("sec-fetch-dest", &[b"iframe", b"frame"])
}

/// Returns the answer that refuses a request which is not a page load in a tab. An image on another
/// site must not start a login or set a cookie.
pub(super) fn refuse_embedded(headers: &HeaderMap) -> Option<Response<Body>> {
    if is_prefetch(headers) {
        return Some(refuse_prefetch(headers));
    }
    is_subresource(headers).then(|| {
        let title = "This page cannot be part of another page";
        Page::new(StatusCode::FORBIDDEN, title, "Open the page directly.")
            .with_reason("no_navigation")
            .respond(headers)
    })
}

/// Returns the answer that refuses a prefetch. The answer asks the user to open the page directly.
pub(super) fn refuse_prefetch(headers: &HeaderMap) -> Response<Body> {
    let title = "This page cannot be loaded in advance";
    Page::new(StatusCode::FORBIDDEN, title, "Open the page directly.")
        .with_reason("prefetch")
        .respond(headers)
}

/// Whether the browser shows the answer as a page in a tab, and not as a part of another page.
pub(super) fn is_navigation(parts: &Parts) -> bool {
    parts.method == Method::GET && is_page_load(parts)
}

/// Whether the browser sends a form, and shows the answer as a page in a tab.
pub(super) fn is_form_post(parts: &Parts) -> bool {
    parts.method == Method::POST && is_page_load(parts)
}

fn is_page_load(parts: &Parts) -> bool {
    if is_prefetch(&parts.headers) {
        return false;
    }
    if parts.headers.contains_key("sec-fetch-mode") {
        return !is_subresource(&parts.headers);
    }
    // Older browsers send no `Sec-Fetch-*` fields. When an older browser loads a page, its `Accept`
    // field names HTML.
    page::wants_html(&parts.headers)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(method: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_a_get_for_a_document_is_a_navigation() {
        let navigate = [
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        assert!(is_navigation(&parts("GET", &navigate)));
        assert!(is_navigation(&parts("GET", &[("accept", "text/html,*/*")])));
        for (method, fields) in [
            ("POST", &navigate[..]),
            ("HEAD", &navigate),
            (
                "GET",
                &[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
            ),
            (
                "GET",
                &[("sec-fetch-mode", "cors"), ("accept", "text/html")],
            ),
            (
                "GET",
                &[("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")],
            ),
            (
                "GET",
                &[
                    ("sec-fetch-dest", "serviceworker"),
                    ("sec-fetch-mode", "same-origin"),
                ],
            ),
            ("GET", &[("accept", "*/*")]),
            (
                "GET",
                &[
                    ("accept", "text/html"),
                    ("sec-purpose", "prefetch;prerender"),
                ],
            ),
            ("GET", &[("accept", "text/html"), ("purpose", "prefetch")]),
            ("GET", &[]),
        ] {
            assert!(
                !is_navigation(&parts(method, fields)),
                "{method} {fields:?}"
            );
        }
    }
}
