//! An app's own sign-out: after the answer of the app, the session of the gateway ends, too.

use std::rc::Rc;

use http::{HeaderMap, Method, Response, StatusCode, header};

use super::navigation::is_prefetch;
use super::page::Page;
use super::request_body::ForwardedBody;
use super::sign_out::{add_clear_site_data, log_failure};
use super::{Body, Record, RequestContext, Worker, set_cookies};
use crate::access::{Permit, Route};
use crate::clock::Timestamp;
use crate::fields::request_id::X_REQUEST_ID;

/// An extension of a response: the app has sent the response. Only the responses of a route with
/// `app_sign_out` have this extension.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerOfApp;

/// Marks an answer of an app, if the route has `app_sign_out`.
pub(super) fn mark_answer(response: &mut Response<Body>, route: Option<&Route>) {
    if route.is_some_and(|route| route.app_sign_out().is_some()) {
        response.extensions_mut().insert(AnswerOfApp);
    }
}

impl Worker {
    /// Forwards a permitted request of a route whose app has its own sign-out. If the request is the
    /// app's own sign-out and the app has signed the user out, ends the session. The client gets the
    /// app's answer with the `Set-Cookie` values that delete the session cookie.
    pub(super) async fn with_app_sign_out(
        &self,
        context: RequestContext,
        permit: (Permit, Timestamp),
        body: ForwardedBody,
        record: Record,
    ) -> Response<Body> {
        let headers = &context.parts.headers;
        let to_end = permit.0.session_to_end(
            (&context.parts.method, headers),
            context.target.path(),
            context.public_url.origin(),
        );
        let Some(session) = to_end.filter(|_session| !is_prefetch(headers)) else {
            return self
                .permitted(context, permit, body, record)
                .finish(self)
                .await;
        };
        let (site, headers) = (Rc::clone(record.site()), headers.clone());
        let method = context.parts.method.clone();
        let mut response = self
            .permitted(context, permit, body, record)
            .finish(self)
            .await;
        // An answer of the gateway itself, such as a redirect to the provider, signs nobody out. If
        // the gateway decided a second time after a long wait for the body, the inner call of this
        // function has removed the extension and has ended the session.
        let is_of_app = response.extensions_mut().remove::<AnswerOfApp>().is_some();
        if !is_of_app || !is_signed_out(&method, response.status()) {
            return response;
        }
        // The body of the answer belongs to the session, and would otherwise end with the session.
        response.body().outlive_session();
        match site.login().end_after_app(session).await {
            Ok(cookies) => {
                set_cookies(response.headers_mut(), cookies);
                add_clear_site_data(&site, response.headers_mut());
                response
            }
            Err(error) => {
                log_failure(&headers, &error);
                let link = site.own().sign_out();
                still_signed_in(&headers, response, error.reason(), link)
            }
        }
    }
}

/// Returns the page that replaces the answer `of_app`, because the session could not be ended. The
/// access log contains the status and the reason of the page.
fn still_signed_in(
    headers: &HeaderMap,
    mut of_app: Response<Body>,
    reason: &'static str,
    sign_out: &str,
) -> Response<Body> {
    let mut page = Page::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "You are still signed in",
        "The app has signed you out, but the gateway could not end your session. Sign out again. If \
         that does not help, tell the administrator of this site, and do not let others use this \
         browser.",
    )
    .with_reason(reason)
    .post("Sign out", sign_out)
    .respond(headers);
    if let Some(mut log) = of_app.body_mut().take_log() {
        log.event.status = page.status();
        log.event.reason = Some(reason);
        page.body_mut().log_at_end(log);
    }
    let id = of_app.headers_mut().remove(X_REQUEST_ID);
    page.headers_mut().extend(id.map(|id| (X_REQUEST_ID, id)));
    // With its cookies, the app has signed the user out.
    let of_app = of_app.headers().get_all(header::SET_COOKIE);
    set_cookies(page.headers_mut(), of_app.iter().cloned());
    page
}

/// Returns true if an app that answers its own sign-out with this status has signed the user out. A
/// GET request that gets a page has often only asked the user for a confirmation, so only a redirect
/// shows that a GET request has signed the user out.
fn is_signed_out(method: &Method, status: StatusCode) -> bool {
    let redirects = status.is_redirection() && status != StatusCode::NOT_MODIFIED;
    redirects || (method != Method::GET && status.is_success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_get_request_signs_out_only_with_a_redirect() {
        for (method, status, expected) in [
            (Method::GET, 302, true),
            (Method::GET, 303, true),
            (Method::GET, 200, false),
            (Method::GET, 204, false),
            (Method::GET, 304, false),
            (Method::GET, 403, false),
            (Method::POST, 200, true),
            (Method::POST, 204, true),
            (Method::POST, 303, true),
            (Method::POST, 419, false),
            (Method::POST, 500, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                is_signed_out(&method, status),
                expected,
                "{method} {status}"
            );
        }
    }
}
