//! The server as a test holds it: started, counted, and given orders.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};
use sidegate::clock::Clock;
use tokio::sync::{Notify, watch};
use url::Url;

use super::answers::{answer, endpoint_of, is_refresh};
use super::keys::Keys;
use super::token::Draft;
use super::tokens::TokenState;
use super::{parameters, token_request};
use crate::support::upstream::{Answer, Recorded, RecordingUpstream};
use crate::support::wire::PATIENCE;

/// What is asked of the provider.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Endpoint {
    Metadata,
    Authorization,
    Token,
    Userinfo,
    Jwks,
}

impl Endpoint {
    pub(crate) const ALL: [Self; 5] = [
        Self::Metadata,
        Self::Authorization,
        Self::Token,
        Self::Userinfo,
        Self::Jwks,
    ];

    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Metadata => "/.well-known/openid-configuration",
            Self::Authorization => "/authorize",
            Self::Token => "/token",
            Self::Userinfo => "/userinfo",
            Self::Jwks => "/jwks",
        }
    }
}

fn merge(value: &mut Value, changes: &Value) {
    let members = value.as_object_mut().unwrap();
    for (name, change) in changes.as_object().into_iter().flatten() {
        if change.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), change.clone());
        }
    }
}

pub(super) type Change = Arc<dyn Fn(&mut Value) + Send + Sync>;
pub(super) type Rewrite = Arc<dyn Fn(&str) -> Answer + Send + Sync>;
pub(super) type Forge = Arc<dyn Fn(&Draft) -> Option<String> + Send + Sync>;

/// What becomes of a refresh token that comes again.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub(super) enum RefreshTokenReuse {
    /// All of its family is revoked.
    #[default]
    RevokeFamily,
    /// It is answered once more.
    AnswerAgain,
}

/// How people are sent back.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub(super) enum ReturnMethod {
    /// As the request asks.
    #[default]
    Asked,
    /// By a link that they have to click.
    Link,
    /// By a form that posts itself, whether the request asks for it or not.
    Form,
}

/// What to do otherwise than an honest provider.
#[derive(Clone, Default)]
pub(super) struct Behavior {
    pub(super) metadata: Option<Change>,
    pub(super) jwks: Option<Change>,
    pub(super) header: Option<Change>,
    pub(super) claims: Option<Change>,
    pub(super) token_response: Option<Change>,
    pub(super) userinfo: Option<Change>,
    pub(super) id_token: Option<Forge>,
    pub(super) signed_userinfo: Option<Forge>,
    pub(super) authorization_response: Option<Change>,
    pub(super) alg: Option<String>,
    pub(super) rotates_before_signing: bool,
    pub(super) gives_refresh_tokens: bool,
    pub(super) reuse: RefreshTokenReuse,
    pub(super) return_method: ReturnMethod,
    /// What every refresh is answered with; nothing is done then.
    pub(super) refuses: Option<Answer>,
    /// Refreshes that are done, and whose answers are lost.
    pub(super) losses: usize,
    /// Each answer to a refresh waits for one notice.
    pub(super) refresh_gate: Option<Arc<Notify>>,
    pub(super) next: VecDeque<(Endpoint, Answer)>,
    pub(super) instead: BTreeMap<Endpoint, Answer>,
    pub(super) rewritten: BTreeMap<Endpoint, Rewrite>,
    pub(super) held: BTreeMap<Endpoint, Arc<Notify>>,
}

pub(super) struct State {
    pub(super) issuer: String,
    pub(super) clock: Clock,
    pub(super) keys: Keys,
    pub(super) behavior: Behavior,
    pub(super) tokens: TokenState,
    pub(super) calls: BTreeMap<Endpoint, usize>,
}

/// The provider: gone when dropped.
pub(crate) struct StandIn {
    server: RecordingUpstream,
    state: Arc<watch::Sender<State>>,
}

/// Keeps an endpoint from answering.
pub(crate) struct Hold {
    endpoint: Endpoint,
    gate: Arc<Notify>,
    state: Arc<watch::Sender<State>>,
}

