//! The body of a response.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::Full;

use super::buffers::Reservation;
use super::events::EventStream;
use super::request_log::{COMPLETE, RequestLog};
use super::streams::{LongAnswer, broken_end};
use crate::origin;
use crate::server::{AnswerControl, Content, TunnelFn, UpgradedClient};
use crate::upstream::{EvictionWatch, ResponseBody};

/// The body of a response. The gateway creates the body itself, or streams the body from an
/// upstream.
#[derive(Debug)]
pub(crate) struct Body {
    source: Source,
    /// The access-log event, which is written at the end of the body. `None` if the access log is
    /// off, or if another value owns the event (for example, the tunnel).
    log: Option<Box<RequestLog>>,
}

#[derive(Debug)]
enum Source {
    /// The complete content.
    Complete(Full<Bytes>),
    /// The events about a session.
    Events(EventStream),
    /// The app has not sent the whole content. When the session of the answer ends, the gateway
    /// ends the answer.
    Long(Sending),
    /// The complete content, followed by trailers.
    Trailed(Box<Trailed>),
    /// The response has no content, because the connection switches to another protocol after the
    /// response.
    Tunnel(Switch),
    /// The app has not sent the whole content. The answer continues even if its session ends or a
    /// reload changes the settings.
    Upstream(Box<UpstreamBody>),
}

/// A complete content, and the part of a budget that it uses.
struct Counted {
    content: Bytes,
    #[expect(
        dead_code,
        reason = "the bytes are free in the budget when this is dropped"
    )]
    memory: Reservation,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

/// A complete content with trailers. `None` means that the part was sent.
#[derive(Debug)]
struct Trailed {
    content: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Trailed {
    fn next(&mut self) -> Option<Frame<Bytes>> {
        let content = self.content.take().map(Frame::data);
        content.or_else(|| self.trailers.take().map(Frame::trailers))
    }
}

/// The reason why a body breaks off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The gateway has ended the answer early. The log states why the gateway ended the answer.
    #[error("the answer was cut")]
    Cut,
    /// The file with the buffered answer cannot be read. Responsible: the gateway.
    #[error("the file with the answer cannot be read")]
    File(#[source] io::Error),
    /// The app's answer has broken off. Responsible: the upstream.
    #[error("the app's answer broke off")]
    Upstream(#[source] origin::Error),
}

/// A function that runs a tunnel. The second argument of a `LoggedTunnelFn` is the access-log event
/// of the handshake.
pub(super) type LoggedTunnelFn =
    Box<dyn FnOnce(UpgradedClient, Option<Box<RequestLog>>) -> Pin<Box<dyn Future<Output = ()>>>>;

/// The function that runs the tunnel after the server has sent the response.
struct Switch(Option<LoggedTunnelFn>);

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").finish_non_exhaustive()
    }
}

/// A reference to a `LongAnswer`. The client's connection owns the reference to the answer until
/// the connection stops sending the answer.
#[derive(Debug)]
struct Sending(Rc<LongAnswer>);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// The body of an app's answer, if the body was not complete when the head of the answer arrived.
#[derive(Debug)]
pub(super) struct UpstreamBody {
    /// The first frame of the body. [`Body::upstream`] reads the first frame when the head of the
    /// answer arrives.
    first: Option<Result<Frame<Bytes>, origin::Error>>,
    /// The error with which the body of the app's answer ended. The next call of `poll_frame`
    /// returns this error.
    failure: Option<origin::Error>,
    rest: ResponseBody,
}

impl UpstreamBody {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, origin::Error>>> {
        if let Some(failure) = self.failure.take() {
            return Poll::Ready(Some(Err(failure)));
        }
        let polled = match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        };
        let Poll::Ready(Some(Err(failure))) = polled else {
            return polled;
        };
        // When a body fails, hyper drops all bytes that it has not yet sent, including the head.
        // This function stores the failure and returns the failure at the next poll, so that hyper
        // can first send the bytes that hyper already has.
        self.failure = Some(failure);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Declares that the answer is a stream. The client of a stream may be silent for any time.
    pub(super) fn declare_stream(&self) {
        self.rest.declare_stream();
    }

    /// Returns a value that reports when the gateway ends the answer because another request is
    /// waiting for the connection to the app.
    pub(super) fn eviction(&self) -> Option<EvictionWatch> {
        self.rest.eviction()
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().and_then(|first| first.as_ref().ok());
        let length = first.and_then(Frame::data_ref).map_or(0, Bytes::len);
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        let rest = self.rest.size_hint();
        rest.exact().map_or_else(SizeHint::default, |rest| {
            SizeHint::with_exact(rest.saturating_add(length))
        })
    }
}

