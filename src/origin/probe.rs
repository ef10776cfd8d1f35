//! Opens a connection and reports the results, for the command `sidegate check --online`.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rustls::CertificateError;

use super::connector::{Connector, Stream};
use super::error::Error;
use super::protocol::Protocol;
use crate::clock::Timestamp;
use crate::telemetry::chain;
use crate::tls;

/// States how serious the result of a check is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Grade {
    /// The check succeeded.
    Good,
    /// The check succeeded, but something will probably fail later or for some users.
    Warning,
    /// The check failed, so requests or logins would also fail.
    Problem,
}

/// The result of one check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// The grade.
    pub grade: Grade,
    /// The setting that the operator can change if the check failed.
    pub key: String,
    /// A description of what the check has found.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grade = match self.grade {
            Grade::Good => "ok",
            Grade::Warning => "warning",
            Grade::Problem => "problem",
        };
        write!(f, "{grade} {}: {}", self.key, self.text)
    }
}

/// The findings about one provider or one app.
#[derive(Debug)]
pub(crate) struct Findings {
    /// The name of the settings table of the provider or of the app.
    table: String,
    list: Vec<Finding>,
    /// The settings key and the name of the step that runs now.
    step: (&'static str, String),
}

impl Findings {
    /// Creates an empty list of findings for the settings table `table`, such as `providers.main`.
    pub(crate) fn new(table: String) -> Self {
        Self {
            table,
            list: Vec::new(),
            step: ("", String::new()),
        }
    }

    /// States which step begins. If the step does not end in time, [`Self::time_out`] adds a
    /// finding that names the step.
    pub(crate) fn begin(&mut self, key: &'static str, step: impl Into<String>) {
        self.step = (key, step.into());
    }

    /// Adds a finding about a check that succeeded.
    pub(crate) fn good(&mut self, key: &'static str, text: impl Into<String>) {
        self.add(Grade::Good, key, text.into());
    }

    /// Adds a warning.
    pub(crate) fn warning(&mut self, key: &'static str, text: impl Into<String>) {
        self.add(Grade::Warning, key, text.into());
    }

    /// Adds a finding about a check that failed.
    pub(crate) fn problem(&mut self, key: &'static str, text: impl Into<String>) {
        self.add(Grade::Problem, key, text.into());
    }

    /// Reports that the current step took longer than `limit`.
    pub(crate) fn time_out(&mut self, limit: Duration) {
        let (key, step) = std::mem::take(&mut self.step);
        let text = format!("{step} took longer than {} s", limit.as_secs());
        self.problem(key, text);
    }

    /// Returns all findings.
    pub(crate) fn into_list(self) -> Vec<Finding> {
        self.list
    }

    fn add(&mut self, grade: Grade, key: &'static str, text: String) {
        let key = format!("{}.{key}", self.table);
        self.list.push(Finding { grade, key, text });
    }
}

/// Whether the connection could be opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum Reached {
    Yes,
    No,
}

impl Connector {
    /// Opens a connection, and reports the results of the name look-up, the connection, the
    /// certificate check and the choice of the protocol. `key` is the name of the setting that
    /// contains the URL.
    pub(crate) async fn probe(
        &self,
        key: &'static str,
        now: Timestamp,
        findings: &mut Findings,
    ) -> Reached {
        let (host, address) = (self.origin().host(), self.origin().authority().to_owned());
        findings.begin(key, format!("the connection to {address}"));
        let outcome = self.connect().await;
        // If the connection goes through a proxy, the proxy looks up the name of the origin.
        let failed = matches!(outcome, Err(Error::Resolve(_) | Error::ConnectTimeout));
        let resolved = !failed && !self.has_proxy();
        if resolved && host.parse::<IpAddr>().is_err() {
            findings.good(key, format!("the name {host} has an address"));
        }
        if matches!(outcome, Ok(_) | Err(Error::Tls(_) | Error::NoHttp2(_))) {
            match self.forwarding_proxy() {
                // The proxy connects to the origin only when the gateway sends a request to the
                // proxy.
                Some(proxy) => {
                    findings.good(key, format!("the proxy {proxy} accepts connections"));
                }
                None => findings.good(key, format!("{address} accepts connections")),
            }
        }
        match outcome {
            Ok(stream) => {
                certificate(&stream, &host, (key, now), findings);
                if self.protocol() == Protocol::Http2 && self.origin().is_encrypted() {
                    findings.good("protocol", "the app chose HTTP/2 by ALPN");
                }
                Reached::Yes
            }
            Err(error) => {
                let (key, text) = failure(&error, key, &host, &address);
                findings.problem(key, text);
                Reached::No
            }
        }
    }
}

