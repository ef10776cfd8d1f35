//! The body of a request that is forwarded to an origin.
//!
//! [`Upload`] is the only type for request bodies, so connection pools and their callers need no
//! type parameter for the body. An `Upload` with content needs one allocation. An `Upload` without
//! content, as in nearly all requests, needs no allocation.
//!
//! [`Upload::recorded`] records a body while the body is sent, so that the body can be sent one
//! more time. The bytes are not copied: the recorded [`Bytes`] and the sent [`Bytes`] share their
//! memory.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::vec;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

/// The maximum size of a recorded body, in bytes.
const MAX_RECORDED: usize = 64 * 1024;

/// The error type of all request bodies.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request that is forwarded. The field of this struct is `None` if the request has
/// no content.
pub(crate) struct Upload(Option<Content>);

type Content = Pin<Box<dyn Body<Data = Bytes, Error = BoxError>>>;

impl Upload {
    /// Returns the body for a request that has no content.
    pub(crate) fn empty() -> Self {
        Self(None)
    }

    /// A body that is forwarded while it arrives.
    pub(crate) fn streaming<B>(body: B) -> Self
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + 'static,
    {
        if body.is_end_stream() {
            return Self::empty();
        }
        Self(Some(Box::pin(body.map_err(Into::into))))
    }

    /// A body that is recorded and forwarded while it arrives. If the body is known to be larger
    /// than the maximum size, the body is not recorded.
    pub(crate) fn recorded<B>(body: B) -> (Self, Recording)
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + 'static,
    {
        if body.is_end_stream() {
            return (Self::empty(), Recording(Source::Empty));
        }
        let stated = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if stated > MAX_RECORDED {
            return (Self::streaming(body), Recording(Source::Lost));
        }
        let record = Rc::new(RefCell::new(Record::Open(Vec::new(), 0)));
        let recording = Recording(Source::Recorded(Rc::clone(&record)));
        let body = Recorder { body, record };
        (Self(Some(Box::pin(body))), recording)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Some(content) => content.as_mut().poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("size", &self.size_hint())
            .finish_non_exhaustive()
    }
}

/// The record of a body, with which the gateway can send the body one more time.
pub(crate) struct Recording(Source);

/// The record of a body, with which the gateway can send the body one more time.
enum Source {
    /// The request had no content.
    Empty,
    /// The record. The body can be sent one more time only if the record is complete.
    Recorded(Rc<RefCell<Record>>),
    /// The body was not recorded.
    Lost,
}

/// The recorded part of a body.
#[derive(Default)]
enum Record {
    /// The body has not ended. The second value in the variant `Open` is the number of recorded
    /// bytes.
    Open(Vec<Bytes>, usize),
    /// The complete body.
    Whole(Vec<Bytes>),
    /// The body is too large to be recorded, or the gateway did not receive the whole body.
    #[default]
    Lost,
}

impl Recording {
    /// Returns the recorded body, if the record contains the complete body.
    pub(crate) fn replay(self) -> Option<Upload> {
        match self.0 {
            Source::Empty => Some(Upload::empty()),
            Source::Recorded(record) => match record.take() {
                Record::Whole(frames) => Some(Upload::streaming(Replay(frames.into_iter()))),
                Record::Open(..) | Record::Lost => None,
            },
            Source::Lost => None,
        }
    }
}

impl fmt::Debug for Recording {
    /// The debug output does not contain the recorded bytes, because a request body can contain
    /// passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").finish_non_exhaustive()
    }
}

impl Record {
    fn add(&mut self, data: &Bytes) {
        if let Self::Open(frames, bytes) = self {
            *bytes = bytes.saturating_add(data.len());
            if *bytes > MAX_RECORDED {
                *self = Self::Lost;
            } else {
                frames.push(data.clone());
            }
        }
    }

    fn close(&mut self) {
        if let Self::Open(frames, _) = self {
            *self = Self::Whole(std::mem::take(frames));
        }
    }
}

/// Forwards a body and records it.
struct Recorder<B> {
    body: B,
    record: Rc<RefCell<Record>>,
}

