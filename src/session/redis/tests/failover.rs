//! A failover to a server that lacks the latest changes of its predecessor.

use std::sync::atomic::AtomicU8;

use super::*;
use crate::session::redis::settings::Address;
use crate::session::store::Which;
use crate::session::{Lease, Leased, MarkKind, Once};

/// A server, and its replica that takes over. The settings name a link to the socket of the current server.
struct Pair {
    first: Server,
    second: Server,
    folder: tempfile::TempDir,
}

impl Pair {
    fn start() -> Self {
        // A free port could be taken before the server uses it, so each pair uses its own loopback address.
        static NEXT: AtomicU8 = AtomicU8::new(4);
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = format!("127.{high}.{}.{low}", NEXT.fetch_add(1, Ordering::Relaxed));
        let quick = [
            "--repl-diskless-sync",
            "yes",
            "--repl-diskless-sync-delay",
            "0",
        ];
        let first = Server::start(&[&["--port", "6379", "--bind", &address][..], &quick].concat());
        let second = Server::start(&["--replicaof", &address, "6379"]);
        let pair = Self {
            first,
            second,
            folder: tempfile::tempdir().unwrap(),
        };
        pair.connect_to(&pair.first);
        // The name of a server changes when its first replica arrives.
        pair.replicate();
        pair
    }

    /// Waits until the replica has all changes so far.
    fn replicate(&self) {
        self.first.command(&["SET", "last", "change"]);
        while self.second.command(&["GET", "last"]) != "change" {}
        self.first.command(&["DEL", "last"]);
        while self.second.command(&["GET", "last"]) == "change" {}
    }

    fn link(&self) -> std::path::PathBuf {
        self.folder.path().join("redis.sock")
    }

    fn connect_to(&self, server: &Server) {
        let new = self.folder.path().join("new");
        std::os::unix::fs::symlink(server.socket(), &new).unwrap();
        std::fs::rename(new, self.link()).unwrap();
    }

    fn settings(&self) -> RedisSettings {
        let mut settings = away::quick(&self.first);
        settings.servers = vec![Address::Unix(self.link())];
        settings
    }

    /// Cuts the replica off. The replica has all changes so far, and lacks all later changes.
    fn detach(&self) {
        self.replicate();
        assert_eq!(self.second.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    }

    /// Lets the replica take over.
    async fn fail_over(&mut self, replicas: &[&Started]) {
        let before: Vec<_> = replicas.iter().map(|replica| generation(replica)).collect();
        self.connect_to(&self.second);
        self.first.kill();
        for (replica, before) in replicas.iter().zip(before) {
            // The generation changes after a replica has brought back its changes.
            while generation(replica) == before {
                tokio::task::yield_now().await;
            }
            replica.wait_until_up().await;
        }
    }
}

fn generation(replica: &Started) -> u32 {
    replica.shared.cache.coherence().generation()
}

async fn lease<'a>(replica: &'a Started, id: &SessionId) -> Leased<'a> {
    let leased = replica.sessions.lease(&id.key(), NOW, after(65)).await;
    leased.unwrap()
}

fn granted(leased: Leased<'_>) -> Lease {
    match leased {
        Leased::Granted(lease) => lease,
        Leased::Held(held) => panic!("{held:?}"),
    }
}

#[tokio::test]
async fn f_12_a_lease_that_a_failover_has_lost_is_taken_again_before_others_get_it() {
    let (mut pair, fixture) = (Pair::start(), Fixture::memory());
    let settings = pair.settings();
    let (holder, other) = (start(&settings, &fixture), start(&settings, &fixture));
    let refreshed = open(&holder.sessions, "alice", NOW).await;
    let free = open(&holder.sessions, "bob", NOW).await;
    pair.detach();
    let held = granted(lease(&holder, &refreshed).await);
    pair.fail_over(&[&other]).await;
    // At first, no replica gets a lease, because the holder may not have arrived yet.
    let early = lease(&other, &refreshed).await;
    assert!(matches!(early, Leased::Held(_)), "{early:?}");
    drop(early);
    let Leased::Held(wait) = lease(&other, &free).await else {
        panic!("a lease before the replicas have brought back their changes");
    };
    assert!(wait.until() < after(10), "{wait:?}");
    wait.over().await;
    let Leased::Held(wait) = lease(&other, &refreshed).await else {
        panic!("two leases");
    };
    assert!(wait.until() > after(10), "{wait:?}");
    drop(granted(lease(&other, &free).await));
    drop(held);
    wait.over().await;
    drop(granted(lease(&other, &refreshed).await));
}

