//! Answers of an app with a large head.

use crate::support::gateway::{Process, Settings};
use crate::support::provider::StandIn;
use crate::support::raw::Raw;
use crate::support::scene::{ORIGIN, ROUTES};
use crate::support::upstream::{Answer, RecordingUpstream};

/// A head of `size` bytes.
fn large(size: usize) -> Answer {
    let begin = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Fill: ";
    let fill = "a".repeat(size - begin.len() - "\r\n\r\n".len());
    Answer::raw(format!("{begin}{fill}\r\n\r\n").as_bytes())
}

fn many(fields: usize) -> Answer {
    let fields = "X: y\r\n".repeat(fields - 1);
    Answer::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{fields}\r\n").as_bytes())
}

/// The page and the log name the setting that allows a larger head.
#[tokio::test]
async fn d_33_a_large_head_of_an_answer_is_refused_and_the_log_names_the_setting() {
    for (keys, head, fields) in [
        ("", 64 * 1024, 100),
        ("answer_head_kib = 8\nanswer_fields = 7\n", 8 * 1024, 7),
        (
            "answer_head_kib = 100\nanswer_fields = 300\n",
            100 * 1024,
            300,
        ),
    ] {
        let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
        let settings = Settings::new(ORIGIN, &provider.url(), &app.url());
        let gateway = Process::start(settings.with(ROUTES).app(keys)).await;
        for (answer, reason, key) in [
            (large(head), None, ""),
            (many(fields), None, ""),
            (
                large(head + 1),
                Some("upstream_head_too_large"),
                "answer_head_kib",
            ),
            (
                many(fields + 1),
                Some("upstream_too_many_fields"),
                "answer_fields",
            ),
        ] {
            app.next(answer);
            let mut raw = Raw::connect(gateway.address()).await;
            raw.send("GET /public/x HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n")
                .await;
            let page = raw.response("GET").await.unwrap();
            let Some(reason) = reason else {
                assert_eq!(page.status(), 200, "{keys}");
                continue;
            };
            assert_eq!(page.status(), 502, "{keys} {reason}");
            assert!(page.text().contains(reason), "{}", page.text());
            let is_logged = |line: &str| {
                line.contains("Request not served") && line.contains(reason) && line.contains(key)
            };
            gateway.wait_for_log(|log| log.lines().any(is_logged)).await;
        }
    }
}
