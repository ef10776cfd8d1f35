//! The limits of a request head.
//!
//! The limits that hyper gets are higher than the limits of the settings. So a head that is a little
//! too large reaches [`is_above`], and its client gets an answer of the handler. hyper itself
//! answers a head that is above the limits of hyper, and the answer of hyper has no content.
//!
//! With a limit above its default number of fields, hyper allocates memory for the fields of every
//! head. So hyper gets a higher limit only when it has refused a head: the connection withholds the
//! answer of hyper, and reads the head again ([`FieldRoom`]).

use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, header};

use super::Limits;
use super::phase::Protocol;

/// The number of bytes by which the limit of hyper is higher than the limit of the settings.
const ROOM: usize = 32 * 1024;
/// The number of fields by which the limit of hyper is higher than the limit of the settings, if the
/// settings allow more fields than hyper accepts by default.
const ROOM_FIELDS: usize = 100;
/// The number of fields by which the limit of hyper is higher when a head is read again.
const MOST_ROOM_FIELDS: usize = 1000;
/// The number of fields that hyper accepts by default over HTTP/1.1.
const DEFAULT_FIELDS: usize = 100;

/// The bytes of a head of HTTP/1.1 that belong to no field, method or target: ` `, ` HTTP/1.1` and
/// two line breaks.
const HTTP1_HEAD: usize = 14;
/// The bytes of a field of HTTP/1.1 that belong neither to its name nor to its value: `: ` and a line
/// break.
const HTTP1_FIELD: usize = 4;
/// The size that HTTP/2 adds for each field (RFC 9113 section 6.5.2).
const HTTP2_FIELD: usize = 32;
/// The names of the pseudo-header fields `:method`, `:scheme`, `:authority` and `:path`, each with
/// [`HTTP2_FIELD`].
const HTTP2_HEAD: usize = 29 + 4 * HTTP2_FIELD;

/// How many fields hyper accepts over HTTP/1.1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum FieldRoom {
    /// As many fields as most heads need.
    Usual,
    /// Many fields, because hyper has refused the head with the usual limit.
    Most,
}

/// The HTTP library has refused the head of an HTTP/2 request.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP library has refused the head of an HTTP/2 request")]
pub(super) struct RefusedHead;

impl Limits {
    /// The limit of hyper for the size of a request head, in bytes.
    pub(super) fn library_head_bytes(&self) -> usize {
        self.head_bytes.saturating_add(ROOM)
    }

    /// The limit of hyper for the number of fields over HTTP/1.1. `None` if the default of hyper
    /// applies: with another number than its default, hyper allocates memory for the fields of every
    /// head.
    pub(super) fn library_fields(&self, room: FieldRoom) -> Option<usize> {
        let above = |room| Some(self.fields.saturating_add(room));
        match room {
            FieldRoom::Usual if self.fields <= DEFAULT_FIELDS => None,
            FieldRoom::Usual => above(ROOM_FIELDS),
            FieldRoom::Most => above(MOST_ROOM_FIELDS),
        }
    }
}

/// Returns the start of a request head that hyper has refused over HTTP/1.1: its method, its target
/// and its `Host` fields. `bytes` are the bytes of the head that have arrived. Returns `None` if they
/// do not begin with a request line.
pub(super) fn beginning(bytes: &[u8]) -> Option<Parts> {
    let end = bytes.iter().rposition(|byte| *byte == b'\n')?;
    let lines = bytes.get(..end)?.split(|byte| *byte == b'\n');
    let mut lines = lines
        .map(<[u8]>::trim_ascii_end)
        .skip_while(|line| line.is_empty());
    let mut words = lines.next()?.split(|byte| *byte == b' ');
    let (method, target) = (words.next()?, words.next()?);
    let mut request = Request::builder().method(method).uri(target);
    for line in lines.take_while(|line| !line.is_empty()) {
        let mut halves = line.splitn(2, |byte| *byte == b':');
        if let (Some(name), Some(value)) = (halves.next(), halves.next())
            && name.eq_ignore_ascii_case(header::HOST.as_str().as_bytes())
        {
            request = request.header(header::HOST, value.trim_ascii());
        }
    }
    Some(request.body(()).ok()?.into_parts().0)
}

/// Returns true if a request head is above the limits of the settings. `received` is an upper bound
/// for the size of a head of HTTP/1.1, so the size of most heads is not computed.
pub(super) fn is_above(
    limits: &Limits,
    head: &Parts,
    (protocol, received): (Protocol, usize),
) -> bool {
    let fields = &head.headers;
    if fields.len() > limits.fields && count_fields(fields) > limits.fields {
        return true;
    }
    let size = match protocol {
        Protocol::Http1 if received <= limits.head_bytes => return false,
        Protocol::Http1 => size(head, HTTP1_HEAD, HTTP1_FIELD),
        Protocol::Http2 => size(head, HTTP2_HEAD, HTTP2_FIELD),
    };
    size > limits.head_bytes
}