/// Reports how long the certificate is valid.
fn certificate(
    stream: &Stream,
    host: &str,
    (key, now): (&'static str, Timestamp),
    findings: &mut Findings,
) {
    let Some(leaf) = stream.peer_certificate() else {
        return;
    };
    match tls::days_left(leaf, now) {
        Some(days) => findings.warning(
            key,
            format!("the certificate of {host} expires within {days} days; renew it"),
        ),
        None => findings.good(
            key,
            format!(
                "the certificate of {host} is trusted, and is valid for at least {} days",
                tls::WARNING_DAYS
            ),
        ),
    }
}

/// Returns the setting that the operator can change, and a text that explains the error.
fn failure(error: &Error, key: &'static str, host: &str, address: &str) -> (&'static str, String) {
    match error {
        Error::Resolve(source) => (key, format!("the name {host} has no address: {source}")),
        Error::Connect(source) => (key, format!("{address} accepts no connection: {source}")),
        Error::ConnectTimeout => (
            key,
            format!("{address} did not accept a connection in time"),
        ),
        Error::NoHttp2(source) => (
            "protocol",
            format!("{address} does not speak HTTP/2 ({source}); write protocol = \"http1\""),
        ),
        proxied @ Error::Proxy { .. } => ("proxy", chain(proxied)),
        Error::Tls(source) => refused_certificate(source, key, host, address),
        other @ (Error::BadSwitch
        | Error::BodyTimeout
        | Error::Broken(_)
        | Error::Busy
        | Error::CallTimeout
        | Error::Evicted(_)
        | Error::Framing
        | Error::HeadTimeout
        | Error::HeadTooLarge(_)
        | Error::Http2(_)
        | Error::RequestBody(_)
        | Error::TooLarge
        | Error::TooManyFields(_)
        | Error::Unconfigured
        | Error::UnrequestedUpgrade) => (key, chain(other)),
    }
}

/// Returns the setting that the operator can change after a failed TLS handshake, and a text that
/// explains the failure.
fn refused_certificate(
    source: &io::Error,
    key: &'static str,
    host: &str,
    address: &str,
) -> (&'static str, String) {
    let inner = source.get_ref();
    let advised = inner.and_then(|inner| inner.downcast_ref::<tls::AdvisedError>());
    let refused = advised.map(|advised| &advised.error);
    let refused = refused.or_else(|| inner?.downcast_ref());
    let Some(rustls::Error::InvalidCertificate(refusal)) = refused else {
        return (
            key,
            format!("the TLS handshake with {address} failed: {source}"),
        );
    };
    // If the operator created a certificate authority again, the new authority has the same name
    // but another key. If the settings name the certificate of the old certificate authority, a
    // certificate from the new authority causes the error `BadSignature`.
    if let CertificateError::UnknownIssuer | CertificateError::BadSignature = refusal {
        let text = format!(
            "the certificate of {host} is not trusted; name the certificate of its authority with \
             ca_file"
        );
        return ("ca_file", text);
    }
    let text = if matches!(
        refusal,
        CertificateError::Expired | CertificateError::ExpiredContext { .. }
    ) {
        format!("the certificate of {host} has expired; renew it")
    } else if matches!(
        refusal,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
    ) {
        format!("the certificate is not for the name {host}: {source}")
    } else {
        format!("the certificate of {host} is refused: {refusal}")
    };
    (key, text)
}
