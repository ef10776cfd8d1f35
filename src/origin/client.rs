//! Sends small requests, and collects the complete answer to each request in memory.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, HOST};
use http::{HeaderValue, Request, Response, Version};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::answer_head::AnswerLimits;
use super::connector::Connector;
use super::error::Error;
use super::message::origin_form;
use super::probe::{Findings, Reached};
use crate::clock::Timestamp;

/// The maximum size of a response head, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// The limits of one call to an origin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct CallLimits {
    /// The maximum time from the start of the call to the last byte of the answer.
    pub(crate) deadline: Duration,
    /// The maximum size of a response body, in bytes.
    pub(crate) body_bytes: usize,
    /// The maximum number of fields in a response head.
    pub(crate) fields: usize,
}

impl Default for CallLimits {
    /// The defaults: a deadline of 15 seconds, a body of at most 1 MiB, and at most 100 fields.
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(15),
            body_bytes: 1024 * 1024,
            fields: 100,
        }
    }
}

/// A client for calls to one origin. Each call uses a new connection.
#[derive(Clone, Debug)]
pub(crate) struct Client(Arc<Connector>);

impl Client {
    /// Creates a client for the origin of `connector`.
    pub(crate) fn new(connector: Connector) -> Self {
        Self(Arc::new(connector))
    }

    /// Opens a connection and closes it. Sends no request.
    ///
    /// # Errors
    ///
    /// The errors of [`Connector::connect`].
    pub(crate) async fn check_connection(&self) -> Result<(), Error> {
        self.0.connect().await.map(drop)
    }

    /// Opens a connection, and reports each step. `key` is the setting that contains the URL.
    pub(crate) async fn probe(
        &self,
        key: &'static str,
        now: Timestamp,
        findings: &mut Findings,
    ) -> Reached {
        self.0.probe(key, now, findings).await
    }

    /// Sends `request` and collects the answer. Sets `Host` and `Accept-Encoding: identity`. The
    /// path and the query of the URI are the request target. A redirect is returned like any other
    /// answer. A request is never sent twice.
    ///
    /// # Errors
    ///
    /// Before the connection is open, the errors are [`Error::Resolve`], [`Error::Connect`],
    /// [`Error::Tls`], [`Error::ConnectTimeout`] and [`Error::Proxy`]. After the connection is
    /// open, the errors are [`Error::CallTimeout`], [`Error::TooLarge`], [`Error::Broken`],
    /// [`Error::Proxy`] and [`Error::UnrequestedUpgrade`]. If the call fails after the client has
    /// connected, the origin may have processed the request ([`Error::may_have_been_processed`]).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection. The origin may already have processed the
    /// request.
    pub(crate) async fn call(
        &self,
        request: Request<Full<Bytes>>,
        limits: CallLimits,
    ) -> Result<Response<Bytes>, Error> {
        let mut connected = false;
        let call = self.call_untimed(request, limits, &mut connected);
        match timeout(limits.deadline, call).await {
            Ok(outcome) => outcome,
            Err(_elapsed) if connected => Err(Error::CallTimeout),
            Err(_elapsed) => Err(self.0.explain(Error::ConnectTimeout)),
        }
    }

    /// Sends `request` without a deadline. Sets `connected` to true before the first byte of the
    /// request is sent.
    async fn call_untimed(
        &self,
        mut request: Request<Full<Bytes>>,
        limits: CallLimits,
        connected: &mut bool,
    ) -> Result<Response<Bytes>, Error> {
        let stream = self.0.connect().await?;
        *connected = true;
        *request.version_mut() = Version::HTTP_11;
        let target = origin_form(std::mem::take(request.uri_mut()));
        let proxy = self.0.forwarding_proxy();
        *request.uri_mut() = match proxy {
            Some(proxy) => proxy.address(self.0.origin(), target, request.headers_mut()),
            None => target,
        };
        let host = self.0.origin().host_value().clone();
        request.headers_mut().insert(HOST, host);
        // The client does not decompress answers, so the server must not compress the answer.
        let identity = HeaderValue::from_static("identity");
        request.headers_mut().insert(ACCEPT_ENCODING, identity);
        let (mut sender, connection) = http1::Builder::new()
            .max_headers(limits.fields)
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Error::Broken)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(head_error)?;
            if let Some(proxy) = proxy {
                proxy.check(response.status())?;
            }
            collect(response, limits.body_bytes).await
        };
        drive(exchange, connection).await
    }
}

/// Returns the error for a call whose answer has no readable head.
fn head_error(error: hyper::Error) -> Error {
    if error.is_parse_too_large() {
        Error::TooLarge
    } else {
        Error::Broken(error)
    }
}

/// Runs the future `exchange` until it is complete. This function also polls `connection`, because
/// `connection` sends and receives the bytes of the exchange.
async fn drive<T>(exchange: impl Future<Output = T>, connection: impl Future) -> T {
    let mut exchange = pin!(exchange);
    let mut connection = pin!(connection);
    tokio::select! {
        // If the answer is complete, the answer is returned, even if the connection ends at the
        // same moment.
        biased;
        outcome = &mut exchange => return outcome,
        // This branch ignores the error of the connection, because `exchange` reports the same
        // error.
        _ended = &mut connection => {}
    }
    // The connection has ended. The future `exchange` can still process the bytes that arrived
    // before the connection ended.
    exchange.await
}

/// Reads the complete body. Fails if the body is longer than `limit` bytes.
async fn collect(response: Response<Incoming>, limit: usize) -> Result<Response<Bytes>, Error> {
    let (parts, mut body) = response.into_parts();
    let head = AnswerLimits {
        head_bytes: MAX_HEAD,
        fields: parts.headers.len(),
    };
    if head.check(&parts).is_err() {
        return Err(Error::TooLarge);
    }
    if parts.status == http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::UnrequestedUpgrade);
    }
    // If the declared length is too large, the call fails before the body is read.
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(Error::TooLarge);
    }
    let mut collected = BytesMut::with_capacity(announced);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(Error::Broken)?.into_data() {
            if data.len() > limit.saturating_sub(collected.len()) {
                return Err(Error::TooLarge);
            }
            collected.extend_from_slice(&data);
        }
    }
    Ok(Response::from_parts(parts, collected.freeze()))
}
