//! The body of a response.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::Full;

use crate::origin;
use crate::server::{Content, TunnelFn};
use crate::upstream::ResponseBody;

/// The body of a response. The gateway creates the body itself, or streams the body from an
/// upstream.
#[derive(Debug)]
pub(crate) struct Body(Source);

#[derive(Debug)]
enum Source {
    Own(Full<Bytes>),
    Upstream(ResponseBody),
    /// The response has no content, because the connection switches to another protocol after the
    /// response.
    Tunnel(Switch),
}

/// The task that runs as soon as the response is sent.
struct Switch(Option<TunnelFn>);

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").finish_non_exhaustive()
    }
}

impl Body {
    pub(super) fn own(text: String) -> Self {
        Self(Source::Own(Full::new(text.into())))
    }

    pub(super) fn empty() -> Self {
        Self(Source::Own(Full::default()))
    }

    pub(super) fn tunnel(tunnel: TunnelFn) -> Self {
        Self(Source::Tunnel(Switch(Some(tunnel))))
    }

    pub(super) fn upstream(body: ResponseBody) -> Self {
        Self(Source::Upstream(body))
    }
}

impl Content for Body {
    fn take_tunnel(&mut self) -> Option<TunnelFn> {
        match &mut self.0 {
            Source::Own(_) | Source::Upstream(_) => None,
            Source::Tunnel(switch) => switch.0.take(),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = origin::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.get_mut().0 {
            Source::Own(body) => Pin::new(body)
                .poll_frame(context)
                .map_err(|never| match never {}),
            Source::Upstream(body) => Pin::new(body).poll_frame(context),
            Source::Tunnel(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Own(body) => body.is_end_stream(),
            Source::Upstream(body) => body.is_end_stream(),
            Source::Tunnel(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Own(body) => body.size_hint(),
            Source::Upstream(body) => body.size_hint(),
            Source::Tunnel(_) => SizeHint::with_exact(0),
        }
    }
}
