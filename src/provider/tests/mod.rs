//! Helpers for the tests of this module: settings from text, signed tokens, and a server that sends
//! given responses and records the requests.

mod access_token;
mod claims;
mod client_auth;
mod discovery;
mod error_patterns;
mod id_token;
mod internal_url;
mod keys;
mod metadata;
mod profiles;
mod redeeming;
mod refreshing;
mod requests;
mod set_up;
mod signatures;
mod signing;
mod token_responses;
mod userinfo;
mod variables;

use std::fmt::Write as _;
use std::fs;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaEncoding};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use figment::Figment;
use figment::providers::{Format as _, Toml};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use url::Url;

use super::access_token::AccessTokenVerifier;
use super::authorization::AuthorizationEndpoint;
use super::client_auth::ClientAuth;
use super::endpoint::{Endpoint, endpoint};
use super::settings::{IdentitySource, UserinfoBearer};
use super::token::{CodeGrant, TokenResponse};
use super::userinfo::Userinfo;
use super::*;
use crate::fields::ClientNetworks;
use crate::identity::Identity;
use crate::origin::Proxies;
use crate::secret::Secret;
use crate::token::{Lifetime, TokenSet};

/// A time that is a few seconds after the example token was issued.
const NOW: Timestamp = Timestamp::from_millis(1_689_713_300_000);

/// The keys of the provider and of another provider.
static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate(KeySize::Rsa2048).unwrap());
static OTHER_KEY: LazyLock<KeyPair> =
    LazyLock::new(|| KeyPair::generate(KeySize::Rsa2048).unwrap());

/// Reads settings from a profile. `text` overrides the profile, like the operator's file.
fn settings(profile: &str, text: &str) -> Settings {
    let profile = profile::find(profile).expect("a profile");
    let merged = Figment::from(Toml::string(profile)).merge(Toml::string(text));
    merged.extract().unwrap()
}

/// A folder with the files that settings name.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("secret", "i0p6Sah1joLy8P1gwkP6ldBQiQZKbcewi9nPEUMp\n");
        files.write("public.pem", &public_pem(&KEY));
        files
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Returns a TOML text with the keys in `further` and the operator's settings for the Passport
    /// profiles.
    fn operator(&self, url: &str, further: &str) -> String {
        let folder = self.0.path().display();
        format!(
            "{further}\nurl = \"{url}\"\nclient_id = \"99adb0aa-17fc-4578-8226-e45e4d3e9156\"\n\
             client_secret_file = \"{folder}/secret\"\n\
             access_token.public_key_files = [\"{folder}/public.pem\"]\n"
        )
    }

    fn provider(&self, profile: &str, url: &str, further: &str) -> Provider {
        let settings = settings(profile, &self.operator(url, further));
        Provider::new("op", &settings, &Environment::default()).unwrap()
    }
}

/// Prepares an endpoint without TLS and without a proxy.
fn plain_endpoint(key: &'static str, url: &Url) -> Endpoint {
    let call_settings = CallSettings {
        trust: None,
        proxies: Proxies::Fixed(None),
        deadline: Duration::from_secs(5),
    };
    Endpoint::new(key, url, &call_settings).unwrap()
}

fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in STANDARD.encode(der).as_bytes().chunks(64) {
        writeln!(text, "{}", str::from_utf8(line).unwrap()).unwrap();
    }
    text + &format!("-----END {label}-----\n")
}

fn public_pem(key: &KeyPair) -> String {
    let der: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    pem("PUBLIC KEY", der.as_ref())
}

/// Returns a compact JWS whose parts are exactly the given bytes.
fn signed_by(key: &KeyPair, how: &'static dyn RsaEncoding, header: &str, payload: &[u8]) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let message = format!("{}.{}", encode(header.as_bytes()), encode(payload));
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(
        how,
        &SystemRandom::new(),
        message.as_bytes(),
        &mut signature,
    )
    .unwrap();
    format!("{message}.{}", encode(&signature))
}

const HEADER: &str = r#"{"typ":"JWT","alg":"RS256"}"#;

fn signed(payload: &str) -> String {
    signed_by(&KEY, &RSA_PKCS1_SHA256, HEADER, payload.as_bytes())
}

