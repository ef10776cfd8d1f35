//! Tests of the limits for the head of an answer over HTTP/2.

use super::*;
use crate::origin::AnswerLimits;

/// Returns the outcome of a request whose answer has `fields` fields of `length` bytes each, as
/// HTTP/1.1 would send them.
async fn answered(fields: usize, length: usize, limits: AnswerLimits) -> Result<String, Error> {
    let app = App::start(move |_request, mut respond| async move {
        let mut head = head(200);
        let value = "a".repeat(length.saturating_sub("x: \r\n".len()));
        for _ in 0..fields {
            head.headers_mut().append("x", value.parse().unwrap());
        }
        let body = respond.send_response(head, false);
        // The library of the app may refuse to send a head that the gateway does not accept.
        if let Ok(mut body) = body {
            body.send_data(Bytes::from_static(b"ok"), true).unwrap();
        }
    })
    .await;
    let connector = Connector::new(app.connector.origin().clone(), None, WATCHDOG).unwrap();
    let connector = connector.with_protocol(Protocol::Http2);
    let connector = Arc::new(connector.with_answer_limits(limits));
    let pool = Pool::new(connector, app.limit, times(), Clock::system());
    fetch(&pool, "/").await
}

#[tokio::test]
async fn d_33_the_head_of_an_answer_over_http2_has_exact_limits() {
    local(async {
        let limits = AnswerLimits {
            head_bytes: 64 * 1024,
            fields: 50,
        };
        let lines = "HTTP/1.1 200 OK\r\n\r\n".len();
        let whole = limits.head_bytes - lines;
        assert_eq!(answered(1, whole, limits).await.unwrap(), "ok");
        let outcome = answered(1, whole + 1, limits).await;
        assert!(
            matches!(outcome, Err(Error::HeadTooLarge(_))),
            "{outcome:?}"
        );
        assert_eq!(answered(50, 20, limits).await.unwrap(), "ok");
        let outcome = answered(51, 20, limits).await;
        assert!(
            matches!(outcome, Err(Error::TooManyFields(50))),
            "{outcome:?}"
        );
    })
    .await;
}
