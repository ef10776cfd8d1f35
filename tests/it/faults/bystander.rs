//! A user of another app, who must not notice a fault.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Door;
use super::outcome::Seen;
use crate::support::raw::{Raw, Response};

/// The time between two requests.
const PAUSE: Duration = Duration::from_millis(5);

/// A signed-in user who sends one request after the other on one connection.
pub(super) struct Bystander {
    /// The `Cookie` field of the session.
    pub(super) cookie: String,
    stop: watch::Sender<bool>,
    task: JoinHandle<Seen>,
}

impl Bystander {
    /// Starts to send requests, and waits until the first request was answered.
    pub(super) async fn start(door: &Arc<Door>, user: &'static str, cookie: String) -> Self {
        let door = Arc::clone(door);
        let (stop, stopped) = watch::channel(false);
        let mut connection = door.connect().await;
        let mut seen = Seen::default();
        request(&mut connection, user, &cookie, &mut seen).await;
        let own = cookie.clone();
        let task = tokio::spawn(async move {
            loop {
                // The request after the signal to stop is the last request. The last request begins
                // after the fault.
                let last = *stopped.borrow();
                if !request(&mut connection, user, &own, &mut seen).await {
                    connection = door.connect().await;
                }
                if last {
                    return seen;
                }
                sleep(PAUSE).await;
            }
        });
        Self { cookie, stop, task }
    }

    /// Stops the user after one more request. Returns the answers that the user has received.
    pub(super) async fn stop(self) -> Seen {
        self.stop.send_replace(true);
        self.task.await.unwrap()
    }
}

/// Sends one request. Returns whether the connection stays open.
async fn request(connection: &mut Raw, user: &str, cookie: &str, seen: &mut Seen) -> bool {
    let path = format!("/page/{}", seen.requests);
    seen.requests += 1;
    connection.forget();
    connection
        .send(format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\
             Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n\r\n"
        ))
        .await;
    let Some(response) = connection.response("GET").await else {
        seen.failed.push(format!("{path} of {user}: no answer"));
        return false;
    };
    let what = || {
        format!(
            "{path} of {user}: {} {}",
            response.status(),
            response.text()
        )
    };
    match response.status() {
        200 if response.text() == format!("{user} {path}") => {}
        200 => seen.crossed.push(what()),
        401 | 303 => seen.forced_logins.push(what()),
        _ => seen.failed.push(what()),
    }
    stays_open(&response)
}

fn stays_open(response: &Response) -> bool {
    let connection = response.head.value("connection").unwrap_or_default();
    !connection.eq_ignore_ascii_case("close")
}