impl Hold {
    /// Lets all answers go.
    pub(crate) fn release(self) {
        self.state.send_modify(|state| {
            state.behavior.held.remove(&self.endpoint);
        });
        // Whoever waits goes on; the permit is for one that has only just begun to.
        self.gate.notify_waiters();
        self.gate.notify_one();
    }
}

impl StandIn {
    /// Starts on a free port of 127.0.0.1: another site than the gateway's `localhost`.
    pub(crate) async fn start() -> Self {
        Self::at_time_of(&Clock::system()).await
    }

    /// As [`StandIn::start`]; its tokens are of the time of `clock`.
    pub(crate) async fn at_time_of(clock: &Clock) -> Self {
        let server = RecordingUpstream::start().await;
        let state = Arc::new(watch::Sender::new(State {
            issuer: server.url(),
            clock: clock.clone(),
            keys: Keys::first(),
            behavior: Behavior::default(),
            tokens: TokenState::default(),
            calls: BTreeMap::new(),
        }));
        let provider = Self { server, state };
        provider.serve();
        provider
    }

    fn serve(&self) {
        let shared = Arc::clone(&self.state);
        self.server
            .answer_by(move |request| answer(request, &shared));
    }

    /// Its origin on 127.0.0.1, which is its issuer identifier, too.
    pub(crate) fn url(&self) -> String {
        self.state.borrow().issuer.clone()
    }

    /// Its keys now.
    pub(crate) fn keys(&self) -> Keys {
        self.state.borrow().keys
    }

    /// How often an endpoint was called.
    pub(crate) fn calls(&self, endpoint: Endpoint) -> usize {
        let calls = self.state.borrow();
        calls.calls.get(&endpoint).copied().unwrap_or_default()
    }

    /// The requests to an endpoint since the provider was last started.
    pub(crate) fn requests(&self, endpoint: Endpoint) -> Vec<Recorded> {
        let requests = self.server.requests().into_iter();
        requests
            .filter(|request| endpoint_of(request) == Some(endpoint))
            .collect()
    }

    /// What the last authorization request asked, each parameter once.
    pub(crate) fn asked(&self) -> BTreeMap<String, String> {
        let request = self.requests(Endpoint::Authorization).pop();
        let target = request.expect("nobody was sent here").target();
        parameters(target.split_once('?').unwrap().1)
    }

    /// The form of the last request to an endpoint, each parameter once.
    pub(crate) fn posted(&self, endpoint: Endpoint) -> BTreeMap<String, String> {
        let request = self.requests(endpoint).pop();
        let body = request.expect("nobody called it").body;
        parameters(&String::from_utf8(body).unwrap())
    }

    /// Waits until an endpoint was called `count` times.
    pub(crate) async fn wait_for(&self, endpoint: Endpoint, count: usize) {
        let mut changes = self.state.subscribe();
        let enough = changes
            .wait_for(|state| state.calls.get(&endpoint).copied().unwrap_or_default() >= count);
        let came = tokio::time::timeout(PATIENCE, enough).await;
        assert!(came.is_ok(), "{endpoint:?} was not called {count} times");
    }

    /// Stops answering: connections are refused from now on.
    pub(crate) async fn down(&mut self) {
        self.server.stop().await;
    }

    /// Answers again, at the same address.
    pub(crate) async fn up(&mut self) {
        self.server = RecordingUpstream::at(self.server.address()).await;
        self.serve();
    }

    /// Does everything as it should from now on.
    pub(crate) fn behave(&self) {
        self.tell(|behavior| *behavior = Behavior::default());
    }

    fn tell(&self, change: impl FnOnce(&mut Behavior)) {
        self.state.send_modify(|state| change(&mut state.behavior));
    }

    /// Changes the claims of the ID tokens.
    pub(crate) fn tamper_claims(&self, change: impl Fn(&mut Value) + Send + Sync + 'static) {
        self.tell(|behavior| behavior.claims = Some(Arc::new(change)));
    }

    /// Changes the header of the ID tokens.
    pub(crate) fn tamper_header(&self, change: impl Fn(&mut Value) + Send + Sync + 'static) {
        self.tell(|behavior| behavior.header = Some(Arc::new(change)));
    }

    /// Signs with another algorithm than RS256.
    pub(crate) fn sign_with(&self, alg: &str) {
        self.tell(|behavior| behavior.alg = Some(alg.to_owned()));
    }

