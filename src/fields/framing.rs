//! Rejects framing that the HTTP parser accepts but that is not safe to forward.

use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, StatusCode, Version};

/// The reason why a request's framing is rejected.
///
/// Responsible: the client. The connection is closed after the answer, because the next bytes may
/// be the body of this request or the head of another request.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FramingError {
    /// `Content-Length` is not exactly one decimal number without leading zeros, or the number is
    /// more than 2^63 - 1. An app could read a number above 2^63 - 1 as a negative number.
    #[error("Content-Length is not one decimal number")]
    ContentLength,
    /// `Expect` has several values, or its value is not `100-continue` (RFC 9110 section 10.1.1).
    #[error("Expect is not 100-continue")]
    Expectation,
    /// `Transfer-Encoding` is not the single value `chunked`, or the request is not HTTP/1.1.
    #[error("Transfer-Encoding is not exactly `chunked`")]
    TransferEncoding,
    /// The request has both `Transfer-Encoding` and `Content-Length` (RFC 9112 section 6.1).
    #[error("the request has both Content-Length and Transfer-Encoding")]
    TwoLengths,
    /// A request to switch to another protocol has a body. Servers do not agree where the body of
    /// an upgrade request ends and where the data of the new protocol begins.
    #[error("a request for a protocol upgrade has a body")]
    UpgradeWithBody,
}

impl FramingError {
    /// Returns the status code of the answer.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::ContentLength
            | Self::TransferEncoding
            | Self::TwoLengths
            | Self::UpgradeWithBody => StatusCode::BAD_REQUEST,
        }
    }

    /// Returns a stable code for logs and metrics.
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

/// Checks the framing of a request before the gateway removes any field. This function is stricter
/// than the HTTP parser. The parser has already removed some fields: a second, equal
/// `Content-Length`, and a `Content-Length` next to `Transfer-Encoding`. The fields that the parser
/// has removed reach neither this function nor the app.
///
/// # Errors
///
/// Any [`FramingError`].
pub(crate) fn check(parts: &Parts) -> Result<(), FramingError> {
    let headers = &parts.headers;
    // One pass over the fields is faster than a look-up for each name. Most requests have no
    // `Transfer-Encoding`, `Content-Length` or `Expect`.
    let framing = [TRANSFER_ENCODING, CONTENT_LENGTH, EXPECT];
    if !headers.keys().any(|name| framing.contains(name)) {
        return Ok(());
    }
    let chunked = one(parts, &TRANSFER_ENCODING, FramingError::TransferEncoding)?;
    let length = one(parts, &CONTENT_LENGTH, FramingError::ContentLength)?;
    // HTTP/1.0 has no chunked coding, and HTTP/2 has its own framing.
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
    // A client that offers `h2c` sends an ordinary HTTP/1.1 request. The gateway ignores the value
    // `h2c` of the field `Upgrade`.
    let other_protocol = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"h2c");
    let has_body = chunked.is_some() || length.is_some();
    if has_body && headers.get_all(UPGRADE).iter().any(other_protocol) {
        return Err(FramingError::UpgradeWithBody);
    }
    Ok(())
}

/// Returns the value of the field `name`, if the field has exactly one line. Returns the error in
/// the argument `several` if the field has more than one line.
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