#[tokio::test]
async fn f_12_tokens_that_a_failover_has_lost_are_stored_again() {
    let (mut pair, fixture) = (Pair::start(), Fixture::memory());
    let settings = pair.settings();
    let (first, other) = (start(&settings, &fixture), start(&settings, &fixture));
    let [lost, twice, kept] = [
        open(&first.sessions, "alice", NOW).await,
        open(&first.sessions, "bob", NOW).await,
        open(&first.sessions, "carol", NOW).await,
    ];
    for id in [&lost, &twice, &kept] {
        assert_eq!(session(&other.sessions, id).await.version(), 0);
    }
    pair.detach();
    for (id, text) in [(&lost, "token-1"), (&twice, "token-1"), (&twice, "token-2")] {
        let held = session(&first.sessions, id).await;
        let replaced = first.sessions.replace(&held, tokens(text), None).await;
        assert!(matches!(replaced, Ok(Replaced::Stored(_))));
    }
    pair.fail_over(&[&first, &other]).await;
    for (id, version, text) in [(&lost, 1, "token-1"), (&twice, 2, "token-2")] {
        let found = other.sessions.fetch(&id.key()).await.unwrap().unwrap();
        let found = (found.version(), found.tokens().access_token());
        assert_eq!(found, (version, text));
    }
    assert!(live(&other.sessions, &kept, NOW).await);
}

#[tokio::test]
async fn f_12_a_replica_with_newer_tokens_than_the_store_brings_them_back_later() {
    let (mut pair, fixture) = (Pair::start(), Fixture::memory());
    let settings = pair.settings();
    let (first, other) = (start(&settings, &fixture), start(&settings, &fixture));
    let id = open(&first.sessions, "alice", NOW).await;
    pair.detach();
    let held = session(&first.sessions, &id).await;
    let replaced = first.sessions.replace(&held, tokens("token-1"), None).await;
    assert!(matches!(replaced, Ok(Replaced::Stored(_))));
    // The replica remembers its changes for a minute.
    first.clock.set(after(120));
    while first.shared.last_heartbeat() != Some(after(120)) {
        tokio::task::yield_now().await;
    }
    pair.fail_over(&[&first, &other]).await;
    let stale = other.sessions.fetch(&id.key()).await.unwrap().unwrap();
    assert_eq!(stale.version(), 0);
    // The next request at the first replica asks the store, because a change may have been lost.
    let newest = first.sessions.fetch(&id.key()).await.unwrap().unwrap();
    assert_eq!(
        (newest.version(), newest.tokens().access_token()),
        (1, "token-1")
    );
    other.sessions.store.settle().await.unwrap();
    assert_eq!(stale.state(), SessionState::Superseded);
    let found = other.sessions.fetch(&id.key()).await.unwrap().unwrap();
    assert_eq!(found.tokens().access_token(), "token-1");
}

