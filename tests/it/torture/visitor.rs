//! Somebody with a session, several requests at once, and a good memory of who they are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::{RwLock, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::browser::Browser;
use crate::support::raw::{Raw, Response};
use crate::support::scene::{ORIGIN, SESSION, url};
use crate::support::torture::fault::Schedule;
use crate::support::torture::ledger::{Book, Habits};

/// How many requests a visitor sends at once.
const AT_ONCE: usize = 3;

/// How often a visitor tries to sign in.
const LOGIN_ATTEMPTS: usize = 20;

/// The longest time between two such bursts, and the shortest.
const LONGEST_PAUSE: u64 = 2000;
const SHORTEST_PAUSE: u64 = 100;

/// How long a visitor waits for an answer: longer than the gateway waits for a token.
const PATIENCE: Duration = Duration::from_mins(3);

/// What all visitors share.
pub(super) struct Site {
    pub(super) gateway: SocketAddr,
    pub(super) providers: Vec<String>,
    pub(super) book: Book,
    pub(super) schedule: Schedule,
    /// How often a server was gone.
    pub(super) outages: AtomicUsize,
    /// Held while somebody signs in.
    pub(super) signing_in: RwLock<()>,
    pub(super) at_the_door: Semaphore,
    pub(super) events: mpsc::UnboundedSender<Event>,
}

/// What a visitor has to tell.
#[derive(Debug)]
pub(super) enum Event {
    Served,
    /// Somebody saw what is not theirs.
    Crossed(String),
    /// A request was answered with an error.
    Failed(String),
    /// The session is over.
    SignedOut(String),
    /// A request of a session that nobody could have saved.
    Unavoidable,
}

pub(super) struct Visitor {
    site: Arc<Site>,
    user: String,
    /// The server that the session is of: the first segment of its paths.
    server: &'static str,
    provider: String,
    cookie: String,
    /// Family and pair of the newest token that the app was seen to have.
    newest: Option<(usize, usize)>,
    lines: Vec<Option<Raw>>,
    bursts: usize,
}

/// What came of a burst.
enum After {
    SignedIn,
    SignedOut,
}

impl Visitor {
    pub(super) fn new(site: Arc<Site>, number: usize, habits: Habits) -> Self {
        let provider = site.providers[number % site.providers.len()].clone();
        Self {
            site,
            user: format!("user{number:04}"),
            server: habits.server,
            provider,
            cookie: String::new(),
            newest: None,
            lines: (0..AT_ONCE).map(|_| None).collect(),
            bursts: 0,
        }
    }

    fn tell(&self, event: Event) {
        drop(self.site.events.send(event));
    }

    /// Comes again and again until it is over, and then until there is one more new token: nothing
    /// is due when the last request is answered.
    pub(super) async fn visit(mut self, mut over: watch::Receiver<bool>) {
        self.sign_in().await;
        let mut last = None;
        loop {
            if let After::SignedOut = self.burst().await {
                self.sign_in().await;
            }
            if *over.borrow() {
                if last.is_none() {
                    last = Some(self.newest);
                } else if last != Some(self.newest) {
                    return;
                }
            }
            let what = format!("pause {} {}", self.user, self.bursts);
            let pause = self.site.schedule.number(&what) % (LONGEST_PAUSE - SHORTEST_PAUSE);
            let pause = Duration::from_millis(SHORTEST_PAUSE + pause);
            if last.is_some() {
                sleep(pause).await;
            } else {
                drop(timeout(pause, over.wait_for(|over| *over)).await);
            }
        }
    }

