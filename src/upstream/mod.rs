//! The app behind: where it is, how much it is asked at once, and what it is told about a user.
//!
//! An [`Upstream`] is what all workers share of one app; a worker's [`Pools`] are its own
//! connections. This room refuses to know who may reach an app: whoever holds a request has
//! decided that already. Its one entry point is [`Pools::send`].
//!
//! Two decisions have a price. A request is sent a second time only when the first connection had
//! been used before, died without a byte of an answer, and the request is of a safe method without
//! content: `PUT` and `DELETE` would be allowed by RFC 9110 section 9.2.2, but a `DELETE` that
//! worked would come back as a 404. And while a request waits for a connection, idle connections
//! of other workers are closed rather than kept: an app with one process is worth more than a
//! saved handshake.

mod assertion;
mod settings;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Response};
use http_body::Body as _;

use crate::clock::Clock;
use crate::origin::{self, Connector, Limit, Origin, Pool, Times};
use crate::tls::{self, Refreshed, Trust};
use crate::upload::{BoxError, Upload};

pub(crate) use crate::origin::{KeptHead, ResponseBody};
pub(crate) use assertion::AssertionNames;
pub(crate) use assertion::assertions;
pub(crate) use settings::Settings;

/// Why an app gave no answer, or could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The app's connection broke, or it does not speak HTTP as it should. Side: upstream.
    #[error("the app's answer is broken")]
    Broken(#[source] origin::Error),
    /// Every connection is in use and the queue gave up. Side: upstream; raise `connections` if
    /// the app can serve more at once.
    #[error("the app has no free connection")]
    Busy,
    /// The app could not be reached. Side: upstream.
    #[error("the app cannot be reached")]
    Connect(#[source] origin::Error),
    /// The app did not take a connection in time. Side: upstream.
    #[error("the app took too long to connect")]
    ConnectTimeout,
    /// The app took too long to begin its answer. Side: upstream.
    #[error("the app took too long to answer")]
    HeadTimeout,
    /// The request's own body broke off or was too slow. Side: client; the source is the body's
    /// error.
    #[error("the request body broke off")]
    RequestBody(#[source] BoxError),
    /// The app's certificate is not trusted, or the handshake failed otherwise; nothing of the
    /// request was sent. Side: upstream.
    #[error("the app's TLS is not trusted")]
    Tls(#[source] origin::Error),
    /// The authorities that vouch for the app cannot be used. Side: gateway; see `ca_file`.
    #[error("the certificate authorities for the app cannot be used")]
    Trust(#[source] tls::Error),
    /// A `ca_file` for an app that is reached without TLS. Side: gateway; `url` was to be `https`.
    #[error("ca_file has no use with an http url")]
    TrustUnused,
}

impl Error {
    /// A stable code for logs, counters and problem documents.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Broken(origin::Error::BodyTimeout) => "upstream_body_timeout",
            Self::Broken(_) => "upstream_broken",
            Self::Busy => "upstream_busy",
            Self::Connect(_) => "upstream_unreachable",
            Self::ConnectTimeout => "upstream_connect_timeout",
            Self::HeadTimeout => "upstream_timeout",
            Self::RequestBody(_) => "request_body_broken",
            Self::Tls(_) => "upstream_tls",
            Self::Trust(_) | Self::TrustUnused => "upstream_trust",
        }
    }
}

impl From<origin::Error> for Error {
    fn from(error: origin::Error) -> Self {
        match error {
            origin::Error::Busy => Self::Busy,
            origin::Error::Connect(_) | origin::Error::Resolve(_) => Self::Connect(error),
            origin::Error::ConnectTimeout => Self::ConnectTimeout,
            origin::Error::HeadTimeout => Self::HeadTimeout,
            origin::Error::RequestBody(source) => Self::RequestBody(source),
            origin::Error::Tls(_) | origin::Error::Unconfigured => Self::Tls(error),
            origin::Error::BodyTimeout
            | origin::Error::Broken(_)
            | origin::Error::CallTimeout
            | origin::Error::Framing
            | origin::Error::TooLarge
            | origin::Error::UnaskedUpgrade => Self::Broken(error),
        }
    }
}

/// One app, as all workers share it.
pub struct Upstream {
    name: Box<str>,
    settings: Settings,
    /// Who vouches for an `https` app.
    trust: Option<Trust>,
    connector: Arc<Connector>,
    limit: Arc<Limit>,
    times: Times,
    longest_wait: Duration,
}

impl Upstream {
    /// Sets the app up; nothing is connected yet. Blocks for reading the authorities.
    ///
    /// # Errors
    ///
    /// [`Error::Trust`] when the authorities for an `https` app cannot be used,
    /// [`Error::TrustUnused`] when an `http` app has some.
    pub(crate) fn new(name: &str, settings: &Settings) -> Result<Self, Error> {
        let encrypted = settings.url.is_encrypted();
        let trust = match &settings.ca_file {
            Some(_) if !encrypted => return Err(Error::TrustUnused),
            Some(file) => Some(Trust::from_file(file).map_err(Error::Trust)?),
            None if encrypted => Some(Trust::system().map_err(Error::Trust)?),
            None => None,
        };
        let (url, timeout) = (settings.url.clone(), settings.connect_timeout);
        let connector = Connector::new(url, trust.clone(), timeout)?;
        let limit = Limit::new(settings.connections, settings.queue, settings.queue_wait);
        let connected = settings.queue_wait.saturating_add(settings.connect_timeout);
        let once = connected.saturating_add(settings.response_timeout);
        Ok(Self {
            name: name.into(),
            longest_wait: once.saturating_mul(2),
            connector: Arc::new(connector),
            limit: Arc::new(limit),
            times: Times {
                head: settings.response_timeout,
                stall: settings.body_timeout,
                idle: settings.idle_timeout,
            },
            settings: settings.clone(),
            trust,
        })
    }

    /// What it was made from.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Reads the app's authorities again and trusts them if the file's content changed. Connections
    /// that are open stay open. Blocks for a small read.
    ///
    /// # Errors
    ///
    /// [`Error::Trust`]; what was trusted stays trusted.
    pub(crate) fn refresh_trust(&self) -> Result<Refreshed, Error> {
        let trust = self.trust.as_ref();
        let refreshed = trust.map_or(Ok(Refreshed::Unchanged), Trust::refresh);
        refreshed.map_err(Error::Trust)
    }

    /// The name in the settings.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where the app is.
    pub(crate) fn origin(&self) -> &Origin {
        self.connector.origin()
    }

    /// The longest that it can take, from the moment when a request without content is sent, until its
    /// answer begins, the second time included.
    pub(crate) fn longest_wait(&self) -> Duration {
        self.longest_wait
    }

    fn pool(&self, clock: &Clock) -> Pool {
        Pool::new(
            Arc::clone(&self.connector),
            Arc::clone(&self.limit),
            self.times,
            clock.clone(),
        )
    }

    /// Completes what the framing of the app's request needs and the client's lacked.
    fn prepare(&self, request: &mut Request<Upload>) {
        if !self.settings.preserve_host {
            let host = self.origin().host_value().clone();
            request.headers_mut().insert(HOST, host);
        }
        // RFC 9110 section 8.6 asks for it, and old servers insist (411). HTTP/2 does not carry it.
        let has_content = matches!(
            *request.method(),
            Method::POST | Method::PUT | Method::PATCH
        );
        if has_content && request.body().is_end_stream() {
            let nothing = HeaderValue::from_static("0");
            request.headers_mut().insert(CONTENT_LENGTH, nothing);
        }
        // Of a GET or HEAD whose content has no stated length the HTTP library would send none.
        let rarely = matches!(*request.method(), Method::GET | Method::HEAD);
        let has_body = !request.body().is_end_stream();
        if rarely && has_body && !request.headers().contains_key(CONTENT_LENGTH) {
            let chunked = HeaderValue::from_static("chunked");
            request.headers_mut().insert(TRANSFER_ENCODING, chunked);
        }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("name", &self.name)
            .field("origin", self.origin())
            .finish_non_exhaustive()
    }
}

/// The way to the answer of a request that was sent on.
pub(crate) struct Answering(origin::Sending);

impl Future for Answering {
    type Output = Result<Response<ResponseBody>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map_err(Error::from)
    }
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answering").finish_non_exhaustive()
    }
}

