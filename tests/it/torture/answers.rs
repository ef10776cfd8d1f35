//! Each answer that a refresh may meet, and what becomes of the session: the rows of
//! `tests/data/refresh_answers.txt`.

use std::time::Duration;

use sidegate::clock::Clock;
use tokio::time::timeout;

use crate::support::browser::{Browser, Page};
use crate::support::gateway::{Gateway, Settings};
use crate::support::scene::{ORIGIN, url};
use crate::support::torture::app::TokenApp;
use crate::support::torture::fault::Schedule;
use crate::support::torture::ledger::{Book, Habits, Ledger};
use crate::support::torture::server::TortureProvider;
use crate::support::upstream::Answer;
use crate::support::wire::PATIENCE;

const ROWS: &str = include_str!("../../data/refresh_answers.txt");

/// How long a token lives, and how long before its end each has been due.
const LIFE: u64 = 3600;
const DUE: u64 = 59;

struct Row {
    profile: &'static str,
    answer: Answer,
    outcome: &'static str,
}

fn rows() -> impl Iterator<Item = (&'static str, Row)> {
    let lines = ROWS.lines();
    let rows = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    rows.map(|line| (line, row(line)))
}

fn row(line: &'static str) -> Row {
    let columns: Vec<_> = line.split('\t').collect();
    let [profile, status, kind, body, outcome] = columns[..] else {
        panic!("not five columns: {line}");
    };
    assert!(matches!(outcome, "ends" | "kept"), "{line}");
    let body = if body == "-" { "" } else { body };
    let mut fields = Vec::new();
    if kind != "-" {
        fields.push(("Content-Type", kind));
    }
    if status == "302" {
        fields.push(("Location", "/login"));
    }
    let answer = match status {
        "closed" => Answer::silence().then_close(),
        "reset" => Answer::silence().then_reset(),
        status => Answer::with(status.parse().unwrap(), &fields, body),
    };
    Row {
        profile,
        answer,
        outcome,
    }
}

/// A gateway and its provider; they look at one clock.
struct Scene {
    gateway: Gateway,
    provider: TortureProvider,
    book: Book,
    _app: TokenApp,
}

impl Scene {
    async fn new(profile: &str) -> Self {
        let clock = Clock::manual(Clock::system().now());
        let book = Ledger::book();
        let habits = Habits {
            server: "main",
            kills_access_tokens: false,
            grace: Duration::ZERO,
        };
        let schedule = Schedule::new(0, 0, &[LIFE]);
        let provider = TortureProvider::start(&book, habits, schedule, &clock).await;
        let app = TokenApp::start(&book, &clock).await;
        let settings = Settings::new(ORIGIN, "http://unused.test", &app.url());
        let secret = settings.file("secret", "s3cret\n");
        let section = provider.section(profile, &secret);
        let gateway = Gateway::with_clock(settings.provider(&section), clock);
        Self {
            gateway,
            provider,
            book,
            _app: app,
        }
    }

    async fn signed_in(&self) -> Browser {
        let browser = Browser::new().leading(ORIGIN, self.gateway.address());
        served(&browser.visit(&url("/page")).await, 0);
        browser
    }

    /// Waits until the book has `what` to say of the newest family.
    async fn until(&self, what: impl Fn(&Ledger) -> bool) -> bool {
        let mut changes = self.book.subscribe();
        let waiting = changes.wait_for(|ledger| what(ledger));
        timeout(PATIENCE, waiting).await.is_ok()
    }

    /// Becomes due and meets the answer.
    async fn meet(&self, browser: &Browser, row: Row) {
        self.provider.answer_refreshes(Some(row.answer));
        self.gateway.advance(Duration::from_secs(LIFE - DUE));
        served(&browser.fetch(&url("/page")).await, 0);
        let called = |ledger: &Ledger| !ledger.families().last().unwrap().pairs[0].calls.is_empty();
        assert!(self.until(called).await, "nothing was refreshed");
        self.provider.answer_refreshes(None);
    }

    /// The old token serves until there is a new one, which comes before the old one is over.
    async fn is_kept(&self, browser: &Browser) {
        let refreshed = |ledger: &Ledger| ledger.families().last().unwrap().refreshes() == 1;
        for _ in 0..DUE / 2 - 1 {
            self.gateway.advance(Duration::from_secs(2));
            assert_eq!(browser.fetch(&url("/page")).await.status, 200);
            let mut changes = self.book.subscribe();
            // The next request may find that the time has come; this one may have been early.
            let soon = timeout(Duration::from_millis(50), changes.wait_for(refreshed));
            if soon.await.is_ok() {
                break;
            }
        }
        assert!(refreshed(&self.book.borrow()), "never refreshed again");
        self.gateway.advance(Duration::from_secs(DUE));
        served(&browser.fetch(&url("/page")).await, 1);
    }

    /// The session is over soon, and the next navigation signs in.
    async fn is_over(&self, browser: &Browser) {
        let over = async {
            while browser.fetch(&url("/page")).await.status != 401 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, over).await.expect("the session lives on");
        served(&browser.visit(&url("/page")).await, 0);
    }
}

/// Fails unless the app served it with this pair of tokens.
#[track_caller]
fn served(page: &Page, pair: u64) {
    assert_eq!(page.field("x-app"), Some("served"), "{}", page.describe());
    assert_eq!(page.json()["pair"], pair, "{}", page.describe());
}

#[tokio::test]
async fn g_07_g_08_f_06_each_answer_to_a_refresh_ends_the_session_or_keeps_it() {
    for profile in ["oauth2", "laravel-passport-12"] {
        let scene = Scene::new(profile).await;
        for (line, row) in rows().filter(|(_line, row)| row.profile == profile) {
            println!("{line}");
            let browser = scene.signed_in().await;
            let outcome = row.outcome;
            scene.meet(&browser, row).await;
            match outcome {
                "kept" => scene.is_kept(&browser).await,
                _ => scene.is_over(&browser).await,
            }
        }
    }
}

#[test]
fn both_outcomes_are_in_the_table() {
    let count = |outcome| rows().filter(|(_line, row)| row.outcome == outcome).count();
    assert!(count("ends") >= 8 && count("kept") >= 25);
}
