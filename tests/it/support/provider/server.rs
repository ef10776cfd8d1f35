//! The provider, as a test controls it: a test starts the provider, counts calls and changes the
//! provider's behaviour.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
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
use crate::support::wire::TEST_TIMEOUT;

/// The endpoints of the provider.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Endpoint {
    Metadata,
    Authorization,
    Token,
    Userinfo,
    Jwks,
    /// The end-session endpoint, which the metadata does not contain by default.
    EndSession,
    /// The revocation endpoint, which the metadata does not contain by default.
    Revocation,
}

impl Endpoint {
    pub(crate) const ALL: [Self; 7] = [
        Self::Metadata,
        Self::Authorization,
        Self::Token,
        Self::Userinfo,
        Self::Jwks,
        Self::EndSession,
        Self::Revocation,
    ];

    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Metadata => "/.well-known/openid-configuration",
            Self::Authorization => "/authorize",
            Self::Token => "/token",
            Self::Userinfo => "/userinfo",
            Self::Jwks => "/jwks",
            Self::EndSession => "/end_session",
            Self::Revocation => "/revoke",
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

/// The answer to a refresh token that is used again.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub(super) enum RefreshTokenReuse {
    /// The provider revokes the whole family of the token.
    #[default]
    RevokeFamily,
    /// The refresh succeeds once more.
    AnswerAgain,
}

/// How the provider returns the user to the gateway.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub(super) enum ReturnMethod {
    /// As the request says.
    #[default]
    Asked,
    /// By a link that the user has to click.
    Link,
    /// By a form that submits itself, whether the request asks for it or not.
    Form,
}

/// The differences from a correct provider.
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
    /// The answer to every refresh. The provider does not carry out the refresh.
    pub(super) refuses: Option<Answer>,
    /// The number of refreshes that are carried out but get no answer.
    pub(super) losses: usize,
    /// Each answer to a refresh waits for one notification.
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

/// The stand-in provider. The provider stops when its value is dropped.
pub(crate) struct StandIn {
    server: RecordingUpstream,
    state: Arc<watch::Sender<State>>,
}

/// Delays the answers of an endpoint.
pub(crate) struct Hold {
    endpoint: Endpoint,
    gate: Arc<Notify>,
    state: Arc<watch::Sender<State>>,
}

impl Hold {
    /// Releases all delayed answers.
    pub(crate) fn release(self) {
        self.state.send_modify(|state| {
            state.behavior.held.remove(&self.endpoint);
        });
        // `notify_waiters` wakes the waiting answers. The permit of `notify_one` is for an answer
        // that is about to wait.
        self.gate.notify_waiters();
        self.gate.notify_one();
    }
}

impl StandIn {
    /// Starts on a free port of 127.0.0.1. The address 127.0.0.1 is another site than the gateway's
    /// `localhost`.
    pub(crate) async fn start() -> Self {
        Self::at_time_of(&Clock::system()).await
    }

    /// Like [`StandIn::start`]. The tokens of the provider have the time of `clock`.
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

    /// Its origin on 127.0.0.1. The origin is also the issuer identifier of the provider.
    pub(crate) fn url(&self) -> String {
        self.state.borrow().issuer.clone()
    }

    /// Starts a provider whose issuer and endpoints have the origin `issuer`, although the provider
    /// listens on 127.0.0.1.
    pub(crate) async fn known_as(issuer: &str, clock: &Clock) -> Self {
        let provider = Self::at_time_of(clock).await;
        provider
            .state
            .send_modify(|state| issuer.clone_into(&mut state.issuer));
        provider
    }

    /// Its address on 127.0.0.1.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The current keys.
    pub(crate) fn keys(&self) -> Keys {
        self.state.borrow().keys
    }

    /// The number of calls to an endpoint.
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

