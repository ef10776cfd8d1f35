//! Invented codes: an attacker without an account sends ten codes per second from the address of
//! all users. Users who are signed in notice nothing, and everybody can sign in.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Plan, Row, run_row};
use crate::invented_codes::{invent, open_patiently};
use crate::support::browser::Browser;
use crate::support::provider::Endpoint;
use crate::support::scene::refusal;
use sidegate::clock::Clock;

/// The time between two invented codes.
const BETWEEN: Duration = Duration::from_millis(100);

/// The number of invented codes.
const CODES: u32 = 200;

/// The longest time of a login.
const LONGEST: Duration = Duration::from_secs(10);

/// Sends invented codes, each from a new browser. The gateway refuses no code for the network.
async fn attack(browsers: impl Fn() -> Browser, origin: &'static str) {
    let mut sent = JoinSet::new();
    for _ in 0..CODES {
        let browser = browsers();
        sent.spawn(async move {
            let callback = invent(&browser, origin).await;
            let page = browser.open(callback.as_str()).await;
            let refused = refusal(&page);
            let expected = ["400 code_refused", "503 too_many_codes"];
            assert!(expected.contains(&&*refused), "{}", page.describe());
        });
        sleep(BETWEEN).await;
    }
    while let Some(ended) = sent.join_next().await {
        ended.unwrap();
    }
}

/// Signs in, and fails if this takes too long.
async fn sign_in(browser: &Browser, origin: &str) {
    // The login is not part of a login loop.
    browser.forget("__Host-sidegate-round");
    let (clock, begun) = (Clock::system(), Clock::system().now());
    let start = browser
        .open(&format!("{origin}/oauth2/sign_in?prompt=login"))
        .await;
    let callback = browser.follow(&start).await.location().unwrap();
    let page = open_patiently(browser, &callback).await;
    let served = browser.follow_all(page).await;
    assert_eq!(served.status, 200, "{}", served.describe());
    assert!(
        clock.now().since(begun) <= LONGEST,
        "{:?}",
        clock.now().since(begun)
    );
}

/// Runs a row in which the provider allows `calls` calls per minute.
async fn row(name: &'static str, calls: usize, keys: &'static str) {
    let plan = Plan {
        provider: keys,
        ..Plan::default()
    };
    run_row(name, plan, async |row: &mut Row| {
        let origin = row.door.origin();
        let known = row.browser("alice");
        sign_in(&known, origin).await;
        let (address, provider) = (row.door.address, row.provider.url());
        let stranger = move || Browser::new().leading(origin, address);
        let attacking = tokio::spawn(attack(stranger, origin));
        while !attacking.is_finished() {
            sleep(Duration::from_secs(2)).await;
            sign_in(&known, origin).await;
            let newcomer = stranger();
            newcomer.plant(&provider, "user=dave; Path=/");
            sign_in(&newcomer, origin).await;
        }
        attacking.await.unwrap();
        // The whole attack is shorter than a minute.
        let made = row.provider.calls(Endpoint::Token);
        assert!(made <= calls, "{made} calls");
        let refused = "sidegate_logins_total{result=\"failed\",reason=\"code_refused\"}";
        assert!(row.figure(refused).await > 0);
    })
    .await;
}

/// The rows run at the same time, because each of them waits most of the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_21_invented_codes_delay_nobody_for_more_than_ten_seconds() {
    let few = "token_calls_per_minute = 50\n";
    tokio::join!(
        Box::pin(row("invented codes, 600 calls a minute", 600, "")),
        Box::pin(row("invented codes, 50 calls a minute", 50, few)),
    );
}
