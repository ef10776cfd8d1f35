//! A gRPC app, and a gRPC client that speaks HTTP/2 without a gRPC library. A message consists of
//! any bytes.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::certificates::Authority;
use super::wire::TEST_TIMEOUT;

/// The type of an answer to a request without content.
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain");

/// A gRPC app with one service. The last part of the path is the method.
///
/// `Unary` and `ClientStream` read all messages, and answer with all messages in one message.
/// `ServerStream` answers with three messages. `Bidi` answers each message at once. `Slow` begins
/// to answer when the test calls [`GrpcApp::release`]. `Missing` answers with status 5 and no
/// message. `Broken` breaks the connection after a part of the answer. Other methods never answer.
/// The app answers a GET request with "seen".
pub(crate) struct GrpcApp {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    heads: watch::Sender<Vec<Parts>>,
    resets: watch::Sender<Vec<Reason>>,
    slow: Notify,
    broken: Notify,
}

impl Drop for GrpcApp {
    fn drop(&mut self) {
        self.task.abort();
        // The tasks of the open connections also end.
        self.shared.broken.notify_waiters();
    }
}

impl GrpcApp {
    /// Starts an app that speaks HTTP/2 without TLS.
    pub(crate) async fn start() -> Self {
        Self::with(None).await
    }

    /// Starts an app with a certificate of `authority` that chooses one of the ALPN protocols
    /// `alpn`.
    pub(crate) async fn over_tls(authority: &Authority, alpn: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = authority.issue(folder.path(), &["localhost"]);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_file(&files.certificate).unwrap()],
                PrivateKeyDer::from_pem_file(&files.key).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self::with(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn with(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, shared) = (tls.clone(), Arc::clone(&serving));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, shared).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, shared).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            shared,
            task,
        }
    }

    /// The URL of an app without TLS.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The URL of an app with TLS.
    pub(crate) fn tls_url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// The head of the last request.
    pub(crate) fn last(&self) -> Parts {
        self.shared.heads.borrow().last().unwrap().clone()
    }

    /// The number of requests.
    pub(crate) fn count(&self) -> usize {
        self.shared.heads.borrow().len()
    }

    /// Lets one call of `Slow` continue.
    pub(crate) fn release(&self) {
        self.shared.slow.notify_one();
    }

    /// Waits until the app has `count` requests.
    pub(crate) async fn wait_for_requests(&self, count: usize) {
        let mut heads = self.shared.heads.subscribe();
        let waiting = heads.wait_for(|heads| heads.len() == count);
        let came = timeout(TEST_TIMEOUT, waiting).await;
        drop(came.expect("no request in time").unwrap());
    }

    /// Waits until the gateway has reset one stream. Returns the reason.
    pub(crate) async fn wait_for_reset(&self) -> Reason {
        let mut resets = self.shared.resets.subscribe();
        let waiting = resets.wait_for(|resets| !resets.is_empty());
        let came = timeout(TEST_TIMEOUT, waiting).await;
        came.expect("no reset in time").unwrap()[0]
    }
}

