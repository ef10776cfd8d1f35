//! Requests to switch a connection to another protocol (RFC 9110 section 7.8).

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, Version};

/// The constant for `Sec-WebSocket-Accept` in RFC 6455 section 1.3.
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The name of the WebSocket protocol in `Upgrade` (RFC 6455).
const WEBSOCKET: &[u8] = b"websocket";

/// Protocols that are versions of HTTP or TLS. If a client asks only for a version of HTTP or TLS,
/// the gateway forwards the request without `Upgrade`, so the app gets an ordinary request. After a
/// switch to a version of HTTP or TLS, every request on the connection would escape the checks of
/// the gateway.
const HTTP_AND_TLS: [&[u8]; 4] = [b"h2", b"h2c", b"http", b"tls"];

/// The maximum length of a protocol name that is forwarded, in bytes.
const LONGEST: usize = 128;

/// The request of a client to switch to another protocol.
#[derive(Clone, Debug)]
pub(crate) struct UpgradeRequest {
    protocol: HeaderValue,
    /// The `Sec-WebSocket-Key` for the app, if the client's request has no key.
    key: Option<HeaderValue>,
    /// The value of `Sec-WebSocket-Accept` by which the app proves that it understood the
    /// handshake.
    accept: Option<HeaderValue>,
}

impl UpgradeRequest {
    /// Removes the requested protocol from the extensions of a request.
    pub(crate) fn take(extensions: &mut Extensions) -> Option<Box<Self>> {
        // Most requests have no extensions. Then the look-up is not necessary.
        if extensions.is_empty() {
            return None;
        }
        extensions.remove::<Self>().map(Box::new)
    }

    /// Reads the requested protocol from a request whose fields have not been stripped yet. Returns
    /// `None` if the request asks for no other protocol, or only for versions of HTTP or TLS.
    ///
    /// A client lists several protocols in the order of its preference (RFC 9110 section 7.8). The
    /// gateway sends the app only the first protocol that it can forward. The gateway refuses a
    /// switch to any other protocol.
    pub(crate) fn read(parts: &Parts) -> Option<Self> {
        let headers = &parts.headers;
        // A server has to ignore `Upgrade` in HTTP/1.0, and HTTP/2 does not have `Upgrade` (RFC
        // 9110 section 7.8).
        if parts.version != Version::HTTP_11 || !lists(headers, &CONNECTION, b"upgrade") {
            return None;
        }
        let protocol = items(headers, &UPGRADE).find(|protocol| can_forward(protocol))?;
        Some(Self {
            protocol: HeaderValue::from_bytes(protocol).ok()?,
            key: None,
            accept: only(headers, &SEC_WEBSOCKET_KEY).and_then(websocket_accept),
        })
    }

    /// Creates the upgrade request for an HTTP/2 stream with the given `:protocol` (RFC 8441
    /// section 4). Returns `None` if the protocol is not WebSocket, or if the operating system
    /// returns no random bytes.
    ///
    /// Over HTTP/2 a client sends no `Sec-WebSocket-Key`, so this function generates the key for
    /// the app.
    pub(crate) fn of_stream(protocol: &str) -> Option<Self> {
        if !protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET) {
            return None;
        }
        let mut nonce = [0; 16];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let key = HeaderValue::from_str(&BASE64_STANDARD.encode(nonce)).ok()?;
        Some(Self {
            protocol: HeaderValue::from_static("websocket"),
            accept: websocket_accept(&key),
            key: Some(key),
        })
    }

    /// Returns the status code of an answer that accepts the switch to the protocol.
    pub(crate) fn success(&self) -> StatusCode {
        match self.key {
            Some(_) => StatusCode::OK,
            None => StatusCode::SWITCHING_PROTOCOLS,
        }
    }

    /// Returns true if the protocol is WebSocket.
    pub(crate) fn is_websocket(&self) -> bool {
        self.protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET)
    }

    /// Returns the name of the protocol.
    pub(crate) fn protocol(&self) -> &str {
        self.protocol.to_str().unwrap_or_default()
    }

    /// Writes the handshake fields into a request to an app. The caller has already removed the
    /// hop-by-hop fields of the request.
    pub(crate) fn write_request(&self, headers: &mut HeaderMap) {
        self.write(headers);
        if let Some(key) = &self.key {
            headers.insert(SEC_WEBSOCKET_KEY, key.clone());
        }
    }

    /// Writes the handshake fields into an answer to the client. The caller has already removed the
    /// hop-by-hop fields of the answer. Over HTTP/2, the status code alone tells the client that
    /// the switch is accepted, so the answer contains no handshake fields (RFC 8441 section 5).
    pub(crate) fn write_response(&self, headers: &mut HeaderMap) {
        match self.key {
            // The gateway created the `Sec-WebSocket-Key`, so the client must not get the app's
            // `Sec-WebSocket-Accept`.
            Some(_) => drop(headers.remove(SEC_WEBSOCKET_ACCEPT)),
            None => self.write(headers),
        }
    }

    fn write(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, self.protocol.clone());
    }

    /// Returns true if a 101 answer with these fields switches to the requested protocol. For
    /// WebSocket the app has to prove that it understood the handshake (RFC 6455 section 4.1).
    pub(crate) fn is_granted_by(&self, headers: &HeaderMap) -> bool {
        let switched = only(headers, &UPGRADE).is_some_and(|protocol| {
            protocol
                .as_bytes()
                .eq_ignore_ascii_case(self.protocol.as_bytes())
        });
        // If a WebSocket request has no valid key, the app cannot prove that it understood the
        // handshake, so no answer switches the protocol.
        let proven = !self.is_websocket()
            || self.accept.is_some()
                && self.accept.as_ref() == only(headers, &SEC_WEBSOCKET_ACCEPT);
        switched && proven && lists(headers, &CONNECTION, b"upgrade")
    }
}

