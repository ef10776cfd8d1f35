//! The token endpoint (RFC 6749 sections 4.1.3 and 6), which checks a request in the same order as
//! the real server.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, PRAGMA};
use http::{HeaderValue, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::authorization_server::{Client, ServerState};
use super::openid::{self, SignIn};
use super::provider_kind::ProviderKind;
use super::records::Records;
use super::refusal::Refusal;
use super::serve::{ReplyBody, answer};
use super::tokens::{Claims, identifier, numeric_date};
use crate::clock::Timestamp;

/// The lifetime of an authorization code.
const CODE_LIFETIME: Duration = Duration::from_mins(10);

/// The content of an encrypted authorization code. The members of `Code` have the same order as the
/// members in a code of the real server.
#[expect(
    clippy::struct_field_names,
    reason = "the names are those of the real code's JSON"
)]
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Code {
    pub(crate) client_id: String,
    pub(crate) redirect_uri: Option<String>,
    pub(crate) auth_code_id: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) user_id: String,
    pub(crate) expire_time: u64,
    pub(crate) code_challenge: Option<String>,
    pub(crate) code_challenge_method: Option<String>,
    /// The claims about the sign-in. Only an OpenID Provider stores the claims about the sign-in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sign_in: Option<SignIn>,
}

impl Code {
    /// Returns the expiry of a code that is issued at `now`, in whole seconds.
    pub(crate) fn expiry(now: Timestamp) -> u64 {
        now.plus(CODE_LIFETIME).as_secs()
    }
}

/// The content of an encrypted refresh token.
#[expect(
    clippy::struct_field_names,
    reason = "the names are those of the real token's JSON"
)]
#[derive(Debug, Deserialize, Serialize)]
struct RefreshToken {
    client_id: String,
    refresh_token_id: String,
    access_token_id: String,
    scopes: Vec<String>,
    user_id: String,
    expire_time: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sign_in: Option<SignIn>,
}

/// A grant: a user permits a client to get tokens for the scopes.
pub(crate) struct Grant {
    pub(crate) client_id: String,
    pub(crate) user_id: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) sign_in: Option<SignIn>,
}

/// A token response (RFC 6749 section 5.1). The members of the token response have the same order
/// as in a response of the real server.
#[derive(Serialize)]
struct TokenResponse<'a> {
    token_type: &'a str,
    expires_in: u64,
    access_token: String,
    refresh_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_token: Option<String>,
}

/// Handles one token request, which is a code exchange or a refresh.
pub(crate) async fn token(
    server: &ServerState,
    request: &Request<Bytes>,
) -> Result<Response<ReplyBody>, Refusal> {
    let parsed = ParsedTokenRequest::new(server, request);
    match parsed.values.get("grant_type").and_then(Value::as_str) {
        Some("authorization_code") => {
            server.exchanges.fetch_add(1, Ordering::Relaxed);
            // The task holds the lock of the records for the whole exchange, so that only one of
            // two simultaneous requests with the same code succeeds.
            let mut records = server.records.lock().await;
            redeem(server, &mut records, &parsed)
        }
        Some("refresh_token") => {
            server.refreshes.fetch_add(1, Ordering::Relaxed);
            let mut records = server.records.lock().await;
            refresh(server, &mut records, &parsed)
        }
        Some(_) | None => Err(Refusal::unsupported_grant_type()),
    }
}

/// Handles one revocation request (RFC 7009 section 2). The response to an unknown token is the same
/// as to a known token.
pub(crate) async fn revoke(
    server: &ServerState,
    request: &Request<Bytes>,
) -> Result<Response<ReplyBody>, Refusal> {
    let parsed = ParsedTokenRequest::new(server, request);
    let mut records = server.records.lock().await;
    let client = parsed.client(&records)?.id.clone();
    let token = parsed.text("token")?;
    let token = token.ok_or_else(|| Refusal::parameter("token"))?;
    let token = server.keys.open::<RefreshToken>(&token);
    if let Some(token) = token.filter(|token| token.client_id == client) {
        records.revoke(&token.access_token_id, &token.refresh_token_id);
    }
    Ok(answer(
        StatusCode::OK,
        "text/plain; charset=utf-8",
        String::new(),
    ))
}

