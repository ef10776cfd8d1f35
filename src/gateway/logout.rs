//! The endpoints at which other programs end sessions: the provider (OpenID Connect Back-Channel
//! Logout 1.0), and an app (the webhook).

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;
use url::form_urlencoded;

use super::{Body, RequestContext, WorkerSite};
use crate::login::{LogoutRefusal, RevocationRequest};
use crate::telemetry::chain;

/// The field with the signature of a request to the webhook.
const SIGNATURE: &str = "x-sidegate-signature";

/// The pause after which a provider may send the same logout token again, in seconds.
const RETRY_SECS: &str = "5";

impl WorkerSite {
    /// Answers a logout request of a provider. `form` is the body of the request.
    pub(super) async fn back_channel_logout(
        &self,
        context: &RequestContext,
        form: &Bytes,
    ) -> Response<Body> {
        let Some(token) = only_parameter(form, "logout_token") else {
            let text = "the parameter `logout_token` is missing or repeated";
            return refused(StatusCode::BAD_REQUEST, text);
        };
        let client = context.client.address();
        let ended = self.login().back_channel_logout(token, client).await;
        answer(context, ended)
    }

    /// Answers a request to the webhook of an app.
    pub(super) async fn revoke(&self, context: &RequestContext, body: Bytes) -> Response<Body> {
        let mut fields = context.parts.headers.get_all(SIGNATURE).iter();
        let field = fields.next().filter(|_| fields.next().is_none());
        let signature = field.and_then(|field| field.to_str().ok());
        let request = RevocationRequest {
            signature: signature.map(str::to_owned),
            body,
        };
        let client = context.client.address();
        answer(context, self.login().revoke_sessions(request, client).await)
    }
}

/// Returns the value of a parameter of a form. Returns `None` if the parameter is missing or
/// repeated.
fn only_parameter(form: &[u8], name: &str) -> Option<String> {
    let mut values = form_urlencoded::parse(form).filter(|(other, _)| other == name);
    let (_, value) = values.next()?;
    values.next().is_none().then(|| value.into_owned())
}

/// Returns the answer to a program that asks for the end of sessions (OpenID Connect Back-Channel
/// Logout 1.0 section 2.8).
pub(super) fn answer(
    context: &RequestContext,
    ended: Result<(), LogoutRefusal>,
) -> Response<Body> {
    let Err(refusal) = ended else {
        return with_status(StatusCode::OK, Body::empty());
    };
    let (id, reason) = (context.request_id(), refusal.reason());
    let error = chain(&refusal);
    match refusal {
        LogoutRefusal::Failed(_) | LogoutRefusal::Unverified(_) => {
            tracing::error!(request.id = id, reason, error, "Sessions not ended");
            let mut response = refused(StatusCode::SERVICE_UNAVAILABLE, "try again later");
            let pause = HeaderValue::from_static(RETRY_SECS);
            response.headers_mut().insert(header::RETRY_AFTER, pause);
            response
        }
        LogoutRefusal::TooMany => refused(StatusCode::TOO_MANY_REQUESTS, &error),
        LogoutRefusal::Repeated => refused(StatusCode::CONFLICT, &error),
        LogoutRefusal::Invalid(_) | LogoutRefusal::OtherIssuer | LogoutRefusal::Webhook(_) => {
            tracing::warn!(request.id = id, reason, error, "Request to end sessions refused");
            refused(StatusCode::BAD_REQUEST, &error)
        }
    }
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