fn data(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/passport/");
    fs::read_to_string(format!("{folder}{name}")).unwrap()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

/// Returns the payload of the example token.
fn reference_payload() -> serde_json::Value {
    json(&data("reference-request.json"))["access_token"]["payload"].take()
}

/// A received request.
#[derive(Debug)]
struct Received {
    head: String,
    body: String,
}

impl Received {
    fn line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    /// Returns the values of a field.
    fn field(&self, name: &str) -> Vec<&str> {
        let fields = self
            .head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "));
        let named = fields.filter(|(field, _value)| field.eq_ignore_ascii_case(name));
        named.map(|(_name, value)| value).collect()
    }
}

/// A server on the loopback interface. The server sends one response on each connection, in the
/// given order. After the last response, the server sends nothing. The server stops when its
/// runtime stops.
struct Server {
    url: String,
    received: mpsc::UnboundedReceiver<Received>,
}

impl Server {
    async fn start(answers: impl IntoIterator<Item = String>) -> Self {
        Self::start_by(|_url| answers.into_iter().collect()).await
    }

    /// Starts a server. The responses contain the URL of the server.
    async fn start_by(answers: impl FnOnce(&str) -> Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers = answers(&url);
        let (sender, received) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut answers = answers.into_iter();
            while let Ok((mut stream, _peer)) = listener.accept().await {
                let Some(request) = receive(&mut stream).await else {
                    continue;
                };
                sender.send(request).unwrap();
                if let Some(answer) = answers.next() {
                    // The client may close the connection before the end of the response.
                    drop(stream.write_all(answer.as_bytes()).await);
                }
            }
        });
        Self { url, received }
    }

    fn next(&mut self) -> Received {
        self.received.try_recv().expect("a request")
    }

    fn has_no_more(&mut self) -> bool {
        self.received.try_recv().is_err()
    }
}

/// Reads one request. Returns `None` if the connection ended before the request was complete.
async fn receive(stream: &mut tokio::net::TcpStream) -> Option<Received> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let (head, body) = (head.to_owned(), body.to_owned());
            let request = Received { head, body };
            let length = request
                .field("content-length")
                .first()
                .map_or("0", |text| text)
                .to_owned();
            if request.body.len() >= length.parse().unwrap() {
                return Some(request);
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

fn answer(status: &str, media_type: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Returns a token response whose access token contains the given claims.
fn tokens(payload: &serde_json::Value) -> String {
    let token = signed(&payload.to_string());
    let body = serde_json::json!({
        "token_type": "Bearer",
        "expires_in": 63_158_400,
        "access_token": token,
        "refresh_token": "def50200cdd739b4",
    });
    answer(
        "200 OK",
        "application/json; charset=UTF-8",
        &body.to_string(),
    )
}

async fn redeem(provider: &Provider) -> Result<Grant, ExchangeError> {
    redeem_at(provider, &Clock::manual(NOW)).await
}

const CODE: &str = "def502006e76f9bf8381103e3a8abeed57d2adb4bf664a93";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const REDIRECT_URI: &str = "https://app.example/oauth2/callback";

async fn redeem_at(provider: &Provider, clock: &Clock) -> Result<Grant, ExchangeError> {
    let code = Secret::new(CODE.to_owned());
    let verifier = Secret::new(VERIFIER.to_owned());
    let client = QueueClient::Network(ClientNetworks::default().of([203, 0, 113, 9].into()));
    let queued = QueuedCode {
        client,
        state: [0; 32],
        returns: false,
    };
    let turn = provider.code_turn(queued, NonZeroU32::MIN, clock).await?;
    let redemption = Redemption {
        code,
        code_verifier: verifier,
        nonce: "nonce",
        redirect_uri: REDIRECT_URI,
        begun_at: NOW,
        max_age: None,
        replicas: NonZeroU32::MIN,
        turn,
    };
    provider.redeem(redemption, clock).await
}

/// Returns the text of an error and all its causes, as the log shows it.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

#[test]
fn a_server_name_without_any_tls_is_refused_even_with_a_ca_file() {
    let files = Files::new();
    let key = rcgen::generate_simple_self_signed(["id.example".to_owned()]).unwrap();
    let ca = files.write("ca.pem", &key.cert.pem());
    let given = "server_name = \"id.example\"\ntoken_endpoint = \"/token\"\nauthorization_endpoint = \"/a\"";
    for ca_file in [String::new(), format!("ca_file = \"{}\"", ca.display())] {
        let further = format!("{ca_file}\n{given}");
        let settings = settings("oauth2", &files.operator("http://127.0.0.1:1", &further));
        let created = Provider::new("op", &settings, &Environment::default());
        let error = created.map(|_| ()).expect_err(&ca_file).to_string();
        assert!(error.contains("server_name"), "{error}");
    }
}
