//! Silent sign-ins: the gateway asks the provider whether the user is signed in there, and the
//! provider shows no page. If the user is not signed in, the browser returns to the page.

use http::Response;

use super::sign_in::only_provider;
use super::{Body, Record, RequestContext, WorkerSite, refuse_embedded, see_other};
use crate::access::{Challenge, SignInFirst};
use crate::login::{self, ErrorCode, FailedLogin, Login, ReturnTo, Start};
use crate::provider::Prompt;
use crate::telemetry::{DecisionLabel, chain};

/// The result of a silent sign-in in the metrics, if nobody was signed in.
const RESULT: &str = "silent";

impl WorkerSite {
    /// Whether the request may begin a silent sign-in. The browser must state that the request is a
    /// page load, so that no program follows redirects to the provider.
    fn begins_silently(&self, context: &RequestContext) -> bool {
        let (headers, query) = (&context.parts.headers, context.target.query());
        headers.contains_key("sec-fetch-mode")
            && context.is_navigation()
            && self.login().may_sign_in_silently(headers, query)
    }

    /// Returns the `prompt` of the login with which the gateway answers a page load.
    pub(super) fn prompt(&self, context: &RequestContext, challenge: &Challenge) -> Prompt {
        let silent = challenge.route.signs_in_silently()
            && challenge.cause.allows_silent_sign_in()
            && self.begins_silently(context);
        if silent {
            Prompt::Silent
        } else {
            challenge.fresh_prompt()
        }
    }

    /// Begins a silent sign-in for a page load of a public route. Returns `None` if the request has
    /// to be forwarded without a user.
    pub(super) async fn sign_in_first(
        &self,
        context: &RequestContext,
        first: &SignInFirst,
        record: &mut Record,
    ) -> Option<Response<Body>> {
        // An auth check has to be answered with a permission or a refusal.
        if context.auth_check.is_some() || !self.begins_silently(context) {
            return None;
        }
        let route = first.permit.route();
        let requested = context.target.path_and_query().as_str();
        let return_to = ReturnTo::requested(requested, self.own()).ok()?;
        let start = Start {
            prompt: Prompt::Silent,
            ..Start::new(only_provider(route)?, return_to, context.login_origin())
        };
        match self.login().begin(start).await {
            Ok(started) => {
                record.route(route, DecisionLabel::Challenge);
                record.reason(first.cause.reason());
                Some(see_other(&started.location, started.cookies))
            }
            Err(error) => {
                self.metrics().login(RESULT, error.reason());
                tracing::debug!(
                    request.id = context.request_id(),
                    reason = error.reason(),
                    error = chain(&error),
                    "Silent sign-in not started"
                );
                None
            }
        }
    }

    /// Sends the browser back after a silent sign-in that has signed nobody in.
    pub(super) fn not_signed_in_silently(
        &self,
        context: &RequestContext,
        failure: FailedLogin,
        record: &mut Record,
    ) -> Response<Body> {
        let reason = failure.error.reason();
        record.reason(reason);
        self.metrics().login(RESULT, reason);
        let error = chain(&failure.error);
        let id = context.request_id();
        let provider = failure.provider.as_deref();
        if is_expected(&failure.error) {
            tracing::debug!(
                request.id = id,
                reason,
                provider,
                error,
                "Not signed in silently"
            );
        } else {
            tracing::warn!(
                request.id = id,
                reason,
                provider,
                error,
                "Silent sign-in failed"
            );
        }
        let host = failure.host.as_ref().unwrap_or(&context.public_url);
        let url = self.login().after_silent_sign_in(&failure.retry, host);
        let answered = Login::note_silent_answer(&context.parts.headers);
        see_other(&url, failure.cookies.into_iter().chain(answered))
    }

    /// Redirects the browser to its page after a silent sign-in that has signed nobody in.
    pub(super) fn after_silent_sign_in(&self, context: &RequestContext) -> Response<Body> {
        if let Some(refusal) = refuse_embedded(&context.parts.headers) {
            return refusal;
        }
        let query = context.target.query().unwrap_or_default();
        let page = self
            .login()
            .page_without_user(query, context.login_origin());
        let (url, cookie) = page;
        see_other(&url, cookie)
    }
}

/// Returns true if the provider has answered that the user has to do something.
fn is_expected(error: &login::Error) -> bool {
    let login::Error::Denied(denial) = error else {
        return false;
    };
    matches!(
        denial.code,
        ErrorCode::AccessDenied | ErrorCode::ConsentRequired | ErrorCode::InteractionRequired
    )
}
