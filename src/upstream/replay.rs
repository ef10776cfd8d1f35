//! A request body that can be sent once more.
//!
//! What passes is noted down as it passes: [`Bytes`] are shared, so nothing is copied. Only a body
//! that came to its end within [`MOST`] bytes can be sent again; one that is larger, or of which the
//! app did not take everything, is gone.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// The most bytes that are kept of one body.
const MOST: usize = 64 * 1024;

/// A request body, noted down or not.
pub struct Replay<B>(Source<B>);

enum Source<B> {
    /// As it comes, and nothing is kept.
    Once(B),
    /// As it comes, and noted down.
    Noted(B, Rc<RefCell<Notes>>),
    /// What was noted down.
    Again(std::vec::IntoIter<Bytes>),
}

/// What was noted down of a body.
#[derive(Debug, Default)]
enum Notes {
    /// The body has not come to its end.
    Open(Vec<Bytes>, usize),
    /// All of it.
    Whole(Vec<Bytes>),
    /// There was more than is kept.
    #[default]
    TooLarge,
}

/// A way to send a body once more.
#[derive(Debug)]
pub struct Recording(Rc<RefCell<Notes>>);

impl<B: Body<Data = Bytes>> Replay<B> {
    /// A body that is sent once.
    pub fn once(body: B) -> Self {
        Self(Source::Once(body))
    }

    /// A body that is noted down while it is sent. One whose stated length is too large is not.
    pub fn noted(body: B) -> (Self, Recording) {
        let stated = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        let notes = if body.is_end_stream() {
            Notes::Whole(Vec::new())
        } else if stated > MOST {
            Notes::TooLarge
        } else {
            Notes::Open(Vec::new(), 0)
        };
        let notes = Rc::new(RefCell::new(notes));
        let recording = Recording(Rc::clone(&notes));
        (Self(Source::Noted(body, notes)), recording)
    }
}

impl Recording {
    /// The same body again, if all of it was seen and it was small enough.
    pub fn again<B>(self) -> Option<Replay<B>> {
        match self.0.take() {
            Notes::Whole(frames) => Some(Replay(Source::Again(frames.into_iter()))),
            Notes::Open(..) | Notes::TooLarge => None,
        }
    }
}

impl Notes {
    fn add(&mut self, data: &Bytes) {
        if let Self::Open(frames, bytes) = self {
            *bytes = bytes.saturating_add(data.len());
            if *bytes > MOST {
                *self = Self::TooLarge;
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

impl<B: Body<Data = Bytes> + Unpin> Body for Replay<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &mut self.get_mut().0 {
            Source::Once(body) => Pin::new(body).poll_frame(cx),
            Source::Again(frames) => Poll::Ready(frames.next().map(|data| Ok(Frame::data(data)))),
            Source::Noted(body, notes) => {
                let polled = Pin::new(&mut *body).poll_frame(cx);
                match &polled {
                    Poll::Ready(Some(Ok(frame))) => {
                        let mut notes = notes.borrow_mut();
                        if let Some(data) = frame.data_ref() {
                            notes.add(data);
                        }
                        // Whoever sends the body may not ask for a frame after the last.
                        if body.is_end_stream() {
                            notes.close();
                        }
                    }
                    Poll::Ready(None) => notes.borrow_mut().close(),
                    Poll::Ready(Some(Err(_))) => *notes.borrow_mut() = Notes::TooLarge,
                    Poll::Pending => {}
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Once(body) | Source::Noted(body, _) => body.is_end_stream(),
            Source::Again(frames) => frames.as_slice().is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Once(body) | Source::Noted(body, _) => body.size_hint(),
            Source::Again(frames) => {
                let lengths = frames.as_slice().iter().map(Bytes::len);
                let sum = lengths.fold(0, usize::saturating_add);
                SizeHint::with_exact(u64::try_from(sum).unwrap_or(u64::MAX))
            }
        }
    }
}

impl<B> fmt::Debug for Replay<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Source::Once(_) => "Replay::Once",
            Source::Noted(..) => "Replay::Noted",
            Source::Again(_) => "Replay::Again",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt as _, Full};

    use super::*;

    /// A body of these pieces, without a stated length.
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

    async fn read<B: Body<Data = Bytes, Error = Infallible> + Unpin>(body: B) -> Bytes {
        body.collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn a_body_that_came_to_its_end_is_sent_again_byte_for_byte() {
        let (body, recording) = Replay::noted(pieces(3, 100));
        let first = read(body).await;
        let again: Replay<Pieces> = recording.again().unwrap();
        assert_eq!(again.size_hint().exact(), Some(300));
        assert_eq!(read(again).await, first);
    }

    #[tokio::test]
    async fn nothing_is_sent_again_as_nothing() {
        let (body, recording) = Replay::noted(Full::<Bytes>::default());
        assert!(body.is_end_stream());
        let again: Replay<Full<Bytes>> = recording.again().unwrap();
        assert!(again.is_end_stream());
        assert_eq!(read(again).await, "");
    }

    #[tokio::test]
    async fn a_large_body_is_not_kept_whether_it_says_so_or_not() {
        for (count, whole) in [(64, true), (65, false)] {
            let (body, recording) = Replay::noted(pieces(count, 1024));
            read(body).await;
            assert_eq!(recording.again::<Pieces>().is_some(), whole, "{count}");
        }
        let (body, recording) = Replay::noted(Full::new(Bytes::from(vec![b'a'; MOST + 1])));
        read(body).await;
        assert!(recording.again::<Full<Bytes>>().is_none());
    }

    #[tokio::test]
    async fn a_body_of_which_the_end_was_not_seen_is_not_sent_again() {
        let (mut body, recording) = Replay::noted(pieces(2, 10));
        body.frame().await.unwrap().unwrap();
        drop(body);
        assert!(recording.again::<Pieces>().is_none());
    }

    #[tokio::test]
    async fn what_is_kept_is_shared_and_not_copied() {
        let piece = Bytes::from(vec![b'a'; 10]);
        let (body, recording) = Replay::noted(Pieces(vec![piece.clone()]));
        assert_eq!(read(body).await.as_ptr(), piece.as_ptr());
        let again: Replay<Pieces> = recording.again().unwrap();
        assert_eq!(read(again).await.as_ptr(), piece.as_ptr());
    }
}
