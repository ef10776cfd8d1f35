//! Both ends of a connection that switches protocols: a client, and an app that a test controls.

use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::wire::{Head, TEST_TIMEOUT, Wire};

/// The key of RFC 6455 section 1.3, and the `Sec-WebSocket-Accept` for this key.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// An app whose connections a test answers step by step.
pub(crate) struct SocketApp(TcpListener);

impl SocketApp {
    pub(crate) async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }

    /// Accepts the next connection and reads the head of its request.
    ///
    /// # Panics
    ///
    /// Panics if no connection or no head arrives in time.
    pub(crate) async fn accept(&self) -> (Head, End) {
        let accepted = timeout(TEST_TIMEOUT, async {
            let (stream, _peer) = self.0.accept().await.unwrap();
            let mut end = End::new(stream);
            let head = end.wire.head().await.expect("a whole head");
            (head, end)
        });
        accepted.await.expect("no request in time")
    }

    /// Accepts the next connection and switches it to a WebSocket.
    pub(crate) async fn switch(&self) -> End {
        let (_head, mut app) = self.accept().await;
        app.send(switching()).await;
        app
    }

    /// Accepts the next connection and answers with an ordinary response.
    pub(crate) async fn answer_plainly(&self) {
        let (_head, mut app) = self.accept().await;
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nplain";
        app.send(answer).await;
    }

    /// Whether a connection arrives within a short time.
    pub(crate) async fn is_asked(&self) -> bool {
        timeout(Duration::from_millis(50), self.0.accept())
            .await
            .is_ok()
    }
}

/// The response that switches to a WebSocket, for a handshake with this head.
pub(crate) fn switching_for(head: &Head) -> String {
    let key = head.value("sec-websocket-key").expect("one key");
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    switching().replace(ACCEPT, &BASE64_STANDARD.encode(hash))
}

/// The response that switches to a WebSocket, for a handshake with [`KEY`].
pub(crate) fn switching() -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    )
}

/// One end of a connection.
pub(crate) struct End {
    pub(crate) wire: Wire,
    socket: std::os::fd::OwnedFd,
}

impl End {
    /// A client that has sent nothing yet.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.unwrap())
    }

    /// A client whose receive buffer is small, so that a long answer does not fit into the buffers
    /// of the kernel.
    pub(crate) async fn with_small_buffer(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self::new(socket.connect(address).await.unwrap())
    }

    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        let socket = std::os::fd::AsFd::as_fd(&stream)
            .try_clone_to_owned()
            .unwrap();
        Self {
            wire: Wire::new(stream),
            socket,
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.write(bytes.as_ref()).await;
    }

    /// Fails unless exactly these bytes arrive next.
    pub(crate) async fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let came = timeout(TEST_TIMEOUT, self.wire.bytes(bytes.len())).await;
        let came = came.expect("nothing came in time");
        let came = came.expect("the connection ended");
        assert_eq!(
            String::from_utf8_lossy(&came),
            String::from_utf8_lossy(bytes)
        );
    }

    /// All bytes until the connection ends.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let reading = async {
            while let Some(byte) = self.wire.bytes(1).await {
                rest.extend(byte);
            }
        };
        let ended = timeout(TEST_TIMEOUT, reading).await;
        ended.expect("the connection does not end");
        rest
    }

    /// Fails unless the connection ends with a reset.
    pub(crate) async fn ends_with_reset(&mut self) {
        let ended = timeout(TEST_TIMEOUT, self.wire.until_end()).await;
        let (_bytes, error) = ended.expect("the connection does not end");
        assert_eq!(error, Some(std::io::ErrorKind::ConnectionReset));
    }

    /// Closes the sending direction.
    pub(crate) async fn finish(&mut self) {
        self.wire.finish().await;
    }

    /// Closes the connection with a reset.
    pub(crate) fn reset(self) {
        let socket = SockRef::from(&self.socket);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// The handshake of a client that asks for a WebSocket.
pub(crate) struct Opening {
    pub(crate) path: &'static str,
    pub(crate) fields: String,
}

impl Opening {
    pub(crate) fn at(path: &'static str) -> Self {
        Self {
            path,
            fields: String::new(),
        }
    }

    /// Adds a field.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.extend([name, ": ", value, "\r\n"]);
        self
    }

    /// Adds the fields that a browser sends for a page of the gateway's own origin.
    pub(crate) fn of_browser(self, cookie: &str) -> Self {
        self.with("Origin", "http://localhost")
            .with("Cookie", cookie)
    }

    /// The bytes of the request.
    pub(crate) fn bytes(&self) -> String {
        format!(
            "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{}\r\n",
            self.path, self.fields
        )
    }

    /// Sends the request.
    pub(crate) async fn send(&self, gateway: SocketAddr) -> End {
        let mut end = End::connect(gateway).await;
        end.send(self.bytes()).await;
        end
    }

    /// Sends the request and reads the head of the response.
    pub(crate) async fn answer(&self, gateway: SocketAddr) -> (Head, End) {
        let mut end = self.send(gateway).await;
        let head = timeout(TEST_TIMEOUT, end.wire.head()).await;
        let head = head.expect("no answer in time");
        (head.expect("no whole head"), end)
    }

    /// Like [`Opening::answer`]. If the request reaches the app, the app switches to a WebSocket.
    pub(crate) async fn answer_or_app(&self, gateway: SocketAddr, app: &SocketApp) -> (Head, End) {
        let mut answering = std::pin::pin!(self.answer(gateway));
        tokio::select! {
            answer = &mut answering => answer,
            _app = app.switch() => answering.await,
        }
    }
}
