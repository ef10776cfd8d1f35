//! A worker's connections to one origin.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, timeout};

use super::body::{Pulse, ResponseBody, Upload};
use super::connector::Connector;
use super::limit::Limit;
use super::message::{Framing, origin_form, settle_framing};
use super::patience::Patience;
use super::wire::{Watched, Wire};
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

/// The way to the response of a request that was given to a [`Pool`].
pub type Sending<B> = Pin<Box<dyn Future<Output = Result<Response<ResponseBody<B>>, Error>>>>;

/// One worker's connections to one origin; clones share them. Lives where local tasks are spawned.
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
    #[expect(
        clippy::vec_box,
        reason = "each is moved whole, twice for every request"
    )]
    idle: RefCell<Vec<Box<Connection<B>>>>,
    /// Requests of this worker that wait for a connection, first come first.
    waiters: RefCell<VecDeque<oneshot::Sender<Box<Connection<B>>>>>,
    waiting: Cell<usize>,
    caretaker: RefCell<Option<AbortOnDrop>>,
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    /// An empty pool. Panics where no local task can be spawned.
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
    /// Dropping the future closes the connection; the origin may have acted. A connection that rests
    /// gets the request at once, before the future is polled.
    pub fn send(&self, request: Request<B>) -> Sending<B> {
        let (mut parts, body) = request.into_parts();
        parts.version = Version::HTTP_11;
        parts.uri = origin_form(parts.uri);
        // Nothing that our own side attached may steer how the request is written.
        parts.extensions.clear();
        let upload = Upload::new(body);
        let pulse = upload.pulse();
        let request = Request::from_parts(parts, upload);
        let shared = Rc::clone(&self.0);
        // No future holds a request that need not wait: it is large, and futures are moved.
        match shared.rested() {
            Some(connection) => Exchange::begin(connection, request, pulse).end(shared),
            None => Box::pin(async move {
                let connection = shared.fresh().await?;
                Exchange::begin(connection, request, pulse)
                    .end(shared)
                    .await
            }),
        }
    }

    /// How many connections rest in this pool.
    pub fn idle(&self) -> usize {
        self.0.idle.borrow().len()
    }
}

/// An exchange without a response.
struct Failed<B> {
    error: Error,
    /// The request, when it may be sent once more.
    again: Option<Box<Request<Upload<B>>>>,
    pulse: Option<Rc<Pulse>>,
}

/// A request that a connection was given, and the way to its response.
struct Exchange<B: 'static> {
    connection: Box<Connection<B>>,
    sent: Sent<B>,
    pulse: Option<Rc<Pulse>>,
}

/// hyper gives back a request of which nothing was sent.
type Answer<B> = Result<Response<Incoming>, TrySendError<Request<Upload<B>>>>;
type Sent<B> = Pin<Box<dyn Future<Output = Answer<B>>>>;

