//! Certificates and trusted authorities. Only this module builds TLS configurations.
//!
//! The module `tls` reads certificate and key files, reads trusted certificate authorities, and
//! creates certificates for development. The module `tls` does not use sockets or HTTP.
//! [`crate::server`] gets the configuration of each handshake from an [`Acceptor`]. A TLS client in
//! the gateway gets its configuration from a [`Trust`].
//!
//! Every TLS configuration selects the cryptographic library (aws-lc-rs) explicitly. The program
//! never uses the process-wide default of rustls, so no other crate can change the TLS
//! configurations of this program.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use aws_lc_rs::digest;
use rustls::client::{VerifierBuilderError, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore, ServerConfig};

use crate::clock::{Clock, Timestamp};
use crate::secret::Secret;

mod advice;
mod development;
mod pins;
mod trust;

pub(crate) use advice::AdvisedError;
pub use development::{DevelopmentFiles, development_certificates};
pub(crate) use trust::Trust;

/// The PEM files with the gateway's certificate chain and its private key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ServerIdentity {
    /// The certificate chain. The first certificate is the gateway's own certificate.
    pub(crate) certificate: PathBuf,
    /// The private key (PKCS #8, PKCS #1 or SEC 1).
    pub(crate) key: PathBuf,
}

impl ServerIdentity {
    fn refused(&self, source: rustls::Error) -> Error {
        if matches!(source, rustls::Error::InconsistentKeys(_)) {
            return Error::KeyMismatch {
                certificate: self.certificate.clone(),
                key: self.key.clone(),
            };
        }
        Error::Refused {
            path: self.key.clone(),
            source,
        }
    }
}

/// The result of [`Acceptor::refresh`] and [`Trust::refresh`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum Refreshed {
    /// The files have not changed.
    Unchanged,
    /// New handshakes use the new content of the files. Open connections keep the old
    /// configuration.
    Replaced,
}

impl Error {
    /// Returns the file that the operator has to correct, if the error names a file.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::AlreadyExists { path }
            | Self::BadCertificate { path, .. }
            | Self::BadKey { path, .. }
            | Self::KeyMismatch { key: path, .. }
            | Self::NoCertificate { path }
            | Self::Read { path, .. }
            | Self::Refused { path, .. }
            | Self::Write { path, .. } => Some(path),
            Self::BadServerName { .. }
            | Self::Generate(_)
            | Self::NoSystemAuthorities
            | Self::Unsupported(_)
            | Self::Verifier(_) => None,
        }
    }
}

/// The reason why certificates or authorities cannot be used. No variant contains key material.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A development file already exists. The operator is responsible for this error. The operator
    /// has to remove the file or choose another folder.
    #[error("{} already exists and is not overwritten", path.display())]
    AlreadyExists {
        /// The file.
        path: PathBuf,
    },
    /// A certificate file is not valid PEM. An incompletely written file also causes this error.
    /// The operator is responsible for this error.
    #[error("{} is not a list of PEM certificates", path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        #[source]
        source: pem::Error,
    },
    /// A key file is not a PEM private key. `BadKey` does not contain the error of the parser,
    /// because the error of the parser may contain a part of the key. The operator is responsible
    /// for this error.
    #[error("{} is not a PEM private key", path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
    },
    /// The configured server name is neither a host name nor an IP address. The operator is
    /// responsible for this error.
    #[error("`{name}` is not a host name or an IP address")]
    BadServerName {
        /// The text.
        name: Box<str>,
    },
    /// The development certificates could not be created, because a name is not a DNS name.
    /// The operator is responsible for this error.
    #[error("certificates could not be created")]
    Generate(#[source] rcgen::Error),
    /// The key does not belong to the certificate. In most cases, the operator has replaced only
    /// the certificate file or only the key file. The operator is responsible for this error.
    #[error("the key in {} does not belong to the certificate in {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// A file contains no certificate. The operator is responsible for this error.
    #[error("{} contains no certificate", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The system has no certificate authorities. The operator is responsible for this error. The
    /// operator has to install the distribution's package of certificate authorities, or has to
    /// name a file in the settings.
    #[error("the system has no certificate authorities")]
    NoSystemAuthorities,
    /// A file could not be read. The operator is responsible for this error.
    #[error("{} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The TLS library refuses the content of a file. The operator is responsible for this error.
    #[error("{} is not accepted", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The error that the TLS library returned.
        #[source]
        source: rustls::Error,
    },
    /// The cryptographic library does not support an algorithm that TLS needs. The operator is
    /// responsible for this error. The operator has to use another build of the gateway.
    #[error("the cryptographic library cannot be used")]
    Unsupported(#[source] rustls::Error),
    /// The TLS library does not accept the list of certificate authorities. The operator is
    /// responsible for this error. The operator has to correct the file that contains the
    /// certificate authorities.
    #[error("the certificate authorities are not accepted")]
    Verifier(#[source] VerifierBuilderError),
    /// A file could not be written. The operator is responsible for this error.
    #[error("{} could not be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
}

/// The server side of TLS. An acceptor returns the current configuration for each new connection.
/// Clones share the configuration.
#[derive(Clone)]
pub struct Acceptor(Arc<Shared>);

struct Shared {
    clock: Clock,
    loaded: ArcSwap<Loaded>,
}

struct Loaded {
    identity: ServerIdentity,
    config: Arc<ServerConfig>,
    contents: [u8; digest::SHA256_OUTPUT_LEN],
    leaf: CertificateDer<'static>,
    validity: Validity,
}

/// States whether a time is before, in or after the validity period of a certificate (RFC 5280
/// section 4.1.2.5).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Validity {
    Current,
    Expired,
    NotYet,
}

