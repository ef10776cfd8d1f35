//! The certificate authorities that the gateway trusts as a client.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};

use super::pins::PinVerifier;
use super::{Error, Files, Refreshed, ServerIdentity, certificates, crypto, read};

/// The trusted certificates for connections that the gateway opens. Clones share one configuration,
/// and [`Trust::refresh`] replaces the configuration of all clones.
#[derive(Clone)]
pub(crate) struct Trust {
    shared: Arc<Shared>,
    server_name: Option<ServerName<'static>>,
}

struct Shared {
    /// The file with the certificate authorities. The value is `None` if the authorities of the
    /// system are used.
    file: Option<PathBuf>,
    current: ArcSwap<Loaded>,
}

struct Loaded {
    config: Arc<ClientConfig>,
    /// The SHA-256 digest of the file with the certificate authorities. If the certificate
    /// authorities come from the system, there is no such file, and all bytes of `contents` are
    /// zero.
    contents: [u8; SHA256_OUTPUT_LEN],
}

impl Trust {
    /// Trusts the certificate authorities of the operating system. The environment variables
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` can select other files. This function blocks the calling
    /// thread while the function reads some hundred certificates.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NoSystemAuthorities`] if the system has no authorities. A certificate that
    /// cannot be read is logged and skipped.
    pub(crate) fn system() -> Result<Self, Error> {
        let found = rustls_native_certs::load_native_certs();
        for error in found.errors {
            tracing::warn!(error = %error, "A system certificate authority cannot be read");
        }
        let mut roots = RootCertStore::empty();
        // The gateway ignores certificates that the TLS library does not accept, because some
        // systems have such certificates.
        let (_added, _ignored) = roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(Error::NoSystemAuthorities);
        }
        let loaded = Loaded {
            config: Arc::new(configuration(roots)?),
            contents: [0; SHA256_OUTPUT_LEN],
        };
        Ok(Self::new(None, loaded))
    }

    /// Trusts only the certificates in a PEM file. Each certificate in the file is trusted in two
    /// ways: as an authority, and as the certificate of a server ([`PinVerifier`]). This function
    /// blocks the calling thread while the function reads a small file.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Read`], [`Error::BadCertificate`], [`Error::NoCertificate`] or
    /// [`Error::Refused`]. If one certificate of the file is invalid, no certificate of the file is
    /// used.
    pub(crate) fn from_file(path: &Path) -> Result<Self, Error> {
        let loaded = Loaded::from_text(path, &read(path)?)?;
        Ok(Self::new(Some(path.to_owned()), loaded))
    }

    /// Sets the name for which the certificate of a server must be valid. In the TLS handshake, the
    /// gateway also sends this name to the server (RFC 6066 section 3). By default, the certificate
    /// must be valid for the host of the URL.
    ///
    /// # Errors
    ///
    /// [`Error::BadServerName`].
    pub(crate) fn with_server_name(mut self, name: &str) -> Result<Self, Error> {
        let parsed = ServerName::try_from(name.to_owned());
        let parsed = parsed.map_err(|_invalid| Error::BadServerName { name: name.into() })?;
        self.server_name = Some(parsed);
        Ok(self)
    }

    /// Returns the name for which a server's certificate must be valid, if this name is not the
    /// host of the URL.
    pub(crate) fn server_name(&self) -> Option<&ServerName<'static>> {
        self.server_name.as_ref()
    }

    /// Reads the file again, and trusts the certificates in the file if the content of the file has
    /// changed. Symbolic links are followed, because Kubernetes replaces a file by changing a
    /// symbolic link. Open connections stay open. This function does not read the certificate
    /// authorities of the operating system. This function blocks the calling thread while the
    /// function reads a small file.
    ///
    /// # Errors
    ///
    /// The errors of [`Trust::from_file`]. After an error, the old authorities stay in use, and the
    /// next call of this function tries again.
    pub(crate) fn refresh(&self) -> Result<Refreshed, Error> {
        let shared = &self.shared;
        let Some(path) = &shared.file else {
            return Ok(Refreshed::Unchanged);
        };
        let text = read(path)?;
        if contents(&text) == shared.current.load().contents {
            return Ok(Refreshed::Unchanged);
        }
        let loaded = Loaded::from_text(path, &text)?;
        shared.current.store(Arc::new(loaded));
        Ok(Refreshed::Replaced)
    }

    /// Returns the configuration for the next outgoing connection. The configuration supports TLS
    /// 1.2 and TLS 1.3. The ALPN protocol is `http/1.1`.
    pub(crate) fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.shared.current.load().config)
    }

    /// Returns a configuration for connections with another protocol than HTTP. The configuration
    /// has no ALPN protocol. If `identity` is `Some`, the gateway identifies itself with this
    /// certificate (RFC 8446 section 4.4.2). This function blocks the calling thread while the
    /// function reads two small files.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Read`], [`Error::BadCertificate`], [`Error::NoCertificate`],
    /// [`Error::BadKey`], [`Error::Refused`] or [`Error::KeyMismatch`].
    pub(crate) fn without_http(
        &self,
        identity: Option<&ServerIdentity>,
    ) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::clone(&self.client_config());
        config.alpn_protocols = Vec::new();
        if let Some(identity) = identity {
            let (chain, key) = Files::read(identity)?.parse(identity)?;
            let certified = CertifiedKey::from_der(chain, key, &crypto());
            let certified = certified.map_err(|source| identity.refused(source))?;
            config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        }
        Ok(config)
    }

    fn new(file: Option<PathBuf>, loaded: Loaded) -> Self {
        let current = ArcSwap::from_pointee(loaded);
        Self {
            shared: Arc::new(Shared { file, current }),
            server_name: None,
        }
    }
}

impl Loaded {
    fn from_text(path: &Path, text: &[u8]) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        let listed = certificates(path, text)?;
        for certificate in &listed {
            roots
                .add(certificate.clone())
                .map_err(|source| Error::Refused {
                    path: path.to_owned(),
                    source,
                })?;
        }
        let mut config = configuration(roots.clone())?;
        let verifier = PinVerifier::new(roots, listed)?;
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(verifier));
        Ok(Self {
            config: Arc::new(config),
            contents: contents(text),
        })
    }
}

/// Creates a client configuration. Each configuration has its own cache of TLS sessions, so no TLS
/// session can be resumed after the trusted authorities were replaced.
fn configuration(roots: RootCertStore) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()
        .map_err(Error::Unsupported)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn contents(text: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut contents = [0; SHA256_OUTPUT_LEN];
    contents.copy_from_slice(digest(&SHA256, text).as_ref());
    contents
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("file", &self.shared.file)
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}
