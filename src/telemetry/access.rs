//! The access-log events.

use std::net::IpAddr;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use tracing::Level;

use super::{ACCESS, DecisionLabel};

/// The maximum length of a `User-Agent` in the log.
const MAX_USER_AGENT: usize = 256;

/// Returns true if the log contains the access-log events.
#[inline]
pub(crate) fn logs_requests() -> bool {
    tracing::enabled!(target: ACCESS, Level::INFO)
}

/// The content of a request's access-log event.
#[derive(Debug)]
pub(crate) struct RequestEvent {
    /// The id of the request, which contains only visible ASCII characters.
    pub(crate) request_id: HeaderValue,
    pub(crate) method: Method,
    /// The canonical target. `target` is `None` if the request target has no canonical form. The
    /// query is not logged.
    pub(crate) target: Option<PathAndQuery>,
    pub(crate) version: Version,
    /// The canonical host, with its port if the port is not the default port.
    pub(crate) authority: Option<HeaderValue>,
    /// The user, in the form that the settings of the log select.
    pub(crate) user: Option<String>,
    /// The client's program, as [`user_agent`] returns it.
    pub(crate) user_agent: Option<Box<str>>,
    /// The protocol to which client and app have switched.
    pub(crate) upgrade: Option<Box<str>>,
    /// The kind of the proxy that has asked whether it may forward the request. `None` if the
    /// request is not an auth check.
    pub(crate) auth_check: Option<&'static str>,
    /// The address of the client after the check for trusted proxies.
    pub(crate) client: IpAddr,
    /// The status of the response.
    pub(crate) status: StatusCode,
    /// The route's name.
    pub(crate) route: Option<Box<str>>,
    /// The decision.
    pub(crate) decided: DecisionLabel,
    /// The reason code, if the gateway itself answered the request.
    pub(crate) reason: Option<&'static str>,
    /// The code that states how the answer ended.
    pub(crate) end: &'static str,
    /// The number of bytes that the client has sent after the request's head.
    pub(crate) from_client: u64,
    /// The number of bytes that the gateway has sent to the client after the response's head.
    pub(crate) to_client: u64,
    /// The time from the request's head to the end of the answer.
    pub(crate) duration: Duration,
    /// The time from the request's head to the response's head. The value is `None` if there was no
    /// response.
    pub(crate) head_duration: Option<Duration>,
    /// The part of `head_duration` during which the request waited for its session.
    pub(crate) waited: Option<Duration>,
    /// The part of `head_duration` during which the gateway waited for the head of the upstream's
    /// response.
    pub(crate) upstream_duration: Option<Duration>,
    /// The upstream's name.
    pub(crate) upstream: Option<Box<str>>,
}

impl RequestEvent {
    /// Writes the event at the end of a request.
    pub(crate) fn log(&self) {
        let (address, port) = self.server();
        tracing::event!(
            target: ACCESS,
            Level::INFO,
            request.id = self.request_id(),
            http.request.method = self.method.as_str(),
            url.path = self.path(),
            server.address = address,
            server.port = port,
            network.protocol.name = "http",
            network.protocol.version = version(self.version),
            upgrade = self.upgrade.as_deref(),
            auth_check = self.auth_check,
            client.address = %self.client,
            enduser.id = self.user.as_deref(),
            user_agent.original = self.user_agent.as_deref(),
            http.response.status_code = self.status.as_u16(),
            route = self.route.as_deref(),
            decision = self.decided.as_str(),
            reason = self.reason,
            end = self.end,
            http.request.body.size = self.from_client,
            http.response.body.size = self.to_client,
            duration_us = micros(self.duration),
            head_us = self.head_duration.map(micros),
            waited_us = self.waited.map(micros),
            upstream_us = self.upstream_duration.map(micros),
            upstream = self.upstream.as_deref(),
            "Request"
        );
    }

    /// Writes the access-log event when a stream begins.
    pub(crate) fn log_stream(&self) {
        tracing::event!(
            target: ACCESS,
            Level::INFO,
            request.id = self.request_id(),
            http.request.method = self.method.as_str(),
            url.path = self.path(),
            upgrade = self.upgrade.as_deref(),
            client.address = %self.client,
            enduser.id = self.user.as_deref(),
            http.response.status_code = self.status.as_u16(),
            route = self.route.as_deref(),
            "Stream opened"
        );
    }

    fn request_id(&self) -> Option<&str> {
        self.request_id.to_str().ok()
    }

    fn server(&self) -> (Option<&str>, Option<u16>) {
        let authority = self.authority.as_ref();
        let parts = authority.and_then(|value| value.to_str().ok()).map(split);
        parts.map_or((None, None), |(host, port)| (Some(host), port))
    }

    fn path(&self) -> Option<&str> {
        self.target.as_ref().map(PathAndQuery::path)
    }
}

/// Returns the host and the port of an authority.
fn split(authority: &str) -> (&str, Option<u16>) {
    let parts = authority.rsplit_once(':');
    // A colon in brackets belongs to an IPv6 address.
    let port = parts.and_then(|(host, port)| Some((host, port.parse().ok()?)));
    port.map_or((authority, None), |(host, port)| (host, Some(port)))
}

/// Returns the `User-Agent` of a request for the log: at most 256 characters, each of them a
/// visible ASCII character or a space. A `?` replaces each byte that is not a visible ASCII
/// character or a space.
pub(crate) fn user_agent(headers: &HeaderMap) -> Option<Box<str>> {
    let bytes = headers.get(header::USER_AGENT)?.as_bytes();
    let mut text = bytes.get(..MAX_USER_AGENT).unwrap_or(bytes).to_vec();
    for byte in &mut text {
        if !matches!(byte, b' '..=b'~') {
            *byte = b'?';
        }
    }
    Some(String::from_utf8(text).ok()?.into())
}

/// Returns the version of HTTP as OpenTelemetry writes it.
fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_agent_is_short_and_has_no_special_characters() {
        let read = |value: &[u8]| {
            let value = HeaderValue::from_bytes(value).unwrap();
            user_agent(&HeaderMap::from_iter([(header::USER_AGENT, value)])).unwrap()
        };
        assert_eq!(&*read(b"curl/8 (\"x\")"), "curl/8 (\"x\")");
        assert_eq!(&*read("a\tb\u{e9}".as_bytes()), "a?b??");
        assert_eq!(read(&[b'a'; 300]).len(), 256);
        assert_eq!(user_agent(&HeaderMap::new()), None);
    }

    #[test]
    fn the_host_and_the_port_are_separate_fields() {
        for (authority, expected) in [
            ("app.test", ("app.test", None)),
            ("app.test:8443", ("app.test", Some(8443))),
            ("[::1]", ("[::1]", None)),
            ("[::1]:80", ("[::1]", Some(80))),
        ] {
            assert_eq!(split(authority), expected, "{authority}");
        }
    }
}
