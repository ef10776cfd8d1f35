//! The authorization endpoint (RFC 6749 section 3.1) with its login form.
//!
//! A user who is signed in at this server gets a code immediately, without a login form. This
//! server never asks for consent, because all its clients are first-party clients.

use std::collections::HashMap;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, COOKIE, LOCATION, SET_COOKIE};
use http::{HeaderValue, Request, Response, StatusCode};

use super::authorization_server::{ServerState, User};
use super::grants::{Code, is_code_verifier, split_scopes};
use super::logout;
use super::openid::{self, SignIn};
use super::pages;
use super::provider_kind::ProviderKind;
use super::records::LoginSession;
use super::refusal::{Destination, Refusal, redirect};
use super::serve::{ReplyBody, plain};
use super::tokens::identifier;
use crate::clock::Timestamp;

/// The cookie that identifies a login session at this server.
const COOKIE_NAME: &str = "provider_session";

/// A valid authorization request.
struct AuthorizationRequest {
    client_id: String,
    /// The `redirect_uri` parameter. If `redirect_uri` is `None`, the server uses the only
    /// registered URI of the client.
    redirect_uri: Option<String>,
    /// The URI to which the authorization response is sent.
    target: String,
    state: Option<String>,
    scopes: Vec<String>,
    challenge: Option<(String, String)>,
    nonce: Option<String>,
    prompt: Option<String>,
    /// The maximum age of the sign-in, in seconds. A Passport server ignores `max_age`.
    max_age: Option<u64>,
}

impl AuthorizationRequest {
    /// Returns true if the list `prompt` contains `wanted`.
    fn prompts(&self, wanted: &str) -> bool {
        let prompt = self.prompt.as_deref().unwrap_or_default();
        prompt.split(' ').any(|value| value == wanted)
    }

    fn is_recent(&self, login: &LoginSession, now: Timestamp) -> bool {
        let age = now.as_secs().saturating_sub(login.at.as_secs());
        self.max_age.is_none_or(|max_age| age <= max_age)
    }
}

/// Handles `GET /oauth/authorize`. Redirects with a code if a user is signed in, and shows the
/// login form if no user is signed in.
pub(crate) async fn show(server: &ServerState, request: &Request<Bytes>) -> Response<ReplyBody> {
    let authorization = match validate(server, request).await {
        Ok(authorization) => authorization,
        Err(response) => return response,
    };
    let session = session(request);
    let now = server.settings.clock.now();
    let signed_in = signed_in(server, session.as_deref()).await;
    // If the sign-in is older than `max_age`, the user has to sign in again (OpenID Connect Core
    // 1.0 section 3.1.2.1).
    let signed_in = signed_in.filter(|(_user, login)| authorization.is_recent(login, now));
    match signed_in {
        Some((_user, login)) if !authorization.prompts("login") => {
            grant(server, &authorization, &login)
        }
        None if authorization.prompts("none") => {
            let kind = server.settings.kind;
            Refusal::login_required(kind).redirect(kind, destination(server, &authorization))
        }
        Some(_) | None => form(server, request, session, None),
    }
}

/// Handles `POST /oauth/authorize`, which the login form sends.
pub(crate) async fn submit(server: &ServerState, request: &Request<Bytes>) -> Response<ReplyBody> {
    let authorization = match validate(server, request).await {
        Ok(authorization) => authorization,
        Err(response) => return response,
    };
    let Some((session, fields)) = posted(server, request) else {
        return pages::page_expired();
    };
    let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
    if field("action") == "deny" {
        let refusal = Refusal::access_denied("The user denied the request");
        return refusal.redirect(server.settings.kind, destination(server, &authorization));
    }
    let name = field("user");
    let user = server.settings.users.iter().find(|user| {
        let has_name = user.username == name || user.email == name;
        has_name && user.password.matches(field("password").as_bytes())
    });
    let (Some(user), Some(fresh), Some(sid)) = (user, identifier(), identifier()) else {
        let shown = Some(name);
        return form(server, request, Some(session), shown);
    };
    // Each login gets a new session id, which stops session fixation.
    let login = LoginSession {
        user: user.id,
        at: server.settings.clock.now(),
        sid,
    };
    {
        let mut records = server.records.lock().await;
        // The browser continues as the same or as another user, so no client is told.
        let _before = records.log_out(&session);
        records.log_in(fresh.clone(), login.clone());
    }
    let mut response = grant(server, &authorization, &login);
    set_session(&mut response, &fresh);
    response
}

/// Handles `GET /`. Shows the signed-in user and a sign-out button.
pub(crate) async fn home(server: &ServerState, request: &Request<Bytes>) -> Response<ReplyBody> {
    let session = session(request);
    let user = signed_in(server, session.as_deref()).await;
    let user = user.map(|(user, _login)| user.name.as_str());
    let token = session.map(|session| server.keys.form_token(&session));
    pages::provider_home(user.zip(token.as_deref()))
}

