//! Tests with origins that speak HTTP/2.

mod faults;
mod fields;
mod heads;
mod resets;
mod sharing;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use tokio::join;
use tokio::sync::Notify;
use tokio::task::spawn_local;

use super::*;
use crate::origin::Protocol;

/// An HTTP/2 app. The app answers each request with its handler. The app stops when the test ends.
struct App {
    connector: Arc<Connector>,
    limit: Arc<Limit>,
    /// The number of accepted connections.
    connections: Rc<Cell<usize>>,
    /// Tells the app to announce the end of all its connections (GOAWAY).
    shutdown: Rc<Notify>,
}

impl App {
    async fn start<F>(
        handler: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        Self::with(server::Builder::new(), limit(16, 16), handler).await
    }

    async fn with<F>(
        builder: server::Builder,
        limit: Limit,
        handler: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        let server = Server::start().await;
        let connector = http2(&server);
        let connections = Rc::new(Cell::new(0));
        let shutdown = Rc::new(Notify::new());
        let handler = Rc::new(handler);
        let (accepted, asked) = (Rc::clone(&connections), Rc::clone(&shutdown));
        spawn_local(async move {
            loop {
                let stream = server.accept().await.0;
                increment(&accepted);
                let (builder, handler) = (builder.clone(), Rc::clone(&handler));
                let asked = Rc::clone(&asked);
                spawn_local(async move {
                    let Ok(mut connection) = builder.handshake(stream).await else {
                        return;
                    };
                    loop {
                        tokio::select! {
                            next = connection.accept() => match next {
                                Some(Ok((request, respond))) => {
                                    spawn_local(handler(request, respond));
                                }
                                Some(Err(_)) | None => return,
                            },
                            () = asked.notified() => connection.graceful_shutdown(),
                        }
                    }
                });
            }
        });
        Self {
            connector,
            limit: Arc::new(limit),
            connections,
            shutdown,
        }
    }

    fn pool(&self) -> Pool {
        self.pool_with(times())
    }

    fn pool_with(&self, times: Times) -> Pool {
        let (connector, limit) = (Arc::clone(&self.connector), Arc::clone(&self.limit));
        Pool::new(connector, limit, times, Clock::system())
    }
}

fn http2(server: &Server) -> Arc<Connector> {
    let connector = Connector::new(server.origin.clone(), None, WATCHDOG).unwrap();
    Arc::new(connector.with_protocol(Protocol::Http2))
}

fn head(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

/// Answers with `text`.
fn answer(mut respond: SendResponse<Bytes>, text: &'static str) {
    let mut body = respond.send_response(head(200), false).unwrap();
    body.send_data(Bytes::from_static(text.as_bytes()), true)
        .unwrap();
}

/// Sends `length` bytes as fast as the peer accepts them. Returns false if the peer has reset the
/// stream.
async fn send_bytes(body: &mut SendStream<Bytes>, mut length: usize) -> bool {
    while length > 0 {
        body.reserve_capacity(length.min(16 * 1024));
        let Some(Ok(room)) = std::future::poll_fn(|cx| body.poll_capacity(cx)).await else {
            return false;
        };
        let piece = room.min(length);
        if body
            .send_data(Bytes::from(vec![b'a'; piece]), false)
            .is_err()
        {
            return false;
        }
        length = length.saturating_sub(piece);
    }
    true
}

fn increment(count: &Cell<usize>) {
    count.set(count.get().saturating_add(1));
}

/// Waits until a condition is true. While the function waits, other local tasks run.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}
