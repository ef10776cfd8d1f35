//! An authorization server that does exactly what a test says.
//!
//! It signs people in without a form (the browser's `user` cookie says who; `alice` without one),
//! checks PKCE and that a code is used once, rotates refresh tokens, revokes a family whose old one
//! comes back and the access token of whatever is refreshed, and answers the token endpoint with whatever is queued. It shares no code with the
//! embedded server of the crate.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use url::Url;

use super::upstream::{Answer, Recorded, RecordingUpstream};

/// A value that must never leave the gateway: part of every token.
pub(crate) const CANARY: &str = "canary";

/// The client secret that the gateway is given.
pub(crate) const CLIENT_SECRET: &str = "s3cret-canary";

#[derive(Default)]
struct State {
    /// What was asked with each code: user and challenge.
    codes: BTreeMap<String, (String, String)>,
    issued: usize,
    /// People have to click before they are sent back.
    asks: bool,
    /// Answers are posted, whether a request asks for it or not.
    posts: bool,
    /// Who the answers say they are from.
    iss: Option<String>,
    faults: VecDeque<Answer>,
    /// What every refresh is answered with; nothing is done then.
    refuses: Option<Answer>,
    /// Refreshes that are done, and whose answers are lost.
    losses: usize,
    /// Refreshes are answered when this says so.
    gate: Option<Arc<Notify>>,
    reuse: Reuse,
    /// Refresh tokens by what was given with them.
    grants: BTreeMap<String, Grant>,
    /// Access tokens that an app should take, and whose they are.
    alive: BTreeMap<String, String>,
    /// More or other members of the next token responses.
    token: Value,
    /// More or other members of the user information.
    user: Value,
}

/// What becomes of a refresh token that comes again.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum Reuse {
    /// All of its family is revoked.
    #[default]
    Theft,
    /// It is answered once more.
    Grace,
}

/// What a refresh token stands for.
#[derive(Clone)]
struct Grant {
    user: String,
    /// The number of the login that it comes from.
    family: usize,
    access_token: String,
    used: bool,
}

/// The server.
pub(crate) struct StandIn {
    server: RecordingUpstream,
    state: Arc<watch::Sender<State>>,
}

impl StandIn {
    pub(crate) async fn start() -> Self {
        let server = RecordingUpstream::start().await;
        let state = Arc::new(watch::Sender::new(State::default()));
        let shared = Arc::clone(&state);
        server.answer_by(move |request| answer(request, &shared));
        Self { server, state }
    }

    /// Its origin, on 127.0.0.1: another site than the gateway's `localhost`.
    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// Stops it: nobody listens there any more.
    pub(crate) async fn stop(&mut self) {
        self.server.stop().await;
    }

    /// Starts it again where it was, with all that it knew.
    pub(crate) async fn start_again(&mut self) {
        let address = self.url().trim_start_matches("http://").parse().unwrap();
        self.server = RecordingUpstream::at(address).await;
        let shared = Arc::clone(&self.state);
        self.server
            .answer_by(move |request| answer(request, &shared));
    }

    /// The requests for a refresh.
    pub(crate) fn refreshes(&self) -> Vec<Recorded> {
        let exchanges = self.exchanges().into_iter();
        exchanges.filter(is_refresh).collect()
    }

    /// Waits until so many refreshes were asked for.
    pub(crate) async fn wait_for_refresh(&self, count: usize) {
        let asked = |requests: &[Recorded]| {
            let refreshes = requests.iter().filter(|request| is_refresh(request));
            refreshes.filter(|request| request.complete).count() >= count
        };
        self.server.wait_until(asked).await;
    }

    /// Answers every refresh so from now on, and does nothing; `None` ends that.
    pub(crate) fn refuse_refreshes(&self, answer: Option<Answer>) {
        self.state.send_modify(|state| state.refuses = answer);
    }

    /// Does the next refresh and loses its answer.
    pub(crate) fn lose_refresh(&self) {
        self.state.send_modify(|state| state.losses += 1);
    }

    /// Holds the answers of refreshes from now on: each needs one notice of the gate.
    pub(crate) fn hold_refreshes(&self) -> Arc<Notify> {
        let gate = Arc::new(Notify::new());
        let held = Some(Arc::clone(&gate));
        self.state.send_modify(|state| state.gate = held);
        gate
    }

    /// Answers used refresh tokens once more, as a server with a grace period does.
    pub(crate) fn give_grace(&self) {
        self.state.send_modify(|state| state.reuse = Reuse::Grace);
    }

    /// Revokes all access tokens, as an administrator would.
    pub(crate) fn revoke_access_tokens(&self) {
        self.state.send_modify(|state| state.alive.clear());
    }