impl Body {
    fn new(source: Source) -> Self {
        Self { source, log: None }
    }

    pub(super) fn own(text: String) -> Self {
        Self::new(Source::Complete(Full::new(text.into())))
    }

    /// Counts a complete content in the budget of `memory` until the content has been sent or dropped.
    /// Another content is not counted.
    pub(super) fn counted(mut self, memory: Reservation) -> Self {
        if let Source::Complete(content) = &mut self.source {
            let mut context = Context::from_waker(Waker::noop());
            let frame = Pin::new(content).poll_frame(&mut context);
            if let Poll::Ready(Some(Ok(frame))) = frame
                && let Ok(content) = frame.into_data()
            {
                let counted = Bytes::from_owner(Counted { content, memory });
                self.source = Source::Complete(Full::new(counted));
            }
        }
        self
    }

    /// Creates a body from bytes that stay in memory.
    pub(super) fn stored(bytes: Bytes) -> Self {
        Self::new(Source::Complete(Full::new(bytes)))
    }

    /// Creates a body with trailers.
    pub(super) fn with_trailers(content: Bytes, trailers: HeaderMap) -> Self {
        Self::new(Source::Trailed(Box::new(Trailed {
            content: Some(content),
            trailers: Some(trailers),
        })))
    }

    pub(super) fn events(events: EventStream) -> Self {
        Self::new(Source::Events(events))
    }

    pub(super) fn empty() -> Self {
        Self::new(Source::Complete(Full::default()))
    }

    pub(super) fn tunnel(tunnel: LoggedTunnelFn) -> Self {
        Self::new(Source::Tunnel(Switch(Some(tunnel))))
    }

    /// Creates the body of an app's answer, and reads the frame that has arrived with the head.
    /// Most answers consist of one frame. If the first frame contains the whole content, the
    /// connection to the app is already free, and no task has to watch the answer.
    pub(super) fn upstream(mut body: ResponseBody) -> Self {
        if body.is_end_stream() {
            return Self::empty();
        }
        // This first poll needs no waker, because the client's connection polls the body again
        // later.
        let mut cx = Context::from_waker(Waker::noop());
        let first = match Pin::new(&mut body).poll_frame(&mut cx) {
            Poll::Pending => None,
            Poll::Ready(None) => return Self::empty(),
            Poll::Ready(Some(Ok(frame))) if body.is_end_stream() => match frame.into_data() {
                Ok(data) => return Self::new(Source::Complete(Full::new(data))),
                Err(trailers) => Some(Ok(trailers)),
            },
            Poll::Ready(Some(frame)) => Some(frame),
        };
        Self::new(Source::Upstream(Box::new(UpstreamBody {
            first,
            failure: None,
            rest: body,
        })))
    }

    pub(super) fn long(answer: Rc<LongAnswer>) -> Self {
        Self::new(Source::Long(Sending(answer)))
    }

    /// Lets the body of an app continue after the end of the session of its request.
    pub(super) fn outlive_session(&self) {
        if let Source::Long(sending) = &self.source {
            sending.0.outlive_session();
        }
    }

    /// Writes the access-log event at the end of the answer, or at the end of the tunnel.
    pub(super) fn log_at_end(&mut self, log: Box<RequestLog>) {
        match &self.source {
            Source::Complete(_)
            | Source::Events(_)
            | Source::Trailed(_)
            | Source::Tunnel(_)
            | Source::Upstream(_) => self.log = Some(log),
            Source::Long(sending) => sending.0.log_at_end(log),
        }
    }

    /// Returns the access-log event, which this body then no longer writes. Returns `None` if the
    /// access log is off.
    pub(super) fn take_log(&mut self) -> Option<Box<RequestLog>> {
        match &self.source {
            Source::Complete(_)
            | Source::Events(_)
            | Source::Trailed(_)
            | Source::Tunnel(_)
            | Source::Upstream(_) => self.log.take(),
            Source::Long(sending) => sending.0.take_log(),
        }
    }

    /// If the response has an incomplete body from the upstream, removes this body from the
    /// response and returns the body.
    pub(super) fn take_incomplete(&mut self) -> Option<UpstreamBody> {
        let Source::Upstream(_) = &self.source else {
            return None;
        };
        match std::mem::replace(&mut self.source, Source::Complete(Full::default())) {
            Source::Upstream(body) => Some(*body),
            Source::Complete(_)
            | Source::Events(_)
            | Source::Long(_)
            | Source::Trailed(_)
            | Source::Tunnel(_) => None,
        }
    }
}

