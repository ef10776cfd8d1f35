//! The server: authorization endpoint, token endpoint, userinfo.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use sidegate::clock::Clock;
use tokio::sync::watch;
use url::Url;

use super::fault::{CallOutcome, Fault, Schedule};
use super::ledger::{
    InvalidGrant, Ledger, PairId, ProviderBehavior, RefreshCall, SharedLedger, TokenStatus,
};
use crate::support::oauth::{CANARY, parameters, token_request};
use crate::support::upstream::{Answer, Recorded, RecordingUpstream};

/// The maximum number of failed calls in a row. A client that doubles its pauses must not wait
/// without a limit.
const WRONG_IN_A_ROW: usize = 3;

/// The time for which a lost answer can be requested again, if the server allows it. The time is
/// longer than the pauses of a client after one fault and several outages.
const GRACE: Duration = Duration::from_mins(2);

const JSON: [(&str, &str); 2] = [
    ("Content-Type", "application/json;charset=UTF-8"),
    ("Cache-Control", "no-store"),
];

/// The data that all connections share.
struct Shared {
    ledger: SharedLedger,
    behavior: ProviderBehavior,
    schedule: Schedule,
    clock: Clock,
    state: watch::Sender<State>,
}

#[derive(Default)]
struct State {
    /// User, challenge and redirect URI of each unused code.
    codes: BTreeMap<String, (String, String, String)>,
    codes_issued: usize,
    fault_free: bool,
    /// The number of failed calls since the last success.
    wrong_in_a_row: usize,
    /// The answer to every refresh; the server does not carry out the refresh.
    instead: Option<Answer>,
}

/// A server that often fails. The server stops when its value is dropped.
pub(crate) struct TortureProvider {
    server: RecordingUpstream,
    shared: Arc<Shared>,
}

impl TortureProvider {
    /// Starts on a free port of 127.0.0.1, and records its tokens in `shared_ledger`.
    pub(crate) async fn start(
        shared_ledger: &SharedLedger,
        behavior: ProviderBehavior,
        schedule: Schedule,
        clock: &Clock,
    ) -> Self {
        let server = RecordingUpstream::start().await;
        Self::with(server, shared_ledger, behavior, (schedule, clock))
    }

    /// Answers for `server`.
    pub(crate) fn with(
        server: RecordingUpstream,
        shared_ledger: &SharedLedger,
        behavior: ProviderBehavior,
        (schedule, clock): (Schedule, &Clock),
    ) -> Self {
        let shared = Arc::new(Shared {
            ledger: Arc::clone(shared_ledger),
            behavior,
            schedule,
            clock: clock.clone(),
            state: watch::Sender::new(State::default()),
        });
        let provider = Self { server, shared };
        provider.serve();
        provider
    }

