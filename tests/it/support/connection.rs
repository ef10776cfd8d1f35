//! Open connections for several requests one after the other.

use std::net::SocketAddr;

use super::certificates::Authority;
use super::h2::{H2, Outcome};
use super::raw::Raw;

/// An open connection for several requests one after the other.
pub(crate) enum OpenConnection {
    Http1(Raw),
    Http2(H2, u32),
}

impl OpenConnection {
    /// One connection for each protocol, to `localhost`.
    pub(crate) async fn both(address: SocketAddr, tls: &Authority) -> [Self; 2] {
        let http1 = Raw::connect_tls(address, "localhost", tls.client(&["http/1.1"])).await;
        let http2 = H2::connect_without_table(address, "localhost", tls.client(&["h2"])).await;
        [Self::Http1(http1), Self::Http2(http2, 1)]
    }

    /// Sends a request with this cookie. Returns the status.
    pub(crate) async fn ask(&mut self, cookie: &str) -> u16 {
        match self {
            Self::Http1(raw) => {
                let request =
                    format!("GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n");
                raw.send(request).await;
                raw.response("GET").await.expect("it stays open").status()
            }
            Self::Http2(h2, stream) => {
                let fields: [(&[u8], &[u8]); 5] = [
                    (b":method", b"GET"),
                    (b":scheme", b"https"),
                    (b":authority", b"localhost"),
                    (b":path", b"/"),
                    (b"cookie", cookie.as_bytes()),
                ];
                h2.head(*stream, &fields, false).await;
                let outcome = h2.outcome(*stream).await;
                *stream += 2;
                match outcome {
                    Outcome::Status(status) => status,
                    Outcome::Refused => panic!("it was closed"),
                }
            }
        }
    }
}
