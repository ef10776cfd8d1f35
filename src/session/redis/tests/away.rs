//! Outages: the server does not answer, and comes back.

use super::*;
use crate::session::{EndRegistry, Leased, SessionEvent, SessionKey};

/// Settings with short times. The tests turn a manual clock, and only the connection uses real time.
pub(super) fn quick(server: &Server) -> RedisSettings {
    let mut settings = server.settings();
    settings.coherence = Duration::from_millis(400);
    settings.command_timeout = Duration::from_millis(500);
    settings.connect_timeout = Duration::from_millis(500);
    settings
}

/// A server that keeps its data.
const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

#[tokio::test]
async fn f_12_cached_sessions_continue_for_the_outage_and_nobody_is_signed_out() {
    let (mut server, fixture) = (Server::start(&DURABLE), Fixture::memory());
    let settings = quick(&server);
    let (started, other) = (start(&settings, &fixture), start(&settings, &fixture));
    let sessions = &started.sessions;
    let cached = open(sessions, "alice", NOW).await;
    let uncached = open(&other.sessions, "bob", NOW).await;
    let held = session(sessions, &cached).await;
    server.kill();
    started.wait_until_down().await;
    // A cached session continues until the end of the outage, and no longer.
    assert!(matches!(sessions.find(&cached, after(59)), Lookup::Live(_)));
    assert!(sessions.still(&held, after(59), after(59)));
    assert!(matches!(sessions.find(&cached, after(60)), Lookup::Away));
    // Other sessions cannot be used, but they have not ended.
    let read = sessions.fetch(&uncached.key()).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    assert!(sessions.fetch(&cached.key()).await.unwrap().is_some());
    // Nothing can change, and no new refresh may begin.
    let opened = sessions.open(login("carol"), NOW).await;
    assert!(matches!(
        opened,
        Err(OpenError::Store(StoreError::Unavailable(_)))
    ));
    let replaced = sessions.replace(&held, tokens("token-1"), None).await;
    assert!(matches!(replaced, Err(StoreError::Unavailable(_))));
    let lease = sessions.lease(&cached.key(), NOW, after(65)).await;
    assert!(matches!(lease, Err(StoreError::Unavailable(_))));
    assert!(matches!(sessions.ready(), Err(StoreError::Unavailable(_))));
    server.start_again(&DURABLE);
    started.wait_until_up().await;
    for id in [&cached, &uncached] {
        assert!(live(sessions, id, after(30)).await);
    }
    assert!(sessions.ready().is_ok());
    open(sessions, "carol", NOW).await;
}

#[tokio::test]
async fn f_12_a_sign_out_during_an_outage_ends_the_session_here_and_later_everywhere() {
    let (mut server, fixture) = (Server::start(&DURABLE), Fixture::memory());
    let settings = quick(&server);
    let (started, other) = (start(&settings, &fixture), start(&settings, &fixture));
    let id = open(&started.sessions, "alice", NOW).await;
    let there = session(&other.sessions, &id).await;
    let watch = tokio::task::LocalSet::new();
    watch
        .run_until(async {
            let sessions = Arc::new(other.sessions);
            let registry = EndRegistry::start(Arc::clone(&sessions), Clock::manual(NOW));
            let watch = registry.watch(&there).unwrap();
            server.kill();
            started.wait_until_down().await;
            let end = started.sessions.end(&id.key(), EndReason::SignedOut).await;
            assert_eq!(end.unwrap(), Ended::OnlyHere);
            assert!(!live(&started.sessions, &id, NOW).await);
            assert_eq!(there.state(), SessionState::Live);
            server.start_again(&DURABLE);
            started.wait_until_up().await;
            assert!(!live(&started.sessions, &id, NOW).await);
            assert!(started.value(&id).await.is_none());
            // The other replica learns of the end from the server, and its streams end.
            let event = watch.next().await;
            assert!(matches!(
                event,
                SessionEvent::Ended(EndReason::SignedOut | EndReason::Elsewhere)
            ));
            assert_eq!(there.state(), SessionState::Ended);
        })
        .await;
}