    fn serve(&self) {
        self.server.forget_what_is_answered();
        let shared = Arc::clone(&self.shared);
        self.server
            .answer_by(move |request| answer(&shared, request));
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// The gateway's settings for this provider, as TOML.
    pub(crate) fn section(&self, profile: &str, secret_file: &str) -> String {
        let (url, behavior) = (self.url(), self.shared.behavior);
        format!(
            "[providers.{}]\nprofile = \"{profile}\"\nurl = \"{url}\"\nclient_id = \"3\"\n\
             client_secret_file = \"{secret_file}\"\ndiscovery = \"none\"\n\
             authorization_endpoint = \"/oauth/authorize\"\ntoken_endpoint = \"/oauth/token\"\n\
             userinfo_endpoint = \"/api/user\"\ntoken_calls_per_minute = 1000000\n\
             identity.source = \"userinfo\"\nidentity.claims.subject = \"sub\"\n\
             identity.emails_verified = \"always\"\nrefresh.revokes_access_token = {}\n",
            behavior.server, behavior.kills_access_tokens,
        )
    }

    /// Causes no more faults from now on.
    pub(crate) fn stop_faults(&self) {
        self.shared
            .state
            .send_modify(|state| state.fault_free = true);
    }

    /// Gives this answer to every refresh from now on, and does not carry out the refresh.
    pub(crate) fn answer_refreshes(&self, answer: Option<Answer>) {
        self.shared
            .state
            .send_modify(|state| state.instead = answer);
    }

    /// Refuses connections for `time`. Calls in progress get no answer. The first call after the
    /// outage has no fault.
    pub(crate) async fn is_gone_for(&mut self, time: Duration) {
        self.server.stop().await;
        let server = self.shared.behavior.server;
        self.shared
            .ledger
            .send_modify(|ledger| ledger.abandon(server));
        tokio::time::sleep(time).await;
        let well = |state: &mut State| state.wrong_in_a_row = WRONG_IN_A_ROW;
        self.shared.state.send_modify(well);
        self.server = RecordingUpstream::at(self.server.address()).await;
        self.serve();
    }
}

impl Shared {
    fn outcome(&self, call: &RefreshCall) -> CallOutcome {
        let mut outcome = self.schedule.outcome(call);
        self.state.send_modify(|state| {
            if state.fault_free || state.wrong_in_a_row >= WRONG_IN_A_ROW {
                outcome = CallOutcome::Normal;
            }
            state.wrong_in_a_row = match outcome {
                CallOutcome::Normal | CallOutcome::Faulty(Fault::Slow) => 0,
                CallOutcome::Faulty(_) => state.wrong_in_a_row + 1,
            };
        });
        outcome
    }
}

fn refused(status: u16, error: &str, why: &str) -> Answer {
    let body = json!({ "error": error, "error_description": why });
    Answer::with(status, &JSON, &body.to_string())
}

fn answer(shared: &Arc<Shared>, request: &Recorded) -> Answer {
    let base = Url::parse("http://provider.test").unwrap();
    let Ok(target) = base.join(&request.target()) else {
        return Answer::with(400, &[], "");
    };
    match target.path() {
        "/oauth/authorize" => authorize(shared, request, &target),
        "/oauth/token" => token(shared, request),
        "/api/user" => user(shared, request),
        "/log" => Answer::with(200, &JSON, &shared.ledger.borrow().to_json().to_string()),
        _ => Answer::with(404, &[], ""),
    }
}

/// The number of the gateway process that sends the request, if each process has its own client
/// secret: `process-` and the number.
fn process(request: &Recorded) -> Option<usize> {
    let field = request.head.value("authorization")?;
    let credentials = STANDARD.decode(field.strip_prefix("Basic ")?).ok()?;
    let credentials = String::from_utf8(credentials).ok()?;
    let (_client, secret) = credentials.split_once(':')?;
    secret.strip_prefix("process-")?.parse().ok()
}

/// The user is `login_hint`, or the cookie `user`, or alice.
fn authorize(shared: &Shared, request: &Recorded, target: &Url) -> Answer {
    let asked = parameters(target.query().unwrap_or_default());
    let cookies = request.head.value("cookie").unwrap_or_default();
    let mut pairs = cookies.split("; ");
    let cookie = pairs.find_map(|pair| pair.strip_prefix("user="));
    let hint = asked.get("login_hint").map(String::as_str);
    let user = hint.or(cookie).unwrap_or("alice").replace('.', "-");
    let (Some(redirect_uri), Some(challenge)) =
        (asked.get("redirect_uri"), asked.get("code_challenge"))
    else {
        return refused(400, "invalid_request", "redirect_uri or code_challenge");
    };
    let Ok(mut to) = Url::parse(redirect_uri) else {
        return refused(400, "invalid_request", "redirect_uri");
    };
    let mut code = String::new();
    shared.state.send_modify(|state| {
        state.codes_issued += 1;
        code = format!("code{CANARY}{}", state.codes_issued);
        let entry = (user, challenge.clone(), redirect_uri.clone());
        state.codes.insert(code.clone(), entry);
    });
    let state = asked.get("state").map(String::as_str).unwrap_or_default();
    to.query_pairs_mut()
        .extend_pairs([("code", code.as_str()), ("state", state)]);
    Answer::with(302, &[("Location", to.as_str())], "")
}

fn token(shared: &Arc<Shared>, request: &Recorded) -> Answer {
    let form = match token_request(&request.body) {
        Ok(form) => form,
        Err(why) => return refused(400, "invalid_request", why),
    };
    let get = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    match get("grant_type") {
        "authorization_code" => redeem(shared, &form),
        "refresh_token" => refresh(shared, get("refresh_token"), process(request)),
        _ => refused(400, "unsupported_grant_type", "neither code nor refresh"),
    }
}

fn redeem(shared: &Shared, form: &BTreeMap<String, String>) -> Answer {
    let get = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let mut known = None;
    shared
        .state
        .send_modify(|state| known = state.codes.remove(get("code")));
    let verifier = digest(&SHA256, get("code_verifier").as_bytes());
    let Some((user, challenge, redirect_uri)) = known else {
        return refused(400, "invalid_grant", "unknown code");
    };
    if URL_SAFE_NO_PAD.encode(verifier) != challenge || get("redirect_uri") != redirect_uri {
        return refused(400, "invalid_grant", "verifier or redirect_uri");
    }
    let now = shared.clock.now();
    let mut body = String::new();
    shared.ledger.send_modify(|ledger| {
        let life = shared.schedule.life(&user, ledger.logins(&user), 0);
        let pair_id = ledger.open(&user, shared.behavior, life, now);
        body = response(ledger, pair_id, life);
    });
    Answer::with(200, &JSON, &body)
}

fn response(ledger: &Ledger, pair_id: PairId, life: Duration) -> String {
    json!({
        "token_type": "Bearer", "expires_in": life.as_secs(),
        "access_token": ledger.access_token(pair_id),
        "refresh_token": Ledger::refresh_token(pair_id),
    })
    .to_string()
}

fn refresh(shared: &Arc<Shared>, refresh_token: &str, process: Option<usize>) -> Answer {
    let now = shared.clock.now();
    let mut arrival = None;
    shared
        .ledger
        .send_modify(|ledger| arrival = ledger.begin_call(refresh_token, process, now));
    let Some(call) = arrival else {
        return refused(400, "invalid_grant", "unknown refresh token");
    };
    let instead = shared.state.borrow().instead.clone();
    if let Some(answer) = instead {
        shared
            .ledger
            .send_modify(|ledger| ledger.end_call(call.pair_id));
        return answer;
    }
    let outcome = shared.outcome(&call);
    if let CallOutcome::Faulty(fault) = outcome {
        shared
            .ledger
            .send_modify(|ledger| ledger.pair(call.pair_id).faults.push(fault));
    }
    match outcome {
        CallOutcome::Faulty(Fault::Slow) => {
            let (shared, time) = (Arc::clone(shared), shared.schedule.delay(&call));
            Answer::after(time, move || carry_out(&shared, &call, None))
        }
        CallOutcome::Faulty(fault) => carry_out(shared, &call, Some(fault)),
        CallOutcome::Normal => carry_out(shared, &call, None),
    }
}

/// Carries out the call as far as `fault` allows.
fn carry_out(shared: &Shared, call: &RefreshCall, fault: Option<Fault>) -> Answer {
    let now = shared.clock.now();
    let grace = match fault {
        Some(Fault::LostWithGrace | Fault::CutShort) => GRACE,
        _ => Duration::ZERO,
    };
    let mut body = Ok(String::new());
    shared.ledger.send_modify(|ledger| {
        ledger.end_call(call.pair_id);
        if fault.is_some_and(|fault| !fault.uses_up()) {
            return;
        }
        let life = shared
            .schedule
            .life(&call.user, call.login, call.generation + 1);
        body = ledger
            .refresh(call.pair_id, life, grace, now)
            .map(|pair_id| {
                let lost = fault.is_some() || ledger.has_nobody_waiting(call);
                let pair = ledger.pair(pair_id);
                pair.lost = lost;
                pair.issued_to = call.process;
                pair.issued_by = call.attempt;
                response(ledger, pair_id, life)
            });
    });
    match (body, fault) {
        (Err(InvalidGrant), None) => refused(400, "invalid_grant", "the refresh token is invalid"),
        (Err(InvalidGrant), Some(fault)) => fault.answer(""),
        (Ok(honest), Some(fault)) => fault.answer(&honest),
        (Ok(body), None) => Answer::with(200, &JSON, &body),
    }
}

fn user(shared: &Shared, request: &Recorded) -> Answer {
    let bearer = request.head.value("authorization").unwrap_or_default();
    let token = bearer.strip_prefix("Bearer ").unwrap_or_default();
    let bearer = shared.ledger.borrow().bearer(token, shared.clock.now());
    match bearer {
        Some(bearer) if bearer.status == TokenStatus::Valid => {
            let user = &bearer.user;
            let body = json!({
                "id": user, "sub": user, "name": user, "email": format!("{user}@example.com"),
            });
            Answer::with(200, &JSON, &body.to_string())
        }
        Some(_) | None => Answer::with(401, &JSON, "{}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::raw::exchange;
    use crate::support::torture::app::TokenApp;
    use crate::support::torture::ledger::End;

    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

    struct Fixture {
        provider: TortureProvider,
        app: TokenApp,
        shared_ledger: SharedLedger,
    }

    impl Fixture {
        /// Uses a seed with which the first call for `user` has `fault`.
        async fn failing(user: &str, fault: Option<Fault>) -> Self {
            let call = RefreshCall {
                pair_id: PairId { family: 0, pair: 0 },
                user: user.to_owned(),
                login: 0,
                generation: 0,
                attempt: 0,
                process: None,
                begun_at: Clock::system().now(),
            };
            let percent = if fault.is_some() { 100 } else { 0 };
            let mut schedules = (0..).map(|seed| Schedule::new(seed, percent, &[60]));
            let wanted = fault.map_or(CallOutcome::Normal, CallOutcome::Faulty);
            let schedule = schedules.find(|schedule| schedule.outcome(&call) == wanted);
            let (shared_ledger, clock) = (Ledger::shared_ledger(), Clock::system());
            let behavior = ProviderBehavior {
                server: "server",
                kills_access_tokens: true,
                grace: Duration::ZERO,
            };
            let provider =
                TortureProvider::start(&shared_ledger, behavior, schedule.unwrap(), &clock).await;
            let app = TokenApp::start(&shared_ledger, &clock).await;
            Self {
                provider,
                app,
                shared_ledger,
            }
        }

        async fn ask(&self, form: &str) -> (u16, serde_json::Value) {
            let length = form.len();
            let head = format!("POST /oauth/token HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
            let address = self.provider.server.address();
            let outcome = exchange(address, format!("{head}{form}").as_bytes(), 1).await;
            let Some(response) = outcome.responses.first() else {
                return (0, serde_json::Value::Null);
            };
            let body = serde_json::from_str(&response.text()).unwrap_or_default();
            (response.status(), body)
        }

        async fn refresh(&self, token: &serde_json::Value) -> (u16, serde_json::Value) {
            let token = token["refresh_token"].as_str().unwrap();
            self.ask(&format!("grant_type=refresh_token&refresh_token={token}"))
                .await
        }

        async fn sign_in(&self, user: &str) -> serde_json::Value {
            let target = format!(
                "GET /oauth/authorize?login_hint={user}&state=s&code_challenge={CHALLENGE}\
                 &redirect_uri=http://localhost/cb HTTP/1.1\r\n\r\n"
            );
            let answer = exchange(self.provider.server.address(), target.as_bytes(), 1).await;
            let location = answer.responses[0].head.value("location").unwrap();
            let back = Url::parse(&location).unwrap();
            let code = parameters(back.query().unwrap()).remove("code").unwrap();
            let form = format!(
                "grant_type=authorization_code&code={code}&code_verifier={VERIFIER}\
                 &redirect_uri=http://localhost/cb"
            );
            let (status, body) = self.ask(&form).await;
            assert_eq!((status, self.ask(&form).await.0), (200, 400));
            body
        }

        /// The app's answer to an access token.
        async fn shown(&self, token: &serde_json::Value) -> String {
            let token = token["access_token"].as_str().unwrap();
            let request = format!("GET /slow HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n");
            let outcome = exchange(self.app.address(), request.as_bytes(), 1).await;
            outcome.responses[0].text()
        }
    }

    #[tokio::test]
    async fn tokens_are_rotated_and_old_ones_die() {
        let fixture = Fixture::failing("carol", None).await;
        let first = fixture.sign_in("carol").await;
        assert!(fixture.shown(&first).await.contains("\"user\":\"carol\""));
        let (status, second) = fixture.refresh(&first).await;
        assert_eq!((status, &second["expires_in"]), (200, &json!(60)));
        assert!(fixture.shown(&first).await.contains("killed token"));
        assert!(fixture.shown(&second).await.contains("\"pair\":1"));
        assert_eq!(fixture.refresh(&first).await.1["error"], "invalid_grant");
        assert_eq!(fixture.refresh(&second).await.0, 400);
        assert_eq!(
            fixture.shared_ledger.borrow().families()[0].ended,
            Some(End::Reuse)
        );
    }

    #[tokio::test]
    async fn each_fault_does_what_it_says() {
        for fault in Fault::ALL {
            let fixture = Fixture::failing("carol", Some(fault)).await;
            let first = fixture.sign_in("carol").await;
            let (_status, body) = fixture.refresh(&first).await;
            let arrived = body["refresh_token"].is_string();
            assert_eq!(arrived, fault == Fault::Slow, "{}", fault.name());
            let used = fixture.shared_ledger.borrow().families()[0].refreshes();
            assert_eq!(used == 1, fault.uses_up() || arrived, "{}", fault.name());
            fixture.provider.stop_faults();
            if !arrived {
                let (status, body) = fixture.refresh(&first).await;
                let saved = status == 200;
                assert_eq!(saved, fault != Fault::Lost, "{}: {body}", fault.name());
            }
            let shared_ledger = fixture.shared_ledger.borrow();
            let lost = (fault == Fault::Lost).then_some(End::LostAnswer);
            assert_eq!(shared_ledger.families()[0].ended, lost, "{}", fault.name());
            assert_eq!(shared_ledger.families()[0].pairs[0].faults, [fault]);
        }
    }
}
