//! A certificate authority for one test.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use sidegate::clock::Clock;

/// An authority that only this test trusts.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The paths of a certificate and its key.
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// A certificate and its key, in PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Identity {
    /// Signs a certificate for `names` with its own key, and marks it as an authority, as
    /// `openssl req -x509` does.
    pub(crate) fn self_signed(names: &[&str]) -> Self {
        Self::changed(names, |_params| ())
    }

    /// Like [`Identity::self_signed`]. The certificate has expired.
    pub(crate) fn expired(names: &[&str]) -> Self {
        Self::changed(names, |params| params.not_after = date_time_ymd(2020, 1, 1))
    }

    fn changed(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = params_of(names);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Self {
            certificate: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

fn params_of(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).unwrap()
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // The subject of the certificates differs from the subject of the authority, because
        // BoringSSL considers a certificate to be self-signed if both subjects are equal.
        let name = "test authority";
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    /// Writes a certificate for `names` and its key into `folder`.
    pub(crate) fn issue(&self, folder: &Path, names: &[&str]) -> Files {
        self.issue_with(folder, names, |_params| ())
    }

    /// Writes a certificate that expires after `left`, or expired an hour ago.
    pub(crate) fn issue_until(
        &self,
        folder: &Path,
        names: &[&str],
        left: Option<Duration>,
    ) -> Files {
        let now = Duration::from_secs(Clock::system().now().as_secs());
        let hour_ago = now.saturating_sub(Duration::from_hours(1));
        let end = left.map_or(hour_ago, |left| now + left);
        self.issue_with(folder, names, |params| {
            params.not_after = date_time_ymd(1970, 1, 1) + end;
        })
    }

    fn issue_with(
        &self,
        folder: &Path,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Files {
        let identity = self.identity_with(names, change);
        let files = Files {
            certificate: folder.join("tls.crt"),
            key: folder.join("tls.key"),
        };
        std::fs::write(&files.certificate, identity.certificate).unwrap();
        std::fs::write(&files.key, identity.key).unwrap();
        files
    }

    /// Creates a certificate for `names` and its key.
    pub(crate) fn identity(&self, names: &[&str]) -> Identity {
        self.identity_with(names, |_| {})
    }

    fn identity_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = params_of(names);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// The certificate of the authority, for settings that name it.
    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A client that trusts only this authority and offers `protocols` by ALPN.
    pub(crate) fn client(&self, protocols: &[&str]) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from(self.issuer.der().to_vec()))
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        Arc::new(config)
    }
}
