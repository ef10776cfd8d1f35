//! The parts of the request path, one by one: `cargo bench --bench parts`.
//!
//! Compare only runs on one machine, and compare ratios instead of absolute values.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a benchmark must fail if it measures a failure"
)]

use std::fs;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use divan::Bencher;
use http::{HeaderMap, HeaderValue, Request};
use sidegate::clock::{Clock, Timestamp};
use sidegate::config::{Config, Reusable, Source};
use sidegate::fields::{self, OwnedFields, cookie as cookies};
use sidegate::identity::{Claim, Identity};
use sidegate::login::{
    self, Callback, Completion, Login, PreviousSession, PublicUrl, ReturnTo, Start,
};
use sidegate::provider::{Grant, Provider, QueueClient, QueuedCode, Redemption, ResponseMode};
use sidegate::seal::{Keys, Purpose};
use sidegate::secret::Secret;
use sidegate::session::{
    Lookup, NewSession, Registrations, SessionId, Sessions, Settings, StoreSettings, cookie,
};
use sidegate::target::Target;
use sidegate::telemetry::Metrics;
use sidegate::token::{Lifetime, TokenSet};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

fn main() {
    divan::main();
}

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A store with this many sessions, and the ids of all of them.
fn store(sessions: u32) -> (Sessions, Vec<SessionId>) {
    let settings = Settings {
        idle: Duration::from_hours(8),
        absolute: Duration::from_hours(24),
        capacity: 4 << 30,
        per_person: 10,
        of_providers: std::collections::BTreeMap::new(),
        refresh_wait: Duration::from_secs(10),
        store: StoreSettings::Memory,
    };
    let keys = Keys::random().and_then(|keys| keys.ring(Purpose::Sessions));
    let store = Sessions::start(
        settings,
        keys.expect("random bytes"),
        &Registrations::from([("bench".into(), [0; 32])]),
        &Clock::manual(NOW),
    );
    let store = store.expect("a thread");
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime");
    let token = "a".repeat(1000);
    let ids = (0..sessions)
        .map(|number| {
            let subject = Claim::new(&number.to_string());
            let identity = Identity {
                subject,
                ..Identity::nameless("bench")
            };
            let tokens = TokenSet::new(&token, Some(&token), Lifetime::default()).expect("a token");
            let new = NewSession {
                provider: "bench",
                registration: [0; 32],
                identity,
                tokens,
                replaces: Vec::new(),
                sid: None,
                device: None,
                begun_at: NOW,
            };
            let opened = runtime.block_on(store.open(new, NOW));
            opened.expect("random bytes")
        })
        .collect();
    let maintained = runtime.block_on(store.maintain(NOW));
    maintained.expect("it is in memory");
    (store, ids)
}

/// The same session every time.
#[divan::bench]
fn session_look_up_hot(bencher: Bencher<'_, '_>) {
    let (store, ids) = store(1000);
    let id = ids.first().expect("a session");
    bencher.bench(|| match store.find(black_box(id), NOW) {
        Lookup::Live(session) => session,
        other => panic!("{other:?}"),
    });
}

/// The cost of a valid token for a request: checking whether the session's tokens need attention.
#[divan::bench]
fn refresh_check(bencher: Bencher<'_, '_>) {
    let (store, ids) = store(1);
    let session = match store.find(ids.first().expect("a session"), NOW) {
        Lookup::Live(session) => session,
        other => panic!("{other:?}"),
    };
    bencher.bench(|| black_box(&session).is_due(black_box(NOW)));
}

/// Another session every time.
#[divan::bench(args = [10_000, 100_000])]
fn session_look_up_cold(bencher: Bencher<'_, '_>, sessions: u32) {
    let (store, ids) = store(sessions);
    // The step has no common factor with the count, so it visits all sessions, in distant places.
    let mut places = (0..ids.len()).cycle().step_by(7919);
    bencher.bench_local(|| {
        let place = places.next().expect("it cycles");
        match store.find(black_box(&ids[place]), NOW) {
            Lookup::Live(session) => session,
            other => panic!("{other:?}"),
        }
    });
}

