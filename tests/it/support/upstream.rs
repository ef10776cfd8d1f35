//! A legacy app that records what reaches it, byte for byte, and answers what it is told.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::wire::{Framing, Head, PATIENCE, Wire};

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    /// Which connection it came on, counted from 0.
    pub(crate) connection: usize,
    pub(crate) head: Head,
    pub(crate) framing: Framing,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<String>,
    /// Body and framing came to their end.
    pub(crate) complete: bool,
}

impl Recorded {
    pub(crate) fn method(&self) -> String {
        self.head
            .start_line()
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_owned()
    }

    pub(crate) fn target(&self) -> String {
        self.head
            .start_line()
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .to_owned()
    }

    fn forget(&mut self) {
        self.head.bytes = Vec::new();
        self.body = Vec::new();
        self.trailers = Vec::new();
    }
}

/// What to do with one request.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    steps: Vec<Step>,
    early: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u8>),
    Await(Arc<Notify>),
    Notify(Arc<Notify>),
    Pause(Duration),
    Decide(Decision),
    Close,
    Reset,
}

/// An answer that is made only when its turn has come.
#[derive(Clone)]
struct Decision(Arc<dyn Fn() -> Answer + Send + Sync>);

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decision")
    }
}

impl Answer {
    /// 200 with a text body and a length.
    pub(crate) fn ok(body: &str) -> Self {
        Self::with(200, &[("Content-Type", "text/plain")], body)
    }

    /// A status, fields and a body with its length.
    pub(crate) fn with(status: u16, fields: &[(&str, &str)], body: &str) -> Self {
        let mut text = format!(
            "HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n",
            body.len()
        );
        for (name, value) in fields {
            text.extend([name, ": ", value, "\r\n"]);
        }
        Self::raw(format!("{text}\r\n{body}").as_bytes())
    }

    /// These bytes.
    pub(crate) fn raw(bytes: &[u8]) -> Self {
        Self {
            steps: vec![Step::Send(bytes.to_vec())],
            early: false,
        }
    }

    /// Nothing at all.
    pub(crate) fn silence() -> Self {
        Self {
            steps: Vec::new(),
            early: false,
        }
    }

    /// Answers as soon as the head is there, without reading the body.
    pub(crate) fn early(mut self) -> Self {
        self.early = true;
        self
    }

    /// Waits for `gate` before anything is sent.
    pub(crate) fn held_by(mut self, gate: &Arc<Notify>) -> Self {
        self.steps.insert(0, Step::Await(Arc::clone(gate)));
        self
    }

    /// Then waits for `gate`.
    pub(crate) fn then_await(self, gate: &Arc<Notify>) -> Self {
        self.then(Step::Await(Arc::clone(gate)))
    }

    /// Then tells `gate` that it has come so far.
    pub(crate) fn then_notify(self, gate: &Arc<Notify>) -> Self {
        self.then(Step::Notify(Arc::clone(gate)))
    }

    /// Then sends more.
    pub(crate) fn then_send(self, bytes: &[u8]) -> Self {
        self.then(Step::Send(bytes.to_vec()))
    }

    /// After `time`, what `decide` then says: for a server that is slow to act, and not only to
    /// answer.
    pub(crate) fn after(time: Duration, decide: impl Fn() -> Self + Send + Sync + 'static) -> Self {
        let silence = Self::silence().then(Step::Pause(time));
        silence.then(Step::Decide(Decision(Arc::new(decide))))
    }

    /// Then closes cleanly.
    pub(crate) fn then_close(self) -> Self {
        self.then(Step::Close)
    }

    /// Then resets the connection.
    pub(crate) fn then_reset(self) -> Self {
        self.then(Step::Reset)
    }

    fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

type Responder = Arc<dyn Fn(&Recorded) -> Answer + Send + Sync>;

#[derive(Clone)]
struct State {
    requests: Vec<Recorded>,
    /// Everything that came on each connection.
    connections: Vec<Vec<u8>>,
    open: usize,
    most_open: usize,
    script: VecDeque<Answer>,
    otherwise: Responder,
    /// What was answered is not kept.
    forgetful: bool,
}

impl State {
    /// Keeps what came on a connection.
    fn keep(&mut self, id: usize, wire: &mut Wire) {
        if self.forgetful {
            wire.forget();
        } else {
            self.connections[id] = wire.seen().to_vec();
        }
    }
}

/// The app: one task on the runtime of the test, gone when dropped.
pub(crate) struct RecordingUpstream {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    task: JoinHandle<()>,
}

impl Drop for RecordingUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RecordingUpstream {
    /// Starts on a free port of 127.0.0.1; until told otherwise it answers 200 `seen`.
    pub(crate) async fn start() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts at `address`.
    pub(crate) async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(watch::Sender::new(State {
            requests: Vec::new(),
            connections: Vec::new(),
            open: 0,
            most_open: 0,
            script: VecDeque::new(),
            otherwise: Arc::new(|_| Answer::ok("seen")),
            forgetful: false,
        }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _peer)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            state,
            task,
        }
    }

