//! Finds the user of an access token, and answers `GET /api/user` with the user, like a Laravel
//! app.

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde_json::Value;

use super::authorization_server::{ServerState, User};
use super::grants;
use super::provider_kind::ProviderKind;
use super::refusal::Refusal;
use super::serve::{ReplyBody, answer};
use super::token_checker::ParsedToken;

/// The creation time of the demo's users.
const CREATED: &str = "2024-05-04T09:27:11.000000Z";

/// A Laravel user as JSON. The members of the JSON object have the same order as the database
/// columns.
#[derive(Serialize)]
struct Profile<'a> {
    id: u64,
    name: &'a str,
    email: &'a str,
    email_verified_at: Option<&'a str>,
    created_at: &'a str,
    updated_at: &'a str,
}

/// Answers with the data of the user to whom the access token belongs. Answers 401 if the access
/// token is invalid, like the real server.
pub(crate) async fn show(server: &ServerState, request: &Request<Bytes>) -> Response<ReplyBody> {
    match bearer(server, request).await {
        Ok((user, _token)) => {
            let profile = Profile {
                id: user.id,
                name: &user.name,
                email: &user.email,
                email_verified_at: user.email_verified_at.as_deref(),
                created_at: CREATED,
                updated_at: CREATED,
            };
            let body = serde_json::to_vec(&profile).unwrap_or_default();
            answer(StatusCode::OK, "application/json", body)
        }
        Err(refusal) => refusal.response(server.settings.kind),
    }
}

/// Returns the user of the access token in the request, and the decoded token.
pub(crate) async fn bearer<'a>(
    server: &'a ServerState,
    request: &Request<Bytes>,
) -> Result<(&'a User, ParsedToken), Refusal> {
    let refused = |hint| Refusal::access_token(server.settings.kind, hint);
    let unverified = || refused("Access token could not be verified");
    let token = match request.headers().get(AUTHORIZATION) {
        Some(field) => field.to_str().ok().and_then(|field| {
            let (scheme, token) = field.split_once(' ')?;
            let bearer = scheme.eq_ignore_ascii_case("bearer");
            bearer.then(|| token.trim().to_owned())
        }),
        None => Some(
            posted(server, request).ok_or_else(|| refused("Missing \"Authorization\" header"))?,
        ),
    };
    let token = token.and_then(|token| server.checker.read(&token));
    let token = token.ok_or_else(unverified)?;
    let claim = |name: &str| token.claims.get(name).and_then(Value::as_str);
    // The server accepts the access tokens of every client, so this function accepts every
    // audience.
    let audience = claim("aud").unwrap_or_default();
    let now = server.settings.clock.now();
    let subject = token
        .subject(audience, now)
        .map_err(|_reason| unverified())?;
    let live = {
        let records = server.records.lock().await;
        claim("jti").is_some_and(|id| records.is_access_token_live(id))
    };
    if !live {
        return Err(refused("Access token has been revoked"));
    }
    let user = subject.parse().ok().and_then(|id| server.user(id));
    Ok((user.ok_or_else(unverified)?, token))
}

/// Returns the access token in a posted form (RFC 6750 section 2.2). The demo server accepts an
/// access token in a form only if the server is an OpenID Provider.
fn posted(server: &ServerState, request: &Request<Bytes>) -> Option<String> {
    if server.settings.kind != ProviderKind::OpenId || *request.method() != Method::POST {
        return None;
    }
    match grants::parameters(request).remove("access_token")? {
        Value::String(token) => Some(token),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    }
}
