//! The bytes that arrive on a connection: what the first bytes are, and how many bytes the next
//! request head can have.

use std::cell::Cell;

use super::proxy_protocol::SIGNATURE;

/// The first bytes of a TLS handshake: a record of the type 22 with a version 3.x (RFC 8446 section
/// 5.1).
const TLS: [u8; 2] = [0x16, 0x03];

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Opening {
    /// Bytes that can belong to HTTP, or too few bytes to decide.
    #[default]
    Other,
    /// A PROXY header.
    ProxyHeader,
    /// A TLS handshake.
    Tls,
}

impl Opening {
    fn of(bytes: &[u8]) -> Self {
        if bytes.starts_with(&TLS) {
            Self::Tls
        } else if bytes.starts_with(b"PROXY ") || bytes.starts_with(&SIGNATURE) {
            Self::ProxyHeader
        } else {
            Self::Other
        }
    }
}

/// The number of bytes of HTTP/2 after which a connection lets other connections run. A client can
/// fill these bytes with frames that cost much, such as settings that change the windows of all
/// streams.
const TURN: usize = 16 * 1024;

/// The bytes that have arrived on one connection.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    opening: Cell<Opening>,
    /// An upper bound for the number of bytes that hyper has read and that can belong to the next
    /// request head.
    unparsed: Cell<usize>,
    /// The number of bytes of the latest read.
    last: Cell<usize>,
    /// The number of bytes of HTTP/2 that were read since the task of the connection last began to
    /// run.
    turn: Cell<usize>,
    /// Whether the client has sent too many frames of HTTP/2 that cost much.
    is_flood: Cell<bool>,
    /// The heads of HTTP/2 that have arrived since the task of the connection last began to run.
    heads: Cell<Heads>,
    /// The number of HTTP/2 requests that have begun in the same time.
    begun: Cell<u32>,
    /// Whether a stream was reset because its body is malformed, and the handler does not know it
    /// yet.
    malformed_body: Cell<bool>,
}

/// The heads of requests that have arrived over HTTP/2. Trailers do not count.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Heads {
    /// The number of all heads.
    pub(super) all: u32,
    /// The number of heads that may be too large for the HTTP library.
    pub(super) large: u32,
}

impl Arrivals {
    /// Records the first bytes of the connection.
    pub(super) fn begin(&self, bytes: &[u8]) {
        self.opening.set(Opening::of(bytes));
    }

    /// Records that the TLS handshake has ended. The first bytes belong to TLS, and say nothing about
    /// HTTP.
    pub(super) fn handshake_ended(&self) {
        self.opening.set(Opening::Other);
    }

    pub(super) fn opening(&self) -> Opening {
        self.opening.get()
    }

    /// Records that hyper has read `count` bytes of HTTP/1.1.
    pub(super) fn read(&self, count: usize) {
        self.last.set(count);
        self.unparsed.set(self.unparsed.get().saturating_add(count));
    }

    /// Records that the HTTP library has read `count` bytes of HTTP/2.
    pub(super) fn read_http2(&self, count: usize) {
        self.turn.set(self.turn.get().saturating_add(count));
    }

    /// Whether the connection has to let other connections run before it reads more of HTTP/2.
    pub(super) fn is_turn_over(&self) -> bool {
        self.turn.get() >= TURN
    }

    /// Records that the task of the connection stops running. Returns the number of heads that the
    /// HTTP library has refused because they are too large. The library answers such a head with 431
    /// and keeps the connection, and reports nothing: no request begins for the head.
    pub(super) fn turn_ended(&self) -> u32 {
        self.turn.set(0);
        let (heads, begun) = (self.heads.take(), self.begun.take());
        heads.all.saturating_sub(begun).min(heads.large)
    }

    /// Records that heads have arrived over HTTP/2.
    pub(super) fn heads_arrived(&self, heads: Heads) {
        let before = self.heads.get();
        self.heads.set(Heads {
            all: before.all.saturating_add(heads.all),
            large: before.large.saturating_add(heads.large),
        });
    }

    /// Records that an HTTP/2 request begins.
    pub(super) fn request_begins(&self) {
        self.begun.set(self.begun.get().saturating_add(1));
    }

    /// Records that the client has sent too many frames that cost much.
    pub(super) fn flooded(&self) {
        self.is_flood.set(true);
    }

    pub(super) fn is_flood(&self) -> bool {
        self.is_flood.get()
    }

    /// Records that a stream was reset because its body is malformed.
    pub(super) fn malformed_body(&self) {
        self.malformed_body.set(true);
    }

    /// Returns true if a stream was reset because its body is malformed since the last call.
    pub(super) fn take_malformed_body(&self) -> bool {
        self.malformed_body.take()
    }

    /// Records that hyper has parsed a request head. Returns an upper bound for the number of bytes
    /// of this head.
    ///
    /// hyper reads more bytes only if the bytes that it has read contain no complete head. So all
    /// bytes after this head came with the latest read.
    pub(super) fn head_parsed(&self) -> usize {
        self.unparsed.replace(self.last.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_of_a_head_counts_its_reads_and_the_read_before() {
        let arrivals = Arrivals::default();
        arrivals.read(500);
        assert_eq!(arrivals.head_parsed(), 500);
        // The read can contain a part of the next head.
        arrivals.read(30);
        arrivals.read(40);
        assert_eq!(arrivals.head_parsed(), 570);
        // The next head was complete before.
        assert_eq!(arrivals.head_parsed(), 40);
        // A connection that sends only small heads never has a large bound.
        for _ in 0..1000 {
            arrivals.read(500);
            assert!(arrivals.head_parsed() <= 1000);
        }
    }

    #[test]
    fn d_07_large_heads_over_http2_without_a_request_are_refused() {
        let arrivals = Arrivals::default();
        let heads = |all, large| Heads { all, large };
        for (arrived, begun, refused) in [
            // One large request is answered here, and one is refused.
            (&[heads(3, 1), heads(1, 1)][..], 3, 1),
            (&[heads(2, 2)], 2, 0),
            (&[heads(2, 2)], 0, 2),
            // The library also refuses small heads that are malformed.
            (&[heads(5, 0)], 1, 0),
            (&[], 0, 0),
        ] {
            for heads in arrived {
                arrivals.heads_arrived(*heads);
            }
            for _ in 0..begun {
                arrivals.request_begins();
            }
            assert_eq!(arrivals.turn_ended(), refused, "{arrived:?} {begun}");
        }
    }

    #[test]
    fn first_bytes_that_are_not_http_are_known() {
        for (bytes, opening) in [
            (&b"\x16\x03\x01\x00\xf8\x01"[..], Opening::Tls),
            (b"PROXY TCP4 192.0.2.1", Opening::ProxyHeader),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11", Opening::ProxyHeader),
            (b"PROXYTCP4", Opening::Other),
            (b"\r\nGET / HTTP/1.1\r\n", Opening::Other),
            (b"GET / HTTP/1.1\r\n", Opening::Other),
            (b"\x16", Opening::Other),
        ] {
            let arrivals = Arrivals::default();
            arrivals.begin(bytes);
            assert_eq!(arrivals.opening(), opening, "{}", bytes.escape_ascii());
        }
    }
}
