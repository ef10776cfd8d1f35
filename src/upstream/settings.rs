//! The settings of an upstream.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::url::AppUrl;
use super::{AssertionNames, BasicSettings, Bearer, CredentialSettings, FieldName};
#[cfg(test)]
use crate::origin::Origin;
use crate::origin::{AnswerLimits, Protocol};

/// The longest duration that the settings may contain: one week. If a duration is longer than one
/// week, the operator has probably used the wrong unit.
const LONGEST: u64 = 7 * 24 * 60 * 60;

const DEFAULT_TUNNELS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9_999);

/// The settings of one app. In the settings file, durations are whole seconds.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The app's URL: `http://host:port` or `https://host:port`, and the path below which the app is
    /// on its server, if this path is not `/`.
    pub(crate) url: AppUrl,
    /// The version of HTTP that the app speaks.
    #[serde(default)]
    pub(crate) protocol: Protocol,
    /// Whether the field names of requests begin each word with a capital letter. Field names are
    /// case-insensitive (RFC 9110 section 5.1), but some apps compare them in this form only.
    #[serde(default)]
    pub(crate) title_case_fields: bool,
    /// A PEM file with the certificates that are trusted for an `https` app: certificate
    /// authorities, or the certificate of the app itself. By default, the gateway trusts the
    /// certificate authorities of the system.
    #[serde(default)]
    pub(crate) ca_file: Option<PathBuf>,
    /// The name for which the certificate of an `https` app must be valid. By default, the
    /// certificate must be valid for the host in `url`.
    #[serde(default)]
    pub(crate) server_name: Option<String>,
    /// The maximum number of open connections to the app, over all workers. If the app has a fixed
    /// number of processes or threads, set `connections` to this number.
    #[serde(default = "default_connections")]
    pub(crate) connections: NonZeroUsize,
    /// The maximum number of requests that wait for a connection. When the queue is full, further
    /// requests get the status 503. By default, the queue has enough places for two browsers that
    /// each send 128 requests at the same time.
    #[serde(default = "default_queue")]
    pub(crate) queue: usize,
    /// The longest time that a request waits for a connection.
    #[serde(
        default = "default_queue_wait",
        rename = "queue_wait_secs",
        deserialize_with = "seconds"
    )]
    pub(crate) queue_wait: Duration,
    /// The longest time for which an exchange may wait for its own client while other requests wait
    /// for a connection. After this time, the gateway ends the exchange, so that a waiting request
    /// gets a connection.
    #[serde(
        default = "default_slow_client",
        rename = "slow_client_secs",
        deserialize_with = "seconds"
    )]
    pub(crate) slow_client: Duration,
    /// The largest part of the app's connections that one client can hold while requests of other
    /// clients wait. All requests of a session count as requests of one client. Requests without a
    /// session belong to one client if they come from the same IPv4 address or the same IPv6 /64
    /// network.
    #[serde(default)]
    pub(crate) max_share: Share,
    /// The maximum number of open connections, over all workers, on which the app has switched to
    /// another protocol, such as WebSocket. When the number of switched connections has reached
    /// `tunnels`, further requests to switch the protocol get the status 503. For an app with
    /// HTTP/2, the gateway refuses requests to switch the protocol.
    #[serde(default)]
    pub(crate) tunnels: Option<NonZeroUsize>,
    /// The time limit for name look-up, connection and TLS handshake together.
    #[serde(
        default = "default_connect_timeout",
        rename = "connect_timeout_secs",
        deserialize_with = "seconds"
    )]
    pub(crate) connect_timeout: Duration,
    /// The longest time from the end of the request to the complete head of the response. Whenever
    /// the app accepts a part of the request, this time limit begins again.
    #[serde(
        default = "default_response_timeout",
        rename = "response_timeout_secs",
        deserialize_with = "seconds"
    )]
    pub(crate) response_timeout: Duration,
    /// The longest time for which the app may send no bytes of a response body. The value 0 means
    /// no limit. If the app sends responses that can pause for any time, such as server-sent
    /// events, set `body_timeout_secs` to 0.
    #[serde(
        default = "default_body_timeout",
        rename = "body_timeout_secs",
        deserialize_with = "seconds_or_never"
    )]
    pub(crate) body_timeout: Option<Duration>,
    /// The maximum size of the head of an answer, in bytes.
    #[serde(
        default = "default_answer_head",
        rename = "answer_head_kib",
        deserialize_with = "answer_head"
    )]
    pub(crate) answer_head: usize,
    /// The maximum number of fields of an answer.
    #[serde(default = "default_answer_fields", deserialize_with = "answer_fields")]
    pub(crate) answer_fields: usize,
    /// A connection that has been idle for longer than this time is not used again. If the app
    /// speaks HTTP/1.1, the app must keep an idle connection open for longer than this time. The
    /// default depends on the setting `protocol`.
    #[serde(
        default,
        rename = "idle_timeout_secs",
        deserialize_with = "some_seconds"
    )]
    pub(super) idle_timeout: Option<Duration>,
    /// Whether the app gets the `Host` of the browser's request instead of the host in `url`.
    #[serde(default = "default_preserve_host")]
    pub(crate) preserve_host: bool,
    /// The names of the assertion fields. By default, the upstream uses the names in the section
    /// `assertions` of the settings.
    #[serde(default)]
    pub(super) assertions: Option<AssertionNames>,
    /// The token that the app gets.
    #[serde(default)]
    pub(super) bearer: Option<Bearer>,
    /// The field that contains the token, instead of `Authorization`.
    #[serde(default)]
    pub(super) token_field: Option<FieldName>,
    /// The user name and the password that the app gets.
    #[serde(default)]
    pub(super) basic: Option<BasicSettings>,
}

