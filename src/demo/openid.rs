//! What makes the server an OpenID Provider: its metadata, its keys, ID tokens, userinfo.
//!
//! Signatures are made here on top of the bare RSA primitive, by no library that the gateway
//! checks them with.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderValue, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::authorization_server::{ServerState, User};
use super::grants::{Grant, split_scopes};
use super::profile;
use super::refusal::Refusal;
use super::serve::{ReplyBody, answer};

/// The scopes that an OpenID Provider knows by itself (OpenID Connect Core 1.0 section 5.4).
pub(crate) const SCOPES: [&str; 3] = ["openid", "profile", "email"];

/// The life of an ID token: it is read once, right after it was issued.
const ID_TOKEN_LIFETIME: Duration = Duration::from_mins(10);

/// How somebody signed in, for the ID token.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct SignIn {
    /// When, in seconds.
    pub(crate) auth_time: u64,
    /// The login session, by a name that is worth nothing as a cookie.
    pub(crate) sid: String,
    /// What the client wants to find again; an ID token that comes with a refresh has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nonce: Option<String>,
}

/// `GET /.well-known/openid-configuration` (OpenID Connect Discovery 1.0 section 3).
pub(crate) fn metadata(server: &ServerState) -> Response<ReplyBody> {
    let issuer = server.issuer.as_str();
    let scopes: Vec<&str> = SCOPES
        .into_iter()
        .chain(server.settings.scopes.iter().map(String::as_str))
        .collect();
    published(&json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/oauth/authorize"),
        "token_endpoint": format!("{issuer}/oauth/token"),
        "userinfo_endpoint": format!("{issuer}/oauth/userinfo"),
        "jwks_uri": format!("{issuer}/oauth/jwks"),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": scopes,
        "claims_supported": [
            "sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "at_hash", "sid", "name",
            "preferred_username", "groups", "email", "email_verified",
        ],
        // Left out it would mean that they are taken.
        "request_uri_parameter_supported": false,
        "authorization_response_iss_parameter_supported": true,
    }))
}

/// `GET /oauth/jwks`: the keys (RFC 7517 section 5).
pub(crate) fn key_set(server: &ServerState) -> Response<ReplyBody> {
    published(&json!({ "keys": [server.keys.jwk()] }))
}

fn published(document: &Value) -> Response<ReplyBody> {
    answer(StatusCode::OK, "application/json", document.to_string())
}

/// `GET` and `POST /oauth/userinfo` (OpenID Connect Core 1.0 section 5.3).
pub(crate) async fn userinfo(
    server: &ServerState,
    request: &Request<Bytes>,
) -> Response<ReplyBody> {
    match claims(server, request).await {
        Ok(claims) => {
            let body = Value::from(claims).to_string();
            let mut response = answer(StatusCode::OK, "application/json", body);
            let uncached = HeaderValue::from_static("no-store");
            response.headers_mut().insert(CACHE_CONTROL, uncached);
            response
        }
        Err(refusal) => refusal.response(server.settings.kind),
    }
}

/// The claims that the scopes of the bearer's token open.
async fn claims(
    server: &ServerState,
    request: &Request<Bytes>,
) -> Result<Map<String, Value>, Refusal> {
    let (user, token) = profile::bearer(server, request).await?;
    let scopes = token.claims.get("scope").and_then(Value::as_str);
    let scopes = split_scopes(scopes.unwrap_or_default());
    let has = |wanted: &str| scopes.iter().any(|scope| scope == wanted);
    if !has("openid") {
        return Err(Refusal::insufficient_scope());
    }
    let mut claims = Map::new();
    let mut claim = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    claim("sub", subject(user).into());
    if has("profile") {
        claim("name", user.name.clone().into());
        claim("preferred_username", user.username.clone().into());
        claim("groups", user.groups.clone().into());
    }
    if has("email") {
        claim("email", user.email.clone().into());
        claim("email_verified", user.email_verified_at.is_some().into());
    }
    Ok(claims)
}

fn subject(user: &User) -> String {
    user.id.to_string()
}

/// The access token `id` of `grant` that lives until `expiry`, in seconds: a JWT that no ID token
/// can be mistaken for (RFC 9068 section 2). It is for the client itself, as the demo's app knows
/// no other audience. `None` when the key refuses, which it does not.
pub(crate) fn access_token(
    server: &ServerState,
    grant: &Grant,
    id: &str,
    expiry: u64,
) -> Option<String> {
    let claims = json!({
        "iss": server.issuer,
        "sub": grant.user_id,
        "aud": grant.client_id,
        "client_id": grant.client_id,
        "exp": expiry,
        "iat": server.settings.clock.now().as_secs(),
        "jti": id,
        "scope": grant.scopes.join(" "),
    });
    server.keys.sign_as("at+jwt", &claims)
}

/// The claims of an ID token (OpenID Connect Core 1.0 sections 2 and 3.1.3.6).
#[derive(Serialize)]
struct IdToken<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: u64,
    iat: u64,
    at_hash: String,
    #[serde(flatten)]
    sign_in: &'a SignIn,
}

/// The ID token that goes with `access_token`; `None` where OpenID was not asked for.
pub(crate) fn id_token(server: &ServerState, grant: &Grant, access_token: &str) -> Option<String> {
    let sign_in = grant.sign_in.as_ref()?;
    if !grant.scopes.iter().any(|scope| scope == "openid") {
        return None;
    }
    let now = server.settings.clock.now();
    server.keys.sign_as(
        "JWT",
        &IdToken {
            iss: &server.issuer,
            sub: &grant.user_id,
            aud: &grant.client_id,
            exp: now.plus(ID_TOKEN_LIFETIME).as_secs(),
            iat: now.as_secs(),
            at_hash: half_hash(access_token),
            sign_in,
        },
    )
}

/// The left half of the SHA-256 digest, in base64url.
fn half_hash(text: &str) -> String {
    let digest = digest(&SHA256, text.as_bytes());
    let (left, _right) = digest.as_ref().split_at(16);
    URL_SAFE_NO_PAD.encode(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_an_access_token_is_that_of_the_standards_example() {
        // OpenID Connect Core 1.0 appendix A.3.
        let token = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y";
        assert_eq!(half_hash(token), "77QmUPtjPfzWtF2AnpK9RQ");
    }
}
