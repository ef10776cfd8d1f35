//! The answers of each endpoint: correct, except for the changes that a test requested.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::watch;
use url::Url;

use super::keys::left_half;
use super::server::{Change, Endpoint, ReturnMethod, State};
use super::token::Draft;
use super::tokens::AuthorizedRequest;
use super::{CLIENT_SECRET, parameters, token_request};
use crate::support::upstream::{Answer, Recorded};

/// The only registered client.
pub(crate) const CLIENT: &str = "3";

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

fn url_of(request: &Recorded) -> Url {
    Url::parse(&format!("http://provider.test{}", request.target())).unwrap()
}

pub(super) fn is_refresh(request: &Recorded) -> bool {
    endpoint_of(request) == Some(Endpoint::Token)
        && token_request(&request.body).is_ok_and(|form| form.contains_key("refresh_token"))
}

pub(super) fn endpoint_of(request: &Recorded) -> Option<Endpoint> {
    let url = url_of(request);
    // Some servers have an additional slash in the endpoints of their metadata, and expect the
    // slash in requests.
    let path = url.path().replace("//", "/");
    let mut all = Endpoint::ALL.into_iter();
    all.find(|endpoint| endpoint.path() == path)
}

fn change(value: &mut Value, by: Option<&Change>) {
    if let Some(change) = by {
        change(value);
    }
}

pub(super) fn answer(request: &Recorded, state: &watch::Sender<State>) -> Answer {
    let Some(endpoint) = endpoint_of(request) else {
        return Answer::with(404, &[], "");
    };
    let mut told = None;
    state.send_modify(|state| {
        *state.calls.entry(endpoint).or_default() += 1;
        let next = &mut state.behavior.next;
        let at = next.iter().position(|(place, _)| *place == endpoint);
        told = at.and_then(|at| next.remove(at)).map(|(_, answer)| answer);
        told = told
            .take()
            .or_else(|| state.behavior.instead.get(&endpoint).cloned());
    });
    let answer = told.unwrap_or_else(|| match endpoint {
        Endpoint::Metadata => metadata(&state.borrow()),
        Endpoint::Jwks => jwks(&state.borrow()),
        Endpoint::Authorization => authorize(request, state),
        Endpoint::Token => token(request, state),
        Endpoint::Userinfo => userinfo(request, &state.borrow()),
        Endpoint::EndSession => end_session(request),
        Endpoint::Revocation => Answer::with(200, &[], ""),
    });
    let gate = state.borrow().behavior.held.get(&endpoint).cloned();
    match gate {
        Some(gate) => answer.held_by(&gate),
        None => answer,
    }
}

/// 200 with JSON, unless the test replaced the answer.
fn honest(state: &State, endpoint: Endpoint, body: &Value) -> Answer {
    let text = body.to_string();
    match state.behavior.rewritten.get(&endpoint) {
        Some(rewrite) => rewrite(&text),
        None => Answer::with(200, &JSON, &text),
    }
}

fn metadata(state: &State) -> Answer {
    let at = |endpoint: Endpoint| format!("{}{}", state.issuer, endpoint.path());
    let mut body = json!({
        "issuer": state.issuer,
        "authorization_endpoint": at(Endpoint::Authorization),
        "token_endpoint": at(Endpoint::Token),
        "userinfo_endpoint": at(Endpoint::Userinfo),
        "jwks_uri": at(Endpoint::Jwks),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "form_post"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256", "PS256", "ES256", "ES384", "EdDSA"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": ["openid", "profile", "email"],
        "authorization_response_iss_parameter_supported": true,
        "claims_parameter_supported": false,
    });
    change(&mut body, state.behavior.metadata.as_ref());
    honest(state, Endpoint::Metadata, &body)
}

fn jwks(state: &State) -> Answer {
    let mut body = state.keys.jwks();
    change(&mut body, state.behavior.jwks.as_ref());
    honest(state, Endpoint::Jwks, &body)
}

/// Sends the browser back with the state of the sign-out.
fn end_session(request: &Recorded) -> Answer {
    let asked = parameters(url_of(request).query().unwrap_or_default());
    let state = [("state", &asked["state"])];
    let back = Url::parse_with_params(&asked["post_logout_redirect_uri"], state).unwrap();
    Answer::with(303, &[("Location", back.as_str())], "")
}

/// The members of `response` that are texts.
fn texts_of(response: &Value) -> Vec<(&str, &str)> {
    let members = response.as_object().unwrap().iter();
    let pairs = members.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)));
    pairs.collect()
}

