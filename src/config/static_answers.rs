//! Checks the routes without an app.

use super::section::Reader;
use crate::access::{
    BufferSettings, OnRefusal, RewriteSettings, Route, RouteTable, StreamSettings,
};

/// Refuses settings that have no effect on a route without an app, and redirects that lead to
/// themselves.
pub(super) fn check_static_answers(routes: &RouteTable, reader: &mut Reader<'_>) {
    for route in routes.iter().filter(|route| route.answer().is_some()) {
        check_answer(routes, route, reader);
    }
}

fn check_answer(routes: &RouteTable, route: &Route, reader: &mut Reader<'_>) {
    let key = format!("routes.{}", route.index());
    for (below, is_set) in [
        (
            "rewrite",
            *route.rewrite_settings() != RewriteSettings::default(),
        ),
        ("allow_preflight", route.allows_preflight()),
        ("on_upstream_401", route.on_refusal() != OnRefusal::Pass),
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
    let target = route.answer().and_then(|answer| answer.redirect_path());
    if let Some(path) = target.filter(|path| routes.leads_to_itself(route, path)) {
        let reason = format!("{path} belongs to this route, so the redirect would never end");
        reader.note(&format!("{key}.answer.redirect"), reason);
    }
}
