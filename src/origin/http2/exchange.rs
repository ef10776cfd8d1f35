//! One request and its response, on one HTTP/2 stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::header::{CONNECTION, HOST};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri, Version};
use http_body::Body as _;
use tokio::task::spawn_local;

use super::body::Incoming;
use super::{Connections, Slot, upload};
use crate::origin::connection::AbortOnDrop;
use crate::origin::error::Error;
use crate::origin::head_timer::HeadTimer;
use crate::origin::message::normalize_framing;
use crate::origin::outgoing::Outgoing;
use crate::origin::owner::Requester;
use crate::origin::progress::UploadProgress;
use crate::origin::received::Received;
use crate::origin::response::ResponseBody;
use crate::origin::saved_head::SavedHead;
use crate::origin::usage::Eviction;
use crate::upload::Upload;

/// The result from h2.
type Answer = Result<Response<RecvStream>, h2::Error>;

/// The result of waiting for a response head.
enum Arrived {
    Answer(Answer),
    /// The gateway took the HTTP/2 stream away from this request, because another request waited
    /// for an HTTP/2 stream.
    Evicted(Eviction),
    /// The response head did not arrive before the deadline.
    Late,
}

/// A request that got no response.
struct Failed {
    error: Error,
    /// The request, if the gateway may send it again.
    retry: Option<(Parts, Outgoing)>,
}

/// A request that was sent and has no response yet. Dropping this value resets the stream.
struct Attempt {
    response: ResponseFuture,
    upload: Option<AbortOnDrop>,
    progress: Option<Rc<UploadProgress>>,
    /// Whether the connection had carried a response before this request.
    used: bool,
    slot: Slot,
}

