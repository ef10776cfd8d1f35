//! What is said to a person whose request did not pass or whose login failed: what happened, and
//! what to do next. Of what came with a request nothing is repeated but its own address.

use std::time::Duration;

use http::{Method, Response, StatusCode, header};

use super::page::Page;
use super::{Body, NO_REFERRER, RequestContext, endpoints, is_navigation, set_cookies, sign_in};
use crate::access::{Cause, Challenge, FailureLocation, Unavailable};
use crate::identity::Identity;
use crate::login::{self, ErrorCode, FailedLogin, Login, OWN_PREFIX, ReturnTo, StateError};
use crate::provider::{Actor, Classification, Sent};
use crate::telemetry::chain;

/// When to try again where nobody has said.
const DEFAULT_RETRY: Duration = Duration::from_secs(5);

/// A page that tries again by itself waits at least and at most so long.
const MIN_REFRESH: Duration = Duration::from_secs(5);
const MAX_REFRESH: Duration = Duration::from_mins(1);

/// Answers a request that needs a session and is no document navigation.
pub(super) fn sign_in_first(
    context: &RequestContext,
    challenge: &Challenge,
    login_url: String,
) -> Response<Body> {
    let (text, href) = if context.parts.method.is_safe() {
        (
            "You are not signed in, or your session has ended.",
            login_url.clone(),
        )
    } else {
        // Back to the form, whose page begins the login itself.
        let form = context.referrer().unwrap_or_else(ReturnTo::root);
        (
            "You are not signed in, or your session has ended, so what you sent was not passed \
             on. Sign in and send it again.",
            form.as_str().to_owned(),
        )
    };
    let mut page = Page::new(StatusCode::UNAUTHORIZED, "Sign in first", text)
        .with_reason(challenge.cause.reason())
        .link("Sign in", href);
    page.login_url = Some(login_url);
    let mut response = page.respond(&context.parts.headers);
    sign_in::request_session(response.headers_mut());
    response
}

/// Answers somebody who may not use a route, with the account's name and another way.
pub(super) fn forbidden(context: &RequestContext, identity: &Identity) -> Response<Body> {
    let who = identity.label().map_or_else(
        || "You are signed in, but this account may not use this page.".to_owned(),
        |name| format!("You are signed in as {name}, and this account may not use this page."),
    );
    Page::new(StatusCode::FORBIDDEN, "You may not use this page", who)
        .paragraph("If you have another account, sign out and sign in with that one.")
        .with_reason("forbidden")
        .post("Use another account", endpoints::SIGN_OUT)
        .link("Go to the start page", "/")
        .respond(&context.parts.headers)
}

/// Answers somebody whose session is there and cannot be used now. A page that a person looks at
/// tries again by itself.
pub(super) fn unavailable(context: &RequestContext, unavailable: &Unavailable) -> Response<Body> {
    let (title, text) = match unavailable.location {
        FailureLocation::Provider => (
            "Your session cannot be renewed right now",
            "You are still signed in, but this app has to ask the sign-in server about you again, \
             and that is down, slow or busy, or refuses to answer.",
        ),
        FailureLocation::Store => (
            "Your session cannot be reached right now",
            "You are still signed in, but the place where this site keeps its sessions cannot be \
             read or written. Whoever runs this site finds more in its log.",
        ),
    };
    let mut page =
        Page::new(StatusCode::SERVICE_UNAVAILABLE, title, text).with_reason(unavailable.reason);
    if !context.parts.method.is_safe() {
        page = page.paragraph("What you sent was not passed on. Send it again in a moment.");
    }
    // A fraction of a second is one more to wait.
    let whole = Duration::from_secs(unavailable.retry_after.as_secs());
    let after = if whole == unavailable.retry_after {
        whole
    } else {
        whole.saturating_add(Duration::from_secs(1))
    };
    page.retry_after = Some(after);
    if is_navigation(&context.parts) {
        let wanted = context.target.path_and_query().as_str();
        let address = ReturnTo::parse(wanted, OWN_PREFIX).unwrap_or_else(ReturnTo::root);
        let after = after.clamp(MIN_REFRESH, MAX_REFRESH).as_secs();
        page.refresh = Some((after, address.as_str().to_owned()));
        page = page.link("Try again now", address.as_str());
        // A grant that the server refuses without saying that it has ended is no dead end either.
        page = page.link(
            "Sign in again",
            format!("{}?prompt=login", sign_in::SIGN_IN),
        );
    }
    page.respond(&context.parts.headers)
}

/// Answers a visitor whose login could not even begin. Visiting `again` begins it again.
pub(super) fn login_not_started(
    context: &RequestContext,
    (provider, error): (&str, &login::Error),
    cause: Option<Cause>,
    again: &str,
) -> Response<Body> {
    tracing::warn!(
        provider,
        reason = error.reason(),
        cause = cause.map(Cause::reason),
        error = chain(error),
        "Login not started"
    );
    let headers = &context.parts.headers;
    if let login::Error::Loop = error {
        let text = loop_cause(cause);
        let mut response = Page::new(StatusCode::BAD_REQUEST, "Signing in does not work", text)
            .with_reason(error.reason())
            .link("Try again", again)
            .respond(headers);
        set_cookies(response.headers_mut(), [Login::forget_rounds()]);
        return response;
    }
    failure_page(context, error, again)
        .link("Try again", again)
        .respond(headers)
}

