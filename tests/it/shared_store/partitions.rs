//! One replica cannot reach the store.

use crate::events::EventClient;
use crate::support::gate::Gate;
use crate::support::program::free_address;
use crate::support::redis::{Redis, Replicas};
use crate::support::scene::{ORIGIN, SESSION, url, wait_for_figure};

use super::{OVER, sign_out_at};
use std::net::SocketAddr;

#[tokio::test]
async fn g_01_a_replica_that_loses_the_store_during_a_refresh_keeps_its_lease() {
    let address: SocketAddr = free_address().parse().unwrap();
    let redis = Redis::start(&["--port", &address.port().to_string()]).await;
    let mut replicas = Replicas::start(&redis).await;
    let partition = Gate::start(address).await;
    let store = format!(
        "[session.store.redis]\nurls = [\"redis://{}\"]\nconnect_timeout_secs = 1\n",
        partition.address()
    );
    let apart = replicas.another(&store);
    replicas.gateways[0] = apart;
    let browser = replicas.signed_in("alice", 1).await;
    // The start of the gateway has blocked this thread. The gate runs in this thread, so the gateway
    // connects to the store later.
    while replicas.at(&browser, 0).fetch(&url("/warm")).await.text() != "seen" {}
    replicas.clock.advance(OVER);
    let answer = replicas.provider.hold_refreshes();
    let ask = |number| {
        let browser = replicas.at(&browser, number);
        tokio::spawn(async move { browser.fetch(&url("/page")).await })
    };
    let first = ask(0);
    replicas.provider.wait_for_refresh(1).await;
    let up = "sidegate_session_store_up";
    wait_for_figure(replicas.gateways[0].operations(), up, 1).await;
    partition.block();
    let second = ask(1);
    let waiting = "sidegate_waiting_requests";
    wait_for_figure(replicas.gateways[1].operations(), waiting, 1).await;
    answer.notify_one();
    wait_for_figure(replicas.gateways[0].operations(), up, 0).await;
    // The provider has answered the first replica, which cannot store the answer.
    assert!(!second.is_finished());
    assert_eq!(replicas.provider.refreshes().len(), 1);
    // The bytes of the blocked time must not arrive later.
    partition.cut();
    partition.unblock();
    for page in [first, second] {
        let page = page.await.unwrap();
        assert_eq!(page.text(), "seen", "{}", page.describe());
    }
    assert_eq!(replicas.provider.refreshes().len(), 1);
}

#[tokio::test]
async fn a_stream_of_a_session_that_another_replica_ends_also_ends() {
    let redis = Redis::start(&[]).await;
    let replicas = Replicas::start(&redis).await;
    let browser = replicas.signed_in("alice", 0).await;
    let cookie = format!("{SESSION}={}", browser.cookie(ORIGIN, SESSION).unwrap());
    let mut stream = EventClient::open(replicas.gateways[1].address(), &cookie).await;
    let out = sign_out_at(&replicas.at(&browser, 0)).await;
    assert!(out.status == 303 || out.status == 200, "{}", out.describe());
    // A search for sessions that have ended would state another reason.
    stream.expect_end("signed_out").await;
}