/// Returns the parameters of the body, which is JSON or a form according to the content type. If a
/// parameter occurs more than one time, the last value is used. Parameters in the query are
/// ignored.
pub(crate) fn parameters(request: &Request<Bytes>) -> BTreeMap<String, Value> {
    let content_type = request.headers().get(CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_ascii_lowercase();
    if content_type.contains("/json") || content_type.contains("+json") {
        serde_json::from_slice(request.body()).unwrap_or_default()
    } else if content_type.starts_with("application/x-www-form-urlencoded") {
        url::form_urlencoded::parse(request.body())
            .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
            .collect()
    } else {
        BTreeMap::new()
    }
}

/// A token request with the credentials of its `Authorization` field.
struct ParsedTokenRequest {
    kind: ProviderKind,
    values: BTreeMap<String, Value>,
    basic: Option<(String, String)>,
    /// The value of `WWW-Authenticate` for a refused client. A Passport server sends
    /// `WWW-Authenticate` only if the request has `Authorization`. `WWW-Authenticate` then names
    /// the scheme of `Authorization` (`Bearer` or `Basic`). In `WWW-Authenticate`, an OpenID
    /// Provider always uses the scheme `Basic`.
    challenge: Option<&'static str>,
}

impl ParsedTokenRequest {
    fn new(server: &ServerState, request: &Request<Bytes>) -> Self {
        let field = request.headers().get(AUTHORIZATION);
        let field = field.and_then(|value| value.to_str().ok());
        let field = field.filter(|value| !value.is_empty());
        let kind = server.settings.kind;
        let challenge = match (kind, field) {
            (ProviderKind::Passport12 | ProviderKind::Passport13, None) => None,
            (ProviderKind::Passport12 | ProviderKind::Passport13, Some(field))
                if field.starts_with("Bearer") =>
            {
                Some("Bearer realm=\"OAuth\"")
            }
            (_, Some(_)) | (ProviderKind::OpenId, None) => Some("Basic realm=\"OAuth\""),
        };
        Self {
            kind,
            values: parameters(request),
            basic: field.and_then(|field| basic(kind, field)),
            challenge,
        }
    }

    /// Returns a parameter as text. In Passport 12, the client id is the only parameter that may be
    /// a number. Passport 13 and the OpenID Provider trim the text, accept numbers for every
    /// parameter, and treat an empty text as missing.
    fn text(&self, name: &str) -> Result<Option<String>, Refusal> {
        let newer = self.kind != ProviderKind::Passport12;
        match self.values.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if newer => {
                let text = text.trim();
                Ok((!text.is_empty()).then(|| text.to_owned()))
            }
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(number)) if newer || name == "client_id" => {
                Ok(Some(number.to_string()))
            }
            Some(Value::Number(_) | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
                Err(Refusal::parameter(name))
            }
        }
    }

    /// Returns the authenticated client. Credentials in the body take precedence over credentials
    /// in `Authorization`. An OpenID Provider refuses a request with credentials both in the body
    /// and in `Authorization` (RFC 6749 section 2.3).
    fn client<'a>(&self, records: &'a Records) -> Result<&'a Client, Refusal> {
        let basic = self.basic.as_ref();
        let id = self.text("client_id")?;
        let id = id.or_else(|| basic.map(|(id, _secret)| id.clone()));
        let refused = || Refusal::invalid_client(self.challenge);
        let id = id.ok_or_else(|| match self.kind {
            ProviderKind::Passport12 | ProviderKind::Passport13 => Refusal::parameter("client_id"),
            ProviderKind::OpenId => refused(),
        })?;
        let client = records.client(&id);
        let client = client.ok_or_else(refused)?;
        if let Some(expected) = &client.secret {
            let secret = self.text("client_secret")?;
            if secret.is_some() && basic.is_some() && self.kind == ProviderKind::OpenId {
                let hint = "Use one way of client authentication";
                return Err(Refusal::invalid_request(hint));
            }
            let secret = secret.or_else(|| basic.map(|(_id, secret)| secret.clone()));
            match secret.filter(|secret| !secret.is_empty()) {
                Some(secret) if expected.matches(secret.as_bytes()) => {}
                None if self.kind == ProviderKind::Passport13 => {
                    return Err(Refusal::parameter("client_secret"));
                }
                Some(_) | None => return Err(refused()),
            }
            // During client authentication, Passport 12 also checks the redirection URI, and
            // answers `invalid_client` for an unregistered URI.
            if self.kind == ProviderKind::Passport12
                && let Some(uri) = self.text("redirect_uri")?
                && !client.may_redirect_to(&uri)
            {
                return Err(refused());
            }
        }
        Ok(client)
    }
}

