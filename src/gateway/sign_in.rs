//! The sign-in endpoint, and the page where the user chooses one of several providers.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use url::form_urlencoded;

use super::asked_page::NotKept;
use super::page::Page;
use super::tab_page::InTab;
use super::{Body, RequestContext, WorkerSite, login_failure};
use super::{is_prefetch, refuse_embedded, refuse_prefetch, see_other, set_cookies};
use crate::access::{Challenge, Route};
use crate::login::{
    self, FailedLogin, Login, PublicUrl, ReturnTo, SameOrigin, SignInLink, Start, TicketRequest,
    same_origin,
};
use crate::provider::Prompt;

/// The parameters of a request to sign in.
#[derive(Clone, Debug)]
pub(super) struct SignInRequest {
    provider: Option<String>,
    prompt: Prompt,
    /// Whether the user wants the browser to keep the session cookie.
    remember: bool,
    /// The parameters of the sign-in request that are meant for the provider. No name occurs twice.
    passed: Vec<(String, String)>,
    return_to: ReturnTo,
    /// Whether `return_to` is the start page because no login can return to the page that the user
    /// came from.
    page_is_lost: bool,
}

impl SignInRequest {
    /// Reads the query of a request to sign in. The gateway's own links contain the return path in
    /// encrypted form. Links of an app contain a return address: `linked`. If the query contains no
    /// return path, the return path is the page that the other proxy names, `of_proxy`, or the page
    /// in `Referer`. The return path is always a page of this host.
    fn read(
        context: &RequestContext,
        login: &Login,
        (linked, of_proxy): (Option<Result<ReturnTo, NotKept>>, Option<ReturnTo>),
    ) -> Self {
        let mut request = Self::to_return(ReturnTo::root());
        let (mut sealed, mut max_age) = (None, None);
        let query = context.target.query().unwrap_or_default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "provider" => request.provider = Some(value.into_owned()),
                "prompt" => request.prompt = Prompt::in_link(&value),
                "remember" => request.remember = value == "1",
                "max_age" => max_age = value.parse().ok(),
                "to" => sealed = Some(login.unseal(&value, &context.public_url).ok_or(NotKept)),
                name if login.passes(name, &value) => request.pass(name, value.into_owned()),
                _ => {}
            }
        }
        request.prompt = request.prompt.with_max_age(max_age);
        let (sealed, unopened) = match sealed {
            Some(Err(NotKept)) => (None, Some(Err(NotKept))),
            sealed => (sealed, None),
        };
        let asked = sealed.or(linked).or_else(|| of_proxy.map(Ok));
        let asked = asked.or_else(|| context.referring_page(login.own()));
        match asked.or(unopened) {
            Some(Ok(return_to)) => request.return_to = return_to,
            Some(Err(NotKept)) => request.page_is_lost = true,
            None => {}
        }
        request
    }

    /// Adds a parameter that is meant for the provider. A later value replaces an earlier value of
    /// the same parameter.
    fn pass(&mut self, name: &str, value: String) {
        self.passed.retain(|(known, _value)| known != name);
        self.passed.push((name.to_owned(), value));
    }

    /// Returns the parameters of a login that ends at `return_to`.
    pub(super) fn to_return(return_to: ReturnTo) -> Self {
        Self {
            provider: None,
            prompt: Prompt::AsNeeded,
            remember: false,
            passed: Vec::new(),
            return_to,
            page_is_lost: false,
        }
    }

    /// Returns the parameters of a login at `provider` that ends at the start page.
    pub(super) fn at_provider(provider: Option<&str>) -> Self {
        Self {
            provider: provider.map(str::to_owned),
            ..Self::to_return(ReturnTo::root())
        }
    }

    /// Returns the parameters of a new login after a failed login.
    pub(super) fn after_failure(failure: &FailedLogin) -> Self {
        Self {
            provider: failure.provider.as_deref().map(str::to_owned),
            prompt: failure.prompt,
            remember: failure.remember,
            ..Self::to_return(failure.retry.clone())
        }
    }

    /// Returns the parameters of the login for which another host has sent `request`.
    pub(super) fn of_ticket_request(request: &TicketRequest) -> Self {
        Self {
            provider: request.only_provider().map(str::to_owned),
            prompt: request.prompt,
            remember: request.remember,
            passed: request.passed.clone(),
            return_to: request.return_to.clone(),
            page_is_lost: false,
        }
    }

    /// Returns the URL of a link to the sign-in endpoint, with the parameters of `self`, but with
    /// the provider `provider`.
    pub(super) fn at(
        &self,
        provider: Option<&str>,
        login: &Login,
        public_url: &PublicUrl,
    ) -> String {
        let link = SignInLink {
            provider,
            prompt: self.prompt,
            remember: self.remember,
            passed: &self.passed,
            return_to: &self.return_to,
        };
        login.sign_in_link(&link, public_url)
    }

    /// Returns the URL of a link to the sign-in endpoint, with the parameters of `self`.
    pub(super) fn address(&self, login: &Login, public_url: &PublicUrl) -> String {
        self.at(self.provider.as_deref(), login, public_url)
    }
}

