//! Stops of the gateway under load: SIGTERM and SIGKILL. With the disk store, everybody is still
//! signed in after the restart.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Barrier;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::apps::get;
use super::door::Door;
use super::{Plan, Row, greeting, run_row};
use crate::durable::stored_at;
use crate::support::killed::StoreFolder;
use crate::support::scene::SESSION;
use crate::support::upstream::{Answer, RecordingUpstream};
use crate::support::wire::TEST_TIMEOUT;

/// The address of a gateway that is stopped and started again.
const ADDRESS: Option<&str> = Some("127.0.0.4");

/// The number of clients with one connection, and the requests at once of each HTTP/2 client.
const CLIENTS: usize = 8;
const STREAMS: usize = 8;

/// The time in which the app answers, so that many requests are in progress at any time.
const WORK: Duration = Duration::from_millis(50);

/// The number of requests before the stop.
const WARM: usize = 100;

fn plan(app: &RecordingUpstream, folder: &Path) -> Plan {
    let stored = stored_at(&StoreFolder::new(folder), folder);
    Plan {
        rest: format!(
            "[upstreams.load]\nurl = \"{}\"\n\
             [[routes]]\nprefix = \"/load\"\nupstream = \"load\"\n{stored}",
            app.url()
        ),
        address: ADDRESS,
        ..Plan::default()
    }
}

/// An app that takes some time for each answer.
async fn working_app() -> RecordingUpstream {
    let app = RecordingUpstream::start().await;
    app.forget_what_is_answered();
    app.answer_by(|request| {
        let text = greeting(request);
        Answer::after(WORK, move || Answer::ok(&text))
    });
    app
}

/// Sends one request after the other, until the gateway closes the connection. Returns the number
/// of answers, each of which must be complete. Waits at `begun` after the first answer.
async fn over_http_1(door: Arc<Door>, cookie: String, begun: Arc<Barrier>) -> usize {
    let mut client = door.connect().await;
    let mut answered = 0;
    loop {
        if answered == 1 {
            begun.wait().await;
        }
        let request = format!("GET /load HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n");
        client.send(request).await;
        let Some(answer) = client.response("GET").await else {
            return answered;
        };
        assert_eq!((answer.status(), &*answer.text()), (200, "alice /load"));
        assert!(answer.body.complete);
        answered += 1;
    }
}

/// Does the same with several requests at once on one HTTP/2 connection.
async fn over_http_2(door: Arc<Door>, cookie: String, begun: Arc<Barrier>) -> usize {
    let mut client = door.connect_http2().await;
    let mut answered = 0;
    let mut numbers = (1..).step_by(2);
    loop {
        if answered == STREAMS {
            begun.wait().await;
        }
        let streams: Vec<u32> = numbers.by_ref().take(STREAMS).collect();
        for stream in &streams {
            client.head(*stream, &get("/load", &cookie), false).await;
        }
        for (body, complete) in client.bodies(&streams).await {
            if body.is_empty() && !complete {
                return answered;
            }
            let text = String::from_utf8(body).unwrap();
            assert_eq!((&*text, complete), ("alice /load", true));
            answered += 1;
        }
    }
}

/// The clients and the row wait here until each client has an answer. On a busy machine, a client
/// could otherwise connect only after the stop.
fn barrier() -> Arc<Barrier> {
    Arc::new(Barrier::new(CLIENTS + 1))
}

/// Sends SIGTERM while `clients` send requests. Every request that has reached the app is answered.
async fn terminate(
    row: &mut Row,
    app: &RecordingUpstream,
    (mut clients, begun): (JoinSet<usize>, Arc<Barrier>),
) {
    begun.wait().await;
    app.wait_until(|requests| requests.len() > WARM).await;
    row.door.close();
    row.gateway.signal("TERM").await;
    let mut answered = 0;
    while let Some(ended) = clients.join_next().await {
        answered += ended.unwrap();
    }
    assert_eq!(answered, app.count());
    assert!(row.gateway.ended().await.success());
    row.restart().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_14_sigterm_under_http_1_load_breaks_no_answer_and_signs_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let app = working_app().await;
    let plan = plan(&app, folder.path());
    run_row(
        "SIGTERM under HTTP/1.1 load",
        plan,
        async |row: &mut Row| {
            let cookie = row.cookie("alice").await;
            let (mut clients, begun) = (JoinSet::new(), barrier());
            for _ in 0..CLIENTS {
                let client = over_http_1(Arc::clone(&row.door), cookie.clone(), Arc::clone(&begun));
                clients.spawn(client);
            }
            terminate(row, &app, (clients, begun)).await;
            row.is_signed_in("alice", &cookie).await;
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_14_sigterm_under_http_2_load_breaks_no_answer_and_signs_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let app = working_app().await;
    let plan = Plan {
        tls: true,
        ..plan(&app, folder.path())
    };
    run_row("SIGTERM under HTTP/2 load", plan, async |row: &mut Row| {
        let cookie = row.cookie("alice").await;
        let (mut clients, begun) = (JoinSet::new(), barrier());
        for _ in 0..CLIENTS {
            let client = over_http_2(Arc::clone(&row.door), cookie.clone(), Arc::clone(&begun));
            clients.spawn(client);
        }
        terminate(row, &app, (clients, begun)).await;
    })
    .await;
}

/// The number of kills, the users who sign in before and during each kill, and the number of logins
/// before it.
const KILLS: usize = 3;
const USERS: usize = 12;
const SIGNED_IN: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_16_sigkill_during_requests_and_logins_signs_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let app = working_app().await;
    let plan = plan(&app, folder.path());
    run_row("SIGKILL", plan, async |row: &mut Row| {
        row.outcome.more_rows += KILLS - 1;
        let mut signed_in = vec![("alice".to_owned(), row.cookie("alice").await)];
        for kill in 0..KILLS {
            let (mut tasks, begun) = (JoinSet::new(), barrier());
            for _ in 0..CLIENTS {
                let (door, cookie) = (Arc::clone(&row.door), signed_in[0].1.clone());
                let load = over_http_1(door, cookie, Arc::clone(&begun));
                tasks.spawn(async move {
                    load.await;
                });
            }
            begun.wait().await;
            let (sender, mut logins) = unbounded_channel();
            for number in 0..USERS {
                let user = format!("user{kill}-{number}");
                let (browser, sender) = (row.browser(&user), sender.clone());
                let origin = row.door.origin();
                tasks.spawn(async move {
                    browser.visit(&format!("{origin}/start")).await;
                    let cookie = browser.cookie(origin, SESSION).unwrap();
                    sender.send((user, format!("{SESSION}={cookie}"))).unwrap();
                });
            }
            for _ in 0..SIGNED_IN {
                let login = timeout(TEST_TIMEOUT, logins.recv()).await.unwrap();
                signed_in.push(login.unwrap());
            }
            row.door.close();
            row.gateway.signal("KILL").await;
            assert!(!row.gateway.ended().await.success());
            // A login or a request in progress fails, which nobody can avoid.
            tasks.shutdown().await;
            while let Ok(login) = logins.try_recv() {
                signed_in.push(login);
            }
            row.restart().await;
            for (user, cookie) in &signed_in {
                row.is_signed_in(user, cookie).await;
            }
        }
    })
    .await;
}
