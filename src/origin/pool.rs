//! A worker's connections to one origin.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, timeout};

use super::body::{Pulse, ResponseBody, Upload};
use super::connector::{Connector, Stream};
use super::kept::KeptHead;
use super::limit::Limit;
use super::message::{Framing, origin_form, settle_framing};
use super::patience::Patience;
use super::{BoxError, Error};

/// The longest head that is read, in bytes; hyper's own limit on fields is 100.
const MAX_HEAD: usize = 64 * 1024;
/// How often in a row a connection passes between requests of one worker while another worker's
/// request waits.
const MAX_HANDED_ON: u8 = 8;

/// How long an origin may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Times {
    /// From the last progress of the request to the whole response head.
    pub head: Duration,
    /// The longest silence inside a response body; `None` allows any.
    pub stall: Option<Duration>,
    /// The longest rest after which a connection is used again; zero never uses one again.
    pub idle: Duration,
}

/// One worker's connections to one origin; clones share them. Lives in a `LocalSet`.
///
/// A connection is used again only if everything about its last exchange was in order: request
/// sent and response read to their clean ends, HTTP/1.1 spoken, nothing announced twice, not one
/// byte too many. The latest one used is used first, so that few stay warm and the rest grow old.
pub struct Pool<B: 'static>(Rc<Shared<B>>);

struct Shared<B: 'static> {
    connector: Arc<Connector>,
    limit: Arc<Limit>,
    times: Times,
    /// Oldest first.
    idle: RefCell<Vec<Connection<B>>>,
    /// Requests of this worker that wait for a connection, first come first.
    waiters: RefCell<VecDeque<oneshot::Sender<Connection<B>>>>,
    waiting: Cell<usize>,
    caretaker: RefCell<Option<AbortOnDrop>>,
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    /// An empty pool. Panics outside a `LocalSet`, like everything that spawns local tasks.
    pub fn new(connector: Arc<Connector>, limit: Arc<Limit>, times: Times) -> Self {
        let wanted = limit.wanted();
        let shared = Rc::new(Shared {
            connector,
            limit,
            times,
            idle: RefCell::default(),
            waiters: RefCell::default(),
            waiting: Cell::new(0),
            caretaker: RefCell::default(),
        });
        let task = spawn_local(care(Rc::downgrade(&shared), wanted, times.idle));
        *shared.caretaker.borrow_mut() = Some(AbortOnDrop(task.abort_handle()));
        Self(shared)
    }

    /// Sends `request` in origin form (RFC 9112 section 3.2.1) as HTTP/1.1 and returns once the
    /// response head is there. The request has its `Host` and no connection-specific fields.
    ///
    /// A request of a safe method without content that met a connection dying of old age (used
    /// before, not one byte of an answer) is sent once more, on another connection. A request of
    /// which nothing was sent is too. No other is ever sent twice.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`]; connecting: [`Error::Resolve`], [`Error::Connect`], [`Error::Tls`],
    /// [`Error::ConnectTimeout`]; after that [`Error::RequestBody`], [`Error::HeadTimeout`],
    /// [`Error::Broken`], [`Error::Framing`], [`Error::UnaskedUpgrade`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection; the origin may have acted.
    pub async fn send(&self, request: Request<B>) -> Result<Response<ResponseBody<B>>, Error> {
        let shared = &self.0;
        let (mut parts, body) = request.into_parts();
        parts.version = Version::HTTP_11;
        parts.uri = origin_form(parts.uri);
        // Nothing that our own side attached may steer how the request is written.
        parts.extensions.clear();
        let upload = Upload::new(body);
        let pulse = upload.pulse();
        let connection = shared.checkout().await?;
        let replayable = connection.used && pulse.is_none() && parts.method.is_safe();
        let kept = replayable.then(|| KeptHead::of(&parts));
        let request = Request::from_parts(parts, upload);
        let failed = match shared.exchange(connection, request, pulse.as_ref()).await {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        let request = match (failed.unsent, kept) {
            (Some(request), _) => *request,
            (None, Some(kept)) if failed.unheard => {
                Request::from_parts(kept.into_parts(), Upload::empty())
            }
            (None, _) => return Err(failed.error),
        };
        tracing::debug!("A request met a stale connection and is sent on another");
        let again = Box::pin(async {
            let connection = shared.fresh().await?;
            shared.exchange(connection, request, pulse.as_ref()).await
        });
        again.await.map_err(|failed| failed.error)
    }

    /// How many connections rest in this pool.
    pub fn idle(&self) -> usize {
        self.0.idle.borrow().len()
    }
}

