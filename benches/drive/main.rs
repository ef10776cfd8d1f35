//! A load generator for the measuring commands, for cases that other generators do not support: an
//! open loop that measures from the schedule, a closed loop with another session for each request,
//! and logins of hundreds of thousands of users.
//!
//! It understands only HTTP answers with a `Content-Length`, and stops at the first unexpected
//! answer. The subcommands print JSON, one object on each line.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a benchmark must fail if it measures a failure; it measures time itself"
)]

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, Parser};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

mod app;
mod frames;
mod streams;

/// Sends load to a proxy on a port of this machine.
#[derive(Parser)]
enum Command {
    /// Sends requests on a schedule, to several targets in turn, slice by slice
    Open(Open),
    /// Sends the next request on each connection as soon as the answer has arrived
    Closed(Closed),
    /// Signs users in and writes their cookies to a file
    SignIn(SignIn),
    /// Serves streams: WebSocket messages, large bodies and gRPC calls
    App(app::App),
    /// Sends the next WebSocket message on each connection as soon as the echo has arrived
    Messages(streams::Messages),
    /// Opens many WebSocket connections, and keeps them open without a message until the input ends
    Sockets(streams::Sockets),
    /// Sends one request, perhaps with a large body, and reads the answer
    Transfer(streams::Transfer),
}

#[derive(Args)]
struct Open {
    /// Requests per second, over all connections
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// The duration of a slice
    #[arg(long, default_value_t = 250)]
    slice_ms: u64,
    /// Slices for each target
    #[arg(long, default_value_t = 8)]
    slices: usize,
    /// Connections to each target
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// NAME=PORT=FILE, where the file has the request
    #[arg(required = true)]
    targets: Vec<String>,
}

#[derive(Args)]
struct Closed {
    #[arg(long)]
    connections: usize,
    /// Requests under way at any time; connections take turns
    #[arg(long, default_value_t = 1_000_000)]
    at_once: usize,
    #[arg(long)]
    seconds: f64,
    /// Time before the measurement
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// A file with a cookie on each line; they replace `{cookie}` in the request in turn
    #[arg(long)]
    cookies: Option<PathBuf>,
    /// Each connection uses one cookie, like a browser
    #[arg(long)]
    own: bool,
    port: u16,
    /// The file with the request
    request: PathBuf,
}

#[derive(Args)]
struct SignIn {
    #[arg(long)]
    people: usize,
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// The output file for the cookies, one on each line
    #[arg(long)]
    cookies: PathBuf,
    /// The gateway's public host
    #[arg(long)]
    host: String,
    port: u16,
}

fn main() {
    // Without arguments the program was only built together with the benchmarks, and does nothing.
    if std::env::args().len() < 2 {
        return;
    }
    let said = match Command::parse() {
        Command::Open(open) => open.run(),
        Command::Closed(closed) => local(closed.run()),
        Command::SignIn(sign_in) => local(sign_in.run()),
        Command::App(app) => local(app.run()),
        Command::Messages(messages) => local(messages.run()),
        Command::Sockets(sockets) => local(sockets.run()),
        Command::Transfer(transfer) => transfer.run(),
    };
    println!("{said}");
}

fn local<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), work)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("a readable file")
}

/// A response: its status, and where head and body end.
#[derive(Clone, Copy)]
struct Answer {
    status: u16,
    head: usize,
    end: usize,
}

impl Answer {
    /// Parses the received bytes; `None` until the head is complete.
    fn read(bytes: &[u8]) -> Option<Self> {
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let text = std::str::from_utf8(bytes.get(..head)?).expect("a head of ASCII");
        let status = text.get(9..12).and_then(|status| status.parse().ok());
        let length = field(text, "content-length").map_or("0", |(value, _rest)| value);
        Some(Self {
            status: status.expect("a status line"),
            head,
            end: head + length.parse::<usize>().expect("a length"),
        })
    }
}

