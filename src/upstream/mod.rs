//! The app behind the gateway: its address, its connections, and the fields that tell the app who
//! is signed in.
//!
//! All workers share one [`Upstream`] per app. Each worker has its own connections in its
//! [`Pools`]. This module does not check who may use an app, because `access` has already made the
//! decision about the request. The entry point is [`Pools::send`].
//!
//! Two design decisions have a cost: the gateway rarely retries a request, and the gateway closes
//! idle connections early. The documentation of `origin::Pool::send_for` lists the cases in which
//! the gateway sends a request a second time. RFC 9110 section 9.2.2 also allows a retry of `PUT`
//! and `DELETE`. The gateway does not retry `PUT` and `DELETE`, because a second `DELETE` would
//! return 404 after a successful first `DELETE`. When a request has to wait for a connection, the
//! gateway closes idle connections of other workers to the same app. When an idle connection is
//! closed, the waiting request can open a connection sooner. A worker whose idle connection was
//! closed must open a new connection for its next request.

mod assertion;
mod probe;
mod settings;
#[cfg(test)]
mod tests;
mod url;

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
use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::fields::UpgradeRequest;
use crate::origin::{self, AnswerLimits, Connector, KeepAlive, Limit, Origin, Pool, Shares, Times};
use crate::target::Prefix;
use crate::tls::{self, Refreshed, Trust};
use crate::upload::{BoxError, Upload};

pub use crate::origin::Eviction;
pub(crate) use crate::origin::{
    EvictionWatch, Exchange, Owner, Protocol, Requester, ResponseBody, SavedHead, StreamingCall,
    UpgradedOrigin,
};
pub(crate) use assertion::{
    AppFields, AssertionNames, Authorization, BasicPassword, BasicSettings, Bearer,
    CredentialSettings, FieldName, SignedAssertion, SignedRequest, SigningKeys, additional_claim,
    assertions,
};
pub(crate) use settings::Settings;

/// The reason why an app gave no answer, or could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The app closed the connection, the connection broke, or the app does not speak valid HTTP.
    /// The upstream is responsible for this error.
    #[error("the app's connection broke or its answer is not valid HTTP")]
    Broken(#[source] origin::Error),
    /// All connections to the app are in use. The queue is full, or the request has waited too long
    /// in the queue. The upstream is responsible for this error. If the app can serve more requests
    /// at the same time, the operator can increase `connections`.
    #[error("the app has no free connection")]
    Busy,
    /// The route of the request has no app, because another proxy forwards the requests of the
    /// route. The operator is responsible for this error: the other proxy must not forward these
    /// requests to the gateway.
    #[error(
        "the route has no upstream; the proxy in auth_check.proxies has to forward the request to \
         the app, or the route has to name an upstream"
    )]
    NoApp,
    /// The app already has the maximum number of connections on which the protocol was switched,
    /// for example to WebSocket. The upstream is responsible for this error. If the app can serve
    /// more switched connections, the operator can increase the setting `tunnels`.
    #[error("the app has no free connection for another protocol")]
    TooManyTunnels,
    /// The app could not be reached. The upstream is responsible for this error.
    #[error("the app cannot be reached")]
    Connect(#[source] origin::Error),
    /// The app did not accept a connection in time. The upstream is responsible for this error.
    #[error("the app took too long to connect")]
    ConnectTimeout,
    /// The gateway took the connection away from the exchange, because another request waited. The
    /// client is responsible for this error, because the client is slow or uses more than its share
    /// of the connections.
    #[error("the request was ended, because other requests waited for its connection")]
    Evicted(Eviction),
    /// The app did not begin its answer in time. The upstream is responsible for this error.
    #[error("the app took too long to answer")]
    HeadTimeout,
    /// The body of the request ended too early or was too slow. The client is responsible for this
    /// error. The method `source` returns the error of the request body.
    #[error("the request body broke off")]
    RequestBody(#[source] BoxError),
    /// The app's certificate is not trusted, or the TLS handshake failed. No part of the request
    /// was sent to the app. The upstream is responsible for this error.
    #[error("the app's certificate is not trusted or the TLS handshake failed")]
    Tls(#[source] origin::Error),
    /// The certificate authorities for the app cannot be used. The operator is responsible for this
    /// error, and has to correct the content of `ca_file`.
    #[error("the certificate authorities for the app cannot be used")]
    Trust(#[source] tls::Error),
    /// `server_name` is not a name for which a certificate can be valid. The operator is
    /// responsible for this error.
    #[error(transparent)]
    ServerName(tls::Error),
    /// The operator has written a key for TLS, such as `ca_file`, although the app does not use
    /// TLS. The operator is responsible for this error. In most cases, the URL of the app should
    /// begin with `https`.
    #[error("{0} has no effect with an http url")]
    TrustUnused(&'static str),
}

impl Error {
    /// A stable code for logs, metrics and problem documents.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Broken(origin::Error::BodyTimeout) => "upstream_body_timeout",
            Self::Broken(origin::Error::BadSwitch) => "upstream_bad_switch",
            Self::Broken(origin::Error::HeadTooLarge(_)) => "upstream_head_too_large",
            Self::Broken(origin::Error::NoHttp2(_)) => "upstream_no_http2",
            Self::Broken(origin::Error::TooManyFields(_)) => "upstream_too_many_fields",
            Self::Broken(_) => "upstream_broken",
            Self::Busy => "upstream_busy",
            Self::TooManyTunnels => "upstream_tunnels",
            Self::Connect(_) => "upstream_unreachable",
            Self::ConnectTimeout => "upstream_connect_timeout",
            Self::Evicted(eviction) => eviction.reason(),
            Self::HeadTimeout => "upstream_timeout",
            Self::NoApp => "route_without_app",
            Self::RequestBody(_) => "request_body_broken",
            Self::Tls(_) => "upstream_tls",
            Self::ServerName(_) | Self::Trust(_) | Self::TrustUnused(_) => "upstream_trust",
        }
    }

    /// Returns the setting with the problem, if the app could not be set up.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::TrustUnused(key) => key,
            Self::ServerName(_) => "server_name",
            Self::Broken(_)
            | Self::Busy
            | Self::Connect(_)
            | Self::ConnectTimeout
            | Self::Evicted(_)
            | Self::HeadTimeout
            | Self::NoApp
            | Self::RequestBody(_)
            | Self::Tls(_)
            | Self::TooManyTunnels
            | Self::Trust(_) => "ca_file",
        }
    }
}

