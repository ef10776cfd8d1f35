//! The app of a route, the answer of a route without an app, or the proxy that asks about a route.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::route_settings::RouteSettings;
use super::route_table::RouteError;
use super::rule::Rule;
use super::static_answer::StaticAnswer;
use crate::upstream::Upstream;

/// The part that answers the permitted requests of a route.
#[derive(Clone, Debug)]
pub(super) enum Destination {
    App(Arc<Upstream>),
    /// The gateway itself answers all requests in the same way.
    Answer(Arc<StaticAnswer>),
    /// The proxy that asks for auth checks forwards the requests. The gateway forwards no request.
    AskingProxy,
}

/// Returns the destination of a route. Blocks the thread while the function reads the file with the
/// answer.
pub(super) fn destination(
    settings: &mut RouteSettings,
    upstreams: &BTreeMap<Box<str>, Arc<Upstream>>,
) -> Result<Destination, RouteError> {
    if let Some(answer) = &settings.answer {
        if settings.upstream.is_some() {
            return Err(RouteError::UnusedUpstream);
        }
        let is_public = settings.access == Rule::Public;
        let answer = StaticAnswer::new(answer, is_public).map_err(RouteError::Answer)?;
        return Ok(Destination::Answer(Arc::new(answer)));
    }
    let mut all = upstreams.values();
    let app = match (settings.upstream.take(), all.next(), all.next()) {
        (Some(name), _, _) if name.is_empty() => return Ok(Destination::AskingProxy),
        (Some(name), _, _) => upstreams
            .get(&name)
            .ok_or_else(|| RouteError::UnknownUpstream(name.clone()))?,
        (None, None, _) => return Ok(Destination::AskingProxy),
        (None, Some(only), None) => only,
        (None, Some(_), Some(_)) => return Err(RouteError::AmbiguousUpstream),
    };
    Ok(Destination::App(Arc::clone(app)))
}
