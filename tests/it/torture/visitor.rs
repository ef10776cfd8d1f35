//! A user with a session who sends several requests at once and checks that every answer is for
//! this user.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use sidegate::clock::Clock;
use tokio::sync::{RwLock, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::replica::{Connections, Replica};
use crate::support::browser::Browser;
use crate::support::raw::Response;
use crate::support::scene::{ORIGIN, SESSION, url};
use crate::support::torture::fault::Schedule;
use crate::support::torture::ledger::{ProviderBehavior, SharedLedger};

/// The number of simultaneous requests of a visitor.
const AT_ONCE: usize = 3;

/// The number of attempts to sign in.
const LOGIN_ATTEMPTS: usize = 20;

/// The longest and the shortest time between two bursts of requests, in milliseconds.
const LONGEST_PAUSE: u64 = 2000;
const SHORTEST_PAUSE: u64 = 100;

/// The data that all visitors share.
pub(super) struct Setup {
    pub(super) replicas: Arc<[Replica]>,
    pub(super) providers: Vec<String>,
    pub(super) shared_ledger: SharedLedger,
    pub(super) schedule: Schedule,
    /// The number of outages so far.
    pub(super) outages: AtomicUsize,
    /// The time in milliseconds until which a gateway may not reach the store.
    pub(super) store_trouble_until: AtomicU64,
    /// Locked for reading while a visitor signs in.
    pub(super) signing_in: RwLock<()>,
    pub(super) login_slots: Semaphore,
    pub(super) events: mpsc::UnboundedSender<Event>,
}

/// The visitors of a run.
pub(super) struct Visitors {
    pub(super) setup: Arc<Setup>,
    pub(super) tasks: JoinSet<()>,
    /// The results of all requests.
    pub(super) events: mpsc::UnboundedReceiver<Event>,
    /// With the value true, the visitors finish.
    pub(super) finished: watch::Sender<bool>,
}

impl Visitors {
    /// Starts `number` visitors, which use the servers of `behaviors` in turn.
    pub(super) fn start(
        replicas: Arc<[Replica]>,
        providers: Vec<String>,
        (shared_ledger, schedule): (&SharedLedger, &Schedule),
        (number, behaviors): (usize, &[ProviderBehavior]),
    ) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let (finished, _) = watch::channel(false);
        let setup = Arc::new(Setup {
            replicas,
            providers,
            shared_ledger: Arc::clone(shared_ledger),
            schedule: schedule.clone(),
            outages: AtomicUsize::new(0),
            store_trouble_until: AtomicU64::new(0),
            signing_in: RwLock::new(()),
            login_slots: Semaphore::new(16),
            events: sender,
        });
        let mut tasks = JoinSet::new();
        for number in 0..number {
            let behavior = behaviors[number % behaviors.len()];
            let visitor = Visitor::new(Arc::clone(&setup), number, behavior);
            tasks.spawn(visitor.visit(finished.subscribe()));
        }
        Self {
            setup,
            tasks,
            events,
            finished,
        }
    }
}

/// The result of a request.
#[derive(Debug)]
pub(super) enum Event {
    Served,
    /// A visitor got another user's data.
    Crossed(String),
    /// A request was answered with an error.
    Failed(String),
    /// The session ended.
    SignedOut(String),
    /// A failed request of a session that no client could have kept.
    Unavoidable,
    /// Requests without an answer, because their process was killed or stopped. Each request was
    /// sent again to another process.
    Interrupted(usize),
    /// A request with the answer that the store is away and that the client has to try again.
    Postponed,
}

struct Visitor {
    setup: Arc<Setup>,
    user: String,
    /// The server of the session. The name of the server is the first segment of the server's
    /// paths.
    server: &'static str,
    provider: String,
    cookie: String,
    /// Family and pair of the newest token that reached the app.
    newest: Option<(usize, usize)>,
    connections: Vec<Connections>,
    bursts: usize,
}