/// The fields of a browser's request, with a session cookie among others.
fn browser_fields() -> HeaderMap {
    let session = "A".repeat(48);
    let cookie = format!("theme=dark; lang=en; __Host-sidegate={session}; _ga=GA1.1.1234.5678");
    [
        ("host", "app.example.com"),
        (
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/156.0 Safari",
        ),
        (
            "accept",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        ),
        ("accept-language", "en-GB,en;q=0.7,de;q=0.3"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("referer", "https://app.example.com/list?page=2"),
        ("connection", "keep-alive"),
        ("cookie", &cookie),
        ("sec-fetch-mode", "navigate"),
    ]
    .into_iter()
    .map(|(name, value)| {
        let name: http::HeaderName = name.parse().expect("a name");
        (name, HeaderValue::from_str(value).expect("a value"))
    })
    .collect()
}

#[divan::bench]
fn cookie_found(bencher: Bencher<'_, '_>) {
    let fields = browser_fields();
    bencher.bench(|| {
        let found = cookies::find(black_box(&fields), cookie::SESSION.as_bytes());
        assert!(matches!(found, cookies::Found::One(_)));
    });
}

#[divan::bench]
fn cookie_removed(bencher: Bencher<'_, '_>) {
    bencher
        .with_inputs(browser_fields)
        .bench_local_refs(|fields| cookies::others(fields, cookie::is_own));
}

#[divan::bench(args = ["/a/plain/path?x=1", "/a/%7euser/%c3%bc?x=1"])]
fn target_made_canonical(bencher: Bencher<'_, '_>, target: &str) {
    let request = Request::builder()
        .uri(target)
        .header("host", "app.example.com");
    let parts = request.body(()).expect("a request").into_parts().0;
    bencher.bench(|| Target::from_request(black_box(&parts)).expect("a good target"));
}

#[divan::bench]
fn fields_cleaned(bencher: Bencher<'_, '_>) {
    let names = ["x-forwarded-user", "x-forwarded-email"].map(http::HeaderName::from_static);
    let owned = OwnedFields::new(&names);
    bencher
        .with_inputs(browser_fields)
        .bench_local_values(|mut fields| {
            fields::inbound(&mut fields, &owned, false);
            fields
        });
}

fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime")
}

const PUBLIC_URL: &str = "https://app.example.com";

/// The configuration of a gateway with a provider on `port`, with `more` keys of the provider.
fn config(port: u16, more: &str, folder: &tempfile::TempDir) -> Config {
    let folder = folder.path();
    fs::write(folder.join("secret"), "never-shown").expect("a written file");
    let settings = format!(
        "public_url = \"{PUBLIC_URL}\"\n\
         [providers.main]\n\
         profile = \"oauth2\"\n\
         url = \"http://127.0.0.1:{port}\"\n\
         authorization_endpoint = \"/authorize\"\n\
         token_endpoint = \"/token\"\n\
         token_calls_per_minute = 100000000\n\
         client_id = \"bench\"\n\
         client_secret_file = \"{secret}\"\n\
         {more}\n\
         [upstreams.app]\n\
         url = \"http://127.0.0.1:1\"\n",
        secret = folder.join("secret").display(),
    );
    let path = folder.join("sidegate.toml");
    fs::write(&path, settings).expect("a written file");
    let clock = Clock::system();
    Config::load(&Source::file(path), &Reusable::default(), &clock).expect("good settings")
}

/// The code flow, and the origin of the requests.
fn login(runtime: &Runtime) -> (Arc<Login>, PublicUrl) {
    let folder = tempfile::tempdir().expect("a folder");
    // A user is only sent to a provider that is reachable.
    let port = token_endpoint(runtime, "opaque").port();
    let config = config(port, "", &folder);
    let (sessions, _ids) = store(0);
    let process = login::ProcessState::new(
        Arc::new(sessions),
        Arc::new(Metrics::default()),
        Clock::system(),
        runtime.handle().clone(),
    );
    let (settings, keys) = config.site.login;
    let login = Login::new(settings, keys, config.site.providers, Arc::new(process));
    let public_url = PublicUrl::try_from(PUBLIC_URL.to_owned()).expect("an origin");
    (Arc::new(login), public_url)
}

/// Sends a browser to the provider. Returns the URL.
fn sent_out(runtime: &Runtime, login: &Login, public_url: &PublicUrl) -> String {
    let headers = HeaderMap::new();
    let start = Start::new("main", ReturnTo::root(), (public_url, &headers));
    let started = runtime.block_on(login.begin(start));
    started.expect("a login").location
}