impl WorkerSite {
    /// Starts a login, or lets the user choose a provider. `of_proxy` is the page that another proxy
    /// names.
    pub(super) async fn sign_in(
        &self,
        context: &RequestContext,
        of_proxy: Option<ReturnTo>,
    ) -> Response<Body> {
        if let Some(refusal) = refuse_embedded(&context.parts.headers) {
            return refusal;
        }
        if let Some(redirect) = self.sign_in_elsewhere(context) {
            return redirect;
        }
        let pages = (self.page_in_link(context), of_proxy);
        let mut request = SignInRequest::read(context, self.login(), pages);
        if request.page_is_lost {
            let request_id = context.request_id();
            tracing::debug!(request.id = request_id, "Page not kept");
        }
        let return_to = request.return_to.clone();
        let saved = match self.login().save_page(return_to, context.login_origin()) {
            Ok((return_to, saved)) => {
                request.return_to = return_to;
                saved
            }
            Err(login::Error::PageNotKept) => return self.page_not_kept(context, &request),
            Err(error) => {
                let provider = request.provider.as_deref().unwrap_or_default();
                return login_failure::not_started(context, (provider, &error), None, "/", None);
            }
        };
        let mut response = self.begin_or_choose(context, request).await;
        set_cookies(response.headers_mut(), saved);
        response
    }

    async fn begin_or_choose(
        &self,
        context: &RequestContext,
        mut request: SignInRequest,
    ) -> Response<Body> {
        let headers = &context.parts.headers;
        let providers = self.providers();
        let requested = request.provider.take();
        let chosen = match &*providers {
            [only] => Some(only),
            several => several
                .iter()
                .find(|known| Some(**known) == requested.as_deref()),
        };
        let Some(provider) = chosen.copied() else {
            return self.chooser(context, &request, &providers).respond(headers);
        };
        let now = self.clock().now();
        let session = self.access.live_session_of(context.session_origin(), now);
        let session = session.await;
        let max_age = request.prompt.max_age();
        let signed_in = session.as_ref().is_ok_and(|session| {
            session.provider() == provider
                && max_age.is_none_or(|max_age| session.is_authenticated_within(max_age, now))
        });
        // A user who is already signed in at this provider needs no new login.
        if request.prompt.accepts_session() && signed_in {
            return see_other(&request.return_to.absolute(context.public_url.origin()), []);
        }
        let return_to = request.return_to.clone();
        let start = Start {
            prompt: request.prompt,
            remember: request.remember,
            passed: &request.passed,
            ..Start::new(provider, return_to, context.login_origin())
        };
        match self.login().begin(start).await {
            Ok(started) => see_other(&started.location, started.cookies),
            Err(error) => {
                self.metrics().login("failed", error.reason());
                let retry_url = request.at(Some(provider), self.login(), &context.public_url);
                let failed = (provider, &error);
                login_failure::not_started(context, failed, session.err(), &retry_url, None)
            }
        }
    }

