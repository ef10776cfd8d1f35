//! Sentinels: the gateways find the new master after a failover.

use std::time::Duration;

use tokio::time::timeout;

use crate::support::redis::{Replicas, Sentinels};
use crate::support::scene::{figure, url, wait_for_figure};

#[tokio::test]
async fn f_12_after_a_failover_the_new_master_has_the_sessions_and_accepts_logins() {
    let mut sentinels = Sentinels::start().await;
    let replicas = Replicas::with(&sentinels.store()).await;
    let browser = replicas.signed_in("alice", 0).await;
    sentinels.wait_for_replicas().await;
    sentinels.kill_master().await;
    for gateway in &replicas.gateways {
        let up = "sidegate_session_store_up";
        wait_for_figure(gateway.operations(), up, 0).await;
    }
    // The session is in the memory of the first gateway.
    let page = replicas.at(&browser, 0).fetch(&url("/page")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    // On a busy machine, an election can fail, and the Sentinels repeat it.
    let back = async {
        for gateway in &replicas.gateways {
            while figure(gateway.operations(), "sidegate_session_store_up").await != Some(1) {
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
