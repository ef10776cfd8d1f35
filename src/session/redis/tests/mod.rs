//! Tests of the store with a real Redis server: the stored form, the round trips, and outages.

use super::error::{Meaning, meaning};
use super::server::Server;
use super::*;
use crate::session::cache::Event;
use crate::session::fixture::{Fixture, NOW, live, login, open, session, tokens};
use crate::session::groups::{EndedAll, SessionsOf};
use crate::session::{
    EndReason, Ended, Lookup, NewSession, OpenError, Replaced, SessionId, SessionState, Sessions,
};

use std::time::Duration;

mod away;
mod bound;
mod channels;
mod eviction;
mod failover;
mod moving;
mod refusals;
mod slots;

fn after(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

/// A replica of a store, with access to its connection.
struct Started {
    sessions: Sessions,
    shared: Arc<Shared>,
    clock: Clock,
}

/// Starts a replica with the keys and the providers of `fixture`.
fn start(settings: &RedisSettings, fixture: &Fixture) -> Started {
    try_start(settings, fixture).unwrap()
}

fn try_start(settings: &RedisSettings, fixture: &Fixture) -> Result<Started, StartError> {
    let limits = fixture.limits();
    let clock = Clock::manual(NOW);
    let replica = Replica {
        limits: Arc::clone(&limits),
        capacity: fixture.settings.capacity,
        registrations: fixture.providers.clone(),
        keys: fixture.ring().into(),
        clock: clock.clone(),
    };
    let store = RedisStore::start(settings.clone(), replica)?;
    let shared = Arc::clone(&store.shared);
    let sessions = Sessions::on(Arc::new(store), limits, clock.clone());
    Ok(Started {
        sessions,
        shared,
        clock,
    })
}

impl Started {
    /// Waits until the connection is in a state.
    async fn wait_until(&self, is_it: impl FnMut(&Link) -> bool) {
        let mut link = self.shared.link.subscribe();
        link.wait_for(is_it).await.unwrap();
    }

    async fn wait_until_up(&self) {
        self.wait_until(|link| matches!(link, Link::Up(_))).await;
    }

    async fn wait_until_down(&self) {
        self.wait_until(|link| matches!(link, Link::Down(_))).await;
    }

    fn key(&self, id: &SessionId) -> Vec<u8> {
        self.shared.names.session(id.key().as_bytes())
    }

    /// Returns the stored value of a session.
    async fn value(&self, id: &SessionId) -> Option<Vec<u8>> {
        let mut get = redis::cmd("GET");
        get.arg(self.key(id));
        self.shared.send(&get).await.unwrap()
    }

    async fn set_value(&self, id: &SessionId, value: &[u8]) {
        let mut set = redis::cmd("SET");
        set.arg(self.key(id)).arg(value);
        let _ok: String = self.shared.send(&set).await.unwrap();
    }

    /// Returns the keys of the store.
    async fn keys(&self) -> Vec<Vec<u8>> {
        let mut keys = redis::cmd("KEYS");
        keys.arg(format!("{}*", self.shared.names.prefix));
        self.shared.send(&keys).await.unwrap()
    }
}

#[tokio::test]
async fn f_13_the_store_contains_no_readable_part_of_a_session_and_no_session_id() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let started = start(&server.settings(), &fixture);
    let new = NewSession {
        sid: Some("canary-sid".into()),
        tokens: tokens("canary-token"),
        ..login("canary-subject")
    };
    let id = started.sessions.open(new, NOW).await.unwrap();
    let held = session(&started.sessions, &id).await;
    let next = started.sessions.replace(&held, tokens("canary-next"), None);
    assert!(matches!(next.await, Ok(Replaced::Stored(_))));
    let dump = [
        started.value(&id).await.unwrap(),
        started.keys().await.concat(),
    ]
    .concat();
    for secret in ["canary", id.to_text().expose()] {
        let secret = secret.as_bytes();
        assert!(!dump.windows(secret.len()).any(|found| found == secret));
    }
    // A value cannot be used for another session.
    let other = open(&started.sessions, "other", NOW).await;
    let value = started.value(&id).await.unwrap();
    started.set_value(&other, &value).await;
    started.shared.cache.apply(Event::Lost);
    assert!(!live(&started.sessions, &other, NOW).await);
    assert!(live(&started.sessions, &id, NOW).await);
}

