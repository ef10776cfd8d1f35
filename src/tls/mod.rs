//! Certificates and trust: the one room that builds TLS configurations.
//!
//! It knows certificate and key files, which authorities are believed, and how to make certificates
//! for development. It refuses to know sockets and HTTP: [`crate::server`] asks an [`Acceptor`] for
//! the configuration of the next handshake, and whoever calls out asks a [`Trust`] for its own.
//!
//! Every configuration names the cryptographic provider (aws-lc-rs); the process-wide default is
//! never read, so no other crate can change what TLS means here.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use aws_lc_rs::digest;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore, ServerConfig};

use crate::clock::{Clock, Timestamp};
use crate::secret::Secret;

mod development;
mod trust;

pub use development::{DevelopmentFiles, development_certificates};
pub(crate) use trust::Trust;

/// Where our certificate chain and its private key are, both in PEM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ServerIdentity {
    /// The certificate chain, our own certificate first.
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

/// What [`Acceptor::refresh`] and [`Trust::refresh`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum Refreshed {
    /// The files hold what is in use.
    Unchanged,
    /// New handshakes use what the files hold now; connections that are open stay as they are.
    Replaced,
}

/// Why certificates or authorities cannot be used. No variant carries key material.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A development file exists already. Side: gateway; remove it, or choose another folder.
    #[error("{} exists already and is not overwritten", path.display())]
    AlreadyExists {
        /// The file.
        path: PathBuf,
    },
    /// A certificate file is not PEM. Side: gateway; a half-written file looks like this.
    #[error("{} is not a list of PEM certificates", path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// A key file is not a PEM private key. Side: gateway. The parser's words are not kept: they
    /// may quote the file.
    #[error("{} is not a PEM private key", path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
    },
    /// Development certificates could not be made. Side: gateway; a name is not a DNS name.
    #[error("certificates could not be made")]
    Generate(#[source] rcgen::Error),
    /// The key belongs to another certificate. Side: gateway; one of the files is old.
    #[error("the key in {} does not belong to the certificate in {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// A file holds no certificate. Side: gateway.
    #[error("{} holds no certificate", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The system offers no certificate authority. Side: gateway; install the distribution's
    /// package of them, or name a file.
    #[error("the system has no certificate authorities")]
    NoSystemAuthorities,
    /// A file could not be read. Side: gateway.
    #[error("{} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// The TLS library refuses what a file holds. Side: gateway.
    #[error("{} is refused", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The library's reason.
        #[source]
        source: rustls::Error,
    },
    /// The provider lacks what TLS needs. Side: gateway; the build is broken.
    #[error("the cryptographic provider is unusable")]
    Unsupported(#[source] rustls::Error),
    /// A file could not be written. Side: gateway.
    #[error("{} could not be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
}

/// Our side of TLS: hands each new connection the configuration in use. Clones share it.
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

/// Whether a certificate's dates cover a time (RFC 5280 section 4.1.2.5).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Validity {
    Current,
    Expired,
    NotYet,
}

impl Acceptor {
    /// Reads certificate and key: TLS 1.2 and 1.3, `h2` and `http/1.1` by ALPN, session tickets on,
    /// early data off. A certificate outside its dates is used, with a warning: an outage of
    /// everything is worse than a warning in the browser.
    ///
    /// # Errors
    ///
    /// [`Error::Read`], [`Error::BadCertificate`], [`Error::NoCertificate`], [`Error::BadKey`],
    /// [`Error::Refused`] and [`Error::KeyMismatch`], each naming the file.
    pub(crate) fn load(identity: &ServerIdentity, clock: Clock) -> Result<Self, Error> {
        let files = Files::read(identity)?;
        warn_if_others_can_read(&identity.key);
        let loaded = files.load(identity, clock.now())?;
        loaded.warn(identity);
        let loaded = ArcSwap::from_pointee(loaded);
        Ok(Self(Arc::new(Shared { clock, loaded })))
    }

    /// Uses what `other` has loaded, in all clones: new handshakes use its certificate, and later
    /// calls of [`Acceptor::refresh`] read its files.
    pub(crate) fn adopt(&self, other: &Self) {
        self.0.loaded.store(other.0.loaded.load_full());
    }

    /// Reads the files again and uses them if their contents changed, through whatever links lead
    /// to them (Kubernetes swaps a link). Blocks for two small reads.
    ///
    /// # Errors
    ///
    /// As [`Acceptor::load`]; what was in use stays in use, and the next call tries again.
    pub(crate) fn refresh(&self) -> Result<Refreshed, Error> {
        let shared = &self.0;
        let current = shared.loaded.load();
        let identity = &current.identity;
        let files = Files::read(identity)?;
        let now = shared.clock.now();
        if files.contents == current.contents {
            let validity = validity(&current.leaf, now);
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

    /// The configuration for the next handshake.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.loaded.load().config)
    }
}

impl Shared {
    /// Puts `loaded` in the place of `current`, unless another certificate was adopted meanwhile.
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

/// What the two files hold, and one digest of both to tell a change.
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
        // The length keeps the two apart: a byte that moves from one to the other is a change.
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

    fn load(&self, identity: &ServerIdentity, now: Timestamp) -> Result<Loaded, Error> {
        let chain = certificates(&identity.certificate, &self.certificate)?;
        let leaf = chain.first().cloned().ok_or_else(|| Error::NoCertificate {
            path: identity.certificate.clone(),
        })?;
        ParsedCertificate::try_from(&leaf).map_err(|source| Error::Refused {
            path: identity.certificate.clone(),
            source,
        })?;
        let key =
            PrivateKeyDer::from_pem_slice(self.key.expose()).map_err(|_may_quote_the_key| {
                Error::BadKey {
                    path: identity.key.clone(),
                }
            })?;
        let mut config = ServerConfig::builder_with_provider(crypto())
            .with_safe_default_protocol_versions()
            .map_err(Error::Unsupported)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|source| identity.refused(source))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // New keys for tickets with each certificate: nobody resumes past a replaced identity.
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
            "Certificate is outside its dates"
        );
    }
}

/// The dates are read by verifying against no authority at all: the library looks at the leaf's own
/// dates before it looks for an issuer, so any other refusal means that the dates hold.
fn validity(leaf: &CertificateDer<'_>, now: Timestamp) -> Validity {
    let Ok(parsed) = ParsedCertificate::try_from(leaf) else {
        return Validity::Current;
    };
    let now = UnixTime::since_unix_epoch(Duration::from_millis(now.as_millis()));
    let algorithms = crypto().signature_verification_algorithms.all;
    let refusal = verify_server_cert_signed_by_trust_anchor(
        &parsed,
        &RootCertStore::empty(),
        &[],
        now,
        algorithms,
    );
    match refusal {
        Err(rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => Validity::Expired,
        Err(rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => Validity::NotYet,
        Ok(()) | Err(_) => Validity::Current,
    }
}

fn warn_if_others_can_read(key: &Path) {
    let open = fs::metadata(key).is_ok_and(|data| data.permissions().mode() & 0o007 != 0);
    if open {
        tracing::warn!(
            reason = "key_readable_by_others",
            file.path = %key.display(),
            "Private key can be read by every user of this machine"
        );
    }
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

/// Every certificate of a PEM text; one that is broken or none at all is an error.
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
