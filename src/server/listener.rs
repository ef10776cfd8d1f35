//! Listening sockets. Each address has one socket, and every worker polls that socket.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use super::Error;
use crate::relay::MAX_UNSENT;

/// The maximum number of connections that the kernel queues until the gateway accepts them.
const BACKLOG: u32 = 1024;
/// The pause before the next attempt to accept a connection, if the system has no free descriptor
/// or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A listening TCP socket. While the socket exists, no other process can listen on the address of
/// the socket, not even a second process of the gateway.
#[derive(Debug)]
pub(crate) struct Listener(std::net::TcpListener);

impl Listener {
    /// Listens on `address`. With port 0 the system chooses a free port; see
    /// [`Listener::local_addr`].
    ///
    /// # Errors
    ///
    /// [`Error::Bind`].
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, Error> {
        listen(address)
            .map(Self)
            .map_err(|source| Error::Bind { address, source })
    }

    /// The address of the socket.
    ///
    /// # Errors
    ///
    /// [`Error::Share`] if the operating system does not report the address.
    pub(crate) fn local_addr(&self) -> Result<SocketAddr, Error> {
        self.0.local_addr().map_err(Error::Share)
    }

    /// Returns another descriptor of the same socket. The new descriptor accepts connections from
    /// the same queue as the old descriptor.
    pub(super) fn duplicate(&self) -> Result<std::net::TcpListener, Error> {
        self.0.try_clone().map_err(Error::Share)
    }
}

/// Creates the socket with tokio, because the `bind` of the standard library always uses a queue of
/// 128 connections. The socket needs a tokio runtime, so this function creates a temporary runtime.
fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let listener = {
        let _entered = runtime.enter();
        listen_inside(address)
    };
    // An ordinary drop of `runtime` would panic if the caller runs inside another runtime.
    runtime.shutdown_background();
    listener
}

fn listen_inside(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Without `SO_REUSEADDR`, closed connections of an earlier process would block the address.
    // Even with `SO_REUSEADDR`, `bind` fails if another process still listens on the address.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Passes every connection to `open` until `drain` is true or the sender of `drain` is dropped. The
/// function returns after it has accepted all connections that the kernel has already queued, so
/// that no queued client loses its connection.
///
/// While the future that `open` returned is not complete, the function accepts no further
/// connection.
///
/// If no descriptor is free, the function calls `free_descriptors`. If `free_descriptors` returns
/// true, it has ended tasks, which free their descriptors soon.
pub(super) async fn accept<F: Future<Output = ()>>(
    listener: TcpListener,
    mut drain: watch::Receiver<bool>,
    open: impl Fn(TcpStream, SocketAddr) -> F,
    free_descriptors: impl Fn() -> bool,
) {
    let mut failures = Failures::default();
    let mut draining = pin!(drain.wait_for(|drain| *drain));
    loop {
        let accepted = tokio::select! {
            biased;
            _ended = &mut draining => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                failures = Failures::default();
                open(stream, peer).await;
            }
            Err(error) if is_client_error(&error) => {}
            // The runtime drops the ended tasks before it continues here.
            Err(error) if failures.are_mended(&error, &free_descriptors) => {
                tokio::task::yield_now().await;
            }
            Err(error) => {
                // If the system has run out of descriptors or memory, an immediate retry would fail
                // again and only use processor time.
                failures.report(&error);
                tokio::select! {
                    biased;
                    _ended = &mut draining => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    if let Err(error) = take_queued(listener, open).await {
        tracing::warn!(%error, "Queued connections cannot be accepted");
    }
}

/// The failures since the listener last accepted a connection.
#[derive(Debug, Default)]
struct Failures {
    /// Whether the log contains one of the failures.
    is_reported: bool,
    /// Whether the latest failure has closed connections.
    has_freed: bool,
}

impl Failures {
    /// Calls `free_descriptors` if the process has no free descriptor. Returns true if the listener
    /// tries again at once. If closing connections has not helped, the listener pauses before it
    /// closes more.
    fn are_mended(&mut self, error: &io::Error, free_descriptors: impl Fn() -> bool) -> bool {
        self.has_freed = is_own_limit(error) && !self.has_freed && free_descriptors();
        self.has_freed
    }

    /// Logs the first of several consecutive failures.
    fn report(&mut self, error: &io::Error) {
        if !self.is_reported {
            let hint = "the limit of descriptors of the process (LimitNOFILE, ulimit -n)";
            let keys = lacks_descriptor(error).then_some(hint);
            tracing::warn!(%error, keys, "Connections cannot be accepted");
        }
        self.is_reported = true;
    }
}

/// Accepts the queued connections directly from the socket, because the runtime may not have been
/// notified of them yet.
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

/// Returns true if the error occurred because a client disconnected before its connection was
/// accepted.
fn is_client_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Returns true if the process or the system has no free descriptor.
fn lacks_descriptor(error: &io::Error) -> bool {
    let codes = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error
        .raw_os_error()
        .is_some_and(|code| codes.contains(&code))
}

/// Returns true if the process has no free descriptor. If only the system has none, another process
/// could take each descriptor that this process frees.
fn is_own_limit(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::MFILE.raw_os_error())
}

/// TCP keepalive detects that a client has disappeared, even if no bytes are sent for hours.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_mins(1))
    .with_interval(Duration::from_secs(10))
    .with_retries(6);

/// Sets the options of an accepted socket. Nagle's algorithm is switched off, so that small writes
/// are sent immediately. Bodies do not need Nagle's algorithm, because they are written in large
/// pieces.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.set_tcp_notsent_lowat(MAX_UNSENT)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn f_22_a_listener_without_descriptors_pauses_if_closing_connections_does_not_help() {
        let calls = Cell::new(0);
        let free = |helps: bool| {
            calls.set(calls.get() + 1);
            helps
        };
        let error = |code: Errno| io::Error::from_raw_os_error(code.raw_os_error());
        let mut failures = Failures::default();
        // After each attempt that did not help, the listener pauses one time.
        let tried: Vec<_> = (0..6)
            .map(|_| failures.are_mended(&error(Errno::MFILE), || free(true)))
            .collect();
        assert_eq!(tried, [true, false, true, false, true, false]);
        assert_eq!(calls.get(), 3);
        assert!(!failures.are_mended(&error(Errno::MFILE), || free(false)));
        assert_eq!(calls.get(), 4);
        // Another process could take each descriptor that this process frees.
        for code in [Errno::NFILE, Errno::NOMEM] {
            assert!(!failures.are_mended(&error(code), || free(true)));
        }
        assert_eq!(calls.get(), 4);
    }
}