impl Acceptor {
    /// Reads certificate and key. The configuration supports TLS 1.2 and TLS 1.3. The ALPN
    /// protocols are `h2` and `http/1.1`. Session tickets are on, and early data is off. The
    /// gateway logs a warning if the certificate is expired or not yet valid. The gateway uses the
    /// certificate even if it is not valid at the current time, because a warning in the browser is
    /// better than an outage of all apps.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Read`], [`Error::BadCertificate`], [`Error::NoCertificate`],
    /// [`Error::BadKey`], [`Error::Refused`] or [`Error::KeyMismatch`]. Each error of this function
    /// names the file.
    pub(crate) fn load(identity: &ServerIdentity, clock: Clock) -> Result<Self, Error> {
        let files = Files::read(identity)?;
        let loaded = files.load(identity, clock.now())?;
        loaded.warn(identity);
        let loaded = ArcSwap::from_pointee(loaded);
        Ok(Self(Arc::new(Shared { clock, loaded })))
    }

    /// Replaces the configuration of all clones by the configuration of `other`. New handshakes use
    /// the certificate of `other`, and later calls of [`Acceptor::refresh`] read the files of
    /// `other`.
    pub(crate) fn adopt(&self, other: &Self) {
        self.0.loaded.store(other.0.loaded.load_full());
    }

    /// Reads the files again, and uses the new contents if a file has changed. Symbolic links are
    /// followed, because Kubernetes replaces a file by changing a symbolic link. This function
    /// blocks the calling thread while the function reads two small files.
    ///
    /// # Errors
    ///
    /// The errors of [`Acceptor::load`]. After an error, the old configuration stays in use, and
    /// the next call of this function tries again.
    pub(crate) fn refresh(&self) -> Result<Refreshed, Error> {
        let shared = &self.0;
        let current = shared.loaded.load();
        let identity = &current.identity;
        let files = Files::read(identity)?;
        let now = shared.clock.now();
        if files.contents == current.contents {
            let validity = validity(&current.leaf, now);
            // An unchanged certificate may have expired or become valid since the previous call.
            if validity != current.validity {
                let loaded = current.with(validity);
                loaded.warn(identity);
                shared.replace(&current, loaded);
            }
            return Ok(Refreshed::Unchanged);
        }
        let loaded = files.load(identity, now)?;
        loaded.warn(identity);
        shared.replace(&current, loaded);
        Ok(Refreshed::Replaced)
    }

    /// Returns the configuration for the next handshake.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.loaded.load().config)
    }
}

impl Shared {
    /// Replaces `current` by `loaded`, unless [`Acceptor::adopt`] has already replaced `current`.
    fn replace(&self, current: &Guard<Arc<Loaded>>, loaded: Loaded) {
        drop(self.loaded.compare_and_swap(current, Arc::new(loaded)));
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor")
            .field("identity", &self.0.loaded.load().identity)
            .finish_non_exhaustive()
    }
}

/// The contents of the certificate file and of the key file, and a digest of both contents. If the
/// digest has changed, at least one of the two files has changed.
struct Files {
    certificate: Vec<u8>,
    key: Secret<Vec<u8>>,
    contents: [u8; digest::SHA256_OUTPUT_LEN],
}