/// What three logins in vain prove.
fn loop_cause(cause: Option<Cause>) -> &'static str {
    match cause {
        Some(Cause::NoCookie) => {
            "You signed in three times, and each time your browser did not keep the session \
             cookie. Allow cookies for this site (a privacy extension may block them) and try \
             again."
        }
        Some(Cause::OtherInstance) => {
            "You signed in three times, and each time the next request reached another copy of \
             this gateway, which does not know your session. Whoever runs this site has to run \
             one replica or send each visitor to the same one."
        }
        Some(Cause::TokenExpired) => {
            "You signed in three times, and each time the access token had already expired. The \
             clocks of this gateway and of the sign-in server may differ, or the server gives \
             tokens that live for seconds only."
        }
        Some(Cause::RefusedByApp) => {
            "You signed in three times, and each time the app did not accept the access token that \
             the sign-in server had just given. Whoever runs this site has to look at what the app \
             expects of a token."
        }
        Some(Cause::OtherProvider) => {
            "You signed in three times, and the session is one of another sign-in server than \
             this page asks for. Whoever runs this site has to look at its routes."
        }
        Some(Cause::Conflicting) => {
            "Your browser sends two different session cookies for this site. Clear this site's \
             cookies and try again."
        }
        Some(Cause::Expired | Cause::GrantEnded | Cause::Malformed | Cause::Unknown) | None => {
            "You signed in three times, and each time the session was gone at once. The gateway \
             may be out of room for sessions; whoever runs this site finds more in its log."
        }
    }
}

/// Answers a login that failed. Visiting `again` begins it again, at the same provider.
pub(super) fn failed(
    context: &RequestContext,
    failure: FailedLogin,
    again: &str,
) -> Response<Body> {
    let error = &failure.error;
    let page = failure_page(context, error, again);
    // Where the provider is in order, people may want another account or another provider.
    let passes = error.class().is_some_and(|class| class.passes);
    let start = if passes || failure.reauthenticate {
        again
    } else {
        failure.retry.as_str()
    };
    let mut response = page
        .link("Sign in again", start)
        .respond(&context.parts.headers);
    let headers = response.headers_mut();
    headers.insert(header::REFERRER_POLICY, NO_REFERRER);
    set_cookies(headers, failure.cookies);
    response
}

/// What is said of a login that did not come about. Where the provider's trouble passes by itself,
/// and nothing was asked of it, the page tries again at `again`: a page that nobody looks at must
/// not sign in over and over. The answer to a form never does, as nobody asked for it by opening an
/// address.
fn failure_page(context: &RequestContext, error: &login::Error, again: &str) -> Page {
    let (status, title, text) = wording(error);
    let mut page = Page::new(status, title, text).with_reason(error.reason());
    let class = error.class();
    page.retry_after = class
        .and_then(|class| class.retry_after)
        .or_else(|| retry_after(status));
    let tries_again = class.is_some_and(|class| class.passes && class.sent == Sent::Nothing);
    if tries_again && context.parts.method == Method::GET {
        let after = page.retry_after.unwrap_or(DEFAULT_RETRY).as_secs();
        let after = after.clamp(MIN_REFRESH.as_secs(), MAX_REFRESH.as_secs());
        page.refresh = Some((after, again.to_owned()));
    }
    page
}

/// When to try again where the provider has not said.
fn retry_after(status: StatusCode) -> Option<Duration> {
    match status {
        StatusCode::SERVICE_UNAVAILABLE => Some(DEFAULT_RETRY),
        StatusCode::TOO_MANY_REQUESTS => Some(Duration::from_mins(1)),
        _ => None,
    }
}

/// What is said when the provider takes no request of ours, whoever the person is.
const REFUSED: (StatusCode, &str, &str) = (
    StatusCode::BAD_GATEWAY,
    "The sign-in server refused this gateway",
    "It did not accept the way this gateway asked it. Trying again will hardly help: whoever runs \
     this site has to look at the gateway's log and settings.",
);

