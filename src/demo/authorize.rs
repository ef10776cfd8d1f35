//! The authorization endpoint (RFC 6749 section 3.1) with its login form.
//!
//! Whoever is signed in here is not asked again: a second authorization request is answered at
//! once with a code. Consent is never asked for, as for a first-party client.

use std::collections::HashMap;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, COOKIE, LOCATION, SET_COOKIE};
use http::{HeaderValue, Request, Response, StatusCode};

use super::authorization_server::{Desk, Generation, User};
use super::grants::{Code, is_code_verifier, split_scopes};
use super::pages;
use super::refusal::{Refusal, redirect};
use super::serve::{Reply, plain};
use super::tokens::identifier;

/// The cookie that names a login session at this server.
const COOKIE_NAME: &str = "provider_session";

/// A valid authorization request.
struct Asked {
    client_id: String,
    /// As it was sent; `None` when the client's only one is meant.
    redirect_uri: Option<String>,
    /// Where the answer goes.
    target: String,
    state: Option<String>,
    scopes: Vec<String>,
    challenge: Option<(String, String)>,
    prompt: Option<String>,
}

/// `GET /oauth/authorize`: a code for who is signed in, else the login form.
pub(crate) async fn show(desk: &Desk, request: &Request<Bytes>) -> Response<Reply> {
    let asked = match validate(desk, request).await {
        Ok(asked) => asked,
        Err(response) => return response,
    };
    let session = session(request);
    let user = signed_in(desk, session.as_deref()).await;
    match (user, asked.prompt.as_deref()) {
        (Some(user), prompt) if prompt != Some("login") => grant(desk, &asked, user),
        (None, Some("none")) => {
            let generation = desk.settings.generation;
            let refusal = Refusal::login_required(generation);
            refusal.redirect(generation, &asked.target, asked.state.as_deref())
        }
        (Some(_) | None, _) => form(desk, request, session, None),
    }
}

/// `POST /oauth/authorize`: the login form comes back.
pub(crate) async fn submit(desk: &Desk, request: &Request<Bytes>) -> Response<Reply> {
    let asked = match validate(desk, request).await {
        Ok(asked) => asked,
        Err(response) => return response,
    };
    let Some((session, fields)) = posted(desk, request) else {
        return pages::page_expired();
    };
    let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
    if field("action") == "deny" {
        let refusal = Refusal::access_denied("The user denied the request");
        let generation = desk.settings.generation;
        return refusal.redirect(generation, &asked.target, asked.state.as_deref());
    }
    let name = field("user");
    let user = desk.settings.users.iter().find(|user| {
        let known = user.username == name || user.email == name;
        known && user.password.matches(field("password").as_bytes())
    });
    let (Some(user), Some(fresh)) = (user, identifier()) else {
        let shown = Some(name);
        return form(desk, request, Some(session), shown);
    };
    // A new session id at each login: one that was planted before it is worth nothing.
    {
        let mut ledger = desk.ledger.lock().await;
        ledger.log_out(&session);
        ledger.log_in(fresh.clone(), user.id);
    }
    let mut response = grant(desk, &asked, user);
    set_session(&mut response, &fresh);
    response
}

/// `GET /`: who is signed in here, and a way out.
pub(crate) async fn home(desk: &Desk, request: &Request<Bytes>) -> Response<Reply> {
    let session = session(request);
    let user = signed_in(desk, session.as_deref()).await;
    let user = user.map(|user| user.name.as_str());
    let token = session.map(|session| desk.keys.form_token(&session));
    pages::provider_home(user.zip(token.as_deref()))
}

/// `POST /logout`: ends the login session at this server.
pub(crate) async fn sign_out(desk: &Desk, request: &Request<Bytes>) -> Response<Reply> {
    let Some((session, _fields)) = posted(desk, request) else {
        return pages::page_expired();
    };
    desk.ledger.lock().await.log_out(&session);
    let mut response = plain(StatusCode::SEE_OTHER, "signed out\n");
    let home = HeaderValue::from_static("/");
    response.headers_mut().insert(LOCATION, home);
    response
}

