use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::clock::Clock;
use crate::server::coarse_clock::CoarseClock;

/// The answer with which hyper refuses a large head.
const REFUSAL: &str = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
                       content-length: 0\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n";

/// A connection that withholds refusals, and the end of the client.
fn connection() -> (Plaintext<DuplexStream>, DuplexStream) {
    let coarse_clock = CoarseClock::new(Clock::system());
    let state = ConnectionState::new(([127, 0, 0, 1], 1).into(), &coarse_clock);
    let (client, stream) = duplex(1024);
    let plaintext = Plaintext::new(stream, state, Protocol::Http1).withholding_refusals(true);
    (plaintext, client)
}

/// Sends `answer` in this phase.
async fn send(plaintext: &mut Plaintext<DuplexStream>, phase: Phase, answer: &str) {
    plaintext.state.enter(phase);
    plaintext.write_all(answer.as_bytes()).await.unwrap();
}

/// Closes the connection, and returns what the client gets.
async fn received(mut plaintext: Plaintext<DuplexStream>, mut client: DuplexStream) -> String {
    plaintext.state.enter(Phase::Idle);
    plaintext.shutdown().await.unwrap();
    drop(plaintext);
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn d_07_only_the_refusal_of_the_library_is_withheld() {
    let status = "HTTP/1.1 431 Request Header Fields Too Large\r\n";
    let lower = REFUSAL.to_owned();
    let title = REFUSAL.replace("content-length", "Content-Length");
    let with_id = REFUSAL.replace("date:", "x-request-id: 1\r\ndate:");
    for (answer, is_withheld) in [
        (lower.clone(), true),
        (title, true),
        // An answer of the handler, or of an app.
        (with_id.clone(), false),
        (with_id.replace("x-request-id", "X-Request-Id"), false),
        (format!("{status}content-length: 3\r\n\r\n431"), false),
        (format!("{status}\r\ncontent-length: 0\r\n"), false),
        (lower.replace("431", "400"), false),
    ] {
        let (mut plaintext, client) = connection();
        send(&mut plaintext, Phase::Head, &answer).await;
        assert_eq!(plaintext.has_withheld_refusal(), is_withheld, "{answer}");
        let expected = if is_withheld { "" } else { &answer };
        assert_eq!(received(plaintext, client).await, expected);
    }
}

#[tokio::test]
async fn d_07_a_withheld_refusal_withholds_no_later_answer() {
    let (mut plaintext, client) = connection();
    send(&mut plaintext, Phase::Head, REFUSAL).await;
    assert!(plaintext.has_withheld_refusal());
    send(&mut plaintext, Phase::Busy, "first ").await;
    send(&mut plaintext, Phase::Head, "second").await;
    assert!(!plaintext.has_withheld_refusal());
    assert_eq!(received(plaintext, client).await, "first second");
}

#[tokio::test]
async fn d_07_a_withheld_refusal_belongs_to_the_current_head() {
    let (mut plaintext, client) = connection();
    send(&mut plaintext, Phase::Head, REFUSAL).await;
    plaintext.state.enter(Phase::Busy);
    assert!(!plaintext.has_withheld_refusal());
    assert_eq!(received(plaintext, client).await, "");
}