/// Builds the URL of the authorization endpoint with the sealed pending login.
#[divan::bench]
fn pending_login_sealed(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let (login, public_url) = login(&runtime);
    bencher.bench_local(|| sent_out(&runtime, &login, &public_url));
}

/// Opens the pending login of an answer, which is then refused because it comes from another
/// browser.
#[divan::bench]
fn pending_login_opened(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let (login, public_url) = login(&runtime);
    let location = sent_out(&runtime, &login, &public_url);
    let (_address, state) = location.split_once("state=").expect("a state");
    let state = state.split('&').next().expect("a state");
    let parameters = format!("code=any&state={state}");
    bencher.bench_local(|| {
        let completion = runtime.block_on(login.complete(Callback {
            parameters: black_box(parameters.as_bytes()),
            mode: ResponseMode::Query,
            headers: &HeaderMap::new(),
            public_url: &public_url,
            provider: "main",
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            previous_session: PreviousSession::Nothing,
        }));
        assert!(matches!(completion, Completion::Failed(_)));
    });
}

/// A key as a PEM file (RFC 7468).
fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).expect("ASCII"))
        .collect();
    let lines = lines.join("\n");
    format!("-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----\n")
}

/// An access token with these claims, signed as RS256.
fn signed(key: &KeyPair, claims: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"at+jwt","alg":"RS256"}"#);
    let token = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let mut signature = vec![0; key.public_modulus_len()];
    let random = SystemRandom::new();
    key.sign(&RSA_PKCS1_SHA256, &random, token.as_bytes(), &mut signature)
        .expect("a signature");
    format!("{token}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A token endpoint that always gives the same answer.
fn token_endpoint(runtime: &Runtime, access_token: &str) -> SocketAddr {
    let body =
        format!(r#"{{"token_type":"Bearer","expires_in":3600,"access_token":"{access_token}"}}"#);
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
    let listener = listener.expect("a listener");
    let address = listener.local_addr().expect("an address");
    runtime.spawn(async move {
        while let Ok((mut stream, _peer)) = listener.accept().await {
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_ok() {
                stream
                    .write_all(answer.as_bytes())
                    .await
                    .unwrap_or_default();
            }
        }
    });
    address
}

fn redeem(runtime: &Runtime, provider: &Provider) -> Grant {
    let clock = Clock::system();
    let code = QueuedCode {
        client: QueueClient::Network([127, 0, 0, 1].into()),
        state: [0; 32],
        returns: false,
    };
    let replicas = std::num::NonZeroU32::MIN;
    let turn = runtime.block_on(provider.code_turn(code, replicas, &clock));
    let redemption = Redemption {
        code: Secret::new("any".to_owned()),
        code_verifier: Secret::new("v".repeat(43)),
        nonce: "nonce",
        redirect_uri: "https://app.example.com/oauth2/callback",
        begun_at: clock.now(),
        max_age: None,
        replicas,
        turn: turn.expect("a turn"),
    };
    let grant = runtime.block_on(provider.redeem(redemption, &clock));
    grant.expect("a grant")
}

/// Exchanges a code for a token over a new connection. An opaque token is not checked and a signed
/// one is, so the difference is the cost of the check.
#[divan::bench(args = ["opaque", "signed"])]
fn token_redeemed(bencher: Bencher<'_, '_>, kind: &str) {
    let runtime = runtime();
    let folder = tempfile::tempdir().expect("a folder");
    let key = KeyPair::generate(KeySize::Rsa2048).expect("a key");
    let public: PublicKeyX509Der<'_> = key.public_key().as_der().expect("a public key");
    let file = folder.path().join("key.pem");
    fs::write(&file, pem(public.as_ref())).expect("a written file");
    let expires = Clock::system().now().as_secs().saturating_add(3600);
    let claims = format!(r#"{{"aud":"bench","sub":"17","exp":{expires},"scope":"read write"}}"#);
    let address = token_endpoint(&runtime, &signed(&key, &claims));
    let more = match kind {
        "signed" => format!("access_token.public_key_files = [\"{}\"]", file.display()),
        _ => String::new(),
    };
    let config = config(address.port(), &more, &folder);
    let provider = config.site.providers.get("main").expect("the provider");
    bencher.bench_local(|| redeem(&runtime, provider));
}
