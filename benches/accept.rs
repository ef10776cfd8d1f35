//! Compares one listening socket that all workers share with one socket for each worker
//! (`SO_REUSEPORT`): `cargo bench --bench accept`.
//!
//! Two workers, like those of `sidegate::server`, answer one line on each connection. First,
//! clients connect and disconnect as fast as they can. Then a thousand clients connect and stay.
//! The results are the CPU time of a connection, and how evenly connections are distributed.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    reason = "a benchmark must fail if it measures a failure; it measures time itself"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::LocalOptions;
use tokio::sync::oneshot;

const WORKERS: usize = 2;
const CLIENTS: usize = 8;
const LINE: &[u8] = b"hello\n";

#[derive(Clone, Copy)]
enum Way {
    Shared,
    OneEach,
}

/// The result of one round.
struct Seen {
    /// Microseconds of the workers' CPU time for a short connection.
    cost: f64,
    per_second: f64,
    /// The busier worker's share of the short connections, and of the long ones.
    churned: f64,
    held: f64,
}

fn main() {
    let few = std::env::args().any(|argument| argument == "--test");
    let (rounds, churn, hold) = if few {
        (1, 200, 20)
    } else {
        (11, 20_000, 1_000)
    };
    let ways = [
        ("one socket, shared", Way::Shared),
        ("one socket each", Way::OneEach),
    ];
    let mut seen = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        // Each variant runs first in every second round.
        for turn in 0..ways.len() {
            let index = (round + turn) % ways.len();
            let (way, seen) = (ways.get(index), seen.get_mut(index));
            let ((_name, way), seen) = way.zip(seen).expect("the browser is inside");
            seen.push(measure(*way, churn, hold));
        }
    }
    println!(
        "medians of {rounds} rounds: CPU per connection, connections per second, the busier worker's"
    );
    println!("part of those that came and went, and of {hold} that stayed");
    for ((name, _way), seen) in ways.iter().zip(&seen) {
        let of = |figure: fn(&Seen) -> f64| median(seen.iter().map(figure).collect());
        println!(
            "{name:20} {:7.1} us {:8.0}/s {:5.1} % {:5.1} %",
            of(|seen| seen.cost),
            of(|seen| seen.per_second),
            100.0 * of(|seen| seen.churned),
            100.0 * of(|seen| seen.held),
        );
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    *figures.get(figures.len() / 2).expect("a round has run")
}

fn measure(way: Way, churn: usize, staying: usize) -> Seen {
    let listeners = listeners(way);
    let address = listeners
        .first()
        .and_then(|listener| listener.local_addr().ok())
        .expect("it listens");
    let workers: Vec<Worker> = listeners.into_iter().map(Worker::start).collect();
    let began = Instant::now();
    let left = Arc::new(AtomicUsize::new(churn));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_client| {
            let left = Arc::clone(&left);
            thread::spawn(move || {
                let one = |left: usize| left.checked_sub(1);
                while left
                    .try_update(Ordering::Relaxed, Ordering::Relaxed, one)
                    .is_ok()
                {
                    exchange(&mut connect(address));
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("every connection is answered");
    }
    let took = began.elapsed().as_secs_f64();
    let churned = part(&workers);
    let spent: u64 = workers.iter().map(Worker::spent).sum();
    for worker in &workers {
        worker.taken.store(0, Ordering::Relaxed);
    }
    let mut held: Vec<TcpStream> = (0..staying).map(|_client| connect(address)).collect();
    held.iter_mut().for_each(exchange);
    Seen {
        cost: spent as f64 / 1000.0 / churn as f64,
        per_second: churn as f64 / took,
        churned,
        held: part(&workers),
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it is taken");
    stream.set_nodelay(true).expect("a socket");
    stream
}

fn exchange(stream: &mut TcpStream) {
    stream.write_all(LINE).expect("it is read");
    let mut answer = [0; LINE.len()];
    stream.read_exact(&mut answer).expect("it is answered");
}

fn part(workers: &[Worker]) -> f64 {
    let taken = workers
        .iter()
        .map(|worker| worker.taken.load(Ordering::Relaxed));
    let (most, all) = (
        taken.clone().max().unwrap_or_default(),
        taken.sum::<usize>(),
    );
    most as f64 / all as f64
}

fn listeners(way: Way) -> Vec<TcpListener> {
    let listen = |address: SocketAddr, shared: bool| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_port(!shared).expect("an option");
        socket.bind(&address.into()).expect("a free port");
        socket.listen(1024).expect("it listens");
        socket.set_nonblocking(true).expect("an option");
        TcpListener::from(socket)
    };
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    match way {
        Way::Shared => {
            let one = listen(any, true);
            let other = || one.try_clone().expect("a descriptor");
            (0..WORKERS).map(|_worker| other()).collect()
        }
        Way::OneEach => {
            let first = listen(any, false);
            let address = first.local_addr().expect("it listens");
            let mut all = vec![first];
            all.resize_with(WORKERS, || listen(address, false));
            all
        }
    }
}

/// A thread with its own runtime. Dropping it ends the thread.
struct Worker {
    taken: Arc<AtomicUsize>,
    /// The kernel's file with the CPU time of the thread.
    account: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Worker {
    fn start(listener: TcpListener) -> Self {
        let taken = Arc::new(AtomicUsize::new(0));
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let counted = Arc::clone(&taken);
        let thread = thread::spawn(move || {
            let itself = fs::read_link("/proc/thread-self").expect("it is Linux");
            tell.send(itself).expect("it is waited for");
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_io().build_local(LocalOptions::default());
            runtime.expect("a runtime").block_on(async {
                tokio::select! {
                    () = accept(listener, &counted) => {}
                    _stopped = stopped => {}
                }
            });
        });
        let itself = told.recv().expect("it has started");
        Self {
            taken,
            account: Path::new("/proc").join(itself).join("schedstat"),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The CPU time in nanoseconds.
    fn spent(&self) -> u64 {
        let account = fs::read_to_string(&self.account).expect("it is Linux");
        let spent = account.split(' ').next().map(str::parse);
        spent.and_then(Result::ok).expect("a number")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a worker without a mistake");
        }
    }
}

async fn accept(listener: TcpListener, taken: &AtomicUsize) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime");
    loop {
        let (mut stream, _peer) = listener.accept().await.expect("a connection");
        taken.fetch_add(1, Ordering::Relaxed);
        drop(tokio::task::spawn_local(async move {
            let mut line = [0; LINE.len()];
            // The loop ends when the client disconnects.
            while stream.read_exact(&mut line).await.is_ok() {
                stream.write_all(&line).await.expect("it is read");
            }
        }));
    }
}
