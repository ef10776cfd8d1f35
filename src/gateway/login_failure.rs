//! The pages for users whose login failed or could not start. The pages state what happened and what
//! the user can do next. The pages show nothing from the request except its URL.

use std::time::Duration;

use http::{Method, Response, StatusCode, header};

use super::explain::{MAX_REFRESH, MIN_REFRESH, SESSION_UNREACHABLE};
use super::page::Page;
use super::tab_page::InTab;
use super::{Body, NO_REFERRER, RequestContext, set_cookies, sign_in};
use crate::access::Cause;
use crate::login::{self, ErrorCode, FailedLogin, LostSession, StateError};
use crate::provider::{Actor, Classification, Prompt, Sent};
use crate::telemetry::chain;

/// The default pause before a retry.
const DEFAULT_RETRY: Duration = Duration::from_secs(5);

/// Creates the answer to a request whose login could not start. A visit to `retry_url` starts the
/// login again. The browser keeps `in_tab` until then.
pub(super) fn not_started(
    context: &RequestContext,
    (provider, error): (&str, &login::Error),
    cause: Option<Cause>,
    retry_url: &str,
    in_tab: Option<InTab>,
) -> Response<Body> {
    tracing::warn!(
        request.id = context.request_id(),
        provider,
        reason = error.reason(),
        cause = cause.map(Cause::reason),
        error = chain(error),
        "Login not started"
    );
    let headers = &context.parts.headers;
    let (page, forget) = if let login::Error::Loop = error {
        let title = "Signing in does not work";
        let page = Page::new(StatusCode::BAD_REQUEST, title, loop_cause(cause));
        let page = page.with_reason(error.reason());
        (page, Some(login::forget_rounds()))
    } else {
        (failure_page(context, error, retry_url), None)
    };
    let page = page.link("Try again", retry_url);
    let (page, cookies) = match in_tab {
        Some(in_tab) => in_tab.keep(page, None),
        None => (page, Vec::new()),
    };
    let mut response = page.respond(headers);
    set_cookies(response.headers_mut(), cookies.into_iter().chain(forget));
    response
}

/// Creates the answer to a navigation to a page to which no login can return. A visit to
/// `sign_in_url` starts a login that ends at the start page.
pub(super) fn page_not_kept(context: &RequestContext, sign_in_url: &str) -> Response<Body> {
    let mut page =
        failure_page(context, &login::Error::PageNotKept, sign_in_url).link("Sign in", sign_in_url);
    if context.is_in_frame() {
        page = page.in_frame();
    }
    let mut response = page.respond(&context.parts.headers);
    sign_in::request_session(response.headers_mut());
    response
}

/// Returns the text of the page after three failed logins in a row. The text depends on the reason
/// why the session was not accepted.
fn loop_cause(cause: Option<Cause>) -> &'static str {
    match cause {
        Some(Cause::NoCookie) => {
            "You signed in three times, and each time your browser did not keep the session \
             cookie. Allow cookies for this site and try again. A privacy extension may block \
             them."
        }
        Some(Cause::OtherInstance) => {
            "You signed in three times, and each time the next request reached another copy of \
             this gateway, which does not know your session. The administrator of this site has to \
             run one replica, or send each user to the same replica."
        }
        Some(Cause::TokenExpired) => {
            "You signed in three times, and each time the access token had already expired. The \
             clocks of this gateway and of the sign-in server may differ, or the server gives \
             tokens that live for seconds only."
        }
        Some(Cause::RefusedByApp) => {
            "You signed in three times, and each time the app did not accept the access token that \
             the sign-in server had just given. The administrator of this site has to check which \
             tokens the app accepts."
        }
        Some(Cause::OtherProvider) => {
            "You signed in three times, but your session belongs to another sign-in server than \
             this page requires. The administrator of this site has to check the routes."
        }
        Some(Cause::SignInTooOld) => {
            "You signed in three times, and each time the sign-in server stated an earlier sign-in \
             than this page allows. The administrator of this site has to check whether the server \
             supports max_age and auth_time."
        }
        Some(Cause::Conflicting) => {
            "Your browser sends two different session cookies for this site. Clear this site's \
             cookies and try again."
        }
        Some(
            Cause::Expired
            | Cause::GrantEnded
            | Cause::Malformed
            | Cause::Paused
            | Cause::Unknown
            | Cause::Unreachable,
        )
        | None => {
            "You signed in three times, and each time the session was gone at once. The gateway \
             may have no memory left for sessions. The administrator of this site finds details in \
             the log."
        }
    }
}