impl Settings {
    /// A connection that has been idle for longer than this time is not used again.
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.idle_timeout.unwrap_or(match self.protocol {
            // Many app servers close a connection that has been idle for 5 seconds. If the gateway
            // sends a request while the app closes the connection, the request fails.
            Protocol::Http1 => Duration::from_secs(4),
            // An HTTP/2 server announces the end of a connection, so no request is lost.
            Protocol::Http2 => Duration::from_mins(5),
        })
    }

    /// Removes the settings of the fields that the app gets from `self`, and returns these
    /// settings. The settings that stay in `self` describe only the connections to the app. A
    /// change of the fields therefore does not close the connections.
    pub(crate) fn take_fields(&mut self) -> (Option<AssertionNames>, CredentialSettings) {
        let credentials = CredentialSettings {
            bearer: self.bearer.take(),
            token_field: self.token_field.take(),
            basic: self.basic.take(),
        };
        (self.assertions.take(), credentials)
    }

    /// The maximum number of open connections on which the app has switched to another protocol.
    pub(crate) fn tunnels(&self) -> NonZeroUsize {
        self.tunnels.unwrap_or(DEFAULT_TUNNELS)
    }

    /// Creates the settings of an app at `url` with default values.
    #[cfg(test)]
    pub(super) fn new(url: Origin) -> Self {
        Self {
            url: url.into(),
            protocol: Protocol::default(),
            title_case_fields: false,
            ca_file: None,
            server_name: None,
            connections: default_connections(),
            queue: default_queue(),
            queue_wait: default_queue_wait(),
            slow_client: default_slow_client(),
            max_share: Share::default(),
            tunnels: None,
            connect_timeout: default_connect_timeout(),
            response_timeout: default_response_timeout(),
            body_timeout: default_body_timeout(),
            answer_head: default_answer_head(),
            answer_fields: default_answer_fields(),
            idle_timeout: None,
            preserve_host: default_preserve_host(),
            assertions: None,
            bearer: None,
            token_field: None,
            basic: None,
        }
    }
}

/// A fraction, in thousandths. In the settings, the value is a number from 0.001 to 1.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "f64")]
pub(crate) struct Share(u16);

impl Share {
    /// Returns the share in thousandths, from 1 to 1000.
    pub(super) fn thousandths(self) -> u16 {
        self.0
    }
}

impl Default for Share {
    fn default() -> Self {
        Self(500)
    }
}

impl TryFrom<f64> for Share {
    type Error = &'static str;

    fn try_from(share: f64) -> Result<Self, &'static str> {
        if !(0.001..=1.0).contains(&share) {
            return Err("must be at least 0.001 and at most 1");
        }
        #[expect(
            clippy::as_conversions,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the number is between 1 and 1000"
        )]
        Ok(Self((share * 1000.0).round() as u16))
    }
}

fn default_connections() -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(255)
}

fn default_queue() -> usize {
    256
}

fn default_queue_wait() -> Duration {
    Duration::from_secs(5)
}

fn default_slow_client() -> Duration {
    Duration::from_secs(5)
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_response_timeout() -> Duration {
    Duration::from_mins(1)
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "serde wants the type of the field"
)]
fn default_body_timeout() -> Option<Duration> {
    Some(Duration::from_mins(5))
}

fn default_answer_head() -> usize {
    AnswerLimits::default().head_bytes
}

fn default_answer_fields() -> usize {
    AnswerLimits::default().fields
}

/// Reads a size in KiB. hyper needs a buffer of at least 8 KiB.
fn answer_head<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let kib = usize::deserialize(deserializer)?;
    if !(8..=1024).contains(&kib) {
        return Err(serde::de::Error::custom(
            "must be at least 8 and at most 1024",
        ));
    }
    Ok(kib.saturating_mul(1024))
}

fn answer_fields<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let fields = usize::deserialize(deserializer)?;
    if !(1..=10_000).contains(&fields) {
        return Err(serde::de::Error::custom(
            "must be at least 1 and at most 10000",
        ));
    }
    Ok(fields)
}

