//! Sends the content of a request on its HTTP/2 stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body as _, Frame};

use crate::origin::outgoing::{Interrupted, Outgoing};

/// Sends `body` on `stream`, as fast as the origin accepts the bytes. This function returns when
/// the body was sent, or when the origin does not want the rest of the body. If the body breaks
/// off, the stream is reset, so that the origin cannot mistake the body for a complete body.
///
/// # Cancel safety
///
/// If the future is dropped, the rest of the body is not sent.
pub(super) async fn send(mut body: Outgoing, mut stream: SendStream<Bytes>) {
    loop {
        let next = poll_fn(|cx| match poll_reset(&mut stream, cx) {
            Poll::Ready(()) => Poll::Ready(Next::Unwanted),
            Poll::Pending => Pin::new(&mut body).poll_frame(cx).map(Next::Frame),
        });
        let sent = match next.await {
            Next::Unwanted => return,
            Next::Frame(None) => return stream.send_data(Bytes::new(), true).unwrap_or_default(),
            Next::Frame(Some(Err(Interrupted))) => return stream.send_reset(Reason::CANCEL),
            Next::Frame(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    let is_last = body.is_end_stream();
                    send_data(&mut stream, data, is_last)
                        .await
                        .map(|()| is_last)
                }
                Err(frame) => send_trailers(&mut stream, frame),
            },
        };
        match sent {
            Ok(false) => {}
            // If the origin has reset the stream, the code that waits for the response gets the
            // error.
            Ok(true) | Err(Unwanted) => return,
        }
    }
}

enum Next {
    /// A part of the body, or the end of the body.
    Frame(Option<Result<Frame<Bytes>, Interrupted>>),
    /// The origin has reset the stream, or the connection has ended.
    Unwanted,
}

/// The origin does not want the rest of the body.
struct Unwanted;

fn poll_reset(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<()> {
    stream.poll_reset(cx).map(drop)
}

/// Sends `data` in pieces. The flow control of the HTTP/2 stream limits the size of each piece.
async fn send_data(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    is_last: bool,
) -> Result<(), Unwanted> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let capacity = poll_fn(|cx| stream.poll_capacity(cx)).await;
        let capacity = capacity.ok_or(Unwanted)?.map_err(|_ended| Unwanted)?;
        let piece = data.split_to(capacity.min(data.len()));
        if !piece.is_empty() {
            let ends = is_last && data.is_empty();
            stream.send_data(piece, ends).map_err(|_ended| Unwanted)?;
            if ends {
                return Ok(());
            }
        }
    }
    if is_last {
        stream.send_data(data, true).map_err(|_ended| Unwanted)?;
    }
    Ok(())
}

fn send_trailers(stream: &mut SendStream<Bytes>, frame: Frame<Bytes>) -> Result<bool, Unwanted> {
    let Ok(trailers) = frame.into_trailers() else {
        return Ok(false);
    };
    let sent = stream.send_trailers(trailers);
    sent.map(|()| true).map_err(|_ended| Unwanted)
}
