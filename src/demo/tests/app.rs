//! Tests of the legacy app.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::demo::browser::open;
use crate::demo::{App, AppSettings};

/// Starts an app with the public key and the clock of `fixture`.
async fn app(fixture: &Fixture) -> App {
    let settings = AppSettings {
        clock: fixture.clock.clone(),
        ..AppSettings::new(fixture.server.public_key_pem(), "3")
    };
    App::start(settings).await.unwrap()
}

async fn get(app: &App, path: &str, fields: &[(&str, &str)]) -> Response<Bytes> {
    send(app.address(), "GET", path, fields, "").await
}

fn text(answer: &Response<Bytes>) -> String {
    String::from_utf8_lossy(answer.body()).into_owned()
}

#[tokio::test]
async fn a_valid_token_is_shown_decoded_and_never_raw() {
    let fixture = Fixture::start(ProviderKind::Passport13).await;
    let app = app(&fixture).await;
    let (access, _refresh) = fixture.grant().await;
    let bearer = format!("Bearer {access}");
    let fields = [
        ("authorization", bearer.as_str()),
        ("x-forwarded-email", "<alice>@example.com"),
        ("cookie", "theme=dark; __Host-sidegate=stolen"),
    ];
    let seen = get(&app, "/whoami", &fields).await;
    let whoami = json(&seen);
    assert_eq!(whoami["authenticated"], true);
    assert_eq!(whoami["subject"], "17");
    assert_eq!(whoami["token"], "signature checked");
    assert_eq!(whoami["claims"]["aud"], "3");
    assert_eq!(whoami["requests"], 1);
    assert!(whoami["fields"]["authorization"].is_null());
    let page = get(&app, "/", &fields).await;
    let html = text(&page);
    assert!(html.contains("Hello, &lt;alice&gt;@example.com"), "{html}");
    assert!(html.contains("signature checked") && html.contains("RS256"));
    assert!(html.contains("development demo") && html.contains("/oauth2/sign_out"));
    for answer in [html, text(&seen)] {
        for part in access.split('.') {
            assert!(!answer.contains(part));
        }
        assert!(answer.contains("theme=dark") && !answer.contains("stolen"));
    }
    assert_eq!(page.headers()["cache-control"], "no-store");
    assert!(page.headers().contains_key("content-security-policy"));
    assert_eq!(app.requests(), 2);
}

#[tokio::test]
async fn an_invalid_token_authenticates_nobody() {
    let fixture = Fixture::start(ProviderKind::Passport13).await;
    let other = Fixture::start(ProviderKind::Passport13).await;
    let app = app(&fixture).await;
    let (access, _refresh) = fixture.grant().await;
    let foreign = other.grant().await.0;
    let values = [
        "Bearer evil".to_owned(),
        format!("Basic {access}"),
        format!("Bearer {}", tampered(&access)),
        format!("Bearer {foreign}"),
    ];
    for value in &values {
        let fields = [("authorization", value.as_str())];
        let whoami = json(&get(&app, "/whoami", &fields).await);
        assert_eq!(whoami["authenticated"], false, "{value}");
        assert_eq!(whoami["token"], "signature NOT valid", "{value}");
        assert!(whoami["subject"].is_null());
        let page = text(&get(&app, "/", &fields).await);
        assert!(page.contains("signature NOT valid") && page.contains("stranger"));
    }
    let whoami = json(&get(&app, "/whoami", &[]).await);
    assert_eq!(whoami["token"], "none");
    let page = text(&get(&app, "/", &[]).await);
    assert!(page.contains("no token arrived") && !page.contains("/oauth2/sign_out"));
    let bearer = format!("Bearer {access}");
    let twice = [
        ("authorization", bearer.as_str()),
        ("authorization", bearer.as_str()),
    ];
    assert_eq!(
        json(&get(&app, "/whoami", &twice).await)["authenticated"],
        false
    );
    fixture.clock.advance(OVER_AN_HOUR);
    let whoami = json(&get(&app, "/whoami", &twice[..1]).await);
    assert_eq!(whoami["authenticated"], false);
    assert_eq!(whoami["reason"], "it has expired");
}

#[tokio::test]
async fn posted_text_is_shown_escaped() {
    let fixture = Fixture::start(ProviderKind::Passport13).await;
    let app = app(&fixture).await;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let body = "title=%3Cscript%3E&text=a+%26+b";
    let page = text(&send(app.address(), "POST", "/notes", &form, body).await);
    assert!(
        page.contains("&lt;script&gt;") && !page.contains("<script>"),
        "{page}"
    );
    assert!(page.contains("a &amp; b"));
    assert_eq!(get(&app, "/notes", &[]).await.status(), 405);
    assert_eq!(get(&app, "/nowhere", &[]).await.status(), 404);
}

