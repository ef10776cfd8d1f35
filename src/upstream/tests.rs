//! Tests with apps whose answers are exact bytes, sent over real sockets.

use std::num::NonZeroUsize;
use std::time::Duration;

use http_body_util::BodyExt as _;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::join;
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::clock::Clock;
use crate::tls::development_certificates;

/// The client that sends the requests.
const SOMEBODY: Requester = Requester {
    owner: Owner::Address(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
    stream: false,
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Runs a test that needs local tasks. The test fails if it takes too long.
fn local<T>(test: impl Future<Output = T>) -> impl Future<Output = T> {
    let test = Box::pin(test);
    async {
        let tasks = LocalSet::new();
        timeout(Duration::from_secs(30), tasks.run_until(test))
            .await
            .expect("the test hangs")
    }
}

async fn listen() -> (TcpListener, Settings) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, Settings::new(url.parse().unwrap()))
}

fn upstream(settings: &Settings) -> Arc<Upstream> {
    Arc::new(Upstream::new("app", settings).unwrap())
}

fn request(method: Method, uri: &str) -> Request<Upload> {
    let mut request = Request::new(Upload::empty());
    *request.method_mut() = method;
    *request.uri_mut() = uri.parse().unwrap();
    request
}

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(read).unwrap()
}

async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), response: &str) -> String {
    let head = head(stream).await;
    stream.write_all(response.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    head
}

/// Sends one request to an app that answers 200. Returns the request head that the app received.
async fn seen(preserve_host: bool, request: Request<Upload>) -> String {
    let (listener, settings) = listen().await;
    let upstream = upstream(&Settings {
        preserve_host,
        ..settings
    });
    let pools = Pools::new(Clock::system());
    let (response, head) = join!(pools.send(&upstream, SOMEBODY, request), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        answer(&mut stream, OK).await
    });
    let body = response.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "ok");
    head.replace(upstream.origin().authority(), "ORIGIN")
}

#[tokio::test]
async fn the_app_sees_the_public_host_unless_told_otherwise() {
    local(async {
        let with_host = |uri| {
            let mut request = request(Method::GET, uri);
            let host = HeaderValue::from_static("public.example");
            request.headers_mut().insert(HOST, host);
            request
        };
        let public = "GET /a?b HTTP/1.1\r\nhost: public.example\r\n\r\n";
        let own = "GET /a?b HTTP/1.1\r\nhost: ORIGIN\r\n\r\n";
        for uri in ["/a?b", "https://public.example/a?b"] {
            assert_eq!(seen(true, with_host(uri)).await, public);
            assert_eq!(seen(false, with_host(uri)).await, own);
        }
    })
    .await;
}

#[tokio::test]
async fn a_post_without_content_has_a_content_length_of_zero() {
    local(async {
        for (method, said) in [
            (Method::POST, true),
            (Method::PUT, true),
            (Method::GET, false),
            (Method::DELETE, false),
        ] {
            let head = seen(true, request(method, "/")).await;
            assert_eq!(head.contains("content-length: 0\r\n"), said, "{head}");
        }
    })
    .await;
}

#[tokio::test]
async fn f_09_each_failure_has_its_own_name() {
    local(async {
        let (listener, mut settings) = listen().await;
        let pools = Pools::new(Clock::system());
        for (response, reason) in [
            (Some("nonsense\r\n\r\n"), "upstream_broken"),
            (
                Some("HTTP/1.1 101 Switching Protocols\r\n\r\n"),
                "upstream_broken",
            ),
            (None, "upstream_timeout"),
        ] {
            if response.is_none() {
                settings.response_timeout = Duration::from_millis(50);
            }
            let upstream = upstream(&settings);
            let (outcome, ()) = join!(
                pools.send(&upstream, SOMEBODY, request(Method::GET, "/")),
                async {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    answer(&mut stream, response.unwrap_or_default()).await;
                    stream.read_u8().await.ok();
                }
            );
            assert_eq!(outcome.unwrap_err().reason(), reason);
        }
        drop(listener);
        let upstream = upstream(&settings);
        let outcome = pools
            .send(&upstream, SOMEBODY, request(Method::GET, "/"))
            .await;
        assert_eq!(outcome.unwrap_err().reason(), "upstream_unreachable");
    })
    .await;
}

#[tokio::test]
async fn f_10_an_app_without_a_free_connection_is_busy() {
    local(async {
        let (listener, mut settings) = listen().await;
        settings.connections = NonZeroUsize::MIN;
        settings.queue = 0;
        let upstream = upstream(&settings);
        let pools = Pools::new(Clock::system());
        let (first, second) = join!(
            pools.send(&upstream, SOMEBODY, request(Method::GET, "/1")),
            async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let second = pools
                    .send(&upstream, SOMEBODY, request(Method::GET, "/2"))
                    .await;
                answer(&mut stream, OK).await;
                second
            }
        );
        assert_eq!(first.unwrap().status(), 200);
        assert!(matches!(second, Err(Error::Busy)), "{second:?}");
    })
    .await;
}

