//! Tells the clients that a login session has ended. An OpenID Provider sends a logout token (OpenID
//! Connect Back-Channel Logout 1.0). Laravel Passport has no such message, so the app of the
//! Passport server sends a signed request to the webhook of the gateway.

use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::json;
use tokio::time::timeout;

use super::authorization_server::{Client, ServerState};
use super::browser::exchange;
use super::provider_kind::ProviderKind;
use super::records::LoginSession;
use super::tokens::{hex, identifier};
use crate::secret::Secret;

/// The longest time for which the server waits for the answer of a client.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The endpoints of a client that the server tells about the end of a login session.
#[derive(Clone, Debug)]
pub struct LogoutEndpoints {
    /// The address of the client.
    pub address: SocketAddr,
    /// The host and port in the public URL of the client.
    pub host: String,
    /// The key of the webhook.
    pub webhook_key: Secret<String>,
}

/// Tells all clients that a login session has ended. A client that does not answer is ignored, as
/// most providers do.
pub(crate) async fn tell_clients(server: &ServerState, ended: &LoginSession) {
    let clients = server.records.lock().await.clients().to_vec();
    for client in clients {
        let Some(endpoints) = &client.logout else {
            continue;
        };
        let request = match server.settings.kind {
            ProviderKind::OpenId => logout_token(server, &client, ended),
            ProviderKind::Passport12 | ProviderKind::Passport13 => {
                webhook(server, endpoints, ended)
            }
        };
        let Some(request) = request else {
            continue;
        };
        let answered = timeout(TIMEOUT, exchange(endpoints.address, request)).await;
        let status = answered
            .ok()
            .and_then(Result::ok)
            .map(|answer| answer.status());
        if status != Some(StatusCode::OK) {
            tracing::warn!(client = client.id, ?status, "A client ignored a logout");
        }
    }
}

/// Returns the request with a logout token. Returns `None` if signing fails, which does not happen
/// in practice.
fn logout_token(
    server: &ServerState,
    client: &Client,
    ended: &LoginSession,
) -> Option<Request<Full<Bytes>>> {
    let now = server.settings.clock.now();
    let claims = json!({
        "iss": server.issuer,
        "sub": ended.user.to_string(),
        "aud": client.id,
        "iat": now.as_secs(),
        "exp": now.plus(Duration::from_mins(2)).as_secs(),
        "jti": identifier()?,
        "sid": ended.sid,
        "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
    });
    let token = server.keys.sign_as("logout+jwt", &claims)?;
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("logout_token", &token);
    let request = Request::post("/oauth2/backchannel_logout")
        .header(HOST, &client.logout.as_ref()?.host)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    request.body(Full::from(form.finish())).ok()
}

/// Returns the signed request to the webhook.
fn webhook(
    server: &ServerState,
    endpoints: &LogoutEndpoints,
    ended: &LoginSession,
) -> Option<Request<Full<Bytes>>> {
    let body = json!({ "subject": ended.user.to_string() }).to_string();
    let time = server.settings.clock.now().as_secs();
    let key = endpoints.webhook_key.expose().as_bytes();
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let signature = hmac::sign(&key, format!("{time}.{body}").as_bytes());
    let signature = format!("t={time},v1={}", hex(signature.as_ref()));
    let request = Request::post("/oauth2/revoke")
        .header(HOST, &endpoints.host)
        .header(CONTENT_TYPE, "application/json")
        .header("x-sidegate-signature", signature);
    request.body(Full::from(body)).ok()
}