/// Checks the request in the order of the real server. What must not be sent to an unproven
/// redirection URI is answered here and now, as JSON.
async fn validate(desk: &Desk, request: &Request<Bytes>) -> Result<Asked, Response<Reply>> {
    let generation = desk.settings.generation;
    let direct = |refusal: Refusal| refusal.response(generation);
    let query = request.uri().query().unwrap_or_default();
    let query: HashMap<String, String> = url::form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    let field = |name: &str| query.get(name).filter(|value| !value.is_empty()).cloned();
    let response_type = field("response_type");
    let (Some("code"), Some(client_id)) = (response_type.as_deref(), field("client_id")) else {
        return Err(direct(Refusal::unsupported_grant_type()));
    };
    let ledger = desk.ledger.lock().await;
    let unknown = || direct(Refusal::invalid_client(None));
    let client = ledger.client(&client_id).ok_or_else(unknown)?;
    let redirect_uri = field("redirect_uri");
    let target = match (&redirect_uri, client.redirect_uris.as_slice()) {
        (Some(uri), _) if client.may_redirect_to(uri) => uri.clone(),
        (None, [only]) => only.clone(),
        (Some(_) | None, _) => return Err(unknown()),
    };
    let state = field("state");
    let scopes = split_scopes(&field("scope").unwrap_or_default());
    let exists = |scope: &String| scope == "*" || desk.settings.scopes.contains(scope);
    if let Some(unknown) = scopes.iter().find(|scope| !exists(scope)) {
        // The older server loses the state here.
        let state = match generation {
            Generation::Passport12 => None,
            Generation::Passport13 => state.as_deref(),
        };
        return Err(Refusal::invalid_scope(unknown).redirect(generation, &target, state));
    }
    let challenge = challenge(&field).map_err(direct)?;
    if challenge.is_none() && client.secret.is_none() {
        let hint = "Code challenge must be provided for public clients";
        return Err(direct(Refusal::invalid_request(hint)));
    }
    Ok(Asked {
        client_id,
        redirect_uri,
        target,
        state,
        // For a code the real server drops the wildcard.
        scopes: scopes.into_iter().filter(|scope| scope != "*").collect(),
        challenge,
        prompt: field("prompt"),
    })
}

/// The PKCE challenge and its method; without a method it is plain (RFC 7636 section 4.3).
fn challenge(field: &impl Fn(&str) -> Option<String>) -> Result<Option<(String, String)>, Refusal> {
    let Some(challenge) = field("code_challenge") else {
        return Ok(None);
    };
    let method = field("code_challenge_method").unwrap_or_else(|| "plain".to_owned());
    if !matches!(method.as_str(), "S256" | "plain") {
        let hint = "Code challenge method must be one of `S256`, `plain`";
        return Err(Refusal::invalid_request(hint));
    }
    if !is_code_verifier(&challenge) {
        let hint = "Code challenge must follow the specifications of RFC-7636.";
        return Err(Refusal::invalid_request(hint));
    }
    Ok(Some((challenge, method)))
}

/// A redirect with a code for `user`.
fn grant(desk: &Desk, asked: &Asked, user: &User) -> Response<Reply> {
    let (challenge, method) = asked.challenge.clone().unzip();
    let code = identifier().and_then(|id| {
        desk.keys.seal(&Code {
            client_id: asked.client_id.clone(),
            redirect_uri: asked.redirect_uri.clone(),
            auth_code_id: id,
            scopes: asked.scopes.clone(),
            user_id: user.id.to_string(),
            expire_time: Code::expiry(desk.settings.clock.now()),
            code_challenge: challenge,
            code_challenge_method: method,
        })
    });
    let Some(code) = code else {
        return Refusal::server_error().response(desk.settings.generation);
    };
    let fields = [
        ("code", Some(code.as_str())),
        ("state", asked.state.as_deref()),
    ];
    redirect(&asked.target, &fields)
}

/// The login form, posting back to the same authorization request. `failed` is the name that was
/// typed with a wrong password.
fn form(
    desk: &Desk,
    request: &Request<Bytes>,
    session: Option<String>,
    failed: Option<&str>,
) -> Response<Reply> {
    let known = session.is_some();
    let Some(session) = session.or_else(identifier) else {
        return Refusal::server_error().response(desk.settings.generation);
    };
    let target = request.uri().path_and_query();
    let action = target.map_or("/oauth/authorize", |target| target.as_str());
    let token = desk.keys.form_token(&session);
    let easy = |user: &&User| user.password.matches(pages::EASY_PASSWORD.as_bytes());
    let hint = desk.settings.users.iter().find(easy);
    let hint = hint.map(|user| user.username.as_str());
    let mut response = pages::login(action, &token, failed, hint);
    if !known {
        set_session(&mut response, &session);
    }
    response
}

/// The login session and fields of a form whose CSRF token belongs to that session.
fn posted(desk: &Desk, request: &Request<Bytes>) -> Option<(String, HashMap<String, String>)> {
    let fields: HashMap<String, String> = url::form_urlencoded::parse(request.body())
        .into_owned()
        .collect();
    let session = session(request)?;
    let token = fields.get("_token")?;
    desk.keys
        .is_form_token(&session, token)
        .then_some((session, fields))
}

async fn signed_in<'a>(desk: &'a Desk, session: Option<&str>) -> Option<&'a User> {
    let id = desk.ledger.lock().await.logged_in(session?)?;
    desk.user(id)
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

fn set_session(response: &mut Response<Reply>, session: &str) {
    let cookie = format!("{COOKIE_NAME}={session}; Path=/; HttpOnly; SameSite=Lax");
    if let Ok(mut cookie) = HeaderValue::from_str(&cookie) {
        cookie.set_sensitive(true);
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    let uncached = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, uncached);
}