    /// An app that takes living access tokens only: `seen`, or 401.
    pub(crate) fn app(&self) -> impl Fn(&Recorded) -> Answer + Send + Sync + 'static {
        let state = Arc::clone(&self.state);
        move |request| {
            let field = request.head.value("authorization").unwrap_or_default();
            let token = field.strip_prefix("Bearer ").unwrap_or_default();
            if state.borrow().alive.contains_key(token) {
                Answer::ok("seen")
            } else {
                let body = json!({ "message": "Unauthenticated." }).to_string();
                Answer::with(401, &[("Content-Type", "application/json")], &body)
            }
        }
    }

    /// The requests to the token endpoint.
    pub(crate) fn exchanges(&self) -> Vec<Recorded> {
        let requests = self.server.requests();
        requests
            .into_iter()
            .filter(|request| request.target().starts_with("/oauth/token"))
            .collect()
    }

    /// The requests to the authorization endpoint.
    pub(crate) fn authorizations(&self) -> Vec<Url> {
        let requests = self.server.requests().into_iter();
        let wanted = requests.filter(|request| request.target().starts_with("/oauth/authorize"));
        wanted.map(|request| target(&request)).collect()
    }

    /// Answers the next token request so.
    pub(crate) fn fail_next(&self, answer: Answer) {
        self.state
            .send_modify(|state| state.faults.push_back(answer));
    }

    /// Overrides members of the token responses from now on; `null` removes one.
    pub(crate) fn token_members(&self, members: Value) {
        self.state.send_modify(|state| state.token = members);
    }

    /// Overrides members of the user information from now on; `null` removes one.
    pub(crate) fn user_members(&self, members: Value) {
        self.state.send_modify(|state| state.user = members);
    }

    /// Shows a page with one link from now on, instead of sending people back at once.
    pub(crate) fn ask_first(&self) {
        self.state.send_modify(|state| state.asks = true);
    }

    /// Answers by a form that the browser posts from now on.
    pub(crate) fn post_answers(&self) {
        self.state.send_modify(|state| state.posts = true);
    }

    /// Says in every answer from now on who it is from.
    pub(crate) fn name_issuer(&self, iss: Option<&str>) {
        let iss = iss.map(str::to_owned);
        self.state.send_modify(|state| state.iss = iss);
    }

    /// Waits until the token endpoint was asked `count` times.
    pub(crate) async fn wait_for_exchange(&self, count: usize) {
        let asked = |requests: &[Recorded]| {
            let tokens = requests
                .iter()
                .filter(|r| r.target().starts_with("/oauth/token"));
            tokens.filter(|request| request.complete).count() >= count
        };
        self.server.wait_until(asked).await;
    }
}

fn is_refresh(request: &Recorded) -> bool {
    let token = request.target().starts_with("/oauth/token");
    token && String::from_utf8_lossy(&request.body).contains("refresh_token")
}

fn target(request: &Recorded) -> Url {
    Url::parse("http://provider.test")
        .unwrap()
        .join(&request.target())
        .unwrap()
}

/// The parameters of a query or form, each once.
pub(crate) fn parameters(text: &str) -> BTreeMap<String, String> {
    let pairs: Vec<(String, String)> = url::form_urlencoded::parse(text.as_bytes())
        .into_owned()
        .collect();
    let count = pairs.len();
    let map: BTreeMap<_, _> = pairs.into_iter().collect();
    assert_eq!(map.len(), count, "a parameter came twice in {text}");
    map
}

/// The parameters of a token request, which may be JSON: every value is a string.
pub(crate) fn token_request(body: &[u8]) -> Result<BTreeMap<String, String>, &'static str> {
    let text = String::from_utf8_lossy(body);
    if text.starts_with('{') {
        serde_json::from_str(&text).map_err(|_error| "the JSON has values that are no strings")
    } else {
        Ok(parameters(&text))
    }
}

fn merged(mut value: Value, changes: &Value) -> String {
    for (name, change) in changes.as_object().into_iter().flatten() {
        let members = value.as_object_mut().unwrap();
        if change.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), change.clone());
        }
    }
    value.to_string()
}

fn answer(request: &Recorded, state: &watch::Sender<State>) -> Answer {
    let json_type = [("Content-Type", "application/json")];
    match target(request).path() {
        "/oauth/authorize" => authorize(request, state),
        "/oauth/token" => {
            let mut fault = None;
            state.send_modify(|state| fault = state.faults.pop_front());
            if is_refresh(request) && fault.is_none() {
                fault.clone_from(&state.borrow().refuses);
            }
            fault.unwrap_or_else(|| {
                let answer = match token(request, state) {
                    Ok(body) => Answer::with(200, &json_type, &body),
                    Err(reason) => {
                        let body = json!({ "error": "invalid_grant", "hint": reason }).to_string();
                        Answer::with(400, &json_type, &body)
                    }
                };
                if is_refresh(request) {
                    on_its_way(answer, state)
                } else {
                    answer
                }
            })
        }
        "/api/user" => {
            let bearer = request.head.value("authorization").unwrap_or_default();
            let Some(user) = bearer
                .strip_prefix("Bearer ")
                .and_then(|t| t.split('.').next())
            else {
                return Answer::with(401, &json_type, "{}");
            };
            let body = json!({
                "id": user, "sub": user, "name": user,
                "email": format!("{user}@example.com"), "email_verified": true,
            });
            Answer::with(200, &json_type, &merged(body, &state.borrow().user))
        }
        _ => Answer::with(404, &[], ""),
    }
}