/// The value of the first field with this name, and the text after it.
fn field<'a>(head: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let mut rest = head;
    while let Some((line, after)) = rest.split_once("\r\n") {
        rest = after;
        if let Some((found, value)) = line.split_once(':')
            && found.eq_ignore_ascii_case(name)
        {
            return Some((value.trim(), rest));
        }
    }
    None
}

/// A connection with blocking input and output.
struct Blocking {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Blocking {
    fn open(port: u16) -> Self {
        let stream = TcpStream::connect(address(port)).expect("a connection");
        stream.set_nodelay(true).expect("an open connection");
        let patience = Some(Duration::from_secs(10));
        stream.set_read_timeout(patience).expect("a deadline");
        let buffer = vec![0; 256 * 1024];
        Self { stream, buffer }
    }

    fn ask(&mut self, request: &[u8]) {
        self.stream.write_all(request).expect("a taken request");
        let mut have = 0;
        loop {
            let room = self.buffer.get_mut(have..).expect("room");
            let count = self.stream.read(room).expect("an answer in time");
            assert!(count > 0, "the connection was closed");
            have += count;
            let Some(answer) = Answer::read(self.buffer.get(..have).expect("what came")) else {
                continue;
            };
            assert_eq!(answer.status, 200, "an answer is wrong");
            if have >= answer.end {
                return;
            }
        }
    }
}

struct Target {
    name: String,
    port: u16,
    request: Vec<u8>,
}

impl Target {
    fn parse(text: &str) -> Self {
        let parts: Vec<&str> = text.splitn(3, '=').collect();
        let [name, port, file] = parts[..] else {
            panic!("{text} is not NAME=PORT=FILE");
        };
        Self {
            name: name.to_owned(),
            port: port.parse().expect("a port"),
            request: read(Path::new(file)),
        }
    }
}

impl Open {
    /// Latencies of each slice in microseconds, from the scheduled time of a request: the median,
    /// the 90th and the 99th percentile. A stall of the machine affects only one slice.
    fn run(&self) -> Value {
        // Reduces the delay of sleeps from about fifty microseconds to one.
        fs::write("/proc/self/timerslack_ns", "1000").unwrap_or_default();
        let targets: Arc<Vec<Target>> = Arc::new(
            self.targets
                .iter()
                .map(|text| Target::parse(text))
                .collect(),
        );
        let turns = targets.len() * self.slices;
        let starts: Arc<Vec<OnceLock<Instant>>> =
            Arc::new(std::iter::repeat_with(OnceLock::new).take(turns).collect());
        let together = Arc::new(Barrier::new(self.connections));
        let per_slice = (self.rate * self.slice_ms as f64 / 1000.0) as usize;
        let threads: Vec<_> = (0..self.connections)
            .map(|first| {
                let (targets, starts) = (Arc::clone(&targets), Arc::clone(&starts));
                let together = Arc::clone(&together);
                let (connections, rate) = (self.connections, self.rate);
                thread::spawn(move || {
                    let mut open: Vec<Blocking> = targets
                        .iter()
                        .map(|target| Blocking::open(target.port))
                        .collect();
                    for (connection, target) in open.iter_mut().zip(targets.iter()) {
                        (0..3).for_each(|_warm_up| connection.ask(&target.request));
                    }
                    let mut slices = Vec::with_capacity(starts.len());
                    for (turn, start) in starts.iter().enumerate() {
                        let place = turn % targets.len();
                        let connection = open.get_mut(place).expect("a connection each");
                        let request = &targets.get(place).expect("a target each").request;
                        together.wait();
                        let start =
                            *start.get_or_init(|| Instant::now() + Duration::from_millis(10));
                        let latencies = (first..per_slice).step_by(connections).map(|number| {
                            let due = start + Duration::from_secs_f64(number as f64 / rate);
                            thread::sleep(due.saturating_duration_since(Instant::now()));
                            connection.ask(request);
                            due.elapsed()
                        });
                        slices.push(latencies.collect::<Vec<_>>());
                    }
                    slices
                })
            })
            .collect();
        let mut turns = vec![Vec::new(); turns];
        for thread in threads {
            for (turn, latencies) in turns.iter_mut().zip(thread.join().expect("a whole run")) {
                turn.extend(latencies);
            }
        }
        let mut said = Map::new();
        for (place, target) in targets.iter().enumerate() {
            let slices = turns.iter_mut().skip(place).step_by(targets.len());
            let slices: Vec<Value> = slices.map(|slice| quantiles(slice)).collect();
            said.insert(target.name.clone(), slices.into());
        }
        said.into()
    }
}

/// The median, the 90th and the 99th percentile, in microseconds.
fn quantiles(latencies: &mut [Duration]) -> Value {
    latencies.sort_unstable();
    let at = |share: f64| {
        let place = (latencies.len().saturating_sub(1) as f64 * share) as usize;
        latencies
            .get(place)
            .map(|latency| latency.as_secs_f64() * 1e6)
    };
    json!([at(0.5), at(0.9), at(0.99)])
}

/// One of many connections.
struct Connection {
    stream: tokio::net::TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(port: u16) -> Self {
        let stream = tokio::net::TcpStream::connect(address(port)).await;
        let stream = stream.expect("a connection");
        stream.set_nodelay(true).expect("an open connection");
        let buffer = Vec::with_capacity(16 * 1024);
        Self { stream, buffer }
    }

