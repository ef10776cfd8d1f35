//! Sentinels: the gateways find the new master after a failover.

use std::time::Duration;

use tokio::time::timeout;

use super::{OVER, sign_out_at};
use crate::support::gate::Gate;
use crate::support::redis::{Replicas, Sentinels};
use crate::support::scene::{ORIGIN, SESSION, figure, url, wait_for_figure};

/// The metric of the store: 1 if the store answers.
const UP: &str = "sidegate_session_store_up";

#[tokio::test]
async fn f_12_after_a_failover_the_new_master_has_the_sessions_and_accepts_logins() {
    let mut sentinels = Sentinels::start().await;
    let replicas = Replicas::with(&sentinels.store()).await;
    let browser = replicas.signed_in("alice", 0).await;
    sentinels.wait_for_replicas().await;
    sentinels.kill_master().await;
    for gateway in &replicas.gateways {
        wait_for_figure(gateway.operations(), UP, 0).await;
    }
    // The session is in the memory of the first gateway.
    let page = replicas.at(&browser, 0).fetch(&url("/page")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    // On a busy machine, an election can fail, and the Sentinels repeat it.
    let back = async {
        for gateway in &replicas.gateways {
            while figure(gateway.operations(), UP).await != Some(1) {
                tokio::task::yield_now().await;
            }
        }
    };
    assert!(timeout(Duration::from_mins(4), back).await.is_ok());
    for number in 0..3 {
        let page = replicas.at(&browser, number).fetch(&url("/page")).await;
        assert_eq!(page.text(), "seen", "{}", page.describe());
    }
    replicas.signed_in("bob", 1).await;
}

#[tokio::test]
async fn f_12_a_master_that_is_cut_off_is_left_and_its_changes_reach_its_successor() {
    let sentinels = Sentinels::start().await;
    let mut gates = Vec::new();
    for address in sentinels.addresses() {
        gates.push(Gate::start(address).await);
    }
    let mut replicas = Replicas::with(&sentinels.store()).await;
    let through_gates: Vec<_> = gates.iter().map(Gate::address).collect();
    replicas.gateways[0] = replicas.another(&sentinels.store_at(&through_gates));
    wait_for_figure(replicas.gateways[0].operations(), UP, 1).await;
    let [leaving, refreshed, elsewhere] = [
        replicas.signed_in("alice", 0).await,
        replicas.signed_in("bob", 0).await,
        replicas.signed_in("carol", 1).await,
    ];
    let left = leaving.cookie(ORIGIN, SESSION).unwrap();
    let ended = elsewhere.cookie(ORIGIN, SESSION).unwrap();
    for browser in [&leaving, &refreshed, &elsewhere] {
        for number in 0..3 {
            let page = replicas.at(browser, number).fetch(&url("/page")).await;
            assert_eq!(page.text(), "seen", "{}", page.describe());
        }
    }
    sentinels.wait_for_replicas().await;
    // The first gateway reaches the old master, and no Sentinel. The others reach everything.
    gates.iter().for_each(Gate::block);
    sentinels.isolate_master().await;
    replicas.clock.advance(OVER);
    let page = sign_out_at(&replicas.at(&leaving, 0)).await;
    assert!(
        page.status == 303 || page.status == 200,
        "{}",
        page.describe()
    );
    let page = replicas.at(&refreshed, 0).fetch(&url("/page")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert_eq!(replicas.provider.refreshes().len(), 1);
    // Without Sentinels and replicas, the old master counts as a server that does not answer.
    wait_for_figure(replicas.gateways[0].operations(), UP, 0).await;
    sentinels.wait_for_gateways_at_successor(2).await;
    for gateway in &replicas.gateways[1..] {
        wait_for_figure(gateway.operations(), UP, 1).await;
    }
    // The successor does not know the sign-out.
    leaving.plant(ORIGIN, &format!("{SESSION}={left}; Path=/; Secure"));
    let page = sign_out_at(&replicas.at(&elsewhere, 1)).await;
    assert!(
        page.status == 303 || page.status == 200,
        "{}",
        page.describe()
    );
    elsewhere.plant(ORIGIN, &format!("{SESSION}={ended}; Path=/; Secure"));
    gates.iter().for_each(Gate::unblock);
    sentinels.wait_for_gateways_at_successor(3).await;
    wait_for_figure(replicas.gateways[0].operations(), UP, 1).await;
    for number in 0..3 {
        for browser in [&leaving, &elsewhere] {
            let page = replicas.at(browser, number).fetch(&url("/page")).await;
            assert_eq!(page.status, 401, "{number}: {}", page.describe());
        }
        // The tokens of the refresh were only at the old master and at the first gateway.
        let page = replicas.at(&refreshed, number).fetch(&url("/page")).await;
        assert_eq!(page.text(), "seen", "{}", page.describe());
    }
    assert_eq!(replicas.provider.refreshes().len(), 1);
}
