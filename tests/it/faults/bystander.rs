//! A user who must not notice a fault.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::door::Door;
use super::outcome::{Seen, now};
use crate::support::raw::{Raw, Response};

/// The time between two requests.
const PAUSE: Duration = Duration::from_millis(5);

/// A signed-in user who sends one request after the other on one connection.
pub(super) struct Bystander {
    /// The `Cookie` field of the session.
    pub(super) cookie: String,
    stop: watch::Sender<bool>,
    /// The number of requests that have ended.
    count: watch::Receiver<usize>,
    task: JoinHandle<Seen>,
}

impl Bystander {
    /// Starts, and waits until the first request was answered. Each request has to end within
    /// `longest`. With `repeats`, the user repeats a request if its kept connection was closed without
    /// an answer, as browsers do (RFC 9112 section 9.3.1).
    pub(super) async fn start(
        door: &Arc<Door>,
        user: &'static str,
        cookie: String,
        (longest, repeats): (Duration, bool),
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (count, counted) = watch::channel(0);
        let mut visit = Visit {
            door: Arc::clone(door),
            user,
            cookie: cookie.clone(),
            longest,
            repeats,
            connection: None,
            seen: Seen::default(),
            count,
        };
        visit.request().await;
        let task = tokio::spawn(async move {
            loop {
                // The request after the signal to stop is the last request. The last request begins
                // after the fault.
                let last = *stopped.borrow();
                visit.request().await;
                if last {
                    return visit.seen;
                }
                sleep(PAUSE).await;
            }
        });
        Self {
            cookie,
            stop,
            count: counted,
            task,
        }
    }

    /// Waits until `more` requests have ended.
    pub(super) async fn sends(&mut self, more: usize) {
        let enough = *self.count.borrow() + more;
        let waiting = self.count.wait_for(|count| *count >= enough);
        waiting.await.unwrap();
    }

    /// Stops the user after one more request. Returns the answers that the user has received.
    pub(super) async fn stop(self) -> Seen {
        self.stop.send_replace(true);
        self.task.await.unwrap()
    }
}

/// The requests of a bystander.
struct Visit {
    door: Arc<Door>,
    user: &'static str,
    cookie: String,
    longest: Duration,
    repeats: bool,
    /// The open connection, if there is one.
    connection: Option<Raw>,
    seen: Seen,
    count: watch::Sender<usize>,
}

impl Visit {
    /// Sends one request, and records how it ended.
    async fn request(&mut self) {
        let path = format!("/page/{}", self.seen.requests);
        self.seen.requests += 1;
        let user = self.user;
        let what = |end: &str| format!("{path} of {user}: {end}");
        // A request that begins or ends while the gateway does not run can fail.
        let mut excused = self.door.is_closed();
        let began = now();
        let answered = timeout(self.longest, exchange(self, &path)).await;
        self.seen.times.push((began, now() - began));
        self.count.send_replace(self.seen.requests);
        excused |= self.door.is_closed();
        let Ok(answered) = answered else {
            self.connection = None;
            self.seen.stuck.push(what("no answer in time"));
            return;
        };
        let Some((connection, response)) = answered else {
            if !excused {
                self.seen.failed.push(what("no answer"));
            }
            return;
        };
        let text = response.text();
        let end = || what(&format!("{} {text}", response.status()));
        match response.status() {
            _ if !response.body.complete && excused => {}
            _ if !response.body.complete => self.seen.failed.push(end()),
            200 if text == format!("{user} {path}") => {}
            200 => self.seen.crossed.push(end()),
            401 | 303 => self.seen.forced_logins.push(end()),
            _ if excused => {}
            _ => self.seen.failed.push(end()),
        }
        if response.body.complete && stays_open(&response) {
            self.connection = Some(connection);
        }
    }
}

/// Sends a request and reads its answer. Returns `None` if there is no answer.
async fn exchange(visit: &mut Visit, path: &str) -> Option<(Raw, Response)> {
    if let Some(kept) = visit.connection.take() {
        let answered = exchange_over(kept, &visit.cookie, path).await;
        if answered.is_some() || !visit.repeats {
            return answered;
        }
    }
    exchange_over(visit.door.connect().await, &visit.cookie, path).await
}

async fn exchange_over(mut connection: Raw, cookie: &str, path: &str) -> Option<(Raw, Response)> {
    connection.forget();
    connection
        .send(format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\
             Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n\r\n"
        ))
        .await;
    let response = connection.response("GET").await?;
    Some((connection, response))
}

fn stays_open(response: &Response) -> bool {
    let connection = response.head.value("connection").unwrap_or_default();
    !connection.eq_ignore_ascii_case("close")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Bystander, Door};
    use crate::support::upstream::{Answer, RecordingUpstream};

    #[tokio::test]
    async fn each_wrong_answer_counts_for_its_own_oracle() {
        let server = RecordingUpstream::start().await;
        server.answer_by(|request| Answer::ok(&format!("bob {}", request.target())));
        let door = Arc::new(Door::new(server.address(), None));
        let longest = Duration::from_millis(500);
        let bystander = Bystander::start(&door, "bob", "a=b".to_owned(), (longest, false)).await;
        let login = [("Location", "https://id.example.com/authorize")];
        for answer in [
            Answer::with(503, &[], "busy"),
            Answer::silence().then_close(),
            Answer::raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbob").then_close(),
            Answer::with(401, &[], "sign in"),
            Answer::with(303, &login, ""),
            Answer::ok("carol /page/0"),
            Answer::silence(),
        ] {
            server.next(answer);
        }
        let before = server.count();
        server
            .wait_until(|requests| requests.len() > before + 8)
            .await;
        let seen = bystander.stop().await;
        assert_eq!(seen.failed.len(), 3, "{:?}", seen.failed);
        assert_eq!(seen.forced_logins.len(), 2, "{:?}", seen.forced_logins);
        assert_eq!(seen.crossed.len(), 1, "{:?}", seen.crossed);
        assert_eq!(seen.stuck.len(), 1, "{:?}", seen.stuck);
        assert!(seen.requests > before + 8);
    }

    #[tokio::test]
    async fn a_closed_door_excuses_only_missing_answers() {
        let server = RecordingUpstream::start().await;
        server.answer_by(|request| Answer::ok(&format!("bob {}", request.target())));
        let door = Arc::new(Door::new(server.address(), None));
        let longest = Duration::from_secs(5);
        let bystander = Bystander::start(&door, "bob", "a=b".to_owned(), (longest, false)).await;
        door.close();
        server.next(Answer::silence().then_reset());
        server.next(Answer::with(401, &[], "sign in"));
        let before = server.count();
        server
            .wait_until(|requests| requests.len() > before + 3)
            .await;
        let seen = bystander.stop().await;
        assert_eq!(seen.failed, [""; 0]);
        assert_eq!(seen.forced_logins.len(), 1);
    }
}