    /// Returns the answer to a navigation if the route accepts several providers. The status is
    /// 401, so that a program does not mistake the answer for the requested page. The browser keeps
    /// `in_tab` during the login.
    pub(super) fn choice(
        &self,
        context: &RequestContext,
        challenge: &Challenge,
        (return_to, in_tab): (ReturnTo, Option<InTab>),
    ) -> Response<Body> {
        let saved = self.login().save_page(return_to, context.login_origin());
        let Ok((return_to, saved)) = saved else {
            return self.page_not_kept(context, &SignInRequest::at_provider(None));
        };
        let request = SignInRequest {
            prompt: challenge.fresh_prompt(),
            ..SignInRequest::to_return(return_to)
        };
        let providers: Vec<&str> = challenge.route.providers().collect();
        let mut page = self.chooser(context, &request, &providers);
        page.status = StatusCode::UNAUTHORIZED;
        page.login_url = Some(self.login_url(context, challenge));
        if let Some(other) = &challenge.other {
            let name = self.login().display_name(other.provider());
            page = page.paragraph(format!(
                "You are signed in with {name}, but this page needs another sign-in."
            ));
        }
        let mut cookies = saved;
        if let Some(in_tab) = in_tab {
            let (kept, in_cookies) = in_tab.keep(page, None);
            page = kept;
            cookies.extend(in_cookies);
        }
        let mut response = page.respond(&context.parts.headers);
        request_session(response.headers_mut());
        set_cookies(response.headers_mut(), cookies);
        response
    }

    /// Returns the answer to a page load in a frame. Most providers refuse to be shown in a frame,
    /// so the link of the answer opens in the whole tab. After the login, the user returns to the
    /// page in `Referer`, which in most cases contains the frame, or to the page of the frame. The
    /// answer stores no cookies, because one page can contain many frames. An address that the link
    /// cannot contain is therefore not used.
    pub(super) fn sign_in_on_top(
        &self,
        context: &RequestContext,
        challenge: &Challenge,
    ) -> Response<Body> {
        let requested = context.target.path_and_query().as_str();
        let pages = [
            context.referrer(self.own()),
            ReturnTo::parse(requested, self.own()),
        ];
        let mut pages = pages.into_iter().flatten();
        let provider = only_provider(&challenge.route);
        let Some(return_to) = pages.find(ReturnTo::is_short) else {
            return self.page_not_kept(context, &SignInRequest::at_provider(provider));
        };
        let request = SignInRequest {
            prompt: challenge.fresh_prompt(),
            ..SignInRequest::to_return(return_to)
        };
        let href = request.at(provider, self.login(), &context.public_url);
        let text = "You are not signed in, or your session has ended. The sign-in opens in the \
                    whole tab.";
        let mut page = Page::new(StatusCode::UNAUTHORIZED, "Sign in first", text)
            .with_reason(challenge.cause.reason())
            .in_frame()
            .link("Sign in", href);
        page.login_url = Some(self.login_url(context, challenge));
        let mut response = page.respond(&context.parts.headers);
        request_session(response.headers_mut());
        response
    }

    /// Returns the answer to a navigation to a page to which no login can return. The link of the
    /// answer starts the login `request`, but this login ends at the start page.
    pub(super) fn page_not_kept(
        &self,
        context: &RequestContext,
        request: &SignInRequest,
    ) -> Response<Body> {
        let root = SignInRequest {
            return_to: ReturnTo::root(),
            ..request.clone()
        };
        login_failure::page_not_kept(context, &root.address(self.login(), &context.public_url))
    }

    /// Redirects the browser to a saved page. `form` is the body of a request by which a script
    /// sends the page.
    pub(super) fn saved_page(
        &self,
        context: &RequestContext,
        name: &str,
        form: Option<&[u8]>,
    ) -> Response<Body> {
        let headers = &context.parts.headers;
        if is_prefetch(headers) {
            return refuse_prefetch(headers);
        }
        // Only the page of the gateway that restores an address sends this form. Other sites must
        // not open a page of the app by this form.
        if form.is_some() && same_origin(headers, &context.public_url) == SameOrigin::No {
            return Page::new(
                StatusCode::FORBIDDEN,
                "The page was not opened",
                "Another site tried to open a page for you, so the request was ignored.",
            )
            .with_reason("cross_origin")
            .link("Go to the start page", "/")
            .respond(headers);
        }
        let page = match form {
            Some(form) => self.login().posted_page(name, form, &context.public_url),
            None => self.login().saved_page(name, context.login_origin()),
        };
        match page {
            Some(page) => see_other(&page.location, page.cookies),
            None => Page::new(
                StatusCode::BAD_REQUEST,
                "The page you asked for is not known any more",
                "Your browser did not send the cookies with the address of that page. Open the \
                 page again, or go on at the start page.",
            )
            .with_reason("page_not_saved")
            .link("Go to the start page", "/")
            .respond(headers),
        }
    }

