//! The gateway's own endpoints. This module contains the callback and the public keys.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use http_body_util::BodyExt as _;

use super::sign_in::SignInRequest;
use super::{Body, Error, Record, RequestContext, WorkerSite, login_failure};
use super::{is_prefetch, refuse_prefetch, see_other};
use crate::login::{Callback, Completion, FailedLogin, PreviousSession};
use crate::provider::{Prompt, ResponseMode};
use crate::server::RequestBody;
use crate::session::{Session, SessionKey};
use crate::telemetry::chain;

/// The size limit for a form, in bytes. 32 KiB are enough for an authorization code and a `state`
/// parameter, and for a saved page.
const LARGEST_FORM: u64 = 32 * 1024;

impl WorkerSite {
    /// Answers a request to the gateway's own endpoints. `peer` is the address at the other end of
    /// the connection, which can be a proxy that asks for an auth check.
    pub(super) async fn own_answer(
        &self,
        context: &RequestContext,
        (peer, body): (IpAddr, RequestBody),
        record: &mut Record,
    ) -> Result<Response<Body>, Error> {
        let (path, own) = (context.target.path(), self.own());
        if path == own.auth() {
            return self.oauth2_auth(context, peer, record).await;
        }
        if path == own.sign_in() || path == own.start() {
            let of_proxy = self.page_of_proxy(context);
            if let Some(page) = of_proxy.as_ref().filter(|_page| path == own.sign_in()) {
                return Ok(self.sign_in_for_proxy(context, page));
            }
            check_method(&context.parts.method, &[Method::GET], "GET")?;
            return Ok(self.sign_in(context, of_proxy).await);
        }
        self.own_endpoint(context, body, record).await
    }

    /// Performs step 4 of the list in the crate documentation: answers requests to the gateway's
    /// own endpoints. An endpoint has exactly one path. The answer for any other path below the
    /// gateway's own prefix is 404.
    async fn own_endpoint(
        &self,
        context: &RequestContext,
        body: RequestBody,
        record: &mut Record,
    ) -> Result<Response<Body>, Error> {
        let (method, own) = (&context.parts.method, self.own());
        match context.target.path() {
            path if self.login().redirection().is_own_path(path) => {
                let provider = self.login().redirection().provider_at(path);
                let provider = provider.ok_or(Error::NoRoute)?;
                // A host that redeems tickets has no sessions of its own. A login that began at this
                // host before a reload has set `login.host` cannot be finished.
                if self.login().redeems_tickets(&context.public_url) {
                    return Err(Error::NoRoute);
                }
                let posts = self.login().response_mode(provider) == ResponseMode::FormPost;
                if posts && method == Method::POST {
                    return self.posted_answer(provider, context, body).await;
                }
                let methods = if posts { "GET, POST" } else { "GET" };
                check_method(method, &[Method::GET], methods)?;
                let query = context.target.query().unwrap_or_default();
                let forwarded = if posts {
                    (self.login()).forwarded_answer(provider, query, &context.public_url)
                } else {
                    None
                };
                let answer = match &forwarded {
                    Some(form) => (ResponseMode::FormPost, &**form),
                    // A provider that sends authorization responses by POST can still send error
                    // responses by a redirect.
                    None => (ResponseMode::Query, query.as_bytes()),
                };
                Ok(self.callback(provider, answer, context, record).await)
            }
            path if path == own.ticket_request() => {
                check_method(method, &[Method::GET], "GET")?;
                self.ticket_request(context).await
            }
            path if path == own.ticket() => {
                check_method(method, &[Method::GET], "GET")?;
                self.ticket(context, record).await
            }
            path if path == own.sign_out() => {
                if *method == Method::POST {
                    return Ok(self.sign_out(context).await);
                }
                check_method(method, &[Method::GET, Method::HEAD], "GET, HEAD, POST")?;
                if *method == Method::GET && self.may_sign_out_by_get(context) {
                    return Ok(self.end_own_session(context).await);
                }
                Ok(self.confirm_sign_out(context))
            }
            path if path == own.signed_out() => {
                check_method(method, &[Method::GET, Method::HEAD], "GET, HEAD")?;
                Ok(self.signed_out(context).await)
            }
            path if path == own.end_session() => {
                check_method(method, &[Method::GET], "GET")?;
                Ok(self.end_session(context).await)
            }
            path if own.is_logout(path) => self.logout(context, body).await,
            _ => self.other_endpoint(context, body).await,
        }
    }

