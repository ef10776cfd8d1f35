//! Which certificate authorities we believe when we are the client.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use super::{Error, certificates, crypto, read};

/// The authorities believed on connections that we open. Clones share one configuration.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Believes the system's authorities (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured).
    /// Blocks: it reads some hundred certificates.
    ///
    /// # Errors
    ///
    /// [`Error::NoSystemAuthorities`] when there are none; a single broken one is only logged.
    pub fn system() -> Result<Self, Error> {
        let found = rustls_native_certs::load_native_certs();
        for error in found.errors {
            tracing::warn!(error = %error, "A system certificate authority cannot be read");
        }
        let mut roots = RootCertStore::empty();
        let (_added, _ignored) = roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(Error::NoSystemAuthorities);
        }
        Self::new(roots)
    }

    /// Believes only the authorities in a PEM file. Blocks for a small read.
    ///
    /// # Errors
    ///
    /// [`Error::Read`], [`Error::BadCertificate`], [`Error::NoCertificate`] and [`Error::Refused`]:
    /// a list that is not understood to its end is not used.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path, &read(path)?)? {
            roots.add(certificate).map_err(|source| Error::Refused {
                path: path.to_owned(),
                source,
            })?;
        }
        Self::new(roots)
    }

    /// The configuration for an outgoing connection: TLS 1.2 and 1.3, `http/1.1` by ALPN.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }

    fn new(roots: RootCertStore) -> Result<Self, Error> {
        let mut config = ClientConfig::builder_with_provider(crypto())
            .with_safe_default_protocol_versions()
            .map_err(Error::Unsupported)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").finish_non_exhaustive()
    }
}
