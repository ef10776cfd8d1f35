//! The gateway's own answers to gRPC requests.
//!
//! A gRPC client reads the result of a call from the field `grpc-status`, and not from the status
//! code of HTTP. The gateway's own answer to a gRPC request has a head and no content. The head
//! contains the status code 200 and the fields `grpc-status` and `grpc-message`. The gRPC protocol
//! over HTTP/2 calls an answer without content "Trailers-Only". Clients of gRPC-Web also read
//! `grpc-status` and `grpc-message`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::Body;
use crate::access::Route;

pub(super) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// The ASCII characters that are percent-encoded in `grpc-message`. All bytes outside ASCII are
/// percent-encoded, too.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// The protocol of a gRPC request: gRPC or gRPC-Web.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Protocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// gRPC-Web with binary messages.
    Web,
    /// gRPC-Web with messages in base64.
    WebText,
}

/// The status code that an answer would have if the request were not a gRPC request. The access log
/// contains the `LoggedStatus`, because the status code of every answer to a gRPC request is 200.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoggedStatus(pub(super) StatusCode);

impl Protocol {
    /// Returns the protocol of a request with this method and these fields, or `None` if the
    /// request is not a gRPC request. All gRPC requests are POST requests.
    pub(super) fn of(method: &Method, headers: &HeaderMap) -> Option<Self> {
        if *method != Method::POST {
            return None;
        }
        let kind = headers.get(header::CONTENT_TYPE)?.as_bytes();
        let prefix = b"application/grpc";
        let (start, rest) = kind.split_at_checked(prefix.len())?;
        if !start.eq_ignore_ascii_case(prefix) {
            return None;
        }
        // A suffix such as `+proto` states the encoding of the messages.
        let end = |byte: &u8| matches!(byte, b'+' | b';' | b' ' | b'\t');
        let name = rest.split(end).next().unwrap_or_default();
        match name.to_ascii_lowercase().as_slice() {
            b"" => Some(Self::Grpc),
            b"-web" => Some(Self::Web),
            b"-web-text" => Some(Self::WebText),
            _ => None,
        }
    }

    /// Whether the client of a call may pause between its messages. A client is allowed to pause only
    /// if the app speaks HTTP/2. If neither the client nor the app sends data, a deadline of the
    /// upstream ends the call.
    pub(super) fn is_streaming_call(self, route: &Route) -> bool {
        self == Self::Grpc && route.speaks_http2()
    }

    /// The `Content-Type` of an answer.
    pub(super) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Grpc => "application/grpc",
            Self::Web => "application/grpc-web+proto",
            Self::WebText => "application/grpc-web-text+proto",
        })
    }

    /// Returns the answer that reports a failure. `status` is the status code that a client would
    /// get if the client did not use gRPC. `retry_after` is the pause before a retry.
    pub(super) fn answer(
        self,
        status: StatusCode,
        message: &str,
        retry_after: Option<Duration>,
    ) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(LoggedStatus(status));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, self.content_type());
        headers.insert(STATUS, HeaderValue::from(code(status)));
        let message = utf8_percent_encode(message, ENCODED).to_string();
        if let Ok(message) = HeaderValue::try_from(message) {
            headers.insert(MESSAGE, message);
        }
        if let Some(pause) = retry_after {
            let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            headers.insert(PUSHBACK, HeaderValue::from(millis));
        }
        response
    }
}

/// Returns the gRPC status code for a status code of HTTP. The mapping follows the document "HTTP
/// to gRPC Status Code Mapping" of gRPC, except for 408, 413, 429 and 504. The gateway sends 408 or
/// 504 when a deadline has passed. The gateway sends 413 or 429 when a request exceeds a limit of
/// the gateway.
fn code(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        408 | 504 => 4,
        413 | 429 => 8,
        502 | 503 => 14,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(content_type: &'static str) -> Option<Protocol> {
        let value = HeaderValue::from_static(content_type);
        Protocol::of(
            &Method::POST,
            &HeaderMap::from_iter([(header::CONTENT_TYPE, value)]),
        )
    }

    #[test]
    fn the_content_type_of_a_request_names_its_protocol() {
        for (content_type, protocol) in [
            ("application/grpc", Some(Protocol::Grpc)),
            ("application/grpc+proto", Some(Protocol::Grpc)),
            ("Application/gRPC+json; charset=utf-8", Some(Protocol::Grpc)),
            ("application/grpc;a=b", Some(Protocol::Grpc)),
            ("application/grpc-web", Some(Protocol::Web)),
            ("application/grpc-web+proto", Some(Protocol::Web)),
            ("application/grpc-web-text+proto", Some(Protocol::WebText)),
            ("application/grpcx", None),
            ("application/grpc-webx", None),
            ("application/json", None),
            ("text/application/grpc", None),
            ("", None),
        ] {
            assert_eq!(of(content_type), protocol, "{content_type}");
        }
        assert_eq!(Protocol::of(&Method::POST, &HeaderMap::new()), None);
    }

    #[test]
    fn each_status_code_has_a_code_of_grpc() {
        for (status, expected) in [
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (408, 4),
            (413, 8),
            (417, 2),
            (421, 2),
            (429, 8),
            (500, 2),
            (501, 2),
            (502, 14),
            (503, 14),
            (504, 4),
            (508, 2),
        ] {
            assert_eq!(
                code(StatusCode::from_u16(status).unwrap()),
                expected,
                "{status}"
            );
        }
    }

    #[test]
    fn a_message_is_percent_encoded() {
        let pause = Some(Duration::from_millis(1500));
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let response = Protocol::Grpc.answer(status, "100 % \"busy\"\r\nä", pause);
        let headers = response.headers();
        assert_eq!(headers[MESSAGE], "100 %25 \"busy\"%0D%0A%C3%A4");
        assert_eq!(headers[STATUS], "14");
        assert_eq!(headers[PUSHBACK], "1500");
        assert_eq!(response.status(), 200);
        assert_eq!(response.extensions().get::<LoggedStatus>().unwrap().0, 503);
    }
}