fn wording(error: &login::Error) -> (StatusCode, &'static str, &'static str) {
    match error {
        login::Error::Denied(code) => denied(code),
        login::Error::Malformed(_) => (
            StatusCode::BAD_REQUEST,
            "This sign-in cannot be finished",
            "The address that led here is incomplete or was changed on its way. Start again.",
        ),
        login::Error::State(StateError::Expired) => (
            StatusCode::BAD_REQUEST,
            "This sign-in took too long",
            "Too much time has passed since it was started. Start again; you may not even have to \
             type your password.",
        ),
        login::Error::State(StateError::NoCookie) => (
            StatusCode::BAD_REQUEST,
            "This sign-in cannot be finished here",
            "Your browser did not send the cookie that belongs to it. Either cookies are blocked \
             for this site, or the sign-in was started in another browser or window. Allow \
             cookies and start again.",
        ),
        login::Error::State(
            StateError::Foreign | StateError::Missing | StateError::OtherBrowser,
        ) => (
            StatusCode::BAD_REQUEST,
            "This sign-in was not started here",
            "It was started in another browser, or not by this site at all. If somebody sent you \
             this link, do not use it. Start again from the app itself.",
        ),
        login::Error::Used => (
            StatusCode::BAD_REQUEST,
            "This sign-in was used already",
            "Each sign-in works once. Start again; you may not even have to type your password.",
        ),
        login::Error::TooManyRefused => (
            StatusCode::TOO_MANY_REQUESTS,
            "Too many sign-ins that failed",
            "The sign-in server refused several sign-ins from your network. Wait a minute, then \
             start again.",
        ),
        login::Error::Provider(error) => provider_wording(error.class()),
        login::Error::Loop
        | login::Error::NoRandomness(_)
        | login::Error::NotStored(_)
        | login::Error::Panicked
        | login::Error::Stopped
        | login::Error::UnknownProvider => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Signing in does not work right now",
            "The gateway has a problem of its own or is just restarting. Try again in a moment.",
        ),
    }
}

fn denied(code: &ErrorCode) -> (StatusCode, &'static str, &'static str) {
    match code {
        ErrorCode::AccessDenied => (
            StatusCode::FORBIDDEN,
            "You were not signed in",
            "The sign-in was cancelled, or the sign-in server does not let this account in.",
        ),
        ErrorCode::InteractionRequired => (
            StatusCode::FORBIDDEN,
            "You were not signed in",
            "The sign-in server has a question for you that it could not ask. Start again.",
        ),
        ErrorCode::ServerError | ErrorCode::TemporarilyUnavailable => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The sign-in server has a problem",
            "It says that it cannot sign anybody in right now. Try again in a moment.",
        ),
        ErrorCode::InvalidRequest
        | ErrorCode::InvalidScope
        | ErrorCode::UnauthorizedClient
        | ErrorCode::UnsupportedResponseType
        | ErrorCode::Unrecognized(_) => REFUSED,
    }
}

/// What is said where the provider, or the way to it, is why there is no login.
fn provider_wording(class: Classification) -> (StatusCode, &'static str, &'static str) {
    match (class.passes, class.actor, class.sent) {
        (true, _, _) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The sign-in server cannot be reached",
            "It is down, slow or busy. You did nothing wrong; try again in a moment.",
        ),
        (false, Actor::Client, _) => (
            StatusCode::BAD_REQUEST,
            "This sign-in cannot be finished",
            "The sign-in server does not accept it any more. Start again; you may not even have \
             to type your password.",
        ),
        (false, Actor::Operator, Sent::Undelivered | Sent::Possibly) => REFUSED,
        (false, Actor::Operator, Sent::Nothing) => (
            StatusCode::BAD_GATEWAY,
            "This gateway cannot ask the sign-in server",
            "Its settings do not allow it, or do not fit the sign-in server. Trying again will \
             hardly help: whoever runs this site has to look at the gateway's log and settings.",
        ),
        (false, Actor::Provider, _) => (
            StatusCode::BAD_GATEWAY,
            "The sign-in server's answer cannot be used",
            "Trying again will hardly help: whoever runs this site has to look at the gateway's \
             log and settings.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::{self, GrantError, NotReady, ResponseError, TokenCallError};

    #[test]
    fn temporary_and_permanent_failures_have_different_pages() {
        let refused = TokenCallError::CodeRefused(provider::Refusal {
            status: 400,
            code: None,
            description: None,
            hint: None,
        });
        let call = |error: TokenCallError| provider::Error::Exchange(error.into());
        for (error, status, title) in [
            (call(TokenCallError::Busy), 503, "cannot be reached"),
            (
                call(TokenCallError::MalformedResponse(
                    provider::ResponseFormatError::MediaType,
                )),
                503,
                "cannot be reached",
            ),
            (NotReady.into(), 503, "cannot be reached"),
            (call(refused), 400, "cannot be finished"),
            (
                call(TokenCallError::Redirected { status: 302 }),
                502,
                "refused this gateway",
            ),
            (
                call(TokenCallError::NoRefreshToken),
                502,
                "This gateway cannot ask",
            ),
            (
                provider::Error::Exchange(GrantError::NoSubject.into()),
                502,
                "answer cannot be used",
            ),
            (ResponseError::Issuer.into(), 502, "answer cannot be used"),
        ] {
            let error = login::Error::from(error);
            let (said, its_title, _text) = wording(&error);
            assert_eq!(said, status, "{error:?}");
            assert!(its_title.contains(title), "{error:?}: {its_title}");
        }
    }
}
