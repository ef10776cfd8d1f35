//! Requests and connections that the gateway refuses before it decides about a user.
//!
//! Each refusal counts in the metrics. If a setting can be the cause, the log contains one warning
//! for the reason in each minute, and the warning names the setting. So a flood of wrong requests
//! does not fill the log.

use std::error::Error as StdError;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, Response};

use super::{Body, ClientConnection, Error, Record, Worker, WorkerSite};
use crate::fields::forwarded::may_come_from_tls_proxy;
use crate::fields::request_id::X_REQUEST_ID;
use crate::server::{Refusal, RequestBody};
use crate::target::Target;
use crate::telemetry::{EventLimiter, chain};

/// The pause between two warnings with the same reason.
const WARNING_PAUSE: Duration = Duration::from_mins(1);
/// The longest host in a warning, in bytes. A name of the DNS is shorter.
const LONGEST_HOST: usize = 256;

/// The warnings about refusals that the log contains already. All versions of the settings share the
/// warnings.
#[derive(Clone, Debug)]
pub(crate) struct RefusalWarnings(Arc<EventLimiter>);

impl Default for RefusalWarnings {
    fn default() -> Self {
        Self(Arc::new(EventLimiter::new(WARNING_PAUSE)))
    }
}

impl RefusalWarnings {
    /// Returns true if the log contains no warning with this reason in the current minute.
    fn are_due(&self, reason: &'static str, now: Duration) -> bool {
        self.0.is_due(reason, now)
    }
}

impl WorkerSite {
    fn is_warning_due(&self, reason: &'static str) -> bool {
        let now = self.clock().since_epoch();
        self.refusal_warnings().are_due(reason, now)
    }

    /// Returns the error for a host that is not in the settings, and warns.
    #[cold]
    pub(super) fn unknown_host(&self, peer: IpAddr, host: &str) -> Error {
        let error = Error::UnknownHost;
        if self.is_warning_due(error.reason()) {
            // The host is canonical, so it contains no control characters.
            let host = host.get(..LONGEST_HOST).unwrap_or(host);
            tracing::warn!(
                client.address = %peer,
                server.address = host,
                reason = error.reason(),
                "Request for a host that is missing in public_url"
            );
        }
        error
    }

    /// Returns the error for plain HTTP from `peer`, which is not a trusted proxy, and warns.
    #[cold]
    pub(super) fn plain_http(&self, peer: IpAddr, headers: &HeaderMap) -> Error {
        let error = if may_come_from_tls_proxy(headers) {
            Error::UnlistedProxy
        } else {
            Error::InsecureTransport
        };
        if self.is_warning_due(error.reason()) {
            tracing::warn!(
                client.address = %peer,
                reason = error.reason(),
                "Plain HTTP from an address that is missing in server.trusted_proxies. List the \
                 address only if it is the address of your proxy"
            );
        }
        error
    }

    /// Warns about a refusal of the server. `target` is the target of the refused request, if it is
    /// known.
    fn warn_about(
        &self,
        peer: IpAddr,
        refusal: Refusal,
        target: Option<&Target>,
        error: Option<&dyn StdError>,
    ) {
        let reason = refusal.reason();
        if !self.is_warning_due(reason) {
            return;
        }
        let error = error.map(chain);
        match refusal {
            Refusal::Flood => tracing::warn!(
                client.address = %peer,
                reason,
                error,
                "An HTTP/2 connection was closed because its client floods the gateway"
            ),
            // Scanners and clients that do not trust the certificate cause such errors all the time.
            Refusal::Handshake => tracing::info!(
                client.address = %peer,
                reason,
                error,
                "A TLS handshake has failed"
            ),
            Refusal::HeadTooLarge => tracing::warn!(
                client.address = %peer,
                server.address = target.map(Target::authority),
                url.path = target.map(Target::path),
                reason,
                error,
                "The head of a request is above the limits server.head_kib and server.fields"
            ),
            Refusal::Malformed => tracing::info!(
                client.address = %peer,
                reason,
                error,
                "A connection was closed because its bytes are not valid HTTP"
            ),
            Refusal::MalformedBody => tracing::info!(
                client.address = %peer,
                reason,
                error,
                "An HTTP/2 request was refused because its body or its trailers are malformed"
            ),
            Refusal::ProxyHeader => tracing::warn!(
                client.address = %peer,
                reason,
                error,
                "A connection begins with a PROXY header, but server.proxy_protocol announces none. \
                 List the address only if it is the address of your load balancer"
            ),
            Refusal::TlsOnPlain => tracing::warn!(
                client.address = %peer,
                reason,
                error,
                "A client uses TLS, but server.listen is plain HTTP. Set server.certificate_file, or \
                 let the proxy in front send plain HTTP"
            ),
        }
    }
}

impl Worker {
    /// Answers a request whose head is above the limits.
    #[cold]
    pub(super) fn refuse_large_head(
        &self,
        client_connection: &ClientConnection,
        mut parts: Parts,
        body: &RequestBody,
    ) -> Response<Body> {
        let (site, client) = (self.site.get(), client_connection.peer.address());
        let target = Target::from_request(&parts).ok();
        site.warn_about(client, Refusal::HeadTooLarge, target.as_ref(), None);
        let id = self.request_id(&site, client, &parts.headers);
        let mut record = Record::new(site, (client, id), &parts, body);
        if let Some(target) = &target {
            record.target(target);
        }
        let id = record.request_id().clone();
        parts.headers.insert(X_REQUEST_ID, id);
        record.refused(&Error::HeadTooLarge, &parts.headers)
    }

    /// Reports that the server has refused the bytes of a client. `head` is the start of the refused
    /// head of a request, if it is known.
    #[cold]
    pub(super) fn report_refusal(
        &self,
        client_connection: &ClientConnection,
        refusal: Refusal,
        error: &dyn StdError,
        head: Option<&Parts>,
    ) {
        let (site, peer) = (self.site.get(), client_connection.peer.address());
        site.metrics().refusal(refusal.reason());
        let target = head.and_then(|head| Target::from_request(head).ok());
        site.warn_about(peer, refusal, target.as_ref(), Some(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d_27_a_reason_is_due_once_a_minute() {
        let warnings = RefusalWarnings::default();
        let all = [
            Refusal::Flood,
            Refusal::Handshake,
            Refusal::HeadTooLarge,
            Refusal::Malformed,
            Refusal::MalformedBody,
            Refusal::ProxyHeader,
            Refusal::TlsOnPlain,
        ];
        let reasons = all.map(Refusal::reason).into_iter();
        let reasons = reasons.chain(["unknown_host", "unlisted_proxy", "insecure_transport"]);
        let reasons: Vec<_> = reasons.collect();
        for minute in [10, 11] {
            let at = Duration::from_mins(minute);
            let due = |now| {
                reasons
                    .iter()
                    .filter(|reason| warnings.are_due(reason, now))
                    .count()
            };
            // No two reasons share a slot of the limiter, so no reason hides another one.
            assert_eq!(due(at), reasons.len());
            for second in 1..60 {
                assert_eq!(due(at + Duration::from_secs(second)), 0, "{second}");
            }
        }
    }
}
