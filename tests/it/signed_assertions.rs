//! Signed assertions, and an app that verifies them with the code of `docs/apps.md`.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{Gateway, Settings};
use crate::support::program::{Program, project, python};
use crate::support::provider::StandIn;
use crate::support::raw::{Response, exchange};
use crate::support::scene::{ORIGIN, SESSION, url};
use crate::support::upstream::RecordingUpstream;

/// The example code of the documentation.
const PAGE: &str = include_str!("../../docs/apps.md");

/// A gateway, an app that verifies assertions at `/`, and a recording app at `/other`.
struct Signed {
    gateway: Gateway,
    app: Program,
    other: RecordingUpstream,
    provider: StandIn,
}

const ROUTES: &str = r#"
[assertions]
signed = { claims = ["email", "preferred_username", "name", "groups"] }
[upstreams.other]
url = "OTHER"
[[routes]]
upstream = "app"
[[routes]]
prefix = "/other"
upstream = "other"
[[routes]]
prefix = "/public"
access = "public"
upstream = "other"
[signing]
key_files = ["KEY"]
"#;

fn new_key() -> String {
    rcgen::KeyPair::generate().unwrap().serialize_pem()
}

impl Signed {
    async fn start() -> Self {
        Self::with("").await
    }

    /// With additional keys of the app that verifies assertions.
    async fn with(app_keys: &str) -> Self {
        let app = Program::start("ready ", |folder| {
            let mut command = python();
            command
                .arg(project("tests/peers/signed_app.py"))
                .arg(folder.join("verifier.py"));
            command
        })
        .await;
        let (provider, other) = (StandIn::start().await, RecordingUpstream::start().await);
        let address = format!("http://{}", app.address());
        let settings = Settings::new(ORIGIN, &provider.url(), &address).app(app_keys);
        let key = settings.file("first.pem", &new_key());
        let rest = ROUTES.replace("OTHER", &other.url()).replace("KEY", &key);
        // Each worker keeps its own assertions.
        let gateway = Gateway::start(settings.with(&rest).one_worker());
        let (_, code) = PAGE.split_once("```python\n").unwrap();
        let (code, _) = code.split_once("```").unwrap();
        // The app calls the gateway at another address than browsers, so the app sends the public
        // host.
        let keys = format!("http://{}/oauth2/jwks", gateway.address());
        let code = code
            .replace("https://app.example.com/oauth2/jwks", &keys)
            .replace(
                "lifespan=300",
                "lifespan=300, headers={\"Host\": \"localhost\"}",
            )
            .replace("https://app.example.com", ORIGIN)
            .replace("app.example.com", "localhost");
        std::fs::write(app.path("verifier.py"), code).unwrap();
        Self {
            gateway,
            app,
            other,
            provider,
        }
    }

    async fn signed_in(&self) -> Browser {
        self.signed_in_at("/").await
    }

    async fn signed_in_at(&self, path: &str) -> Browser {
        let browser = Browser::new().leading(ORIGIN, self.gateway.address());
        browser.plant(&self.provider.url(), "user=alice; Path=/");
        let page = browser.visit(&url(path)).await;
        assert_eq!(page.status, 200, "{}", page.describe());
        browser
    }

    /// Sends a request to the app, without the gateway.
    async fn directly(&self, start: &str, token: &str) -> Response {
        let address: SocketAddr = self.app.address().parse().unwrap();
        let field = format!("X-Sidegate-Assertion: {token}\r\n");
        let field = if token.is_empty() { "" } else { &field };
        let request = format!(
            "{start} HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-User: alice\r\n{field}\r\n"
        );
        exchange(address, request.as_bytes(), 1)
            .await
            .responses
            .remove(0)
    }

    /// The token in the last request to the recording app.
    fn token(&self) -> Option<String> {
        self.other.last().head.value("x-sidegate-assertion")
    }

    /// The public keys, as an app gets them.
    async fn keys(&self) -> Response {
        let request = "GET /oauth2/jwks HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let outcome = exchange(self.gateway.address(), request.as_bytes(), 1).await;
        outcome.responses.into_iter().next().unwrap()
    }
}

#[tokio::test]
async fn h_43_an_app_verifies_assertions_with_a_common_library() {
    let signed = Signed::start().await;
    let browser = signed.signed_in().await;
    let page = browser.fetch(&url("/page")).await;
    let (claims, token) = (&page.json()["claims"], page.json()["token"].clone());
    for (name, value) in [
        ("iss", json!(ORIGIN)),
        ("aud", json!("app")),
        ("sub", json!("alice")),
        ("provider", json!("main")),
        ("host", json!("localhost")),
        ("method", json!("GET")),
        ("email", json!("alice@example.com")),
        ("email_verified", json!(true)),
    ] {
        assert_eq!(claims[name], value, "{name} in {claims}");
    }
    let posted = BrowserRequest::fetch(&url("/page")).form(&[("a", "b")]);
    let posted = browser.send(posted).await;
    assert_eq!(posted.json()["claims"]["method"], "POST");
    // A field of the client never reaches the app, in any spelling.
    for name in ["x-sidegate-assertion", "X_Sidegate_Assertion"] {
        let forged = BrowserRequest::fetch(&url("/page")).field(name, "evil");
        let page = browser.send(forged).await;
        assert_eq!(page.json()["token"], token, "{name}");
    }
    // Without the gateway, no assertion field proves anything.
    for (forged, error) in [
        ("", "DecodeError"),
        ("evil", "DecodeError"),
        // The algorithm `none`, and a key that the gateway does not publish.
        (
            "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.",
            "PyJWKClientError",
        ),
        (
            "eyJhbGciOiJFUzI1NiIsImtpZCI6Im90aGVyIn0.eyJzdWIiOiJhbGljZSJ9.AAAA",
            "PyJWKClientError",
        ),
    ] {
        let answer = signed.directly("GET /page", forged).await;
        assert_eq!(answer.status(), 403, "{forged}");
        assert!(answer.text().contains(error), "{forged}: {}", answer.text());
    }
}

