//! The command `sidegate check --online`: the problems that the command finds at providers and apps
//! over the network.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use sidegate::clock::Clock;
use sidegate::tls::development_certificates;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;

use crate::support::certificates::Authority;
use crate::support::gateway::{PROGRAM, Settings};
use crate::support::grpc::GrpcApp;
use crate::support::http_proxy::HttpProxy;
use crate::support::openid;
use crate::support::provider::{Endpoint, StandIn};
use crate::support::upstream::{Answer, RecordingUpstream};

/// The lines of a check, and its exit code.
struct Checked {
    lines: Vec<String>,
    code: Option<i32>,
}

impl Checked {
    /// Fails unless exactly one line begins with `start`, and contains `text`.
    fn assert(&self, start: &str, text: &str) {
        let found: Vec<&String> = self
            .lines
            .iter()
            .filter(|line| line.starts_with(start))
            .collect();
        let [line] = found[..] else {
            panic!("{start}: {:#?}", self.lines);
        };
        assert!(line.contains(text), "{text}: {line}");
    }

    fn assert_code(&self, code: i32) {
        assert_eq!(self.code, Some(code), "{:#?}", self.lines);
        let good = self
            .lines
            .iter()
            .any(|line| line.ends_with("the settings are good"));
        assert_eq!(good, code == 0, "{:#?}", self.lines);
    }
}

/// Runs the check. The addresses of the provider and the app are replaced by `PROVIDER` and `APP`.
async fn check(settings: &Settings, provider: &str, app: &str) -> Checked {
    let path = settings.write();
    let mut program = Command::new(PROGRAM);
    program
        .arg("check")
        .arg("--online")
        .arg("--config")
        .arg(path);
    let output = program.output().await.unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let place = |url: &str| url.split_once("://").unwrap().1.to_owned();
    let text = text
        .replace(&place(provider), "PROVIDER")
        .replace(&place(app), "APP");
    Checked {
        lines: text.lines().map(str::to_owned).collect(),
        code: output.status.code(),
    }
}

/// The check of a provider that was changed by `prepare`, with further keys of the provider.
async fn check_provider(keys: &[(&str, &str)], prepare: impl FnOnce(&StandIn)) -> Checked {
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    prepare(&provider);
    let settings = openid::settings(&provider.url(), &app.url(), keys);
    let checked = check(&settings, &provider.url(), &app.url()).await;
    assert_eq!(provider.calls(Endpoint::Token), 0);
    checked
}

/// The check of an app at `url`, with further keys of the app.
async fn check_app(url: &str, keys: &str) -> Checked {
    let provider = StandIn::start().await;
    let settings = openid::settings(&provider.url(), url, &[]).app(keys);
    check(&settings, &provider.url(), url).await
}

#[tokio::test]
async fn each_thing_that_works_is_one_line() {
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    provider.metadata(|metadata| {
        metadata["token_endpoint_auth_methods_supported"] = json!(["client_secret_basic"]);
        metadata["grant_types_supported"] = json!(["authorization_code", "refresh_token"]);
        metadata["end_session_endpoint"] = json!("https://id.example/logout");
    });
    let settings = openid::settings(&provider.url(), &app.url(), &[]);
    let checked = check(&settings, &provider.url(), &app.url()).await;
    checked.assert_code(0);
    let metadata = "http://PROVIDER/.well-known/openid-configuration";
    let expected = [
        "ok providers.main.issuer: PROVIDER accepts connections".to_owned(),
        format!(
            "ok providers.main.issuer: the metadata at {metadata} names the issuer http://PROVIDER"
        ),
        "ok providers.main.jwks_uri: the keys at http://PROVIDER/jwks can be used".to_owned(),
        "ok providers.main.client_authentication: the provider offers client_secret_basic"
            .to_owned(),
        "ok providers.main.scopes: the provider offers refresh tokens".to_owned(),
        "ok providers.main.end_session_endpoint: the provider has the endpoint \
         \"https://id.example/logout\""
            .to_owned(),
        "ok providers.main.revocation_endpoint: the metadata has no usable `revocation_endpoint`, \
         so a sign-out does not revoke the refresh token"
            .to_owned(),
        "ok upstreams.app.url: APP accepts connections".to_owned(),
        "ok upstreams.app.url: the app answers GET / with status 200".to_owned(),
    ];
    let found: Vec<&String> = checked
        .lines
        .iter()
        .filter(|line| line.starts_with("ok "))
        .collect();
    assert_eq!(found, expected.iter().collect::<Vec<_>>());
    assert_eq!(provider.calls(Endpoint::Token), 0);
    assert_eq!(app.last().head.value("host").as_deref(), Some("localhost"));
}