    /// Sends a request. Returns the status and the head of the answer.
    async fn ask(&mut self, request: &[u8]) -> (u16, &str) {
        self.stream
            .write_all(request)
            .await
            .expect("a taken request");
        self.buffer.clear();
        let answer = loop {
            let count = self.stream.read_buf(&mut self.buffer).await;
            assert!(count.expect("an answer") > 0, "the connection was closed");
            if let Some(answer) = Answer::read(&self.buffer)
                && self.buffer.len() >= answer.end
            {
                break answer;
            }
        };
        let head = self.buffer.get(..answer.head).expect("a head");
        (answer.status, std::str::from_utf8(head).expect("ASCII"))
    }
}

/// A request in which `{cookie}` is replaced, many times.
struct Requests {
    before: Vec<u8>,
    after: Vec<u8>,
    cookies: Vec<String>,
    next: Cell<usize>,
}

impl Requests {
    fn new(request: &Path, cookies: Option<&Path>) -> Self {
        let text = String::from_utf8(read(request)).expect("a request of ASCII");
        let cookies = cookies.map_or_else(String::new, |path| {
            String::from_utf8(read(path)).expect("cookies of ASCII")
        });
        let (before, after) = text.split_once("{cookie}").unwrap_or((&text, ""));
        Self {
            before: before.into(),
            after: after.into(),
            cookies: cookies.lines().map(str::to_owned).collect(),
            next: Cell::new(0),
        }
    }