fn authorize(request: &Recorded, state: &watch::Sender<State>) -> Answer {
    let asked = parameters(url_of(request).query().unwrap_or_default());
    let cookies = request.head.value("cookie").unwrap_or_default();
    let mut pairs = cookies.split("; ");
    let user = pairs.find_map(|pair| pair.strip_prefix("user="));
    let get = |name: &str| asked.get(name).cloned();
    let redirect_uri = get("redirect_uri").unwrap();
    let entry = AuthorizedRequest {
        user: user.unwrap_or("alice").to_owned(),
        challenge: get("code_challenge").unwrap_or_default(),
        redirect_uri: redirect_uri.clone(),
        nonce: get("nonce"),
        openid: get("scope").is_some_and(|scope| scope.split(' ').any(|one| one == "openid")),
        at: state.borrow().clock.now().as_secs(),
    };
    let (mut code, openid) = (String::new(), entry.openid);
    state.send_modify(|state| code = state.tokens.code(entry));
    let state = state.borrow();
    let mut response = json!({ "code": code, "state": get("state") });
    if user.is_none() && get("prompt").as_deref() == Some("none") {
        response = json!({ "error": "login_required", "state": get("state") });
    }
    if openid {
        response["iss"] = state.issuer.as_str().into();
    }
    change(
        &mut response,
        state.behavior.authorization_response.as_ref(),
    );
    let pairs = texts_of(&response);
    let html = [("Content-Type", "text/html")];
    let return_method = state.behavior.return_method;
    if return_method == ReturnMethod::Form || get("response_mode").as_deref() == Some("form_post") {
        let escape = |text: &str| text.replace('&', "&amp;").replace('"', "&quot;");
        let mut inputs = String::new();
        for (name, value) in pairs {
            let value = escape(value);
            inputs.extend([
                "<input type=hidden name=\"",
                name,
                "\" value=\"",
                &value,
                "\">",
            ]);
        }
        let action = escape(&redirect_uri);
        let form = format!(
            "<form method=post action=\"{action}\">{inputs}<button>Go on</button></form>\
             <script>document.forms[0].submit()</script>"
        );
        return Answer::with(200, &html, &form);
    }
    let mut to = Url::parse(&redirect_uri).unwrap();
    to.query_pairs_mut().extend_pairs(pairs);
    if return_method == ReturnMethod::Link {
        let link = to.as_str().replace('&', "&amp;");
        return Answer::with(200, &html, &format!("<a id=go href=\"{link}\">Go on</a>"));
    }
    Answer::with(302, &[("Location", to.as_str())], "")
}

/// Status, error code and description.
type Refusal = (u16, &'static str, &'static str);

/// Requires exactly one authentication method, with the right credentials (RFC 6749 section 2.3.1).
fn authenticate(request: &Recorded, form: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let refuse = |why| Err((401, "invalid_client", why));
    let basic = request.head.value("authorization");
    let posted = form.get("client_secret");
    match (basic, posted) {
        (Some(_), Some(_)) => refuse("two ways of authentication"),
        (None, None) => refuse("no authentication"),
        (Some(basic), None) => {
            let pair = basic.strip_prefix("Basic ").unwrap_or_default();
            let expected = STANDARD.encode(format!("{CLIENT}:{CLIENT_SECRET}"));
            if pair == expected {
                Ok(())
            } else {
                refuse("a wrong secret")
            }
        }
        (None, Some(secret)) if secret == CLIENT_SECRET && form["client_id"] == CLIENT => Ok(()),
        (None, Some(_)) => refuse("a wrong secret"),
    }
}

/// An answer to a refresh may be refused, lost or delayed.
fn token(request: &Recorded, state: &watch::Sender<State>) -> Answer {
    if !is_refresh(request) {
        return tokens(request, state);
    }
    if let Some(refusal) = &state.borrow().behavior.refuses {
        return refusal.clone();
    }
    let answer = tokens(request, state);
    let mut lost = false;
    state.send_modify(|state| {
        lost = state.behavior.losses > 0;
        state.behavior.losses = state.behavior.losses.saturating_sub(1);
    });
    let gate = &state.borrow().behavior.refresh_gate;
    match gate {
        _ if lost => Answer::silence().then_close(),
        Some(gate) => answer.held_by(gate),
        None => answer,
    }
}

