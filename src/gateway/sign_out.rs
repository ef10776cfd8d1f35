//! The sign-out endpoint, and the page after a sign-out.

use http::{Response, StatusCode};
use url::form_urlencoded;

use super::page::Page;
use super::{Body, RequestContext, WorkerSite, see_other, set_cookies};
use crate::login::{AtProvider, Error, OwnPaths, SameOrigin, SignedOut, same_origin};
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
                let answer = match at_provider {
                    AtProvider::Continues => {
                        let page = self.own().signed_out();
                        return see_other(&[context.public_url.origin(), page].concat(), cookies);
                    }
                    AtProvider::Ends { provider, url } => {
                        let name = self.login().display_name(&provider);
                        ends_at_provider(name, url.expose())
                    }
                    AtProvider::Unreachable { provider, url } => {
                        let name = self.login().display_name(&provider);
                        unreachable_provider(name, url.as_str())
                    }
                };
                let mut response = answer.respond(headers);
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

    /// Answers a request for the page after a sign-out. If the provider has sent the browser, the
    /// query contains the state of the sign-out.
    pub(super) fn signed_out(&self, context: &RequestContext) -> Response<Body> {
        let query = context.target.query().unwrap_or_default();
        let mut parameters = form_urlencoded::parse(query.as_bytes());
        let state = parameters.find(|(name, _value)| name == "state");
        let login = self.login();
        let provider =
            state.and_then(|(_name, state)| login.signed_out_at(&state, &context.public_url));
        let page = Page::new(
            StatusCode::OK,
            "You are signed out",
            "Your session with this app has ended.",
        );
        let page = match provider {
            Some(provider) => {
                let name = login.display_name(provider);
                page.paragraph(format!("Your session at {name} has ended, too."))
            }
            None => page.paragraph("You may still be signed in at the sign-in server itself."),
        };
        // Without `prompt=login` the provider could sign in the same user again without asking for a
        // password.
        let sign_in = format!("{}?prompt=login", self.own().sign_in());
        page.link("Sign in again", sign_in)
            .respond(&context.parts.headers)
    }
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

/// Returns the page that sends the browser to the provider. The answer is a page and not a redirect,
/// because browsers apply the policy `form-action` of the page with the sign-out form also to
/// redirects, and most policies allow no other site.
fn ends_at_provider(name: &str, url: &str) -> Page {
    let mut page = Page::new(
        StatusCode::OK,
        "Signing out",
        "Your session with this app has ended.",
    )
    .paragraph(format!("The next page ends your session at {name}."))
    .link(format!("Continue to {name}"), url);
    page.refresh = Some((0, url.to_owned()));
    page.end_session_url = Some(url.to_owned());
    page
}

/// Returns the page for a provider that could not be reached recently.
fn unreachable_provider(name: &str, url: &str) -> Page {
    Page::new(
        StatusCode::OK,
        "You are signed out",
        "Your session with this app has ended.",
    )
    .paragraph(format!(
        "{name} cannot be reached at the moment, so you may still be signed in there."
    ))
    .link(format!("Sign out at {name}"), url)
}