/// Returns the value of `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 section 4.2.2).
pub(crate) fn websocket_accept(key: &HeaderValue) -> Option<HeaderValue> {
    let nonce = BASE64_STANDARD.decode(key.as_bytes()).ok()?;
    // RFC 6455 section 4.1 requires a nonce of 16 bytes.
    if nonce.len() != 16 {
        return None;
    }
    let text = [key.as_bytes(), WEBSOCKET_GUID].concat();
    // RFC 6455 requires SHA-1. The hash protects no secret, so the weakness of SHA-1 does no harm.
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &text);
    HeaderValue::from_str(&BASE64_STANDARD.encode(hash)).ok()
}

/// Returns true if the value is a valid protocol that is not a version of HTTP or TLS.
fn can_forward(protocol: &[u8]) -> bool {
    let name = protocol.split(|byte| *byte == b'/').next();
    let name = name.unwrap_or_default();
    protocol.len() <= LONGEST
        && protocol.iter().all(|byte| is_token(*byte) || *byte == b'/')
        && !name.is_empty()
        && !HTTP_AND_TLS
            .iter()
            .any(|http| http.eq_ignore_ascii_case(name))
}

/// Returns true if the list of tokens in this field contains `token`.
fn lists(headers: &HeaderMap, name: &HeaderName, token: &[u8]) -> bool {
    items(headers, name).any(|listed| listed.eq_ignore_ascii_case(token))
}

/// Returns the items of the list in this field.
fn items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).iter();
    let items = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    items.map(<[u8]>::trim_ascii)
}

/// Returns the value of the field `name`, if `headers` contains exactly one line of this field.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    lines.next().filter(|_line| lines.next().is_none())
}