/// Handles `POST /logout`. Ends the login session at this server, and tells the clients.
pub(crate) async fn sign_out(
    server: &ServerState,
    request: &Request<Bytes>,
) -> Response<ReplyBody> {
    let Some((session, _fields)) = posted(server, request) else {
        return pages::page_expired();
    };
    let ended = server.records.lock().await.log_out(&session);
    if let Some(ended) = ended {
        logout::tell_clients(server, &ended).await;
    }
    let mut response = plain(StatusCode::SEE_OTHER, "signed out\n");
    let home = HeaderValue::from_static("/");
    response.headers_mut().insert(LOCATION, home);
    response
}

/// Checks the parts of the authorization request in the same order as the real server that the demo
/// imitates. Until the server has verified the redirection URI, the server sends every error as
/// JSON and never by a redirect. After the verification of the redirection URI, a Passport server
/// still answers many errors with JSON. After the verification of the redirection URI, an OpenID
/// Provider sends an error to the client by a redirect (RFC 6749 section 4.1.2.1).
async fn validate(
    server: &ServerState,
    request: &Request<Bytes>,
) -> Result<AuthorizationRequest, Response<ReplyBody>> {
    let kind = server.settings.kind;
    let direct = |refusal: Refusal| refusal.response(kind);
    let query = request.uri().query().unwrap_or_default();
    let query: HashMap<String, String> = url::form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    let field = |name: &str| query.get(name).filter(|value| !value.is_empty()).cloned();
    let standard = kind == ProviderKind::OpenId;
    let code = field("response_type").as_deref() == Some("code");
    // A Passport server sends the same error for a wrong response type as for a missing client.
    let client_id = field("client_id").filter(|_id| code || standard);
    let client_id = client_id.ok_or_else(|| direct(Refusal::no_client(kind)))?;
    let records = server.records.lock().await;
    let unknown = || direct(Refusal::unknown_client(kind));
    let client = records.client(&client_id).ok_or_else(unknown)?;
    let redirect_uri = field("redirect_uri");
    let target = match (&redirect_uri, client.redirect_uris.as_slice()) {
        (Some(uri), _) if client.may_redirect_to(uri) => uri.clone(),
        (None, [only]) => only.clone(),
        (Some(_) | None, _) => return Err(unknown()),
    };
    let state = field("state");
    let to = Destination {
        redirect_uri: &target,
        state: state.as_deref(),
        iss: server.response_issuer(),
    };
    let respond = |refusal: Refusal| match kind {
        ProviderKind::OpenId => refusal.redirect(kind, to),
        ProviderKind::Passport12 | ProviderKind::Passport13 => direct(refusal),
    };
    if !code {
        return Err(respond(Refusal::unsupported_response_type()));
    }
    let scopes = split_scopes(&field("scope").unwrap_or_default());
    if let Some(unknown) = scopes.iter().find(|scope| !exists(server, scope)) {
        // If a scope is invalid, Passport 12 sends the error without the state.
        let state = to.state.filter(|_state| kind != ProviderKind::Passport12);
        let refusal = Refusal::invalid_scope(unknown);
        return Err(refusal.redirect(kind, Destination { state, ..to }));
    }
    let challenge = challenge(kind, &field).map_err(respond)?;
    if challenge.is_none() && client.secret.is_none() {
        let hint = "Code challenge must be provided for public clients";
        return Err(respond(Refusal::invalid_request(hint)));
    }
    Ok(AuthorizationRequest {
        client_id,
        redirect_uri,
        target,
        state,
        // A real Passport server removes the wildcard scope `*` when it issues a code.
        scopes: scopes.into_iter().filter(|scope| scope != "*").collect(),
        challenge,
        nonce: field("nonce"),
        prompt: field("prompt"),
        max_age: field("max_age")
            .filter(|_text| standard)
            .and_then(|text| text.parse().ok()),
    })
}

fn exists(server: &ServerState, scope: &str) -> bool {
    let built_in: &[&str] = match server.settings.kind {
        ProviderKind::OpenId => &openid::SCOPES,
        ProviderKind::Passport12 | ProviderKind::Passport13 => &["*"],
    };
    let mut registered = server.settings.scopes.iter();
    built_in.contains(&scope) || registered.any(|registered| registered == scope)
}

fn destination<'a>(
    server: &'a ServerState,
    authorization: &'a AuthorizationRequest,
) -> Destination<'a> {
    Destination {
        redirect_uri: &authorization.target,
        state: authorization.state.as_deref(),
        iss: server.response_issuer(),
    }
}

