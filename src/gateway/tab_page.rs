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

use http::{HeaderValue, Response, StatusCode};

use super::form_endpoint::keep_form;
use super::page::Page;
use super::script::Script;
use super::{Body, RequestContext, WorkerSite, is_prefetch, refuse_prefetch, set_cookies, sign_in};
use crate::access::Challenge;
use crate::login::{ReturnTo, Started, TabForm, TabPage};

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
    ) -> Option<InTab> {
        // After the login, the browser opens a restored page like a link of this origin. A link of
        // another site to the app's own sign-out would therefore end the new session.
        let is_sign_out = challenge.route.app_sign_out() == Some(context.target.path());
        if !challenge.route.keeps_fragment() || is_sign_out {
            return None;
        }
        // Without random bytes from the system, no login can start. The start of the login then
        // reports the error.
        let saved = self.login().save_in_tab(return_to, context.login_origin());
        saved.ok().map(InTab::Page)
    }

    /// Returns the answer to a request of a browser that starts a login and keeps `in_tab`. The
    /// status is 401, so that a program does not mistake the answer for the requested page.
    pub(super) fn sign_in_from_tab(
        &self,
        context: &RequestContext,
        challenge: &Challenge,
        in_tab: InTab,
        started: Started,
    ) -> Response<Body> {
        let text = "You are not signed in, or your session has ended. Your browser opens the \
                    sign-in.";
        let mut page = Page::new(StatusCode::UNAUTHORIZED, "Sign in first", text)
            .with_reason(challenge.cause.reason())
            .link("Sign in", &*started.location)
            .instead_of_redirect();
        page.login_url = Some(self.login_url(context, challenge));
        let (page, cookies) = in_tab.keep(page, Some(started.location));
        let mut response = page.respond(&context.parts.headers);
        sign_in::request_session(response.headers_mut());
        let cookies = started.cookies.into_iter().chain(cookies);
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

/// What a script keeps in the storage of the browser tab during a login.
#[derive(Debug)]
pub(super) enum InTab {
    /// A form that arrived after the session had ended.
    Form(TabForm),
    /// The address of a page.
    Page(TabPage),
}

impl InTab {
    /// The return path for a pending login: the endpoint that restores the page or the form.
    pub(super) fn return_to(&self) -> &ReturnTo {
        match self {
            Self::Form(form) => &form.return_to,
            Self::Page(page) => &page.return_to,
        }
    }

    /// Adds the script that keeps the page or the form. If `next` is a URL, the script then opens
    /// this URL. Also returns `Set-Cookie` values, which keep a page for a browser without scripts.
    pub(super) fn keep(self, page: Page, next: Option<String>) -> (Page, Vec<HeaderValue>) {
        match self {
            Self::Form(form) => (keep_form(page, form, next), Vec::new()),
            Self::Page(tab_page) => keep_page(page, tab_page, next),
        }
    }
}

/// Adds the script that saves `tab_page`. A browser without scripts opens `next` at once, unless the
/// page is too large for cookies.
fn keep_page(mut page: Page, tab_page: TabPage, next: Option<String>) -> (Page, Vec<HeaderValue>) {
    let in_cookies = !tab_page.cookies.is_empty();
    if !in_cookies {
        page = page.paragraph(
            "The address of this page is long. If your browser runs no scripts or stores no data \
             for this site, the address cannot be kept during the sign-in. Then open this page \
             again after the sign-in.",
        );
    }
    let mut data = vec![
        ("name", tab_page.name.into_string()),
        ("page", tab_page.sealed),
    ];
    data.extend(next.clone().map(|next| ("next", next)));
    data.extend(in_cookies.then(|| ("in-cookies", "true".to_owned())));
    page.script = Some(Script {
        source: KEEP,
        data,
        otherwise: next.filter(|_next| in_cookies),
    });
    (page, tab_page.cookies)
}