    /// Creates a page with one link for each provider.
    fn chooser(
        &self,
        context: &RequestContext,
        request: &SignInRequest,
        providers: &[&str],
    ) -> Page {
        let links = providers.iter().map(|name| {
            let href = request.at(Some(name), self.login(), &context.public_url);
            (*name, href)
        });
        let mut page = self.choices(links);
        if request.page_is_lost {
            page = page.paragraph(
                "The address of the page that you came from could not be kept, so the sign-in ends \
                 at the start page.",
            );
        }
        if !self.login().asks_to_remember() {
            return page;
        }
        let other = SignInRequest {
            remember: !request.remember,
            ..request.clone()
        };
        let href = other.at(None, self.login(), &context.public_url);
        page.link(remember_label(request.remember), href)
    }

    /// Creates a page with links, each with the configured name of its provider.
    pub(super) fn choices<'a>(&self, links: impl Iterator<Item = (&'a str, String)>) -> Page {
        let page = Page::new(
            StatusCode::OK,
            "Sign in",
            "Choose where you have an account.",
        )
        .with_choices();
        links.fold(page, |page, (name, href)| {
            page.link(self.login().display_name(name), href)
        })
    }

    /// Returns the providers that at least one route accepts.
    fn providers(&self) -> Vec<&str> {
        let counts = |name: &&str| {
            let mut routes = self.access.routes();
            routes.any(|route| route.providers().any(|counting| counting == *name))
        };
        self.login().providers().filter(counts).collect()
    }

    /// Returns the URL to which a program sends its user for a login. If the site has several
    /// providers and the route accepts only one provider, the URL names this provider. If the route
    /// accepts several providers, the URL opens a page on which the user chooses a provider.
    pub(super) fn login_url(&self, context: &RequestContext, challenge: &Challenge) -> String {
        let provider = only_provider(&challenge.route);
        let provider = provider.filter(|_provider| self.providers().len() > 1);
        let prompt = challenge.fresh_prompt();
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(provider.map(|provider| ("provider", provider)));
        query.extend_pairs(prompt.value().map(|prompt| ("prompt", prompt)));
        let max_age = prompt.max_age_secs();
        query.extend_pairs(max_age.map(|seconds| ("max_age", seconds.to_string())));
        let query = query.finish();
        let separator = if query.is_empty() { "" } else { "?" };
        let (origin, path) = (context.public_url.origin(), self.own().sign_in());
        [origin, path, separator, &query].concat()
    }
}

/// Returns the label of the link with which the user decides whether the browser keeps the session
/// cookie.
pub(super) fn remember_label(remember: bool) -> &'static str {
    if remember {
        "\u{2611} Keep me signed in in this browser"
    } else {
        "\u{2610} Keep me signed in in this browser"
    }
}

/// Returns the provider that a route accepts, if the route accepts exactly one provider.
pub(super) fn only_provider(route: &Route) -> Option<&str> {
    let mut providers = route.providers();
    providers.next().filter(|_| providers.next().is_none())
}

/// Adds a challenge (`WWW-Authenticate`), because RFC 9110 section 15.5.2 requires a challenge in a
/// 401 answer. Browsers do not know the scheme `Cookie` of the challenge, so they do not ask the
/// user for a password.
pub(super) fn request_session(headers: &mut HeaderMap) {
    let challenge = HeaderValue::from_static("Cookie cookie-name=\"__Host-sidegate\"");
    headers.insert(header::WWW_AUTHENTICATE, challenge);
}
