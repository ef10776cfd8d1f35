//! A server that is full: it removes keys, or refuses changes.

use super::*;
use crate::session::{Leased, Maintained, MarkKind, Once};

/// The user whose sessions the tests end.
const ALICE: SessionsOf<'static> = SessionsOf::User {
    issuer: "op",
    subject: "alice",
};

/// Removes a key of the store, as the server does when it is full.
async fn evict(started: &Started, key: Vec<u8>) {
    let mut delete = redis::cmd("DEL");
    delete.arg(key);
    let deleted: u64 = started.shared.send(&delete).await.unwrap();
    assert_eq!(deleted, 1);
}

/// Returns a number in the answer to `INFO`.
fn number(server: &Server, section: &str, name: &str) -> u64 {
    let info = server.command(&["INFO", section]);
    let found = info
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.unwrap().trim().parse().unwrap()
}

/// Sets the limit of the server's memory, and what the server does when the memory is full.
fn limit_memory(server: &Server, limit: u64, policy: &str) {
    for (key, value) in [
        ("maxmemory-policy", policy),
        ("maxmemory", &limit.to_string()),
    ] {
        assert_eq!(server.command(&["CONFIG", "SET", key, value]), "OK");
    }
}

/// Reconnects a replica, so that it arrives at the server again.
async fn arrive_again(server: &Server, replica: &Started) {
    let before = replica.shared.cache.coherence().generation();
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    while replica.shared.cache.coherence().generation() == before {
        tokio::task::yield_now().await;
    }
    replica.wait_until_up().await;
}

#[tokio::test]
async fn f_12_a_server_that_evicts_ends_only_the_evicted_sessions_and_accepts_new_ones() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let settings = server.settings();
    let (first, other) = (start(&settings, &fixture), start(&settings, &fixture));
    // Each session has about 4 KiB. The index of all sessions has no time to live, so this policy does not remove it.
    let limit = number(&server, "memory", "used_memory").saturating_add(1_000_000);
    limit_memory(&server, limit, "volatile-lru");
    let mut ids = Vec::new();
    for user in 0..400 {
        let new = NewSession {
            tokens: tokens(&"t".repeat(4000)),
            ..login(&user.to_string())
        };
        ids.push(first.sessions.open(new, NOW).await.unwrap());
    }
    assert!(number(&server, "stats", "evicted_keys") > 100);
    let mut lost = Vec::new();
    for id in &ids {
        let is_stored = first.value(id).await.is_some();
        // The other replica reads the session from the server.
        let read = other.sessions.fetch(&id.key()).await.unwrap();
        assert_eq!(read.is_some(), is_stored);
        if !is_stored {
            lost.push(id);
        }
    }
    assert!(lost.len() > 100 && lost.len() < 350, "{}", lost.len());
    // The first replica has all sessions in its memory, and learns of the losses when it reports their uses.
    for id in &ids {
        assert!(live(&first.sessions, id, after(30)).await);
    }
    first.sessions.maintain(after(30)).await.unwrap();
    for id in &ids {
        let is_stored = first.value(id).await.is_some();
        assert_eq!(live(&first.sessions, id, after(30)).await, is_stored);
    }
    // A user without a session signs in again.
    let again = open(&first.sessions, "0", after(30)).await;
    assert!(live(&first.sessions, &again, after(30)).await);
}

/// The policy allows the server to evict every key: sessions, indexes, and the name of the server.
#[tokio::test]
async fn f_12_a_full_server_that_evicts_keys_loses_sessions_and_accepts_logins() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let mut settings = server.settings();
    settings.coherence = Duration::from_millis(400);
    let started = start(&settings, &fixture);
    let limit = number(&server, "memory", "used_memory").saturating_add(500_000);
    limit_memory(&server, limit, "allkeys-random");
    let mut ids = Vec::new();
    for number in 0..1500 {
        ids.push(open(&started.sessions, &number.to_string(), NOW).await);
    }
    assert!(number(&server, "stats", "evicted_keys") > 500);
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    started.shared.cache.apply(Event::Lost);
    let mut lost = 0;
    for id in &ids {
        if live(&started.sessions, id, NOW).await {
            let ended = started.sessions.end(&id.key(), EndReason::SignedOut).await;
            assert_eq!(ended.unwrap(), Ended::Session);
        } else {
            lost += 1;
        }
        assert!(!live(&started.sessions, id, NOW).await);
    }
    assert!((500..1500).contains(&lost), "{lost}");
    let again = open(&started.sessions, "again", NOW).await;
    assert!(live(&started.sessions, &again, NOW).await);
    assert!(started.sessions.count() > 0);
    // The sweep removes the index entries of the evicted sessions.
    let much_later = NOW.plus(Duration::from_hours(48));
    let maintain = || started.sessions.maintain(much_later);
    while maintain().await.unwrap() == Maintained::More {}
    assert_eq!(started.sessions.count(), 0);
}

