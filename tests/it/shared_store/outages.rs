//! The store does not answer.

use std::time::Duration;

use tokio::process::Command;

use crate::support::gateway::PROGRAM;
use crate::support::process::Process;
use crate::support::redis::{Redis, Replicas};
use crate::support::scene::{ORIGIN, SESSION, figure, url, wait_for_figure};

/// The metric of the store: 1 if the store answers.
const STORE: &str = "sidegate_session_store_up";

async fn wait_for_store(replicas: &Replicas, up: u64) {
    for gateway in &replicas.gateways {
        wait_for_figure(gateway.operations(), STORE, up).await;
    }
}

#[tokio::test]
async fn f_12_an_outage_signs_nobody_out_and_ends_by_itself() {
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut redis = Redis::start(&durable).await;
    let replicas = Replicas::start(&redis).await;
    let cached = replicas.signed_in("alice", 0).await;
    let other = replicas.signed_in("bob", 1).await;
    redis.kill().await;
    wait_for_store(&replicas, 0).await;
    // The first replica has the session of the first user in its cache.
    let page = replicas.at(&cached, 0).open(&url("/page")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    for (browser, number) in [(&cached, 1), (&other, 0)] {
        let page = replicas.at(browser, number).open(&url("/page")).await;
        assert_eq!(page.status, 503, "{}", page.describe());
        assert!(page.field("retry-after").is_some());
        assert!(
            page.text().contains("http-equiv=\"refresh\""),
            "{}",
            page.text()
        );
        assert!(browser.cookie(ORIGIN, SESSION).is_some());
    }
    // A login would fail after the user has typed the password.
    let new = replicas.browser_of("carol");
    let page = replicas.at(&new, 0).open(&url("/page")).await;
    assert_eq!(page.status, 503, "{}", page.describe());
    assert!(page.field("retry-after").is_some());
    // No refresh begins during the outage, because another replica may have the lease.
    replicas.clock.advance(Duration::from_secs(61));
    let before = replicas.provider.refreshes().len();
    let page = replicas.at(&cached, 0).fetch(&url("/page")).await;
    assert_eq!(page.status, 503, "{}", page.describe());
    assert_eq!(replicas.provider.refreshes().len(), before);
    redis.start_again().await;
    wait_for_store(&replicas, 1).await;
    for browser in [&cached, &other] {
        for number in 0..3 {
            let page = replicas.at(browser, number).open(&url("/page")).await;
            assert_eq!(page.text(), "seen", "{}", page.describe());
        }
    }
    let page = replicas.at(&new, 2).visit(&url("/page")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
}

#[tokio::test]
async fn f_12_a_sign_out_during_an_outage_says_what_is_missing_and_is_completed_later() {
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut redis = Redis::start(&durable).await;
    let replicas = Replicas::start(&redis).await;
    let browser = replicas.signed_in("alice", 0).await;
    let cookie = browser.cookie(ORIGIN, SESSION).unwrap();
    assert_eq!(
        replicas.at(&browser, 1).fetch(&url("/page")).await.text(),
        "seen"
    );
    redis.kill().await;
    wait_for_store(&replicas, 0).await;
    let page = super::sign_out_at(&replicas.at(&browser, 0)).await;
    assert_eq!(page.status, 200, "{}", page.describe());
    assert!(
        page.text().contains("cannot be reached at the moment"),
        "{}",
        page.text()
    );
    browser.plant(ORIGIN, &format!("{SESSION}={cookie}; Path=/; Secure"));
    // The session has ended here. Another replica cannot know it yet.
    assert_eq!(
        replicas.at(&browser, 0).fetch(&url("/page")).await.status,
        401
    );
    assert_eq!(
        replicas.at(&browser, 1).fetch(&url("/page")).await.text(),
        "seen"
    );
    redis.start_again().await;
    wait_for_store(&replicas, 1).await;
    for number in 0..3 {
        let page = replicas.at(&browser, number).fetch(&url("/page")).await;
        assert_eq!(page.status, 401, "{number}: {}", page.describe());
    }
    let count = figure(replicas.gateways[0].operations(), "sidegate_sessions").await;
    assert_eq!(count, Some(0));
}

#[tokio::test]
async fn a_stopped_server_delays_one_request_and_then_counts_as_away() {
    let redis = Redis::start(&[]).await;
    let replicas = Replicas::start(&redis).await;
    let browser = replicas.signed_in("alice", 0).await;
    redis.signal("STOP").await;
    wait_for_store(&replicas, 0).await;
    for _ in 0..20 {
        let page = replicas.at(&browser, 0).fetch(&url("/page")).await;
        assert_eq!(page.text(), "seen", "{}", page.describe());
    }
    redis.signal("CONT").await;
    wait_for_store(&replicas, 1).await;
    let page = replicas.at(&browser, 2).fetch(&url("/page")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
}

#[tokio::test]
async fn f_12_a_server_that_removes_sessions_when_it_is_full_is_named_in_the_log_and_by_the_check()
{
    let options = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
    let redis = Redis::start(&options).await;
    let replicas = Replicas::start(&redis).await;
    let store = format!("[session.store.redis]\nurls = [\"{}\"]\n", redis.url());
    let warned = Process::start(replicas.settings(&store)).await;
    let reason = "session_store_evicts";
    warned.wait_for_log(|log| log.contains(reason)).await;
    let config = replicas.gateways[0].settings().write();
    let mut check = Command::new(PROGRAM);
    check.args(["check", "--online", "--config"]).arg(&config);
    let check = check.output().await.unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned()
        + &String::from_utf8_lossy(&check.stderr);
    assert!(said.contains("maxmemory-policy is allkeys-lru"), "{said}");
    assert!(!check.status.success(), "{said}");
    // A server that refuses changes when it is full is good.
    let keep = ["CONFIG", "SET", "maxmemory-policy", "noeviction"];
    assert_eq!(redis.command(&keep).await, "OK");
    let quiet = Process::start(replicas.settings(&store)).await;
    assert!(!quiet.log().contains(reason), "{}", quiet.log());
}
