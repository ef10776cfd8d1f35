//! What is written of a request's target, and what is believed of a response's framing.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use http_body::Body as _;
use hyper::body::Incoming;

use super::error::Error;

/// How a response announced its length.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Framing {
    /// In one way.
    Unambiguous,
    /// In more than one; the fields were made to say what was read.
    Ambiguous,
}

/// The target as an origin server wants it (RFC 9112 section 3.2.1).
pub(super) fn origin_form(uri: Uri) -> Uri {
    if uri.scheme().is_none() && uri.authority().is_none() {
        return uri;
    }
    uri.into_parts()
        .path_and_query
        .map_or_else(Uri::default, Uri::from)
}

/// Checks and cleans the fields that frame a response (RFC 9112 section 6.3), so that whoever
/// frames it anew cannot be misled: `Transfer-Encoding` is consumed here, and `Content-Length`
/// stays only where it is one number that is true.
///
/// # Errors
///
/// [`Error::Framing`] for a coding other than `chunked`: none was asked for, and none is undone.
pub(super) fn normalize_framing(
    headers: &mut HeaderMap,
    status: StatusCode,
    body: &Incoming,
) -> Result<Framing, Error> {
    let mut framing = Framing::Unambiguous;
    let mut is_coded = false;
    let mut lengths = 0_usize;
    let mut is_number = true;
    // One pass instead of a look-up for each.
    for (name, value) in &*headers {
        if *name == TRANSFER_ENCODING {
            is_coded = true;
        } else if *name == CONTENT_LENGTH {
            lengths = lengths.saturating_add(1);
            is_number = !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
        }
    }
    if is_coded {
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        let chunked = codings
            .next()
            .is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !chunked || codings.next().is_some() {
            return Err(Error::Framing);
        }
        headers.remove(TRANSFER_ENCODING);
        // The coding won; a length beside it is a lie or an attack.
        if headers.remove(CONTENT_LENGTH).is_some() {
            framing = Framing::Ambiguous;
        }
    } else if lengths > 1 || !is_number {
        headers.remove(CONTENT_LENGTH);
        if !body.is_end_stream()
            && let Some(length) = body.size_hint().exact()
        {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        framing = Framing::Ambiguous;
    }
    // RFC 9110 section 8.6: no length where there is never content.
    if status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
    Ok(framing)
}