    /// The parameters of the last authorization request. Fails if a parameter is repeated.
    pub(crate) fn asked(&self) -> BTreeMap<String, String> {
        let request = self.requests(Endpoint::Authorization).pop();
        let target = request.expect("no authorization request").target();
        parameters(target.split_once('?').unwrap().1)
    }

    /// The form of the last request to an endpoint. Fails if a parameter is repeated.
    pub(crate) fn posted(&self, endpoint: Endpoint) -> BTreeMap<String, String> {
        let request = self.requests(endpoint).pop();
        let body = request.expect("the endpoint was not called").body;
        parameters(&String::from_utf8(body).unwrap())
    }

    /// Waits until an endpoint has got `count` calls.
    pub(crate) async fn wait_for(&self, endpoint: Endpoint, count: usize) {
        let mut changes = self.state.subscribe();
        let enough = changes
            .wait_for(|state| state.calls.get(&endpoint).copied().unwrap_or_default() >= count);
        let came = tokio::time::timeout(TEST_TIMEOUT, enough).await;
        assert!(came.is_ok(), "{endpoint:?} was not called {count} times");
    }

    /// Stops the server. Connections are refused from now on.
    pub(crate) async fn down(&mut self) {
        self.server.stop().await;
    }

    /// Starts the server again, at the same address.
    pub(crate) async fn up(&mut self) {
        self.up_at(self.server.address()).await;
    }

    /// Starts the server again, at another address.
    pub(crate) async fn up_at(&mut self, address: SocketAddr) {
        self.server = RecordingUpstream::at(address).await;
        self.serve();
    }

    /// Uses `host` as the host of its issuer and its endpoints from now on.
    pub(crate) fn take_name(&self, host: &str) {
        let issuer = format!("http://{host}:{}", self.server.address().port());
        self.state.send_modify(|state| state.issuer = issuer);
    }

    /// Removes all changes of the behaviour.
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

    /// Signs with this algorithm instead of RS256.
    pub(crate) fn sign_with(&self, alg: &str) {
        self.tell(|behavior| behavior.alg = Some(alg.to_owned()));
    }

    /// Creates the ID tokens with this function; `None` omits the ID token.
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

    /// Changes the userinfo.
    pub(crate) fn userinfo(&self, change: impl Fn(&mut Value) + Send + Sync + 'static) {
        self.tell(|behavior| behavior.userinfo = Some(Arc::new(change)));
    }

    /// Answers the userinfo as a JWT that this function creates.
    pub(crate) fn userinfo_by(
        &self,
        make: impl Fn(&Draft) -> Option<String> + Send + Sync + 'static,
    ) {
        self.tell(|behavior| behavior.signed_userinfo = Some(Arc::new(make)));
    }

    /// Answers the userinfo as a JWT signed with `alg`.
    pub(crate) fn sign_userinfo(&self, alg: &str) {
        let alg = alg.to_owned();
        self.userinfo_by(move |draft| {
            let mut draft = draft.clone();
            draft.header = json!({ "alg": alg, "kid": draft.keys.kid(&alg) });
            Some(draft.signed())
        });
    }

    /// Changes the parameters that the callback gets, as an object; `null` removes a parameter.
    pub(crate) fn authorization_response(
        &self,
        change: impl Fn(&mut Value) + Send + Sync + 'static,
    ) {
        self.tell(|behavior| behavior.authorization_response = Some(Arc::new(change)));
    }

    /// Adds `iss` to the answers, or omits it.
    pub(crate) fn response_iss(&self, iss: Option<&str>) {
        let iss = Value::from(iss);
        self.authorization_response(move |response| response["iss"] = iss.clone());
    }

    /// Replaces its keys. The old keys are no longer published.
    pub(crate) fn rotate_keys(&self) {
        self.state
            .send_modify(|state| state.keys = state.keys.next());
    }

    /// Makes the provider replace its keys once more, just before the provider signs the next ID
    /// token.
    pub(crate) fn rotate_just_before_signing(&self) {
        self.tell(|behavior| behavior.rotates_before_signing = true);
    }

