//! A legacy app that records each request byte for byte, and gives the answers that a test sets.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::wire::{Framing, Head, TEST_TIMEOUT, Wire};

/// One recorded request.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    /// The number of the request's connection, counted from 0.
    pub(crate) connection: usize,
    pub(crate) head: Head,
    pub(crate) framing: Framing,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<String>,
    /// The body ended as its framing states.
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

/// The steps of an answer to one request.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    steps: Vec<Step>,
    early: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Send(Bytes),
    Await(Arc<Notify>),
    Notify(Arc<Notify>),
    Pause(Duration),
    Decide(Decision),
    Close,
    Reset,
}

/// An answer that is computed when it is sent.
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

    /// Exactly these bytes.
    pub(crate) fn raw(bytes: &[u8]) -> Self {
        Self {
            steps: vec![Step::Send(Bytes::copy_from_slice(bytes))],
            early: false,
        }
    }

    /// No bytes.
    pub(crate) fn silence() -> Self {
        Self {
            steps: Vec::new(),
            early: false,
        }
    }

    /// Sends the answer after the head of the request, without reading the body.
    pub(crate) fn early(mut self) -> Self {
        self.early = true;
        self
    }

    /// Waits for `gate` before sending anything.
    pub(crate) fn held_by(mut self, gate: &Arc<Notify>) -> Self {
        self.steps.insert(0, Step::Await(Arc::clone(gate)));
        self
    }

    /// Adds a step: wait for `gate`.
    pub(crate) fn then_await(self, gate: &Arc<Notify>) -> Self {
        self.then(Step::Await(Arc::clone(gate)))
    }

    /// Adds a step: notify `gate`.
    pub(crate) fn then_notify(self, gate: &Arc<Notify>) -> Self {
        self.then(Step::Notify(Arc::clone(gate)))
    }

    /// Adds a step: send more bytes.
    pub(crate) fn then_send(self, bytes: &[u8]) -> Self {
        self.then(Step::Send(Bytes::copy_from_slice(bytes)))
    }

    /// Waits for `time` and then calls `decide`. With this step, a slow server can also process the
    /// request late.
    pub(crate) fn after(time: Duration, decide: impl Fn() -> Self + Send + Sync + 'static) -> Self {
        let silence = Self::silence().then(Step::Pause(time));
        silence.then(Step::Decide(Decision(Arc::new(decide))))
    }

    /// Adds a step: close cleanly.
    pub(crate) fn then_close(self) -> Self {
        self.then(Step::Close)
    }

    /// Adds a step: reset the connection.
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
    /// Every received byte of each connection.
    connections: Vec<Vec<u8>>,
    open: usize,
    most_open: usize,
    script: VecDeque<Answer>,
    otherwise: Responder,
    /// Discard requests after they were answered.
    forgetful: bool,
}

impl State {
    /// Stores the bytes of a connection.
    fn keep(&mut self, id: usize, wire: &mut Wire) {
        if self.forgetful {
            wire.forget();
        } else {
            self.connections[id] = wire.seen().to_vec();
        }
    }
}

/// The app, as one task on the runtime of the test. The app stops when its value is dropped.
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
    /// Starts on a free port of 127.0.0.1. By default, the app answers 200 `seen`.
    pub(crate) async fn start() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts at `address`.
    pub(crate) async fn at(address: SocketAddr) -> Self {
        Self::on(TcpListener::bind(address).await.unwrap())
    }

    /// Accepts the connections of `listener`, also those that wait already.
    pub(crate) fn on(listener: TcpListener) -> Self {
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

    /// Stops the app and closes all its connections. Returns the address of the app, which is free
    /// now.
    pub(crate) async fn stop(&mut self) -> SocketAddr {
        self.task.abort();
        // The listener is closed when its task has finished.
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

    /// Sets the answer to the next request. Several calls form a queue.
    pub(crate) fn next(&self, answer: Answer) {
        self.state
            .send_modify(|state| state.script.push_back(answer));
    }

    /// Sets the function that answers requests when the queue is empty.
    pub(crate) fn answer_by(
        &self,
        responder: impl Fn(&Recorded) -> Answer + Send + Sync + 'static,
    ) {
        self.state
            .send_modify(|state| state.otherwise = Arc::new(responder));
    }

    /// Discards answered requests from now on, and only counts them. A test uses this mode for more
    /// requests than fit in memory.
    pub(crate) fn forget_what_is_answered(&self) {
        self.state.send_modify(|state| state.forgetful = true);
    }

    /// The requests so far, including those whose body is still arriving.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.state.borrow().requests.clone()
    }

    /// The number of requests.
    pub(crate) fn count(&self) -> usize {
        self.state.borrow().requests.len()
    }

    /// The number of connections that were ever opened.
    pub(crate) fn connections(&self) -> usize {
        self.state.borrow().connections.len()
    }

    /// The maximum number of simultaneous connections.
    pub(crate) fn most_connections(&self) -> usize {
        self.state.borrow().most_open
    }

    /// Every received byte of all connections.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state.borrow().connections.concat()
    }

    /// The last request.
    ///
    /// # Panics
    ///
    /// If there was none.
    pub(crate) fn last(&self) -> Recorded {
        self.requests()
            .pop()
            .expect("no request reached the upstream")
    }

    /// Waits until the requests satisfy `enough`.
    ///
    /// # Panics
    ///
    /// Panics if the requests do not satisfy `enough` in time.
    pub(crate) async fn wait_until(&self, enough: impl Fn(&[Recorded]) -> bool) {
        let mut changes = self.state.subscribe();
        let waiting = changes.wait_for(|state| enough(&state.requests));
        drop(
            timeout(TEST_TIMEOUT, waiting)
                .await
                .expect("the upstream got no such requests")
                .unwrap(),
        );
    }

    /// Waits until no connection is open.
    pub(crate) async fn wait_until_unconnected(&self) {
        let mut changes = self.state.subscribe();
        let waiting = changes.wait_for(|state| state.open == 0 && !state.connections.is_empty());
        drop(
            timeout(TEST_TIMEOUT, waiting)
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
        // The answer is computed after the body has been read, because the answer may depend on the
        // body.
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
