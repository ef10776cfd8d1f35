//! All keys of a store are in one hash slot, so that a server in cluster mode accepts the scripts.

use super::*;
use crate::session::{Leased, LogoutNotice, Maintained, MarkKind, Once};

/// Starts a node of a cluster that has all slots. The user of the store cannot ask for the mode of the server, so the
/// store does not refuse the node.
fn cluster(number: u8) -> Server {
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = format!("127.{high}.{number}.{low}");
    let cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "500"];
    let server = Server::start(&[&cluster[..], &["--bind", &address]].concat());
    let slots: Vec<_> = (0..16384).map(|slot| slot.to_string()).collect();
    let mut add = vec!["CLUSTER", "ADDSLOTS"];
    add.extend(slots.iter().map(String::as_str));
    assert_eq!(server.command(&add), "OK");
    while !server
        .command(&["CLUSTER", "INFO"])
        .contains("cluster_state:ok")
    {}
    assert_eq!(
        server.command(&["ACL", "SETUSER", "default", "-info"]),
        "OK"
    );
    server
}

/// Returns the slots of the keys of a store.
async fn slots(started: &Started) -> Vec<u32> {
    let mut slots = Vec::new();
    for key in started.keys().await {
        let mut slot = redis::cmd("CLUSTER");
        slot.arg("KEYSLOT").arg(key);
        slots.push(started.shared.send(&slot).await.unwrap());
    }
    slots.sort_unstable();
    slots.dedup();
    slots
}

#[tokio::test]
async fn every_script_runs_on_a_node_of_a_cluster_and_uses_one_slot() {
    let (server, mut fixture) = (cluster(2), Fixture::disk());
    fixture.settings.per_person = 2;
    let settings = away::quick(&server);
    let (started, other) = (start(&settings, &fixture), start(&settings, &fixture));
    let sessions = &started.sessions;
    let mut ids = Vec::new();
    for number in 0..4 {
        let new = NewSession {
            sid: Some(number.to_string().into()),
            replaces: ids.last().map(SessionId::key).into_iter().collect(),
            ..login("alice")
        };
        // The older session is above the limit, and the last session is not.
        open(sessions, "alice", NOW).await;
        ids.push(sessions.open(new, NOW).await.unwrap());
    }
    let id = &ids[3];
    let held = session(&other.sessions, id).await;
    let lease = other.sessions.lease(&id.key(), NOW, after(65)).await;
    assert!(matches!(lease, Ok(Leased::Granted(_))), "{lease:?}");
    let replaced = other.sessions.replace(&held, tokens("token-1"), None).await;
    assert!(matches!(replaced, Ok(Replaced::Stored(_))));
    let mark = (MarkKind::State, [1; 32]);
    let once = sessions.once(mark, NOW, after(60)).await;
    assert_eq!(once.unwrap(), Once::First);
    assert!(live(sessions, id, after(20)).await);
    assert_eq!(
        sessions.maintain(after(20)).await.unwrap(),
        Maintained::Done
    );
    assert_eq!(slots(&started).await.len(), 1);
    drop(lease);
    let notice = LogoutNotice {
        mark: [2; 32],
        until: after(60),
    };
    let of_sid = SessionsOf::ProviderSession {
        issuer: "op",
        sid: "3",
        subject: Some("alice"),
    };
    let why = EndReason::SignedOutAtProvider;
    let ended = sessions.end_all(of_sid, why, (Some(notice), NOW)).await;
    assert!(matches!(ended, Ok(EndedAll::Ended(_))), "{ended:?}");
    let bob = open(sessions, "bob", NOW).await;
    let ended = sessions.end(&bob.key(), EndReason::SignedOut).await;
    assert_eq!(ended.unwrap(), Ended::Session);
    // The scripts of a failover, and of a move from a file.
    let mut commands = started.shared.connection().await.unwrap();
    started.shared.repeat_changes(&mut commands).await.unwrap();
    let file = fixture.start(NOW);
    open(&file, "carol", NOW).await;
    file.close().await.unwrap();
    let moved = moving::moved(&fixture, &settings, NOW).await.unwrap();
    assert_eq!(moved.moved, 1);
    let everyone = SessionsOf::Everyone;
    let ended = sessions.end_all(everyone, why, (None, NOW)).await;
    assert!(matches!(ended, Ok(EndedAll::Ended(_))), "{ended:?}");
    assert_eq!(slots(&started).await.len(), 1);
    assert_eq!(sessions.keys_of(everyone).await.unwrap(), []);
}

#[tokio::test]
async fn f_12_a_node_that_loses_its_slots_counts_as_away() {
    let (server, fixture) = (cluster(3), Fixture::memory());
    let started = start(&away::quick(&server), &fixture);
    let id = open(&started.sessions, "alice", NOW).await;
    let slot = slots(&started).await[0].to_string();
    assert_eq!(server.command(&["CLUSTER", "DELSLOTS", &slot]), "OK");
    started.wait_until_down().await;
    away::counts_as_away(&started, &id).await;
    assert_eq!(server.command(&["CLUSTER", "ADDSLOTS", &slot]), "OK");
    started.wait_until_up().await;
    assert!(live(&started.sessions, &id, NOW).await);
    open(&started.sessions, "bob", NOW).await;
}

#[test]
fn the_declared_keys_of_every_script_have_the_hash_tag() {
    let names = Names {
        prefix: "a:".to_owned(),
        database: 0,
        origin: [7; 8],
    };
    let key = [9; 16];
    let of_key = [
        names.session(&key),
        names.lease(&key),
        names.mark(b's', &key),
    ];
    let groups = [b'A', b'N', b'P', b'U', b'W', b'K'];
    let of_groups = groups.map(|kind| names.of_group(&[&[kind], key.as_slice()].concat()));
    let alone = [
        names.index(),
        names.presence(),
        names.server(),
        names.time_to_repeat(),
    ];
    let all = of_key.into_iter().chain(of_groups.concat()).chain(alone);
    for key in all {
        assert!(key.starts_with(b"a:{1}"), "{}", key.escape_ascii());
    }
}
