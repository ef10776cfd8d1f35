//! The answers of routes without an app.

use std::time::Duration;

use http::{HeaderValue, Method, Response, StatusCode, header};

use super::page::{Page, add_security_fields};
use super::{Body, Error, Record, RequestContext};
use crate::access::{AnswerContent, PermittedAnswer, StaticAnswer};
use crate::session::Session;

/// The time for which a cache may store the answer of a public route.
const CACHED: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// `Retry-After` of a page about maintenance, if the settings contain no other time.
const DEFAULT_PAUSE: Duration = Duration::from_mins(5);

impl Record {
    /// Returns the answer of a route without an app, and records the answer.
    pub(super) fn static_answer(
        &mut self,
        context: &RequestContext,
        decided: &PermittedAnswer,
    ) -> Response<Body> {
        self.route(&decided.route, decided.label());
        self.user(decided.session.as_deref().map(Session::identity));
        match respond(context, &decided.answer) {
            Ok(response) => self.answered(response),
            Err(error) => self.refused(&error, &context.parts.headers),
        }
    }
}

/// Returns the answer of a route without an app.
///
/// # Errors
///
/// [`Error::MethodNotAllowed`], if the request would change a file. A page about a missing resource
/// or about maintenance answers all methods, because a request of any method is in vain.
pub(super) fn respond(
    context: &RequestContext,
    answer: &StaticAnswer,
) -> Result<Response<Body>, Error> {
    let method = &context.parts.method;
    if answer.status == StatusCode::OK && !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Error::MethodNotAllowed("GET, HEAD"));
    }
    let mut response = match &answer.content {
        AnswerContent::Page => page(answer).respond_to(method, &context.parts.headers),
        AnswerContent::Body { media_type, bytes } => {
            let mut response = Response::new(Body::stored(bytes.clone()));
            *response.status_mut() = answer.status;
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, media_type.clone());
            add_security_fields(headers);
            response
        }
        AnswerContent::Path(target) => redirect_to_path(answer.status, context, target),
        AnswerContent::Url(location) => redirect(answer.status, location.clone()),
    };
    let headers = response.headers_mut();
    if answer.is_cacheable {
        headers.insert(header::CACHE_CONTROL, CACHED);
    }
    if let Some(pause) = answer.retry_after {
        let seconds = HeaderValue::from(pause.as_secs().max(1));
        headers.insert(header::RETRY_AFTER, seconds);
    }
    Ok(response)
}

/// Returns a redirect to a path of the public origin of the request. The redirect contains a
/// complete URL, so that a browser cannot read the path as a host.
pub(super) fn redirect_to_path(
    status: StatusCode,
    context: &RequestContext,
    path: &str,
) -> Response<Body> {
    let origin = context.public_url.origin();
    let location = HeaderValue::try_from(format!("{origin}{path}"));
    // A path of the gateway contains only characters that a field can contain.
    let root = HeaderValue::from_static("/");
    redirect(status, location.unwrap_or(root))
}

/// Returns a redirect to a complete URL.
fn redirect(status: StatusCode, location: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location);
    add_security_fields(headers);
    response
}

fn page(answer: &StaticAnswer) -> Page {
    let (title, text, reason) = match answer.status {
        StatusCode::SERVICE_UNAVAILABLE => (
            "This page is being maintained",
            "The administrator of this site has turned it off for a while. Try again later.",
            "maintenance",
        ),
        StatusCode::GONE => (
            "This page no longer exists",
            "The administrator of this site has removed it.",
            "gone",
        ),
        _ => (
            "Page not found",
            "There is no page at this address.",
            "not_found",
        ),
    };
    let mut page = Page::new(answer.status, title, text).with_reason(reason);
    if answer.status == StatusCode::SERVICE_UNAVAILABLE {
        page.retry_after = Some(answer.retry_after.unwrap_or(DEFAULT_PAUSE));
    }
    page
}
