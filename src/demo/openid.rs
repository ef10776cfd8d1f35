//! The OpenID Provider: metadata, keys, ID tokens and userinfo.
//!
//! The server signs tokens with the RSA primitive and not with the JWT library of the gateway. If
//! the gateway and the server used the same JWT library, a bug in the library could make a wrong
//! token look correct.

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

/// The standard scopes of an OpenID Provider (OpenID Connect Core 1.0 section 5.4).
pub(crate) const SCOPES: [&str; 3] = ["openid", "profile", "email"];

/// The lifetime of an ID token. The lifetime is short, because a client reads an ID token only one
/// time, immediately after the server has issued the token.
const ID_TOKEN_LIFETIME: Duration = Duration::from_mins(10);

/// The claims of the ID token about the sign-in.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct SignIn {
    /// The time of the sign-in, in seconds.
    pub(crate) auth_time: u64,
    /// The identifier of the login session. The `sid` is not the value of the session cookie.
    pub(crate) sid: String,
    /// The nonce of the authorization request. The ID token of a refresh has no nonce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nonce: Option<String>,
}

/// Handles `GET /.well-known/openid-configuration` (OpenID Connect Discovery 1.0 section 3).
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
        "end_session_endpoint": format!("{issuer}/oauth/end_session"),
        "revocation_endpoint": format!("{issuer}/oauth/revoke"),
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
        // A missing `request_uri_parameter_supported` means true, so the member must not be
        // omitted.
        "request_uri_parameter_supported": false,
        "authorization_response_iss_parameter_supported": true,
        "backchannel_logout_supported": true,
        "backchannel_logout_session_supported": true,
    }))
}

/// Handles `GET /oauth/jwks`, the endpoint of the keys (RFC 7517 section 5).
pub(crate) fn key_set(server: &ServerState) -> Response<ReplyBody> {
    published(&json!({ "keys": [server.keys.jwk()] }))
}

fn published(document: &Value) -> Response<ReplyBody> {
    answer(StatusCode::OK, "application/json", document.to_string())
}

/// Handles `GET` and `POST /oauth/userinfo` (OpenID Connect Core 1.0 section 5.3).
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

/// Returns the claims that the scopes of the access token allow.
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

/// Returns an access token with the identifier `id` for `grant`, valid until `expiry` (in seconds).
/// The type `at+jwt` distinguishes an access token from an ID token (RFC 9068 section 2). The
/// audience is the client, because the app of the demo expects this audience. Returns `None` if
/// signing fails, which does not happen in practice.
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

/// Returns the ID token that belongs to `access_token`, or `None` if the scope `openid` was not
/// granted.
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

/// Returns the left half of the SHA-256 digest of `text`, in base64url.
fn half_hash(text: &str) -> String {
    let digest = digest(&SHA256, text.as_bytes());
    let (left, _right) = digest.as_ref().split_at(16);
    URL_SAFE_NO_PAD.encode(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_an_access_token_matches_the_example_in_the_standard() {
        // The token and its hash are the example in OpenID Connect Core 1.0 appendix A.3.
        let token = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y";
        assert_eq!(half_hash(token), "77QmUPtjPfzWtF2AnpK9RQ");
    }
}