/// The state of the session after a burst.
enum BurstOutcome {
    SignedIn,
    SignedOut,
}

impl Visitor {
    fn new(setup: Arc<Setup>, number: usize, behavior: ProviderBehavior) -> Self {
        let provider = setup.providers[number % setup.providers.len()].clone();
        Self {
            setup,
            user: format!("user{number:04}"),
            server: behavior.server,
            provider,
            cookie: String::new(),
            newest: None,
            connections: (0..AT_ONCE).map(|_| Connections::default()).collect(),
            bursts: 0,
        }
    }

    fn send_event(&self, event: Event) {
        drop(self.setup.events.send(event));
    }

    /// Sends bursts until the run is finished, and then until there is one more new token. After
    /// the new token, no refresh is due when the last request is answered.
    async fn visit(mut self, mut finished: watch::Receiver<bool>) {
        self.sign_in().await;
        let mut last = None;
        loop {
            if let BurstOutcome::SignedOut = self.burst().await {
                self.sign_in().await;
            }
            if *finished.borrow() {
                if last.is_none() {
                    last = Some(self.newest);
                } else if last != Some(self.newest) {
                    return;
                }
            }
            let what = format!("pause {} {}", self.user, self.bursts);
            let pause = self.setup.schedule.number(&what) % (LONGEST_PAUSE - SHORTEST_PAUSE);
            let pause = Duration::from_millis(SHORTEST_PAUSE + pause);
            if last.is_some() {
                sleep(pause).await;
            } else {
                drop(timeout(pause, finished.wait_for(|finished| *finished)).await);
            }
        }
    }

    async fn sign_in(&mut self) {
        let setup = Arc::clone(&self.setup);
        let _providers_are_there = setup.signing_in.read().await;
        let _place = setup.login_slots.acquire().await.unwrap();
        let mut browser = Browser::new();
        for attempt in 1..=LOGIN_ATTEMPTS {
            let start = self.any_replica(&format!("sign-in {attempt}"));
            let gateway = setup.replicas[start].address();
            browser = Browser::new().leading(ORIGIN, gateway);
            let cookie = format!("user={}; Path=/", self.user);
            browser.plant(&self.provider, &cookie);
            let page = browser
                .visit(&url(&format!("/{}/start", self.server)))
                .await;
            if page.field("x-app") == Some("served") {
                break;
            }
            // If the provider answers 503, new logins also have to wait.
            if page.status != 503 || attempt == LOGIN_ATTEMPTS {
                self.send_event(Event::Failed(format!("login: {}", page.describe())));
            }
            sleep(Duration::from_millis(500)).await;
        }
        let session = browser.cookie(ORIGIN, SESSION).unwrap_or_default();
        self.cookie = format!("{SESSION}={session}");
        self.newest = None;
    }

    /// A process, chosen by the seed.
    fn any_replica(&self, what: &str) -> usize {
        let what = format!("replica {} {} {what}", self.user, self.bursts);
        let number = usize::try_from(self.setup.schedule.number(&what) >> 1).unwrap();
        number % self.setup.replicas.len()
    }

    /// The requests of a burst: a request of a script, a navigation, a slow request, and a request
    /// with a body.
    fn request(&self, number: usize) -> (&'static str, String) {
        let kind = (self.bursts + number) % 4;
        let method = if kind == 3 { "POST" } else { "GET" };
        let path = if kind == 2 { "slow" } else { "page" };
        let mode = if kind == 1 {
            "Accept: text/html\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n"
        } else {
            "Accept: application/json\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n"
        };
        let body = if kind == 3 {
            "Origin: http://localhost\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
        } else {
            "\r\n"
        };
        let head = format!(
            "{method} /{}/{path} HTTP/1.1\r\nHost: localhost\r\nCookie: {}\r\n\
             Sec-Fetch-Site: same-origin\r\n{mode}{body}",
            self.server, self.cookie
        );
        (method, head)
    }