impl From<origin::Error> for Error {
    fn from(error: origin::Error) -> Self {
        match error {
            origin::Error::Busy => Self::Busy,
            origin::Error::Connect(_) | origin::Error::Proxy { .. } | origin::Error::Resolve(_) => {
                Self::Connect(error)
            }
            origin::Error::ConnectTimeout => Self::ConnectTimeout,
            origin::Error::Evicted(eviction) => Self::Evicted(eviction),
            origin::Error::HeadTimeout => Self::HeadTimeout,
            origin::Error::RequestBody(source) => Self::RequestBody(source),
            origin::Error::Tls(_) | origin::Error::Unconfigured => Self::Tls(error),
            origin::Error::BadSwitch
            | origin::Error::BodyTimeout
            | origin::Error::Broken(_)
            | origin::Error::CallTimeout
            | origin::Error::Framing
            | origin::Error::HeadTooLarge(_)
            | origin::Error::Http2(_)
            | origin::Error::NoHttp2(_)
            | origin::Error::TooLarge
            | origin::Error::TooManyFields(_)
            | origin::Error::UnrequestedUpgrade => Self::Broken(error),
        }
    }
}

/// One app, which all workers share.
pub struct Upstream {
    name: Box<str>,
    settings: Settings,
    /// The certificate authorities that are trusted for an `https` app.
    trust: Option<Trust>,
    connector: Arc<Connector>,
    limit: Arc<Limit>,
    /// The number of permits limits the connections on which the app has switched to another
    /// protocol.
    tunnels: Arc<Semaphore>,
    times: Times,
    longest_wait: Duration,
}

