//! Three gateways that share their sessions in a real Redis server.

mod moving;
mod outages;
mod partitions;
mod sentinels;

use std::time::Duration;

use tokio::task::JoinSet;

use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::certificates::Authority;
use crate::support::gateway::Settings;
use crate::support::redis::{Redis, Replicas};
use crate::support::scene::{ORIGIN, SESSION, figure, url, wait_for_figure};

/// A time after the expiry of a token with a lifetime of one minute.
const OVER: Duration = Duration::from_secs(61);

/// Signs out at the gateway that the browser reaches.
async fn sign_out_at(browser: &Browser) -> Page {
    let none: [(&str, &str); 0] = [];
    let visit = BrowserRequest::navigation(&url("/oauth2/sign_out")).form(&none);
    browser.send(visit.from(ORIGIN)).await
}

#[tokio::test]
async fn a_login_at_one_replica_is_a_session_at_all_until_a_sign_out_at_any() {
    let redis = Redis::start(&[]).await;
    let replicas = Replicas::start(&redis).await;
    for (login, sign_out) in [(0, 2), (1, 0), (2, 1)] {
        let browser = replicas.signed_in("alice", login).await;
        let cookie = browser.cookie(ORIGIN, SESSION).unwrap();
        for number in 0..3 {
            let page = replicas.at(&browser, number).open(&url("/page")).await;
            assert_eq!(page.text(), "seen", "{}", page.describe());
        }
        assert_eq!(browser.cookie(ORIGIN, SESSION).unwrap(), cookie);
        let out = sign_out_at(&replicas.at(&browser, sign_out)).await;
        assert!(out.status == 303 || out.status == 200, "{}", out.describe());
        // A thief has the old cookie.
        browser.plant(ORIGIN, &format!("{SESSION}={cookie}; Path=/; Secure"));
        for number in [sign_out, 0, 1, 2] {
            // A replica learns of the sign-out after at most one second.
            let refused = async {
                loop {
                    let page = replicas.at(&browser, number).fetch(&url("/page")).await;
                    if page.status == 401 {
                        break;
                    }
                    assert_ne!(number, sign_out, "{}", page.describe());
                }
            };
            let refused = tokio::time::timeout(Duration::from_secs(1), refused).await;
            assert!(refused.is_ok(), "replica {number}");
        }
    }
}

#[tokio::test]
async fn g_01_requests_at_all_replicas_at_the_end_of_a_token_make_one_refresh() {
    let redis = Redis::start(&[]).await;
    let replicas = Replicas::start(&redis).await;
    let browser = replicas.signed_in("alice", 0).await;
    for round in 1..=3 {
        for number in 0..3 {
            replicas.at(&browser, number).fetch(&url("/warm")).await;
        }
        replicas.clock.advance(OVER);
        let gate = replicas.provider.hold_refreshes();
        let mut asking = JoinSet::new();
        for request in 0..150 {
            let browser = replicas.at(&browser, request % 3);
            asking.spawn(async move { browser.fetch(&url(&format!("/{request}"))).await });
        }
        for gateway in &replicas.gateways {
            let waiting = "sidegate_waiting_requests";
            wait_for_figure(gateway.operations(), waiting, 50).await;
        }
        gate.notify_one();
        while let Some(page) = asking.join_next().await {
            let page = page.unwrap();
            assert_eq!(page.text(), "seen", "{}", page.describe());
        }
        assert_eq!(replicas.provider.refreshes().len(), round);
    }
}

#[tokio::test]
async fn d_26_replicas_divide_the_calls_to_a_provider() {
    let redis = Redis::start(&[]).await;
    let store = format!("[session.store.redis]\nurls = [\"{}\"]\n", redis.url());
    let limited = |settings: Settings| settings.of_provider("token_calls_per_minute = 6\n");
    let mut replicas = Replicas::with_settings(&store, limited).await;
    for gateway in &replicas.gateways {
        let replicas = "sidegate_session_store_replicas";
        wait_for_figure(gateway.operations(), replicas, 3).await;
    }
    for number in 0..3 {
        for user in ["alice", "bob"] {
            replicas.signed_in(user, number).await;
        }
    }
    // The codes wait for ten seconds, because no call is left.
    let mut waiting = JoinSet::new();
    for number in 0..3 {
        let browser = replicas.at(&replicas.browser_of("carol"), number);
        waiting.spawn(async move { browser.visit(&url("/page")).await });
    }
    for page in waiting.join_all().await {
        assert_eq!(page.status, 503, "{}", page.describe());
        assert!(page.text().contains("too_many_codes"));
    }
    // A replica that has stopped leaves its part to the others.
    drop(replicas.gateways.pop());
    let operations = replicas.gateways[0].operations();
    wait_for_figure(operations, "sidegate_session_store_replicas", 2).await;
    replicas.clock.advance(Duration::from_mins(1));
    for user in ["dave", "erin", "frank"] {
        replicas.signed_in(user, 0).await;
    }
    let page = replicas.at(&replicas.browser_of("grace"), 0);
    let page = page.visit(&url("/page")).await;
    assert_eq!(page.status, 503, "{}", page.describe());
}