#[tokio::test]
async fn f_12_without_the_index_of_all_sessions_the_idle_time_counts_from_the_login_until_the_next_use()
 {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let settings = server.settings();
    let (started, other) = (start(&settings, &fixture), start(&settings, &fixture));
    let (used, unused) = (
        open(&started.sessions, "alice", NOW).await,
        open(&started.sessions, "bob", NOW).await,
    );
    for id in [&used, &unused] {
        assert!(live(&started.sessions, id, after(40)).await);
    }
    started.sessions.maintain(after(40)).await.unwrap();
    evict(&started, started.shared.names.index()).await;
    // The replica with the session in its memory reports a use, which writes the index again.
    assert!(live(&started.sessions, &used, after(55)).await);
    started.sessions.maintain(after(55)).await.unwrap();
    assert!(live(&other.sessions, &used, after(80)).await);
    // The time of the last use is lost, so the idle time counts from the login.
    assert!(!live(&other.sessions, &unused, after(80)).await);
}

#[tokio::test]
async fn f_12_the_order_to_end_the_sessions_of_a_user_misses_sessions_without_an_index() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let started = start(&server.settings(), &fixture);
    let id = open(&started.sessions, "alice", NOW).await;
    let value = started.value(&id).await.unwrap();
    let index = [b"u".as_slice(), &value[17..33]].concat();
    let keys = started.keys().await;
    let index = keys.into_iter().find(|key| key.ends_with(&index)).unwrap();
    evict(&started, index).await;
    let ended = started
        .sessions
        .end_all(ALICE, EndReason::Revoked, (None, NOW));
    assert!(matches!(ended.await, Ok(EndedAll::Ended(keys)) if keys.is_empty()));
    assert!(live(&started.sessions, &id, NOW).await);
    // The order to end all sessions uses another index.
    let everyone = SessionsOf::Everyone;
    let ended = started
        .sessions
        .end_all(everyone, EndReason::Revoked, (None, NOW));
    assert!(matches!(ended.await, Ok(EndedAll::Ended(keys)) if keys == [id.key()]));
    assert!(!live(&started.sessions, &id, NOW).await);
}

#[tokio::test]
async fn f_12_an_evicted_name_of_the_server_counts_as_another_server() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let started = start(&away::quick(&server), &fixture);
    // The first replica at an empty server does not wait.
    let id = open(&started.sessions, "alice", NOW).await;
    let lease = started.sessions.lease(&id.key(), NOW, after(65)).await;
    assert!(matches!(lease, Ok(Leased::Granted(_))), "{lease:?}");
    drop(lease);
    evict(&started, started.shared.names.server()).await;
    arrive_again(&server, &started).await;
    let lease = started.sessions.lease(&id.key(), NOW, after(65)).await;
    let Ok(Leased::Held(wait)) = lease else {
        panic!("the server may be a successor: {lease:?}");
    };
    wait.over().await;
    let lease = started.sessions.lease(&id.key(), NOW, after(65)).await;
    assert!(matches!(lease, Ok(Leased::Granted(_))), "{lease:?}");
}

#[tokio::test]
async fn f_12_a_full_server_ends_the_sessions_of_a_user_and_keeps_the_tokens_of_others() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let started = start(&server.settings(), &fixture);
    let (alice, bob) = (
        open(&started.sessions, "alice", NOW).await,
        open(&started.sessions, "bob", NOW).await,
    );
    let held = session(&started.sessions, &bob).await;
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    let lease = started.sessions.lease(&bob.key(), NOW, after(65)).await;
    assert!(matches!(lease, Err(StoreError::Refused(_))), "{lease:?}");
    drop(lease);
    let replaced = started
        .sessions
        .replace(&held, tokens("token-1"), None)
        .await;
    assert!(
        matches!(replaced, Err(StoreError::Refused(_))),
        "{replaced:?}"
    );
    let used = started
        .sessions
        .once((MarkKind::State, [1; 32]), NOW, after(60));
    assert!(matches!(used.await, Err(StoreError::Refused(_))));
    // The provider or an operator ends all sessions of a user. A login that has begun before is refused later.
    let ended = started
        .sessions
        .end_all(ALICE, EndReason::Revoked, (None, NOW));
    let ended = ended.await;
    assert!(
        matches!(&ended, Ok(EndedAll::Ended(keys)) if *keys == [alice.key()]),
        "{ended:?}"
    );
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    let late = NewSession {
        begun_at: Timestamp::from_millis(NOW.as_millis() - 5000),
        ..login("alice")
    };
    let opened = started.sessions.open(late, NOW).await;
    assert!(
        matches!(opened, Err(OpenError::EndedMeanwhile)),
        "{opened:?}"
    );
    started.shared.cache.apply(Event::Lost);
    assert!(!live(&started.sessions, &alice, NOW).await);
    assert!(live(&started.sessions, &bob, NOW).await);
    let replaced = started
        .sessions
        .replace(&held, tokens("token-1"), None)
        .await;
    assert!(matches!(replaced, Ok(Replaced::Stored(_))), "{replaced:?}");
    let used = started
        .sessions
        .once((MarkKind::State, [1; 32]), NOW, after(60));
    assert_eq!(used.await.unwrap(), Once::First);
}