impl Upstream {
    /// Creates the upstream from the settings of the app. This function opens no connection. Blocks
    /// the thread while the function reads the certificate authorities.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Trust`] if the certificate authorities for an `https` app cannot be used.
    /// Returns [`Error::ServerName`] if no certificate can be valid for `server_name`. Returns
    /// [`Error::TrustUnused`] if an `http` app has a `ca_file` or a `server_name`.
    pub(crate) fn new(name: &str, settings: &Settings) -> Result<Self, Error> {
        let encrypted = settings.url.origin().is_encrypted();
        let mut trust = match &settings.ca_file {
            Some(_) if !encrypted => return Err(Error::TrustUnused("ca_file")),
            Some(file) => Some(Trust::from_file(file).map_err(Error::Trust)?),
            None if encrypted => Some(Trust::system().map_err(Error::Trust)?),
            None => None,
        };
        if let Some(name) = &settings.server_name {
            let unnamed = trust.ok_or(Error::TrustUnused("server_name"))?;
            trust = Some(unnamed.with_server_name(name).map_err(Error::ServerName)?);
        }
        let (url, timeout) = (settings.url.origin().clone(), settings.connect_timeout);
        let connector = Connector::new(url, trust.clone(), timeout)?
            .with_protocol(settings.protocol)
            .with_title_case(settings.title_case_fields)
            .with_answer_limits(AnswerLimits {
                head_bytes: settings.answer_head,
                fields: settings.answer_fields,
            });
        let shares = Shares {
            slow_client: settings.slow_client,
            max_thousandths: settings.max_share.thousandths(),
        };
        let queue_wait = settings.queue_wait;
        let limit = Limit::new(settings.connections, settings.queue, queue_wait, shares);
        // `Semaphore::new` panics if the number of permits is greater than `MAX_PERMITS`.
        let tunnels = settings.tunnels().get().min(Semaphore::MAX_PERMITS);
        let connected = settings.queue_wait.saturating_add(settings.connect_timeout);
        let once = connected.saturating_add(settings.response_timeout);
        Ok(Self {
            name: name.into(),
            // The gateway can send a request a second time, so `longest_wait` is twice the time
            // limit of one attempt.
            longest_wait: once.saturating_mul(2),
            connector: Arc::new(connector),
            limit: Arc::new(limit),
            tunnels: Arc::new(Semaphore::new(tunnels)),
            times: Times {
                head: settings.response_timeout,
                stall: settings.body_timeout,
                idle: settings.idle_timeout(),
                keep_alive: KeepAlive::default(),
            },
            settings: settings.clone(),
            trust,
        })
    }

    /// The settings of the app.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Reads the app's certificate authorities again, and uses them if the file has changed. Open
    /// connections stay open. Blocks the thread while the function reads a small file.
    ///
    /// # Errors
    ///
    /// [`Error::Trust`]. If this function fails, the gateway continues to use the previous
    /// certificate authorities.
    pub(crate) fn refresh_trust(&self) -> Result<Refreshed, Error> {
        let trust = self.trust.as_ref();
        let refreshed = trust.map_or(Ok(Refreshed::Unchanged), Trust::refresh);
        refreshed.map_err(Error::Trust)
    }

    /// The name of the app in the settings.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The app's origin.
    pub(crate) fn origin(&self) -> &Origin {
        self.connector.origin()
    }

    /// The path below which the app is on its server.
    pub(crate) fn base(&self) -> &Prefix {
        self.settings.url.base()
    }

    /// The longest time from the start of a request without content to the start of its answer,
    /// including one retry.
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