    /// Answers requests to the endpoints that are not steps of a login or of a sign-out.
    async fn other_endpoint(
        &self,
        context: &RequestContext,
        body: RequestBody,
    ) -> Result<Response<Body>, Error> {
        let (method, own) = (&context.parts.method, self.own());
        match context.target.path() {
            path if path == own.userinfo() => {
                check_method(method, &[Method::GET, Method::HEAD], "GET, HEAD")?;
                Ok(self.userinfo(context).await)
            }
            path if path == own.sessions() => {
                if *method == Method::POST {
                    return Ok(self.end_own_sessions(context).await);
                }
                check_method(method, &[Method::GET, Method::HEAD], "GET, HEAD, POST")?;
                Ok(self.own_sessions(context).await)
            }
            path if path == own.jwks() => self.key_set(method),
            path if path == own.silent() => {
                check_method(method, &[Method::GET], "GET")?;
                Ok(self.after_silent_sign_in(context))
            }
            _ => self.page_endpoint(context, body).await,
        }
    }

    /// Answers a request to an endpoint of a saved page or of a kept form.
    async fn page_endpoint(
        &self,
        context: &RequestContext,
        body: RequestBody,
    ) -> Result<Response<Body>, Error> {
        let (method, path) = (&context.parts.method, context.target.path());
        if let Some(name) = self.own().tab_page_name(path) {
            check_method(method, &[Method::GET], "GET")?;
            return self.restore_page(context, name).ok_or(Error::NoRoute);
        }
        if let Some(name) = self.own().kept_form_name(path) {
            check_method(method, &[Method::GET, Method::POST], "GET, POST")?;
            if *method == Method::POST {
                return self.posted_form(context, name, body).await;
            }
            return self.kept_form(context, name).await.ok_or(Error::NoRoute);
        }
        let name = self.own().saved_page_name(path).ok_or(Error::NoRoute)?;
        check_method(method, &[Method::GET, Method::POST], "GET, POST")?;
        let form = if *method == Method::POST {
            Some(form(&context.parts.headers, body).await?)
        } else {
            None
        };
        Ok(self.saved_page(context, name, form.as_deref()))
    }

    /// Answers a request for the public keys of signed assertions.
    fn key_set(&self, method: &Method) -> Result<Response<Body>, Error> {
        let key_set = self.settings().key_set.as_deref().ok_or(Error::NoRoute)?;
        check_method(method, &[Method::GET, Method::HEAD], "GET, HEAD")?;
        Ok(published(key_set))
    }

    /// Answers the first request of an answer that a page posts: the browser repeats the answer in a
    /// page load of its own, with the cookies of the gateway.
    async fn posted_answer(
        &self,
        provider: &str,
        context: &RequestContext,
        body: RequestBody,
    ) -> Result<Response<Body>, Error> {
        let form = form(&context.parts.headers, body).await?;
        let url = (self.login()).forward_answer(provider, &form, &context.public_url);
        Ok(match url {
            Ok(url) => see_other(&url, []),
            Err(failure) => self.login_failed(context, *failure),
        })
    }

    /// Answers a request to the redirection endpoint (RFC 6749 section 3.1.2).
    async fn callback(
        &self,
        provider: &str,
        (mode, parameters): (ResponseMode, &[u8]),
        context: &RequestContext,
        record: &mut Record,
    ) -> Response<Body> {
        let headers = &context.parts.headers;
        // A prefetch would use up the authorization code before the user opens the page.
        if is_prefetch(headers) {
            return refuse_prefetch(headers);
        }
        let previous_session = match self.previous_session(context).await {
            Some((_, Some(session))) => PreviousSession::Live(session),
            Some((key, None)) => PreviousSession::Stale(key),
            None => PreviousSession::Nothing,
        };
        let completion = self
            .login()
            .complete(Callback {
                parameters,
                mode,
                headers,
                public_url: &context.public_url,
                provider,
                client: context.client.address(),
                previous_session,
            })
            .await;
        match completion {
            Completion::SignedIn {
                location,
                cookies,
                provider,
                session,
                identity,
                refreshable,
            } => {
                self.metrics().login("ok", "signed_in");
                let key = session.log_prefix();
                let id = context.request_id();
                record.user(Some(&identity));
                self.log_signed_in(id, (&provider, key), &identity, refreshable);
                let owner = self.form_owner_cookie(context, (&session, &*identity));
                see_other(&location, cookies.into_iter().chain(owner))
            }
            Completion::AlreadySignedIn { location, cookies } => {
                record.reason("already_signed_in");
                see_other(&location, cookies)
            }
            Completion::Failed(failure) if failure.prompt == Prompt::Silent => {
                self.not_signed_in_silently(context, failure, record)
            }
            Completion::Failed(failure) => self.login_failed(context, failure),
        }
    }

