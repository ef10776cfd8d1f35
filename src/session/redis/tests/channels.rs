//! The channels of the replicas, and the check over the network.

use super::*;

/// Runs the check over the network, and returns its findings as lines.
async fn found(settings: &RedisSettings) -> String {
    let mut findings = crate::origin::Findings::new("store".to_owned());
    settings.probe(&mut findings).await;
    let list = findings.into_list();
    let lines = list.iter().map(ToString::to_string);
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn the_check_over_the_network_reports_policy_and_persistence() {
    let server = Server::start(&[]);
    let mut settings = server.settings();
    let good = found(&settings).await;
    assert!(good.contains("loses all sessions"), "{good}");
    assert!(
        good.contains("all rights") && good.contains("keeps all sessions"),
        "{good}"
    );
    // Every key that the check has written is removed or has a time to live.
    let kept = server.command(&["KEYS", "*"]);
    assert!(!kept.contains("{1}i1") && !kept.contains("{1}mc"), "{kept}");
    let set = |key: &str, value: &str| {
        assert_eq!(server.command(&["CONFIG", "SET", key, value]), "OK");
    };
    set("maxmemory", "100mb");
    set("maxmemory-policy", "allkeys-lru");
    let evicts = found(&settings).await;
    assert!(
        evicts.contains("maxmemory-policy is allkeys-lru"),
        "{evicts}"
    );
    set("appendonly", "yes");
    let durable = found(&settings).await;
    assert!(
        durable.contains("append-only file") && !durable.contains("appendonly no"),
        "{durable}"
    );
    settings.servers = vec![settings::Address::Unix("/nowhere/redis.sock".into())];
    assert!(found(&settings).await.contains("cannot be reached"));
}

/// The port accepts the connection and waits for a line, like a server without TLS.
#[tokio::test]
async fn the_check_over_the_network_reports_a_port_without_tls() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&ca, signed.cert.pem()).unwrap();
    let mut settings = Server::start(&[]).settings();
    settings.servers = vec![settings::Address::Tcp(
        url::Host::parse("127.0.0.1").unwrap(),
        address.port(),
    )];
    settings.connect_timeout = Duration::from_millis(200);
    let silent = format!("{address} does not answer in time");
    assert!(found(&settings).await.contains(&silent));
    settings.tls = Some(settings::TlsFiles {
        ca: Some(ca),
        client: None,
    });
    let silent = format!("{address} does not answer the TLS handshake in time; write redis://");
    let found = found(&settings).await;
    assert!(found.contains(&silent), "{found}");
}

#[tokio::test]
async fn a_database_that_does_not_exist_and_a_server_that_is_no_sentinel_are_mistakes() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let settings = RedisSettings {
        database: 99,
        ..server.settings()
    };
    let refused = "refuses the database of session.store.redis";
    assert!(found(&settings).await.contains(refused));
    assert!(try_start(&settings, &fixture).is_err());
    let settings = RedisSettings {
        sentinel_master: Some("main".to_owned()),
        ..server.settings()
    };
    assert!(found(&settings).await.contains("is not a Sentinel"));
    assert!(try_start(&settings, &fixture).is_err());
}

#[tokio::test]
async fn the_check_over_the_network_reports_missing_rights() {
    let server = Server::start(&[]);
    let settings = server.settings();
    assert_eq!(
        server.command(&["ACL", "SETUSER", "default", "-pubsub"]),
        "OK"
    );
    let without_count = found(&settings).await;
    assert!(
        without_count.contains("cannot count the replicas"),
        "{without_count}"
    );
    let user = [
        "ACL",
        "SETUSER",
        "default",
        "resetkeys",
        "resetchannels",
        "~other:*",
    ];
    assert_eq!(server.command(&user), "OK");
    let without = found(&settings).await;
    for missing in [
        "write keys",
        "write indexes",
        "read indexes",
        "remove keys",
        "acquire leases",
        "end sessions",
        "send messages",
        "receive messages",
    ] {
        assert!(
            without.contains(&format!("cannot {missing}")),
            "{missing}: {without}"
        );
    }
}

#[tokio::test]
async fn stores_in_two_databases_share_no_messages_and_no_replicas() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let mut settings = server.settings();
    settings.coherence = Duration::from_millis(400);
    let first = start(&settings, &fixture);
    settings.database = 3;
    let [second, third] = [start(&settings, &fixture), start(&settings, &fixture)];
    for started in [&first, &second, &third] {
        started.wait_until_up().await;
    }
    // The check is no replica.
    found(&settings).await;
    for (started, expected) in [(&first, 1), (&second, 2)] {
        let events = started.shared.names.events();
        assert!(events.starts_with(&settings.prefix), "{events}");
        let subscribed = server.command(&["PUBSUB", "NUMSUB", &events]);
        assert_eq!(
            subscribed.lines().last(),
            Some(expected.to_string().as_str())
        );
        while started.sessions.replicas().get() != expected {
            tokio::task::yield_now().await;
        }
    }
    let id = open(&second.sessions, "alice", NOW).await;
    let there = session(&third.sessions, &id).await;
    second
        .sessions
        .end(&id.key(), EndReason::SignedOut)
        .await
        .unwrap();
    third.sessions.store.settle().await.unwrap();
    assert_eq!(there.state(), SessionState::Ended);
    let said = server.command(&["PUBSUB", "CHANNELS", &format!("{}*", settings.prefix)]);
    assert_eq!(said.lines().count(), 5, "{said}");
}

#[tokio::test]
async fn the_check_does_not_subscribe_to_the_changes() {
    let server = Server::start(&[]);
    let settings = server.settings();
    let mut watch = std::process::Command::new("redis-cli")
        .arg("-s")
        .arg(server.socket())
        .arg("MONITOR")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "OK");
    found(&settings).await;
    server.command(&["ECHO", "the-check-has-ended"]);
    let lines = lines.map_while(Result::ok);
    let lines = lines.take_while(|line| !line.contains("the-check-has-ended"));
    let subscribed: Vec<_> = lines
        .filter(|line| line.contains("\"SUBSCRIBE\""))
        .collect();
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert!(!subscribed.is_empty());
    for command in subscribed {
        let is_own = command.contains("heartbeat:") && !command.contains("events");
        assert!(is_own, "{command}");
    }
}
