//! Tests with origins that send valid or invalid responses. Each test defines the exact bytes that
//! an origin sends over a real socket.

mod client;
mod encrypted;
mod framing;
mod heads;
mod http2;
mod hyper;
mod limit;
mod pool;
mod resolver;
mod slow;

use std::io;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::{
    Connector, Error, KeepAlive, Limit, Origin, Owner, Pool, Requester, ResponseBody, Shares, Times,
};
use crate::clock::Clock;
use crate::upload::Upload;

/// The time limit of a test. If a test takes longer than this limit, the test fails.
const WATCHDOG: Duration = Duration::from_secs(30);

/// The rules for slow clients in most tests: with these values, no exchange is evicted.
const SHARES: Shares = Shares {
    slow_client: WATCHDOG,
    max_thousandths: 1000,
};

/// The client that sends the requests of most tests.
const SOMEBODY: Requester = Requester {
    owner: Owner::Address(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
    stream: false,
};

/// A request body whose bytes the test sends.
pub(super) struct TestBody(Option<UnboundedReceiver<io::Result<Bytes>>>);

impl TestBody {
    fn nothing() -> Self {
        Self(None)
    }

    fn new() -> (UnboundedSender<io::Result<Bytes>>, Self) {
        let (sender, receiver) = unbounded_channel();
        (sender, Self(Some(receiver)))
    }

    fn whole(text: &'static str) -> Self {
        let (sender, body) = Self::new();
        sender
            .send(Ok(Bytes::from_static(text.as_bytes())))
            .unwrap();
        body
    }
}

impl Body for TestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.0 {
            Some(chunks) => chunks
                .poll_recv(cx)
                .map(|chunk| chunk.map(|chunk| chunk.map(Frame::data))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

/// A server that a test controls.
struct Server {
    listener: TcpListener,
    origin: Origin,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let origin = format!("http://{address}").parse().unwrap();
        Self { listener, origin }
    }

    async fn accept(&self) -> Peer {
        let (stream, _) = self.listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        Peer(stream)
    }

    /// Accepts a connection and answers its first request.
    async fn answer(&self, response: &str) -> Peer {
        let mut peer = self.accept().await;
        peer.answer(response).await;
        peer
    }

    fn connector(&self) -> Arc<Connector> {
        Arc::new(Connector::new(self.origin.clone(), None, WATCHDOG).unwrap())
    }

    fn pool(&self) -> Pool {
        self.pool_with(times())
    }

    fn pool_with(&self, times: Times) -> Pool {
        Pool::new(
            self.connector(),
            Arc::new(limit(16, 16)),
            times,
            Clock::system(),
        )
    }
}

/// The origin's side of a connection.
struct Peer(TcpStream);

impl Peer {
    /// Reads until the text `end` has arrived. Returns all received text, including `end`.
    async fn until(&mut self, end: &str) -> String {
        String::from_utf8(self.bytes_until(end).await).unwrap()
    }

    async fn bytes_until(&mut self, end: &str) -> Vec<u8> {
        let mut read = Vec::new();
        while !read.ends_with(end.as_bytes()) {
            read.push(self.0.read_u8().await.unwrap());
        }
        read
    }

    /// Reads a request head, which may contain any bytes.
    async fn head_bytes(&mut self) -> Vec<u8> {
        self.bytes_until("\r\n\r\n").await
    }

    /// Reads a request head.
    async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    async fn answer(&mut self, response: &str) -> String {
        let head = self.head().await;
        self.send(response).await;
        head
    }

    /// Reads until the connection ends, with or without an error.
    async fn rest(&mut self) -> Vec<u8> {
        let mut read = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = self.0.read(&mut buffer).await {
            read.extend_from_slice(&buffer[..count]);
        }
        read
    }
}

fn times() -> Times {
    Times {
        head: WATCHDOG,
        stall: Some(WATCHDOG),
        idle: WATCHDOG,
        keep_alive: KeepAlive::default(),
    }
}

fn limit(connections: usize, queue: usize) -> Limit {
    let connections = NonZeroUsize::new(connections).unwrap();
    Limit::new(connections, queue, WATCHDOG, SHARES)
}

fn request(method: Method, path: &str, body: TestBody) -> Request<Upload> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "app.example")
        .body(Upload::streaming(body))
        .unwrap()
}

fn get(path: &str) -> Request<Upload> {
    request(Method::GET, path, TestBody::nothing())
}

/// Reads a body to its end.
async fn text(response: Response<ResponseBody>) -> Result<String, Error> {
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

async fn fetch(pool: &Pool, path: &str) -> Result<String, Error> {
    text(pool.send(get(path)).await?).await
}

/// Runs a test in a runtime that can spawn local tasks. Fails if the test takes too long.
fn local<T>(test: impl Future<Output = T>) -> impl Future<Output = T> {
    let test = Box::pin(test);
    async {
        let tasks = LocalSet::new();
        timeout(WATCHDOG, tasks.run_until(test))
            .await
            .expect("the test hangs")
    }
}

impl Pool {
    /// Sends `request` as the client [`SOMEBODY`].
    pub(in crate::origin) fn send(&self, request: Request<Upload>) -> super::ResponseFuture {
        self.send_for(SOMEBODY, request)
    }
}