/// Creates the answer to a login that failed. A visit to `retry_url` starts the login again, at the
/// same provider.
pub(super) fn failed(
    context: &RequestContext,
    failure: FailedLogin,
    retry_url: &str,
) -> Response<Body> {
    let error = &failure.error;
    let page = failure_page(context, error, retry_url);
    // If the failure is permanent, the sign-in link leads to the page that the user requested. From
    // the requested page, the user can sign in with another account or another provider.
    let passes = error.class().is_some_and(|class| class.passes);
    let (label, start) = if error.code_can_be_sent_again() {
        // An empty link loads the page again, so the browser sends the same code.
        ("Try again now", String::new())
    } else if passes || failure.prompt != Prompt::AsNeeded {
        ("Sign in again", retry_url.to_owned())
    } else {
        ("Sign in again", failure.retry_link())
    };
    let mut response = page.link(label, start).respond(&context.parts.headers);
    let headers = response.headers_mut();
    headers.insert(header::REFERRER_POLICY, NO_REFERRER);
    set_cookies(headers, failure.cookies);
    response
}

/// Creates the page for a login that failed. If the failure is temporary and no request was sent to
/// the provider, the page reloads itself at `retry_url`. The page does not reload itself after a
/// permanent failure or after a request to the provider, because an unused tab must not start
/// logins repeatedly. The answer to a posted form never reloads itself.
fn failure_page(context: &RequestContext, error: &login::Error, retry_url: &str) -> Page {
    let (status, title, text) = wording(error);
    let mut page = Page::new(status, title, text).with_reason(error.reason());
    let class = error.class();
    page.retry_after = class
        .and_then(|class| class.retry_after)
        .or_else(|| retry_after(status));
    let tries_again = class.is_some_and(|class| class.passes && class.sent == Sent::Nothing);
    if error.code_can_be_sent_again() && context.parts.method == Method::GET {
        // The page loads itself again, so the browser sends the same code. This ends at the latest
        // when the state has expired.
        let after = page.retry_after.unwrap_or(DEFAULT_RETRY).as_secs();
        page.refresh = Some((after, String::new()));
    } else if tries_again && context.parts.method == Method::GET {
        let after = page.retry_after.unwrap_or(DEFAULT_RETRY).as_secs();
        let after = after.clamp(MIN_REFRESH.as_secs(), MAX_REFRESH.as_secs());
        page.refresh = Some((after, retry_url.to_owned()));
    }
    page
}

/// Returns the default value of `Retry-After`, which is used if no other time for the retry is
/// known.
fn retry_after(status: StatusCode) -> Option<Duration> {
    match status {
        StatusCode::SERVICE_UNAVAILABLE => Some(DEFAULT_RETRY),
        _ => None,
    }
}

/// The page for a provider that rejects every request of this gateway, for all users.
const REFUSED: (StatusCode, &str, &str) = (
    StatusCode::BAD_GATEWAY,
    "The sign-in server refused this gateway",
    "It rejects the requests of this gateway. Trying again will probably not help. The \
     administrator of this site has to check the gateway's log and settings.",
);

fn wording(error: &login::Error) -> (StatusCode, &'static str, &'static str) {
    match error {
        login::Error::Denied(denial) => denied(denial.code),
        login::Error::Malformed(_) => (
            StatusCode::BAD_REQUEST,
            "This sign-in cannot be finished",
            "The address that led here is incomplete or was changed on its way. Start again.",
        ),
        login::Error::State(error) | login::Error::Ticket(error) => state_wording(*error),
        login::Error::Used | login::Error::TicketUsed => (
            StatusCode::BAD_REQUEST,
            "This sign-in has already been used",
            "Each sign-in works once. Start again; you may not even have to type your password.",
        ),
        login::Error::TicketSession(lost) => lost_session_wording(*lost),
        login::Error::EndedMeanwhile => (
            StatusCode::BAD_REQUEST,
            "You were signed out",
            "You signed out, or your session at the sign-in server ended, while this sign-in was in \
             progress. Start again.",
        ),
        login::Error::SessionUnreachable => SESSION_UNREACHABLE,
        login::Error::PageNotKept => (
            StatusCode::UNAUTHORIZED,
            "Sign in first",
            "You are not signed in. The address of this page cannot be kept during the sign-in, \
             because the address is too long or contains characters that are not allowed. After \
             the sign-in, you get to the start page. Then open this page again.",
        ),
        login::Error::Provider(_) if error.code_can_be_sent_again() => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Your sign-in has to wait",
            "Very many sign-ins reach this site at the moment, so each sign-in has to wait for its \
             turn. You did nothing wrong, and you do not have to type your password again.",
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
            "The gateway has an internal problem or is restarting. Try again in a moment.",
        ),
    }
}

