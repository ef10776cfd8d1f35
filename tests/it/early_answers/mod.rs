//! Answers that come before the end of the request body, and clients that close their sending
//! direction before they get their answer.

mod curl;

use crate::support::raw::Raw;
use crate::support::scene::Scene;
use crate::support::upstream::Answer;

/// A request that the gateway or the app answers early: its first lines, and the status of the
/// answer.
const EARLY: [(&str, u16); 6] = [
    // A script without a session.
    (
        "POST /upload HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n",
        401,
    ),
    // A user without permission.
    ("POST /admin HTTP/1.1\r\nHost: localhost\r\nCOOKIE\r\n", 403),
    // A page of another site.
    (
        "POST /upload HTTP/1.1\r\nHost: localhost\r\nCOOKIE\r\nOrigin: https://evil.test\r\n",
        403,
    ),
    ("POST /public/../x HTTP/1.1\r\nHost: localhost\r\n", 400),
    ("POST /x HTTP/1.1\r\nHost: evil.test\r\n", 421),
    ("POST /public/early HTTP/1.1\r\nHost: localhost\r\n", 413),
];

#[tokio::test]
async fn s_30_every_early_answer_announces_the_end_of_the_connection() {
    let scene = Scene::without_buffers().await;
    let cookie = format!("Cookie: {}", scene.cookie("alice").await);
    for (head, status) in EARLY {
        for length in [100_000, 5_000_000_000_u64] {
            let early = Answer::with(413, &[], "too much").early().then_close();
            if head.contains("/public/early") {
                scene.app.next(early);
            }
            let head = head.replace("COOKIE", &cookie);
            let mut raw = Raw::connect(scene.gateway.address()).await;
            raw.send(format!(
                "{head}Content-Length: {length}\r\n\r\nthe first bytes"
            ))
            .await;
            let answer = raw.response("POST").await.unwrap();
            let expected = if length > 1 << 30 && matches!(status, 413) {
                413
            } else {
                status
            };
            assert_eq!(answer.status(), expected, "{head}");
            let connection = answer.head.value("connection");
            assert_eq!(connection.as_deref(), Some("close"), "{head}");
            raw.closed().await;
        }
    }
}

#[tokio::test]
async fn s_30_an_answer_after_the_whole_body_keeps_the_connection() {
    let scene = Scene::new().await;
    let mut raw = Raw::connect(scene.gateway.address()).await;
    for (path, status) in [("/upload", 401), ("/public/x", 200), ("/upload", 401)] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json");
        raw.send(format!("{head}\r\nContent-Length: 3\r\n\r\nabc"))
            .await;
        let answer = raw.response("POST").await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.head.value("connection"), None, "{path}");
    }
}

#[tokio::test]
async fn s_30_a_client_with_a_closed_sending_direction_gets_the_answers_of_gateway_and_app() {
    let scene = Scene::new().await;
    let cookie = format!("Cookie: {}\r\n", scene.cookie("alice").await);
    for round in 0..20 {
        for (path, cookie, status) in [
            ("/page", &*cookie, 200),
            ("/page", "", 401),
            ("/admin", &*cookie, 403),
            ("/public/../x", "", 400),
            ("/oauth2/none", "", 404),
        ] {
            let mut raw = Raw::connect(scene.gateway.address()).await;
            raw.send(format!(
                "GET {path} HTTP/1.1\r\nHost: localhost\r\n{cookie}\r\n"
            ))
            .await;
            raw.finish().await;
            let answer = raw.response("GET").await;
            let answer = answer.unwrap_or_else(|| panic!("{round}: no answer for {path}"));
            assert_eq!(answer.status(), status, "{path}");
            raw.closed().await;
        }
    }
}