    /// Logs a failed login, and creates its page.
    pub(super) fn login_failed(
        &self,
        context: &RequestContext,
        failure: FailedLogin,
    ) -> Response<Body> {
        let reason = failure.error.reason();
        self.metrics().login("failed", reason);
        // A code that can be sent again is no failed login. There is already a warning that logins
        // have to wait.
        if !failure.error.code_can_be_sent_again() {
            tracing::warn!(
                request.id = context.request_id(),
                reason,
                provider = failure.provider.as_deref(),
                error = chain(&failure.error),
                "Login failed"
            );
        }
        let request = SignInRequest::after_failure(&failure);
        let retry_url = match &failure.host {
            // The sign-in endpoint of this host would not lead to the page of the other host.
            Some(host) => [host.origin(), &request.address(self.login(), host)].concat(),
            None => request.address(self.login(), &context.public_url),
        };
        login_failure::failed(context, failure, &retry_url)
    }

    /// Returns the key of the session that the browser had before this request, and the session if
    /// the session is live.
    pub(super) async fn previous_session(
        &self,
        context: &RequestContext,
    ) -> Option<(SessionKey, Option<Arc<Session>>)> {
        let now = self.clock().now();
        let known = self.access.session_of(context.session_origin(), now).await;
        // The cookie may come from before a reload that has set or removed `login.host`.
        known.or_else(|| Some((self.login().key_to_end(context.login_origin())?, None)))
    }
}

/// Creates the answer with the public keys of signed assertions (RFC 7517 section 8.5.2). An app may
/// use the answer for five minutes without asking again.
fn published(key_set: &str) -> Response<Body> {
    let mut response = Response::new(Body::own(key_set.to_owned()));
    let headers = response.headers_mut();
    let media_type = HeaderValue::from_static("application/jwk-set+json");
    headers.insert(header::CONTENT_TYPE, media_type);
    let caching = HeaderValue::from_static("public, max-age=300");
    headers.insert(header::CACHE_CONTROL, caching);
    let no_guess = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, no_guess);
    response
}

/// Reads a form: an answer that a provider sends by POST (OAuth 2.0 Form Post Response Mode), a
/// logout token, or a saved page.
pub(super) async fn form(headers: &HeaderMap, body: RequestBody) -> Result<Bytes, Error> {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    // A request with two `Content-Type` fields is ambiguous, so the gateway rejects it.
    let kind = kinds.next().filter(|_| kinds.next().is_none());
    let is_form = kind.is_some_and(|kind| {
        let essence = kind.as_bytes().split(|byte| *byte == b';').next();
        let form = b"application/x-www-form-urlencoded";
        essence.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(form))
    });
    if !is_form {
        return Err(Error::NoForm);
    }
    whole(body).await
}

/// Reads the whole body of a request to one of the gateway's own endpoints.
pub(super) async fn whole(mut body: RequestBody) -> Result<Bytes, Error> {
    body.limit(LARGEST_FORM).map_err(Error::RequestBody)?;
    let read = body.collect().await.map_err(Error::RequestBody)?;
    Ok(read.to_bytes())
}

/// Rejects a method that the endpoint does not accept. The redirection endpoint also rejects HEAD,
/// because a HEAD request must not use up a code.
pub(super) fn check_method(
    method: &Method,
    allowed: &[Method],
    methods: &'static str,
) -> Result<(), Error> {
    if allowed.contains(method) {
        Ok(())
    } else {
        Err(Error::MethodNotAllowed(methods))
    }
}