/// Returns the credentials of an `Authorization` field with the scheme `Basic`. An OpenID Provider
/// form-decodes the credentials (RFC 6749 section 2.3.1). A real Passport server does not
/// form-decode the credentials.
fn basic(kind: ProviderKind, field: &str) -> Option<(String, String)> {
    let encoded = field.strip_prefix("Basic ")?;
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    let text = |part: &str| match kind {
        ProviderKind::Passport12 | ProviderKind::Passport13 => Some(part.to_owned()),
        ProviderKind::OpenId => {
            let spaced = part.replace('+', " ");
            let decoded = percent_encoding::percent_decode_str(&spaced).decode_utf8();
            Some(decoded.ok()?.into_owned())
        }
    };
    Some((text(id)?, text(secret)?))
}

fn redeem(
    server: &ServerState,
    records: &mut Records,
    parsed: &ParsedTokenRequest,
) -> Result<Response<ReplyBody>, Refusal> {
    let kind = parsed.kind;
    let client = parsed.client(records)?;
    let sealed = parsed.text("code")?;
    let sealed = sealed.ok_or_else(|| Refusal::parameter("code"))?;
    let code: Code = server.keys.open(&sealed).ok_or_else(|| {
        let hint = match kind {
            ProviderKind::Passport12 => "Cannot decrypt the authorization code",
            ProviderKind::OpenId | ProviderKind::Passport13 => {
                "Cannot validate the provided authorization code"
            }
        };
        Refusal::code(kind, hint)
    })?;
    let now = server.settings.clock.now();
    if now.as_secs() > code.expire_time {
        return Err(Refusal::code(kind, "Authorization code has expired"));
    }
    if records.is_spent(&code.auth_code_id) {
        let hint = "Authorization code has been revoked";
        return Err(Refusal::code(kind, hint));
    }
    if code.client_id != client.id {
        let hint = "Authorization code was not issued to this client";
        return Err(Refusal::stray_code(kind, hint));
    }
    let redirect_uri = parsed.text("redirect_uri")?;
    if code.redirect_uri.is_some() && redirect_uri.is_none() {
        return Err(Refusal::parameter("redirect_uri"));
    }
    if code.redirect_uri != redirect_uri {
        return Err(Refusal::stray_code(kind, "Invalid redirect URI"));
    }
    check_verifier(kind, &code, parsed.text("code_verifier")?.as_deref())?;
    let until = Timestamp::from_millis(code.expire_time.saturating_mul(1000));
    // The server marks the code as used only after all checks, because a refused request must not
    // use up the code.
    records.spend(code.auth_code_id, until, now);
    let grant = Grant {
        client_id: code.client_id,
        user_id: code.user_id,
        scopes: code.scopes,
        sign_in: code.sign_in,
    };
    issue(server, records, grant)
}

/// Verifies PKCE (RFC 7636 section 4.6). To stop PKCE downgrade attacks, a request with only a
/// challenge or only a verifier is refused.
fn check_verifier(kind: ProviderKind, code: &Code, verifier: Option<&str>) -> Result<(), Refusal> {
    let (challenge, verifier) = match (&code.code_challenge, verifier) {
        (None, None) => return Ok(()),
        (None, Some(_)) => {
            let hint = "code_verifier received when no code_challenge is present";
            return Err(Refusal::stray_code(kind, hint));
        }
        (Some(_), None) => return Err(Refusal::parameter("code_verifier")),
        (Some(challenge), Some(verifier)) => (challenge, verifier),
    };
    if !is_code_verifier(verifier) {
        let hint = "Code Verifier must follow the specifications of RFC-7636.";
        return Err(Refusal::invalid_request(hint));
    }
    let computed = match code.code_challenge_method.as_deref() {
        Some("S256") => {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes());
            URL_SAFE_NO_PAD.encode(digest)
        }
        Some(_) | None => verifier.to_owned(),
    };
    if computed == *challenge {
        Ok(())
    } else {
        Err(Refusal::invalid_grant("Failed to verify `code_verifier`."))
    }
}

/// Returns true if `text` has the syntax of a code verifier or challenge (RFC 7636 section 4.1).
pub(crate) fn is_code_verifier(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    (43..=128).contains(&text.len()) && text.bytes().all(allowed)
}

