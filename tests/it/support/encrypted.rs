//! A TLS server in front of a server without TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::certificates::Identity;

/// A TLS server that forwards the bytes of each connection to another server. A test can change the
/// certificate of the server at any time, as if the host name led to another machine.
pub(crate) struct Encrypted {
    pub(crate) port: u16,
    identity: Arc<watch::Sender<TlsAcceptor>>,
    task: JoinHandle<()>,
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Encrypted {
    pub(crate) async fn start(identity: &Identity, behind: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let identity = Arc::new(watch::Sender::new(acceptor(identity)));
        let shared = Arc::clone(&identity);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _peer)) = listener.accept().await {
                let acceptor = shared.borrow().clone();
                connections.spawn(async move {
                    // A client that does not trust the certificate disconnects during the
                    // handshake.
                    let mut stream = acceptor.accept(stream).await?;
                    let mut behind = TcpStream::connect(behind).await?;
                    tokio::io::copy_bidirectional(&mut stream, &mut behind).await
                });
            }
        });
        Self {
            port,
            identity,
            task,
        }
    }

    /// Uses the certificate of `identity` for all new connections.
    pub(crate) fn present(&self, identity: &Identity) {
        self.identity.send_replace(acceptor(identity));
    }
}

fn acceptor(identity: &Identity) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