#[tokio::test]
async fn a_worker_has_one_pool_per_upstream_and_closes_those_of_old_settings() {
    local(async {
        let (listener, settings) = listen().await;
        let (old, new) = (upstream(&settings), upstream(&settings));
        let pools = Pools::new(Clock::system());
        let mut streams = Vec::new();
        for upstream in [&old, &new] {
            let (response, stream) = join!(
                pools.send(upstream, SOMEBODY, request(Method::GET, "/")),
                async {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    answer(&mut stream, OK).await;
                    stream
                }
            );
            response.unwrap().into_body().collect().await.unwrap();
            streams.push(stream);
        }
        drop(old);
        let third = upstream(&settings);
        let (_, ()) = join!(
            pools.send(&third, SOMEBODY, request(Method::GET, "/")),
            async {
                let (mut stream, _) = listener.accept().await.unwrap();
                answer(&mut stream, OK).await;
            }
        );
        // The connection to the dropped upstream was closed. The connection to the other upstream
        // still works.
        assert_eq!(streams[0].read(&mut [0]).await.unwrap(), 0);
        let (response, head) = join!(
            pools.send(&new, SOMEBODY, request(Method::GET, "/again")),
            answer(&mut streams[1], OK)
        );
        assert!(head.starts_with("GET /again "));
        response.unwrap();
    })
    .await;
}

/// Returns an acceptor with a certificate for `localhost`, and the settings of an app that uses the
/// acceptor.
async fn encrypted(dir: &tempfile::TempDir, host: &str) -> (TcpListener, TlsAcceptor, Settings) {
    let written = development_certificates(dir.path(), &[], Clock::system().now()).unwrap();
    let chain = CertificateDer::from_pem_file(&written.certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(&written.key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let settings = Settings {
        ca_file: Some(written.authority),
        ..Settings::new(format!("https://{host}:{port}").parse().unwrap())
    };
    (listener, TlsAcceptor::from(Arc::new(config)), settings)
}

#[tokio::test]
async fn an_https_app_is_trusted_by_its_own_certificate_authority() {
    local(async {
        let dir = tempfile::tempdir().unwrap();
        let (listener, acceptor, settings) = encrypted(&dir, "localhost").await;
        let upstream = upstream(&settings);
        let pools = Pools::new(Clock::system());
        let (first, mut stream) = join!(
            pools.send(&upstream, SOMEBODY, request(Method::GET, "/1")),
            async {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = acceptor.accept(stream).await.unwrap();
                answer(&mut stream, OK).await;
                stream
            }
        );
        first.unwrap().into_body().collect().await.unwrap();
        let (second, head) = join!(
            pools.send(&upstream, SOMEBODY, request(Method::GET, "/2")),
            answer(&mut stream, "HTTP/1.1 200 OK\r\n\r\ncut")
        );
        assert!(head.starts_with("GET /2 "));
        // If a connection ends without a TLS `close_notify` alert, the response counts as truncated
        // (RFC 8446 section 6.1).
        drop(stream);
        let cut = second.unwrap().into_body().collect().await;
        assert!(matches!(cut, Err(origin::Error::Broken(_))), "{cut:?}");
    })
    .await;
}

#[tokio::test]
async fn t_08_an_untrusted_app_receives_nothing() {
    local(async {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (listener, acceptor, settings) = encrypted(&dir, "localhost").await;
        let (_, _, strange) = encrypted(&other, "localhost").await;
        let upstream = upstream(&Settings {
            ca_file: strange.ca_file,
            ..settings
        });
        let pools = Pools::new(Clock::system());
        let (outcome, handshake) = join!(
            pools.send(&upstream, SOMEBODY, request(Method::GET, "/")),
            async {
                let (stream, _) = listener.accept().await.unwrap();
                acceptor.accept(stream).await
            }
        );
        // The handshake failed, so the app received no request.
        assert!(handshake.is_err());
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::Tls(_)), "{error:?}");
        assert_eq!(error.reason(), "upstream_tls");
    })
    .await;
}

#[tokio::test]
async fn t_12_an_app_whose_authorities_cannot_be_read_is_not_set_up() {
    let missing = Settings {
        ca_file: Some("/nonexistent/ca.pem".into()),
        ..Settings::new("https://app".parse().unwrap())
    };
    let error = Upstream::new("app", &missing).unwrap_err();
    assert!(matches!(error, Error::Trust(_)), "{error:?}");
    let unused = Settings {
        url: "http://app".to_owned().try_into().unwrap(),
        ..missing
    };
    let error = Upstream::new("app", &unused).unwrap_err();
    assert!(matches!(error, Error::TrustUnused("ca_file")), "{error:?}");
}