fn refresh(
    server: &ServerState,
    records: &mut Records,
    parsed: &ParsedTokenRequest,
) -> Result<Response<ReplyBody>, Refusal> {
    let refused = |hint| Refusal::refresh_token(parsed.kind, hint);
    let client = parsed.client(records)?;
    let sealed = parsed.text("refresh_token")?;
    let sealed = sealed.ok_or_else(|| Refusal::parameter("refresh_token"))?;
    let old: RefreshToken = server
        .keys
        .open(&sealed)
        .ok_or_else(|| refused("Cannot decrypt the refresh token"))?;
    if old.client_id != client.id {
        return Err(refused("Token is not linked to client"));
    }
    if old.expire_time < server.settings.clock.now().as_secs() {
        return Err(refused("Token has expired"));
    }
    if !records.is_refresh_token_live(&old.refresh_token_id) {
        return Err(refused("Token has been revoked"));
    }
    let scopes = match parsed.text("scope")? {
        None => old.scopes,
        Some(scope) => {
            let scopes = split_scopes(&scope);
            // A refresh must not add a scope to the grant (RFC 6749 section 6).
            match scopes.iter().find(|scope| !old.scopes.contains(scope)) {
                None => scopes,
                Some(extra) => return Err(Refusal::invalid_scope(extra)),
            }
        }
    };
    // As on the real server, a refresh revokes the old access token and the old refresh token.
    records.revoke(&old.access_token_id, &old.refresh_token_id);
    let grant = Grant {
        client_id: old.client_id,
        user_id: old.user_id,
        scopes,
        // The nonce belongs only to the first ID token (OpenID Connect Core 1.0 section 12.2).
        sign_in: old.sign_in.map(|sign_in| SignIn {
            nonce: None,
            ..sign_in
        }),
    };
    issue(server, records, grant)
}

/// Returns the scopes in a space-separated list.
pub(crate) fn split_scopes(scope: &str) -> Vec<String> {
    let scopes = scope.split(' ').filter(|scope| !scope.is_empty());
    scopes.map(str::to_owned).collect()
}

/// Issues an access token and a refresh token, and an ID token if the scope `openid` was granted.
fn issue(
    server: &ServerState,
    records: &mut Records,
    grant: Grant,
) -> Result<Response<ReplyBody>, Refusal> {
    let failed = Refusal::server_error;
    let settings = &server.settings;
    let now = settings.clock.now();
    let access_expiry = now.plus(settings.access_token_lifetime);
    let refresh_expiry = now.plus(settings.refresh_token_lifetime);
    let access_id = identifier().ok_or_else(failed)?;
    let refresh_id = identifier().ok_or_else(failed)?;
    let access_token = match settings.kind {
        ProviderKind::OpenId => {
            openid::access_token(server, &grant, &access_id, access_expiry.as_secs())
        }
        // The real server reads its clock one time for each date, so the microseconds of the dates
        // differ.
        ProviderKind::Passport12 | ProviderKind::Passport13 => server.keys.sign(&Claims {
            aud: grant.client_id.clone(),
            jti: access_id.clone(),
            iat: numeric_date(now, 236),
            nbf: numeric_date(now, 239),
            exp: numeric_date(access_expiry, 132),
            sub: grant.user_id.clone(),
            scopes: grant.scopes.clone(),
        }),
    };
    let access_token = access_token.ok_or_else(failed)?;
    let id_token = openid::id_token(server, &grant, &access_token);
    let refresh_token = server.keys.seal(&RefreshToken {
        client_id: grant.client_id,
        refresh_token_id: refresh_id.clone(),
        access_token_id: access_id.clone(),
        scopes: grant.scopes,
        user_id: grant.user_id,
        expire_time: refresh_expiry.as_secs(),
        sign_in: grant.sign_in,
    });
    let body = TokenResponse {
        token_type: "Bearer",
        expires_in: settings.access_token_lifetime.as_secs(),
        access_token,
        refresh_token: refresh_token.ok_or_else(failed)?,
        id_token,
    };
    let body = serde_json::to_vec(&body).map_err(|_unwritable| failed())?;
    records.issue(
        (access_id, access_expiry),
        (refresh_id, refresh_expiry),
        now,
    );
    let mut response = answer(StatusCode::OK, "application/json; charset=UTF-8", body);
    let fields = response.headers_mut();
    fields.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
