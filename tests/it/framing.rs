//! The framing of messages: protection against request smuggling.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::support::raw::{Raw, exchange, unescape};
use crate::support::scene::Scene;
use crate::support::upstream::{Answer, Recorded};
use crate::support::wire::Framing;

const GET: &str = "GET /public/x HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The columns of each row of a data file.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| line.split('\t').collect())
}

/// Checks the outcome of one row. Returns a description of the difference, or `None`.
async fn check_row(scene: &Scene, expected: &str, bytes: &[u8]) -> Option<String> {
    let before = scene.app.count();
    let enough = expected
        .strip_prefix("ok ")
        .map_or(9, |count| count.parse().unwrap());
    let outcome = exchange(scene.gateway.address(), bytes, enough).await;
    let arrived = scene.app.requests().split_off(before);
    let statuses = outcome.statuses();
    let strict = |request: &Recorded| {
        !matches!(request.framing, Framing::Bad(_))
            && request.complete
            && !request.target().contains("smug")
    };
    let held = match expected {
        "refused" => {
            arrived.is_empty()
                && outcome.closed
                && matches!(statuses[..], [status] if (400..500).contains(&status))
        }
        "closed" => arrived.is_empty() && outcome.closed && statuses.is_empty(),
        "safe" => outcome.closed && arrived.len() < 2 && arrived.iter().all(strict),
        ok if ok.starts_with("ok ") => {
            arrived.len() == enough && statuses == vec![200; enough] && arrived.iter().all(strict)
        }
        status => arrived.is_empty() && statuses == [status.parse::<u16>().unwrap()],
    };
    let heads: Vec<_> = arrived
        .iter()
        .map(|r| String::from_utf8_lossy(&r.head.bytes))
        .collect();
    let closed = outcome.closed;
    (!held).then(|| format!("wanted {expected}, got {statuses:?} closed {closed}, sent {heads:?}"))
}

