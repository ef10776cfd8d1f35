//! An app's own sign-out: after the answer of the app, the session of the gateway ends, too.

use std::rc::Rc;

use http::{Response, StatusCode};

use super::navigation::is_prefetch;
use super::page::Page;
use super::request_body::ForwardedBody;
use super::sign_out::{add_clear_site_data, log_failure};
use super::{Body, Record, RequestContext, Worker, set_cookies};
use crate::access::Permit;
use crate::clock::Timestamp;

impl Worker {
    /// Forwards a permitted request of a route whose app has its own sign-out. If the request is the
    /// app's own sign-out and the app does not answer with an error, ends the session. The client
    /// gets the app's answer with the `Set-Cookie` values that delete the session cookie.
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
        let mut response = self
            .permitted(context, permit, body, record)
            .finish(self)
            .await;
        let status = response.status();
        if !status.is_success() && !status.is_redirection() {
            return response;
        }
        match site.login().end_after_app(session).await {
            Ok(cookies) => {
                set_cookies(response.headers_mut(), cookies);
                add_clear_site_data(&site, response.headers_mut());
                response
            }
            Err(error) => {
                log_failure(&headers, &error);
                Page::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "You are still signed in",
                    "The app has signed you out, but the gateway could not end your session. Sign \
                     out again. If that does not help, tell the administrator of this site, and do \
                     not let others use this browser.",
                )
                .with_reason(error.reason())
                .post("Sign out", site.own().sign_out())
                .respond(&headers)
            }
        }
    }
}
