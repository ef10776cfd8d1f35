//! Auth checks of Envoy over gRPC: one call of `envoy.service.auth.v3.Authorization/Check` for each
//! request.
//!
//! The message of the call contains the original request. The gateway handles this request like
//! every other auth check, and packs the answer into the message of the response.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use prost::Message as _;

use super::X_ENVOY_AUTH_HEADERS_TO_REMOVE;
use super::messages::{
    AppendAction, BoolValue, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValueOption,
    HttpRequest, HttpResponse, HttpStatus, OkHttpResponse, Status,
};
use super::original::{HOST_MEMBER, METHOD_MEMBER, PATH_MEMBER, original_target, refuse};
use crate::gateway::grpc::{Protocol, STATUS};
use crate::gateway::{Body, Error};
use crate::server::{BodyFailure, RequestBody};

/// The path of the call.
pub(super) const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The largest message, in bytes. A message contains the head of one request.
const LARGEST: u64 = 256 * 1024;

/// The length of the prefix of a message: whether the message is compressed, and its length.
const PREFIX: usize = 5;

/// The code of gRPC for a refused request.
const PERMISSION_DENIED: i32 = 7;

/// Fields of the original request that describe its content or its connection. The auth check has no
/// content. If the gateway took the original request for a gRPC call, its answer would have the
/// status 200 even if the call is refused.
/// The gateway would remove the fields that `Connection` names before it sees the fields of a
/// handshake.
const OF_CONTENT: [HeaderName; 5] = [
    CONNECTION,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    EXPECT,
    TRANSFER_ENCODING,
];

/// Reads the message of a call, and returns the original request.
pub(super) async fn read(body: &mut RequestBody) -> Result<Parts, Error> {
    body.limit(LARGEST).map_err(Error::RequestBody)?;
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(Error::RequestBody)?.into_data() {
            bytes.put(data);
        }
    }
    let broken = || Error::RequestBody(BodyFailure::Broken);
    let message = message(&bytes).ok_or_else(broken)?;
    let call = CheckRequest::decode(message).map_err(|_malformed| broken())?;
    let attributes = call.attributes.and_then(|attributes| attributes.request);
    let request = attributes.and_then(|request| request.http);
    original(request.ok_or_else(|| refuse(&PATH_MEMBER))?)
}

/// Returns the only message of a call. The message must not be compressed.
fn message(bytes: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = bytes.split_first_chunk::<PREFIX>()?;
    let [0, length @ ..] = prefix else {
        return None;
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    (message.len() == length).then_some(message)
}

fn original(request: HttpRequest) -> Result<Parts, Error> {
    let (mut parts, ()) = Request::new(()).into_parts();
    let method = Method::from_bytes(request.method.as_bytes());
    parts.method = method.map_err(|_invalid| refuse(&METHOD_MEMBER))?;
    let target = original_target(&request.path);
    parts.uri = Uri::from(target.ok_or_else(|| refuse(&PATH_MEMBER))?);
    let fields = request.headers.into_iter();
    let fields = fields.map(|(name, value)| (name, value.into_bytes()));
    let raw = request.header_map.unwrap_or_default().headers.into_iter();
    let raw = raw.map(|field| {
        let is_text = field.raw_value.is_empty();
        let text = field.value.into_bytes();
        (field.key, if is_text { text } else { field.raw_value })
    });
    for (name, value) in fields.chain(raw) {
        // The other members of the message contain the values of pseudo-header fields.
        if name.starts_with(':') {
            continue;
        }
        let name = HeaderName::try_from(name).map_err(|_invalid| refuse(&PATH_MEMBER))?;
        let value = HeaderValue::try_from(value).map_err(|_invalid| refuse(&name))?;
        parts.headers.append(name, value);
    }
    for name in OF_CONTENT {
        parts.headers.remove(name);
    }
    let host = HeaderValue::try_from(request.host).ok();
    let host = host.filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| refuse(&HOST_MEMBER))?;
    parts.headers.insert(HOST, host);
    Ok(parts)
}