/// Returns true if a byte may be a part of a token (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const KEY: (&str, &str) = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    const ACCEPT: (&str, &str) = ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");

    fn fields(fields: &[(&str, &str)]) -> HeaderMap {
        let named = |(name, value): &(&str, &str)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields.iter().map(named) {
            headers.append(name, value);
        }
        headers
    }

    fn read(version: Version, of: &[(&str, &str)]) -> Option<UpgradeRequest> {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.version = version;
        parts.headers = fields(of);
        UpgradeRequest::read(&parts)
    }

    #[test]
    fn s_36_the_first_protocol_that_is_no_http_is_asked_for() {
        for (upgrade, asked) in [
            ("websocket", Some("websocket")),
            ("WebSocket", Some("WebSocket")),
            ("tcp", Some("tcp")),
            ("foo/2", Some("foo/2")),
            ("h2c", None),
            ("H2C", None),
            ("h2", None),
            ("HTTP/2.0", None),
            ("TLS/1.2", None),
            ("websocket, h2c", Some("websocket")),
            ("h2c, websocket", Some("websocket")),
            ("TLS/1.3,HTTP/2.0 ,\twebsocket , tcp", Some("websocket")),
            ("tcp, websocket", Some("tcp")),
            ("h2c, TLS/1.2", None),
            (", ,websocket,", Some("websocket")),
            ("web socket, tcp", Some("tcp")),
            ("web socket", None),
            ("/2", None),
            (",", None),
            ("", None),
        ] {
            let request = [("Connection", "keep-alive, Upgrade"), ("Upgrade", upgrade)];
            let request = read(Version::HTTP_11, &request);
            let protocol = request.as_ref().map(UpgradeRequest::protocol);
            assert_eq!(protocol, asked, "{upgrade}");
        }
        let twice = [
            ("Upgrade", "h2c"),
            ("Upgrade", "websocket"),
            ("Connection", "upgrade"),
        ];
        let request = read(Version::HTTP_11, &twice).unwrap();
        assert!(request.is_websocket());
        assert!(read(Version::HTTP_11, &[("Upgrade", "websocket")]).is_none());
        let request = [("Upgrade", "websocket"), ("Connection", "upgrade")];
        assert!(read(Version::HTTP_10, &request).is_none());
        assert!(read(Version::HTTP_2, &request).is_none());
    }

    #[test]
    fn s_41_an_answer_switches_only_to_what_was_asked_for() {
        let connection = ("Connection", "Upgrade");
        let asked = [("Upgrade", "websocket"), connection, KEY];
        let asked = read(Version::HTTP_11, &asked).unwrap();
        assert!(asked.is_websocket());
        for (answer, granted) in [
            (vec![connection, ("Upgrade", "WebSocket"), ACCEPT], true),
            (
                vec![
                    ("Connection", "foo, upgrade"),
                    ("Upgrade", "websocket"),
                    ACCEPT,
                ],
                true,
            ),
            (vec![("Upgrade", "websocket"), ACCEPT], false),
            (vec![connection, ACCEPT], false),
            (vec![connection, ("Upgrade", "tcp"), ACCEPT], false),
            (vec![connection, ("Upgrade", "websocket")], false),
            (
                vec![connection, ("Upgrade", "websocket"), ACCEPT, ACCEPT],
                false,
            ),
            (
                vec![
                    connection,
                    ("Upgrade", "websocket"),
                    ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOp="),
                ],
                false,
            ),
        ] {
            assert_eq!(asked.is_granted_by(&fields(&answer)), granted, "{answer:?}");
        }
    }

    #[test]
    fn s_41_a_handshake_without_a_good_key_is_never_granted() {
        let connection = ("Connection", "Upgrade");
        for key in [
            vec![],
            vec![("Sec-WebSocket-Key", "c2hvcnQ=")],
            vec![KEY, KEY],
        ] {
            let asked = [vec![("Upgrade", "websocket"), connection], key].concat();
            let asked = read(Version::HTTP_11, &asked).unwrap();
            for accept in [vec![], vec![ACCEPT]] {
                let answer = [vec![connection, ("Upgrade", "websocket")], accept].concat();
                assert!(!asked.is_granted_by(&fields(&answer)), "{answer:?}");
            }
        }
    }

    #[test]
    fn a_stream_of_http_2_asks_the_app_with_a_key_of_ours_and_keeps_the_proof_from_the_client() {
        assert!(UpgradeRequest::of_stream("tcp").is_none());
        let asked = UpgradeRequest::of_stream("WebSocket").unwrap();
        assert_eq!(asked.success(), StatusCode::OK);
        let mut request = HeaderMap::new();
        asked.write_request(&mut request);
        let key = request.get(SEC_WEBSOCKET_KEY).unwrap();
        let mut answer = HeaderMap::new();
        asked.write(&mut answer);
        assert!(!asked.is_granted_by(&answer));
        answer.insert(SEC_WEBSOCKET_ACCEPT, websocket_accept(key).unwrap());
        assert!(asked.is_granted_by(&answer));
        let mut answer = fields(&[ACCEPT]);
        asked.write_response(&mut answer);
        assert!(answer.is_empty(), "{answer:?}");
        let other = UpgradeRequest::of_stream("websocket").unwrap();
        assert_ne!(other.key, asked.key);
    }

    #[test]
    fn another_protocol_needs_no_proof() {
        let request = [("Upgrade", "tcp"), ("Connection", "Upgrade")];
        let asked = read(Version::HTTP_11, &request).unwrap();
        assert!(!asked.is_websocket());
        assert_eq!(asked.protocol(), "tcp");
        let mut answer = HeaderMap::new();
        assert!(!asked.is_granted_by(&answer));
        asked.write_response(&mut answer);
        assert!(asked.is_granted_by(&answer));
    }

    #[test]
    fn a_protocol_with_a_name_of_more_than_128_bytes_is_not_asked_for() {
        for (length, asked) in [(128, true), (129, false)] {
            let name = "a".repeat(length);
            let request = [("Upgrade", name.as_str()), ("Connection", "upgrade")];
            let request = read(Version::HTTP_11, &request);
            assert_eq!(request.is_some(), asked, "{length}");
        }
    }
}