#[tokio::test]
async fn f_13_a_damaged_or_foreign_value_counts_as_absent_and_nothing_panics() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let started = start(&server.settings(), &fixture);
    let id = open(&started.sessions, "alice", NOW).await;
    let whole = started.value(&id).await.unwrap();
    let mut values: Vec<Vec<u8>> = (0..whole.len())
        .map(|length| whole[..length].to_vec())
        .collect();
    // The bytes after the head and the name of the key are encrypted.
    for position in [1, 8, 9, 17, 33, 49, 64, 70, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[position] ^= 1;
        values.push(changed);
    }
    values.extend([b"0".to_vec(), b"{}".to_vec(), vec![0; 500]]);
    for value in values {
        started.set_value(&id, &value).await;
        let read = started.sessions.fetch(&id.key()).await;
        match value.first() {
            // These bytes look like a newer format, or like a key that this process does not have.
            Some(first) if *first > 1 => assert!(matches!(read, Err(StoreError::Newer))),
            _ if read.is_err() => assert!(matches!(read, Err(StoreError::UnknownKey))),
            _ => assert!(read.unwrap().is_none(), "{value:?}"),
        }
        // The user can sign in again, and the damaged session can be ended.
        started
            .sessions
            .end(&id.key(), EndReason::SignedOut)
            .await
            .unwrap();
        assert!(started.value(&id).await.is_none());
    }
    // The metric counts these reads by reason.
    let counts = started.sessions.unreadable();
    assert_eq!(
        counts.map(|(reason, count)| (reason, count > 0)),
        [("damaged", true), ("newer", true), ("unknown_key", true)]
    );
    started.set_value(&id, &whole).await;
    assert!(live(&started.sessions, &id, NOW).await);
    assert_eq!(started.sessions.unreadable(), counts);
}

#[tokio::test]
async fn f_31_f_36_a_value_of_a_newer_version_is_an_error_and_stays() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let settings = server.settings();
    let started = start(&settings, &fixture);
    let id = open(&started.sessions, "alice", NOW).await;
    let held = session(&started.sessions, &id).await;
    let mut newer = started.value(&id).await.unwrap();
    newer[0] = 2;
    started.set_value(&id, &newer).await;
    let read = started.sessions.fetch(&id.key()).await;
    assert!(matches!(read, Err(StoreError::Newer)), "{read:?}");
    let replaced = started.sessions.replace(&held, tokens("token-1"), None);
    assert!(matches!(replaced.await, Err(StoreError::Newer)));
    while started.sessions.maintain(after(3600)).await.unwrap() == crate::session::Maintained::More
    {
    }
    assert_eq!(started.value(&id).await.unwrap(), newer);
    // A sign-out ends the session in any version.
    let ended = started.sessions.end(&id.key(), EndReason::SignedOut).await;
    assert_eq!(ended.unwrap(), Ended::Session);
    assert!(started.value(&id).await.is_none());
}

#[tokio::test]
async fn f_31_replicas_with_other_providers_or_keys_leave_each_others_sessions_alone() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let settings = server.settings();
    let before = start(&settings, &fixture);
    let id = open(&before.sessions, "alice", NOW).await;
    let mut other = Fixture::memory();
    other.providers.insert("op".into(), [1; 32]);
    let changed = start(&settings, &other);
    assert!(changed.sessions.fetch(&id.key()).await.unwrap().is_none());
    other.providers.clear();
    let without = start(&settings, &other);
    assert!(without.sessions.fetch(&id.key()).await.unwrap().is_none());
    let mut rotated = Fixture::memory();
    rotated.keys = vec![2];
    let without_key = start(&settings, &rotated);
    let read = without_key.sessions.fetch(&id.key()).await;
    assert!(matches!(read, Err(StoreError::UnknownKey)), "{read:?}");
    // During a change of the keys, each replica has both keys.
    rotated.keys = vec![2, 1];
    let with_both = start(&settings, &rotated);
    let held = session(&with_both.sessions, &id).await;
    let next = with_both.sessions.replace(&held, tokens("token-1"), None);
    assert!(matches!(next.await, Ok(Replaced::Stored(_))));
    before.sessions.store.settle().await.unwrap();
    assert!(before.sessions.fetch(&id.key()).await.is_err());
    rotated.keys = vec![1, 2];
    let next = start(&settings, &rotated);
    assert!(live(&next.sessions, &id, NOW).await);
}

