//! The endpoints at which other programs end sessions: the provider (OpenID Connect Back-Channel
//! Logout 1.0), and an app (the webhook). The module also contains the endpoint that a page of the
//! provider loads in a frame (OpenID Connect Front-Channel Logout 1.0).

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use serde_json::json;
use url::form_urlencoded;

use super::endpoints::{check_method, form, whole};
use super::{Body, Error, NO_REFERRER, RequestContext, WorkerSite};
use super::{is_prefetch, refuse_prefetch, set_cookies};
use crate::access::Cause;
use crate::login::{self, FrontChannelLogout, LogoutRefusal, RevocationRequest};
use crate::server::RequestBody;
use crate::session::cookie;
use crate::telemetry::chain;

/// The field with the signature of a request to the webhook.
const SIGNATURE: &str = "x-sidegate-signature";

impl WorkerSite {
    /// Answers a request to one of the endpoints for which [`OwnPaths::is_logout`] is true.
    ///
    /// [`OwnPaths::is_logout`]: crate::login::OwnPaths::is_logout
    pub(super) async fn logout(
        &self,
        context: &RequestContext,
        body: RequestBody,
    ) -> Result<Response<Body>, Error> {
        let (parts, path, own) = (&context.parts, context.target.path(), self.own());
        if path == own.front_channel_logout() {
            check_method(&parts.method, &[Method::GET], "GET")?;
            return Ok(self.front_channel_logout(context).await);
        }
        if path == own.revoke() && !self.login().has_webhook() {
            return Err(Error::NoRoute);
        }
        check_method(&parts.method, &[Method::POST], "POST")?;
        if path == own.revoke() {
            return Ok(self.revoke(context, whole(body).await?).await);
        }
        let form = form(&parts.headers, body).await?;
        Ok(self.back_channel_logout(context, &form).await)
    }

    /// Answers a logout request of a provider. `form` is the body of the request.
    async fn back_channel_logout(&self, context: &RequestContext, form: &Bytes) -> Response<Body> {
        let Some(token) = only_parameter(form, "logout_token") else {
            let text = "the parameter `logout_token` is missing or repeated";
            return refused(StatusCode::BAD_REQUEST, text);
        };
        let client = context.client.address();
        let ended = self.login().back_channel_logout(token, client).await;
        self.logout_answer(context, ended)
    }

    /// Answers a logout request that a page of the provider causes in the browser of the user. The
    /// answer does not tell whether the browser has a session.
    async fn front_channel_logout(&self, context: &RequestContext) -> Response<Body> {
        let headers = &context.parts.headers;
        if is_prefetch(headers) {
            return refuse_prefetch(headers);
        }
        let query = context.target.query().unwrap_or_default();
        let Some(logout) = FrontChannelLogout::parse(query) else {
            return refused(
                StatusCode::BAD_REQUEST,
                "`iss` or `sid` is missing or repeated",
            );
        };
        let (origin, now) = (context.session_origin(), self.clock().now());
        let session = match self.access.live_session_of(origin, now).await {
            Ok(session) => session,
            Err(Cause::Unreachable) => {
                let refusal = LogoutRefusal::Failed(login::Error::SessionUnreachable);
                return self.logout_answer(context, Err(refusal));
            }
            Err(_no_session) => return in_frame(None),
        };
        match self.login().front_channel_logout(logout, &session).await {
            Ok(true) => {
                let key = session.key().log_prefix();
                tracing::info!(session.key = key, "Signed out by a page of the provider");
                in_frame(Some(cookie::clear(cookie::SESSION)))
            }
            Ok(false) => in_frame(None),
            Err(error) => self.logout_answer(context, Err(LogoutRefusal::Failed(error))),
        }
    }

    /// Answers a request to the webhook of an app.
    async fn revoke(&self, context: &RequestContext, body: Bytes) -> Response<Body> {
        let mut fields = context.parts.headers.get_all(SIGNATURE).iter();
        let field = fields.next().filter(|_| fields.next().is_none());
        let signature = field.and_then(|field| field.to_str().ok());
        let request = RevocationRequest {
            signature: signature.map(str::to_owned),
            body,
        };
        let client = context.client.address();
        let ended = self.login().revoke_sessions(request, client).await;
        self.logout_answer(context, ended)
    }

    /// Returns the answer to a program that asks for the end of sessions (OpenID Connect
    /// Back-Channel Logout 1.0 section 2.8).
    fn logout_answer(
        &self,
        context: &RequestContext,
        ended: Result<(), LogoutRefusal>,
    ) -> Response<Body> {
        let Err(refusal) = ended else {
            return with_status(StatusCode::OK, Body::empty());
        };
        let (id, reason) = (context.request_id(), refusal.reason());
        let error = chain(&refusal);
        let mut response = match refusal {
            LogoutRefusal::Busy | LogoutRefusal::Failed(_) | LogoutRefusal::Unverified(_) => {
                // Anybody can send logout tokens with unknown keys, so the event is limited.
                if self.login().failed_end_is_due(reason) {
                    tracing::error!(request.id = id, reason, error, "Sessions not ended");
                }
                refused(StatusCode::SERVICE_UNAVAILABLE, "try again later")
            }
            LogoutRefusal::TooMany => refused(StatusCode::TOO_MANY_REQUESTS, &error),
            LogoutRefusal::Repeated => refused(StatusCode::CONFLICT, &error),
            LogoutRefusal::Invalid(_) | LogoutRefusal::OtherIssuer | LogoutRefusal::Webhook(_) => {
                tracing::warn!(
                    request.id = id,
                    reason,
                    error,
                    "Request to end sessions refused"
                );
                refused(StatusCode::BAD_REQUEST, &error)
            }
        };
        if let Some(pause) = refusal.retry_after() {
            // The field has whole seconds.
            let seconds = pause.as_millis().div_ceil(1000).max(1);
            if let Ok(seconds) = HeaderValue::try_from(seconds.to_string()) {
                response.headers_mut().insert(header::RETRY_AFTER, seconds);
            }
        }
        response
    }
}

/// Returns the value of a parameter of a form. Returns `None` if the parameter is missing or
/// repeated.
fn only_parameter(form: &[u8], name: &str) -> Option<String> {
    let mut values = form_urlencoded::parse(form).filter(|(other, _)| other == name);
    let (_, value) = values.next()?;
    values.next().is_none().then(|| value.into_owned())
}

/// Returns an empty page that a page of another site may load in a frame. No other page of the
/// gateway may be loaded in a frame.
fn in_frame(forgotten: Option<HeaderValue>) -> Response<Body> {
    let mut response = with_status(StatusCode::OK, Body::empty());
    let headers = response.headers_mut();
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, html);
    let policy = HeaderValue::from_static("default-src 'none'");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers.insert(header::REFERRER_POLICY, NO_REFERRER);
    set_cookies(headers, forgotten);
    response
}

fn refused(status: StatusCode, description: &str) -> Response<Body> {
    let error = if status.is_server_error() {
        "temporarily_unavailable"
    } else {
        "invalid_request"
    };
    let body = json!({"error": error, "error_description": description});
    let mut response = with_status(status, Body::own(body.to_string()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn with_status(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let no_guess = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, no_guess);
    response
}
