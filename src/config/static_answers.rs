//! Checks the routes with an answer.

use super::section::Reader;
use crate::access::{
    BufferSettings, CacheSetting, OnRefusal, RewriteSettings, Route, RouteTable, StreamSettings,
};

/// Refuses settings that have no effect on a route without an app.
pub(super) fn check_static_answers(routes: &RouteTable, reader: &mut Reader<'_>) {
    for route in routes.iter().filter(|route| route.answer().is_some()) {
        check_answer(route, reader);
    }
}

fn check_answer(route: &Route, reader: &mut Reader<'_>) {
    let keys = [
        (
            "rewrite",
            *route.rewrite_settings() != RewriteSettings::default(),
        ),
        ("allow_preflight", route.allows_preflight()),
        ("cross_site", route.permits_other_sites()),
        ("on_upstream_401", route.on_refusal() != OnRefusal::Pass),
        ("app_sign_out", route.app_sign_out().is_some()),
        ("cache", route.cache() != CacheSetting::default()),
        ("stream", route.is_stream()),
        ("streams", *route.streams() != StreamSettings::default()),
        ("buffers", route.buffers() != BufferSettings::default()),
    ];
    let set = keys
        .into_iter()
        .filter_map(|(key, is_set)| is_set.then_some(key));
    for key in set.chain(route.credentials().keys()) {
        let reason = "has no effect on a route with `answer`, because no app gets a request";
        reader.note(&format!("routes.{}.{key}", route.index()), reason);
    }
}

/// Refuses redirects that never end.
pub(super) fn check_redirects(routes: &RouteTable, hosts: &[&str], reader: &mut Reader<'_>) {
    for route in routes.iter() {
        if let Some(again) = routes.endless_redirect(route, hosts) {
            let reason = format!(
                "never ends, because the redirects lead to the route `{}` again",
                again.name()
            );
            reader.note(&format!("routes.{}.answer.redirect", route.index()), reason);
        }
    }
}