fn authorize(request: &Recorded, state: &watch::Sender<State>) -> Answer {
    let asked = parameters(target(request).query().unwrap_or_default());
    let cookies = request.head.value("cookie").unwrap_or_default();
    let user = cookies
        .split("; ")
        .find_map(|pair| pair.strip_prefix("user="));
    let user = user.unwrap_or("alice").to_owned();
    let challenge = asked.get("code_challenge").cloned().unwrap_or_default();
    let mut code = String::new();
    state.send_modify(|state| {
        state.issued += 1;
        code = format!("def502{CANARY}{:04}", state.issued);
        state.codes.insert(code.clone(), (user, challenge));
    });
    let mut parameters = vec![("code", code), ("state", asked["state"].clone())];
    parameters.extend(state.borrow().iss.clone().map(|iss| ("iss", iss)));
    let html = [("Content-Type", "text/html")];
    let wants_form = asked
        .get("response_mode")
        .is_some_and(|mode| mode == "form_post");
    if wants_form || state.borrow().posts {
        let form = auto_form(&asked["redirect_uri"], &parameters);
        return Answer::with(200, &html, &form);
    }
    let mut to = Url::parse(&asked["redirect_uri"]).unwrap();
    to.query_pairs_mut().extend_pairs(parameters);
    if state.borrow().asks {
        let link = to.as_str().replace('&', "&amp;");
        return Answer::with(200, &html, &format!("<a id=go href=\"{link}\">Go on</a>"));
    }
    Answer::with(302, &[("Location", to.as_str())], "")
}

/// A page with a form that submits itself (OAuth 2.0 Form Post Response Mode, appendix A).
fn auto_form(action: &str, parameters: &[(&str, String)]) -> String {
    let inputs: Vec<String> = parameters
        .iter()
        .map(|(name, value)| {
            let value = value.replace('&', "&amp;").replace('"', "&quot;");
            format!("<input type=hidden name={name} value=\"{value}\">")
        })
        .collect();
    let inputs = inputs.concat();
    format!(
        "<form id=answer method=post action=\"{action}\">{inputs}</form>\
         <script>document.getElementById('answer').submit()</script>"
    )
}

/// The answer to a refresh, lost or held as was wished.
fn on_its_way(answer: Answer, state: &watch::Sender<State>) -> Answer {
    let mut lost = false;
    state.send_modify(|state| {
        lost = state.losses > 0;
        state.losses = state.losses.saturating_sub(1);
    });
    if lost {
        return Answer::silence().then_close();
    }
    match &state.borrow().gate {
        Some(gate) => answer.held_by(gate),
        None => answer,
    }
}

/// New tokens of a family for `user`.
fn issue(state: &mut State, user: String, family: Option<usize>) -> (String, String) {
    if family.is_some() {
        state.issued += 1;
    }
    let number = state.issued;
    let access_token = format!("{user}.{CANARY}.{number}");
    let refresh_token = format!("def502{CANARY}{number:04}");
    state.alive.insert(access_token.clone(), user.clone());
    let grant = Grant {
        user,
        family: family.unwrap_or(number),
        access_token: access_token.clone(),
        used: false,
    };
    state.grants.insert(refresh_token.clone(), grant);
    (access_token, refresh_token)
}

fn refresh(state: &mut State, refresh_token: &str) -> Result<(String, String), &'static str> {
    let reuse = state.reuse;
    let grant = state.grants.get_mut(refresh_token);
    let grant = grant.ok_or("the refresh token is unknown or was revoked")?;
    let before = grant.clone();
    grant.used = true;
    if before.used && reuse == Reuse::Theft {
        let family = before.family;
        state.grants.retain(|_, grant| grant.family != family);
        return Err("the refresh token was used before");
    }
    state.alive.remove(&before.access_token);
    Ok(issue(state, before.user, Some(before.family)))
}

fn token(request: &Recorded, state: &watch::Sender<State>) -> Result<String, &'static str> {
    let asked = token_request(&request.body)?;
    let get = |name| asked.get(name).map(String::as_str).unwrap_or_default();
    if get("grant_type") == "refresh_token" {
        let mut tokens = Err("");
        state.send_modify(|state| tokens = refresh(state, get("refresh_token")));
        return tokens.map(|tokens| response(tokens, &state.borrow()));
    }
    let mut known = None;
    state.send_modify(|state| known = state.codes.remove(get("code")));
    let (user, challenge) = known.ok_or("the code is unknown or was used")?;
    let hash = digest(&SHA256, get("code_verifier").as_bytes());
    if challenge.is_empty() || URL_SAFE_NO_PAD.encode(hash) != challenge {
        return Err("the code_verifier is wrong");
    }
    let mut tokens = Default::default();
    state.send_modify(|state| tokens = issue(state, user, None));
    Ok(response(tokens, &state.borrow()))
}

fn response((access_token, refresh_token): (String, String), state: &State) -> String {
    let body = json!({
        "token_type": "Bearer", "expires_in": 3600,
        "access_token": access_token, "refresh_token": refresh_token,
    });
    merged(body, &state.token)
}