#[tokio::test]
async fn a_provider_and_an_app_that_are_down_are_problems_of_their_urls() {
    let (mut provider, mut app) = (StandIn::start().await, RecordingUpstream::start().await);
    let settings = openid::settings(&provider.url(), &app.url(), &[]);
    let urls = (provider.url(), app.url());
    provider.down().await;
    app.stop().await;
    let checked = check(&settings, &urls.0, &urls.1).await;
    checked.assert_code(78);
    checked.assert(
        "problem providers.main.issuer: ",
        "PROVIDER accepts no connection: Connection refused",
    );
    checked.assert(
        "problem upstreams.app.url: ",
        "APP accepts no connection: Connection refused",
    );
    checked.assert("sidegate: ", "2 problems were found online");
}

#[tokio::test]
async fn wrong_answers_of_a_provider_are_problems_of_the_setting_that_helps() {
    let checked = check_provider(&[], |provider| {
        provider.metadata(|metadata| metadata["issuer"] = json!("https://other.example"));
    })
    .await;
    checked.assert_code(78);
    let issuer = "names the issuer \"https://other.example\", but";
    checked.assert("problem providers.main.issuer: ", issuer);
    let checked = check_provider(&[], |provider| {
        provider.raw(Endpoint::Metadata, 200, "text/html", "<h1>Welcome</h1>");
    })
    .await;
    checked.assert("problem providers.main.issuer: ", "<h1>Welcome</h1>");
    let checked = check_provider(&[], |provider| {
        provider.raw(Endpoint::Jwks, 404, "text/plain", "");
    })
    .await;
    checked.assert_code(78);
    checked.assert("problem providers.main.jwks_uri: ", "with status 404");
}

#[tokio::test]
async fn what_a_provider_does_not_offer_is_a_warning() {
    let checked = check_provider(&[], |provider| {
        provider.metadata(|metadata| {
            metadata["token_endpoint_auth_methods_supported"] = json!(["private_key_jwt"]);
            metadata["grant_types_supported"] = json!(["authorization_code"]);
        });
    })
    .await;
    checked.assert_code(0);
    checked.assert(
        "warning providers.main.client_authentication: ",
        "Sidegate uses client_secret_basic, but the provider offers only private_key_jwt",
    );
    checked.assert(
        "warning providers.main.scopes: ",
        "does not offer refresh tokens",
    );
    let automatic = [("client_authentication", "\"auto\"")];
    let checked = check_provider(&automatic, |provider| {
        provider.metadata(|metadata| {
            metadata["token_endpoint_auth_methods_supported"] = json!(["private_key_jwt"]);
        });
    })
    .await;
    checked.assert_code(78);
    checked.assert(
        "problem providers.main.client_authentication: ",
        "lists no method",
    );
}

#[tokio::test]
async fn the_answer_of_an_app_is_one_line() {
    for (status, line, code) in [
        (
            302,
            "ok upstreams.app.url: the app answers GET / with status 302",
            0,
        ),
        (
            404,
            "ok upstreams.app.url: the app answers GET / with status 404",
            0,
        ),
        (
            503,
            "warning upstreams.app.url: the app answers GET / with status 503",
            0,
        ),
        (
            400,
            "warning upstreams.app.preserve_host: the app answers GET / with status 400; perhaps \
             the app does not accept the host localhost",
            0,
        ),
    ] {
        let app = RecordingUpstream::start().await;
        app.answer_by(move |_request| Answer::with(status, &[], ""));
        let checked = check_app(&app.url(), "").await;
        checked.assert_code(code);
        checked.assert(line, line);
    }
    let app = RecordingUpstream::start().await;
    let checked = check_app(&app.url(), "protocol = \"http2\"").await;
    checked.assert_code(78);
    checked.assert("problem upstreams.app.protocol: ", "does not speak HTTP/2");
    let checked = check_app("http://name.invalid:80", "").await;
    checked.assert_code(78);
    checked.assert("problem upstreams.app.url: ", "");
}

/// An app with TLS whose certificate expires after `left`, or has already expired.
async fn app_with_certificate(authority: &Authority, name: &str, left: Option<Duration>) -> u16 {
    let folder = tempfile::tempdir().unwrap();
    let files = authority.issue_until(folder.path(), &[name], left);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&files.certificate).unwrap()],
            PrivateKeyDer::from_pem_file(&files.key).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            tokio::spawn(async move {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                if stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {
                    stream.write_all(answer).await.unwrap();
                }
                stream.shutdown().await.unwrap_or_default();
            });
        }
    });
    port
}

