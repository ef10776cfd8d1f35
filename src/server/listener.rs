//! Listening sockets: bound once, polled by every worker.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use super::Error;

/// Connections the kernel may queue before we take them.
const BACKLOG: u32 = 1024;
/// How long accepting rests after the machine ran out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A listening TCP socket. It is exclusive: while it lives, nobody else can listen there, a second
/// start of ourselves included.
#[derive(Debug)]
pub(crate) struct Listener(std::net::TcpListener);

impl Listener {
    /// Listens on `address`; port 0 takes a free one, see [`Listener::local_addr`].
    ///
    /// # Errors
    ///
    /// [`Error::Bind`].
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, Error> {
        listen(address)
            .map(Self)
            .map_err(|source| Error::Bind { address, source })
    }

    /// The address it listens on.
    ///
    /// # Errors
    ///
    /// [`Error::Share`] if the operating system does not tell.
    pub(crate) fn local_addr(&self) -> Result<SocketAddr, Error> {
        self.0.local_addr().map_err(Error::Share)
    }

    /// Another descriptor of the same socket: the same queue of connections.
    pub(super) fn duplicate(&self) -> Result<std::net::TcpListener, Error> {
        self.0.try_clone().map_err(Error::Share)
    }
}

/// The standard library's `bind` queues 128 connections and offers no other number, so the socket
/// is made by tokio, inside a runtime that only lends its reactor for the moment.
fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let listener = {
        let _entered = runtime.enter();
        listen_inside(address)
    };
    // The caller may itself be inside a runtime, where dropping one is an error.
    runtime.shutdown_background();
    listener
}

fn listen_inside(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Connections of a process that just ended do not block the address; a listener does.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Gives every connection to `open` until `drain` turns true or its sender is gone; then also those
/// that the kernel has queued already, so that no client that was let in is lost.
///
/// `open` may wait: accepting waits with it.
pub(super) async fn accept<F: Future<Output = ()>>(
    listener: TcpListener,
    mut drain: watch::Receiver<bool>,
    open: impl Fn(TcpStream, SocketAddr) -> F,
) {
    let mut paused = false;
    let mut draining = pin!(drain.wait_for(|drain| *drain));
    loop {
        let accepted = tokio::select! {
            biased;
            _ended = &mut draining => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                paused = false;
                open(stream, peer).await;
            }
            Err(error) if is_client_error(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: trying again at once would only spin.
                if !paused {
                    tracing::warn!(%error, "Connections cannot be accepted");
                }
                paused = true;
                tokio::select! {
                    biased;
                    _ended = &mut draining => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    if let Err(error) = take_queued(listener, open).await {
        tracing::warn!(%error, "Queued connections cannot be taken");
    }
}

/// Takes what is queued from the socket itself: the runtime may not know yet that it is readable.
async fn take_queued<F: Future<Output = ()>>(
    listener: TcpListener,
    open: impl Fn(TcpStream, SocketAddr) -> F,
) -> io::Result<()> {
    let listener = listener.into_std()?;
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(true)?;
                open(TcpStream::from_std(stream)?, peer).await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if is_client_error(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Errors that a client caused by going away before it was accepted.
fn is_client_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
