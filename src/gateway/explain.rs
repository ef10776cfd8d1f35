//! The pages for users whose request was not permitted. The pages state what happened and what the
//! user can do next. The pages show nothing from the request except its URL.

use std::time::Duration;

use http::{Response, StatusCode};

use super::page::Page;
use super::{Body, RequestContext, sign_in};
use crate::access::{Challenge, FailureLocation, REFUSED_BY_RULE, Unavailable};
use crate::identity::Identity;
use crate::login::{AfterSignOut, OwnPaths, ReturnTo};

/// The shortest and the longest pause before a page reloads itself.
pub(super) const MIN_REFRESH: Duration = Duration::from_secs(5);
pub(super) const MAX_REFRESH: Duration = Duration::from_mins(1);

/// Creates the answer to a request that needs a session but is not a navigation to a document.
pub(super) fn sign_in_first(
    (context, own): (&RequestContext, &OwnPaths),
    challenge: &Challenge,
    login_url: String,
) -> Response<Body> {
    let (text, href) = if context.parts.method.is_safe() {
        (
            "You are not signed in, or your session has ended.",
            login_url.clone(),
        )
    } else {
        // The sign-in link leads to the page from which the user sent the form. If the page with
        // the form needs a session, a visit to this page starts the login.
        let form = context.referrer(own).unwrap_or_else(ReturnTo::root);
        (
            "You are not signed in, or your session has ended, so the app did not get what you \
             sent. Sign in and send it again.",
            form.as_str().to_owned(),
        )
    };
    let mut page = Page::new(StatusCode::UNAUTHORIZED, "Sign in first", text)
        .with_reason(challenge.cause.reason())
        .link("Sign in", href);
    page.login_url = Some(login_url);
    let mut response = page.respond_to(&context.parts.method, &context.parts.headers);
    sign_in::request_session(response.headers_mut());
    response
}

/// Creates the answer for a user who may not use the route. The page shows the account and offers a
/// sign-in with another account.
pub(super) fn forbidden(
    (context, own): (&RequestContext, &OwnPaths),
    identity: &Identity,
) -> Response<Body> {
    let who = identity.label().map_or_else(
        || "You are signed in, but this account may not use this page.".to_owned(),
        |name| format!("You are signed in as {name}, but this account may not use this page."),
    );
    let requested = context.target.path_and_query().as_str();
    let page = ReturnTo::parse(requested, own).filter(|_page| context.is_navigation());
    let after = AfterSignOut::another_account(page);
    Page::new(StatusCode::FORBIDDEN, "You may not use this page", who)
        .paragraph("If you have another account, you can sign out and sign in with that account.")
        .with_reason(REFUSED_BY_RULE)
        .post("Sign out and use another account", after.link(own))
        .link("Go to the start page", "/")
        .respond_to(&context.parts.method, &context.parts.headers)
}

/// Creates the answer for a user whose session exists but cannot be used now. In a browser, the
/// page reloads itself.
pub(super) fn unavailable(
    requested: (&RequestContext, &OwnPaths),
    unavailable: &Unavailable,
) -> Response<Body> {
    let unsent = "The app did not get what you sent. Send it again in a moment.";
    session_unavailable(requested, unavailable, unsent)
}

/// Creates the answer to a request that the app has refused because the access token has expired, if
/// no newer token can be obtained now.
pub(super) fn refused_and_unavailable(
    requested: (&RequestContext, &OwnPaths),
    unavailable: &Unavailable,
) -> Response<Body> {
    let refused = "The app refused what you sent, because your session had to be renewed. Send it again \
                   in a moment.";
    session_unavailable(requested, unavailable, refused)
}

/// Creates the answer to a request whose session cannot be used now. `unsafe_method` is the text for
/// a request that may change something at the app.
fn session_unavailable(
    (context, own): (&RequestContext, &OwnPaths),
    unavailable: &Unavailable,
    unsafe_method: &str,
) -> Response<Body> {
    let (title, text) = match unavailable.location {
        FailureLocation::Provider => (
            "Your session cannot be renewed right now",
            "You are still signed in, but the sign-in server has to renew your session. It is \
             down, slow or busy, or it refuses to answer.",
        ),
        FailureLocation::Store => {
            let (_status, title, text) = SESSION_UNREACHABLE;
            (title, text)
        }
    };
    let mut page =
        Page::new(StatusCode::SERVICE_UNAVAILABLE, title, text).with_reason(unavailable.reason);
    if !context.parts.method.is_safe() {
        page = page.paragraph(unsafe_method);
    }
    // The pause before a retry is rounded up to whole seconds.
    let whole = Duration::from_secs(unavailable.retry_after.as_secs());
    let after = if whole == unavailable.retry_after {
        whole
    } else {
        whole.saturating_add(Duration::from_secs(1))
    };
    page.retry_after = Some(after);
    if context.is_navigation() {
        let requested = context.target.path_and_query().as_str();
        let address = ReturnTo::parse(requested, own).unwrap_or_else(ReturnTo::root);
        let after = after.clamp(MIN_REFRESH, MAX_REFRESH).as_secs();
        page.refresh = Some((after, address.as_str().to_owned()));
        page = page.link("Try again now", address.as_str());
        // The page also offers a new login, because some providers refuse a refresh but do not
        // report that the grant has ended.
        page = page.link("Sign in again", format!("{}?prompt=login", own.sign_in()));
    }
    page.respond_to(&context.parts.method, &context.parts.headers)
}

/// The page for a session that the store does not return.
pub(super) const SESSION_UNREACHABLE: (StatusCode, &str, &str) = (
    StatusCode::SERVICE_UNAVAILABLE,
    "Your session cannot be reached right now",
    "You are still signed in, but this site cannot read or write its stored sessions. The \
     administrator of this site finds details in the log.",
);
