//! Streams: switched connections, and answers that take long. A stream lasts longer than the
//! decision about its request, so the stream is checked again when its session or the settings
//! change.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::rule::Verdict;
use super::{Access, Permit, Route};
use crate::clock::Timestamp;
use crate::session::{EndRegistry, EndWatch, Session, WatchError};
use crate::target::Target;
use crate::upstream::Owner;

/// The largest allowed value of each setting that states a time, in seconds: one week. A value of
/// more than one week is probably a mistake, for example a number of milliseconds instead of
/// seconds.
const LONGEST: u64 = 7 * 24 * 60 * 60;

/// The largest allowed value of the setting `max_lag_kib`, in KiB.
const LARGEST_LAG: usize = 64 * 1024;

/// The settings of a route for its streams: connections on which the app has switched to another
/// protocol, such as WebSocket, and answers that take long, such as server-sent events.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamSettings {
    /// Whether an app may switch protocols.
    #[serde(default = "yes")]
    pub(crate) upgrades: bool,
    /// The origins of other sites whose pages may open a WebSocket with a user's session.
    #[serde(default)]
    pub(crate) origins: Vec<AllowedOrigin>,
    /// The longest time in which neither side sends bytes. 0 means no limit.
    #[serde(default = "idle", rename = "idle_secs", deserialize_with = "seconds")]
    pub(crate) idle: Option<Duration>,
    /// The longest duration of a stream. 0 means no limit.
    #[serde(default, rename = "total_secs", deserialize_with = "seconds")]
    pub(crate) total: Option<Duration>,
    /// The maximum number of connections with a switched protocol that one session may have. A
    /// client address without a session has the same maximum. Long answers are not counted here,
    /// because the connection limit of the upstream already limits the number of long answers.
    #[serde(default = "per_client")]
    pub(crate) per_client: NonZeroUsize,
    /// The maximum number of bytes that the gateway buffers for one side of a switched connection
    /// if this side does not read. `max_lag_kib` does not limit ordinary answers, because the HTTP
    /// library buffers ordinary answers up to a fixed limit.
    #[serde(
        default = "max_lag",
        rename = "max_lag_kib",
        deserialize_with = "kibibytes"
    )]
    pub(crate) max_lag: usize,
    /// Whether the gateway treats the session as used when the client sends bytes.
    #[serde(default = "yes")]
    pub(crate) counts_as_use: bool,
    /// The time for which a stream may continue after a deadline of its session has passed. `None`
    /// means that the stream ends with the session.
    #[serde(default, rename = "grace_secs", deserialize_with = "seconds")]
    pub(crate) grace: Option<Duration>,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            upgrades: yes(),
            origins: Vec::new(),
            idle: idle(),
            total: None,
            per_client: per_client(),
            max_lag: max_lag(),
            counts_as_use: yes(),
            grace: None,
        }
    }
}

fn yes() -> bool {
    true
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "serde wants the type of the field"
)]
fn idle() -> Option<Duration> {
    Some(Duration::from_hours(1))
}

/// A browser opens at most about 255 WebSocket connections to one host.
fn per_client() -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(255)
}

/// Returns the default of the setting `max_lag_kib`, in bytes.
fn max_lag() -> usize {
    64 * 1024
}

/// Parses a setting whose value is a size in KiB. Returns the value of the setting in bytes.
fn kibibytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        kibibytes @ 1..=LARGEST_LAG => Ok(kibibytes.saturating_mul(1024)),
        _ => Err(serde::de::Error::custom(format!(
            "must be between 1 and {LARGEST_LAG} KiB"
        ))),
    }
}

/// Reads a number of seconds. Returns `None` for zero.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    match u64::deserialize(deserializer)? {
        0 => Ok(None),
        seconds if seconds <= LONGEST => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(serde::de::Error::custom(format!(
            "must be at most {LONGEST} seconds"
        ))),
    }
}

/// An origin in the form that browsers send in `Origin` (RFC 6454 section 6.1): scheme, host, and
/// the port if it is not the default port.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub(crate) struct AllowedOrigin(Box<str>);

impl TryFrom<String> for AllowedOrigin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let url = url::Url::parse(&text).ok();
        // The origin of a page is `http` or `https`, even if the page opens a `wss` URL.
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
        let canonical = url.map(|url| url.origin().ascii_serialization());
        match canonical {
            Some(origin) if origin == text && text != "null" => Ok(Self(text.into())),
            Some(origin) if origin != "null" => Err(format!(
                "`{text}` is not an origin as browsers write it; write `{origin}`"
            )),
            Some(_) | None => Err(format!(
                "`{text}` is not an origin; write it like https://app.example.com"
            )),
        }
    }
}

impl AllowedOrigin {
    /// Whether `origin`, the value of a browser's `Origin` field, is equal to this allowed origin.
    pub(crate) fn is(&self, origin: &[u8]) -> bool {
        self.0.as_bytes() == origin
    }
}

