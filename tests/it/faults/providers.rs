//! Providers that fail: down, slow, with errors or with garbage. Nobody is signed out. A user whose
//! token has expired gets 503 until the provider works again.

use std::time::Duration;

use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{Plan, Row, run_row};
use crate::support::provider::{Endpoint, Hold, StandIn};
use crate::support::raw::Raw;
use crate::support::scene::{SESSION, refusal};

/// The lifetime of a token in seconds.
const LIFETIME: u64 = 2;

/// The time between two requests of a user.
const PAUSE: Duration = Duration::from_millis(50);

/// The same during a long outage.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// The longest time until a user notices a fault or its end. After several failures, the gateway
/// sends no refresh for up to a minute.
const NOTICE: Duration = Duration::from_secs(90);

/// The settings of a row in which the provider fails.
pub(super) fn plan() -> Plan {
    Plan {
        rest: "[session]\nrefresh_wait_secs = 1\n".to_owned(),
        provider: "deadline_secs = 1\n",
        ..Plan::default()
    }
}

/// A user whose tokens soon expire.
pub(super) struct ShortLived {
    cookie: String,
}

impl ShortLived {
    pub(super) async fn sign_in(row: &Row) -> Self {
        row.provider
            .token_members(json!({ "expires_in": LIFETIME }));
        let cookie = row.cookie("alice").await;
        Self { cookie }
    }

    /// Waits until a request gets 503, which says when to try again.
    pub(super) async fn waits(&self, row: &Row) {
        self.gets(row, 503).await;
    }

    /// Waits until a request is served.
    pub(super) async fn is_served(&self, row: &Row) {
        self.gets(row, 200).await;
    }

    async fn gets(&self, row: &Row, wanted: u16) {
        let asking = async {
            while self.ask(row).await != wanted {
                sleep(PAUSE).await;
            }
        };
        let came = timeout(NOTICE, asking).await;
        assert!(came.is_ok(), "no {wanted}");
    }

    /// The status of one request. Every other status than 200 and 503 is wrong.
    async fn ask(&self, row: &Row) -> u16 {
        let mut client = Raw::connect(row.gateway.address()).await;
        let cookie = &self.cookie;
        let request = format!("GET /page HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n");
        client.send(request).await;
        let answer = client.response("GET").await.unwrap();
        match answer.status() {
            200 => assert_eq!(answer.text(), "alice /page"),
            503 => assert!(answer.head.value("retry-after").is_some()),
            other => panic!("{other}: {}", answer.text()),
        }
        answer.status()
    }
}

/// Runs a row. `begin` and `end` change the provider.
async fn outage<T>(
    name: &'static str,
    lasting: Duration,
    begin: impl AsyncFnOnce(&mut StandIn) -> T,
    end: impl AsyncFnOnce(&mut StandIn, T),
) {
    run_row(name, plan(), async |row: &mut Row| {
        let user = ShortLived::sign_in(row).await;
        let origin = row.door.origin();
        let newcomer = row.browser("dave");
        let start = newcomer.open(&format!("{origin}/start")).await;
        let callback = newcomer.follow(&start).await.location().unwrap();
        let fault = begin(&mut row.provider).await;
        user.waits(row).await;
        let page = newcomer.open(callback.as_str()).await;
        assert!(refusal(&page).starts_with("503 "), "{}", page.describe());
        assert_eq!(newcomer.cookie(origin, SESSION), None);
        let waiting = async {
            loop {
                assert_eq!(user.ask(row).await, 503);
                sleep(LONG_PAUSE).await;
            }
        };
        assert!(timeout(lasting, waiting).await.is_err());
        end(&mut row.provider, fault).await;
        user.is_served(row).await;
        // A login that has failed is not tried again at once.
        let signing_in = async {
            while newcomer.visit(&format!("{origin}/start")).await.status == 503 {
                sleep(PAUSE).await;
            }
        };
        let signed_in = timeout(NOTICE, signing_in).await;
        assert!(signed_in.is_ok(), "nobody can sign in");
        assert!(newcomer.cookie(origin, SESSION).is_some());
    })
    .await;
}

const SHORT: Duration = Duration::ZERO;
const MINUTE: Duration = Duration::from_mins(1);

async fn down(name: &'static str, lasting: Duration) {
    let begin = async |provider: &mut StandIn| provider.down().await;
    let end = async |provider: &mut StandIn, ()| provider.up().await;
    outage(name, lasting, begin, end).await;
}

async fn slow() {
    let begin = async |provider: &mut StandIn| provider.hold(Endpoint::Token);
    let end = async |_provider: &mut StandIn, hold: Hold| hold.release();
    outage("the provider is slow", SHORT, begin, end).await;
}

async fn wrong(name: &'static str, status: u16, body: &'static str) {
    let begin = async |provider: &mut StandIn| {
        provider.raw(Endpoint::Token, status, "application/json", body);
    };
    let end = async |provider: &mut StandIn, ()| provider.behave();
    outage(name, SHORT, begin, end).await;
}

/// The rows run at the same time, because each of them waits most of the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_03_f_04_f_05_f_06_a_provider_that_fails_signs_nobody_out() {
    let short = async {
        down("the provider is down for users with expired tokens", SHORT).await;
        slow().await;
        wrong("the provider answers with garbage", 200, "<html>welcome").await;
        wrong("the provider answers with half a JSON", 200, "{\"access_").await;
        wrong("the provider answers with errors", 500, "").await;
    };
    let long = down("the provider is down for a minute", MINUTE);
    tokio::join!(Box::pin(short), Box::pin(long));
}
