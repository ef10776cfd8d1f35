//! Tests of an origin that resets a stream after the head of its response. The origin is written by
//! hand, so that each test defines the exact frames.

use super::*;

/// The flags of a frame (RFC 9113 section 6).
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Returns a frame for the HTTP/2 stream of the first request.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, 1], payload].concat()
}

fn data(flags: u8, text: &str) -> Vec<u8> {
    frame(0, flags, text.as_bytes())
}

/// The head of a response with the status 200, which is entry 8 of the static table of HPACK.
fn head_frame(flags: u8) -> Vec<u8> {
    frame(1, END_HEADERS | flags, &[0x88])
}

/// The trailer `a: b`, as a literal field without indexing.
fn trailers() -> Vec<u8> {
    frame(1, END_HEADERS | END_STREAM, b"\x00\x01a\x01b")
}

fn reset(reason: Reason) -> Vec<u8> {
    frame(3, 0, &u32::from(reason).to_be_bytes())
}

/// Sends a request to an origin that answers with `frames`. If `uploads` is true, the request has
/// content that never ends. Returns the text of the response.
async fn answered_with(frames: Vec<u8>, uploads: bool) -> Result<String, Error> {
    let server = Server::start().await;
    let pool = Pool::new(
        http2(&server),
        Arc::new(limit(1, 1)),
        times(),
        Clock::system(),
    );
    let (client, content) = TestBody::new();
    client.send(Ok(Bytes::from_static(b"content"))).unwrap();
    let (request, content) = if uploads {
        (request(Method::POST, "/", content), "content")
    } else {
        (get("/"), "")
    };
    let origin = async {
        let mut peer = server.accept().await;
        peer.until("SM\r\n\r\n").await;
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        peer.0.write_all(&settings).await.unwrap();
        peer.until_request(content).await;
        peer.0.write_all(&frames).await.unwrap();
        peer
    };
    let answer = async {
        let response = pool.send(request).await?;
        text(response).await
    };
    let (outcome, _peer) = join!(answer, origin);
    drop(client);
    outcome
}

impl Peer {
    /// Reads frames until the head of a request has arrived, and then reads the content of the
    /// request.
    async fn until_request(&mut self, content: &str) {
        let mut head_arrived = false;
        let mut received = Vec::new();
        while !head_arrived || received.len() < content.len() {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.0.read_exact(&mut payload).await.unwrap();
            match head[3] {
                0 => received.extend(payload),
                1 => head_arrived = true,
                _ => {}
            }
        }
        assert_eq!(received, content.as_bytes());
    }
}

#[tokio::test]
async fn f_09_a_reset_without_an_error_before_the_end_breaks_the_response() {
    local(async {
        let no_error = || reset(Reason::NO_ERROR);
        for uploads in [false, true] {
            for frames in [
                [head_frame(0), no_error()].concat(),
                [head_frame(0), data(0, "a part"), no_error()].concat(),
            ] {
                let error = answered_with(frames, uploads).await.unwrap_err();
                assert!(matches!(error, Error::Http2(_)), "{uploads}: {error:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_complete_response_may_be_followed_by_a_reset_of_the_upload() {
    local(async {
        for reason in [Reason::NO_ERROR, Reason::CANCEL] {
            for (frames, expected) in [
                (vec![head_frame(END_STREAM)], ""),
                (vec![head_frame(0), data(END_STREAM, "whole")], "whole"),
                (vec![head_frame(0), data(0, "whole"), trailers()], "whole"),
            ] {
                for uploads in [false, true] {
                    let frames = [frames.concat(), reset(reason)].concat();
                    let found = answered_with(frames, uploads).await;
                    assert_eq!(found.unwrap(), expected, "{reason:?} {uploads}");
                }
            }
        }
    })
    .await;
}