/// The result of checking again whether a stream may continue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(crate) enum Continues {
    /// The stream may continue.
    Yes,
    /// The user may not use the route any more, or the route no longer exists.
    No,
}

/// The kind of a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum StreamKind {
    /// The answer of an app to an ordinary request.
    Answer,
    /// A connection on which the app has switched to another protocol.
    Tunnel,
}

/// The permission for a stream: the route, and the session if the request belongs to a session.
#[derive(Debug)]
pub(crate) struct StreamPermit {
    access: Rc<Access>,
    route: Rc<Route>,
    session: Option<Arc<Session>>,
}

impl Permit {
    /// Returns a permit with which the gateway can later check again whether the stream may
    /// continue.
    pub(crate) fn stream(&self) -> StreamPermit {
        StreamPermit {
            access: Rc::clone(&self.access),
            route: Rc::clone(&self.route),
            session: self.session.clone(),
        }
    }

    /// Returns a permit with which the gateway can later check again whether the client may receive
    /// the app's answer. Returns `None` for a CORS preflight without a session. The gateway
    /// forwards this preflight without checking a session or a rule, so there is nothing to check
    /// again.
    pub(crate) fn answer_stream(&self) -> Option<StreamPermit> {
        let checked = self.session.is_some() || self.route.is_public();
        checked.then(|| self.stream())
    }

    /// Whether the request belongs to a session.
    pub(crate) fn has_session(&self) -> bool {
        self.session.is_some()
    }
}

impl StreamPermit {
    /// The client to which the stream belongs. `address` is the address of the client.
    pub(crate) fn owner(&self, address: IpAddr) -> Owner {
        let session = self.session.as_ref();
        Owner::new(session.map(|session| session.key().as_bytes()), address)
    }

    /// The name of the route.
    pub(crate) fn route_name(&self) -> &str {
        self.route.name()
    }

    /// Whether the app may switch to another protocol. A CORS preflight is permitted without a
    /// session, but a preflight must not open a stream on a route that requires a session.
    pub(crate) fn may_switch(&self) -> bool {
        self.settings().upgrades && (self.session.is_some() || self.route.is_public())
    }

    /// The settings of the route's streams.
    pub(crate) fn settings(&self) -> &StreamSettings {
        self.route.streams()
    }

    /// Registers the stream with the registry. The registry informs the stream when the session has
    /// a new version or has ended. Returns `None` if the stream belongs to no session.
    ///
    /// # Errors
    ///
    /// [`WatchError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn watch(
        &mut self,
        registry: &EndRegistry,
    ) -> Result<Option<EndWatch>, WatchError> {
        match &mut self.session {
            Some(session) => Ok(Some(registry.follow(session).await?)),
            None => Ok(None),
        }
    }

    /// Checks the stream against a new version of its session.
    pub(crate) fn renewed(&mut self, session: Arc<Session>) -> Continues {
        let continues = check(&self.route, Some(&session));
        self.session = Some(session);
        continues
    }

    /// Checks whether the stream may continue with the routes of a new site. The stream may
    /// continue only if the route that the new site has for `target` leads to the same path of the
    /// same app.
    pub(crate) fn reloaded(
        &mut self,
        access: &Rc<Access>,
        target: &Target,
        kind: StreamKind,
    ) -> Continues {
        let Some(route) = access.routes.find(target) else {
            return Continues::No;
        };
        let (Some(old), Some(new)) = (self.route.upstream(), route.upstream()) else {
            return Continues::No;
        };
        let is_same_app = old.name() == new.name() && old.origin() == new.origin();
        let is_same_path = self.route.forwarded(target) == route.forwarded(target);
        let kind_allowed = kind == StreamKind::Answer || route.streams().upgrades;
        if !is_same_app || !is_same_path || !kind_allowed {
            return Continues::No;
        }
        self.access = Rc::clone(access);
        self.route = Rc::clone(route);
        check(route, self.session.as_deref())
    }

    /// Sets the session's time of last use to `now`, if `counts_as_use` is true in the route's
    /// settings.
    pub(crate) fn mark_used(&self, now: Timestamp) {
        if let Some(session) = &self.session
            && self.settings().counts_as_use
        {
            // `mark_used` has no effect on a session that has ended. The registry reports the end
            // of the session to the code that watches the stream.
            self.access.sessions.mark_used(session, now);
        }
    }
}