    /// Stops it and all its connections, and gives the address that is free now.
    pub(crate) async fn stop(&mut self) -> SocketAddr {
        self.task.abort();
        // The listener is gone when its task is.
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
        self.address
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The answer to the next request that has none yet; calls queue up.
    pub(crate) fn next(&self, answer: Answer) {
        self.state
            .send_modify(|state| state.script.push_back(answer));
    }

    /// What answers requests for which nothing is queued.
    pub(crate) fn answer_by(
        &self,
        responder: impl Fn(&Recorded) -> Answer + Send + Sync + 'static,
    ) {
        self.state
            .send_modify(|state| state.otherwise = Arc::new(responder));
    }

    /// Keeps nothing from now on of what it has answered, only how much there was: for more
    /// requests than there is memory for.
    pub(crate) fn forget_what_is_answered(&self) {
        self.state.send_modify(|state| state.forgetful = true);
    }

    /// The requests so far, also those whose body is still under way.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.state.borrow().requests.clone()
    }

    /// How many requests came.
    pub(crate) fn count(&self) -> usize {
        self.state.borrow().requests.len()
    }

    /// How many connections were ever opened.
    pub(crate) fn connections(&self) -> usize {
        self.state.borrow().connections.len()
    }

    /// How many connections were open at one time, at most.
    pub(crate) fn most_connections(&self) -> usize {
        self.state.borrow().most_open
    }

    /// Everything that came on all connections.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state.borrow().connections.concat()
    }

    /// The last request.
    ///
    /// # Panics
    ///
    /// When none came.
    pub(crate) fn last(&self) -> Recorded {
        self.requests()
            .pop()
            .expect("no request reached the upstream")
    }

    /// Waits until the requests satisfy `enough`.
    ///
    /// # Panics
    ///
    /// When that takes too long.
    pub(crate) async fn wait_until(&self, enough: impl Fn(&[Recorded]) -> bool) {
        let mut changes = self.state.subscribe();
        let waiting = changes.wait_for(|state| enough(&state.requests));
        drop(
            timeout(PATIENCE, waiting)
                .await
                .expect("the upstream waited in vain")
                .unwrap(),
        );
    }

    /// Waits until no connection is open.
    pub(crate) async fn wait_until_unconnected(&self) {
        let mut changes = self.state.subscribe();
        let waiting = changes.wait_for(|state| state.open == 0 && !state.connections.is_empty());
        drop(
            timeout(PATIENCE, waiting)
                .await
                .expect("a connection stays open")
                .unwrap(),
        );
    }
}

async fn serve(stream: TcpStream, state: Arc<watch::Sender<State>>) {
    let mut id = 0;
    state.send_modify(|state| {
        id = state.connections.len();
        state.connections.push(Vec::new());
        state.open += 1;
        state.most_open = state.most_open.max(state.open);
    });
    let reset = stream.into_std().and_then(|stream| {
        let other = stream.try_clone()?;
        Ok((TcpStream::from_std(stream)?, other))
    });
    let (stream, handle) = reset.unwrap();
    let mut wire = Wire::new(stream);
    let end = converse(&mut wire, id, &state).await;
    if let End::Reset = end {
        // A close with a zero linger time sends RST instead of FIN.
        let handle = TcpStream::from_std(handle).unwrap();
        handle.set_zero_linger().unwrap();
        drop(wire);
        drop(handle);
    }
    state.send_modify(|state| state.open -= 1);
}

enum End {
    Closed,
    Reset,
}

async fn converse(wire: &mut Wire, id: usize, state: &watch::Sender<State>) -> End {
    loop {
        let head = wire.head().await;
        state.send_modify(|state| state.keep(id, wire));
        let Some(head) = head else { return End::Closed };
        let framing = head.request_framing();
        let request = Recorded {
            connection: id,
            framing: framing.clone(),
            head,
            body: Vec::new(),
            trailers: Vec::new(),
            complete: false,
        };
        let mut index = 0;
        let mut answer = None;
        state.send_modify(|state| {
            index = state.requests.len();
            answer = state.script.pop_front();
            state.requests.push(request);
        });
        let early = answer.as_ref().is_some_and(|answer| answer.early);
        if !early {
            read_body(wire, &framing, state, index).await;
            state.send_modify(|state| state.keep(id, wire));
        }
        // Only now: a responder may look at the body.
        let answer = answer.unwrap_or_else(|| {
            let (respond, request) = {
                let state = state.borrow();
                (Arc::clone(&state.otherwise), state.requests[index].clone())
            };
            respond(&request)
        });
        let incomplete = !early && !state.borrow().requests[index].complete;
        if state.borrow().forgetful {
            state.send_modify(|state| state.requests[index].forget());
        }
        if let Some(end) = perform(wire, answer).await {
            return end;
        }
        if incomplete {
            return End::Closed;
        }
        if early {
            read_body(wire, &framing, state, index).await;
        }
    }
}

