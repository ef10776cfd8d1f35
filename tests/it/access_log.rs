//! The access log: one event for each request, at the end of its answer.

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::support::browser::Browser;
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{Process, Settings};
use crate::support::provider::StandIn;
use crate::support::raw::Raw;
use crate::support::scene::{ORIGIN, ROUTES, url, wait_for_figure};
use crate::support::upstream::{Answer, RecordingUpstream};

struct Logged {
    process: Process,
    app: RecordingUpstream,
    _provider: StandIn,
}

impl Logged {
    async fn start() -> Self {
        Self::with("").await
    }

    /// Starts a gateway with more settings, which begin in the section `[server]`.
    async fn with(server: &str) -> Self {
        let provider = StandIn::start().await;
        let app = RecordingUpstream::start().await;
        let settings = Settings::new(ORIGIN, &provider.url(), &app.url()).with(ROUTES);
        Self {
            process: Process::start(settings.server(server)).await,
            app,
            _provider: provider,
        }
    }

    fn browser(&self) -> Browser {
        Browser::new().leading(ORIGIN, self.process.address())
    }

    /// Waits for the event of the request for this path. At most one event for this path is
    /// expected.
    async fn event(&self, path: &str) -> Value {
        let is_event = |line: &&str| line.contains("\"Request\"") && line.contains(path);
        self.process
            .wait_for_log(|log| log.lines().any(|line| is_event(&line)))
            .await;
        let log = self.process.log();
        let events: Vec<&str> = log.lines().filter(is_event).collect();
        assert_eq!(events.len(), 1, "{events:?}");
        serde_json::from_str(events[0]).unwrap()
    }

    /// Connects and sends a request.
    async fn send(&self, request: &str) -> Raw {
        let mut client = Raw::connect(self.process.address()).await;
        client.send(request).await;
        client
    }
}