#[tokio::test]
async fn the_certificate_of_an_app_is_one_line() {
    // The time is one hour less than a whole number of days, because a whole number of days could
    // be rounded up or down.
    let days = |days: u64| Some(Duration::from_hours(days * 24 - 1));
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, authority.pem()).unwrap();
    let trusted = format!("ca_file = \"{}\"", ca_file.display());
    for (name, left, start, text, code) in [
        (
            "localhost",
            days(90),
            "ok upstreams.app.url: the certificate",
            "of localhost is trusted, and is valid for at least 14 days",
            0,
        ),
        (
            "localhost",
            days(7),
            "warning upstreams.app.url: ",
            "the certificate of localhost expires within 7 days; renew it",
            0,
        ),
        (
            "localhost",
            None,
            "problem upstreams.app.url: ",
            "the certificate of localhost has expired; renew it",
            78,
        ),
        (
            "app.example",
            days(90),
            "problem upstreams.app.url: ",
            "the certificate is not for the name localhost",
            78,
        ),
    ] {
        let port = app_with_certificate(&authority, name, left).await;
        let checked = check_app(&format!("https://localhost:{port}"), &trusted).await;
        checked.assert_code(code);
        checked.assert(start, text);
    }
    // An authority with the same name but another key, and an authority with another name.
    let again = folder.path().join("again.pem");
    std::fs::write(&again, Authority::new().pem()).unwrap();
    let now = Clock::system().now();
    let other = development_certificates(&folder.path().join("other"), &[], now).unwrap();
    for ca_file in [again, other.authority] {
        let trusted = format!("ca_file = \"{}\"", ca_file.display());
        let port = app_with_certificate(&authority, "localhost", days(90)).await;
        let checked = check_app(&format!("https://localhost:{port}"), &trusted).await;
        checked.assert_code(78);
        checked.assert("problem upstreams.app.ca_file: ", "is not trusted");
    }
}

#[tokio::test]
async fn an_app_that_speaks_http_2_is_asked_over_http_2() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, authority.pem()).unwrap();
    let keys = format!("protocol = \"http2\"\nca_file = \"{}\"", ca_file.display());
    let app = GrpcApp::over_tls(&authority, &["h2"]).await;
    let checked = check_app(&app.tls_url(), &keys).await;
    checked.assert_code(0);
    checked.assert(
        "ok upstreams.app.protocol: ",
        "the app chose HTTP/2 by ALPN",
    );
    checked.assert(
        "ok upstreams.app.url: the app answers",
        "GET / with status 200",
    );
    let app = GrpcApp::over_tls(&authority, &["http/1.1"]).await;
    let checked = check_app(&app.tls_url(), &keys).await;
    checked.assert_code(78);
    checked.assert("problem upstreams.app.protocol: ", "does not speak HTTP/2");
}

#[tokio::test]
async fn silence_is_a_problem_after_five_seconds_for_all_together() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let settings = openid::settings(&url, &url, &[]);
    let clock = Clock::system();
    let began = clock.now();
    let checked = check(&settings, &url, "http://nothing").await;
    let took = clock.now().since(began);
    assert!(took < Duration::from_secs(9), "{took:?}");
    checked.assert_code(78);
    checked.assert(
        "problem providers.main.issuer: ",
        "the answer with the metadata at http://PROVIDER/.well-known/openid-configuration took \
         longer than 5 s",
    );
    checked.assert(
        "problem upstreams.app.url: ",
        "the answer to GET / took longer than 5 s",
    );
}

#[tokio::test]
async fn without_the_flag_nothing_is_asked() {
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    let settings = openid::settings(&provider.url(), &app.url(), &[]);
    let mut program = Command::new(PROGRAM);
    program.arg("check").arg("--config").arg(settings.write());
    let output = program.output().await.unwrap();
    assert!(output.status.success());
    assert_eq!(provider.calls(Endpoint::Metadata), 0);
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn a_name_that_only_the_proxy_knows_is_not_reported_as_found() {
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    let proxy = HttpProxy::start(provider.address(), None).await;
    let (address, at) = (
        format!("\"{}\"", proxy.url()),
        "\"http://id.invalid/token\"",
    );
    let keys = [
        ("proxy", &*address),
        ("token_endpoint", at),
        ("plain_http", "true"),
    ];
    let settings = openid::settings(&provider.url(), &app.url(), &keys);
    let checked = check(&settings, &provider.url(), &app.url()).await;
    checked.assert_code(0);
    // Only the proxy was asked, and not the host of the token endpoint.
    let wrong = |line: &String| line.contains("id.invalid");
    assert!(!checked.lines.iter().any(wrong), "{:#?}", checked.lines);
    checked.assert("ok providers.main.token_endpoint: ", "the proxy ");
}

#[tokio::test]
async fn a_list_of_groups_that_is_down_is_a_problem_of_its_url() {
    let mut api = RecordingUpstream::start().await;
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    let lists = format!(
        "[{{ endpoint = \"{}/groups\", name = [\"name\"] }}]",
        api.url()
    );
    let keys = [
        ("identity.source", "\"userinfo\""),
        ("identity.groups_endpoints", &*lists),
    ];
    let settings = openid::settings(&provider.url(), &app.url(), &keys);
    api.stop().await;
    let checked = check(&settings, &provider.url(), &app.url()).await;
    checked.assert_code(78);
    checked.assert(
        "problem providers.main.identity.groups_endpoints: ",
        "accepts no connection",
    );
}
