//! Each possible answer to a refresh, and its effect on the session: the rows of
//! `tests/data/refresh_answers.txt`, tested with the whole gateway.

use std::collections::BTreeSet;
use std::time::Duration;

use sidegate::clock::Clock;
use tokio::time::timeout;

use crate::support::browser::{Browser, Page};
use crate::support::gateway::{Gateway, Settings};
use crate::support::scene::{ORIGIN, url};
use crate::support::torture::app::TokenApp;
use crate::support::torture::fault::Schedule;
use crate::support::torture::ledger::{Ledger, ProviderBehavior, SharedLedger};
use crate::support::torture::server::TortureProvider;
use crate::support::upstream::Answer;
use crate::support::wire::TEST_TIMEOUT;

const ROWS: &str = include_str!("../../data/refresh_answers.txt");

/// The lifetime of a token in seconds, and the remaining time at which a token is certainly due for
/// a refresh.
const LIFE: u64 = 3600;
const DUE: u64 = 59;

/// The effect on a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SessionOutcome {
    /// The session ends, and the next request starts a login.
    Ends,
    /// The old token is used while it is valid, and a later refresh succeeds.
    Kept,
}

struct Row {
    line: &'static str,
    profile: &'static str,
    answer: Answer,
    outcome: SessionOutcome,
}

fn rows() -> Vec<Row> {
    let lines = ROWS.lines();
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let cut = |line, answer| Row {
        line,
        profile: "oidc",
        answer,
        outcome: SessionOutcome::Kept,
    };
    let rows = lines.map(row);
    // The profile `github` reads email addresses from a second endpoint.
    let mut rows: Vec<_> = rows.filter(|row| row.profile != "github").collect();
    rows.push(cut("closed", Answer::silence().then_close()));
    rows.push(cut("reset", Answer::silence().then_reset()));
    rows
}

fn row(line: &'static str) -> Row {
    let columns: Vec<_> = line.split('\t').collect();
    let [verdict, _reason, profile, status, fields, body] = columns[..] else {
        panic!("not six columns: {line}");
    };
    let outcome = match verdict {
        "fatal" => SessionOutcome::Ends,
        "ours" | "passing" => SessionOutcome::Kept,
        other => panic!("no verdict {other} in {line}"),
    };
    let fields = fields
        .split("; ")
        .filter_map(|field| field.split_once(": "));
    let fields: Vec<_> = fields
        .filter(|(name, _value)| *name != "content-length")
        .collect();
    let body = if body == "-" { "" } else { body };
    Row {
        line,
        profile,
        answer: Answer::with(status.parse().unwrap(), &fields, body),
        outcome,
    }
}

/// A gateway and its provider, with one clock.
struct Scene {
    gateway: Gateway,
    provider: TortureProvider,
    shared_ledger: SharedLedger,
    _app: TokenApp,
}

impl Scene {
    async fn new(profile: &str) -> Self {
        let clock = Clock::manual(Clock::system().now());
        let shared_ledger = Ledger::shared_ledger();
        let behavior = ProviderBehavior {
            server: "main",
            kills_access_tokens: false,
            grace: Duration::ZERO,
        };
        let schedule = Schedule::new(0, 0, &[LIFE]);
        let provider = TortureProvider::start(&shared_ledger, behavior, schedule, &clock).await;
        let app = TokenApp::start(&shared_ledger, &clock).await;
        let settings = Settings::new(ORIGIN, "http://unused.test", &app.url());
        let secret = settings.file("secret", "s3cret\n");
        let section = provider.section(profile, &secret);
        let settings = settings.provider(&section).with(
            "[session]\nrefresh_wait_secs = 1\n[[routes]]\naccess.any_of.email_domains = \
             [\"example.com\"]\n",
        );
        let gateway = Gateway::with_clock(settings, clock);
        Self {
            gateway,
            provider,
            shared_ledger,
            _app: app,
        }
    }

    async fn signed_in(&self) -> Browser {
        let browser = Browser::new().leading(ORIGIN, self.gateway.address());
        served(&browser.visit(&url("/page")).await, 0);
        browser
    }

    /// Makes the token due for a refresh, which gets this answer.
    async fn refresh_with(&self, browser: &Browser, answer: Answer) {
        self.provider.answer_refreshes(Some(answer));
        self.gateway.advance(Duration::from_secs(LIFE - DUE));
        served(&browser.fetch(&url("/page")).await, 0);
        let mut changes = self.shared_ledger.subscribe();
        let called =
            changes.wait_for(|ledger| !ledger.families().last().unwrap().pairs[0].calls.is_empty());
        assert!(timeout(TEST_TIMEOUT, called).await.is_ok(), "no refresh");
        self.provider.answer_refreshes(None);
    }

    /// Fails unless the old token is used while it is valid, and a later refresh succeeds. Between
    /// the end of the old token and the refresh, a request may get 503.
    async fn assert_kept(&self, browser: &Browser) {
        let refreshed = |ledger: &Ledger| ledger.families().last().unwrap().refreshes() == 1;
        for second in 1..200 {
            self.gateway.advance(Duration::from_secs(1));
            let page = browser.fetch(&url("/page")).await;
            if second >= DUE && page.status == 503 {
                assert!(page.field("retry-after").is_some(), "{}", page.describe());
            } else {
                assert_eq!(page.field("x-app"), Some("served"), "{}", page.describe());
            }
            if refreshed(&self.shared_ledger.borrow()) {
                break;
            }
        }
        let mut changes = self.shared_ledger.subscribe();
        let again = timeout(TEST_TIMEOUT, changes.wait_for(refreshed))
            .await
            .is_ok();
        assert!(again, "never refreshed again");
        self.gateway.advance(Duration::from_secs(DUE));
        served(&browser.fetch(&url("/page")).await, 1);
    }

    /// Fails unless the session ends soon and the next navigation signs in.
    async fn assert_ended(&self, browser: &Browser) {
        let over = async {
            while browser.fetch(&url("/page")).await.status != 401 {
                tokio::task::yield_now().await;
            }
        };
        timeout(TEST_TIMEOUT, over)
            .await
            .expect("the session continues");
        served(&browser.visit(&url("/page")).await, 0);
    }
}

/// Fails unless the app answered, with this pair of tokens.
#[track_caller]
fn served(page: &Page, pair: u64) {
    assert_eq!(page.field("x-app"), Some("served"), "{}", page.describe());
    assert_eq!(page.json()["pair"], pair, "{}", page.describe());
}

#[tokio::test]
async fn g_07_g_08_f_06_each_answer_to_a_refresh_ends_the_session_or_keeps_it() {
    let rows = rows();
    let profiles: BTreeSet<_> = rows.iter().map(|row| row.profile).collect();
    for profile in profiles {
        let scene = Scene::new(profile).await;
        for row in rows.iter().filter(|row| row.profile == profile) {
            println!("{}", row.line);
            let browser = scene.signed_in().await;
            scene.refresh_with(&browser, row.answer.clone()).await;
            match row.outcome {
                SessionOutcome::Ends => scene.assert_ended(&browser).await,
                SessionOutcome::Kept => scene.assert_kept(&browser).await,
            }
        }
    }
}

#[test]
fn every_outcome_is_in_the_table() {
    let rows = rows();
    let count = |outcome| rows.iter().filter(|row| row.outcome == outcome).count();
    assert!(count(SessionOutcome::Ends) >= 15 && count(SessionOutcome::Kept) >= 40);
}
