//! What the parser lets through and we refuse.

use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, StatusCode, Version};

/// Why a request's framing was not accepted.
///
/// Side: client, all of them. The connection is closed after the answer: what follows on it may
/// be the body of one request or the head of another.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FramingError {
    /// `Content-Length` is not a single decimal number without leading zeros, or more than
    /// 2^63 - 1, which a backend may read as negative.
    #[error("the content length is not one plain number")]
    ContentLength,
    /// `Expect` is there and not exactly one `100-continue` (RFC 9110 section 10.1.1).
    #[error("the expectation is unknown")]
    Expectation,
    /// `Transfer-Encoding` is not exactly one `chunked`, or not on HTTP/1.1.
    #[error("the transfer encoding is not one plain chunked")]
    TransferEncoding,
    /// `Transfer-Encoding` together with `Content-Length` (RFC 9112 section 6.1).
    #[error("the body has two lengths")]
    TwoLengths,
    /// A request for another protocol that has a body: where the body ends and the other protocol
    /// begins is not the same for everybody.
    #[error("a request for another protocol has a body")]
    UpgradeWithBody,
}

impl FramingError {
    /// The status code of the answer.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::ContentLength
            | Self::TransferEncoding
            | Self::TwoLengths
            | Self::UpgradeWithBody => StatusCode::BAD_REQUEST,
        }
    }

    /// A stable code for logs and metrics.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::ContentLength => "framing_content_length",
            Self::Expectation => "framing_expectation",
            Self::TransferEncoding => "framing_transfer_encoding",
            Self::TwoLengths => "framing_two_lengths",
            Self::UpgradeWithBody => "framing_upgrade_with_body",
        }
    }
}

/// Checks the framing of a request, before anything is removed from it. It asks for more than the
/// parser does; what the parser has already mended and hidden (a second equal `Content-Length`, one
/// beside `Transfer-Encoding`) is not seen here, and not forwarded either.
///
/// # Errors
///
/// Any [`FramingError`].
pub(crate) fn check(parts: &Parts) -> Result<(), FramingError> {
    let headers = &parts.headers;
    // One pass instead of a look-up for each: most requests have none of these.
    let framing = [TRANSFER_ENCODING, CONTENT_LENGTH, EXPECT];
    if !headers.keys().any(|name| framing.contains(name)) {
        return Ok(());
    }
    let chunked = one(parts, &TRANSFER_ENCODING, FramingError::TransferEncoding)?;
    let length = one(parts, &CONTENT_LENGTH, FramingError::ContentLength)?;
    if chunked.is_some_and(|coding| {
        parts.version != Version::HTTP_11 || !coding.as_bytes().eq_ignore_ascii_case(b"chunked")
    }) {
        return Err(FramingError::TransferEncoding);
    }
    if length.is_some_and(|length| !is_plain_number(length)) {
        return Err(FramingError::ContentLength);
    }
    if chunked.is_some() && length.is_some() {
        return Err(FramingError::TwoLengths);
    }
    let expectation = one(parts, &EXPECT, FramingError::Expectation)?;
    if expectation.is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(FramingError::Expectation);
    }
    // `h2c` is offered by clients that mean an ordinary request, and ignored.
    let other_protocol = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"h2c");
    let has_body = chunked.is_some() || length.is_some();
    if has_body && headers.get_all(UPGRADE).iter().any(other_protocol) {
        return Err(FramingError::UpgradeWithBody);
    }
    Ok(())
}

/// The field's only value; `several` when there is more than one line of it.
fn one<'a>(
    parts: &'a Parts,
    name: &http::HeaderName,
    several: FramingError,
) -> Result<Option<&'a HeaderValue>, FramingError> {
    let mut values = parts.headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        Err(several)
    } else {
        Ok(first)
    }
}

fn is_plain_number(value: &HeaderValue) -> bool {
    let value = value.as_bytes();
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let leading_zero = value.len() > 1 && value.starts_with(b"0");
    let number = std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse::<i64>().ok());
    digits && !leading_zero && number.is_some()
}