#[tokio::test]
async fn f_12_streams_end_when_a_session_was_not_confirmed_for_the_outage() {
    let (mut server, mut fixture) = (Server::start(&[]), Fixture::memory());
    fixture.settings.idle = Duration::from_mins(5);
    let started = start(&quick(&server), &fixture);
    let id = open(&started.sessions, "alice", NOW).await;
    let held = session(&started.sessions, &id).await;
    let (sessions, clock) = (Arc::new(started.sessions), started.clock.clone());
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let registry = EndRegistry::start(Arc::clone(&sessions), clock.clone());
            let watch = registry.watch(&held).unwrap();
            server.kill();
            let mut link = started.shared.link.subscribe();
            let down = link.wait_for(|link| matches!(link, Link::Down(_)));
            drop(down.await.unwrap());
            clock.set(after(60));
            let event = watch.next().await;
            assert!(matches!(event, SessionEvent::Ended(EndReason::Unconfirmed)));
        })
        .await;
}

#[tokio::test]
async fn f_12_an_emptied_server_ends_all_sessions_and_accepts_new_ones() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let started = start(&quick(&server), &fixture);
    let id = open(&started.sessions, "alice", NOW).await;
    assert_eq!(server.command(&["FLUSHALL"]), "OK");
    assert!(started.sessions.fetch(&id.key()).await.unwrap().is_none());
    assert!(!live(&started.sessions, &id, NOW).await);
    let again = open(&started.sessions, "alice", NOW).await;
    assert!(live(&started.sessions, &again, NOW).await);
    // The server restarts without its data.
    let mut server = server;
    server.kill();
    started.wait_until_down().await;
    server.start_again(&[]);
    started.wait_until_up().await;
    assert!(!live(&started.sessions, &again, NOW).await);
}

#[tokio::test]
async fn a_server_that_is_stopped_counts_as_away_and_commands_fail_at_once() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let started = start(&quick(&server), &fixture);
    let id = open(&started.sessions, "alice", NOW).await;
    let pid = server.command(&["INFO", "server"]);
    let pid = pid
        .lines()
        .find_map(|line| line.strip_prefix("process_id:"));
    let pid = pid.unwrap().trim().to_owned();
    let signal = |signal: &str| {
        let status = std::process::Command::new("kill")
            .args([signal, &pid])
            .status();
        assert!(status.unwrap().success());
    };
    signal("-STOP");
    // The first request waits for the command. It then uses the cache.
    assert!(started.sessions.fetch(&id.key()).await.unwrap().is_some());
    started.wait_until_down().await;
    let began = Clock::system().instant();
    for _ in 0..50 {
        let read = started.sessions.fetch(&SessionKey::FIRST).await;
        assert!(matches!(read, Err(StoreError::Unavailable(_))));
    }
    let took = Clock::system().instant().saturating_duration_since(began);
    assert!(took < Duration::from_millis(400), "{took:?}");
    assert!(matches!(
        started.sessions.find(&id, after(59)),
        Lookup::Live(_)
    ));
    signal("-CONT");
    started.wait_until_up().await;
    assert!(live(&started.sessions, &id, NOW).await);
}

#[tokio::test]
async fn a_replica_starts_while_the_server_is_away_and_connects_later() {
    let (mut server, fixture) = (Server::start(&[]), Fixture::memory());
    server.kill();
    let started = start(&quick(&server), &fixture);
    let opened = started.sessions.open(login("alice"), NOW).await;
    assert!(matches!(
        opened,
        Err(OpenError::Store(StoreError::Unavailable(_)))
    ));
    server.start_again(&[]);
    started.wait_until_up().await;
    let id = open(&started.sessions, "alice", NOW).await;
    assert!(live(&started.sessions, &id, NOW).await);
}

