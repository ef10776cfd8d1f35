//! Advice for the operator about a refused certificate.

use rustls::CertificateError;

/// A TLS handshake that failed, with the advice for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{error}; {advice}")]
pub(crate) struct AdvisedError {
    /// The error of the TLS handshake.
    pub(crate) error: rustls::Error,
    advice: &'static str,
}

impl AdvisedError {
    /// Adds the advice to `error`. Returns `None` if there is no advice.
    pub(crate) fn of(error: &rustls::Error) -> Option<Self> {
        advice(error).map(|advice| Self {
            error: error.clone(),
            advice,
        })
    }
}

/// Returns the advice for a TLS handshake that has failed with `error`. Returns `None` if there is
/// no advice for `error`.
fn advice(error: &rustls::Error) -> Option<&'static str> {
    let rustls::Error::InvalidCertificate(problem) = error else {
        return None;
    };
    if matches!(
        problem,
        CertificateError::UnknownIssuer
            | CertificateError::BadSignature
            | CertificateError::Other(_)
    ) {
        Some(
            "if this is the right server, name the certificate of its authority, or its own \
             self-signed certificate, with `ca_file`",
        )
    } else if matches!(problem, CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty())
    {
        Some("the certificate has no subjectAltName; create a certificate with a subjectAltName")
    } else if matches!(
        problem,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
    ) {
        Some("if this is the right server, write the name in the certificate as `server_name`")
    } else if matches!(
        problem,
        CertificateError::Expired | CertificateError::ExpiredContext { .. }
    ) {
        Some(
            "the server needs a new certificate; if `ca_file` contains the old certificate of the \
             server, replace it there, too",
        )
    } else {
        None
    }
}