impl<B> Body for Recorder<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { body, record } = self.get_mut();
        let polled = Pin::new(&mut *body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let mut record = record.borrow_mut();
                match frame.data_ref() {
                    Some(data) => record.add(data),
                    // The body has trailers. Because trailers are not recorded, the record of a
                    // body with trailers is incomplete.
                    None => *record = Record::Lost,
                }
                // The record is marked as complete when the last frame arrives, because some
                // senders do not poll the body again after the last frame.
                if body.is_end_stream() {
                    record.close();
                }
            }
            Poll::Ready(None) => record.borrow_mut().close(),
            Poll::Ready(Some(Err(_))) => *record.borrow_mut() = Record::Lost,
            Poll::Pending => {}
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A recorded body that is sent again.
struct Replay(vec::IntoIter<Bytes>);

impl Body for Replay {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.next().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_slice().is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let lengths = self.0.as_slice().iter().map(Bytes::len);
        let sum = lengths.fold(0, usize::saturating_add);
        SizeHint::with_exact(u64::try_from(sum).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::Full;

    use super::*;

    /// A body that consists of the given pieces. The length of the body is not known in advance.
    struct Pieces(Vec<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop().map(|data| Ok(Frame::data(data))))
        }
    }

    fn pieces(count: usize, length: usize) -> Pieces {
        Pieces(vec![Bytes::from(vec![b'a'; length]); count])
    }

    async fn read(body: Upload) -> Bytes {
        body.collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn a_body_is_forwarded_with_its_stated_length() {
        let body = Upload::streaming(Full::from("content"));
        assert_eq!(body.size_hint().exact(), Some(7));
        assert!(!body.is_end_stream());
        assert_eq!(read(body).await, "content");
        assert_eq!(Upload::streaming(pieces(1, 1)).size_hint().exact(), None);
    }

    #[tokio::test]
    async fn a_body_without_content_has_ended_and_allocates_nothing() {
        let body = Upload::streaming(Full::<Bytes>::default());
        assert!(body.0.is_none());
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert_eq!(read(body).await, "");
    }

    #[tokio::test]
    async fn a_complete_body_is_repeated_byte_for_byte() {
        let (body, recording) = Upload::recorded(pieces(3, 100));
        let first = read(body).await;
        let again = recording.replay().unwrap();
        assert_eq!(again.size_hint().exact(), Some(300));
        assert_eq!(read(again).await, first);
    }

    #[tokio::test]
    async fn an_empty_body_is_repeated_as_an_empty_body() {
        let (body, recording) = Upload::recorded(Full::<Bytes>::default());
        assert!(body.is_end_stream());
        let again = recording.replay().unwrap();
        assert!(again.is_end_stream());
        assert_eq!(read(again).await, "");
    }

    #[tokio::test]
    async fn a_large_body_is_not_recorded_with_or_without_a_stated_length() {
        for (count, whole) in [(64, true), (65, false)] {
            let (body, recording) = Upload::recorded(pieces(count, 1024));
            read(body).await;
            assert_eq!(recording.replay().is_some(), whole, "{count}");
        }
        let (body, recording) =
            Upload::recorded(Full::new(Bytes::from(vec![b'a'; MAX_RECORDED + 1])));
        read(body).await;
        assert!(recording.replay().is_none());
    }

    #[tokio::test]
    async fn an_incomplete_body_is_not_repeated() {
        let (mut body, recording) = Upload::recorded(pieces(2, 10));
        body.frame().await.unwrap().unwrap();
        drop(body);
        assert!(recording.replay().is_none());
    }

    #[tokio::test]
    async fn a_record_shares_the_bytes_and_copies_nothing() {
        let piece = Bytes::from(vec![b'a'; 10]);
        let (body, recording) = Upload::recorded(Pieces(vec![piece.clone()]));
        assert_eq!(read(body).await.as_ptr(), piece.as_ptr());
        let again = recording.replay().unwrap();
        assert_eq!(read(again).await.as_ptr(), piece.as_ptr());
    }
}