#[tokio::test]
async fn an_index_entry_without_a_session_is_removed_when_the_index_is_read() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let started = start(&server.settings(), &fixture);
    let alice = SessionsOf::User {
        issuer: "op",
        subject: "alice",
    };
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(open(&started.sessions, "alice", NOW).await);
    }
    // The server evicts the sessions, but not the indexes.
    for id in &ids[..2] {
        let mut delete = redis::cmd("DEL");
        delete.arg(started.key(id));
        let _deleted: u64 = started.shared.send(&delete).await.unwrap();
    }
    assert_eq!(
        started.sessions.keys_of(alice).await.unwrap(),
        [ids[2].key()]
    );
    // Evicted sessions do not count toward the limit of the user.
    for _ in 0..2 {
        open(&started.sessions, "alice", NOW).await;
    }
    assert!(live(&started.sessions, &ids[2], NOW).await);
    assert_eq!(started.sessions.keys_of(alice).await.unwrap().len(), 3);
    let ended = started
        .sessions
        .end_all(alice, EndReason::Revoked, (None, NOW));
    assert!(matches!(ended.await, Ok(EndedAll::Ended(keys)) if keys.len() == 3));
    started.shared.cache.apply(Event::Lost);
    assert!(
        started
            .sessions
            .fetch(&ids[0].key())
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn f_12_a_session_in_use_that_the_server_has_lost_ends_at_the_report_of_its_use() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let started = start(&server.settings(), &fixture);
    let (lost, kept) = (
        open(&started.sessions, "alice", NOW).await,
        open(&started.sessions, "bob", NOW).await,
    );
    let mut delete = redis::cmd("DEL");
    delete.arg(started.key(&lost));
    let _deleted: u64 = started.shared.send(&delete).await.unwrap();
    for id in [&lost, &kept] {
        assert!(live(&started.sessions, id, after(30)).await);
    }
    started.sessions.maintain(after(30)).await.unwrap();
    assert!(!live(&started.sessions, &lost, after(30)).await);
    assert!(live(&started.sessions, &kept, after(30)).await);
    assert_eq!(started.sessions.count(), 1);
}

#[tokio::test]
async fn thousands_of_sessions_end_in_several_scripts_and_the_notice_counts_once() {
    let (server, mut fixture) = (Server::start(&[]), Fixture::memory());
    fixture.settings.per_person = 5000;
    let started = start(&server.settings(), &fixture);
    let mut keys = Vec::new();
    for number in 0..2500 {
        let id = open(&started.sessions, &(number % 3).to_string(), NOW).await;
        keys.push(id.key());
    }
    let notice = crate::session::LogoutNotice {
        mark: [1; 32],
        until: after(60),
    };
    let of = SessionsOf::Keys(&keys[..2100]);
    for expected in [Some(2100), None] {
        let ended = started
            .sessions
            .end_all(of, EndReason::Revoked, (Some(notice), NOW));
        let count = match ended.await.unwrap() {
            EndedAll::Ended(ended) => Some(ended.len()),
            EndedAll::Repeated => None,
        };
        assert_eq!(count, expected);
    }
    let everyone = SessionsOf::Everyone;
    assert_eq!(started.sessions.keys_of(everyone).await.unwrap().len(), 400);
    let rest = started
        .sessions
        .end_all(everyone, EndReason::Revoked, (None, NOW));
    assert!(matches!(rest.await, Ok(EndedAll::Ended(ended)) if ended.len() == 400));
    assert_eq!(started.sessions.count(), 0);
}

#[tokio::test]
async fn every_key_has_a_time_to_live_except_the_index_of_all_sessions() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let started = start(&server.settings(), &fixture);
    let new = NewSession {
        sid: Some("sid".into()),
        ..login("alice")
    };
    let id = started.sessions.open(new, NOW).await.unwrap();
    let held = session(&started.sessions, &id).await;
    let next = started.sessions.replace(&held, tokens("token-1"), None);
    assert!(matches!(next.await, Ok(Replaced::Stored(_))));
    let lease = started.sessions.lease(&id.key(), NOW, after(65)).await;
    let mark = (crate::session::MarkKind::State, [1; 32]);
    let once = started.sessions.once(mark, NOW, after(60)).await;
    assert_eq!(once.unwrap(), crate::session::Once::First);
    let group = SessionsOf::User {
        issuer: "op",
        subject: "bob",
    };
    let ended = started
        .sessions
        .end_all(group, EndReason::Revoked, (None, NOW));
    assert!(matches!(ended.await, Ok(EndedAll::Ended(_))));
    let keys = started.keys().await;
    assert_eq!(keys.len(), 9, "{keys:?}");
    for key in keys {
        let mut left = redis::cmd("PTTL");
        left.arg(&key);
        let left: i64 = started.shared.send(&left).await.unwrap();
        let name = key.escape_ascii();
        let is_lasting = key.ends_with(b"{1}i1") || key.ends_with(b"{1}v");
        assert_eq!(left < 0, is_lasting, "{name}: {left}");
    }
    drop(lease);
}

