//! The limits of sessions that a provider or a route shortens.

use std::num::NonZeroU64;
use std::time::Duration;

use super::section::Reader;
use crate::access::{Route, RouteTable};
use crate::fields::forwarded::TrustedPeers;
use crate::provider::settings::SessionSettings;
use crate::session::{self, LimitsOfProviders, ProviderLimits, StoreSettings};

/// Returns the limits for the sessions of a provider. Returns `None` if the provider has no limits
/// of its own.
pub(super) fn limits(settings: SessionSettings) -> Option<ProviderLimits> {
    let duration = |seconds: NonZeroU64| Duration::from_secs(seconds.get());
    let limits = ProviderLimits {
        idle: settings.idle_secs.map(duration),
        absolute: settings.absolute_secs.map(duration),
    };
    (limits != ProviderLimits::default()).then_some(limits)
}

/// Adds the limits of the providers to the settings of sessions. Refuses limits of providers and
/// routes that can never have an effect, because the limits of all sessions are shorter.
pub(super) fn with_limits(
    mut session: session::Settings,
    (limits, routes, oauth2_proxies): (LimitsOfProviders, &RouteTable, &TrustedPeers),
    reader: &mut Reader<'_>,
) -> session::Settings {
    session.of_providers = limits;
    check_providers(&session, reader);
    check_routes(&session, routes, reader);
    if !oauth2_proxies.is_empty() {
        check_start_page(routes, reader);
    }
    session
}

fn check_providers(session: &session::Settings, reader: &mut Reader<'_>) {
    let (idle, absolute) = (session.idle, session.absolute);
    for (name, limits) in &session.of_providers {
        let key = |key: &str| format!("providers.{name}.session.{key}");
        check(&key("idle_secs"), limits.idle, ("idle_secs", idle), reader);
        let lifetime = ("absolute_secs", absolute);
        check(&key("absolute_secs"), limits.absolute, lifetime, reader);
        if let (Some(idle), Some(absolute)) = (limits.idle, limits.absolute)
            && idle > absolute
        {
            let (idle, absolute) = (idle.as_secs(), absolute.as_secs());
            let reason = format!("({idle}) exceeds absolute_secs ({absolute})");
            reader.note(&key("idle_secs"), reason);
        }
    }
}

/// Refuses limits for the start page if a proxy asks for auth checks in the form of oauth2-proxy. The
/// sign-in link of such a proxy does not say that the user has to authenticate again, so the user
/// would be redirected without end.
fn check_start_page(routes: &RouteTable, reader: &mut Reader<'_>) {
    let limited = |route: &&Route| route.freshness().is_some() && route.prefix() == "/";
    for route in routes.iter().filter(limited) {
        let reason = "cannot be used for the start page together with auth_check.oauth2_proxy, \
                      because oauth2-proxy has no way to ask for a new sign-in; leave `session` out";
        reader.note(&format!("routes.{}.session", route.index()), reason);
    }
}

fn check_routes(session: &session::Settings, routes: &RouteTable, reader: &mut Reader<'_>) {
    let (idle, absolute) = (session.idle, session.absolute);
    let limited = |route: &&Route| route.freshness().is_some();
    for route in routes.iter().filter(limited) {
        let key = |key: &str| format!("routes.{}.session{key}", route.index());
        if route.is_public() {
            let reason = "has no effect, because a public route never requires a sign-in; leave \
                          `session` out";
            reader.note(&key(""), reason);
            continue;
        }
        let limits = route.freshness().copied().unwrap_or_default();
        let duration = |seconds: Option<u32>| Some(Duration::from_secs(seconds?.into()));
        let is_shared = matches!(session.store, StoreSettings::Redis(_));
        if is_shared && limits.idle_secs.is_some() {
            let reason = "has no reliable effect with session.store.redis, because each replica \
                          knows only the pauses between its own requests; use `max_age_secs`";
            reader.note(&key(".idle_secs"), reason);
        }
        let shorter = ("idle_secs", idle);
        check(
            &key(".idle_secs"),
            duration(limits.idle_secs),
            shorter,
            reader,
        );
        let shorter = ("absolute_secs", absolute);
        check(
            &key(".max_age_secs"),
            duration(limits.max_age_secs),
            shorter,
            reader,
        );
    }
}

/// Refuses the limit `own`, unless it is shorter than the limit of all sessions.
fn check(
    key: &str,
    own: Option<Duration>,
    (name, of_all): (&str, Duration),
    reader: &mut Reader<'_>,
) {
    if let Some(own) = own.filter(|own| *own >= of_all) {
        let reason = format!(
            "({}) has no effect, because it is not shorter than session.{name} ({})",
            own.as_secs(),
            of_all.as_secs()
        );
        reader.note(key, reason);
    }
}