#[track_caller]
fn assert_fields(event: &Value, fields: &[(&str, Value)]) {
    for (name, value) in fields {
        assert_eq!(event[name], *value, "{name} in {event}");
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

#[tokio::test]
async fn an_event_states_the_bytes_of_both_directions_and_the_end() {
    let logged = Logged::start().await;
    logged.app.next(Answer::ok("an answer"));
    let content = "POST /public/post HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
    let mut client = logged.send(content).await;
    assert_eq!(client.response("GET").await.unwrap().status(), 200);
    let complete = |up: u64, down: u64| {
        [
            ("http.request.body.size", json!(up)),
            ("http.response.body.size", json!(down)),
            ("end", json!("complete")),
        ]
    };
    assert_fields(&logged.event("/public/post").await, &complete(5, 9));
    // An answer to a HEAD request is complete without its content.
    let mut client = logged
        .send("HEAD /no/page HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(client.head().await.unwrap().status(), 401);
    assert_fields(&logged.event("/no/page").await, &complete(0, 0));
}

#[tokio::test]
async fn a_request_without_an_answer_at_the_end_of_a_drain_did_not_lose_its_client() {
    let logged = Logged::with("drain_secs = 1").await;
    let gate = std::sync::Arc::new(Notify::new());
    logged.app.next(Answer::ok("too late").held_by(&gate));
    let _waiting = logged.send(&get("/public/waiting")).await;
    logged.app.wait_until(|requests| requests.len() == 1).await;
    let upload = "POST /public/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf";
    let _uploading = logged.send(upload).await;
    let buffered = 4 + 64;
    let operations = logged.process.operations();
    wait_for_figure(operations, "sidegate_buffered_bytes", buffered).await;
    logged.process.signal("TERM").await;
    for path in ["/public/waiting", "/public/upload"] {
        assert_fields(
            &logged.event(path).await,
            &[
                ("http.response.status_code", json!(503)),
                ("decision", json!("permit")),
                ("reason", json!("drain")),
                ("end", json!("drain")),
            ],
        );
    }
}

#[tokio::test]
async fn an_answer_that_its_app_breaks_off_is_not_complete_in_the_log() {
    let logged = Logged::start().await;
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    logged.app.next(Answer::raw(head).then_close());
    let mut client = logged.send(&get("/public/broken")).await;
    assert_eq!(client.head().await.unwrap().status(), 200);
    let event = logged.event("/public/broken").await;
    assert_fields(
        &event,
        &[
            ("http.response.status_code", json!(200)),
            ("http.response.body.size", json!(4)),
            ("end", json!("upstream_broken")),
        ],
    );
    let figure = "sidegate_broken_answers_total{route=\"/public\",end=\"upstream_broken\"}";
    wait_for_figure(logged.process.operations(), figure, 1).await;
}

#[tokio::test]
async fn an_answer_that_its_client_leaves_is_not_complete_in_the_log() {
    let logged = Logged::start().await;
    let gate = std::sync::Arc::new(Notify::new());
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    logged.app.next(Answer::raw(head).then_await(&gate));
    let mut client = logged.send(&get("/public/left")).await;
    assert_eq!(client.head().await.unwrap().status(), 200);
    assert!(!logged.process.log().contains("/public/left"));
    drop(client);
    let event = logged.event("/public/left").await;
    assert_fields(
        &event,
        &[
            ("http.response.status_code", json!(200)),
            ("end", json!("client_gone")),
        ],
    );
    let figure = "sidegate_broken_answers_total{route=\"/public\",end=\"client_gone\"}";
    wait_for_figure(logged.process.operations(), figure, 1).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_has_an_event_without_a_head() {
    let logged = Logged::start().await;
    logged.app.next(Answer::silence());
    let client = logged.send(&get("/public/silent")).await;
    logged.app.wait_until(|requests| requests.len() == 1).await;
    drop(client);
    let event = logged.event("/public/silent").await;
    assert_fields(
        &event,
        &[
            ("http.response.status_code", json!(499)),
            ("end", json!("client_gone")),
            ("head_us", Value::Null),
            ("reason", Value::Null),
        ],
    );
}

#[tokio::test]
async fn the_gateways_own_answers_are_complete() {
    let logged = Logged::start().await;
    let page = logged.browser().fetch(&url("/private")).await;
    assert_eq!(page.status, 401);
    let size = page.text().len();
    let event = logged.event("/private").await;
    assert_fields(
        &event,
        &[
            ("http.response.body.size", json!(size)),
            ("end", json!("complete")),
            ("reason", json!("no_cookie")),
        ],
    );
}

/// Whether a text is an id that the gateway has created.
fn is_new_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[tokio::test]
async fn the_app_the_client_and_the_log_get_the_same_request_id() {
    let logged = Logged::start().await;
    let fields = [("X-Request-Id", "of-the-app"), ("x-request-id", "again")];
    logged.app.next(Answer::with(200, &fields, "x"));
    let request = "GET /public/id HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: forged\r\n\
                   X_Request_Id: forged\r\nConnection: X-Request-Id\r\n\r\n";
    let mut client = logged.send(request).await;
    let answer = client.response("GET").await.unwrap();
    let ids = answer.head.values("x-request-id");
    let [id] = &*ids else { panic!("{ids:?}") };
    assert!(is_new_id(id), "{id}");
    let seen = logged.app.last().head;
    assert_eq!(seen.values("x-request-id"), ids);
    assert_eq!(seen.value("x_request_id"), None);
    assert_eq!(logged.event("/public/id").await["request.id"], **id);
    client.send(get("/public/other")).await;
    let other = client.response("GET").await.unwrap();
    assert_ne!(other.head.values("x-request-id"), ids);
}

#[tokio::test]
async fn only_a_trusted_proxy_may_write_the_request_id() {
    let logged = Logged::with("trusted_proxies = [\"127.0.0.0/8\"]").await;
    for (path, written, is_kept) in [
        ("/public/kept", "edge-1.a~b", true),
        ("/public/markup", "<b>1</b>", false),
        ("/public/long", &*"a".repeat(129), false),
    ] {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {written}\r\n\r\n");
        let mut client = logged.send(&request).await;
        let id = client.head().await.unwrap().value("x-request-id").unwrap();
        let is_expected = if is_kept {
            id == written
        } else {
            is_new_id(&id)
        };
        assert!(is_expected, "{path}: {id}");
        assert_eq!(logged.event(path).await["request.id"], *id);
        assert_eq!(logged.app.last().head.value("x-request-id"), Some(id));
    }
}

#[tokio::test]
async fn pages_and_problem_details_of_failures_show_the_request_id() {
    let logged = Logged::start().await;
    let app = &logged.app;
    let nothing = || app.next(Answer::silence().then_close());
    for (host, path) in [
        ("localhost", "/public/silent"),
        ("localhost", "/private/x"),
        ("localhost", "/oauth2/unknown"),
        ("localhost", "/public/a/%zz"),
        ("elsewhere.test", "/public/host"),
    ] {
        for accept in ["text/html", "application/json"] {
            nothing();
            let request = format!(
                "POST {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n\
                 X-Request-Id: forged\r\nContent-Length: 0\r\n\r\n"
            );
            let mut client = logged.send(&request).await;
            let answer = client.response("POST").await.unwrap();
            let id = answer.head.value("x-request-id").unwrap();
            assert!(is_new_id(&id), "{path}: {id}");
            let text = answer.text();
            let shown = if accept == "text/html" {
                text.contains(&format!("Request id: {id}<"))
            } else {
                let problem: Value = serde_json::from_str(&text).unwrap();
                problem["request_id"] == *id
            };
            assert!(shown && !text.contains("forged"), "{path}: {text}");
        }
        app.forget_what_is_answered();
    }
    let page = logged.browser().open(&url("/oauth2/sign_out")).await;
    assert!(!page.text().contains("Request id"), "{}", page.text());
    assert!(page.field("x-request-id").is_some_and(is_new_id));
}

#[tokio::test]
async fn an_event_names_user_host_protocol_and_program() {
    let logged = Logged::start().await;
    let browser = logged.browser();
    browser.visit(&url("/")).await;
    let request = BrowserRequest::fetch(&url("/who")).field("user-agent", "tool/1 (\"x\")");
    assert_eq!(browser.send(request).await.status, 200);
    let event = logged.event("/who").await;
    let log = logged.process.log();
    let signed_in = log.lines().find(|line| line.contains("Signed in")).unwrap();
    let signed_in: Value = serde_json::from_str(signed_in).unwrap();
    // By default, the log contains a hash instead of the user.
    assert_eq!(signed_in["enduser.id"].as_str().map(str::len), Some(16));
    assert_fields(
        &event,
        &[
            ("enduser.id", signed_in["enduser.id"].clone()),
            ("server.address", json!("localhost")),
            ("network.protocol.name", json!("http")),
            ("network.protocol.version", json!("1.1")),
            ("user_agent.original", json!("tool/1 (\"x\")")),
        ],
    );
    let time = |name: &str| event[name].as_u64().unwrap();
    let (upstream, head, whole) = (time("upstream_us"), time("head_us"), time("duration_us"));
    assert!(upstream <= head && head <= whole, "{event}");
    assert_eq!(event["waited_us"], Value::Null);
    logged.browser().fetch(&url("/public/nobody")).await;
    assert_eq!(
        logged.event("/public/nobody").await["enduser.id"],
        Value::Null
    );
}

#[tokio::test]
async fn the_reason_in_the_log_is_the_reason_on_the_page() {
    let logged = Logged::start().await;
    let signed_in = logged.browser();
    signed_in.visit(&url("/")).await;
    let post = |path: &str| BrowserRequest::fetch(&url(path)).method("POST");
    let requests = [
        ("rule", BrowserRequest::fetch(&url("/admin/page"))),
        ("no_route", BrowserRequest::fetch(&url("/oauth2/nowhere"))),
        (
            "no_navigation",
            BrowserRequest::image(&url("/oauth2/sign_in")),
        ),
        (
            "prefetch",
            BrowserRequest::navigation(&url("/oauth2/callback")).field("sec-purpose", "prefetch"),
        ),
        (
            "state_missing",
            BrowserRequest::navigation(&url("/oauth2/callback?code=a&x=late")),
        ),
        (
            "cross_origin",
            post("/oauth2/sign_out").from("https://evil.test/"),
        ),
    ];
    for (reason, request) in requests {
        let request = request.field("accept", "application/json");
        let browser = logged.browser();
        let browser = if reason == "rule" {
            &signed_in
        } else {
            &browser
        };
        let answer = browser.send(request).await;
        let problem = answer.json();
        assert_eq!(problem["reason"], reason, "{problem}");
        let id = problem["request_id"].as_str().unwrap();
        let event = logged.event(id).await;
        assert_eq!(event["reason"], reason, "{event}");
    }
}

#[tokio::test]
async fn an_auth_check_is_marked_in_the_log() {
    let logged =
        Logged::with("[[auth_check.proxies]]\nnetworks = [\"127.0.0.1\"]\nkind = \"nginx\"\n")
            .await;
    let ask = "GET /_sidegate/auth HTTP/1.1\r\nHost: localhost\r\nX-Original-Method: PUT\r\n\
               X-Original-URI: /public/asked\r\n\r\n";
    let mut client = logged.send(ask).await;
    assert_eq!(client.head().await.unwrap().status(), 200);
    let event = logged.event("/public/asked").await;
    let marks = [
        ("auth_check", json!("nginx")),
        ("http.request.method", json!("PUT")),
        ("decision", json!("permit")),
    ];
    assert_fields(&event, &marks);
    logged.browser().fetch(&url("/public/plain")).await;
    assert_eq!(
        logged.event("/public/plain").await["auth_check"],
        Value::Null
    );
}
