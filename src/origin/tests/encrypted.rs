//! Tests of TLS: the gateway sends no byte of a request to an origin that is not trusted.

use std::path::PathBuf;

use http_body_util::Full;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, crypto::aws_lc_rs};
use tokio::join;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::origin::{CallLimits, Client};
use crate::telemetry::chain;
use crate::tls::{Refreshed, Trust};

/// A certificate authority, and the file with its certificate.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(super) file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, issuer.pem()).unwrap();
        Self {
            issuer,
            file,
            _dir: dir,
        }
    }

    fn signs(&self, params: &CertificateParams) -> TlsAcceptor {
        self.signs_with(params, &[])
    }

    /// Creates an acceptor for a server that supports the ALPN protocols `alpn`.
    pub(super) fn signs_with(&self, params: &CertificateParams, alpn: &[&str]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        acceptor(&certificate, &key, alpn)
    }
}

fn acceptor(certificate: &rcgen::Certificate, key: &KeyPair, alpn: &[&str]) -> TlsAcceptor {
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
    // `CertifiedKey::new` does not check that the key belongs to the certificate.
    let identity = CertifiedKey::new(vec![certificate.der().clone()], key);
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

pub(super) fn named(name: &str) -> CertificateParams {
    CertificateParams::new([name.to_owned()]).unwrap()
}

/// Sends a request to a server that uses `acceptor` at `https://localhost`. Returns the result and,
/// if the server's handshake succeeded, all bytes that the server received.
async fn call(
    authority: &Authority,
    acceptor: &TlsAcceptor,
) -> (Result<Response<Bytes>, Error>, Option<Vec<u8>>) {
    let server = Server::start().await;
    let trust = Trust::from_file(&authority.file).unwrap();
    let client = client_of(&server, &trust);
    call_by(&client, &server, acceptor).await
}

fn client_of(server: &Server, trust: &Trust) -> Client {
    let origin = format!("https://localhost:{}", server.origin.port());
    let connector = Connector::new(origin.parse().unwrap(), Some(trust.clone()), WATCHDOG);
    Client::new(connector.unwrap())
}

async fn call_by(
    client: &Client,
    server: &Server,
    acceptor: &TlsAcceptor,
) -> (Result<Response<Bytes>, Error>, Option<Vec<u8>>) {
    let request = Request::post("/token").body(Full::from("secret")).unwrap();
    join!(client.call(request, CallLimits::default()), async {
        let peer = server.accept().await;
        let mut stream = acceptor.accept(peer.0).await.ok()?;
        let mut seen = Vec::new();
        let mut buffer = [0; 1024];
        while !seen.ends_with(b"secret") {
            match stream.read(&mut buffer).await {
                Ok(count @ 1..) => seen.extend_from_slice(&buffer[..count]),
                Ok(0) | Err(_) => return Some(seen),
            }
        }
        let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        stream.write_all(ok).await.unwrap();
        stream.shutdown().await.ok();
        Some(seen)
    })
}

#[tokio::test]
async fn an_origin_with_a_certificate_of_the_authority_is_trusted() {
    local(async {
        let authority = Authority::new();
        let (outcome, seen) = call(&authority, &authority.signs(&named("localhost"))).await;
        assert_eq!(outcome.unwrap().body(), "{}");
        assert!(seen.unwrap().starts_with(b"POST /token HTTP/1.1\r\n"));
    })
    .await;
}

#[tokio::test]
async fn t_08_an_untrusted_origin_learns_nothing() {
    local(async {
        let authority = Authority::new();
        let mut expired = named("localhost");
        expired.not_after = date_time_ymd(2020, 1, 1);
        let mut early = named("localhost");
        early.not_before = date_time_ymd(4000, 1, 1);
        let mut common_name_only = CertificateParams::default();
        let name = rcgen::DnType::CommonName;
        common_name_only.distinguished_name.push(name, "localhost");
        let key = KeyPair::generate().unwrap();
        let self_signed = named("localhost").self_signed(&key).unwrap();
        for (what, acceptor) in [
            ("expired", authority.signs(&expired)),
            ("not yet valid", authority.signs(&early)),
            ("wrong host", authority.signs(&named("other.example"))),
            ("address for a name", authority.signs(&named("127.0.0.1"))),
            ("wildcard", authority.signs(&named("*.localhost"))),
            ("common name only", authority.signs(&common_name_only)),
            ("self-signed", acceptor(&self_signed, &key, &[])),
            (
                "another authority",
                Authority::new().signs(&named("localhost")),
            ),
        ] {
            let (outcome, seen) = call(&authority, &acceptor).await;
            let error = outcome.expect_err(what);
            assert!(matches!(error, Error::Tls(_)), "{what}: {error:?}");
            assert!(!error.may_have_been_processed());
            assert_eq!(seen.unwrap_or_default(), b"", "{what}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_next_connection_trusts_the_replaced_authorities() {
    local(async {
        let (first, second) = (Authority::new(), Authority::new());
        let [by_first, by_second] =
            [&first, &second].map(|authority| authority.signs(&named("localhost")));
        let server = Server::start().await;
        let trust = Trust::from_file(&first.file).unwrap();
        let client = client_of(&server, &trust);
        assert!(call_by(&client, &server, &by_first).await.0.is_ok());
        assert!(call_by(&client, &server, &by_second).await.0.is_err());
        std::fs::copy(&second.file, &first.file).unwrap();
        assert!(call_by(&client, &server, &by_first).await.0.is_ok());
        assert_eq!(trust.refresh().unwrap(), Refreshed::Replaced);
        assert!(call_by(&client, &server, &by_second).await.0.is_ok());
        let (refused, seen) = call_by(&client, &server, &by_first).await;
        assert!(matches!(refused, Err(Error::Tls(_))), "{refused:?}");
        assert_eq!(seen.unwrap_or_default(), b"");
    })
    .await;
}

#[tokio::test]
async fn an_https_origin_is_never_called_without_tls() {
    let origin: Origin = "https://localhost".parse().unwrap();
    let error = Connector::new(origin, None, WATCHDOG).unwrap_err();
    assert!(matches!(error, Error::Unconfigured), "{error:?}");
}

#[tokio::test]
async fn an_origin_that_does_not_speak_tls_is_refused() {
    local(async {
        let authority = Authority::new();
        let server = Server::start().await;
        let origin = format!("https://127.0.0.1:{}", server.origin.port());
        let trust = Trust::from_file(&authority.file).unwrap();
        let connector = Connector::new(origin.parse().unwrap(), Some(trust), WATCHDOG);
        let client = Client::new(connector.unwrap());
        let request = Request::post("/token").body(Full::from("secret")).unwrap();
        let (outcome, ()) = join!(client.call(request, CallLimits::default()), async {
            let mut peer = server.accept().await;
            peer.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
            peer.rest().await;
        });
        assert!(matches!(outcome, Err(Error::Tls(_))), "{outcome:?}");
    })
    .await;
}

/// A certificate that is signed with its own key and is marked as an authority, like the
/// certificates of `openssl req -x509`.
struct SelfSigned {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl SelfSigned {
    fn new(mut params: CertificateParams) -> Self {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, key }
    }

    fn acceptor(&self) -> TlsAcceptor {
        acceptor(&self.certificate, &self.key, &[])
    }

    fn trust(&self) -> Trust {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("server.pem");
        std::fs::write(&file, self.certificate.pem()).unwrap();
        Trust::from_file(&file).unwrap()
    }
}

/// Calls `https://localhost` with a client that trusts the certificates in `trust`. If the call
/// fails, returns the error. Panics if the call failed but the server has received a byte of the
/// request.
async fn refusal(trust: &Trust, acceptor: &TlsAcceptor) -> Option<String> {
    let server = Server::start().await;
    let (outcome, seen) = call_by(&client_of(&server, trust), &server, acceptor).await;
    match outcome {
        Ok(_response) => {
            assert!(seen.unwrap().ends_with(b"secret"));
            None
        }
        Err(error) => {
            assert!(matches!(error, Error::Tls(_)), "{error:?}");
            assert_eq!(seen.unwrap_or_default(), b"");
            Some(chain(&error))
        }
    }
}

#[tokio::test]
async fn a_listed_self_signed_certificate_is_trusted() {
    local(async {
        let good = SelfSigned::new(named("localhost"));
        assert_eq!(refusal(&good.trust(), &good.acceptor()).await, None);
        let other_name = SelfSigned::new(named("other.example"));
        let trust = other_name
            .trust()
            .with_server_name("other.example")
            .unwrap();
        assert_eq!(refusal(&trust, &other_name.acceptor()).await, None);
    })
    .await;
}

#[tokio::test]
async fn t_08_a_self_signed_certificate_is_refused_with_the_setting_that_helps() {
    local(async {
        let good = SelfSigned::new(named("localhost"));
        let mut expired = named("localhost");
        expired.not_after = date_time_ymd(2020, 1, 1);
        let expired = SelfSigned::new(expired);
        let mut early = named("localhost");
        early.not_before = date_time_ymd(4000, 1, 1);
        let early = SelfSigned::new(early);
        let other_name = SelfSigned::new(named("other.example"));
        let mut common_name = CertificateParams::default();
        let kind = rcgen::DnType::CommonName;
        common_name.distinguished_name.push(kind, "localhost");
        let common_name = SelfSigned::new(common_name);
        // A listed certificate is trusted only with its own key.
        let thief = acceptor(&good.certificate, &KeyPair::generate().unwrap(), &[]);
        let renamed = good.trust().with_server_name("other.example").unwrap();
        for (what, trust, acceptor, said) in [
            (
                "another",
                good.trust(),
                SelfSigned::new(named("localhost")).acceptor(),
                "`ca_file`",
            ),
            (
                "expired",
                expired.trust(),
                expired.acceptor(),
                "certificate expired",
            ),
            ("early", early.trust(), early.acceptor(), "not valid yet"),
            (
                "name",
                other_name.trust(),
                other_name.acceptor(),
                "`server_name`",
            ),
            ("set name", renamed, good.acceptor(), "\"other.example\""),
            (
                "no name",
                common_name.trust(),
                common_name.acceptor(),
                "no subjectAltName",
            ),
            ("no key", good.trust(), thief, "BadSignature"),
        ] {
            let refusal = refusal(&trust, &acceptor).await.expect(what);
            assert!(refusal.contains(said), "{what}: {refusal}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_set_name_replaces_the_host_for_a_certificate_of_an_authority() {
    local(async {
        let authority = Authority::new();
        let trust = Trust::from_file(&authority.file).unwrap();
        let trust = trust.with_server_name("id.example").unwrap();
        let right = authority.signs(&named("id.example"));
        assert_eq!(refusal(&trust, &right).await, None);
        let host = authority.signs(&named("localhost"));
        let refusal = refusal(&trust, &host).await.unwrap();
        assert!(refusal.contains("`server_name`"), "{refusal}");
    })
    .await;
}