/// An exchange without a response.
struct Failed<B> {
    error: Error,
    /// The request, when nothing of it was sent.
    unsent: Option<Box<Request<Upload<B>>>>,
    /// Not one byte of an answer came.
    unheard: bool,
}

impl<B> From<Error> for Failed<B> {
    fn from(error: Error) -> Self {
        Self {
            error,
            unsent: None,
            unheard: false,
        }
    }
}

impl<B> Shared<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    async fn checkout(self: &Rc<Self>) -> Result<Connection<B>, Error> {
        match self.rested() {
            Some(connection) => Ok(connection),
            // Rare and large: kept out of every request's own state.
            None => Box::pin(self.fresh()).await,
        }
    }

    /// The connection that rested for the shortest time, if it is still good.
    fn rested(&self) -> Option<Connection<B>> {
        let mut idle = self.idle.borrow_mut();
        let now = Instant::now();
        while let Some(mut connection) = idle.pop() {
            if connection.is_good(now, self.times.idle) {
                connection.since = now;
                return Some(connection);
            }
        }
        None
    }

    async fn fresh(&self) -> Result<Connection<B>, Error> {
        match self.limit.try_open() {
            Some(permit) => self.open(permit).await,
            None => self.wait().await,
        }
    }

    /// Waits for a connection of this worker to come free, or for the right to open one.
    async fn wait(&self) -> Result<Connection<B>, Error> {
        let (sender, mut handed) = oneshot::channel();
        let permit = {
            let _place = self.limit.queue()?;
            let _here = Here::new(&self.waiting);
            {
                let mut waiters = self.waiters.borrow_mut();
                waiters.retain(|waiter| !waiter.is_closed());
                waiters.push_back(sender);
            }
            let first = async {
                tokio::select! {
                    biased;
                    connection = &mut handed => Ok(Err(connection.map_err(|_gone| Error::Busy)?)),
                    permit = self.limit.open() => Ok(Ok(permit?)),
                }
            };
            match timeout(self.limit.patience(), first).await {
                Ok(Ok(Ok(permit))) => permit,
                Ok(Ok(Err(connection))) => return Ok(connection),
                Ok(Err(error)) => return Err(error),
                Err(_elapsed) => return Err(Error::Busy),
            }
        };
        match handed.try_recv() {
            Ok(connection) => Ok(connection),
            Err(_nothing) => self.open(permit).await,
        }
    }

    async fn open(&self, permit: OwnedSemaphorePermit) -> Result<Connection<B>, Error> {
        let stream = self.connector.connect().await?;
        let heard = Rc::new(Cell::new(false));
        let stream = Listening {
            stream,
            heard: Rc::clone(&heard),
        };
        let (sender, connection) = http1::Builder::new()
            // Most requests are a head alone, for which lists of buffers are a detour.
            .writev(false)
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Error::Broken)?;
        let task = spawn_local(async move {
            // The socket is closed before its permit is free.
            let _permit = permit;
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "A connection to an origin ended with an error");
            }
        });
        Ok(Connection {
            sender,
            _task: AbortOnDrop(task.abort_handle()),
            heard,
            patience: Patience::default(),
            since: Instant::now(),
            used: false,
            handed_on: 0,
        })
    }

    async fn exchange(
        self: &Rc<Self>,
        mut connection: Connection<B>,
        request: Request<Upload<B>>,
        pulse: Option<&Rc<Pulse>>,
    ) -> Result<Response<ResponseBody<B>>, Failed<B>> {
        connection.heard.set(false);
        let answer = {
            let sent = pin!(connection.sender.try_send_request(request));
            tokio::select! {
                biased;
                answer = sent => answer,
                () = connection.patience.end(connection.since, self.times.head, pulse) =>
                    return Err(Error::HeadTimeout.into()),
            }
        };
        let (mut parts, incoming) = match answer {
            Ok(response) => response.into_parts(),
            Err(mut refused) => {
                return Err(Failed {
                    unsent: refused.take_message().map(Box::new),
                    unheard: !connection.heard.get(),
                    error: Pulse::explain(pulse, refused.into_error()),
                });
            }
        };
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::UnaskedUpgrade.into());
        }
        let framing = settle_framing(&mut parts.headers, parts.status, &incoming)?;
        let reusable = framing == Framing::Plain && parts.version == Version::HTTP_11;
        parts.version = Version::HTTP_11;
        connection.used = true;
        let lease = Lease {
            connection,
            pool: Rc::clone(self),
            reusable,
        };
        let body = ResponseBody::new(incoming, lease, pulse.cloned(), self.times.stall);
        Ok(Response::from_parts(parts, body))
    }
}

