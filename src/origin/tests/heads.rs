//! Tests of the limits for the head of an answer.

use super::*;
use crate::origin::AnswerLimits;

/// A head of `size` bytes that announces a body of 2 bytes.
fn head(size: usize) -> String {
    let begin = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-fill: ";
    let fill = size
        .saturating_sub(begin.len())
        .saturating_sub("\r\n\r\n".len());
    format!("{begin}{}\r\n\r\n", "a".repeat(fill))
}

/// A head with `count` fields that announces a body of 2 bytes.
fn with_fields(count: usize) -> String {
    let fields = "x: y\r\n".repeat(count.saturating_sub(1));
    format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{fields}\r\n")
}

/// Returns the content of an answer that arrives in pieces of `piece` bytes.
async fn in_pieces(answer: &str, piece: usize, limits: AnswerLimits) -> Result<String, Error> {
    let server = Server::start().await;
    let connector = Connector::new(server.origin.clone(), None, WATCHDOG).unwrap();
    let connector = Arc::new(connector.with_answer_limits(limits));
    let pool = Pool::new(connector, Arc::new(limit(1, 1)), times(), Clock::system());
    let answering = async {
        let mut peer = server.accept().await;
        peer.head().await;
        for piece in answer.as_bytes().chunks(piece) {
            // The gateway closes the connection if the answer is too large.
            if peer.0.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        peer.rest().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        outcome = fetch(&pool, "/") => outcome,
        () = answering => panic!("the app never stops"),
    }
}

#[tokio::test]
async fn d_33_the_size_of_an_answer_head_has_an_exact_limit() {
    local(async {
        for head_bytes in [8 * 1024, 64 * 1024, 200 * 1024] {
            let limits = AnswerLimits {
                head_bytes,
                ..AnswerLimits::default()
            };
            for piece in [1000, 8192, 65_536, 1_000_000] {
                let fits = head(head_bytes) + "ok";
                let outcome = in_pieces(&fits, piece, limits).await;
                assert_eq!(outcome.unwrap(), "ok", "{head_bytes} {piece}");
                for more in [1, 100, 100_000] {
                    let large = head(head_bytes + more) + "ok";
                    let outcome = in_pieces(&large, piece, limits).await;
                    assert!(
                        matches!(outcome, Err(Error::HeadTooLarge(size)) if size == head_bytes),
                        "{head_bytes} {piece} {more}: {outcome:?}"
                    );
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn d_33_the_number_of_fields_of_an_answer_has_an_exact_limit() {
    local(async {
        for fields in [3, 100, 250] {
            let limits = AnswerLimits {
                fields,
                ..AnswerLimits::default()
            };
            let outcome = in_pieces(&(with_fields(fields) + "ok"), 1000, limits).await;
            assert_eq!(outcome.unwrap(), "ok", "{fields}");
            for more in [1, 1000] {
                let many = with_fields(fields + more) + "ok";
                let outcome = in_pieces(&many, 1000, limits).await;
                assert!(
                    matches!(outcome, Err(Error::TooManyFields(most)) if most == fields),
                    "{fields} {more}: {outcome:?}"
                );
            }
        }
    })
    .await;
}

/// The content of an answer may be larger than the limit for its head.
#[tokio::test]
async fn the_content_of_an_answer_does_not_count_towards_the_limit_for_its_head() {
    local(async {
        let limits = AnswerLimits {
            head_bytes: 8 * 1024,
            fields: 2,
        };
        let content = "x".repeat(100_000);
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\netag: \"a\"\r\n\r\n";
        let informational =
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nlink: </b>\r\n\r\n".repeat(300);
        let answer = format!("{informational}{head}{content}");
        let outcome = in_pieces(&answer, 1_000_000, limits).await;
        assert_eq!(outcome.unwrap(), content);
    })
    .await;
}