#[tokio::test]
async fn s_table_no_malformed_request_reaches_the_app() {
    let scene = Scene::new().await;
    let mut wrong = Vec::new();
    for row in rows(include_str!("../data/smuggling.txt")) {
        let [name, expected, raw] = row[..] else {
            panic!("three columns: {row:?}")
        };
        if let Some(problem) = check_row(&scene, expected, &unescape(raw)).await {
            wrong.push(format!("{name}: {problem}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn s_24_a_malformed_chunk_never_completes_a_request() {
    let scene = Scene::new().await;
    let honest = "POST /public/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
                  3\r\nabc\r\n0\r\n\r\n";
    let outcome = exchange(scene.gateway.address(), honest.as_bytes(), 1).await;
    assert_eq!(outcome.statuses(), [200]);
    for row in rows(include_str!("../data/chunks.txt")) {
        let [name, raw] = row[..] else {
            panic!("two columns: {row:?}")
        };
        let mut bytes =
            b"POST /public/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
                .to_vec();
        bytes.extend(unescape(raw));
        let before = scene.app.count();
        let outcome = exchange(scene.gateway.address(), &bytes, 9).await;
        // The chunk size 2^64 - 1 is valid, so the gateway waits for the data until the body is too
        // slow.
        let waited_for = name == "S-24 size of 2^64 - 1";
        let refused = if waited_for { vec![] } else { vec![400] };
        assert_eq!(
            (outcome.statuses(), outcome.closed),
            (refused, !waited_for),
            "{name}"
        );
        let arrived = scene.app.requests().split_off(before);
        assert!(
            arrived.iter().all(|request| !request.complete),
            "{name}: {arrived:?}"
        );
    }
}

#[tokio::test]
async fn s_24_chunk_extensions_are_not_forwarded() {
    let scene = Scene::new().await;
    let request = "POST /public/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3;name=value\r\nabc\r\n000\r\n\r\n";
    let outcome = exchange(scene.gateway.address(), request.as_bytes(), 1).await;
    assert_eq!(outcome.statuses(), [200]);
    assert_eq!(scene.app.last().body, b"abc");
    assert!(!String::from_utf8_lossy(&scene.app.bytes()).contains("name=value"));
}

#[tokio::test]
async fn s_26_h_12_trailers_that_are_not_allowed_are_dropped() {
    let scene = Scene::new().await;
    let request = "POST /public/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
                   Trailer: X-Forwarded-User\r\n\r\n3\r\nabc\r\n0\r\nX-Forwarded-User: root\r\n\
                   Authorization: Bearer x\r\nContent-Length: 3\r\nHost: evil\r\nX-Other: y\r\n\r\n";
    let outcome = exchange(scene.gateway.address(), request.as_bytes(), 1).await;
    assert_eq!(outcome.statuses(), [200]);
    let last = scene.app.last();
    assert_eq!(
        (last.body.as_slice(), last.trailers.len()),
        (&b"abc"[..], 0)
    );
    assert_eq!(last.head.values("trailer"), [""; 0]);
    assert_eq!(last.head.value("host").as_deref(), Some("localhost"));
}

#[tokio::test]
async fn s_18_s_19_an_unread_body_is_never_parsed_as_a_request() {
    let scene = Scene::new().await;
    let smuggled = "GET /public/smug HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let length = smuggled.len();
    // The gateway answers each of these requests itself, without reading the body.
    let navigation = "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";
    for (line, host, fields, answers) in [
        ("POST /private", "localhost", "", &[401, 200][..]),
        ("GET /private", "localhost", navigation, &[303, 200]),
        ("GET /oauth2/sign_out", "localhost", "", &[200, 200]),
        ("GET /oauth2/callback?x=1", "localhost", "", &[400, 200]),
        ("POST /oauth2/nowhere", "localhost", "", &[404, 200]),
        ("POST /public/x", "evil.test", "", &[421]),
    ] {
        let head = format!("{line} HTTP/1.1\r\nHost: {host}\r\n{fields}");
        let request = format!("{head}Content-Length: {length}\r\n\r\n{smuggled}{GET}");
        let outcome = exchange(scene.gateway.address(), request.as_bytes(), 2).await;
        assert_eq!(outcome.statuses(), answers, "{head}");
        assert!(
            scene
                .app
                .requests()
                .iter()
                .all(|request| !request.target().contains("smug")),
            "{head}"
        );
    }
}

#[tokio::test]
async fn s_30_an_early_answer_never_turns_the_body_into_a_request() {
    let scene = Scene::without_buffers().await;
    scene
        .app
        .next(Answer::with(413, &[], "").early().then_close());
    let mut raw = Raw::connect(scene.gateway.address()).await;
    raw.send("POST /public/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        .await;
    let answer = raw.response("POST").await.unwrap();
    assert_eq!(answer.status(), 413);
    let smuggled = "GET /public/smug HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50);
    raw.send(smuggled).await;
    raw.finish().await;
    raw.closed().await;
    assert!(
        scene
            .app
            .requests()
            .iter()
            .all(|request| !request.target().contains("smug"))
    );
}

#[tokio::test]
async fn s_31_pipelined_requests_are_answered_in_order_each_on_its_own() {
    let scene = Scene::new().await;
    let cookie = scene.cookie("alice").await;
    scene.app.answer_by(|request| Answer::ok(&request.target()));
    let request = |number: usize| {
        let credentials = if number.is_multiple_of(2) {
            format!("Cookie: {cookie}\r\n")
        } else {
            String::new()
        };
        format!("GET /{number} HTTP/1.1\r\nHost: localhost\r\n{credentials}\r\n")
    };
    let bytes: String = (0..100).map(request).collect();
    let outcome = exchange(scene.gateway.address(), bytes.as_bytes(), 100).await;
    assert_eq!(outcome.responses.len(), 100);
    for (number, response) in outcome.responses.iter().enumerate() {
        if number % 2 == 0 {
            assert_eq!(
                (response.status(), response.text()),
                (200, format!("/{number}"))
            );
        } else {
            assert_eq!(response.status(), 401, "{number}");
        }
    }
}

#[tokio::test]
async fn s_23_a_thousand_blank_lines_are_no_request() {
    let scene = Scene::new().await;
    let bytes = format!("{}{GET}", "\r\n".repeat(1000));
    let outcome = exchange(scene.gateway.address(), bytes.as_bytes(), 2).await;
    assert_eq!((outcome.statuses(), scene.app.count()), (vec![200], 1));
}

#[tokio::test]
async fn s_45_a_head_in_single_bytes_and_at_buffer_edges_is_read() {
    let scene = Scene::new().await;
    let mut raw = Raw::connect(scene.gateway.address()).await;
    raw.drip(GET).await;
    assert_eq!(raw.response("GET").await.unwrap().status(), 200);
    for size in [8191, 8192, 8193, 16383, 16384, 16385] {
        let begin = "GET /public/x HTTP/1.1\r\nHost: localhost\r\nX-Fill: ";
        let fill = "a".repeat(size - begin.len() - 4);
        let outcome = exchange(
            scene.gateway.address(),
            format!("{begin}{fill}\r\n\r\n").as_bytes(),
            1,
        )
        .await;
        assert_eq!(outcome.statuses(), [200], "{size}");
        assert_eq!(
            scene.app.last().head.value("x-fill").unwrap().len(),
            fill.len()
        );
    }
}

#[tokio::test]
async fn s_41_an_unrequested_101_is_an_error() {
    let scene = Scene::new().await;
    scene.app.next(Answer::raw(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nraw bytes",
    ));
    let outcome = exchange(scene.gateway.address(), GET.as_bytes(), 1).await;
    assert_eq!(outcome.statuses(), [502]);
    let after = exchange(scene.gateway.address(), GET.as_bytes(), 1).await;
    assert_eq!(
        (after.statuses(), after.responses[0].text()),
        (vec![200], "seen".to_owned())
    );
}

#[tokio::test]
async fn s_32_a_connection_with_an_unexpected_answer_is_not_reused() {
    let scene = Scene::new().await;
    let odd: [&[u8]; 6] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\npoison",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 8\r\n\r\nokpoison",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\npoison",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nokpoison",
    ];
    for bytes in odd {
        let shown = String::from_utf8_lossy(bytes).into_owned();
        scene.app.next(Answer::raw(bytes));
        let first = exchange(scene.gateway.address(), GET.as_bytes(), 1).await;
        let used = scene.app.last().connection;
        assert!(!first.responses.is_empty(), "{shown}");
        assert!(!first.responses[0].text().contains("poison"), "{shown}");
        let second = exchange(scene.gateway.address(), GET.as_bytes(), 1).await;
        assert_eq!(second.responses[0].text(), "seen", "{shown}");
        assert_ne!(scene.app.last().connection, used, "{shown}");
    }
}

#[tokio::test]
async fn s_32_a_connection_is_not_reused_when_the_client_leaves_during_its_body() {
    let scene = Scene::without_buffers().await;
    let mut raw = Raw::connect(scene.gateway.address()).await;
    raw.send("POST /public/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc")
        .await;
    scene
        .app
        .wait_until(|requests| requests.iter().any(|r| r.body == b"abc"))
        .await;
    drop(raw);
    scene.app.wait_until_unconnected().await;
    let after = exchange(scene.gateway.address(), GET.as_bytes(), 1).await;
    assert_eq!(after.responses[0].text(), "seen");
    assert_eq!(scene.app.last().connection, 1);
}

#[tokio::test]
async fn s_32_many_informational_answers_are_ignored() {
    let scene = Scene::new().await;
    let storm = "HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n".repeat(200);
    let gate = Arc::new(Notify::new());
    scene.app.next(
        Answer::raw(storm.as_bytes())
            .then_send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nend")
            .then_await(&gate),
    );
    let outcome = exchange(scene.gateway.address(), GET.as_bytes(), 1).await;
    assert_eq!(outcome.statuses(), [200]);
    assert_eq!(outcome.responses[0].text(), "end");
    gate.notify_one();
}

#[tokio::test]
async fn s_33_a_post_is_never_sent_twice() {
    let scene = Scene::new().await;
    let post = "POST /public/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc";
    // The first request leaves an idle connection. The app then resets this connection during the
    // second request.
    exchange(scene.gateway.address(), GET.as_bytes(), 1).await;
    scene.app.next(Answer::silence().then_reset());
    let outcome = exchange(scene.gateway.address(), post.as_bytes(), 1).await;
    assert_eq!(outcome.statuses(), [502]);
    let posts = scene
        .app
        .requests()
        .iter()
        .filter(|r| r.method() == "POST")
        .count();
    assert_eq!(posts, 1);
}