async fn read_body(wire: &mut Wire, framing: &Framing, state: &watch::Sender<State>, index: usize) {
    let mut progress = |piece: &[u8]| {
        state.send_modify(|state| state.requests[index].body.extend_from_slice(piece));
    };
    let body = wire.body(framing, &mut progress).await;
    state.send_modify(|state| {
        let request = &mut state.requests[index];
        request.trailers = body.trailers;
        request.complete = body.complete;
    });
}

async fn perform(wire: &mut Wire, answer: Answer) -> Option<End> {
    let mut steps = VecDeque::from(answer.steps);
    while let Some(step) = steps.pop_front() {
        match step {
            Step::Send(bytes) => {
                if !wire.write(&bytes).await {
                    return Some(End::Closed);
                }
            }
            Step::Await(gate) => gate.notified().await,
            Step::Notify(gate) => gate.notify_one(),
            Step::Pause(time) => tokio::time::sleep(time).await,
            Step::Decide(Decision(decide)) => {
                for step in decide().steps.into_iter().rev() {
                    steps.push_front(step);
                }
            }
            Step::Close => return Some(End::Closed),
            Step::Reset => return Some(End::Reset),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::raw::Raw;

    #[tokio::test]
    async fn requests_are_recorded_as_they_came() {
        let upstream = RecordingUpstream::start().await;
        let mut raw = Raw::connect(upstream.address()).await;
        raw.send("POST /a?b HTTP/1.1\r\nX-Odd:  v \r\nx-odd: w\r\nContent-Length: 3\r\n\r\nxy")
            .await;
        upstream
            .wait_until(|requests| requests.iter().any(|r| r.body == b"xy"))
            .await;
        assert!(!upstream.last().complete);
        raw.send("zGET /next HTTP/1.1\r\n\r\n").await;
        raw.response("POST").await.unwrap();
        raw.response("GET").await.unwrap();
        let [first, second] = <[Recorded; 2]>::try_from(upstream.requests()).unwrap();
        assert_eq!(
            (first.method(), first.target()),
            ("POST".into(), "/a?b".into())
        );
        assert_eq!(first.head.values("X-ODD"), ["v", "w"]);
        assert!(
            first
                .head
                .bytes
                .windows(9)
                .any(|bytes| bytes == b"X-Odd:  v")
        );
        assert_eq!((first.body.as_slice(), first.complete), (&b"xyz"[..], true));
        assert_eq!((second.target(), second.connection), ("/next".into(), 0));
        assert!(upstream.bytes().ends_with(b"xyzGET /next HTTP/1.1\r\n\r\n"));
        drop(raw);
        upstream.wait_until_unconnected().await;
    }

    #[tokio::test]
    async fn answers_come_in_the_order_they_were_told() {
        let upstream = RecordingUpstream::start().await;
        let gate = Arc::new(Notify::new());
        upstream.next(Answer::ok("held").held_by(&gate));
        upstream.next(Answer::with(418, &[("X-Tea", "pot")], "").early());
        upstream
            .next(Answer::raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").then_reset());
        upstream.answer_by(|request| Answer::ok(&request.target()));
        let mut raw = Raw::connect(upstream.address()).await;
        raw.send("GET /1 HTTP/1.1\r\n\r\n").await;
        upstream.wait_until(|requests| requests.len() == 1).await;
        gate.notify_one();
        assert_eq!(raw.response("GET").await.unwrap().text(), "held");
        raw.send("PUT /2 HTTP/1.1\r\nContent-Length: 1\r\n\r\n")
            .await;
        let early = raw.response("PUT").await.unwrap();
        assert_eq!(
            (early.status(), early.head.value("x-tea").unwrap()),
            (418, "pot".to_owned())
        );
        raw.send("bGET /3 HTTP/1.1\r\n\r\n").await;
        assert!(!raw.response("GET").await.unwrap().body.complete);
        let mut raw = Raw::connect(upstream.address()).await;
        raw.send("GET /4 HTTP/1.1\r\n\r\n").await;
        assert_eq!(raw.response("GET").await.unwrap().text(), "/4");
        assert_eq!((upstream.count(), upstream.connections()), (4, 2));
    }

    #[tokio::test]
    async fn an_answer_can_be_decided_late_and_nothing_kept_of_what_came() {
        let upstream = RecordingUpstream::start().await;
        upstream.forget_what_is_answered();
        let gate = Arc::new(Notify::new());
        let decided = Arc::clone(&gate);
        upstream.next(Answer::after(Duration::ZERO, move || {
            decided.notify_one();
            Answer::ok("late").then_close()
        }));
        let mut raw = Raw::connect(upstream.address()).await;
        raw.send("GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n")
            .await;
        assert_eq!(raw.response("GET").await.unwrap().text(), "late");
        assert!(raw.response("GET").await.is_none());
        gate.notified().await;
        assert_eq!(
            (upstream.count(), upstream.last().target().as_str()),
            (1, "")
        );
        assert_eq!(upstream.bytes(), b"");
    }
}