    /// Makes the ID tokens by hand; `None`: there is none.
    pub(crate) fn id_token_by(
        &self,
        make: impl Fn(&Draft) -> Option<String> + Send + Sync + 'static,
    ) {
        self.tell(|behavior| behavior.id_token = Some(Arc::new(make)));
    }

    /// Changes the token responses.
    pub(crate) fn tamper_token_response(
        &self,
        change: impl Fn(&mut Value) + Send + Sync + 'static,
    ) {
        self.tell(|behavior| behavior.token_response = Some(Arc::new(change)));
    }

    /// Changes the metadata.
    pub(crate) fn metadata(&self, change: impl Fn(&mut Value) + Send + Sync + 'static) {
        self.tell(|behavior| behavior.metadata = Some(Arc::new(change)));
    }

    /// Changes the published keys.
    pub(crate) fn jwks(&self, change: impl Fn(&mut Value) + Send + Sync + 'static) {
        self.tell(|behavior| behavior.jwks = Some(Arc::new(change)));
    }

    /// Changes the user information.
    pub(crate) fn userinfo(&self, change: impl Fn(&mut Value) + Send + Sync + 'static) {
        self.tell(|behavior| behavior.userinfo = Some(Arc::new(change)));
    }

    /// Gives the user information as a JWT, made by hand.
    pub(crate) fn userinfo_by(
        &self,
        make: impl Fn(&Draft) -> Option<String> + Send + Sync + 'static,
    ) {
        self.tell(|behavior| behavior.signed_userinfo = Some(Arc::new(make)));
    }

    /// Gives the user information as a JWT, signed with `alg`.
    pub(crate) fn sign_userinfo(&self, alg: &str) {
        let alg = alg.to_owned();
        self.userinfo_by(move |draft| {
            let mut draft = draft.clone();
            draft.header = json!({ "alg": alg, "kid": draft.keys.kid(&alg) });
            Some(draft.signed())
        });
    }

    /// Changes the parameters that go back to the gateway, given as an object; `null` removes one.
    pub(crate) fn authorization_response(
        &self,
        change: impl Fn(&mut Value) + Send + Sync + 'static,
    ) {
        self.tell(|behavior| behavior.authorization_response = Some(Arc::new(change)));
    }

    /// Says in its answers that they are from `iss`, or does not say.
    pub(crate) fn response_iss(&self, iss: Option<&str>) {
        let iss = Value::from(iss);
        self.authorization_response(move |response| response["iss"] = iss.clone());
    }

    /// Changes its keys: the old ones are gone.
    pub(crate) fn rotate_keys(&self) {
        self.state
            .send_modify(|state| state.keys = state.keys.next());
    }

    /// Changes its keys once more just before it signs the next ID token.
    pub(crate) fn rotate_just_before_signing(&self) {
        self.tell(|behavior| behavior.rotates_before_signing = true);
    }

    /// Gives a refresh token with every access token, each good for one use.
    pub(crate) fn give_refresh_tokens(&self) {
        self.tell(|behavior| behavior.gives_refresh_tokens = true);
    }

    /// The token requests that asked for a refresh, each as its form.
    pub(crate) fn refreshes(&self) -> Vec<BTreeMap<String, String>> {
        let requests = self.exchanges().into_iter().filter(is_refresh);
        requests
            .map(|request| token_request(&request.body).unwrap())
            .collect()
    }

    /// The requests to the token endpoint.
    pub(crate) fn exchanges(&self) -> Vec<Recorded> {
        self.requests(Endpoint::Token)
    }

    /// The requests to the authorization endpoint.
    pub(crate) fn authorizations(&self) -> Vec<Url> {
        let requests = self.requests(Endpoint::Authorization).into_iter();
        let url = |request: Recorded| Url::parse(&format!("{}{}", self.url(), request.target()));
        requests.map(|request| url(request).unwrap()).collect()
    }

    /// Waits until so many refreshes were asked for.
    pub(crate) async fn wait_for_refresh(&self, count: usize) {
        let asked = |requests: &[Recorded]| {
            let whole = requests.iter().filter(|request| request.complete);
            whole.filter(|request| is_refresh(request)).count() >= count
        };
        self.server.wait_until(asked).await;
    }

