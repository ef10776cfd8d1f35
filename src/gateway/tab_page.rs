//! The pages of routes with `keep_fragment`, which keep the address of a page in the storage of the
//! browser tab during a login.
//!
//! Browsers do not send the fragment of an address to servers. Therefore a script of the gateway
//! stores the fragment, together with the encrypted return path. After the login, another script
//! sends the encrypted return path back, in the body of a request to an endpoint of the gateway.
//! The gateway checks the return path and redirects the browser. The script puts the fragment at
//! the end of the URL of this request, and the browser keeps the fragment in the redirect (RFC 9110
//! section 10.2.2). No other part of the URL depends on the storage, so a value in the storage
//! cannot lead to another origin.

use http::{Response, StatusCode};

use super::page::Page;
use super::script::Script;
use super::{Body, RequestContext, WorkerSite, is_prefetch, refuse_prefetch, set_cookies, sign_in};
use crate::access::Challenge;
use crate::login::{ReturnTo, Started, TabPage};

/// The script that stores the fragment and the encrypted return path.
const KEEP: &str = include_str!("keep_page.js");

/// The script that reads what [`KEEP`] has stored.
const RESTORE: &str = include_str!("restore_page.js");

impl WorkerSite {
    /// Returns the page that a script saves in the storage of the browser tab, if the route keeps
    /// fragments. `return_to` is the return path of the page.
    pub(super) fn tab_page(
        &self,
        context: &RequestContext,
        challenge: &Challenge,
        return_to: &ReturnTo,
    ) -> Option<TabPage> {
        if !challenge.route.keeps_fragment() {
            return None;
        }
        // Without random bytes from the system, no login can start. The start of the login then
        // reports the error.
        let saved = self.login().save_in_tab(return_to, context.login_origin());
        saved.ok()
    }

    /// Returns the answer to a navigation that starts a login on a route with `keep_fragment`. The
    /// status is 401, so that a program does not mistake the answer for the requested page.
    pub(super) fn sign_in_from_tab(
        &self,
        context: &RequestContext,
        challenge: &Challenge,
        tab_page: TabPage,
        started: Started,
    ) -> Response<Body> {
        let text = "You are not signed in, or your session has ended. Your browser opens the \
                    sign-in.";
        let mut page = Page::new(StatusCode::UNAUTHORIZED, "Sign in first", text)
            .with_reason(challenge.cause.reason())
            .link("Sign in", &*started.location)
            .instead_of_redirect();
        page.login_url = Some(self.login_url(context, challenge));
        let page = keep_page(page, &tab_page, Some(started.location));
        let mut response = page.respond(&context.parts.headers);
        sign_in::request_session(response.headers_mut());
        let cookies = started.cookies.into_iter().chain(tab_page.cookies);
        set_cookies(response.headers_mut(), cookies);
        response
    }

    /// Returns the page that restores the saved page with the name `name`. Returns `None` if no
    /// saved page can have this name.
    pub(super) fn restore_page(
        &self,
        context: &RequestContext,
        name: &str,
    ) -> Option<Response<Body>> {
        let headers = &context.parts.headers;
        let path = self.login().saved_page_path(name)?;
        if is_prefetch(headers) {
            return Some(refuse_prefetch(headers));
        }
        let text = "Your browser opens the page that you asked for.";
        let mut page = Page::new(StatusCode::OK, "The page opens", text)
            .link("Continue", &*path)
            .instead_of_redirect();
        page.script = Some(Script {
            source: RESTORE,
            data: vec![("name", name.to_owned()), ("path", path.clone())],
            otherwise: Some(path),
        });
        Some(page.respond(headers))
    }
}

/// Adds the script that saves `tab_page`. If `next` is a URL, the script then opens this URL. A
/// browser without scripts opens `next` at once, unless the page is too large for cookies.
pub(super) fn keep_page(mut page: Page, tab_page: &TabPage, next: Option<String>) -> Page {
    let in_cookies = !tab_page.cookies.is_empty();
    if !in_cookies {
        page = page.paragraph(
            "The address of this page is long. If your browser runs no scripts or stores no data \
             for this site, the address cannot be kept during the sign-in. Then open this page \
             again after the sign-in.",
        );
    }
    let mut data = vec![
        ("name", tab_page.name.to_string()),
        ("page", tab_page.sealed.clone()),
    ];
    data.extend(next.clone().map(|next| ("next", next)));
    data.extend(in_cookies.then(|| ("in-cookies", "true".to_owned())));
    page.script = Some(Script {
        source: KEEP,
        data,
        otherwise: next.filter(|_next| in_cookies),
    });
    page
}