impl Source {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Complete(body) => body.is_end_stream(),
            Self::Events(events) => events.end().is_some(),
            Self::Long(sending) => sending.0.is_end_stream(),
            Self::Trailed(body) => body.content.is_none() && body.trailers.is_none(),
            Self::Tunnel(_) => true,
            Self::Upstream(body) => body.is_end_stream(),
        }
    }

    /// Returns the end code of a content that was sent to its end.
    fn end(&self) -> &'static str {
        match self {
            Self::Events(events) => events.end().unwrap_or(COMPLETE),
            Self::Complete(_)
            | Self::Long(_)
            | Self::Trailed(_)
            | Self::Tunnel(_)
            | Self::Upstream(_) => COMPLETE,
        }
    }
}

/// The connection drops the body when the connection has taken the whole content, or when the
/// answer ends early.
impl Drop for Body {
    #[inline]
    fn drop(&mut self) {
        if let Some(mut log) = self.log.take()
            && !log.has_ended()
        {
            // A handshake ends early if the client disconnects before the tunnel begins.
            let is_handshake = matches!(self.source, Source::Tunnel(_));
            let is_complete = self.source.is_end_stream() && !is_handshake;
            log.ended(is_complete.then_some(self.source.end()));
        }
    }
}

impl Content for Body {
    fn take_tunnel(&mut self) -> Option<TunnelFn> {
        match &mut self.source {
            Source::Complete(_)
            | Source::Events(_)
            | Source::Long(_)
            | Source::Trailed(_)
            | Source::Upstream(_) => None,
            Source::Tunnel(switch) => {
                let run = switch.0.take()?;
                let log = self.log.take();
                Some(Box::new(move |client| run(client, log)))
            }
        }
    }

    fn begin(&mut self, control: impl FnOnce() -> AnswerControl) {
        match (&self.source, &mut self.log) {
            (Source::Long(sending), _) => sending.0.begin(control()),
            (_, Some(log)) => log.begin(control()),
            (_, None) => {}
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let polled = match &mut this.source {
            Source::Complete(body) => Pin::new(body)
                .poll_frame(context)
                .map_err(|never| match never {}),
            Source::Events(events) => events.poll_frame(context).map(|frame| frame.map(Ok)),
            Source::Long(sending) => sending.0.poll_frame(context),
            Source::Trailed(body) => Poll::Ready(body.next().map(Ok)),
            Source::Tunnel(_) => Poll::Ready(None),
            Source::Upstream(body) => body.poll_frame(context).map_err(BodyError::Upstream),
        };
        if let Some(log) = &mut this.log {
            match &polled {
                Poll::Pending => {}
                Poll::Ready(None) => log.ended(Some(this.source.end())),
                Poll::Ready(Some(Err(BodyError::Upstream(error)))) => log.ended(broken_end(error)),
                Poll::Ready(Some(Err(BodyError::Cut | BodyError::File(_)))) => log.ended(None),
                Poll::Ready(Some(Ok(frame))) => log.sent(frame.data_ref().map_or(0, Bytes::len)),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Complete(body) => body.size_hint(),
            Source::Long(sending) => sending.0.size_hint(),
            Source::Events(_) | Source::Trailed(_) => SizeHint::default(),
            Source::Tunnel(_) => SizeHint::with_exact(0),
            Source::Upstream(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use http_body_util::BodyExt as _;

    use super::*;
    use crate::gateway::Budgets;
    use crate::telemetry::Metrics;
    use crate::upstream::Owner;

    #[tokio::test]
    async fn a_counted_content_uses_the_budget_until_the_client_has_read_it() {
        let metrics = Metrics::default();
        let client = Owner::new(None, IpAddr::V4(Ipv4Addr::LOCALHOST));
        let mut memory = Budgets::new(&metrics).memory(client, 10_000);
        memory.add(4000);
        let body = Body::own("x".repeat(4000)).counted(memory);
        assert_eq!(body.size_hint().exact(), Some(4000));
        // The connection takes the content from the body before the client has read the content.
        let content = body.collect().await.unwrap().to_bytes();
        assert_eq!(metrics.buffered().get(), 4000);
        assert_eq!(content.len(), 4000);
        drop(content);
        assert_eq!(metrics.buffered().get(), 0);
    }
}
