//! Faults that end streams, and faults that must not end streams.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{OPEN, Plan, Row, greeting, run_row};
use crate::durable::stored_at;
use crate::support::killed::StoreFolder;
use crate::support::limits::limit_file_size;
use crate::support::raw::{Raw, exchange};
use crate::support::scene::{ORIGIN, wait_for_figure};
use crate::support::socket::{End, Opening, SocketApp};
use crate::support::upstream::{Answer, Recorded};
use crate::support::wire::TEST_TIMEOUT;
use crate::websocket::{closed_with, text_frame};

/// Fails unless both sides of a stream get a message of the other side.
async fn talk((client, app): &mut (End, End)) {
    app.send(text_frame("tick")).await;
    client.expect(text_frame("tick")).await;
    client.send("typing").await;
    app.expect("typing").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_09_w_07_an_app_that_dies_under_a_thousand_open_sockets_ends_them_all() {
    let plan = Plan {
        streams: "streams.per_client = 1000",
        ..Plan::default()
    };
    run_row("the app dies", plan, async |row: &mut Row| {
        let cookie = row.cookie("alice").await;
        let (mut clients, mut apps) = (Vec::new(), Vec::new());
        for _ in 0..1000 {
            let (client, app) = row.open(&cookie).await;
            clients.push(client);
            apps.push(app);
        }
        assert_eq!(row.figure(OPEN).await, 1000);
        // If a killed process has not read all bytes of a connection, the kernel ends the
        // connection with a reset. If the process has read all bytes, the kernel closes the
        // connection normally.
        row.sockets = SocketApp::start().await;
        for (number, app) in apps.into_iter().enumerate() {
            match number % 2 {
                0 => app.reset(),
                _ => drop(app),
            }
        }
        for (number, client) in clients.iter_mut().enumerate() {
            match number % 2 {
                0 => client.ends_with_reset().await,
                _ => assert_eq!(client.rest().await, b""),
            }
        }
        // No process listens at the address of the app.
        let opening = Opening::at("/any").of_browser(&cookie);
        let (head, _client) = opening.answer(row.gateway.address()).await;
        assert_eq!(head.status(), 502);
    })
    .await;
}

/// Until the gate opens, this app sends only half of a download, and begins no ordinary answer.
/// `begun` is notified when half of the download was sent.
fn held_answers(
    gate: &Arc<Notify>,
    begun: &Arc<Notify>,
) -> impl Fn(&Recorded) -> Answer + Send + Sync + 'static {
    let (gate, begun) = (Arc::clone(gate), Arc::clone(begun));
    move |request| match &*request.target() {
        "/download" => Answer::raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
            .then_notify(&begun)
            .then_await(&gate)
            .then_send(b" last"),
        "/upload" => Answer::ok(&String::from_utf8_lossy(&request.body)),
        _ => Answer::ok(&greeting(request)).held_by(&gate),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_14_w_08_a_stop_finishes_requests_and_closes_streams_at_the_end_of_the_drain() {
    let plan = Plan {
        server: "drain_secs = 3\nbuffer_mib = 0",
        ..Plan::default()
    };
    run_row("the gateway stops", plan, async |row: &mut Row| {
        let cookie = row.cookie("alice").await;
        let mut stream = row.open(&cookie).await;
        // The gateway accepts no new connection after the signal.
        row.stop_bystanders().await;
        let before = row.app.count();
        let (gate, begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        row.app.answer_by(held_answers(&gate, &begun));
        let head = |method: &str, path: &str| {
            format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\
                 Origin: {ORIGIN}\r\n"
            )
        };
        let connect = || Raw::connect(row.gateway.address());
        let (mut download, mut upload) = (connect().await, connect().await);
        let mut ordinary = connect().await;
        download.send(head("GET", "/download") + "\r\n").await;
        timeout(TEST_TIMEOUT, begun.notified()).await.unwrap();
        let half = "Content-Length: 10\r\n\r\nfirst";
        upload.send(head("POST", "/upload") + half).await;
        ordinary.send(head("GET", "/ordinary") + "\r\n").await;
        let arrived = |requests: &[Recorded]| requests.len() == before + 3;
        row.app.wait_until(arrived).await;
        row.gateway.signal("TERM").await;
        row.gateway.wait_for_log(|log| log.contains("rain")).await;
        talk(&mut stream).await;
        upload.send(" last").await;
        gate.notify_waiters();
        for (connection, method, text) in [
            (&mut download, "GET", "first last"),
            (&mut upload, "POST", "first last"),
            (&mut ordinary, "GET", "alice /ordinary"),
        ] {
            let response = connection.response(method).await.expect("an answer");
            assert_eq!((response.status(), response.text().as_str()), (200, text));
            assert!(response.body.complete, "{text}");
            connection.closed().await;
        }
        talk(&mut stream).await;
        let (mut client, mut app) = stream;
        closed_with(&mut client, 1001).await;
        assert_eq!(app.rest().await, b"");
        assert!(row.gateway.ended().await.success());
    })
    .await;
}

const KEPT: &str =
    "sidegate_refreshes_total{provider=\"main\",result=\"kept\",reason=\"provider_unreachable\"}";
const RENEWED: &str =
    "sidegate_refreshes_total{provider=\"main\",result=\"renewed\",reason=\"ok\"}";
const NOT_STORED: &str =
    "sidegate_refreshes_total{provider=\"main\",result=\"kept\",reason=\"session_not_stored\"}";

/// The lifetime of tokens in rows with a refresh, in seconds, and settings with which requests wait
/// until an outage has ended.
const LIFETIME: u64 = 5;
const WAIT: &str = "[session]\nrefresh_wait_secs = 60\n";

/// The longest time of a bystander's request that waits for the end of an outage.
const WAITING: Option<Duration> = Some(Duration::from_secs(15));

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_03_w_04_streams_continue_while_the_provider_is_down() {
    let plan = Plan {
        token_lifetime: Some(LIFETIME),
        longest: WAITING,
        rest: WAIT.to_owned(),
        ..Plan::default()
    };
    run_row("the provider is down", plan, async |row: &mut Row| {
        let mut stream = row.open(&row.bystanders[0].cookie).await;
        row.provider.down().await;
        let renewed = row.figure(RENEWED).await;
        // The bystanders' requests cause refreshes, also of the session of the stream.
        row.wait_for_at_least(KEPT, 4).await;
        talk(&mut stream).await;
        row.provider.up().await;
        // The gateway checks the stream again within a second after a refresh, and so before the
        // next refresh.
        row.wait_for_at_least(RENEWED, renewed + 4).await;
        talk(&mut stream).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_21_streams_continue_while_the_store_fails() {
    let folder = tempfile::tempdir().unwrap();
    let store_folder = StoreFolder::new(folder.path());
    let plan = Plan {
        token_lifetime: Some(LIFETIME),
        longest: WAITING,
        rest: format!("{WAIT}{}", stored_at(&store_folder, folder.path())),
        ..Plan::default()
    };
    run_row("the store fails", plan, async |row: &mut Row| {
        let cookie = row.bystanders[0].cookie.clone();
        let mut stream = row.open(&cookie).await;
        limit_file_size(row.gateway.id(), "1");
        // The bystanders' requests cause refreshes, also of the session of the stream. The results
        // of the refreshes cannot be stored.
        row.wait_for_at_least(NOT_STORED, 4).await;
        talk(&mut stream).await;
        let renewed = row.figure(RENEWED).await;
        limit_file_size(row.gateway.id(), "unlimited");
        row.wait_for_at_least(RENEWED, renewed + 4).await;
        talk(&mut stream).await;
        // The stream still ends with its session.
        row.stop_bystanders().await;
        let sign_out = format!(
            "POST /oauth2/sign_out HTTP/1.1\r\nHost: localhost\r\nOrigin: {ORIGIN}\r\n\
             Content-Length: 0\r\nCookie: {cookie}\r\n\r\n"
        );
        let answer = exchange(row.gateway.address(), sign_out.as_bytes(), 1).await;
        assert_eq!(answer.statuses(), [303]);
        closed_with(&mut stream.0, 1008).await;
        assert_eq!(stream.1.rest().await, b"");
    })
    .await;
}

/// The number of tunnels, and the number of tasks that open and end tunnels.
const TUNNELS: usize = 10_000;
const LANES: [&str; 8] = ["/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w_07_an_end_or_a_reset_reaches_the_other_side_and_leaves_nothing_open() {
    // Each task has its own app, so that the task knows which client and which app use the same
    // tunnel.
    let mut lanes = Vec::new();
    let mut rest = String::new();
    for path in LANES {
        let app = SocketApp::start().await;
        let name = path.trim_start_matches('/');
        let lane = format!(
            "[upstreams.lane{name}]\nurl = \"{}\"\n[[routes]]\nprefix = \"{path}\"\n\
             upstream = \"lane{name}\"\naccess = \"public\"\n",
            app.url()
        );
        rest.push_str(&lane);
        lanes.push((path, app));
    }
    let plan = Plan {
        rest,
        ..Plan::default()
    };
    run_row("one side leaves", plan, async |row: &mut Row| {
        let gateway = row.gateway.address();
        let mut tasks = JoinSet::new();
        for (path, app) in lanes {
            tasks.spawn(async move {
                for round in 0..TUNNELS / LANES.len() {
                    let mut client = Opening::at(path).send(gateway).await;
                    let app = app.switch().await;
                    assert_eq!(client.wire.head().await.unwrap().status(), 101);
                    one_side_leaves(round, client, app).await;
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        for path in LANES {
            let open = format!("sidegate_streams_open{{route=\"{path}\",kind=\"websocket\"}}");
            wait_for_figure(row.gateway.operations(), &open, 0).await;
        }
        row.outcome.more_rows += 3;
    })
    .await;
}

/// One of the four ways in which one side of a tunnel can end the tunnel.
async fn one_side_leaves(round: usize, mut client: End, mut app: End) {
    match round % 4 {
        0 => {
            client.finish().await;
            assert_eq!(app.rest().await, b"");
            app.send("last").await;
            app.finish().await;
            assert_eq!(client.rest().await, b"last");
        }
        1 => {
            app.finish().await;
            assert_eq!(client.rest().await, b"");
            client.send("last").await;
            client.finish().await;
            assert_eq!(app.rest().await, b"last");
        }
        2 => {
            client.send([0x81]).await;
            app.expect([0x81]).await;
            client.reset();
            app.ends_with_reset().await;
        }
        _ => {
            app.send([0x81]).await;
            client.expect([0x81]).await;
            app.reset();
            client.ends_with_reset().await;
        }
    }
}