impl Connections {
    /// Sends a request, and returns when the head of its response has arrived. The retries are
    /// described at [`Pool::send_for`](crate::origin::Pool::send_for).
    pub(in crate::origin) async fn send(
        self: Rc<Self>,
        requester: Requester,
        request: Request<Upload>,
    ) -> Result<Response<ResponseBody>, Error> {
        let (mut head, upload) = request.into_parts();
        self.write_target(&mut head);
        let request = Outgoing::http2(head, upload, &self.clock, &self.connector);
        let (head, body) = request.into_parts();
        // A copy of the head is useful only for a request without content, because the content
        // cannot be sent twice.
        let saved = body.progress().is_none().then(|| SavedHead::of(&head));
        let failed = match self.attempt(requester, head, body, saved).await {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        let (head, body) = failed.retry.ok_or(failed.error)?;
        tracing::debug!("An origin has not processed a request, so the request is sent again");
        let again = self.attempt(requester, head, body, None).await;
        // A second failure is final, because no request is sent a third time.
        again.map_err(|failed| failed.error)
    }

    async fn attempt(
        self: &Rc<Self>,
        requester: Requester,
        head: Parts,
        body: Outgoing,
        saved: Option<SavedHead>,
    ) -> Result<Response<ResponseBody>, Failed> {
        let slot = self.slot(requester.owner).await.map_err(Failed::finally)?;
        // The connection may have ended after this request got its slot.
        if !slot.connection.accepts_requests() {
            return Err(Failed {
                error: Error::Http2(Reason::REFUSED_STREAM.into()),
                retry: Some((head, body)),
            });
        }
        let safe = head.method.is_safe();
        let begun = Attempt::begin(slot, head, body, requester);
        let mut attempt = begun.map_err(Failed::finally)?;
        match self.answer(&mut attempt).await {
            Arrived::Evicted(eviction) => Err(Failed::finally(Error::Evicted(eviction))),
            Arrived::Late => Err(Failed::finally(Error::HeadTimeout)),
            Arrived::Answer(Err(error)) => {
                let repeatable = is_unprocessed(&error) || safe && attempt.used && is_lost(&error);
                let saved = saved.filter(|_saved| repeatable);
                let retry = saved.map(|saved| (saved.into_parts(), Outgoing::empty()));
                let progress = attempt.progress.as_ref();
                let error = UploadProgress::explain(progress, Error::Http2(error));
                Err(Failed { error, retry })
            }
            Arrived::Answer(Ok(response)) => {
                let (mut parts, stream) = response.into_parts();
                let limits = self.connector.answer_limits();
                limits.check(&parts).map_err(Failed::finally)?;
                attempt.slot.connection.record_receipt();
                let Attempt { upload, slot, .. } = attempt;
                let body = Incoming::new(stream, &parts.headers, upload, slot);
                // The framing of HTTP/2 is never ambiguous, so the connection stays usable.
                normalize_framing(&mut parts.headers, parts.status, &body)
                    .map_err(Failed::finally)?;
                // The module `gateway` expects that the version of every response is HTTP/1.1.
                parts.version = Version::HTTP_11;
                let received = (Received::Http2(Box::new(body)), self.clock.instant());
                let body = ResponseBody::new(received, None, attempt.progress, self.times.stall);
                Ok(Response::from_parts(parts, body))
            }
        }
    }

    /// Waits for the head of the response.
    async fn answer(&self, attempt: &mut Attempt) -> Arrived {
        let since = self.clock.instant();
        let mut timer = HeadTimer::default();
        let (limit, progress) = (self.times.head, attempt.progress.as_deref());
        let usage = &attempt.slot.usage;
        // The answer is polled first, so an answer that arrives at the deadline is still accepted.
        poll_fn(|cx| match Pin::new(&mut attempt.response).poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Arrived::Answer(answer)),
            Poll::Pending => {
                if usage.is_evictable_unanswered()
                    && let Poll::Ready(eviction) = usage.poll_evicted(cx)
                {
                    return Poll::Ready(Arrived::Evicted(eviction));
                }
                let late = timer.poll(since, limit, progress, cx);
                late.map(|()| Arrived::Late)
            }
        })
        .await
    }

    /// Converts the target of a request: HTTP/2 has `:scheme` and `:authority` (RFC 9113 section
    /// 8.3.1) instead of `Host`.
    fn write_target(&self, head: &mut Parts) {
        let origin = self.connector.origin();
        let host = head.headers.remove(HOST);
        // An HTTP/1.1 request with `TE` must also name `TE` in `Connection`. HTTP/2 does not allow
        // the field `Connection`.
        head.headers.remove(CONNECTION);
        let authority = |host: &HeaderValue| Authority::try_from(host.as_bytes()).ok();
        let authority = host.as_ref().and_then(authority);
        let authority = authority.or_else(|| authority_of(origin.host_value()));
        let scheme = if origin.is_encrypted() {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        };
        let mut target = std::mem::take(&mut head.uri).into_parts();
        (target.scheme, target.authority) = (Some(scheme), authority);
        head.uri = Uri::from_parts(target).unwrap_or_default();
        head.version = Version::HTTP_2;
    }
}

fn authority_of(host: &HeaderValue) -> Option<Authority> {
    Authority::try_from(host.as_bytes()).ok()
}

impl Attempt {
    fn begin(slot: Slot, head: Parts, body: Outgoing, requester: Requester) -> Result<Self, Error> {
        let progress = body.progress();
        let since = slot.connections.clock.instant();
        slot.usage.begin(requester, since, progress.as_ref());
        let is_complete = body.is_end_stream();
        let used = slot.connection.was_used();
        let head = Request::from_parts(head, ());
        let sent = slot.connection.send(head, is_complete);
        let (response, stream) = sent.map_err(Error::Http2)?;
        let upload = (!is_complete).then(|| {
            let task = spawn_local(upload::send(body, stream));
            AbortOnDrop(task.abort_handle())
        });
        Ok(Self {
            response,
            upload,
            progress,
            used,
            slot,
        })
    }
}

impl Failed {
    fn finally(error: Error) -> Self {
        Self { error, retry: None }
    }
}

/// Whether the origin refused the stream, or sent a GOAWAY frame that names an earlier stream as
/// the last stream. An origin that refuses the stream, or names an earlier stream as the last
/// stream, has not processed the request (RFC 9113 section 8.7).
fn is_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

/// Whether the connection broke.
fn is_lost(error: &h2::Error) -> bool {
    error.is_io()
}
