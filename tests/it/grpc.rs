//! gRPC: apps that speak HTTP/2, and the gateway's own answers to gRPC clients.

use http::HeaderMap;
use tokio::join;

use crate::support::browser::Browser;
use crate::support::certificates::Authority;
use crate::support::gateway::{Gateway, Settings};
use crate::support::grpc::{GrpcApp, GrpcClient, next, send_more};
use crate::support::provider::StandIn;
use crate::support::raw::Raw;
use crate::support::scene::{SESSION, TLS_ORIGIN, wait_for_figure};

/// `/public.Echo/` needs no session, and `/admin.Echo/` is for one group. `/test.Echo/` and the
/// root are for all signed-in users. There is no route for other services.
const ROUTES: &str = r#"
[[routes]]
prefix = "/public.Echo"
access = "public"
[[routes]]
prefix = "/admin.Echo"
access.any_of.groups = ["admins"]
[[routes]]
prefix = "/test.Echo"
[[routes]]
prefix = "/seen"
"#;

/// A gateway with TLS in front of a gRPC app.
struct Scene {
    gateway: Gateway,
    provider: StandIn,
    app: GrpcApp,
    tls: Authority,
}

impl Scene {
    async fn new() -> Self {
        Self::with("").await
    }

    /// A gateway with TLS in front of a gRPC app, with additional keys of the app.
    async fn with(keys: &str) -> Self {
        Self::of_app(|settings| settings.app(keys)).await
    }

    /// With other settings.
    async fn of_app(change: impl FnOnce(Settings) -> Settings) -> Self {
        let app = GrpcApp::start().await;
        let url = app.url();
        Self::of(app, &url, Authority::new(), change).await
    }

    /// A gateway with TLS in front of an app over TLS that supports the ALPN protocols `alpn`.
    async fn over_tls(alpn: &[&str]) -> Self {
        let tls = Authority::new();
        let app = GrpcApp::over_tls(&tls, alpn).await;
        let (url, pem) = (app.tls_url(), tls.pem());
        Self::of(app, &url, tls, |settings| {
            let file = settings.file("app-ca.pem", &pem);
            settings.app(&format!("ca_file = \"{file}\""))
        })
        .await
    }

    async fn of(
        app: GrpcApp,
        url: &str,
        tls: Authority,
        change: impl FnOnce(Settings) -> Settings,
    ) -> Self {
        let provider = StandIn::start().await;
        let settings = Settings::new(TLS_ORIGIN, &provider.url(), url)
            .app("protocol = \"http2\"")
            .with(ROUTES)
            .tls(&tls);
        Self {
            gateway: Gateway::start(change(settings)),
            provider,
            app,
            tls,
        }
    }

    async fn client(&self) -> GrpcClient {
        GrpcClient::connect(self.gateway.address(), &self.tls).await
    }

    /// A client with the session of `user`.
    async fn client_of(&self, user: &str) -> GrpcClient {
        let browser = Browser::trusting(&self.tls).leading(TLS_ORIGIN, self.gateway.address());
        browser.plant(&self.provider.url(), &format!("user={user}; Path=/"));
        let page = browser.visit(&format!("{TLS_ORIGIN}/seen")).await;
        assert_eq!(page.text(), "seen", "{}", page.describe());
        let cookie = browser.cookie(TLS_ORIGIN, SESSION).unwrap();
        self.client()
            .await
            .with_cookie(format!("{SESSION}={cookie}"))
    }
}

