//! Checks the routes that keep forms which arrive after the session has ended.

use super::listening::ServerSection;
use super::section::Reader;
use crate::access::{Route, RouteTable};

/// The smallest budget of the buffers with which the gateway can read a kept form, in bytes. One
/// client gets at most half of the budget, and the encrypted form has up to 1.5 MiB.
const SMALLEST_BUDGET: usize = 4 * 1024 * 1024;

/// Refuses `keep_forms` where the gateway never gets a form, and with buffers that are too small.
pub(super) fn check_kept_forms(
    routes: &RouteTable,
    server: Option<&ServerSection>,
    reader: &mut Reader<'_>,
) {
    for route in routes.iter().filter(|route| route.keeps_forms()) {
        if let Some(reason) = useless(route) {
            let reason = format!("has no effect, because {reason}; leave `keep_forms` out");
            reader.note(&format!("routes.{}.keep_forms", route.index()), reason);
        } else if server.is_some_and(|server| server.buffer_bytes() < SMALLEST_BUDGET) {
            let reason = "must be at least 4 on a gateway with keep_forms, because the gateway \
                          reads a form into a buffer before the form is kept";
            reader.note("server.buffer_mib", reason);
        }
    }
}

/// Returns the reason why no form of `route` can be kept.
fn useless(route: &Route) -> Option<&'static str> {
    if route.is_public() {
        Some("a public route never requires a sign-in")
    } else if route.is_for_auth_checks() {
        Some("the proxy that asks for auth checks keeps the content of the requests")
    } else if !route.has_app() {
        Some("a route with an answer has no app that gets a form")
    } else {
        None
    }
}
