//! Our own endpoints: the redirection endpoint, signing in and signing out.

use http::{Method, Response, StatusCode};
use url::form_urlencoded;

use super::page::Page;
use super::{Body, Error, Gateway, Record, Visit, explain, see_other};
use crate::access::Route;
use crate::login::{Before, Callback, Completion, ReturnTo, SameOrigin, same_origin};
use crate::provider::Prompt;
use crate::telemetry::chain;

/// Begins a login and returns to the page of our own that linked here.
pub(super) const SIGN_IN: &str = "/oauth2/sign_in";
/// Ends the session (POST), or asks whether to (GET).
pub(super) const SIGN_OUT: &str = "/oauth2/sign_out";
/// Says that the session has ended.
const SIGNED_OUT: &str = "/oauth2/signed_out";

/// Whether a path is one of our own endpoints, which a redirection endpoint must not shadow.
pub fn is_endpoint(path: &str) -> bool {
    [SIGN_IN, SIGN_OUT, SIGNED_OUT].contains(&path)
}

impl Gateway {
    /// Step 4 of the walk. Only the exact spelling of an endpoint is one; the rest is nothing.
    pub(super) async fn own_endpoint(
        &self,
        visit: &Visit<'_>,
        record: &mut Record<'_>,
    ) -> Result<Response<Body>, Error> {
        let method = &visit.parts.method;
        match visit.target.path() {
            path if self.login.owns(path) => {
                let provider = self.login.provider_at(path).ok_or(Error::NoRoute)?;
                only(method, &[Method::GET], "GET")?;
                Ok(self.callback(provider, visit, record).await)
            }
            SIGN_IN => {
                only(method, &[Method::GET], "GET")?;
                Ok(self.sign_in(visit, record).await)
            }
            SIGN_OUT if *method == Method::POST => Ok(self.sign_out(visit, record)),
            SIGN_OUT => {
                only(method, &[Method::GET, Method::HEAD], "GET, HEAD, POST")?;
                Ok(confirm_sign_out(visit))
            }
            SIGNED_OUT => {
                only(method, &[Method::GET, Method::HEAD], "GET, HEAD")?;
                Ok(signed_out(visit))
            }
            _ => Err(Error::NoRoute),
        }
    }

    /// The redirection endpoint (RFC 6749 section 3.1.2).
    async fn callback(
        &self,
        provider: &str,
        visit: &Visit<'_>,
        record: &mut Record<'_>,
    ) -> Response<Body> {
        let headers = &visit.parts.headers;
        if headers.contains_key("sec-purpose") || headers.contains_key("purpose") {
            // A link scanner or a prefetch must not use up somebody's code.
            record.reason = Some("prefetch");
            return Page::new(
                StatusCode::FORBIDDEN,
                "Not in advance",
                "Open this page yourself.",
            )
            .because("prefetch")
            .respond(headers);
        }
        let before = match self.access.session_of(headers, self.clock.now()) {
            Some((id, Some(session))) => Before::Live(id, session),
            Some((id, None)) => Before::Stale(id),
            None => Before::Nothing,
        };
        let completion = self
            .login
            .complete(Callback {
                query: visit.target.query().unwrap_or_default(),
                headers,
                public_url: visit.public_url,
                provider,
                client: visit.client.address(),
                before,
            })
            .await;
        match completion {
            Completion::SignedIn {
                location,
                cookies,
                provider,
                session,
            } => {
                self.metrics.login("ok", "signed_in");
                let key = session.log_prefix();
                tracing::info!(provider = &*provider, session.key = key, "Signed in");
                see_other(&location, cookies)
            }
            Completion::AlreadySignedIn { location, cookies } => {
                record.reason = Some("already_signed_in");
                see_other(&location, cookies)
            }
            Completion::Failed(failure) => {
                let reason = failure.error.reason();
                record.reason = Some(reason);
                self.metrics.login("failed", reason);
                let provider = failure.provider.as_deref();
                tracing::warn!(
                    reason,
                    provider,
                    error = chain(&failure.error),
                    "Login failed"
                );
                explain::failed(visit, failure)
            }
        }
    }

    /// Begins a login. Where it leads back to is the page of our own that the browser names as
    /// its referrer, never a parameter.
    async fn sign_in(&self, visit: &Visit<'_>, record: &mut Record<'_>) -> Response<Body> {
        let headers = &visit.parts.headers;
        let return_to = visit.referrer().unwrap_or_else(ReturnTo::root);
        let (provider, prompt) = self.asked(visit.target.query().unwrap_or_default());
        let session = self.access.session_of(headers, self.clock.now());
        let session = session.and_then(|(_, session)| session);
        let signed_in = session.is_some_and(|session| *session.provider() == *provider);
        if prompt == Prompt::AsNeeded && signed_in {
            return see_other(&return_to.absolute(visit.public_url.origin()), []);
        }
        let begun = self
            .login
            .begin((&provider, prompt), return_to, visit.public_url, headers);
        match begun.await {
            Ok(started) => see_other(&started.location, started.cookies),
            Err(error) => {
                record.reason = Some(error.reason());
                self.metrics.login("failed", error.reason());
                explain::no_start(visit, &error, None)
            }
        }
    }

    /// The provider that the query names, if a route uses it, or the first route's; and whether
    /// the person wants to type a password again.
    fn asked(&self, query: &str) -> (String, Prompt) {
        let (mut provider, mut prompt) = (None, Prompt::AsNeeded);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "provider" => provider = Some(value),
                "prompt" if value == "login" => prompt = Prompt::Login,
                _ => {}
            }
        }
        let routes = || self.access.routes().iter().map(Route::provider);
        let named = routes().find(|known| provider.as_deref() == Some(known));
        (
            named
                .or_else(|| routes().next())
                .unwrap_or_default()
                .to_owned(),
            prompt,
        )
    }

    fn sign_out(&self, visit: &Visit<'_>, record: &mut Record<'_>) -> Response<Body> {
        let headers = &visit.parts.headers;
        if same_origin(headers, visit.public_url) == SameOrigin::No {
            record.reason = Some("cross_origin");
            return Page::new(
                StatusCode::FORBIDDEN,
                "You are still signed in",
                "Another site asked to sign you out, so nothing was done. Use the button here if \
                 you want to sign out.",
            )
            .because("cross_origin")
            .post("Sign out", SIGN_OUT)
            .link("Go to the start page", "/")
            .respond(headers);
        }
        let cookies = self.login.sign_out(headers);
        see_other(
            &format!("{}{SIGNED_OUT}", visit.public_url.origin()),
            cookies,
        )
    }
}

fn confirm_sign_out(visit: &Visit<'_>) -> Response<Body> {
    Page::new(
        StatusCode::OK,
        "Sign out?",
        "Your session in this app ends in this browser.",
    )
    .post("Sign out", SIGN_OUT)
    .link("Stay signed in", "/")
    .respond(&visit.parts.headers)
}

fn signed_out(visit: &Visit<'_>) -> Response<Body> {
    Page::new(
        StatusCode::OK,
        "You are signed out",
        "Your session in this app has ended.",
    )
    .and("You may still be signed in at the sign-in server itself.")
    .link("Sign in again", format!("{SIGN_IN}?prompt=login"))
    .respond(&visit.parts.headers)
}

/// Refuses methods that an endpoint does not have. HEAD is one of them at the redirection
/// endpoint: it must not use up a code.
fn only(method: &Method, allowed: &[Method], named: &'static str) -> Result<(), Error> {
    if allowed.contains(method) {
        Ok(())
    } else {
        Err(Error::MethodNotAllowed(named))
    }
}