/// One worker's connections to all apps. Lives where local tasks are spawned: on the worker.
pub(crate) struct Pools {
    clock: Clock,
    known: RefCell<BTreeMap<usize, Known>>,
}

struct Known {
    /// Keeps the address from naming another upstream, but not the upstream alive.
    upstream: Weak<Upstream>,
    pool: Pool,
}

impl Pools {
    /// No connections yet.
    pub(crate) fn new(clock: Clock) -> Self {
        let known = RefCell::default();
        Self { clock, known }
    }

    /// Sends `request` to the app and returns once the response head is there; the response body
    /// streams. The request's fields are as the app is to see them, hop-by-hop fields gone; its
    /// `Host`, which has to be there, is passed on unless the settings say otherwise.
    ///
    /// Errors of the response body are [`origin::Error`]s; a body that broke never ends cleanly.
    ///
    /// # Errors
    ///
    /// All of [`Error`] but those of [`Upstream::new`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection; the app may have acted, even if it was never
    /// polled.
    pub(crate) fn send(&self, upstream: &Arc<Upstream>, mut request: Request<Upload>) -> Answering {
        upstream.prepare(&mut request);
        Answering(self.of(upstream).send(request))
    }

    /// The pool for `upstream`. Upstreams that nobody holds any more (the settings were reloaded)
    /// leave with their connections.
    fn of(&self, upstream: &Arc<Upstream>) -> Pool {
        let key = Arc::as_ptr(upstream).addr();
        let mut pools = self.known.borrow_mut();
        if let Some(known) = pools.get(&key) {
            return known.pool.clone();
        }
        pools.retain(|_, known| known.upstream.strong_count() > 0);
        let pool = upstream.pool(&self.clock);
        let known = Known {
            upstream: Arc::downgrade(upstream),
            pool: pool.clone(),
        };
        pools.insert(key, known);
        pool
    }
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pools = self.known.borrow();
        f.debug_list()
            .entries(pools.values().map(|known| &known.pool))
            .finish()
    }
}