/// Returns the page texts for a ticket whose session cannot be used.
fn lost_session_wording(lost: LostSession) -> (StatusCode, &'static str, &'static str) {
    match lost {
        LostSession::Ended => (
            StatusCode::BAD_REQUEST,
            "Your session has ended",
            "You signed out, or your session ended, before this page was opened. Start again.",
        ),
        LostSession::OtherInstance => (
            StatusCode::BAD_REQUEST,
            "Your session is not known here",
            "This request reached another copy of this gateway, or the gateway has been restarted. \
             Start again. If it happens again, the administrator of this site has to run one \
             replica, or send each user to the same replica.",
        ),
        LostSession::TokenExpired => (
            StatusCode::BAD_REQUEST,
            "Your access token has expired",
            "The access token of your session expired before this page was opened, and the sign-in \
             server gave no token for a refresh. Start again. If it happens again, the \
             administrator of this site has to check the lifetime of the tokens.",
        ),
    }
}

/// Returns the page texts for a state, a ticket or a ticket request that is not valid.
fn state_wording(error: StateError) -> (StatusCode, &'static str, &'static str) {
    match error {
        StateError::Expired => (
            StatusCode::BAD_REQUEST,
            "This sign-in took too long",
            "Too much time has passed since it was started. Start again; you may not even have to \
             type your password.",
        ),
        StateError::NoCookie => (
            StatusCode::BAD_REQUEST,
            "This sign-in cannot be finished here",
            "Your browser did not send the cookie that belongs to it. Either cookies are blocked \
             for this site, or the sign-in was started in another browser or window. Allow cookies \
             and start again.",
        ),
        StateError::Foreign | StateError::Missing | StateError::OtherBrowser => (
            StatusCode::BAD_REQUEST,
            "This sign-in was not started here",
            "It was started in another browser, or not by this site. If somebody sent you this \
             link, do not use it. Start again from the app itself.",
        ),
    }
}

fn denied(code: ErrorCode) -> (StatusCode, &'static str, &'static str) {
    match code {
        ErrorCode::AccessDenied => (
            StatusCode::FORBIDDEN,
            "You were not signed in",
            "The sign-in was cancelled, or the sign-in server does not allow this account.",
        ),
        ErrorCode::InteractionRequired => (
            StatusCode::FORBIDDEN,
            "You were not signed in",
            "The sign-in server needs something from you, but did not ask you for it. Sign in at \
             that server itself, then start again here.",
        ),
        ErrorCode::ConsentRequired => (
            StatusCode::FORBIDDEN,
            "You were not signed in",
            "Nobody has allowed this site to use your account, and the sign-in server did not ask \
             you. Start again. If it still does not ask you, its administrator has to allow this \
             site.",
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
        | ErrorCode::Unrecognized => REFUSED,
    }
}

/// Returns the page texts for a failure at the provider or on the network to the provider.
fn provider_wording(class: Classification) -> (StatusCode, &'static str, &'static str) {
    match (class.passes, class.actor, class.sent) {
        (true, _, _) if class.unreadable => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The sign-in server's answer cannot be read",
            "It answered, but with something else than expected, such as a page about maintenance. \
             Try again in a moment. If it does not help, the administrator of this site finds the \
             answer in the gateway's log.",
        ),
        (true, _, _) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The sign-in server cannot be reached",
            "It is down, slow or busy. You did nothing wrong; try again in a moment.",
        ),
        (false, Actor::Client, _) => (
            StatusCode::BAD_REQUEST,
            "This sign-in cannot be finished",
            "The sign-in server no longer accepts it. Start again; you may not even have to type \
             your password.",
        ),
        (false, Actor::Operator, Sent::Undelivered | Sent::Possibly) => REFUSED,
        (false, Actor::Operator, Sent::Nothing) => (
            StatusCode::BAD_GATEWAY,
            "This gateway cannot ask the sign-in server",
            "Its settings do not allow it, or do not match the sign-in server. Trying again will \
             probably not help. The administrator of this site has to check the gateway's log and \
             settings.",
        ),
        (false, Actor::Provider, _) => (
            StatusCode::BAD_GATEWAY,
            "The sign-in server's answer cannot be used",
            "Trying again will probably not help. The administrator of this site has to check the \
             gateway's log and settings.",
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
            (call(TokenCallError::TooManyCodes), 503, "has to wait"),
            (
                call(TokenCallError::MalformedResponse(
                    provider::ResponseFormatError::MediaType,
                )),
                503,
                "answer cannot be read",
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
                provider::Error::Exchange(
                    GrantError::NoSubject {
                        claim: "sub".into(),
                    }
                    .into(),
                ),
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