/// The number of messages of [`messages`] itself.
const OWN: u64 = 2;

/// Returns the number of messages that the server has read from clients. Each message is a command
/// or a pipeline.
async fn messages(started: &Started) -> u64 {
    // The answer shows that the server has read all earlier messages.
    started.sessions.store.settle().await.unwrap();
    let mut info = redis::cmd("INFO");
    let stats: String = started.shared.send(info.arg("stats")).await.unwrap();
    let mut lines = stats.lines();
    let read = lines.find_map(|line| line.strip_prefix("total_reads_processed:"));
    read.unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn each_change_is_one_round_trip() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let mut settings = server.settings();
    // Heartbeats would count, too.
    settings.coherence = Duration::from_mins(10);
    let (started, other) = (start(&settings, &fixture), start(&settings, &fixture));
    other.sessions.store.settle().await.unwrap();
    let mut last = messages(&started).await;
    let mut count = async |what: &str, expected: u64| {
        let now = messages(&started).await;
        assert_eq!(now - last - OWN, expected, "{what}");
        last = now;
    };
    let sessions = &started.sessions;
    let mark = (crate::session::MarkKind::State, [1; 32]);
    let once = sessions.once(mark, NOW, after(60)).await;
    assert_eq!(once.unwrap(), crate::session::Once::First);
    let old = open(sessions, "alice", NOW).await;
    count("login: state and session", 2).await;
    for _ in 0..3 {
        let new = NewSession {
            replaces: vec![old.key()],
            ..login("alice")
        };
        sessions.open(new, NOW).await.unwrap();
    }
    let id = open(sessions, "alice", NOW).await;
    count("four logins, with replaced sessions and above the limit", 4).await;
    let held = session(sessions, &id).await;
    for _ in 0..100 {
        assert!(live(sessions, &id, NOW).await && sessions.still(&held, NOW, NOW));
    }
    count("requests with a cached session", 0).await;
    let there = session(&other.sessions, &id).await;
    count("the first request at another replica", 1).await;
    assert_eq!(there.version(), 0);
    let lease = sessions.lease(&id.key(), NOW, after(65)).await.unwrap();
    let replaced = sessions.replace(&held, tokens("token-1"), None).await;
    assert!(matches!(replaced, Ok(Replaced::Stored(_))));
    count("refresh: lease and session", 2).await;
    assert!(sessions.current(&id.key()).await.unwrap().is_some());
    sessions.end(&id.key(), EndReason::SignedOut).await.unwrap();
    count("sign-out", 1).await;
    drop(lease);
}

/// The number of sessions whose memory the test measures.
const SESSIONS: u64 = 4000;

#[tokio::test]
async fn a_session_needs_less_than_600_bytes_beyond_its_record() {
    let (server, mut fixture) = (Server::start(&[]), Fixture::memory());
    fixture.settings.per_person = 10;
    let started = start(&server.settings(), &fixture);
    let used = || {
        let memory = server.command(&["INFO", "memory"]);
        let mut lines = memory.lines();
        let used = lines.find_map(|line| line.strip_prefix("used_memory_dataset:"));
        used.unwrap().trim().parse::<u64>().unwrap()
    };
    let before = used();
    let mut record = 0;
    for number in 0..SESSIONS {
        let new = NewSession {
            sid: Some(number.to_string().into()),
            tokens: tokens(&"t".repeat(900)),
            ..login(&number.to_string())
        };
        let id = started.sessions.open(new, NOW).await.unwrap();
        if number == SESSIONS - 1 {
            record = u64::try_from(started.value(&id).await.unwrap().len()).unwrap();
        }
    }
    let each = (used() - before) / SESSIONS;
    println!("bytes of a session: {each}, of its record: {record}");
    assert!(each - record < 600, "{each} for {record}");
}