#[tokio::test]
async fn a_lost_subscription_makes_every_session_be_asked_for_again() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let settings = quick(&server);
    let (started, other) = (start(&settings, &fixture), start(&settings, &fixture));
    let ids = [
        open(&started.sessions, "alice", NOW).await,
        open(&started.sessions, "bob", NOW).await,
    ];
    let held = session(&started.sessions, &ids[0]).await;
    let generation_of = |replica: &Started| replica.shared.cache.coherence().generation();
    let (generation, other_generation) = (generation_of(&started), generation_of(&other));
    // The messages of this end are lost, because the connections were closed.
    let killed = server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert!(killed.parse::<u32>().is_ok(), "{killed}");
    let killed = server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert!(killed.parse::<u32>().is_ok(), "{killed}");
    // On the old connection, the end would stay pending.
    while generation_of(&other) == other_generation {
        tokio::task::yield_now().await;
    }
    other
        .sessions
        .end(&ids[0].key(), EndReason::SignedOut)
        .await
        .unwrap();
    while generation_of(&started) == generation {
        tokio::task::yield_now().await;
    }
    assert!(!started.sessions.still(&held, NOW, NOW));
    assert!(!live(&started.sessions, &ids[0], NOW).await);
    assert!(live(&started.sessions, &ids[1], NOW).await);
}

#[tokio::test]
async fn with_the_system_clock_a_cached_session_may_be_used_only_shortly_after_a_heartbeat() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let clock = Clock::system();
    let replica = Replica {
        limits: fixture.limits(),
        capacity: fixture.settings.capacity,
        registrations: fixture.providers.clone(),
        keys: fixture.ring().into(),
        clock: clock.clone(),
    };
    let limits = Arc::clone(&replica.limits);
    let store = RedisStore::start(server.settings(), replica).unwrap();
    let sessions = Sessions::on(Arc::new(store), limits, clock.clone());
    let new = NewSession {
        begun_at: clock.now(),
        ..login("alice")
    };
    let id = sessions.open(new, clock.now()).await.unwrap();
    let held = sessions.fetch(&id.key()).await.unwrap().unwrap();
    let now = clock.now();
    // A process that was stopped for a second reads a later time than the last heartbeat allows.
    assert!(
        !sessions
            .coherence
            .covers(held.stored(), now.plus(Duration::from_secs(1)))
    );
    let mut covered = false;
    for _ in 0..1_000_000 {
        covered = sessions.coherence.covers(held.stored(), clock.now());
        if covered {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(covered);
}

#[tokio::test]
async fn an_end_whose_answer_is_late_also_counts_at_the_replica_that_ordered_it() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let settings = quick(&server);
    let started = start(&settings, &fixture);
    let (sessions, why) = (&started.sessions, EndReason::SignedOutAtProvider);
    let id = open(sessions, "alice", NOW).await;
    // The server is silent for longer than a command may take, but keeps the connection.
    server.command(&["CLIENT", "PAUSE", "900", "ALL"]);
    let ended = sessions.end_all(SessionsOf::Everyone, why, (None, NOW));
    assert!(matches!(ended.await, Err(StoreError::Unavailable(_))));
    started.wait_until_down().await;
    started.wait_until_up().await;
    assert!(!matches!(sessions.find(&id, NOW), Lookup::Live(_)));
    assert!(!live(sessions, &id, NOW).await);
}

#[tokio::test]
async fn f_12_a_release_that_does_not_reach_the_server_is_repeated() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let settings = quick(&server);
    let (started, other) = (start(&settings, &fixture), start(&settings, &fixture));
    let id = open(&started.sessions, "alice", NOW).await;
    let lost = open(&started.sessions, "bob", NOW).await;
    let lease = started.sessions.lease(&id.key(), NOW, after(65)).await;
    assert!(matches!(lease, Ok(Leased::Granted(_))));
    // The server answers no write, for longer than a command may take.
    let paused = server.command(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    assert_eq!(paused, "OK");
    let unanswered = started.sessions.lease(&lost.key(), NOW, after(65)).await;
    assert!(matches!(unanswered, Err(StoreError::Unavailable(_))));
    started.wait_until_down().await;
    drop(lease);
    // The release fails at once, because the connection is down.
    while started.shared.pending.releases() == 0 {
        tokio::task::yield_now().await;
    }
    other.wait_until_down().await;
    assert_eq!(server.command(&["CLIENT", "UNPAUSE"]), "OK");
    started.wait_until_up().await;
    other.wait_until_up().await;
    // The next heartbeat repeats a release whose answer was late.
    while started.shared.pending.releases() > 0 {
        tokio::task::yield_now().await;
    }
    for id in [&id, &lost] {
        let lease = other.sessions.lease(&id.key(), NOW, after(65)).await;
        assert!(matches!(lease, Ok(Leased::Granted(_))), "{lease:?}");
    }
}

