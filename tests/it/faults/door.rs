//! The way of the clients to the gateway.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use crate::support::certificates::Authority;
use crate::support::h2::H2;
use crate::support::raw::Raw;
use crate::support::scene::{ORIGIN, TLS_ORIGIN};

/// The time between two attempts to connect while the gateway does not run.
const PAUSE: Duration = Duration::from_millis(5);

/// The public address of the gateway.
pub(super) struct Door {
    pub(super) address: SocketAddr,
    /// The authority of the certificate, if the gateway uses TLS.
    pub(super) tls: Option<Authority>,
    closed: AtomicBool,
}

impl Door {
    pub(super) fn new(address: SocketAddr, tls: Option<Authority>) -> Self {
        Self {
            address,
            tls,
            closed: AtomicBool::new(false),
        }
    }

    /// Records that the gateway is about to stop.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Records that the gateway runs again.
    pub(super) fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
    }

    /// Whether the gateway may be stopped.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Connects. Waits while the gateway is stopped.
    pub(super) async fn connect(&self) -> Raw {
        loop {
            let closed = self.is_closed();
            let config = self.tls.as_ref().map(|tls| tls.client(&[]));
            match Raw::try_connect(self.address, config).await {
                Ok(connection) => return connection,
                Err(error) => assert!(closed || self.is_closed(), "{error}"),
            }
            sleep(PAUSE).await;
        }
    }

    /// Connects with HTTP/2.
    pub(super) async fn connect_http2(&self) -> H2 {
        let config = self.http2();
        H2::connect_without_table(self.address, "localhost", config).await
    }

    /// The TLS configuration of a client with HTTP/2.
    pub(super) fn http2(&self) -> Arc<rustls::ClientConfig> {
        self.tls.as_ref().unwrap().client(&["h2"])
    }

    /// Connects from an address of the loopback network.
    pub(super) async fn connect_from(&self, source: Ipv4Addr, receive_buffer: u32) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(receive_buffer).unwrap();
        socket.bind(SocketAddr::from((source, 0))).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    pub(super) fn origin(&self) -> &'static str {
        match self.tls {
            None => ORIGIN,
            Some(_) => TLS_ORIGIN,
        }
    }
}
