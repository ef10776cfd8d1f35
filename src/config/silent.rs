//! The checks of routes that sign users in silently.

use std::collections::BTreeMap;

use super::section::Reader;
use crate::access::{KnownClaims, Route, RouteTable};

/// Refuses `silent_sign_in` on a route on which no silent sign-in is possible.
pub(super) fn check_silent_sign_ins(
    routes: &RouteTable,
    known: &BTreeMap<String, KnownClaims>,
    reader: &mut Reader<'_>,
) {
    for route in routes.iter().filter(|route| route.signs_in_silently()) {
        if let Some(problem) = problem(route, known) {
            reader.note(&format!("routes.{}.silent_sign_in", route.index()), problem);
        }
    }
}

fn problem(route: &Route, known: &BTreeMap<String, KnownClaims>) -> Option<String> {
    if route.is_public() && !route.has_app() {
        return Some(
            "has no effect, because the gateway forwards no request of this public route; leave \
             `silent_sign_in` out"
                .to_owned(),
        );
    }
    let mut providers = route.providers();
    let (Some(provider), None) = (providers.next(), providers.next()) else {
        return Some(
            "needs exactly one provider, because a silent sign-in shows no page on which the user \
             chooses a provider; write `provider` in the route"
                .to_owned(),
        );
    };
    // The problems of a provider without known claims were already reported.
    let is_openid = known.get(provider).is_none_or(|known| known.id_token);
    (!is_openid).then(|| {
        format!(
            "needs an OpenID Provider, because only OpenID Connect defines prompt=none, but the \
             provider `{provider}` has no identity.source = \"id_token\""
        )
    })
}