#[tokio::test]
async fn f_12_a_server_that_has_lost_a_sign_out_gets_the_sign_out_again() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let settings = quick(&server);
    let (started, other) = (start(&settings, &fixture), start(&settings, &fixture));
    let [alone, in_group, kept] = [
        open(&started.sessions, "alice", NOW).await,
        open(&started.sessions, "bob", NOW).await,
        open(&started.sessions, "carol", NOW).await,
    ];
    let mut before = Vec::new();
    for id in [&alone, &in_group] {
        before.push(started.value(id).await.unwrap());
    }
    let (sessions, why) = (&started.sessions, EndReason::SignedOut);
    assert_eq!(
        sessions.end(&alone.key(), why).await.unwrap(),
        Ended::Session
    );
    let group = SessionsOf::Keys(&[in_group.key()]);
    let ended = sessions.end_all(group, why, (None, NOW)).await;
    assert!(matches!(ended, Ok(EndedAll::Ended(keys)) if keys.len() == 1));
    // A server takes over that has not received the ends.
    for (id, value) in [&alone, &in_group].into_iter().zip(&before) {
        started.set_value(id, value).await;
    }
    for id in [&alone, &in_group] {
        assert!(live(&other.sessions, id, NOW).await);
    }
    let generation = started.shared.cache.coherence().generation();
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    while started.shared.cache.coherence().generation() == generation {
        tokio::task::yield_now().await;
    }
    started.wait_until_up().await;
    for id in [&alone, &in_group] {
        assert!(started.value(id).await.is_none());
        while live(&other.sessions, id, NOW).await {
            tokio::task::yield_now().await;
        }
    }
    assert!(live(&other.sessions, &kept, NOW).await);
}

/// Checks that the server counts as away: a session in memory continues, and no session can begin.
pub(super) async fn counts_as_away(started: &Started, id: &SessionId) {
    let found = started.sessions.find(id, after(59));
    assert!(matches!(found, Lookup::Live(_)));
    let opened = started.sessions.open(login("bob"), NOW).await;
    assert!(matches!(
        opened,
        Err(OpenError::Store(StoreError::Unavailable(_)))
    ));
}

#[tokio::test]
async fn f_12_a_server_that_loads_its_data_counts_as_away() {
    let (mut server, fixture) = (Server::start(&DURABLE), Fixture::memory());
    let started = start(&quick(&server), &fixture);
    let id = open(&started.sessions, "alice", NOW).await;
    // A server that loads its data answers clients after each two megabytes.
    let fill = "for i = 1, 2000 do redis.call('SET', 'filler' .. i, string.rep('x', 4096)) end";
    server.command(&["EVAL", fill, "0"]);
    server.kill();
    started.wait_until_down().await;
    let socket = server.socket();
    let starting = std::thread::spawn(move || {
        // A millisecond for each key.
        let slow = ["--key-load-delay", "1000"];
        server.start_again(&[&DURABLE[..], &slow].concat());
        server
    });
    let ping = || {
        let mut ping = std::process::Command::new("redis-cli");
        let output = ping.arg("-s").arg(&socket).arg("PING").output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // Until the server listens, the answer is an error.
    let mut said = (0..20_000).map(|_attempt| ping());
    let said = said.find(|said| said.contains("LOADING") || said.contains("PONG"));
    let said = said.unwrap_or_default();
    assert!(said.contains("LOADING"), "{said}");
    counts_as_away(&started, &id).await;
    started.wait_until_up().await;
    assert!(live(&started.sessions, &id, NOW).await);
    drop(
        tokio::task::spawn_blocking(|| starting.join().unwrap())
            .await
            .unwrap(),
    );
}