#[tokio::test]
async fn f_12_two_replicas_agree_on_one_token_set_after_a_split_brain() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let settings = server.settings();
    let (first, second) = (start(&settings, &fixture), start(&settings, &fixture));
    let id = open(&first.sessions, "alice", NOW).await;
    let old = first.value(&id).await.unwrap();
    let held = [
        session(&first.sessions, &id).await,
        session(&second.sessions, &id).await,
    ];
    // Each replica has refreshed the session, at a server of its own.
    let replaced = first
        .sessions
        .replace(&held[0], tokens("token-a"), None)
        .await;
    assert!(matches!(replaced, Ok(Replaced::Stored(_))));
    first.set_value(&id, &old).await;
    let replaced = second
        .sessions
        .replace(&held[1], tokens("token-b"), None)
        .await;
    assert!(matches!(replaced, Ok(Replaced::Stored(_))));
    for replica in [&first, &second] {
        replica.shared.cache.apply(Event::Lost);
        let found = replica.sessions.fetch(&id.key()).await.unwrap().unwrap();
        assert_eq!(
            (found.version(), found.tokens().access_token()),
            (1, "token-b")
        );
    }
}

#[tokio::test]
async fn f_12_sign_outs_and_used_values_that_a_failover_has_lost_count_again() {
    let (mut pair, fixture) = (Pair::start(), Fixture::memory());
    let settings = pair.settings();
    let (first, other) = (start(&settings, &fixture), start(&settings, &fixture));
    let [alone, of_user] = [
        open(&first.sessions, "alice", NOW).await,
        open(&first.sessions, "bob", NOW).await,
    ];
    pair.detach();
    let ended = first.sessions.end(&alone.key(), EndReason::SignedOut).await;
    assert_eq!(ended.unwrap(), Ended::Session);
    let bob = SessionsOf::User {
        issuer: "op",
        subject: "bob",
    };
    let why = EndReason::SignedOutAtProvider;
    let ended = first.sessions.end_all(bob, why, (None, NOW)).await;
    assert!(matches!(ended, Ok(EndedAll::Ended(keys)) if keys.len() == 1));
    let [used, given_back] = [[1; 32], [2; 32]].map(|mark| (MarkKind::State, mark));
    for mark in [used, given_back] {
        let once = first.sessions.once(mark, NOW, after(600)).await;
        assert_eq!(once.unwrap(), Once::First);
    }
    first.sessions.unmark(given_back).await.unwrap();
    // A login at the lost server is lost, because another replica may have ended the session.
    let lost = open(&first.sessions, "carol", NOW).await;
    // The server is away for longer than a replica remembers its changes.
    pair.first.kill();
    first.wait_until_down().await;
    first.clock.set(after(300));
    pair.fail_over(&[&first, &other]).await;
    for id in [&alone, &of_user, &lost] {
        assert!(first.value(id).await.is_none());
        assert!(other.sessions.fetch(&id.key()).await.unwrap().is_none());
    }
    let late = NewSession {
        begun_at: Timestamp::from_millis(NOW.as_millis() - 5000),
        ..login("bob")
    };
    let opened = other.sessions.open(late, NOW).await;
    assert!(
        matches!(opened, Err(OpenError::EndedMeanwhile)),
        "{opened:?}"
    );
    first.clock.set(NOW);
    for (mark, expected) in [(used, Once::Repeated), (given_back, Once::First)] {
        let once = other.sessions.once(mark, NOW, after(600)).await;
        assert_eq!(once.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_server_without_changes_of_its_name_delays_no_lease() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let settings = away::quick(&server);
    let started = start(&settings, &fixture);
    let id = open(&started.sessions, "alice", NOW).await;
    let before = generation(&started);
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    while generation(&started) == before {
        tokio::task::yield_now().await;
    }
    started.wait_until_up().await;
    drop(granted(lease(&started, &id).await));
    // The server was a replica of another server for a moment.
    assert_eq!(server.command(&["REPLICAOF", "127.0.0.1", "1"]), "OK");
    started.wait_until_down().await;
    assert_eq!(server.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    started.wait_until_up().await;
    assert!(matches!(lease(&started, &id).await, Leased::Held(_)));
}

#[tokio::test]
async fn f_12_a_lease_that_was_not_given_needs_no_release() {
    let (mut server, fixture) = (Server::start(&[]), Fixture::memory());
    let started = start(&away::quick(&server), &fixture);
    let id = open(&started.sessions, "alice", NOW).await;
    let refuse = ["ACL", "SETUSER", "default", "-eval"];
    assert_eq!(server.command(&refuse), "OK");
    for is_away in [false, true] {
        if is_away {
            server.kill();
            started.wait_until_down().await;
        }
        let leased = started.sessions.lease(&id.key(), NOW, after(65)).await;
        let is_unavailable = matches!(leased, Err(StoreError::Unavailable(_)));
        assert!(leased.is_err() && is_unavailable == is_away, "{leased:?}");
        // The store runs its tasks in turn, so it has also run a release.
        drop(
            started
                .sessions
                .once((MarkKind::State, [1; 32]), NOW, after(60))
                .await,
        );
        drop(
            started
                .sessions
                .once((MarkKind::State, [1; 32]), NOW, after(60))
                .await,
        );
        assert_eq!(started.shared.pending.releases(), 0, "{is_away}");
    }
}

/// Closes all connections, and waits until the replica has made its changes again.
async fn reconnect(server: &Server, replica: &Started) {
    let before = generation(replica);
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    let again = async {
        while generation(replica) == before {
            tokio::task::yield_now().await;
        }
    };
    let again = tokio::time::timeout(Duration::from_secs(20), again).await;
    assert!(again.is_ok(), "the replica cannot repeat its changes");
    replica.wait_until_up().await;
}

#[tokio::test]
async fn f_12_a_refused_read_of_one_session_does_not_prevent_a_connection() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let started = start(&away::quick(&server), &fixture);
    let [odd, lost] = [
        open(&started.sessions, "alice", NOW).await,
        open(&started.sessions, "bob", NOW).await,
    ];
    let old = started.value(&lost).await.unwrap();
    for id in [&odd, &lost] {
        let held = session(&started.sessions, id).await;
        let replaced = started.sessions.replace(&held, tokens("token-1"), None);
        assert!(matches!(replaced.await, Ok(Replaced::Stored(_))));
    }
    started.set_value(&lost, &old).await;
    // The server refuses to read a list as a text.
    let mut commands = redis::pipe();
    let name = started.key(&odd);
    commands
        .cmd("DEL")
        .arg(&name)
        .cmd("LPUSH")
        .arg(&name)
        .arg("");
    let _answers: (i64, i64) = started.shared.send_all(&commands).await.unwrap();
    reconnect(&server, &started).await;
    let stored = started.value(&lost).await.unwrap();
    assert_eq!(stored.get(1..9), Some(&1_u64.to_be_bytes()[..]));
}

/// The provider has refused the tokens of a version at one side of a split brain. The other side has newer tokens.
#[tokio::test]
async fn f_12_a_repeated_end_of_one_version_does_not_end_a_newer_version() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let started = start(&away::quick(&server), &fixture);
    let [newer, same] = [
        open(&started.sessions, "alice", NOW).await,
        open(&started.sessions, "bob", NOW).await,
    ];
    let old = started.value(&newer).await.unwrap();
    let of_same = started.value(&same).await.unwrap();
    let held = session(&started.sessions, &newer).await;
    let replaced = started.sessions.replace(&held, tokens("token-1"), None);
    assert!(matches!(replaced.await, Ok(Replaced::Stored(_))));
    let of_newer = started.value(&newer).await.unwrap();
    started.set_value(&newer, &old).await;
    for id in [&newer, &same] {
        let which = Which::Version(id.key(), 0);
        let ended = Arc::clone(&started.shared).end(which, EndReason::GrantEnded);
        assert_eq!(ended.await.unwrap().len(), 1);
    }
    started.set_value(&newer, &of_newer).await;
    started.set_value(&same, &of_same).await;
    reconnect(&server, &started).await;
    assert!(started.value(&newer).await.is_some());
    assert!(started.value(&same).await.is_none());
}