async fn check_all_kinds_of_calls(scene: &Scene) {
    let client = scene.client_of("alice").await;
    let unary = client.call("/test.Echo/Unary", "hello").await;
    assert_eq!(unary.messages, b"hello");
    assert_eq!(unary.status(), Some("0"));
    assert_eq!(unary.trailers.unwrap()["result-bin"], "AQID");
    let streamed = client.call("/test.Echo/ServerStream", "go").await;
    assert_eq!(streamed.messages, b"onetwothree");
    assert_eq!(streamed.status(), Some("0"));
    let mut call = client.begin("/test.Echo/ClientStream", &[]);
    for message in ["a", "b", "c"] {
        call.send(message).await;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", "7".parse().unwrap());
    trailers.insert("x-forwarded-user", "root".parse().unwrap());
    let collected = call.finish_with(trailers).await;
    assert_eq!(collected.messages, b"abc");
    let trailers = collected.trailers.unwrap();
    assert_eq!(trailers["checksum"], "7");
    assert!(!trailers.contains_key("x-forwarded-user"));
    let (mut messages, mut request) = client.begin("/test.Echo/Bidi", &[]).head().await;
    for message in ["ping", "pong"] {
        send_more(&mut request, message).await;
        assert_eq!(next(&mut messages).await.unwrap(), message);
    }
    request.send_data(bytes::Bytes::new(), true).unwrap();
    assert_eq!(next(&mut messages).await, None);
    let trailers = messages.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    let missing = client.call("/test.Echo/Missing", "x").await;
    assert_eq!((missing.status(), missing.only_head), (Some("5"), true));
}

#[tokio::test]
async fn all_kinds_of_calls_reach_an_app_without_tls() {
    check_all_kinds_of_calls(&Scene::new().await).await;
}

#[tokio::test]
async fn all_kinds_of_calls_reach_an_app_with_tls() {
    check_all_kinds_of_calls(&Scene::over_tls(&["h2"]).await).await;
}

#[tokio::test]
async fn the_metadata_of_a_call_reaches_the_app_with_the_fields_of_the_gateway() {
    for (keys, authority) in [("", "localhost"), ("preserve_host = false", "127.0.0.1")] {
        let scene = Scene::with(keys).await;
        let client = scene.client_of("alice").await;
        let metadata = [
            ("grpc-timeout", "5S"),
            ("grpc-encoding", "gzip"),
            ("key-bin", "AQID"),
            ("x-forwarded-user", "root"),
            ("authorization", "Bearer forged"),
        ];
        let reply = client.begin("/test.Echo/Unary", &metadata).finish().await;
        assert_eq!(reply.status(), Some("0"));
        let head = scene.app.last();
        let uri = head.uri.to_string();
        assert!(uri.starts_with(&format!("http://{authority}")), "{uri}");
        assert!(uri.ends_with("/test.Echo/Unary"), "{uri}");
        for (name, value) in [
            ("te", "trailers"),
            ("content-type", "application/grpc+proto"),
            ("grpc-timeout", "5S"),
            ("grpc-encoding", "gzip"),
            ("key-bin", "AQID"),
            ("x-forwarded-user", "alice"),
            ("x-forwarded-host", "localhost"),
            ("x-forwarded-proto", "https"),
        ] {
            let values: Vec<_> = head.headers.get_all(name).iter().collect();
            assert_eq!(values, [value], "{name}");
        }
        let bearer = head.headers["authorization"].to_str().unwrap();
        assert!(bearer.starts_with("Bearer ") && !bearer.contains("forged"));
        for name in ["host", "connection", "cookie"] {
            assert!(!head.headers.contains_key(name), "{name}");
        }
    }
}

#[tokio::test]
async fn messages_of_several_megabytes_pass_in_both_directions() {
    let scene = Scene::new().await;
    let client = scene.client().await;
    let mut call = client.begin("/public.Echo/Unary", &[]);
    let message: Vec<u8> = (0..5_000_000_u32)
        .map(|index| index.to_le_bytes()[0])
        .collect();
    call.send(message.clone()).await;
    let reply = call.finish().await;
    assert_eq!(reply.status(), Some("0"));
    assert!(reply.messages == message);
}

#[tokio::test]
async fn a_slow_call_does_not_delay_another_call() {
    let scene = Scene::new().await;
    let client = scene.client().await;
    let slow = client.begin("/public.Echo/Slow", &[]);
    scene.app.wait_for_requests(1).await;
    for _ in 0..3 {
        let reply = client.call("/public.Echo/Unary", "fast").await;
        assert_eq!(reply.messages, b"fast");
    }
    let (reply, ()) = join!(slow.finish(), async { scene.app.release() });
    assert_eq!(reply.status(), Some("0"));
}

#[tokio::test]
async fn a_call_that_the_client_cancels_is_cancelled_at_the_app() {
    let scene = Scene::new().await;
    let client = scene.client().await;
    let (mut messages, mut request) = client.begin("/public.Echo/Bidi", &[]).head().await;
    let mut silent = client.begin("/public.Echo/Silent", &[]);
    silent.send("never answered").await;
    scene.app.wait_for_requests(2).await;
    silent.cancel();
    assert_eq!(scene.app.wait_for_reset().await, h2::Reason::CANCEL);
    // The other call on the same connections continues.
    send_more(&mut request, "still here").await;
    assert_eq!(next(&mut messages).await.unwrap(), "still here");
}

#[tokio::test]
async fn the_gateways_own_answers_are_grpc_statuses() {
    let scene = Scene::new().await;
    let signed_out = scene.client().await;
    let bob = scene.client_of("bob").await;
    for (client, path, status, said) in [
        (&signed_out, "/test.Echo/Unary", "16", "Sign in first"),
        (&bob, "/admin.Echo/Unary", "7", "You may not use this page"),
        (&bob, "/other.Echo/Unary", "12", "Page not found"),
    ] {
        let before = scene.app.count();
        let reply = client.call(path, "x").await;
        assert_eq!(reply.head.status, 200, "{path}");
        assert_eq!(reply.status(), Some(status), "{path}");
        assert!(reply.only_head, "{path}");
        let headers = &reply.head.headers;
        assert_eq!(headers["content-type"], "application/grpc", "{path}");
        let message = headers["grpc-message"].to_str().unwrap();
        assert!(message.starts_with(said), "{path}: {message}");
        assert!(!headers.contains_key("location"), "{path}");
        assert_eq!(scene.app.count(), before, "{path}");
    }
    // The metrics contain the status code that a client without gRPC would have got.
    let operations = scene.gateway.operations();
    for (route, decision) in [
        ("/test.Echo", "challenge"),
        ("/admin.Echo", "forbid"),
        ("-", "no_route"),
    ] {
        let labels = format!("route=\"{route}\",decision=\"{decision}\",status=\"4xx\"");
        wait_for_figure(
            operations,
            &format!("sidegate_requests_total{{{labels}}}"),
            1,
        )
        .await;
    }
}

#[tokio::test]
async fn an_app_that_cannot_be_reached_is_unavailable() {
    let scene = Scene::new().await;
    let client = scene.client().await;
    let (gateway, tls) = (&scene.gateway, &scene.tls);
    assert_eq!(
        client.call("/public.Echo/Unary", "x").await.status(),
        Some("0")
    );
    drop(scene.app);
    let client = GrpcClient::connect(gateway.address(), tls).await;
    // The open connection of the gateway may still be used for some requests.
    let reply = loop {
        let reply = client.call("/public.Echo/Unary", "x").await;
        if reply.status() != Some("0") {
            break reply;
        }
    };
    assert_eq!(reply.status(), Some("14"));
    assert_eq!(reply.head.status, 200);
}

#[tokio::test]
async fn an_app_that_does_not_choose_http_2_is_unavailable() {
    let scene = Scene::over_tls(&["http/1.1"]).await;
    let client = scene.client().await;
    let reply = client.call("/public.Echo/Unary", "x").await;
    assert_eq!(reply.status(), Some("14"));
    assert_eq!(scene.app.count(), 0);
}

#[tokio::test]
async fn f_10_a_call_whose_deadline_has_passed_gets_deadline_exceeded() {
    let scene = Scene::with("response_timeout_secs = 1").await;
    let client = scene.client().await;
    let reply = client.call("/public.Echo/Silent", "x").await;
    assert_eq!(reply.status(), Some("4"));
    assert_eq!(scene.app.wait_for_reset().await, h2::Reason::CANCEL);
}

#[tokio::test]
async fn a_client_may_be_silent_for_longer_than_the_lowest_rate_of_a_body_allows() {
    let scene =
        Scene::of_app(|settings| settings.server("body_window_secs = 1\nbuffer_mib = 0")).await;
    let client = scene.client().await;
    let (mut messages, mut request) = client.begin("/public.Echo/Bidi", &[]).head().await;
    // On the same connection, an equally slow upload that is not gRPC is refused.
    let plain = client.begin("/public.Echo/Bidi", &[("content-type", "text/plain")]);
    let plain = plain.outcome_without_end().await.unwrap_err();
    assert!(plain.is_reset(), "{plain:?}");
    send_more(&mut request, "late").await;
    assert_eq!(next(&mut messages).await.unwrap(), "late");
}

#[tokio::test]
async fn a_call_on_which_neither_side_sends_ends_at_the_limit_of_the_app() {
    let scene = Scene::with("body_timeout_secs = 1").await;
    let client = scene.client().await;
    let (mut messages, request) = client.begin("/public.Echo/Bidi", &[]).head().await;
    assert_eq!(next(&mut messages).await, None);
    drop(request);
}

#[tokio::test]
async fn f_09_a_reply_that_breaks_off_never_ends_cleanly() {
    let scene = Scene::new().await;
    let client = scene.client().await;
    // For one path, the app closes its connection. For the other path, the app resets the stream
    // with the error code of a complete reply.
    for path in ["/public.Echo/Broken", "/public.Echo/Reset"] {
        let mut call = client.begin(path, &[]);
        call.send("x").await;
        let error = call.outcome().await.unwrap_err();
        assert!(error.is_reset(), "{path}: {error:?}");
        assert_eq!(
            client.call("/public.Echo/Unary", "y").await.status(),
            Some("0")
        );
        let (address, config) = (scene.gateway.address(), scene.tls.client(&["http/1.1"]));
        let mut raw = Raw::connect_tls(address, "localhost", config).await;
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
            .await;
        let answer = raw.response("GET").await.unwrap();
        assert_eq!(answer.text(), "half", "{path}");
        assert!(!answer.body.complete, "{path}");
    }
}

#[tokio::test]
async fn grpc_web_is_plain_http_over_http_1() {
    let scene = Scene::new().await;
    let address = scene.gateway.address();
    let mut raw = Raw::connect_tls(address, "localhost", scene.tls.client(&["http/1.1"])).await;
    let head = "Host: localhost\r\nContent-Type: application/grpc-web+proto\r\n\
                Content-Length: 5\r\n\r\nhello";
    raw.send(format!("POST /public.Echo/Unary HTTP/1.1\r\n{head}"))
        .await;
    let response = raw.response("POST").await.unwrap();
    assert_eq!(
        (response.status(), response.text().as_str()),
        (200, "hello")
    );
    raw.send(format!("POST /test.Echo/Unary HTTP/1.1\r\n{head}"))
        .await;
    let response = raw.response("POST").await.unwrap();
    assert_eq!(response.status(), 200);
    for (name, value) in [
        ("grpc-status", "16"),
        ("content-type", "application/grpc-web+proto"),
        ("content-length", "0"),
    ] {
        assert_eq!(response.head.value(name).as_deref(), Some(value), "{name}");
    }
}

#[tokio::test]
async fn an_app_that_speaks_http_2_gets_no_request_to_switch_the_protocol() {
    let scene = Scene::new().await;
    let address = scene.gateway.address();
    let mut raw = Raw::connect_tls(address, "localhost", scene.tls.client(&["http/1.1"])).await;
    raw.send(
        "GET /public.Echo/seen HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    let response = raw.response("GET").await.unwrap();
    assert_eq!(response.status(), 501);
    assert!(response.text().contains("upgrade_over_http2"));
    assert_eq!(scene.app.count(), 0);
}

#[tokio::test]
async fn only_a_post_request_gets_the_status_of_an_error_as_a_status_of_grpc() {
    // A gRPC call is always a POST request. The status code 200 would tell another server, which
    // only asks the gateway for a decision, that the request is allowed.
    let scene = crate::support::scene::Scene::new().await;
    for (method, path, status) in [
        ("GET", "/any", 401),
        ("HEAD", "/any", 401),
        ("GET", "/oauth2/unknown", 404),
        ("POST", "/any", 200),
    ] {
        let mut client = Raw::connect(scene.gateway.address()).await;
        client
            .send(format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\
                 Content-Type: application/grpc-web\r\n\r\n"
            ))
            .await;
        let answer = client.response(method).await.unwrap();
        assert_eq!(answer.status(), status, "{method} {path}");
    }
}