    async fn sign_in(&mut self) {
        let site = Arc::clone(&self.site);
        let _providers_are_there = site.signing_in.read().await;
        let _place = site.at_the_door.acquire().await.unwrap();
        let mut browser = Browser::new();
        for attempt in 1..=LOGIN_ATTEMPTS {
            browser = Browser::new().leading(ORIGIN, site.gateway);
            let cookie = format!("user={}; Path=/", self.user);
            browser.plant(&self.provider, &cookie);
            let page = browser
                .visit(&url(&format!("/{}/start", self.server)))
                .await;
            if page.field("x-app") == Some("served") {
                break;
            }
            // A provider that wants everybody to come later means those, too, who sign in.
            if page.status != 503 || attempt == LOGIN_ATTEMPTS {
                self.tell(Event::Failed(format!("login: {}", page.describe())));
            }
            sleep(Duration::from_millis(500)).await;
        }
        let session = browser.cookie(ORIGIN, SESSION).unwrap_or_default();
        self.cookie = format!("{SESSION}={session}");
        self.newest = None;
    }

    /// The requests of one burst: a script's, a person's, one that takes long, one with a body.
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

    async fn burst(&mut self) -> After {
        let mut asking = JoinSet::new();
        for number in 0..AT_ONCE {
            let (line, address) = (self.lines[number].take(), self.site.gateway);
            let (method, request) = self.request(number);
            asking.spawn(async move {
                let mut line = match line {
                    Some(line) => line,
                    None => Raw::connect(address).await.waiting_for(PATIENCE),
                };
                line.forget();
                line.send(request).await;
                let response = line.response(method).await;
                (number, line, response)
            });
        }
        self.bursts += 1;
        let mut after = After::SignedIn;
        while let Some(answered) = asking.join_next().await {
            let (number, line, response) = answered.unwrap();
            let closes = response.as_ref().is_none_or(|response| {
                let connection = response.head.value("connection").unwrap_or_default();
                connection.eq_ignore_ascii_case("close")
            });
            if !closes {
                self.lines[number] = Some(line);
            }
            if let After::SignedOut = self.judge(response) {
                after = After::SignedOut;
            }
        }
        after
    }

    fn judge(&mut self, response: Option<Response>) -> After {
        let served = |response: &Response| {
            let by_the_app = response.head.value("x-app").as_deref() == Some("served");
            by_the_app && response.status() == 200
        };
        let doomed = self.newest.is_some_and(|(family, _pair)| {
            let ledger = self.site.book.borrow();
            ledger.families()[family].is_doomed()
        });
        let Some(response) = response else {
            self.tell(Event::Failed(format!("{}: no answer at all", self.user)));
            return After::SignedIn;
        };
        if served(&response) {
            self.recognise(&response);
            return After::SignedIn;
        }
        let location = response.head.value("location").unwrap_or_default();
        let by_the_app = response.head.value("x-app").is_some();
        let signed_out = !by_the_app && (response.status() == 401 || !location.is_empty());
        let what = format!(
            "{} of {:?}: {} {location} {}",
            self.user,
            self.newest,
            response.head.start_line(),
            response.text()
        );
        self.tell(match (doomed, signed_out) {
            (true, _) => Event::Unavoidable,
            (false, true) => Event::SignedOut(what),
            (false, false) => Event::Failed(what),
        });
        if signed_out {
            After::SignedOut
        } else {
            After::SignedIn
        }
    }

    /// Looks whether the app served this visitor, and this session.
    fn recognise(&mut self, response: &Response) {
        let body: serde_json::Value = serde_json::from_slice(&response.body.bytes).unwrap();
        let number = |name: &str| usize::try_from(body[name].as_u64().unwrap()).unwrap();
        let (family, pair) = (number("family"), number("pair"));
        let same_session = self.newest.is_none_or(|(known, _pair)| known == family);
        let mine = body["user"] == self.user.as_str() && body["told"] == self.user.as_str();
        if !mine || !same_session {
            let what = format!("{} of {:?} saw {body}", self.user, self.newest);
            self.tell(Event::Crossed(what));
            return;
        }
        self.tell(Event::Served);
        let newer = self.newest.is_none_or(|(_family, known)| known < pair);
        if newer {
            self.newest = Some((family, pair));
        }
    }
}
