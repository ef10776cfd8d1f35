//! Answers with which a server refuses commands or connections.

use super::*;

/// Returns the error with which the client reports this answer of the server.
fn error(answer: &str) -> RedisError {
    let line = format!("-{answer}\r\n");
    let value = redis::parse_redis_value(line.as_bytes()).unwrap();
    value.extract_error().unwrap_err()
}

#[test]
fn f_12_each_answer_of_a_server_has_one_meaning() {
    for (answer, expected) in [
        ("MOVED 12182 127.0.0.1:6413", Meaning::Reconnect),
        ("CLUSTERDOWN The cluster is down", Meaning::Reconnect),
        (
            "READONLY You can't write against a read only replica.",
            Meaning::Reconnect,
        ),
        (
            "NOREPLICAS Not enough good replicas to write.",
            Meaning::Reconnect,
        ),
        ("MASTERDOWN Link with MASTER is down", Meaning::Reconnect),
        ("NOAUTH Authentication required.", Meaning::Reconnect),
        (
            "ERR Error running script (call to f_0): READONLY You can't write",
            Meaning::Reconnect,
        ),
        (
            "LOADING Redis is loading the dataset in memory",
            Meaning::Busy,
        ),
        ("BUSY Redis is busy running a script.", Meaning::Busy),
        (
            "TRYAGAIN Multiple keys request during rehashing of slot",
            Meaning::Busy,
        ),
        (
            "OOM command not allowed when used memory > 'maxmemory'.",
            Meaning::Refused,
        ),
        (
            "NOPERM this user has no permissions to run the 'eval' command",
            Meaning::Refused,
        ),
        (
            "MISCONF Redis is configured to save RDB snapshots",
            Meaning::Refused,
        ),
        ("ERR unknown command 'EVAL'", Meaning::Refused),
        ("WRONGTYPE Operation against a key", Meaning::Refused),
    ] {
        assert_eq!(meaning(&error(answer)), expected, "{answer}");
    }
}

#[tokio::test]
async fn f_12_a_full_server_refuses_logins_and_keeps_sessions_and_sign_outs() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let mut settings = server.settings();
    settings.coherence = Duration::from_millis(400);
    let started = start(&settings, &fixture);
    let (alice, bob) = (
        open(&started.sessions, "alice", NOW).await,
        open(&started.sessions, "bob", NOW).await,
    );
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    let opened = started.sessions.open(login("carol"), NOW).await;
    assert!(matches!(
        opened,
        Err(OpenError::Store(StoreError::Refused(_)))
    ));
    // The next heartbeat shows that the server refuses changes.
    while started.sessions.ready().is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(
        started.sessions.ready(),
        Err(StoreError::Refused(_))
    ));
    started.shared.cache.apply(Event::Lost);
    assert!(live(&started.sessions, &alice, NOW).await);
    let ended = started.sessions.end(&bob.key(), EndReason::SignedOut).await;
    assert_eq!(ended.unwrap(), Ended::Session);
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    open(&started.sessions, "carol", NOW).await;
    // The next heartbeat shows that the server accepts changes again.
    while started.sessions.ready().is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn f_12_a_server_that_became_a_replica_is_left() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let mut settings = server.settings();
    settings.coherence = Duration::from_millis(400);
    let started = start(&settings, &fixture);
    let id = open(&started.sessions, "alice", NOW).await;
    assert_eq!(server.command(&["REPLICAOF", "127.0.0.1", "1"]), "OK");
    started.wait_until_down().await;
    assert!(matches!(started.sessions.find(&id, NOW), Lookup::Live(_)));
    // New connections to this server do not change that.
    let attempts = || {
        let said = server.command(&["INFO", "commandstats"]);
        let calls = said.split("cmdstat_subscribe:calls=").nth(1);
        let calls = calls.and_then(|calls| calls.split(',').next());
        calls.unwrap().parse::<u32>().unwrap()
    };
    let before = attempts();
    while attempts() < before + 3 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(started.sessions.find(&id, NOW), Lookup::Live(_)));
    let opened = started.sessions.open(login("carol"), NOW).await;
    assert!(matches!(
        opened,
        Err(OpenError::Store(StoreError::Unavailable(_)))
    ));
    assert_eq!(server.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    started.wait_until_up().await;
    assert!(live(&started.sessions, &id, NOW).await);
    open(&started.sessions, "carol", NOW).await;
}

