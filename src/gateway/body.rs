//! The body of a response.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::Full;

use crate::origin;
use crate::upstream::ResponseBody;

/// The body of a response. It is either our own, or it streams from an upstream.
#[derive(Debug)]
pub(crate) struct Body(Source);

#[derive(Debug)]
enum Source {
    Own(Full<Bytes>),
    Upstream(ResponseBody),
}

impl Body {
    pub(super) fn own(text: String) -> Self {
        Self(Source::Own(Full::new(text.into())))
    }

    pub(super) fn empty() -> Self {
        Self(Source::Own(Full::default()))
    }

    pub(super) fn upstream(body: ResponseBody) -> Self {
        Self(Source::Upstream(body))
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
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Own(body) => body.is_end_stream(),
            Source::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Own(body) => body.size_hint(),
            Source::Upstream(body) => body.size_hint(),
        }
    }
}