#[tokio::test]
async fn h_44_an_assertion_is_valid_for_one_app_and_one_method_only() {
    let signed = Signed::start().await;
    let browser = signed.signed_in().await;
    let page = browser.fetch(&url("/page")).await;
    let token = page.json()["token"].as_str().unwrap().to_owned();
    let answer = signed.directly("GET /page", &token).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    browser.fetch(&url("/other")).await;
    let other = signed.token().unwrap();
    let (signed_part, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let changed = format!("{signed_part}.{first}{}", &signature[1..]);
    for (start, token, error) in [
        ("POST /page", &token, "InvalidTokenError"),
        ("GET /page", &other, "InvalidAudienceError"),
        ("GET /page", &changed, "InvalidSignatureError"),
    ] {
        let answer = signed.directly(start, token).await;
        assert_eq!(answer.status(), 403, "{start}: {}", answer.text());
        assert!(answer.text().contains(error), "{}", answer.text());
    }
}

#[tokio::test]
async fn h_44_an_assertion_names_the_public_host_and_not_the_host_of_the_app() {
    let signed = Signed::with("preserve_host = false").await;
    let browser = signed.signed_in().await;
    let page = browser.fetch(&url("/page")).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    assert_eq!(page.json()["host"], signed.app.address());
    assert_eq!(page.json()["claims"]["host"], "localhost");
    // The app accepts no assertion for another public host.
    let code = std::fs::read_to_string(signed.app.path("verifier.py")).unwrap();
    let other = Signed::start().await;
    let code = code.replace("[\"localhost\"]", "[\"other.test\"]");
    std::fs::write(other.app.path("verifier.py"), code).unwrap();
    let token = page.json()["token"].as_str().unwrap().to_owned();
    let answer = other.directly("GET /page", &token).await;
    assert_eq!(answer.status(), 403, "{}", answer.text());
    assert!(
        answer.text().contains("another request"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn an_assertion_is_sent_again_for_half_of_its_lifetime() {
    let signed = Signed::start().await;
    let browser = signed.signed_in().await;
    let mut tokens = Vec::new();
    for seconds in [0, 29, 2] {
        signed.gateway.advance(Duration::from_secs(seconds));
        browser.fetch(&url("/other")).await;
        tokens.push(signed.token().unwrap());
    }
    assert_eq!(tokens[0], tokens[1]);
    assert_ne!(tokens[1], tokens[2]);
    browser.fetch(&url("/public")).await;
    assert!(signed.token().is_some());
    // Without a session, a public route has no assertion, and the field of a client is removed.
    let cookie = browser.cookie(ORIGIN, SESSION).unwrap();
    for (lines, has_token) in [
        ("X-Sidegate-Assertion: evil\r\n".to_owned(), false),
        (format!("Cookie: {SESSION}={cookie}\r\n"), true),
    ] {
        let request = format!("GET /public HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
        let outcome = exchange(signed.gateway.address(), request.as_bytes(), 1).await;
        assert_eq!(outcome.statuses(), [200]);
        assert_eq!(signed.token().is_some(), has_token, "{lines}");
    }
}

#[tokio::test]
async fn a_key_is_replaced_while_the_app_verifies_every_assertion() {
    let mut signed = Signed::start().await;
    let browser = signed.signed_in_at("/other").await;
    let answer = signed.keys().await;
    assert_eq!(answer.status(), 200);
    for (name, value) in [
        ("content-type", "application/jwk-set+json"),
        ("cache-control", "public, max-age=300"),
    ] {
        assert_eq!(answer.head.value(name).as_deref(), Some(value));
    }
    assert!(!answer.text().contains("\"d\""), "{}", answer.text());
    // The new key is first published and later signs, as the documentation says. The app reads the
    // keys only one time.
    let next = signed.gateway.settings().file("next.pem", &new_key());
    let mut text = signed.gateway.settings().text();
    let start = text.find("key_files = [").unwrap();
    let end = start + text[start..].find(']').unwrap();
    text.insert_str(end, &format!(", \"{next}\""));
    signed.gateway.reload(&text).await.unwrap();
    let page = browser.fetch(&url("/page")).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    let old = page.json()["token"].as_str().unwrap().to_owned();
    let (first, _) = text[start..].split_once(", ").unwrap();
    let first = first.strip_prefix("key_files = [").unwrap();
    let exchanged = format!("key_files = [\"{next}\", {first}]");
    let text = [&text[..start], &exchanged].concat();
    signed.gateway.reload(&text).await.unwrap();
    let keys: Value = serde_json::from_str(&signed.keys().await.text()).unwrap();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2);
    let page = browser.fetch(&url("/page")).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    assert_ne!(page.json()["token"], old);
    // An assertion of the old key stays valid.
    let answer = signed.directly("GET /page", &old).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    // Without signed assertions, there are no keys.
    let text = text.replace("signed = {", "# signed = {");
    let (text, _) = text.split_once("[signing]").unwrap();
    signed.gateway.reload(text).await.unwrap();
    assert_eq!(signed.keys().await.status(), 404);
    let page = browser.fetch(&url("/page")).await;
    assert_eq!(page.status, 403, "{}", page.describe());
}