fn tokens(request: &Recorded, state: &watch::Sender<State>) -> Answer {
    issue_tokens(request, state).unwrap_or_else(|(status, error, hint)| {
        let body = json!({ "error": error, "error_description": hint });
        Answer::with(status, &JSON, &body.to_string())
    })
}

fn issue_tokens(request: &Recorded, state: &watch::Sender<State>) -> Result<Answer, Refusal> {
    let form = token_request(&request.body).map_err(|why| (400, "invalid_request", why))?;
    authenticate(request, &form)?;
    let code = form.get("code").cloned().unwrap_or_default();
    let mut issued = Err("");
    state.send_modify(|state| {
        issued = state.issue(&form);
        if std::mem::take(&mut state.behavior.rotates_before_signing) {
            state.keys = state.keys.next();
        }
    });
    let issued = issued.map_err(|why| (400, "invalid_grant", why))?;
    let state = state.borrow();
    let mut body = json!({
        "token_type": "Bearer", "expires_in": 3600, "access_token": issued.access_token,
    });
    if let Some(refresh_token) = issued.refresh_token {
        body["refresh_token"] = refresh_token.into();
    }
    if issued.asked.openid {
        let draft = draft(&state, &issued.asked, code, issued.access_token);
        let made = match &state.behavior.id_token {
            Some(make) => make(&draft),
            None => Some(draft.signed()),
        };
        if let Some(id_token) = made {
            body["id_token"] = id_token.into();
        }
    }
    change(&mut body, state.behavior.token_response.as_ref());
    Ok(honest(&state, Endpoint::Token, &body))
}

/// The ID token with the changes that the test requested.
fn draft(state: &State, asked: &AuthorizedRequest, code: String, access_token: String) -> Draft {
    let alg = state.behavior.alg.as_deref().unwrap_or("RS256");
    let now = state.clock.now().as_secs();
    let mut header = json!({ "alg": alg, "kid": state.keys.kid(alg) });
    let mut claims = json!({
        "iss": state.issuer, "sub": asked.user, "aud": CLIENT,
        "exp": now + 3600, "iat": now, "auth_time": asked.at,
        "at_hash": left_half(alg, &access_token),
    });
    if let Some(nonce) = &asked.nonce {
        claims["nonce"] = nonce.as_str().into();
    }
    change(&mut header, state.behavior.header.as_ref());
    change(&mut claims, state.behavior.claims.as_ref());
    Draft {
        header,
        claims,
        keys: state.keys,
        access_token,
        code,
    }
}

fn userinfo(request: &Recorded, state: &State) -> Answer {
    let form = String::from_utf8_lossy(&request.body).into_owned();
    let in_field = request.head.value("authorization");
    let in_field = in_field.and_then(|field| field.strip_prefix("Bearer ").map(str::to_owned));
    let in_body = (request.method() == "POST")
        .then(|| parameters(&form).remove("access_token"))
        .flatten();
    // A request with two tokens is forbidden, and a request without a token identifies no user (RFC
    // 6750 section 2).
    let ((Some(access_token), None) | (None, Some(access_token))) = (in_field, in_body) else {
        return Answer::with(401, &JSON, "{}");
    };
    let user = access_token.split('.').next().unwrap_or_default();
    let mut claims = json!({
        "sub": user, "name": user, "email": format!("{user}@example.com"), "email_verified": true,
    });
    if state
        .tokens
        .alive
        .get(&access_token)
        .copied()
        .unwrap_or(true)
    {
        claims["name"] = format!("{user} of Example").into();
        claims["preferred_username"] = user.into();
        claims["groups"] = json!(["staff"]);
    } else {
        claims["id"] = user.into();
    }
    change(&mut claims, state.behavior.userinfo.as_ref());
    let Some(make) = &state.behavior.signed_userinfo else {
        return honest(state, Endpoint::Userinfo, &claims);
    };
    let now = state.clock.now().as_secs();
    if let Some(members) = claims.as_object_mut() {
        members.insert("iss".to_owned(), state.issuer.as_str().into());
        members.insert("aud".to_owned(), CLIENT.into());
        members.insert("iat".to_owned(), now.into());
    }
    let token = make(&Draft {
        header: json!({ "alg": "RS256", "kid": state.keys.kid("RS256") }),
        claims,
        keys: state.keys,
        code: String::new(),
        access_token,
    });
    let kind = [("Content-Type", "application/jwt")];
    Answer::with(200, &kind, &token.unwrap_or_default())
}
