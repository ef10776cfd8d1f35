//! Apps that fail: down, silent, resetting, slow to accept, or with half an answer. Clients with
//! HTTP/1.1 and HTTP/2 get an error in time, and after the fault every connection can be used
//! again.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::door::Door;
use super::{LONGEST, Plan, Row, greeting, run_row};
use crate::support::h2::Outcome;
use crate::support::upstream::{Answer, RecordingUpstream};

/// The number of clients of each version of HTTP. The app has fewer connections than there are
/// clients.
const CLIENTS: usize = 4;

/// The route of the app that fails.
const ROUTE: &str = "connections = 4\nconnect_timeout_secs = 1\nresponse_timeout_secs = 1\n\
                     body_timeout_secs = 1\n[[routes]]\nprefix = \"/faulty\"\nupstream = \"faulty\"\n";

/// The time for which an app accepts no connection. The app is late, but not too late.
const LATE: Duration = Duration::from_millis(500);

/// The first part of an answer.
const HALF: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";

/// An answer of the app that fails, and what a client sees: a status, or `unfinished`.
fn answers() -> [(Answer, &'static str); 7] {
    let half_head = Answer::raw(b"HTTP/1.1 200 O");
    [
        (Answer::silence(), "504"),
        (Answer::silence().then_close(), "502"),
        (Answer::silence().then_reset(), "502"),
        (half_head.clone(), "504"),
        (half_head.then_close(), "502"),
        (Answer::raw(HALF).then_close(), "unfinished"),
        (Answer::raw(HALF).then_reset(), "unfinished"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_09_f_10_an_app_that_fails_gives_an_error_in_time_and_serves_again() {
    let mut app = RecordingUpstream::start().await;
    run_row("the app fails", plan(&app), async |row: &mut Row| {
        let cookie = row.cookie("alice").await;
        let answers = answers();
        row.outcome.more_rows += 2 * answers.len() + 1;
        for (number, (answer, sight)) in answers.into_iter().enumerate() {
            app.answer_by(move |_request| answer.clone());
            sees(row, &cookie, sight, &format!("answer {number}")).await;
            serves(&app, row, &cookie).await;
        }
        let address = app.stop().await;
        sees(row, &cookie, "502", "down").await;
        app = RecordingUpstream::at(address).await;
        serves(&app, row, &cookie).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_10_an_app_that_is_slow_to_accept_gives_an_error_in_time_and_serves_again() {
    let mut app = RecordingUpstream::start().await;
    run_row(
        "the app is slow to accept",
        plan(&app),
        async |row: &mut Row| {
            let cookie = row.cookie("alice").await;
            row.outcome.more_rows += 3;
            // The queue of connections that are not accepted yet is full, so nobody can connect.
            let address = app.stop().await;
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(address).unwrap();
            let listener = socket.listen(1).unwrap();
            let waiting = fill(&listener).await;
            sees(row, &cookie, "504", "a full queue").await;
            drop((listener, waiting));
            app = RecordingUpstream::at(address).await;
            serves(&app, row, &cookie).await;
            // The app accepts the waiting connections before the deadline.
            let address = app.stop().await;
            let listener = TcpListener::bind(address).await.unwrap();
            let accepting = async {
                sleep(LATE).await;
                let app = RecordingUpstream::on(listener);
                app.answer_by(|request| Answer::ok(&greeting(request)));
                app
            };
            let (_app, ()) = tokio::join!(accepting, sees(row, &cookie, "200", "late"));
        },
    )
    .await;
}

fn plan(app: &RecordingUpstream) -> Plan {
    Plan {
        rest: format!("[upstreams.faulty]\nurl = \"{}\"\n{ROUTE}", app.url()),
        tls: true,
        ..Plan::default()
    }
}

/// Opens connections that the listener does not accept, until no more connection can be opened.
async fn fill(listener: &TcpListener) -> Vec<TcpStream> {
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    let brief = Duration::from_millis(200);
    while let Ok(stream) = timeout(brief, TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
    }
    waiting
}

/// Fails unless every client sees `sight` in time.
async fn sees(row: &Row, cookie: &str, sight: &str, fault: &str) {
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(over_http_1(Arc::clone(&row.door), cookie.to_owned()));
        clients.spawn(over_http_2(Arc::clone(&row.door), cookie.to_owned()));
    }
    let seen = timeout(LONGEST, clients.join_all()).await;
    let seen = seen.unwrap_or_else(|_| panic!("{fault}: no answer in time"));
    assert_eq!(seen, [sight; 2 * CLIENTS], "{fault}");
}

/// Fails unless the app serves every client again.
async fn serves(app: &RecordingUpstream, row: &Row, cookie: &str) {
    app.answer_by(|request| Answer::ok(&greeting(request)));
    sees(row, cookie, "200", "after the fault").await;
}

async fn over_http_1(door: Arc<Door>, cookie: String) -> String {
    let mut client = door.connect().await;
    let request = format!("GET /faulty HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n");
    client.send(request).await;
    match client.response("GET").await {
        Some(answer) if answer.body.complete => answer.status().to_string(),
        Some(_) | None => "unfinished".to_owned(),
    }
}

async fn over_http_2(door: Arc<Door>, cookie: String) -> String {
    let mut client = door.connect_http2().await;
    client.head(1, &get("/faulty", &cookie), false).await;
    match client.outcome(1).await {
        Outcome::Status(200) => {
            let (_body, complete) = client.received(1, usize::MAX).await;
            let sight = if complete { "200" } else { "unfinished" };
            sight.to_owned()
        }
        Outcome::Status(status) => status.to_string(),
        Outcome::Refused => "unfinished".to_owned(),
    }
}

/// The fields of a GET request over HTTP/2.
pub(super) fn get<'a>(path: &'a str, cookie: &'a str) -> [(&'a [u8], &'a [u8]); 5] {
    [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", path.as_bytes()),
        (b"cookie", cookie.as_bytes()),
    ]
}