fn default_preserve_host() -> bool {
    true
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = bounded(deserializer)?;
    seconds.ok_or_else(|| serde::de::Error::custom("must be at least 1 second"))
}

fn some_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    seconds(deserializer).map(Some)
}

fn seconds_or_never<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    bounded(deserializer)
}

/// Reads a duration as a number of seconds. Returns `None` for zero.
fn bounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    match u64::deserialize(deserializer)? {
        0 => Ok(None),
        seconds if seconds <= LONGEST => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(serde::de::Error::custom(TooLong)),
    }
}

struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "must be at most {LONGEST} seconds")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Settings, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_url_is_enough() {
        let settings = parse(r#"{"url": "http://127.0.0.1:8000"}"#).unwrap();
        let url = "http://127.0.0.1:8000".parse().unwrap();
        assert_eq!(settings, Settings::new(url));
        assert_eq!(settings.connections.get(), 256);
        assert_eq!(settings.body_timeout, Some(Duration::from_mins(5)));
        assert_eq!(settings.slow_client, Duration::from_secs(5));
        assert_eq!(settings.max_share.thousandths(), 500);
    }

    #[test]
    fn every_key_is_read_in_seconds() {
        let settings = parse(
            r#"{"url": "https://app", "ca_file": "/ca.pem", "connections": 1, "queue": 0,
                "queue_wait_secs": 1, "connect_timeout_secs": 2, "response_timeout_secs": 3,
                "body_timeout_secs": 0, "idle_timeout_secs": 7, "preserve_host": false,
                "tunnels": 7, "slow_client_secs": 8, "max_share": 0.25,
                "answer_head_kib": 8, "answer_fields": 7}"#,
        )
        .unwrap();
        assert_eq!(settings.queue_wait, Duration::from_secs(1));
        assert_eq!(settings.connect_timeout, Duration::from_secs(2));
        assert_eq!(settings.response_timeout, Duration::from_secs(3));
        assert_eq!(settings.body_timeout, None);
        assert_eq!(settings.idle_timeout(), Duration::from_secs(7));
        assert!(!settings.preserve_host);
        assert_eq!(settings.tunnels().get(), 7);
        assert_eq!(settings.slow_client, Duration::from_secs(8));
        assert_eq!(settings.max_share.thousandths(), 250);
        assert_eq!((settings.answer_head, settings.answer_fields), (8192, 7));
    }

    #[test]
    fn an_app_speaks_http_1_unless_the_settings_say_otherwise() {
        let settings = parse(r#"{"url": "http://a"}"#).unwrap();
        assert_eq!(settings.protocol, Protocol::Http1);
        assert_eq!(settings.idle_timeout(), Duration::from_secs(4));
        assert_eq!(settings.tunnels().get(), 10_000);
        let settings = parse(r#"{"url": "http://a", "protocol": "http2"}"#).unwrap();
        assert_eq!(settings.protocol, Protocol::Http2);
        assert_eq!(settings.idle_timeout(), Duration::from_mins(5));
    }

    #[test]
    fn errors_name_the_setting() {
        for (json, said) in [
            ("{}", "missing field `url`"),
            (r#"{"url": "http://a/b?c"}"#, "must end after the path"),
            (
                r#"{"url": "http://a", "conections": 1}"#,
                "unknown field `conections`",
            ),
            (r#"{"url": "http://a", "connections": 0}"#, "nonzero"),
            (
                r#"{"url": "http://a", "protocol": "h2"}"#,
                "unknown variant `h2`, expected `http1` or `http2`",
            ),
            (
                r#"{"url": "http://a", "idle_timeout_secs": 0}"#,
                "at least 1 second",
            ),
            (
                r#"{"url": "http://a", "connect_timeout_secs": 0}"#,
                "at least 1 second",
            ),
            (
                r#"{"url": "http://a", "slow_client_secs": 0}"#,
                "at least 1 second",
            ),
            (
                r#"{"url": "http://a", "answer_head_kib": 7}"#,
                "at least 8 and at most 1024",
            ),
            (
                r#"{"url": "http://a", "answer_head_kib": 1025}"#,
                "at least 8 and at most 1024",
            ),
            (
                r#"{"url": "http://a", "answer_fields": 0}"#,
                "at least 1 and at most 10000",
            ),
            (
                r#"{"url": "http://a", "answer_fields": 10001}"#,
                "at least 1 and at most 10000",
            ),
            (
                r#"{"url": "http://a", "max_share": 0}"#,
                "at least 0.001 and at most 1",
            ),
            (
                r#"{"url": "http://a", "max_share": 1.1}"#,
                "at least 0.001 and at most 1",
            ),
            (
                r#"{"url": "http://a", "response_timeout_secs": 60000000}"#,
                "at most 604800 seconds",
            ),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(said), "{json}: {error}");
        }
    }
}
