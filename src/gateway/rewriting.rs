//! The requests and the answers of routes whose apps do not know their public address.

use std::rc::Rc;

use http::{HeaderMap, Method, Response, StatusCode};

use super::site::WorkerSite;
use super::static_answer::redirect_to_path;
use super::{Body, RequestContext};
use crate::access::Route;
use crate::login::PublicUrl;

/// The data with which the gateway replaces the addresses in the answer to a request.
#[derive(Debug)]
pub(super) struct AnswerAddresses {
    site: Rc<WorkerSite>,
    route: Rc<Route>,
    public_url: Rc<PublicUrl>,
}

impl AnswerAddresses {
    /// Returns `None` if the answers of the route stay unchanged.
    pub(super) fn of(
        site: &Rc<WorkerSite>,
        route: &Rc<Route>,
        public_url: &Rc<PublicUrl>,
    ) -> Option<Box<Self>> {
        route.rewrite()?.addresses()?;
        Some(Box::new(Self {
            site: Rc::clone(site),
            route: Rc::clone(route),
            public_url: Rc::clone(public_url),
        }))
    }

    /// Replaces the addresses of the app in the fields of its answer.
    pub(super) fn replace(&self, headers: &mut HeaderMap) {
        let rewrite = self.route.rewrite();
        if let Some(addresses) = rewrite.and_then(|rewrite| rewrite.addresses()) {
            let is_own = |path: &str| self.site.is_own(path);
            addresses.replace(headers, self.public_url.origin(), is_own);
        }
    }
}

/// Returns a redirect if a browser requests the prefix of a route without the slash at its end, and
/// the app is below this prefix. The relative links of the app work only with the slash.
pub(super) fn redirect_to_slash(context: &RequestContext, route: &Route) -> Option<Response<Body>> {
    let rewrite = route.rewrite()?;
    let is_page = matches!(context.parts.method, Method::GET | Method::HEAD);
    if !is_page || context.upgrade.is_some() {
        return None;
    }
    let path = rewrite.with_slash(&context.target)?;
    Some(redirect_to_path(
        StatusCode::PERMANENT_REDIRECT,
        context,
        &path,
    ))
}