    async fn burst(&mut self) -> BurstOutcome {
        let mut asking = JoinSet::new();
        for number in 0..AT_ONCE {
            let mut connections = std::mem::take(&mut self.connections[number]);
            let replicas = Arc::clone(&self.setup.replicas);
            let start = self.any_replica(&format!("burst {number}"));
            let (method, request) = self.request(number);
            asking.spawn(async move {
                let asked = connections.ask(&replicas, start, (method, &request)).await;
                (number, connections, asked)
            });
        }
        self.bursts += 1;
        let mut after = BurstOutcome::SignedIn;
        while let Some(answered) = asking.join_next().await {
            let (number, connections, asked) = answered.unwrap();
            self.connections[number] = connections;
            if asked.interrupted > 0 {
                self.send_event(Event::Interrupted(asked.interrupted));
            }
            let response = asked.response;
            if let BurstOutcome::SignedOut = self.classify(response) {
                after = BurstOutcome::SignedOut;
            }
        }
        after
    }

    fn classify(&mut self, response: Option<Response>) -> BurstOutcome {
        let served = |response: &Response| {
            let by_the_app = response.head.value("x-app").as_deref() == Some("served");
            by_the_app && response.status() == 200
        };
        let unrecoverable = self.newest.is_some_and(|(family, _pair)| {
            let ledger = self.setup.shared_ledger.borrow();
            ledger.families()[family].is_unrecoverable()
        });
        let Some(response) = response else {
            self.send_event(Event::Failed(format!("{}: no answer at all", self.user)));
            return BurstOutcome::SignedIn;
        };
        if served(&response) {
            self.check_served(&response);
            return BurstOutcome::SignedIn;
        }
        if self.is_postponed(&response) {
            self.send_event(Event::Postponed);
            return BurstOutcome::SignedIn;
        }
        let location = response.head.value("location").unwrap_or_default();
        let by_the_app = response.head.value("x-app").is_some();
        let signed_out = !by_the_app && (response.status() == 401 || !location.is_empty());
        let what = format!(
            "{} {} of {:?}: {} {location} {}",
            Clock::system().now().as_millis(),
            self.user,
            self.newest,
            response.head.start_line(),
            response.text()
        );
        self.send_event(match (unrecoverable, signed_out) {
            (true, _) => Event::Unavoidable,
            (false, true) => Event::SignedOut(what),
            (false, false) => Event::Failed(what),
        });
        if signed_out {
            BurstOutcome::SignedOut
        } else {
            BurstOutcome::SignedIn
        }
    }

    /// Whether the answer asks the client to try again, because a store that the test has made
    /// unreachable is away. The page tries again by itself.
    fn is_postponed(&self, response: &Response) -> bool {
        let until = self.setup.store_trouble_until.load(Ordering::SeqCst);
        Clock::system().now().as_millis() < until
            && response.status() == 503
            && response.head.value("retry-after").is_some()
            && response.text().contains("session_store_unavailable")
    }

    /// Checks that the app's answer is for this user and this session.
    fn check_served(&mut self, response: &Response) {
        let body: serde_json::Value = serde_json::from_slice(&response.body.bytes).unwrap();
        let number = |name: &str| usize::try_from(body[name].as_u64().unwrap()).unwrap();
        let (family, pair) = (number("family"), number("pair"));
        let same_session = self.newest.is_none_or(|(known, _pair)| known == family);
        let own_user =
            body["user"] == self.user.as_str() && body["asserted_user"] == self.user.as_str();
        if !own_user || !same_session {
            let what = format!("{} of {:?} saw {body}", self.user, self.newest);
            self.send_event(Event::Crossed(what));
            return;
        }
        self.send_event(Event::Served);
        let newer = self.newest.is_none_or(|(_family, known)| known < pair);
        if newer {
            self.newest = Some((family, pair));
        }
    }
}