/// Returns the PKCE challenge and its method. If a request names no method, the method is `plain`
/// (RFC 7636 section 4.3). The OpenID Provider of the demo refuses the challenge method `plain`.
fn challenge(
    kind: ProviderKind,
    field: &impl Fn(&str) -> Option<String>,
) -> Result<Option<(String, String)>, Refusal> {
    let Some(challenge) = field("code_challenge") else {
        return Ok(None);
    };
    let method = field("code_challenge_method").unwrap_or_else(|| "plain".to_owned());
    let (methods, hint): (&[&str], _) = match kind {
        ProviderKind::OpenId => (&["S256"], "Code challenge method must be `S256`"),
        ProviderKind::Passport12 | ProviderKind::Passport13 => (
            &["S256", "plain"],
            "Code challenge method must be one of `S256`, `plain`",
        ),
    };
    if !methods.contains(&method.as_str()) {
        return Err(Refusal::invalid_request(hint));
    }
    if !is_code_verifier(&challenge) {
        let hint = "Code challenge must follow the specifications of RFC-7636.";
        return Err(Refusal::invalid_request(hint));
    }
    Ok(Some((challenge, method)))
}

/// Returns a redirect with a code for the signed-in user.
fn grant(
    server: &ServerState,
    authorization: &AuthorizationRequest,
    login: &LoginSession,
) -> Response<ReplyBody> {
    let sign_in = || SignIn {
        auth_time: login.at.as_secs(),
        sid: login.sid.clone(),
        nonce: authorization.nonce.clone(),
    };
    let openid = server.settings.kind == ProviderKind::OpenId;
    let (challenge, method) = authorization.challenge.clone().unzip();
    let code = identifier().and_then(|id| {
        server.keys.seal(&Code {
            client_id: authorization.client_id.clone(),
            // The code contains the unchanged `redirect_uri` parameter of the authorization
            // request. The token request must repeat `redirect_uri` only if the authorization
            // request had a `redirect_uri` (RFC 6749 section 4.1.3).
            redirect_uri: authorization.redirect_uri.clone(),
            auth_code_id: id,
            scopes: authorization.scopes.clone(),
            user_id: login.user.to_string(),
            expire_time: Code::expiry(server.settings.clock.now()),
            code_challenge: challenge,
            code_challenge_method: method,
            sign_in: openid.then(sign_in),
        })
    });
    let Some(code) = code else {
        return Refusal::server_error().response(server.settings.kind);
    };
    let fields = [
        ("code", Some(code.as_str())),
        ("state", authorization.state.as_deref()),
        ("iss", server.response_issuer()),
    ];
    redirect(&authorization.target, &fields)
}

/// Returns the login form, which posts to the URL of the same authorization request. The argument
/// `failed` is the user name of a failed sign-in.
fn form(
    server: &ServerState,
    request: &Request<Bytes>,
    session: Option<String>,
    failed: Option<&str>,
) -> Response<ReplyBody> {
    let has_session = session.is_some();
    // The CSRF token of the form belongs to a session, so a browser without a session gets a new
    // session.
    let Some(session) = session.or_else(identifier) else {
        return Refusal::server_error().response(server.settings.kind);
    };
    let target = request.uri().path_and_query();
    let action = target.map_or("/oauth/authorize", |target| target.as_str());
    let token = server.keys.form_token(&session);
    let easy = |user: &&User| user.password.matches(pages::EASY_PASSWORD.as_bytes());
    let hint = server.settings.users.iter().find(easy);
    let hint = hint.map(|user| user.username.as_str());
    let mut response = pages::login(action, &token, failed, hint);
    if !has_session {
        set_session(&mut response, &session);
    }
    response
}

/// Returns the login session and the fields of a posted form, or `None` if the CSRF token does not
/// belong to the login session.
fn posted(
    server: &ServerState,
    request: &Request<Bytes>,
) -> Option<(String, HashMap<String, String>)> {
    let fields: HashMap<String, String> = url::form_urlencoded::parse(request.body())
        .into_owned()
        .collect();
    let session = session(request)?;
    let token = fields.get("_token")?;
    server
        .keys
        .is_form_token(&session, token)
        .then_some((session, fields))
}

async fn signed_in<'a>(
    server: &'a ServerState,
    session: Option<&str>,
) -> Option<(&'a User, LoginSession)> {
    let login = server.records.lock().await.logged_in(session?)?;
    Some((server.user(login.user)?, login))
}

fn session(request: &Request<Bytes>) -> Option<String> {
    let fields = request.headers().get_all(COOKIE).into_iter();
    let values = fields.filter_map(|field| field.to_str().ok());
    let mut pairs = values
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    let (_name, value) = pairs.find(|(name, _value)| *name == COOKIE_NAME)?;
    Some(value.to_owned())
}

fn set_session(response: &mut Response<ReplyBody>, session: &str) {
    let cookie = format!("{COOKIE_NAME}={session}; Path=/; HttpOnly; SameSite=Lax");
    if let Ok(mut cookie) = HeaderValue::from_str(&cookie) {
        // `Debug` output does not show a sensitive value.
        cookie.set_sensitive(true);
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    let uncached = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, uncached);
}