#[tokio::test]
async fn f_12_passwords_and_rights_are_checked_and_a_new_password_is_read_again() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let mut settings = server.settings();
    let rights = format!("~{0}* resetchannels &{0}*", settings.prefix);
    let rights: Vec<_> = rights.split(' ').collect();
    let user = |password: &str| {
        let mut arguments = vec!["ACL", "SETUSER", "gateway", "on", "resetpass", password];
        arguments.extend(&rights);
        arguments.extend([
            "-@all",
            "+@read",
            "+@write",
            "+@connection",
            "+@pubsub",
            "+@scripting",
        ]);
        arguments.extend(["+time", "-@dangerous"]);
        server.command(&arguments)
    };
    assert_eq!(user(">first"), "OK");
    let folder = tempfile::tempdir().unwrap();
    let [username, password] = ["username", "password"].map(|name| folder.path().join(name));
    std::fs::write(&username, "gateway\n").unwrap();
    std::fs::write(&password, "wrong\n").unwrap();
    settings.login.username = Some(username);
    settings.login.password = Some(password.clone());
    let refused = try_start(&settings, &fixture).map(drop).unwrap_err();
    let refused = crate::telemetry::chain(&refused);
    assert!(
        refused.contains("password_file") && refused.contains("WRONGPASS"),
        "{refused}"
    );
    assert!(!refused.contains("wrong\n"));
    std::fs::write(&password, "first\n").unwrap();
    let started = start(&settings, &fixture);
    let id = open(&started.sessions, "alice", NOW).await;
    // The user has no rights for other keys.
    let mut get = redis::cmd("GET");
    get.arg("elsewhere");
    let read = started.shared.send::<Option<String>>(&get).await;
    assert!(matches!(read, Err(StoreError::Refused(_))), "{read:?}");
    assert!(live(&started.sessions, &id, NOW).await);
    // The password changes, and the server closes the connection.
    assert_eq!(user(">second"), "OK");
    std::fs::write(&password, "second\n").unwrap();
    let generation = started.shared.cache.coherence().generation();
    server.command(&["CLIENT", "KILL", "USER", "gateway"]);
    while started.shared.cache.coherence().generation() == generation {
        tokio::task::yield_now().await;
    }
    started.wait_until_up().await;
    assert!(live(&started.sessions, &id, NOW).await);
    // A user without the right to run scripts cannot sign in, and no session ends.
    assert_eq!(
        server.command(&["ACL", "SETUSER", "gateway", "-@scripting"]),
        "OK"
    );
    let opened = started.sessions.open(login("bob"), NOW).await;
    assert!(matches!(
        opened,
        Err(OpenError::Store(StoreError::Refused(_)))
    ));
    assert!(live(&started.sessions, &id, NOW).await);
}

#[tokio::test]
async fn a_node_of_a_cluster_is_refused_at_the_start() {
    // The node also listens at a fixed port, so each process uses its own loopback address.
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = format!("127.{high}.{}.{low}", 1);
    let server = Server::start(&["--cluster-enabled", "yes", "--bind", &address]);
    let refused = try_start(&server.settings(), &Fixture::memory());
    let refused = crate::telemetry::chain(&refused.map(drop).unwrap_err());
    assert!(refused.contains("Redis Cluster"), "{refused}");
}

/// Lets the server refuse all writes, because it cannot save its data.
fn refuse_to_save(server: &Server) {
    // The server cannot replace a folder by its file.
    let file = server.socket().with_file_name("dump.rdb");
    std::fs::create_dir(file).unwrap();
    assert_eq!(server.command(&["CONFIG", "SET", "save", "3600 1"]), "OK");
    server.command(&["BGSAVE"]);
    let failed = "rdb_last_bgsave_status:err";
    while !server.command(&["INFO", "persistence"]).contains(failed) {}
}

#[tokio::test]
async fn f_12_a_sign_out_that_the_server_refuses_ends_the_session_here_and_later_everywhere() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let mut settings = server.settings();
    settings.coherence = Duration::from_millis(400);
    let (started, other) = (start(&settings, &fixture), start(&settings, &fixture));
    for can_save in [true, false] {
        let id = open(&started.sessions, "alice", NOW).await;
        let there = session(&other.sessions, &id).await;
        let accept = if can_save {
            let refuse = ["ACL", "SETUSER", "default", "-eval"];
            assert_eq!(server.command(&refuse), "OK");
            ["ACL", "SETUSER", "default", "+eval"]
        } else {
            refuse_to_save(&server);
            ["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]
        };
        let ended = started.sessions.end(&id.key(), EndReason::SignedOut).await;
        assert_eq!(ended.unwrap(), Ended::OnlyHere);
        assert!(!live(&started.sessions, &id, NOW).await);
        assert_eq!(there.state(), SessionState::Live);
        assert_eq!(server.command(&accept), "OK");
        while there.state() != SessionState::Ended {
            tokio::task::yield_now().await;
        }
        assert!(started.value(&id).await.is_none());
    }
}