fn check(route: &Route, session: Option<&Session>) -> Continues {
    let allowed = match session {
        None => route.is_public(),
        Some(session) => {
            let verdict = || route.rule.check(session.identity());
            route.is_public()
                || route.provider(session.provider()).is_some() && verdict() == Verdict::Allowed
        }
    };
    if allowed {
        Continues::Yes
    } else {
        Continues::No
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;
    use tokio::runtime::Handle;
    use tokio::task::LocalSet;

    use super::*;
    use crate::access::refresh::tests::{Fixture, NOW};
    use crate::access::{RouteSettings, RouteTable};
    use crate::clock::Clock;
    use crate::session::{EndReason, Replaced};
    use crate::token::{Lifetime, TokenSet};
    use crate::upstream::Upstream;

    fn parse(json: &str) -> Result<StreamSettings, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_table_is_the_default() {
        assert_eq!(parse("{}").unwrap(), StreamSettings::default());
    }

    #[test]
    fn every_key_is_read() {
        let settings = parse(
            r#"{"upgrades": false, "origins": ["https://a.example.com", "http://localhost:8080"],
                "idle_secs": 0, "total_secs": 60, "per_client": 3, "counts_as_use": false,
                "grace_secs": 90, "max_lag_kib": 16}"#,
        )
        .unwrap();
        assert!(!settings.upgrades && !settings.counts_as_use);
        assert_eq!(settings.idle, None);
        assert_eq!(settings.total, Some(Duration::from_mins(1)));
        assert_eq!(settings.per_client.get(), 3);
        assert_eq!(settings.max_lag, 16 * 1024);
        assert_eq!(settings.grace, Some(Duration::from_secs(90)));
        assert!(settings.origins[0].is(b"https://a.example.com"));
        assert!(!settings.origins[0].is(b"https://a.example.com.evil.test"));
        assert!(settings.origins[1].is(b"http://localhost:8080"));
    }

    #[test]
    fn mistakes_are_named() {
        for (json, said) in [
            (r#"{"origins": ["*"]}"#, "`*` is not an origin"),
            (r#"{"origins": ["null"]}"#, "`null` is not an origin"),
            // Browsers never send an origin with the scheme `wss` or `ftp`.
            (r#"{"origins": ["wss://a.test"]}"#, "write it like https://"),
            (r#"{"origins": ["ftp://a.test"]}"#, "write it like https://"),
            (
                r#"{"origins": ["a.example.com"]}"#,
                "write it like https://",
            ),
            (
                r#"{"origins": ["https://A.example.com:443/"]}"#,
                "write `https://a.example.com`",
            ),
            (r#"{"idle_secs": 999999999}"#, "at most 604800 seconds"),
            (r#"{"grace_secs": 604801}"#, "at most 604800 seconds"),
            (r#"{"per_client": 0}"#, "nonzero"),
            (r#"{"max_lag_kib": 0}"#, "between 1 and 65536 KiB"),
            (r#"{"max_lag_kib": 65537}"#, "between 1 and 65536 KiB"),
            (r#"{"idle": 5}"#, "unknown field `idle`"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(said), "{json}: {error}");
        }
    }

    /// Returns a permit for a stream of `session`, on a route that every signed-in user may use.
    fn permit(fixture: &Fixture, session: &Arc<Session>) -> StreamPermit {
        let settings = serde_json::from_value(json!({"url": "http://127.0.0.1:1"})).unwrap();
        let upstream = Arc::new(Upstream::new("app", &settings).unwrap());
        let upstreams = BTreeMap::from([("app".into(), upstream)]);
        let routes = vec![(0, RouteSettings::default())];
        let table = RouteTable::new(routes, &upstreams, &["main"]).unwrap();
        let access = fixture.access(&table);
        let route = Rc::clone(access.routes.iter().next().unwrap());
        let session = Some(Arc::clone(session));
        StreamPermit {
            access,
            route,
            session,
        }
    }

    #[tokio::test]
    async fn a_stream_follows_the_newest_version_and_tells_an_end_from_a_store_that_fails() {
        let follows = async {
            let fixture = Fixture::new(Handle::current());
            let registry = EndRegistry::start(Arc::clone(&fixture.sessions), Clock::manual(NOW));
            let session = fixture.open(Lifetime::default()).await;
            let mut stream = permit(&fixture, &session);
            let tokens = TokenSet::new("new", None, Lifetime::default()).unwrap();
            let replaced = fixture.sessions.replace(&session, tokens, None).await;
            assert!(matches!(replaced, Ok(Replaced::Stored(_))));
            assert!(matches!(stream.watch(&registry).await, Ok(Some(_))));
            assert_eq!(stream.session.as_ref().unwrap().version(), 1);
            let end = fixture.sessions.end(session.key(), EndReason::SignedOut);
            assert!(end.await.is_ok());
            let ended = stream.watch(&registry).await;
            assert_eq!(ended.unwrap_err(), WatchError::Ended);
            fixture.sessions.close().await.unwrap();
            let failed = stream.watch(&registry).await;
            assert_eq!(failed.unwrap_err(), WatchError::Unavailable("stopping"));
        };
        LocalSet::new().run_until(follows).await;
    }
}
