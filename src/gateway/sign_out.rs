//! The sign-out endpoint, and the page after a sign-out.

use http::{HeaderMap, HeaderName, Response, StatusCode};
use url::form_urlencoded;

use super::page::Page;
use super::{Body, RequestContext, WorkerSite, is_prefetch, see_other, set_cookies};
use crate::fields::{OnlyValue, SEC_FETCH_DEST, SEC_FETCH_SITE, View as _, request_id};
use crate::login::{
    AfterSignOut, AtProvider, Error, ReturnTo, SameOrigin, SignInLink, SignOutStep, SignedOut,
    SignedOutAt, same_origin,
};
use crate::provider::Prompt;
use crate::telemetry::chain;

/// The field with which the browser deletes the data that the app has stored in the browser.
const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

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
            .post("Sign out", self.after_sign_out(context).link(self.own()))
            .link("Go to the start page", "/")
            .respond(headers);
        }
        self.end_own_session(context).await
    }

    /// Returns true if a GET request ends the session. The settings must allow it, and a page of the
    /// same host, or the user, must have caused the request. Another site, and an image in a page of
    /// the app, could otherwise sign users out.
    pub(super) fn may_sign_out_by_get(&self, context: &RequestContext) -> bool {
        let headers = &context.parts.headers;
        if !self.login().signs_out_by_get() || is_prefetch(headers) {
            return false;
        }
        let is_for = |purposes: &[&[u8]]| match headers.only_value(&SEC_FETCH_DEST) {
            OnlyValue::One(purpose) => purposes.contains(&purpose),
            OnlyValue::Absent | OnlyValue::Several => false,
        };
        match headers.only_value(&SEC_FETCH_SITE) {
            OnlyValue::One(b"same-origin") => is_for(&[b"document", b"empty"]),
            // The user has typed the address, or has opened a bookmark.
            OnlyValue::One(b"none") => is_for(&[b"document"]),
            OnlyValue::One(_) | OnlyValue::Several => false,
            // An older browser names the page that caused the request only in `Referer`.
            OnlyValue::Absent => context.is_navigation() && context.is_from_same_origin(),
        }
    }

    /// Ends the session of the browser after the check of the request.
    pub(super) async fn end_own_session(&self, context: &RequestContext) -> Response<Body> {
        let headers = &context.parts.headers;
        let after = self.after_sign_out(context);
        let signed_out = (self.login())
            .sign_out(headers, &context.public_url, after.clone())
            .await;
        match signed_out {
            Ok(signed_out) => self.next_step(context, signed_out, &after),
            Err(error) => {
                log_failure(headers, &error);
                Page::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "You are still signed in",
                    "The gateway could not end your session. Try again. If that does not help, \
                     tell the administrator of this site, and do not let others use this browser.",
                )
                .with_reason(error.reason())
                .post("Sign out", after.link(self.own()))
                .link("Go to the start page", "/")
                .respond(headers)
            }
        }
    }

    /// Returns the page or the redirect after the session has ended.
    fn next_step(
        &self,
        context: &RequestContext,
        SignedOut {
            cookies,
            at_provider,
            only_here,
        }: SignedOut,
        after: &AfterSignOut,
    ) -> Response<Body> {
        let continuing = match &at_provider {
            AtProvider::Continues(provider) => provider.as_deref(),
            AtProvider::AskLoginHost
            | AtProvider::Ends(_)
            | AtProvider::SignsIn(_)
            | AtProvider::Unreachable(_) => None,
        };
        let location = (self.login()).location_after(after, &context.public_url, continuing);
        let page = match at_provider {
            AtProvider::AskLoginHost => Some(self.ends_at_all_hosts(context)),
            AtProvider::Continues(_) => {
                only_here.then(|| signed_out_page().link("Continue", &*location))
            }
            AtProvider::Ends(provider) => Some(self.ends_at_provider(context, &provider)),
            AtProvider::SignsIn(link) => Some(signs_in_again(context, link)),
            AtProvider::Unreachable(provider) => {
                let name = self.login().display_name(&provider);
                let text = format!(
                    "{name} cannot be reached at the moment, so you may still be signed in there."
                );
                let page = signed_out_page().paragraph(text);
                let page = self.with_end_session_links(context, page, None);
                Some(self.with_next_page(context, (&provider, after), page))
            }
        };
        let page = page.map(|page| if only_here { follows_later(page) } else { page });
        let mut response = match page {
            Some(page) => page.respond(&context.parts.headers),
            None => see_other(&location, []),
        };
        let headers = response.headers_mut();
        set_cookies(headers, cookies);
        add_clear_site_data(self, headers);
        response
    }

    /// Reads what the browser does after the sign-out.
    fn after_sign_out(&self, context: &RequestContext) -> AfterSignOut {
        let query = context.target.query().unwrap_or_default();
        AfterSignOut::read(query, &context.public_url, self.own())
    }

    /// Returns the page that asks the user for a confirmation.
    pub(super) fn confirm_sign_out(&self, context: &RequestContext) -> Response<Body> {
        let after = self.after_sign_out(context);
        Page::new(
            StatusCode::OK,
            "Sign out?",
            "This ends your session with this app in this browser. If your sign-in server allows \
             it, your session there ends, too.",
        )
        .post("Sign out", after.link(self.own()))
        .link("Stay signed in", "/")
        .link("All your sessions", self.own().sessions())
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
            Err(error) => {
                log_failure(&context.parts.headers, &error);
                Page::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "You are not signed out everywhere",
                    "Your session at this host has ended, but the gateway could not end your \
                     session at the other hosts of this site. Try again. If that does not help, \
                     tell the administrator of this site, and do not let others use this browser.",
                )
                .with_reason(error.reason())
                .link("Try again", self.own().end_session())
                .respond(&context.parts.headers)
            }
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
        let signed_out = state.and_then(|(_name, state)| {
            // LemonLDAP::NG appends `?state=...` a second time. A state of the gateway contains no `?`.
            let state = state.split('?').next().unwrap_or_default();
            login.signed_out_at(state, &context.public_url)
        });
        // Without `prompt=login` the provider could sign in the same user again without asking for a
        // password.
        let sign_in = format!("{}?prompt=login", self.own().sign_in());
        let page = signed_out_page();
        let page = match signed_out {
            Some(SignedOutAt {
                other_host: Some(url),
                ..
            }) => return see_other(&url, []),
            Some(SignedOutAt {
                return_to: Some(page),
                ..
            }) => return see_other(&page.absolute(context.public_url.origin()), []),
            Some(SignedOutAt { provider, .. }) => {
                let name = login.display_name(provider);
                page.paragraph(format!("Your session at {name} has ended, too."))
                    .link("Sign in again", sign_in)
            }
            None => {
                let provider = login.provider_of_sign_out(query);
                let name = provider.map(|provider| login.display_name(provider));
                let name = name.unwrap_or("the sign-in server itself");
                let text = format!("You may still be signed in at {name}.");
                let page = page.paragraph(text).link("Sign in again", sign_in);
                self.with_end_session_links(context, page, provider)
            }
        };
        page.respond(headers)
    }

    /// Adds a link to the sign-out at each provider, or only at the provider `only`.
    fn with_end_session_links(
        &self,
        context: &RequestContext,
        mut page: Page,
        only: Option<&str>,
    ) -> Page {
        let login = self.login();
        let links = login.end_session_links(&context.public_url).into_iter();
        for (provider, url) in links.filter(|(name, _)| only.is_none_or(|only| only == *name)) {
            let name = login.display_name(provider);
            page = page.link(format!("Sign out at {name}"), url);
        }
        page
    }

    /// Adds the link that the user needs after a sign-out without its step at the provider: a login
    /// with another account, or the page to which the browser returns.
    fn with_next_page(
        &self,
        context: &RequestContext,
        (provider, after): (&str, &AfterSignOut),
        page: Page,
    ) -> Page {
        let return_to = after.return_to.clone();
        if after.another_account {
            let link = SignInLink {
                provider: Some(provider),
                prompt: Prompt::Login,
                remember: false,
                passed: &[],
                return_to: &return_to.unwrap_or_else(ReturnTo::root),
            };
            let link = self.login().sign_in_link(&link, &context.public_url);
            return page.link("Sign in with another account", link);
        }
        match return_to {
            Some(return_to) => page.link("Continue", return_to.as_str()),
            None => page,
        }
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

/// Tells the user that other replicas do not know yet that the session has ended.
fn follows_later(page: Page) -> Page {
    page.paragraph(
        "Another part of this site cannot be reached at the moment. It may still accept your session \
         for about a minute, and ends it as soon as it can be reached. Until then, do not let others \
         use this browser.",
    )
}

fn signed_out_page() -> Page {
    Page::new(
        StatusCode::OK,
        "You are signed out",
        "Your session with this app has ended.",
    )
}

/// Returns the page that lets the user sign in with another account. The answer to the sign-out is a
/// page and not a redirect, for the same reason as in [`WorkerSite::continued_sign_out`].
fn signs_in_again(context: &RequestContext, link: String) -> Page {
    let mut page = Page::new(
        StatusCode::OK,
        "Signing out",
        "Your session with this app has ended. The next page lets you sign in with another account.",
    )
    .link("Continue", &*link);
    page.login_url = Some([context.public_url.origin(), &link].concat());
    page.refresh = Some((0, link));
    page
}

/// Adds the field with which the browser deletes the data of the app, if the settings contain
/// `login.clear_site_data`.
pub(super) fn add_clear_site_data(site: &WorkerSite, headers: &mut HeaderMap) {
    if let Some(value) = site.login().clear_site_data() {
        headers.insert(CLEAR_SITE_DATA, value.clone());
    }
}

/// Logs that a session could not be ended. `headers` are the fields of the request.
pub(super) fn log_failure(headers: &HeaderMap, error: &Error) {
    tracing::error!(
        request.id = request_id::of(headers).unwrap_or_default(),
        reason = error.reason(),
        error = chain(error),
        "Sign-out failed"
    );
}