    /// Issues a refresh token with every access token. Each refresh token can be used once.
    pub(crate) fn give_refresh_tokens(&self) {
        self.tell(|behavior| behavior.gives_refresh_tokens = true);
    }

    /// The forms of all refreshes.
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

    /// Waits until this number of refreshes has arrived.
    pub(crate) async fn wait_for_refresh(&self, count: usize) {
        let asked = |requests: &[Recorded]| {
            let whole = requests.iter().filter(|request| request.complete);
            whole.filter(|request| is_refresh(request)).count() >= count
        };
        self.server.wait_until(asked).await;
    }

    /// Gives this answer to every refresh from now on, and does not carry out the refresh; `None`
    /// stops this behaviour.
    pub(crate) fn refuse_refreshes(&self, answer: Option<Answer>) {
        self.tell(|behavior| behavior.refuses = answer);
    }

    /// Carries out the next refresh and loses its answer.
    pub(crate) fn lose_refresh(&self) {
        self.tell(|behavior| behavior.losses += 1);
    }

    /// Delays the answers to refreshes from now on. Each delayed answer needs one notification of
    /// the gate.
    pub(crate) fn hold_refreshes(&self) -> Arc<Notify> {
        let gate = Arc::new(Notify::new());
        self.tell(|behavior| behavior.refresh_gate = Some(Arc::clone(&gate)));
        gate
    }

    /// Accepts used refresh tokens once more, like a server with a grace period.
    pub(crate) fn give_grace(&self) {
        self.tell(|behavior| behavior.reuse = RefreshTokenReuse::AnswerAgain);
    }

    /// Revokes all access tokens, like an administrator.
    pub(crate) fn revoke_access_tokens(&self) {
        self.state.send_modify(|state| state.tokens.alive.clear());
    }

    /// The answers of an app that accepts only valid access tokens: `seen`, or 401.
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

    /// Overrides members of the token responses from now on; `null` removes a member.
    pub(crate) fn token_members(&self, members: Value) {
        self.tamper_token_response(move |body| merge(body, &members));
    }

    /// Overrides members of the userinfo from now on; `null` removes a member.
    pub(crate) fn user_members(&self, members: Value) {
        self.userinfo(move |claims| merge(claims, &members));
    }

    /// Shows a page with one link from now on, instead of redirecting at once.
    pub(crate) fn ask_first(&self) {
        self.tell(|behavior| behavior.return_method = ReturnMethod::Link);
    }

    /// Answers by `form_post` from now on.
    pub(crate) fn post_answers(&self) {
        self.tell(|behavior| behavior.return_method = ReturnMethod::Form);
    }

    /// Gives this answer to the next request to an endpoint.
    pub(crate) fn next(&self, endpoint: Endpoint, answer: Answer) {
        self.tell(|behavior| behavior.next.push_back((endpoint, answer)));
    }

    /// Gives this answer to the next token request.
    pub(crate) fn fail_next(&self, answer: Answer) {
        self.next(Endpoint::Token, answer);
    }

    /// Gives this answer to every request to an endpoint.
    pub(crate) fn instead(&self, endpoint: Endpoint, answer: Answer) {
        self.tell(|behavior| {
            behavior.instead.insert(endpoint, answer);
        });
    }

    /// Answers every request to an endpoint with this status, media type and body.
    pub(crate) fn raw(&self, endpoint: Endpoint, status: u16, kind: &str, body: &str) {
        let answer = Answer::with(status, &[("Content-Type", kind)], body);
        self.instead(endpoint, answer);
    }

    /// Replaces the correct answers of an endpoint with the result of a function.
    pub(crate) fn rewrite(
        &self,
        endpoint: Endpoint,
        rewrite: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) {
        self.tell(|behavior| {
            behavior.rewritten.insert(endpoint, Arc::new(rewrite));
        });
    }

    /// Delays the answers of an endpoint.
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
