//! `sidegate sessions move`: the sessions of a file continue in the shared store.

use tokio::process::Command;

use crate::support::gateway::PROGRAM;
use crate::support::redis::{Redis, Replicas};
use crate::support::scene::url;

#[tokio::test]
async fn users_stay_signed_in_when_their_sessions_move_from_a_file_to_the_shared_store() {
    let redis = Redis::start(&[]).await;
    let mut replicas = Replicas::start(&redis).await;
    let file = replicas.folder.path().join("sessions.redb");
    let on_disk = format!("[session.store.disk]\nfile = \"{}\"\n", file.display());
    let with_file = replicas.another(&on_disk);
    let browser = replicas.browser_of("alice");
    let tab = browser
        .clone()
        .leading(crate::support::scene::ORIGIN, with_file.address());
    let page = tab.visit(&url("/")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    let config = replicas.gateways[0].settings().write();
    let moving = async || {
        let mut command = Command::new(PROGRAM);
        command.args(["sessions", "move", "--config"]).arg(&config);
        command.arg("--from").arg(&file).output().await.unwrap()
    };
    let refused = moving().await;
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("in use by another process"), "{said}");
    with_file.drain().await;
    let moved = moving().await;
    let said = String::from_utf8_lossy(&moved.stdout).into_owned();
    assert!(
        moved.status.success() && said.contains("moved 1 sessions"),
        "{said}"
    );
    for number in 0..3 {
        let page = replicas.at(&browser, number).fetch(&url("/page")).await;
        assert_eq!(page.text(), "seen", "{}", page.describe());
    }
    // A settings file without a shared store is refused.
    let gateway = replicas.another("");
    let config = gateway.settings().write();
    replicas.gateways.push(gateway);
    let mut command = Command::new(PROGRAM);
    command.args(["sessions", "move", "--config"]).arg(&config);
    let refused = command.arg("--from").arg(&file).output().await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("session.store.redis"), "{said}");
}
