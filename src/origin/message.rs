//! Converts the target of a request to the origin form, and checks the fields that state the length
//! of a response.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use http_body::Body;

use super::error::Error;

/// Whether a response states its length in exactly one way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Framing {
    /// The response states its length in exactly one way.
    Unambiguous,
    /// The response states its length in several ways, or the stated length is not a number. The
    /// fields that state the length were removed or corrected.
    Ambiguous,
}

/// Converts a request target to the origin form: path and query (RFC 9112 section 3.2.1).
pub(super) fn origin_form(uri: Uri) -> Uri {
    if uri.scheme().is_none() && uri.authority().is_none() {
        return uri;
    }
    uri.into_parts()
        .path_and_query
        .map_or_else(Uri::default, Uri::from)
}

/// Checks and corrects the fields that state the length of a response (RFC 9112 section 6.3), so
/// that the client reads the same length as the gateway. Removes `Transfer-Encoding`, and keeps
/// `Content-Length` only if its value is one correct number.
///
/// # Errors
///
/// Returns [`Error::Framing`] if the response has a transfer coding other than `chunked`. The
/// gateway can decode only `chunked`, and requests no transfer coding.
pub(super) fn normalize_framing(
    headers: &mut HeaderMap,
    status: StatusCode,
    body: &impl Body,
) -> Result<Framing, Error> {
    let mut framing = Framing::Unambiguous;
    let mut is_coded = false;
    let mut lengths = 0_usize;
    let mut is_number = true;
    // One loop over all fields is faster than a look-up of each name.
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
        // `Transfer-Encoding` overrides `Content-Length`. A message with `Transfer-Encoding` and
        // `Content-Length` may be an attack (RFC 9112 section 6.3).
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
    // RFC 9110 section 8.6: a 204 response has no content and no `Content-Length`.
    if status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
    Ok(framing)
}