    /// Writes the next request, or the request with the cookie number `own`, into `request`. The
    /// step has no common factor with the usual numbers of cookies, so neighbours in the list are
    /// used at distant times.
    fn write(&self, request: &mut Vec<u8>, own: Option<usize>) {
        request.clear();
        request.extend_from_slice(&self.before);
        if !self.cookies.is_empty() {
            let place = own.unwrap_or_else(|| self.next.replace(self.next.get() + 7919));
            let cookie = self.cookies.get(place % self.cookies.len());
            let cookie = cookie.expect("a cookie");
            request.extend_from_slice(cookie.as_bytes());
        }
        request.extend_from_slice(&self.after);
    }
}

impl Closed {
    /// The number of requests that were answered in the measured time, and the quantiles of their
    /// latency. One line says when this time begins, another when it has ended.
    async fn run(&self) -> Value {
        let requests = Rc::new(Requests::new(&self.request, self.cookies.as_deref()));
        let (counting, stopped) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
        let latencies = Rc::new(RefCell::new(Vec::new()));
        let turns = Rc::new(Semaphore::new(self.at_once));
        let mut tasks = Vec::with_capacity(self.connections);
        for number in 0..self.connections {
            let own = self.own.then_some(number);
            let mut connection = Connection::open(self.port).await;
            let (requests, latencies) = (Rc::clone(&requests), Rc::clone(&latencies));
            let (counting, stopped) = (Rc::clone(&counting), Rc::clone(&stopped));
            let turns = Rc::clone(&turns);
            tasks.push(tokio::task::spawn_local(async move {
                let mut request = Vec::new();
                loop {
                    let _turn = turns.acquire().await.expect("an open semaphore");
                    if stopped.get() {
                        return;
                    }
                    requests.write(&mut request, own);
                    let sent = Instant::now();
                    let (status, _head) = connection.ask(&request).await;
                    assert_eq!(status, 200, "an answer is wrong");
                    if counting.get() {
                        latencies.borrow_mut().push(sent.elapsed());
                    }
                }
            }));
        }
        tokio::time::sleep(Duration::from_secs_f64(self.warm_up)).await;
        // The measuring command reads the CPU time of the proxy now, and again at the end.
        println!("{}", json!({"begun": true}));
        counting.set(true);
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_secs_f64(self.seconds)).await;
        counting.set(false);
        let seconds = begun.elapsed().as_secs_f64();
        println!("{}", json!({"ended": true}));
        stopped.set(true);
        for task in tasks {
            task.await.expect("good answers");
        }
        let mut latencies = latencies.take();
        let count = latencies.len();
        json!({"requests": count, "seconds": seconds, "latency": quantiles(&mut latencies)})
    }
}

impl SignIn {
    /// All users run the whole code flow at the gateway. The provider accepts any code.
    async fn run(&self) -> Value {
        let left = Rc::new(Cell::new(self.people));
        let cookies = Rc::new(RefCell::new(String::new()));
        let begun = Instant::now();
        let mut tasks = Vec::new();
        for _ in 0..self.connections {
            let mut connection = Connection::open(self.port).await;
            let (left, cookies) = (Rc::clone(&left), Rc::clone(&cookies));
            let host = self.host.clone();
            tasks.push(tokio::task::spawn_local(async move {
                while let Some(rest) = left.get().checked_sub(1) {
                    left.set(rest);
                    let cookie = sign_in(&mut connection, &host).await;
                    let mut cookies = cookies.borrow_mut();
                    cookies.push_str(&cookie);
                    cookies.push('\n');
                }
            }));
        }
        for task in tasks {
            task.await.expect("good answers");
        }
        fs::write(&self.cookies, &*cookies.borrow()).expect("a written file");
        json!({"people": self.people, "seconds": begun.elapsed().as_secs_f64()})
    }
}

/// Signs in one user. Returns the session cookie.
async fn sign_in(connection: &mut Connection, host: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nAccept: text/html\r\n\r\n");
    let (status, head) = connection.ask(request.as_bytes()).await;
    assert_eq!(status, 303, "no login begins");
    let pending = cookies_of(head);
    let (location, _rest) = field(head, "location").expect("a location");
    let (_before, state) = location.split_once("state=").expect("a state");
    let state = state.split('&').next().unwrap_or_default();
    let request = format!(
        "GET /oauth2/callback?code=any&state={state} HTTP/1.1\r\nHost: {host}\r\n\
         Accept: text/html\r\nCookie: {pending}\r\n\r\n"
    );
    let (status, head) = connection.ask(request.as_bytes()).await;
    assert_eq!(status, 303, "the login was not completed");
    cookies_of(head)
}

/// The cookies of an answer, in the form of the next request.
fn cookies_of(head: &str) -> String {
    let mut pairs = Vec::new();
    let mut rest = head;
    while let Some((value, after)) = field(rest, "set-cookie") {
        rest = after;
        let pair = value.split(';').next().unwrap_or_default();
        if !pair.ends_with('=') {
            pairs.push(pair.to_owned());
        }
    }
    pairs.join("; ")
}