/// Packs the answer to an auth check into the response of the call. `written` are the names of all
/// fields that the gateway writes for an app.
pub(super) async fn response(answer: Response<Body>, written: &[HeaderName]) -> Response<Body> {
    let (head, body) = answer.into_parts();
    let content = match body.collect().await {
        Ok(content) => content.to_bytes(),
        Err(error) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            return Protocol::Grpc.answer(status, &error.to_string(), None);
        }
    };
    // Only the answer to a permitted request has the status 200.
    let message = if head.status == StatusCode::OK {
        CheckResponse {
            status: Some(Status { code: 0 }),
            http_response: Some(HttpResponse::Ok(permitted(&head.headers, written))),
        }
    } else {
        let denied = DeniedHttpResponse {
            status: Some(HttpStatus {
                code: i32::from(head.status.as_u16()),
            }),
            headers: options(&head.headers, |name| {
                *name != CONTENT_LENGTH && *name != CONNECTION
            }),
            body: String::from_utf8_lossy(&content).into_owned(),
        };
        CheckResponse {
            status: Some(Status {
                code: PERMISSION_DENIED,
            }),
            http_response: Some(HttpResponse::Denied(denied)),
        }
    };
    let trailers = HeaderMap::from_iter([(STATUS, HeaderValue::from_static("0"))]);
    let mut response = Response::new(Body::with_trailers(framed(&message), trailers));
    let kind = Protocol::Grpc.content_type();
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Returns the changes of a permitted request.
fn permitted(answer: &HeaderMap, written: &[HeaderName]) -> OkHttpResponse {
    let is_for_app = |name: &HeaderName| {
        written.contains(name) || *name == COOKIE || *name == http::header::AUTHORIZATION
    };
    let removed = answer.get(X_ENVOY_AUTH_HEADERS_TO_REMOVE);
    let removed = removed.and_then(|names| names.to_str().ok());
    let removed = removed.unwrap_or_default().split(',');
    OkHttpResponse {
        headers: options(answer, is_for_app),
        headers_to_remove: removed
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
    }
}

/// Returns the chosen fields. The first value of a name replaces the values in the message that
/// Envoy changes. Each further value is added.
fn options(headers: &HeaderMap, is_chosen: impl Fn(&HeaderName) -> bool) -> Vec<HeaderValueOption> {
    let chosen = headers.keys().filter(|name| is_chosen(name));
    let options = chosen.flat_map(|name| {
        let values = headers.get_all(name).iter().enumerate();
        values.map(|(index, value)| option(name, value, index == 0))
    });
    options.collect()
}

fn option(name: &HeaderName, value: &HeaderValue, replaces: bool) -> HeaderValueOption {
    let action = if replaces {
        AppendAction::Overwrite
    } else {
        AppendAction::Append
    };
    // Only `raw_value` can contain a value that is not UTF-8.
    let (text, raw) = match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => (text.to_owned(), Vec::new()),
        Err(_not_text) => (String::new(), value.as_bytes().to_vec()),
    };
    HeaderValueOption {
        header: Some(super::messages::HeaderValue {
            key: name.as_str().to_owned(),
            value: text,
            raw_value: raw,
        }),
        append: replaces.then_some(BoolValue { value: false }),
        append_action: i32::from(action),
    }
}