impl<B> Exchange<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    fn begin(
        mut connection: Box<Connection<B>>,
        request: Request<Upload<B>>,
        pulse: Option<Rc<Pulse>>,
    ) -> Self {
        // Whether the origin may get it twice.
        let replayable = connection.used && pulse.is_none() && request.method().is_safe();
        connection.wire.begin(replayable);
        let sent = Box::pin(connection.sender.try_send_request(request));
        Self {
            connection,
            sent,
            pulse,
        }
    }

    /// Waits for the response, and sends the request once more where that may be.
    fn end(mut self, pool: Rc<Shared<B>>) -> Sending<B> {
        Box::pin(async move {
            let answer = self.answer(pool.times.head).await;
            match self.settle(answer, &pool) {
                Ok(response) => Ok(response),
                Err(failed) => Box::pin(pool.send_again(failed)).await,
            }
        })
    }

    /// What hyper says, or nothing in time.
    async fn answer(&mut self, limit: Duration) -> Option<Answer<B>> {
        let Connection {
            patience, since, ..
        } = &mut *self.connection;
        let mut late = pin!(patience.end(*since, limit, self.pulse.as_ref()));
        poll_fn(|cx| match self.sent.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => late.as_mut().poll(cx).map(|()| None),
        })
        .await
    }

    fn settle(
        mut self,
        answer: Option<Answer<B>>,
        pool: &Rc<Shared<B>>,
    ) -> Result<Response<ResponseBody<B>>, Failed<B>> {
        let (mut parts, incoming) = match answer {
            Some(Ok(response)) => response.into_parts(),
            Some(Err(refused)) => return Err(self.refused(refused)),
            None => return Err(self.fail(Error::HeadTimeout)),
        };
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.fail(Error::UnaskedUpgrade));
        }
        let framing = match settle_framing(&mut parts.headers, parts.status, &incoming) {
            Ok(framing) => framing,
            Err(error) => return Err(self.fail(error)),
        };
        let reusable = framing == Framing::Plain && parts.version == Version::HTTP_11;
        parts.version = Version::HTTP_11;
        self.connection.used = true;
        let lease = Lease {
            connection: self.connection,
            pool: Rc::clone(pool),
            reusable,
        };
        let body = ResponseBody::new(incoming, lease, self.pulse, pool.times.stall);
        Ok(Response::from_parts(parts, body))
    }

    fn refused(self, mut refused: TrySendError<Request<Upload<B>>>) -> Failed<B> {
        let unsent = refused.take_message();
        let again = unsent.or_else(|| {
            let parts = self.connection.wire.unanswered()?;
            Some(Request::from_parts(parts, Upload::empty()))
        });
        let error = Pulse::explain(self.pulse.as_ref(), refused.into_error());
        Failed {
            again: again.map(Box::new),
            ..self.fail(error)
        }
    }

    fn fail(self, error: Error) -> Failed<B> {
        Failed {
            error,
            again: None,
            pulse: self.pulse,
        }
    }
}

impl<B> Shared<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    /// Sends a request once more, on another connection.
    async fn send_again(
        self: &Rc<Self>,
        failed: Failed<B>,
    ) -> Result<Response<ResponseBody<B>>, Error> {
        let request = failed.again.ok_or(failed.error)?;
        tracing::debug!("A request met a stale connection and is sent on another");
        let connection = self.fresh().await?;
        let mut again = Exchange::begin(connection, *request, failed.pulse);
        let answer = again.answer(self.times.head).await;
        again.settle(answer, self).map_err(|failed| failed.error)
    }

    /// The connection that rested for the shortest time, if it is still good.
    fn rested(&self) -> Option<Box<Connection<B>>> {
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

    async fn fresh(&self) -> Result<Box<Connection<B>>, Error> {
        match self.limit.try_open() {
            Some(permit) => self.open(permit).await,
            None => self.wait().await,
        }
    }

    /// Waits for a connection of this worker to come free, or for the right to open one.
    async fn wait(&self) -> Result<Box<Connection<B>>, Error> {
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

    async fn open(&self, permit: OwnedSemaphorePermit) -> Result<Box<Connection<B>>, Error> {
        let stream = self.connector.connect().await?;
        let wire = Rc::new(Wire::default());
        let stream = Watched::new(stream, Rc::clone(&wire));
        let (sender, connection) = http1::Builder::new()
            // Most requests are a head alone, for which lists of buffers are a detour.
            .writev(false)
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Error::Broken)?;
        let passing = Rc::clone(&wire);
        let task = spawn_local(async move {
            // The socket is closed before its permit is free.
            let _permit = permit;
            let mut connection = pin!(connection);
            let connection = poll_fn(|cx| {
                passing.look_again();
                connection.as_mut().poll(cx)
            });
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "A connection to an origin ended with an error");
            }
        });
        Ok(Box::new(Connection {
            sender,
            _task: AbortOnDrop(task.abort_handle()),
            wire,
            patience: Patience::default(),
            since: Instant::now(),
            used: false,
            handed_on: 0,
        }))
    }
}

impl<B> Shared<B> {
    /// Takes back a connection whose exchange ended cleanly. Whoever waits comes first: this
    /// worker's requests by handing it on, another worker's by closing it.
    fn take_back(&self, mut connection: Box<Connection<B>>) {
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
    wire: Rc<Wire>,
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
    connection: Box<Connection<B>>,
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
