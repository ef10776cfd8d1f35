//! The page to which the user returns after a sign-in, if a link of an app or a proxy that is
//! configured for oauth2-proxy names the page.

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use url::form_urlencoded;

use super::page::Page;
use super::{Body, RequestContext, WorkerSite, see_other, sign_in};
use crate::login::{NoReturn, PublicUrl, ReturnTo};
use crate::target::Target;

/// The field in which a proxy that is configured for oauth2-proxy names the requested page.
pub(super) const X_AUTH_REQUEST_REDIRECT: HeaderName =
    HeaderName::from_static("x-auth-request-redirect");

/// The parameters that name the page in a link of an app.
const PARAMETERS: [&str; 2] = ["rd", "return_to"];

/// A page of this site to which no login can return.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotKept;

/// A page of this site.
struct AskedPage {
    host: Rc<PublicUrl>,
    page: ReturnTo,
}

impl WorkerSite {
    /// Returns the page that `text` names: a path of the host of the request, or a URL at a host of
    /// this site. Returns `None` if `text` names no page of this site, or if it names an endpoint of
    /// the gateway. Returns [`NotKept`] if no login can return to the page.
    ///
    /// The scheme of the URL has no meaning, because another proxy can end TLS.
    fn page_of_site(
        &self,
        context: &RequestContext,
        text: &str,
    ) -> Option<Result<AskedPage, NotKept>> {
        let unsecured = || text.strip_prefix("http://");
        let (host, local) = match text.strip_prefix("https://").or_else(unsecured) {
            Some(rest) => {
                let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
                let (authority, local) = rest.split_at_checked(end)?;
                let host = self.public_url(&authority.to_ascii_lowercase())?;
                (host, if local.is_empty() { "/" } else { local })
            }
            // Browsers read `//` and `/\` as the beginning of the host of another site.
            None if !text.starts_with('/') || text.starts_with("//") || text.starts_with("/\\") => {
                return None;
            }
            None => (Rc::clone(&context.public_url), text),
        };
        match ReturnTo::read(local, self.own()) {
            Ok(page) => Some(Ok(AskedPage { host, page })),
            Err(NoReturn::Unusable) => Some(Err(NotKept)),
            Err(NoReturn::OwnEndpoint) => None,
        }
    }

    /// Returns the page of this host that a link of an app names. Returns [`NotKept`] if no login can
    /// return to this page. Returns the start page if the link names any other address. Returns
    /// `None` if the link contains no address.
    pub(super) fn page_in_link(
        &self,
        context: &RequestContext,
    ) -> Option<Result<ReturnTo, NotKept>> {
        let asked = self.page_of_site(context, &parameter(context)?);
        Some(match asked {
            Some(Ok(asked)) if asked.host == context.public_url => Ok(asked.page),
            Some(Err(NotKept)) => Err(NotKept),
            Some(Ok(_)) | None => Ok(ReturnTo::root()),
        })
    }

    /// Returns the URL of the same request at another host of this site, if the link names a page of
    /// this host. A session belongs to one host, so the login has to begin at the host of the page.
    fn start_at_other_host(&self, context: &RequestContext) -> Option<String> {
        let asked = self.page_of_site(context, &parameter(context)?)?.ok();
        let AskedPage { host, page } = asked.filter(|asked| asked.host != context.public_url)?;
        let query = context.target.query().unwrap_or_default();
        let others = form_urlencoded::parse(query.as_bytes());
        let others = others.filter(|(name, _value)| !PARAMETERS.contains(&&**name));
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(others).append_pair("rd", page.as_str());
        let (origin, start, query) = (host.origin(), self.own().start(), query.finish());
        Some(format!("{origin}{start}?{query}"))
    }

    /// Returns the value of `X-Auth-Request-Redirect` of a request to the gateway's own endpoints, if
    /// the proxy at `peer` is configured for oauth2-proxy. The gateway removes the field of all other
    /// requests, so no app gets the field, and no other client can set it.
    pub(super) fn redirect_of_proxy(
        &self,
        (peer, target): (IpAddr, &Target),
        headers: &HeaderMap,
    ) -> Option<HeaderValue> {
        let is_listed = self.settings().oauth2_proxies.contains(peer);
        if !is_listed || !self.is_own(target.path()) {
            return None;
        }
        let mut values = headers.get_all(X_AUTH_REQUEST_REDIRECT).iter();
        let only = values.next().filter(|_| values.next().is_none());
        only.cloned()
    }

    /// Returns the page of this host that a proxy names, if the proxy is configured for
    /// oauth2-proxy.
    pub(super) fn page_of_proxy(&self, context: &RequestContext) -> Option<ReturnTo> {
        let value = context.parts.headers.get(X_AUTH_REQUEST_REDIRECT)?;
        let asked = self.page_of_site(context, value.to_str().ok()?)?.ok()?;
        (asked.host == context.public_url).then_some(asked.page)
    }

    /// Returns the answer to a client of a proxy that shows the sign-in endpoint in place of the
    /// answer to an auth check (`error_page 401 = /oauth2/sign_in` of nginx).
    ///
    /// The answer is a page and not a redirect, because the proxy can replace the status of the
    /// answer (`error_page 401 =403`), and because a program must not follow a redirect to the
    /// provider.
    pub(super) fn sign_in_for_proxy(
        &self,
        context: &RequestContext,
        page: &ReturnTo,
    ) -> Response<Body> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let query = query.append_pair("rd", page.as_str()).finish();
        let start = format!("{}?{query}", self.own().start());
        let text = "You are not signed in, or your session has ended.";
        let mut answer = Page::new(StatusCode::UNAUTHORIZED, "Sign in first", text)
            .link("Sign in", start.as_str());
        let origin = context.public_url.origin();
        answer.login_url = Some([origin, self.own().sign_in()].concat());
        if context.is_navigation() {
            answer.refresh = Some((0, start));
        }
        let mut response = answer.respond_to(&context.parts.method, &context.parts.headers);
        sign_in::request_session(response.headers_mut());
        response
    }

    /// Sends the browser to the host of the page that the link names, if this is another host.
    pub(super) fn sign_in_elsewhere(&self, context: &RequestContext) -> Option<Response<Body>> {
        let url = self.start_at_other_host(context)?;
        Some(see_other(&url, []))
    }
}

/// Returns the first parameter that names a page.
fn parameter(context: &RequestContext) -> Option<Cow<'_, str>> {
    let query = context.target.query().unwrap_or_default();
    let mut parameters = form_urlencoded::parse(query.as_bytes());
    let found = parameters.find(|(name, _value)| PARAMETERS.contains(&&**name));
    found.map(|(_name, value)| value)
}
