//! The app of a route, or the answer of a route without an app.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::route::RouteError;
use super::route_settings::RouteSettings;
use super::rule::Rule;
use super::static_answer::StaticAnswer;
use crate::upstream::Upstream;

/// The part that answers the permitted requests of a route.
#[derive(Clone, Debug)]
pub(super) enum Destination {
    App(Arc<Upstream>),
    /// The gateway itself answers all requests in the same way.
    Answer(Arc<StaticAnswer>),
}

/// Returns the app of a route, or the answer of a route without an app. Blocks the thread while the
/// function reads the file with the answer.
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
    upstream(settings.upstream.take(), upstreams).map(Destination::App)
}

/// Returns the app of a route.
fn upstream(
    named: Option<Box<str>>,
    upstreams: &BTreeMap<Box<str>, Arc<Upstream>>,
) -> Result<Arc<Upstream>, RouteError> {
    let mut all = upstreams.values();
    let found = match (named, all.next(), all.next()) {
        (Some(name), _, _) => upstreams
            .get(&name)
            .ok_or_else(|| RouteError::UnknownUpstream(name.clone()))?,
        (None, Some(only), None) => only,
        (None, _, _) => return Err(RouteError::AmbiguousUpstream),
    };
    Ok(Arc::clone(found))
}