impl<B> Shared<B> {
    /// Takes back a connection whose exchange ended cleanly. Whoever waits comes first: this
    /// worker's requests by handing it on, another worker's by closing it.
    fn take_back(&self, mut connection: Connection<B>) {
        connection.since = Instant::now();
        if !connection.is_good(connection.since, self.times.idle) {
            return;
        }
        let elsewhere = self.limit.waiting() > self.waiting.get();
        connection.handed_on = if elsewhere {
            connection.handed_on.saturating_add(1)
        } else {
            0
        };
        if connection.handed_on <= MAX_HANDED_ON {
            let mut waiters = self.waiters.borrow_mut();
            while let Some(waiter) = waiters.pop_front() {
                match waiter.send(connection) {
                    Ok(()) => return,
                    Err(refused) => connection = refused,
                }
            }
        }
        if !elsewhere {
            self.idle.borrow_mut().push(connection);
        }
    }

    /// Closes what is dead or too old, and as many as are waited for.
    fn relinquish(&self) {
        let mut idle = self.idle.borrow_mut();
        let now = Instant::now();
        idle.retain(|connection| connection.is_good(now, self.times.idle));
        let given = self.limit.waiting().min(idle.len());
        idle.drain(..given);
    }
}

/// Gives up idle connections when somebody waits for one, and those that are too old.
async fn care<B>(
    pool: Weak<Shared<B>>,
    mut wanted: tokio::sync::watch::Receiver<()>,
    idle: Duration,
) {
    let period = idle.max(Duration::from_secs(1));
    loop {
        if let Ok(Err(_closed)) = timeout(period, wanted.changed()).await {
            return;
        }
        let Some(pool) = pool.upgrade() else { return };
        pool.relinquish();
    }
}

struct Connection<B: 'static> {
    sender: SendRequest<Upload<B>>,
    _task: AbortOnDrop,
    heard: Rc<Cell<bool>>,
    patience: Patience,
    /// Since when it rests, or is at work.
    since: Instant,
    used: bool,
    handed_on: u8,
}

impl<B> Connection<B> {
    /// hyper is ready for the next request only after both messages ended and nothing more came.
    fn is_good(&self, now: Instant, idle: Duration) -> bool {
        self.sender.is_ready() && now.saturating_duration_since(self.since) < idle
    }
}

/// Ends the task when dropped: a connection that is let go of is closed, whatever it was doing.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Counts a waiting request of this worker.
struct Here<'a>(&'a Cell<usize>);

impl<'a> Here<'a> {
    fn new(waiting: &'a Cell<usize>) -> Self {
        waiting.set(waiting.get().saturating_add(1));
        Self(waiting)
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// A connection on loan to a response body.
pub(super) struct Lease<B: 'static> {
    connection: Connection<B>,
    pool: Rc<Shared<B>>,
    reusable: bool,
}

impl<B> Lease<B> {
    /// The body ended cleanly.
    pub(super) fn give_back(self) {
        if self.reusable {
            self.pool.take_back(self.connection);
        }
    }
}

/// A stream that notes whether anything came.
struct Listening {
    stream: Stream,
    heard: Rc<Cell<bool>>,
}

impl AsyncRead for Listening {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard.set(true);
        }
        outcome
    }
}

impl AsyncWrite for Listening {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<B> Clone for Pool<B> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<B> fmt::Debug for Pool<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("connector", &self.0.connector)
            .field("idle", &self.0.idle.borrow().len())
            .finish_non_exhaustive()
    }
}