async fn serve<S>(stream: S, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(mut connection) = server::handshake(stream).await else {
        return;
    };
    loop {
        tokio::select! {
            next = connection.accept() => {
                let Some(Ok((request, respond))) = next else { return };
                tokio::spawn(answer(request, respond, Arc::clone(&shared)));
            }
            () = shared.broken.notified() => return,
        }
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: Arc<Shared>,
) {
    let (head, mut messages) = request.into_parts();
    let method = head.uri.path().rsplit('/').next().unwrap().to_owned();
    let kind = head.headers.get("content-type").cloned();
    shared.heads.send_modify(|heads| heads.push(head));
    let begin = Response::builder().header("content-type", kind.unwrap_or(PLAIN));
    match &*method {
        "" | "seen" => {
            let mut body = respond
                .send_response(begin.body(()).unwrap(), false)
                .unwrap();
            return body.send_data(Bytes::from_static(b"seen"), true).unwrap();
        }
        "Missing" => {
            let end = begin.header("grpc-status", "5").body(()).unwrap();
            return drop(respond.send_response(end, true).unwrap());
        }
        "Unary" | "ClientStream" | "ServerStream" | "Bidi" | "Broken" | "Reset" => {}
        "Slow" => shared.slow.notified().await,
        _ => {
            let reason = poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
            return shared.resets.send_modify(|resets| resets.push(reason));
        }
    }
    let mut body = respond
        .send_response(begin.body(()).unwrap(), false)
        .unwrap();
    if let "Broken" | "Reset" = &*method {
        send(&mut body, Bytes::from_static(b"half")).await;
        tokio::task::yield_now().await;
        return match &*method {
            "Broken" => shared.broken.notify_waiters(),
            _ => body.send_reset(Reason::NO_ERROR),
        };
    }
    send_messages(&method, &mut messages, &mut body).await;
    let mut end = HeaderMap::new();
    end.insert("grpc-status", "0".parse().unwrap());
    end.insert("result-bin", "AQID".parse().unwrap());
    // The trailers of the request are returned, so that the client can check them.
    if let Ok(Some(trailers)) = messages.trailers().await {
        end.extend(trailers);
    }
    // If the gateway has reset the call, no client gets the trailers.
    body.send_trailers(end).unwrap_or_default();
}

/// Reads all messages of the request, and sends the messages of the answer.
async fn send_messages(method: &str, messages: &mut RecvStream, body: &mut SendStream<Bytes>) {
    let mut all = Vec::new();
    while let Some(message) = receive(messages).await {
        if method == "Bidi" {
            send(body, message).await;
        } else {
            all.extend_from_slice(&message);
        }
    }
    match method {
        "Bidi" => {}
        "ServerStream" => {
            for message in ["one", "two", "three"] {
                send(body, Bytes::from_static(message.as_bytes())).await;
            }
        }
        _ => send(body, all.into()).await,
    }
}

/// Sends a message as fast as the peer accepts it.
async fn send(body: &mut SendStream<Bytes>, mut message: Bytes) {
    while !message.is_empty() {
        body.reserve_capacity(message.len());
        let room = poll_fn(|cx| body.poll_capacity(cx)).await;
        let Some(Ok(room)) = room else { return };
        let piece = message.split_to(room.min(message.len()));
        body.send_data(piece, false).unwrap();
    }
}

async fn receive(messages: &mut RecvStream) -> Option<Bytes> {
    let message = messages.data().await?.ok()?;
    messages
        .flow_control()
        .release_capacity(message.len())
        .unwrap();
    Some(message)
}

/// A client with one connection to the gateway.
pub(crate) struct GrpcClient {
    sender: SendRequest<Bytes>,
    cookie: Option<String>,
}

/// A call whose request is not complete.
pub(crate) struct Call {
    response: ResponseFuture,
    request: SendStream<Bytes>,
}

/// The result of a call.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) head: http::response::Parts,
    /// The stream ended with the head (Trailers-Only).
    pub(crate) only_head: bool,
    pub(crate) messages: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Reply {
    /// `grpc-status`, from the trailers, or from the head of an answer without a body.
    pub(crate) fn status(&self) -> Option<&str> {
        let fields = self.trailers.as_ref().unwrap_or(&self.head.headers);
        fields
            .get("grpc-status")
            .map(|value| value.to_str().unwrap())
    }
}

impl GrpcClient {
    /// Connects to `https://localhost` with HTTP/2.
    pub(crate) async fn connect(address: SocketAddr, authority: &Authority) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(authority.client(&["h2"]));
        let stream = connector.connect(name, stream).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move {
            drop(connection.await);
        });
        Self {
            sender,
            cookie: None,
        }
    }

    /// Sends this `Cookie` with all further calls.
    pub(crate) fn with_cookie(mut self, cookie: String) -> Self {
        self.cookie = Some(cookie);
        self
    }

    /// Begins a call.
    pub(crate) fn begin(&self, path: &str, metadata: &[(&str, &str)]) -> Call {
        let mut head = Request::post(format!("https://localhost{path}")).header("te", "trailers");
        if !metadata.iter().any(|(name, _)| *name == "content-type") {
            head = head.header("content-type", "application/grpc+proto");
        }
        for (name, value) in metadata {
            head = head.header(*name, *value);
        }
        if let Some(cookie) = &self.cookie {
            head = head.header("cookie", cookie);
        }
        let mut sender = self.sender.clone();
        let (response, request) = sender.send_request(head.body(()).unwrap(), false).unwrap();
        Call { response, request }
    }

    /// A call with one message.
    pub(crate) async fn call(&self, path: &str, message: &'static str) -> Reply {
        let mut call = self.begin(path, &[]);
        call.send(message).await;
        call.finish().await
    }
}

impl Call {
    /// Sends a message.
    pub(crate) async fn send(&mut self, message: impl Into<Bytes>) {
        send(&mut self.request, message.into()).await;
    }

    /// Ends the request with trailers.
    pub(crate) async fn finish_with(mut self, trailers: HeaderMap) -> Reply {
        self.request.send_trailers(trailers).unwrap();
        Reply::of(self.response).await.unwrap()
    }

    /// Ends the request, and returns the whole reply.
    pub(crate) async fn finish(self) -> Reply {
        self.outcome().await.unwrap()
    }

    /// Ends the request, and returns the reply, or the error of the stream.
    pub(crate) async fn outcome(mut self) -> Result<Reply, h2::Error> {
        // If the gateway has already answered, the gateway needs no more bytes.
        self.request
            .send_data(Bytes::new(), true)
            .unwrap_or_default();
        Reply::of(self.response).await
    }

    /// Returns the reply, or the error of the stream, although the request never ends.
    pub(crate) async fn outcome_without_end(self) -> Result<Reply, h2::Error> {
        let reply = Reply::of(self.response).await;
        drop(self.request);
        reply
    }

    /// Waits for the head of the response. Returns the stream of the messages, and the open
    /// request.
    pub(crate) async fn head(self) -> (RecvStream, SendStream<Bytes>) {
        let head = timeout(TEST_TIMEOUT, self.response).await.expect("no head");
        (head.unwrap().into_body(), self.request)
    }

    /// Cancels the call.
    pub(crate) fn cancel(mut self) {
        self.request.send_reset(Reason::CANCEL);
    }
}

impl Reply {
    async fn of(response: ResponseFuture) -> Result<Self, h2::Error> {
        let reading = async {
            let (head, mut body) = response.await?.into_parts();
            let only_head = body.is_end_stream();
            let mut messages = Vec::new();
            while let Some(data) = body.data().await {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                messages.extend_from_slice(&data);
            }
            let trailers = body.trailers().await?;
            Ok(Self {
                head,
                only_head,
                messages,
                trailers,
            })
        };
        timeout(TEST_TIMEOUT, reading)
            .await
            .expect("no reply in time")
    }
}

/// Receives one message of an open call.
pub(crate) async fn next(messages: &mut RecvStream) -> Option<Bytes> {
    let next = timeout(TEST_TIMEOUT, receive(messages));
    next.await.expect("no message in time")
}

/// Sends a message of an open call.
pub(crate) async fn send_more(request: &mut SendStream<Bytes>, message: &'static str) {
    send(request, Bytes::from_static(message.as_bytes())).await;
}