/// Counts the fields of a request head. HTTP/2 clients may split `Cookie` into several fields (RFC
/// 9113 section 8.2.3), so all `Cookie` fields count as one field.
fn count_fields(fields: &HeaderMap) -> usize {
    let pieces = fields.get_all(header::COOKIE).iter().count();
    fields.len().saturating_sub(pieces.saturating_sub(1))
}

/// The size of a request head without optional white space. `start` is added once, and `each` is
/// added for each field.
fn size(head: &Parts, start: usize, each: usize) -> usize {
    let uri = &head.uri;
    let target = [
        uri.scheme()
            .map_or(0, |scheme: &Scheme| scheme.as_str().len()),
        uri.authority()
            .map_or(0, |authority: &Authority| authority.as_str().len()),
        uri.path_and_query()
            .map_or(0, |path: &PathAndQuery| path.as_str().len()),
    ];
    let start = start.saturating_add(head.method.as_str().len());
    let start = target.into_iter().fold(start, usize::saturating_add);
    head.headers.iter().fold(start, |size, (name, value)| {
        let field = name.as_str().len().saturating_add(value.len());
        size.saturating_add(field).saturating_add(each)
    })
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(bytes: usize) -> Parts {
        let others = "GET /a HTTP/1.1\r\nhost: b\r\nc: \r\n\r\n".len();
        let value = "x".repeat(bytes.checked_sub(others).unwrap());
        let request = Request::get("/a").header("host", "b").header("c", value);
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn d_07_a_head_of_the_largest_size_passes_and_one_more_byte_does_not() {
        let limits = Limits::default();
        let largest = limits.head_bytes;
        for (bytes, expected) in [(largest, false), (largest + 1, true)] {
            let arrived = (Protocol::Http1, largest + 1);
            assert_eq!(
                is_above(&limits, &head(bytes), arrived),
                expected,
                "{bytes}"
            );
        }
        // The size is not computed if fewer bytes have arrived.
        let arrived = (Protocol::Http1, largest);
        assert!(!is_above(&limits, &head(largest + 1), arrived));
    }

    #[test]
    fn d_07_the_size_of_a_list_of_fields_is_that_of_http2() {
        let limits = Limits::default();
        let request = |value: &str| {
            let request = Request::get("https://localhost/").header("a", value);
            request.body(()).unwrap().into_parts().0
        };
        // RFC 9113 section 6.5.2: each field counts its name, its value and 32.
        let pseudo = [(7, 3), (7, 5), (10, 9), (5, 1)];
        let pseudo: usize = pseudo.iter().map(|(name, value)| name + value + 32).sum();
        let room = limits.head_bytes.checked_sub(pseudo + 33).unwrap();
        for (length, expected) in [(room, false), (room + 1, true)] {
            let head = request(&"x".repeat(length));
            assert_eq!(is_above(&limits, &head, (Protocol::Http2, 0)), expected);
        }
    }

    #[test]
    fn the_library_gets_more_fields_only_if_the_settings_allow_more_than_its_default() {
        for (fields, expected, most) in
            [(10, None, 1010), (100, None, 1100), (101, Some(201), 1101)]
        {
            let limits = Limits {
                fields,
                ..Limits::default()
            };
            assert_eq!(limits.library_fields(FieldRoom::Usual), expected);
            assert_eq!(limits.library_fields(FieldRoom::Most), Some(most));
        }
    }

    #[test]
    fn d_07_the_start_of_a_refused_head_names_its_path_and_its_host() {
        let named = |text: &str| {
            let parts = beginning(text.as_bytes())?;
            let hosts = parts.headers.get_all(header::HOST).iter();
            let hosts: Vec<_> = hosts
                .map(|host| host.to_str().unwrap().to_owned())
                .collect();
            Some(format!(
                "{} {} {}",
                parts.method,
                parts.uri,
                hosts.join(" ")
            ))
        };
        for (head, expected) in [
            ("GET /a?b HTTP/1.1\r\nHost: c\r\nX-A: d", Some("GET /a?b c")),
            (
                "\r\nPOST /a HTTP/1.1\nX-A: host: e\nhOST:c\n\nHost: d\n",
                Some("POST /a c"),
            ),
            (
                "GET /a HTTP/1.1\r\nHost: c\r\nhost: d\r\n",
                Some("GET /a c d"),
            ),
            // The last line may be cut.
            ("GET /a HTTP/1.1\r\nHost: exam", Some("GET /a ")),
            ("GET /a", None),
            ("GET\r\n", None),
            ("", None),
            ("\r\n\r\n", None),
            ("GET /\u{7f} HTTP/1.1\r\nHost: c\r\n", None),
        ] {
            assert_eq!(named(head).as_deref(), expected, "{head:?}");
        }
    }
}