#[tokio::test]
async fn only_the_stream_is_sent_in_chunks() {
    let fixture = Fixture::start(ProviderKind::Passport13).await;
    let app = app(&fixture).await;
    let stream = get(&app, "/stream", &[]).await;
    assert_eq!(stream.headers()["transfer-encoding"], "chunked");
    assert_eq!(text(&stream), "one\ntwo\nthree\n");
    let hello = get(&app, "/public/hello", &[]).await;
    assert_eq!(hello.headers()["content-length"], "24");
    assert_eq!(get(&app, "/slow?ms=1", &[]).await.status(), 200);
}

#[tokio::test]
async fn a_body_over_one_megabyte_is_refused() {
    let fixture = Fixture::start(ProviderKind::Passport13).await;
    let app = app(&fixture).await;
    let body = "a".repeat(1024 * 1024 + 1);
    let answer = send(app.address(), "POST", "/notes", &[], &body).await;
    assert_eq!(answer.status(), 413);
}

#[tokio::test]
async fn only_the_page_with_live_clocks_may_run_a_script() {
    let fixture = Fixture::start(ProviderKind::Passport13).await;
    let app = app(&fixture).await;
    let policy = |page: &Response<Bytes>| {
        let policy = page.headers()["content-security-policy"].to_str();
        policy.unwrap().to_owned()
    };
    let front = get(&app, "/", &[]).await;
    assert!(text(&front).contains("href=\"/live\""));
    assert!(!policy(&front).contains("script-src"));
    let live = get(&app, "/live", &[]).await;
    let page = text(&live);
    let script = page.split_once("<script>").unwrap().1;
    let script = script.split_once("</script>").unwrap().0;
    let hash = digest(&SHA256, script.as_bytes());
    let hash = base64::engine::general_purpose::STANDARD.encode(hash);
    let expected = format!("script-src 'sha256-{hash}'; connect-src 'self'");
    assert!(policy(&live).ends_with(&expected), "{}", policy(&live));
    assert!(policy(&live).starts_with("default-src 'none'"));
}

/// Sends a handshake with `key` and the WebSocket `version`. Returns the answer of the app.
async fn handshake(app: &App, version: &str, key: &str) -> Response<Incoming> {
    let request = Request::get("/live/socket")
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", version)
        .header("sec-websocket-key", key);
    let request = request.body(Full::default()).unwrap();
    open(app.address(), request).await.unwrap()
}

#[tokio::test]
async fn the_socket_sends_the_time_until_the_client_closes_it() {
    let fixture = Fixture::start(ProviderKind::Passport13).await;
    let app = app(&fixture).await;
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let date = "Sun, 22 Nov 2026 22:02:18 GMT";
    // In this test, the client sends a close frame or a text frame. RFC 6455 section 5.3 requires a
    // mask; the mask of the frames in the test is zero.
    for (sent, code) in [
        (&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8], 1000_u16),
        (&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'], 1003),
    ] {
        let mut answer = handshake(&app, "13", key).await;
        assert_eq!(answer.status(), 101);
        let accept = &answer.headers()["sec-websocket-accept"];
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let mut socket = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
        let mut frame = [0; 31];
        // The second message shows that the app keeps the WebSocket open.
        for _message in 0..2 {
            socket.read_exact(&mut frame).await.unwrap();
            assert_eq!(frame, *[b"\x81\x1d", date.as_bytes()].concat());
        }
        socket.write_all(sent).await.unwrap();
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, [&[0x88, 2], &code.to_be_bytes()[..]].concat());
    }
    for (version, key) in [("8", key), ("13", "short")] {
        let answer = handshake(&app, version, key).await;
        assert_eq!(answer.status(), 426, "{version} {key}");
        assert_eq!(answer.headers()["sec-websocket-version"], "13");
    }
}

#[tokio::test]
async fn the_event_stream_sends_the_time() {
    let fixture = Fixture::start(ProviderKind::Passport13).await;
    let app = app(&fixture).await;
    let request = Request::get("/live/events").header("host", "localhost");
    let request = request.body(Full::default()).unwrap();
    let answer = open(app.address(), request).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    for _event in 0..2 {
        let event = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(event, "data: Sun, 22 Nov 2026 22:02:18 GMT\n\n");
    }
}