    /// Answers every refresh so from now on, and does nothing; `None` ends that.
    pub(crate) fn refuse_refreshes(&self, answer: Option<Answer>) {
        self.tell(|behavior| behavior.refuses = answer);
    }

    /// Does the next refresh and loses its answer.
    pub(crate) fn lose_refresh(&self) {
        self.tell(|behavior| behavior.losses += 1);
    }

    /// Holds the answers of refreshes from now on: each needs one notice of the gate.
    pub(crate) fn hold_refreshes(&self) -> Arc<Notify> {
        let gate = Arc::new(Notify::new());
        self.tell(|behavior| behavior.refresh_gate = Some(Arc::clone(&gate)));
        gate
    }

    /// Answers used refresh tokens once more, as a server with a grace period does.
    pub(crate) fn give_grace(&self) {
        self.tell(|behavior| behavior.reuse = RefreshTokenReuse::AnswerAgain);
    }

    /// Revokes all access tokens, as an administrator would.
    pub(crate) fn revoke_access_tokens(&self) {
        self.state.send_modify(|state| state.tokens.alive.clear());
    }

    /// An app that takes living access tokens only: `seen`, or 401.
    pub(crate) fn app(&self) -> impl Fn(&Recorded) -> Answer + Send + Sync + 'static {
        let state = Arc::clone(&self.state);
        move |request| {
            let field = request.head.value("authorization").unwrap_or_default();
            let token = field.strip_prefix("Bearer ").unwrap_or_default();
            if state.borrow().tokens.alive.contains_key(token) {
                Answer::ok("seen")
            } else {
                let body = json!({ "message": "Unauthenticated." }).to_string();
                Answer::with(401, &[("Content-Type", "application/json")], &body)
            }
        }
    }

    /// Overrides members of the token responses from now on; `null` removes one.
    pub(crate) fn token_members(&self, members: Value) {
        self.tamper_token_response(move |body| merge(body, &members));
    }

    /// Overrides members of the user information from now on; `null` removes one.
    pub(crate) fn user_members(&self, members: Value) {
        self.userinfo(move |claims| merge(claims, &members));
    }

    /// Shows a page with one link from now on, instead of sending people back at once.
    pub(crate) fn ask_first(&self) {
        self.tell(|behavior| behavior.return_method = ReturnMethod::Link);
    }

    /// Answers by a form that the browser posts from now on.
    pub(crate) fn post_answers(&self) {
        self.tell(|behavior| behavior.return_method = ReturnMethod::Form);
    }

    /// Answers the next request to an endpoint so.
    pub(crate) fn next(&self, endpoint: Endpoint, answer: Answer) {
        self.tell(|behavior| behavior.next.push_back((endpoint, answer)));
    }

    /// Answers the next token request so.
    pub(crate) fn fail_next(&self, answer: Answer) {
        self.next(Endpoint::Token, answer);
    }

    /// Answers every request to an endpoint so.
    pub(crate) fn instead(&self, endpoint: Endpoint, answer: Answer) {
        self.tell(|behavior| {
            behavior.instead.insert(endpoint, answer);
        });
    }

    /// Answers every request to an endpoint with this status, type and body.
    pub(crate) fn raw(&self, endpoint: Endpoint, status: u16, kind: &str, body: &str) {
        let answer = Answer::with(status, &[("Content-Type", kind)], body);
        self.instead(endpoint, answer);
    }

    /// Makes something else of the honest answers of an endpoint.
    pub(crate) fn rewrite(
        &self,
        endpoint: Endpoint,
        rewrite: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) {
        self.tell(|behavior| {
            behavior.rewritten.insert(endpoint, Arc::new(rewrite));
        });
    }

    /// Holds the answers of an endpoint back.
    pub(crate) fn hold(&self, endpoint: Endpoint) -> Hold {
        let gate = Arc::new(Notify::new());
        self.tell(|behavior| {
            behavior.held.insert(endpoint, Arc::clone(&gate));
        });
        let state = Arc::clone(&self.state);
        Hold {
            endpoint,
            gate,
            state,
        }
    }
}