impl Files {
    fn read(identity: &ServerIdentity) -> Result<Self, Error> {
        let certificate = read(&identity.certificate)?;
        let key = Secret::new(read(&identity.key)?);
        let mut context = digest::Context::new(&digest::SHA256);
        // The digest includes the length of the certificate file. Without the length of the
        // certificate file, two different pairs of files could have the same digest, because the
        // digest would not show where the certificate file ends.
        context.update(&certificate.len().to_be_bytes());
        context.update(&certificate);
        context.update(key.expose());
        let mut contents = [0; digest::SHA256_OUTPUT_LEN];
        contents.copy_from_slice(context.finish().as_ref());
        Ok(Self {
            certificate,
            key,
            contents,
        })
    }

    /// Parses the certificate chain and the key.
    fn parse(
        &self,
        identity: &ServerIdentity,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
        let chain = certificates(&identity.certificate, &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(self.key.expose());
        let key = key.map_err(|_may_quote_the_key| Error::BadKey {
            path: identity.key.clone(),
        })?;
        Ok((chain, key))
    }

    fn load(&self, identity: &ServerIdentity, now: Timestamp) -> Result<Loaded, Error> {
        let (chain, key) = self.parse(identity)?;
        let leaf = chain.first().cloned().ok_or_else(|| Error::NoCertificate {
            path: identity.certificate.clone(),
        })?;
        // The certificate is parsed here, so that an error of the certificate names the certificate
        // file.
        ParsedCertificate::try_from(&leaf).map_err(|source| Error::Refused {
            path: identity.certificate.clone(),
            source,
        })?;
        let mut config = ServerConfig::builder_with_provider(crypto())
            .with_safe_default_protocol_versions()
            .map_err(Error::Unsupported)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|source| identity.refused(source))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Each certificate gets new ticket keys, so a client cannot resume a TLS session that began
        // with a replaced certificate.
        config.ticketer = provider::Ticketer::new().map_err(Error::Unsupported)?;
        let validity = validity(&leaf, now);
        Ok(Loaded {
            identity: identity.clone(),
            config: Arc::new(config),
            contents: self.contents,
            leaf,
            validity,
        })
    }
}

impl Loaded {
    fn with(&self, validity: Validity) -> Self {
        Self {
            identity: self.identity.clone(),
            config: Arc::clone(&self.config),
            contents: self.contents,
            leaf: self.leaf.clone(),
            validity,
        }
    }

    fn warn(&self, identity: &ServerIdentity) {
        let reason = match self.validity {
            Validity::Current => return,
            Validity::Expired => "expired",
            Validity::NotYet => "not_yet_valid",
        };
        tracing::warn!(
            reason,
            file.path = %identity.certificate.display(),
            "Certificate is outside its validity period"
        );
    }
}

/// Returns whether `now` is before, in or after the validity period of a certificate. If the
/// certificate cannot be parsed, this function returns [`Validity::Current`], because the TLS
/// library reports the problem later.
fn validity(leaf: &CertificateDer<'_>, now: Timestamp) -> Validity {
    let Ok(parsed) = ParsedCertificate::try_from(leaf) else {
        return Validity::Current;
    };
    let now = UnixTime::since_unix_epoch(Duration::from_millis(now.as_millis()));
    // The TLS library checks the dates of a certificate first, so any other error shows that the
    // dates are valid.
    match without_authorities(&parsed, now) {
        Err(rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => Validity::Expired,
        Err(rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => Validity::NotYet,
        Ok(()) | Err(_) => Validity::Current,
    }
}

/// Verifies a certificate without any trusted authority, so that the verification always fails. The
/// TLS library checks the validity period of the certificate before all other properties.
fn without_authorities(leaf: &ParsedCertificate<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    verify_server_cert_signed_by_trust_anchor(
        leaf,
        &RootCertStore::empty(),
        &[],
        now,
        crypto().signature_verification_algorithms.all,
    )
}

/// `sidegate check --online` warns about a certificate that expires within this number of days.
pub(crate) const WARNING_DAYS: u64 = 14;

/// Returns the number of days within which the certificate expires, or `None` if the certificate is
/// still valid after [`WARNING_DAYS`].
pub(crate) fn days_left(leaf: &CertificateDer<'_>, now: Timestamp) -> Option<u64> {
    (1..=WARNING_DAYS).find(|days| {
        let later = now.plus(Duration::from_hours(days.saturating_mul(24)));
        validity(leaf, later) == Validity::Expired
    })
}

fn crypto() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

/// Returns all certificates of a PEM text. Returns an error if a certificate is invalid or if the
/// text contains no certificate.
fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let list: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|source| Error::BadCertificate {
            path: path.to_owned(),
            source,
        })?;
    if list.is_empty() {
        return Err(Error::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(list)
}

#[cfg(test)]
mod tests;