    /// Adds the framing fields that the app needs, if the client has not sent these fields.
    fn prepare(&self, request: &mut Request<Upload>) {
        if !self.settings.preserve_host {
            let host = self.origin().host_value().clone();
            request.headers_mut().insert(HOST, host);
        }
        // For a request such as a `POST` without content, RFC 9110 section 8.6 recommends
        // `Content-Length: 0`. HTTP/2 clients often do not send `Content-Length`, and old servers
        // answer 411 if `Content-Length` is missing.
        let has_content = matches!(
            *request.method(),
            Method::POST | Method::PUT | Method::PATCH
        );
        if has_content && request.body().is_end_stream() {
            let nothing = HeaderValue::from_static("0");
            request.headers_mut().insert(CONTENT_LENGTH, nothing);
        }
        // If the content of a GET or HEAD request has an unknown length, hyper sends the content
        // only if the request has the field `Transfer-Encoding`.
        let usually_empty = matches!(*request.method(), Method::GET | Method::HEAD);
        let has_body = !request.body().is_end_stream();
        // HTTP/2 does not have `Transfer-Encoding`, because HTTP/2 frames delimit the content.
        let is_http1 = || self.settings.protocol == Protocol::Http1;
        if usually_empty
            && has_body
            && is_http1()
            && !request.headers().contains_key(CONTENT_LENGTH)
        {
            let length = request.body().size_hint().exact();
            let (name, value) = match length {
                Some(length) => (CONTENT_LENGTH, HeaderValue::from(length)),
                None => (TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
            };
            request.headers_mut().insert(name, value);
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

/// A future whose result is the app's answer.
pub(crate) struct ResponseFuture(origin::ResponseFuture);

impl Future for ResponseFuture {
    type Output = Result<Response<ResponseBody>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map_err(Error::from)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// One worker's connections to all apps. A [`Pools`] has to stay on the thread of its worker,
/// because the pools spawn local tasks.
pub(crate) struct Pools {
    clock: Clock,
    pools: RefCell<BTreeMap<usize, WorkerPool>>,
}

struct WorkerPool {
    /// The key of a pool in the map is the memory address of the pool's upstream. While this weak
    /// reference exists, the memory of the upstream is not freed, so no other upstream can have the
    /// same memory address.
    upstream: Weak<Upstream>,
    pool: Pool,
}

impl Pools {
    /// Creates a [`Pools`] without any pool.
    pub(crate) fn new(clock: Clock) -> Self {
        let pools = RefCell::default();
        Self { clock, pools }
    }

    /// Sends `request` to the app, and returns the response when its head has arrived. The body of
    /// the response is streamed. The caller has already removed the hop-by-hop fields and written
    /// all other fields. The request must have a `Host` field. `Host` is forwarded unchanged,
    /// unless `preserve_host` is off.
    ///
    /// Errors of the response body are [`origin::Error`]s. An incomplete body always ends with an
    /// error, so the client cannot treat an incomplete body as complete.
    ///
    /// # Errors
    ///
    /// Any variant of [`Error`], except the variants that [`Upstream::new`] returns.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection. The caller has to assume that the app has
    /// processed the request, even if the future was never polled.
    pub(crate) fn send(
        &self,
        upstream: &Arc<Upstream>,
        requester: Requester,
        mut request: Request<Upload>,
    ) -> ResponseFuture {
        upstream.prepare(&mut request);
        ResponseFuture(self.pool_for(upstream).send_for(requester, request))
    }

    /// Sends a request whose fields ask for a switch to the protocol `upgrade`, on a new connection
    /// that no other request uses.
    ///
    /// # Errors
    ///
    /// Can return all variants of [`Error`], except [`Error::Busy`] and the errors of
    /// [`Upstream::new`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection. The app may have processed the request.
    pub(crate) async fn switch(
        &self,
        upstream: &Arc<Upstream>,
        requester: Requester,
        mut request: Request<Upload>,
        upgrade: Box<UpgradeRequest>,
    ) -> Result<Exchange, Error> {
        upstream.prepare(&mut request);
        // A tunnel may last for days, so a request for a new tunnel does not wait until another
        // tunnel ends, but fails immediately.
        let slot = Arc::clone(&upstream.tunnels).try_acquire_owned();
        let slot = slot.map_err(|_full| Error::TooManyTunnels)?;
        let switching = self
            .pool_for(upstream)
            .switch(requester, request, upgrade, slot);
        switching.await.map_err(Error::from)
    }

    /// Returns the pool for `upstream`. If `upstream` has no pool yet, creates the pool, and closes
    /// the pools of upstreams that a reload has replaced. Closing a pool also closes the
    /// connections of the pool.
    fn pool_for(&self, upstream: &Arc<Upstream>) -> Pool {
        let key = Arc::as_ptr(upstream).addr();
        let mut pools = self.pools.borrow_mut();
        if let Some(existing) = pools.get(&key) {
            return existing.pool.clone();
        }
        // If a reload has created `upstream`, other upstreams may have been replaced. The next line
        // removes the pools of replaced upstreams.
        pools.retain(|_, existing| existing.upstream.strong_count() > 0);
        let pool = upstream.pool(&self.clock);
        let entry = WorkerPool {
            upstream: Arc::downgrade(upstream),
            pool: pool.clone(),
        };
        pools.insert(key, entry);
        pool
    }
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pools = self.pools.borrow();
        f.debug_list()
            .entries(pools.values().map(|existing| &existing.pool))
            .finish()
    }
}
