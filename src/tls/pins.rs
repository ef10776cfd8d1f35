//! Verifies the certificate of a server against a list that can contain the certificate itself.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::{Error, crypto, without_authorities};

/// Accepts the certificates that the listed authorities have signed, and the listed certificates
/// themselves.
///
/// A self-signed certificate is usually made by `openssl req -x509`. `openssl` marks this
/// certificate as a certificate authority. The TLS library does not accept a certificate authority
/// as the certificate of a server. The verifier accepts a listed certificate only if the server
/// presents exactly this certificate. The current time must be in the validity period of the
/// certificate, and the certificate must be valid for the name of the server. For every
/// certificate, the TLS library verifies that the server has the private key.
#[derive(Debug)]
pub(super) struct PinVerifier {
    authorities: Arc<WebPkiServerVerifier>,
    pins: Vec<CertificateDer<'static>>,
}

impl PinVerifier {
    pub(super) fn new(
        authorities: RootCertStore,
        pins: Vec<CertificateDer<'static>>,
    ) -> Result<Self, Error> {
        let authorities = Arc::new(authorities);
        let authorities = WebPkiServerVerifier::builder_with_provider(authorities, crypto());
        let authorities = authorities.build().map_err(Error::Verifier)?;
        Ok(Self { authorities, pins })
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.pins.iter().any(|pin| pin == end_entity) {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            check_dates(&parsed, now)?;
            verify_server_name(&parsed, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.authorities.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// Checks the validity period of a certificate. The TLS library checks the validity period before
/// all other properties. The check trusts no authority, so the TLS library returns an error even if
/// the current time is in the validity period. The error is `Other` for a certificate that is
/// marked as an authority, and `UnknownIssuer` for any other certificate. This function ignores the
/// errors `Other` and `UnknownIssuer`, and returns every other error.
fn check_dates(certificate: &ParsedCertificate<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    match without_authorities(certificate, now) {
        Ok(())
        | Err(rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::Other(_),
        )) => Ok(()),
        Err(error) => Err(error),
    }
}
