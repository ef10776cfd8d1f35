//! The sign-out endpoint, and the page after a sign-out.

use http::{Response, StatusCode};
use url::form_urlencoded;

use super::page::Page;
use super::{Body, RequestContext, WorkerSite, see_other, set_cookies};
use crate::login::{
    AtProvider, Error, OwnPaths, SameOrigin, SignOutStep, SignedOut, SignedOutAt, same_origin,
};
use crate::telemetry::chain;

impl WorkerSite {
    /// Ends the session of the browser, and sends the browser to the provider, which ends its own
    /// session.
    pub(super) async fn sign_out(&self, context: &RequestContext) -> Response<Body> {
        let headers = &context.parts.headers;
        // Without the check of the origin, any site could sign users out (cross-site request
        // forgery).
        if same_origin(headers, &context.public_url) == SameOrigin::No {
            return Page::new(
                StatusCode::FORBIDDEN,
                "You are still signed in",
                "Another site tried to sign you out, so the request was ignored. To sign out, use \
                 the button on this page.",
            )
            .with_reason("cross_origin")
            .post("Sign out", self.own().sign_out())
            .link("Go to the start page", "/")
            .respond(headers);
        }
        match self.login().sign_out(headers, &context.public_url).await {
            Ok(SignedOut {
                cookies,
                at_provider,
            }) => {
                let page = match at_provider {
                    AtProvider::AskLoginHost => self.ends_at_all_hosts(context),
                    AtProvider::Continues => {
                        let page = self.own().signed_out();
                        return see_other(&[context.public_url.origin(), page].concat(), cookies);
                    }
                    AtProvider::Ends(provider) => self.ends_at_provider(context, &provider),
                    AtProvider::Unreachable(provider) => {
                        let name = self.login().display_name(&provider);
                        let text = format!(
                            "{name} cannot be reached at the moment, so you may still be signed in \
                             there."
                        );
                        self.with_end_session_links(context, signed_out_page().paragraph(text))
                    }
                };
                let mut response = page.respond(headers);
                set_cookies(response.headers_mut(), cookies);
                response
            }
            Err(error) => self.not_signed_out(context, &error),
        }
    }

    fn not_signed_out(&self, context: &RequestContext, error: &Error) -> Response<Body> {
        let reason = error.reason();
        tracing::error!(
            request.id = context.request_id(),
            reason,
            error = chain(error),
            "Sign-out failed"
        );
        Page::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "You are still signed in",
            "The gateway could not end your session. Try again. If that does not help, tell the \
             administrator of this site, and do not let others use this browser.",
        )
        .with_reason(reason)
        .post("Sign out", self.own().sign_out())
        .link("Go to the start page", "/")
        .respond(&context.parts.headers)
    }

    /// Redirects the browser to the end-session endpoint of the provider. With `login.host`, the
    /// login host is asked before for the session of the browser. Only a browser that has just
    /// signed out has the cookie for this redirect.
    pub(super) async fn end_session(&self, context: &RequestContext) -> Response<Body> {
        let query = context.target.query().unwrap_or_default();
        let origin = context.login_origin();
        match self.login().continue_sign_out(query, origin).await {
            Ok(Some(SignOutStep { location, cookies })) => see_other(&location, cookies),
            Ok(None) => {
                let page = self.own().signed_out();
                see_other(&[context.public_url.origin(), page].concat(), [])
            }
            Err(error) => self.not_signed_out(context, &error),
        }
    }

    /// Answers a request for the page after a sign-out. If the provider has sent the browser, the
    /// query contains the state of the sign-out.
    pub(super) async fn signed_out(&self, context: &RequestContext) -> Response<Body> {
        let headers = &context.parts.headers;
        let now = self.clock().now();
        let session = self
            .access
            .live_session_of(context.session_origin(), now)
            .await;
        if session.is_ok() {
            return Page::new(
                StatusCode::OK,
                "You are signed in",
                "This browser has a session with this app.",
            )
            .post("Sign out", self.own().sign_out())
            .link("Go to the start page", "/")
            .respond(headers);
        }
        let query = context.target.query().unwrap_or_default();
        let mut parameters = form_urlencoded::parse(query.as_bytes());
        let state = parameters.find(|(name, _value)| name == "state");
        let login = self.login();
        let signed_out =
            state.and_then(|(_name, state)| login.signed_out_at(&state, &context.public_url));
        // Without `prompt=login` the provider could sign in the same user again without asking for a
        // password.
        let sign_in = format!("{}?prompt=login", self.own().sign_in());
        let page = signed_out_page();
        let page = match signed_out {
            Some(SignedOutAt {
                other_host: Some(url),
                ..
            }) => return see_other(&url, []),
            Some(SignedOutAt { provider, .. }) => {
                let name = login.display_name(provider);
                page.paragraph(format!("Your session at {name} has ended, too."))
                    .link("Sign in again", sign_in)
            }
            None => {
                let text = "You may still be signed in at the sign-in server itself.";
                let page = page.paragraph(text).link("Sign in again", sign_in);
                self.with_end_session_links(context, page)
            }
        };
        page.respond(headers)
    }

    /// Adds a link to the end-session endpoint of each provider.
    fn with_end_session_links(&self, context: &RequestContext, mut page: Page) -> Page {
        let login = self.login();
        for (provider, url) in login.end_session_links(&context.public_url) {
            let name = login.display_name(provider);
            page = page.link(format!("Sign out at {name}"), url);
        }
        page
    }

    /// Returns the page that sends the browser to the login host, which names the session to end.
    fn ends_at_all_hosts(&self, context: &RequestContext) -> Page {
        self.continued_sign_out(context)
            .paragraph("The next page ends your session at the other hosts of this site.")
            .link("Continue", self.own().end_session())
    }

    /// Returns the page that sends the browser to the provider.
    fn ends_at_provider(&self, context: &RequestContext, provider: &str) -> Page {
        let name = self.login().display_name(provider);
        self.continued_sign_out(context)
            .paragraph(format!("The next page ends your session at {name}."))
            .link(format!("Continue to {name}"), self.own().end_session())
    }

    /// Returns the page that continues a sign-out. The answer to the sign-out is a page and not a
    /// redirect, because browsers apply the policy `form-action` of the page with the sign-out form
    /// also to redirects, and most policies allow no other site.
    fn continued_sign_out(&self, context: &RequestContext) -> Page {
        let own = self.own().end_session();
        let mut page = Page::new(
            StatusCode::OK,
            "Signing out",
            "Your session with this app has ended.",
        );
        page.refresh = Some((0, own.to_owned()));
        page.end_session_url = Some([context.public_url.origin(), own].concat());
        page
    }
}

fn signed_out_page() -> Page {
    Page::new(
        StatusCode::OK,
        "You are signed out",
        "Your session with this app has ended.",
    )
}

/// Returns the page that asks the user for a confirmation.
pub(super) fn confirm_sign_out(context: &RequestContext, own: &OwnPaths) -> Response<Body> {
    Page::new(
        StatusCode::OK,
        "Sign out?",
        "This ends your session with this app in this browser. If your sign-in server allows it, \
         your session there ends, too.",
    )
    .post("Sign out", own.sign_out())
    .link("Stay signed in", "/")
    .respond(&context.parts.headers)
}
