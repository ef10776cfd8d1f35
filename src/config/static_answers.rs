//! Checks the routes without an app.

use super::section::Reader;
use crate::access::{
    BufferSettings, OnRefusal, RewriteSettings, Route, RouteTable, StreamSettings,
};

/// Refuses settings that have no effect on a route without an app.
pub(super) fn check_static_answers(routes: &RouteTable, reader: &mut Reader<'_>) {
    for route in routes.iter().filter(|route| route.answer().is_some()) {
        check_answer(route, reader);
    }
}

fn check_answer(route: &Route, reader: &mut Reader<'_>) {
    let key = format!("routes.{}", route.index());
    for (below, is_set) in [
        (
            "rewrite",
            *route.rewrite_settings() != RewriteSettings::default(),
        ),
        ("allow_preflight", route.allows_preflight()),
        ("on_upstream_401", route.on_refusal() != OnRefusal::Pass),
        ("app_sign_out", route.app_sign_out().is_some()),
        ("stream", route.is_stream()),
        ("streams", *route.streams() != StreamSettings::default()),
        ("buffers", route.buffers() != BufferSettings::default()),
    ] {
        if is_set {
            let reason = "has no effect on a route with `answer`, because no app gets a request";
            reader.note(&format!("{key}.{below}"), reason);
        }
    }
    for below in route.credentials().keys() {
        let reason = "has no effect on a route with `answer`, because no app gets a request";
        reader.note(&format!("{key}.{below}"), reason);
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
