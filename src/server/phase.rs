//! The phase and the protocol of a connection.

/// The phase of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// No byte has arrived.
    FirstByte,
    /// The TLS handshake. Without TLS, the phase `Handshake` ends when the first bytes are read.
    Handshake,
    /// A part of a request head or of the HTTP/2 preface has arrived.
    Head,
    /// No request is in flight.
    Idle,
    /// At least one request is in flight: the handler runs, or the response is being sent.
    Busy,
    /// The server has sent its last response, and discards all input until the client closes the
    /// connection.
    Linger,
}

/// The version of HTTP that a connection uses. The HTTP version determines how requests share the
/// connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Protocol {
    /// The requests of a connection are answered one after the other.
    Http1,
    /// Several requests of a connection are answered at the same time. Over HTTP/2, each request
    /// has its own HTTP/2 stream with its own flow control (RFC 9113 section 5.2).
    Http2,
}