/// Returns a message with its prefix.
fn framed(message: &CheckResponse) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    bytes.put(&*message.encode_to_vec());
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::auth_check::messages;

    fn request() -> HttpRequest {
        HttpRequest {
            method: "POST".to_owned(),
            path: "/a%2Fb?x=1".to_owned(),
            host: "app.test".to_owned(),
            ..HttpRequest::default()
        }
    }

    fn field(key: &str, raw: &[u8]) -> messages::HeaderValue {
        messages::HeaderValue {
            key: key.to_owned(),
            value: String::new(),
            raw_value: raw.to_vec(),
        }
    }

    #[test]
    fn the_original_request_is_read_from_the_message() {
        let mut asked = request();
        let text = |text: &str| text.to_owned();
        asked.headers.insert(text(":path"), text("/public"));
        asked.headers.insert(text("host"), text("evil.test"));
        asked
            .headers
            .insert(text("content-type"), text("application/grpc"));
        asked.headers.insert(text("accept"), text("*/*"));
        asked
            .headers
            .insert(text("connection"), text("sec-websocket-key"));
        asked.header_map = Some(messages::HeaderMap {
            headers: vec![field("cookie", b"a=1"), field("cookie", b"b=\xff")],
        });
        let parts = original(asked).unwrap();
        assert_eq!(parts.method, Method::POST);
        assert_eq!(parts.uri, "/a%2Fb?x=1");
        assert_eq!(parts.headers[HOST], "app.test");
        assert_eq!(parts.headers.get_all(HOST).iter().count(), 1);
        assert_eq!(parts.headers["accept"], "*/*");
        assert_eq!(parts.headers.get(CONTENT_TYPE), None);
        assert_eq!(parts.headers.get(CONNECTION), None);
        let cookies: Vec<_> = parts.headers.get_all(COOKIE).iter().collect();
        assert_eq!(cookies, [&b"a=1"[..], b"b=\xff"]);
    }

    #[test]
    fn p_44_a_missing_or_malformed_member_is_refused() {
        let name = |request: HttpRequest| match original(request) {
            Err(Error::AuthCheckField(name)) => name.to_string(),
            other => panic!("{other:?}"),
        };
        for method in ["", "A B"] {
            let request = HttpRequest {
                method: method.to_owned(),
                ..request()
            };
            assert_eq!(name(request), "method");
        }
        for path in ["", "*", "a", "http://evil.test/", "/a#b", "/a b"] {
            let request = HttpRequest {
                path: path.to_owned(),
                ..request()
            };
            assert_eq!(name(request), "path");
        }
        for host in ["", "a\nb"] {
            let request = HttpRequest {
                host: host.to_owned(),
                ..request()
            };
            assert_eq!(name(request), "host");
        }
    }

    #[test]
    fn one_whole_message_without_compression_is_read() {
        for (bytes, expected) in [
            (&b"\0\0\0\0\x02ab"[..], Some(&b"ab"[..])),
            (b"\0\0\0\0\0", Some(b"")),
            (b"\x01\0\0\0\x02ab", None),
            (b"\0\0\0\0\x02abc", None),
            (b"\0\0\0\0\x02a", None),
            (b"\0\0\0\0", None),
            (b"", None),
        ] {
            assert_eq!(message(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_value_that_is_not_utf_8_stays_unchanged_and_an_empty_name_is_not_removed() {
        let mut answer = HeaderMap::new();
        let value = HeaderValue::from_bytes(b"b=\xff").unwrap();
        answer.insert(COOKIE, value);
        let changes = permitted(&answer, &[]);
        let header = changes.headers[0].header.clone().unwrap();
        assert_eq!((&*header.value, &*header.raw_value), ("", &b"b=\xff"[..]));
        assert_eq!(changes.headers_to_remove, [""; 0]);
    }

    #[test]
    fn a_permitted_request_gets_only_fields_for_the_app_and_loses_the_others() {
        let user = HeaderName::from_static("x-user");
        let mut answer = HeaderMap::new();
        for (name, value) in [
            ("x-user", "alice"),
            ("x-user", "second"),
            ("cookie", ""),
            ("cache-control", "no-store"),
            ("x-envoy-auth-headers-to-remove", "x-group,authorization"),
        ] {
            answer.append(name, HeaderValue::from_static(value));
        }
        let changes = permitted(&answer, &[user]);
        assert_eq!(changes.headers_to_remove, ["x-group", "authorization"]);
        let headers: Vec<_> = changes
            .headers
            .iter()
            .map(|option| {
                let header = option.header.clone().unwrap();
                let is_set = option.append.map(|append| append.value);
                (header.key, header.value, is_set, option.append_action)
            })
            .collect();
        let expected = [
            ("x-user", "alice", Some(false), 2),
            ("x-user", "second", None, 0),
            ("cookie", "", Some(false), 2),
        ];
        let expected = expected.map(|(name, value, is_set, action)| {
            (name.to_owned(), value.to_owned(), is_set, action)
        });
        assert_eq!(headers, expected);
    }
}