#[tokio::test]
async fn f_17_a_replica_that_is_replaced_loses_no_session() {
    let redis = Redis::start(&[]).await;
    let mut replicas = Replicas::start(&redis).await;
    let browser = replicas.signed_in("alice", 0).await;
    let store = format!("[session.store.redis]\nurls = [\"{}\"]\n", redis.url());
    for _ in 0..3 {
        let old = replicas.gateways.remove(0);
        let ((), new) = tokio::join!(old.drain(), async { replicas.another(&store) });
        replicas.gateways.push(new);
        for number in 0..3 {
            let page = replicas.at(&browser, number).open(&url("/page")).await;
            assert_eq!(page.text(), "seen", "{}", page.describe());
        }
    }
    let count = figure(replicas.gateways[0].operations(), "sidegate_sessions").await;
    assert_eq!(count, Some(1));
    // The logins of all replicas were at the provider only one time.
    assert_eq!(replicas.provider.exchanges().len(), 1);
}

/// Starts a server that accepts only encrypted connections with a client certificate. Returns the
/// server and its port.
async fn encrypted(certificate: &str, key: &str, ca: &str) -> (Redis, String) {
    let port = crate::support::program::free_address();
    let port = port.rsplit_once(':').unwrap().1.to_owned();
    let files = [
        "--tls-cert-file",
        certificate,
        "--tls-key-file",
        key,
        "--tls-ca-cert-file",
        ca,
    ];
    let options = [
        &["--tls-port", &port, "--tls-auth-clients", "yes"],
        &files[..],
    ]
    .concat();
    (Redis::start(&options).await, port)
}

#[tokio::test]
async fn a_store_with_tls_a_client_certificate_and_a_user_with_limited_rights() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let files = authority.issue(folder.path(), &["localhost"]);
    let (certificate, key) = (
        files.certificate.display().to_string(),
        files.key.display().to_string(),
    );
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let ca = ca.display().to_string();
    let (redis, port) = encrypted(&certificate, &key, &ca).await;
    let set = [
        "ACL",
        "SETUSER",
        "gateway",
        "on",
        ">pass-word",
        "~gw:*",
        "resetchannels",
        "&gw:*",
        "-@all",
    ];
    let rights = [
        "+@read",
        "+@write",
        "+@connection",
        "+@pubsub",
        "+@scripting",
        "+time",
    ];
    let set: Vec<_> = set
        .into_iter()
        .chain(rights)
        .chain(["-@dangerous"])
        .collect();
    assert_eq!(redis.command(&set).await, "OK");
    let [username, password] = ["username", "password"].map(|name| folder.path().join(name));
    std::fs::write(&username, "gateway\n").unwrap();
    std::fs::write(&password, "pass-word\n").unwrap();
    let store = format!(
        "[session.store.redis]\nurls = [\"rediss://localhost:{port}\"]\nprefix = \"gw:\"\n\
         username_file = \"{}\"\npassword_file = \"{}\"\nca_file = \"{ca}\"\n\
         client_cert_file = \"{certificate}\"\nclient_key_file = \"{key}\"\n",
        username.display(),
        password.display(),
    );
    let replicas = Replicas::with(&store).await;
    let browser = replicas.signed_in("alice", 0).await;
    let page = replicas.at(&browser, 1).open(&url("/page")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    // All keys have the prefix. The client shows each key on one line, in quotes.
    let keys = redis.command(&["--no-raw", "KEYS", "*"]).await;
    assert!(
        !keys.is_empty() && keys.lines().all(|key| key.contains(") \"gw:")),
        "{keys}"
    );
}
