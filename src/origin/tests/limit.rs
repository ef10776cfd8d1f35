//! Tests of the limit: all workers share one limit, and every worker gets connections.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::join;
use tokio::sync::Barrier;
use tokio::task::{spawn_local, yield_now};

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An app that has only one process and serves only one connection at a time. The process serves a
/// connection until the connection ends, and then serves the next connection. The app stops when
/// the test's runtime ends. `connections` counts the accepted connections.
async fn one_process(server: Server, connections: Arc<AtomicUsize>) {
    loop {
        let mut peer = server.accept().await;
        connections.fetch_add(1, Ordering::SeqCst);
        let mut head = Vec::new();
        while let Ok(byte) = peer.0.read_u8().await {
            head.push(byte);
            if head.ends_with(b"\r\n\r\n") {
                head.clear();
                if peer.0.write_all(OK.as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    }
}

/// A worker on its own thread. The worker sends `count` requests in each of `width` parallel tasks.
fn worker(
    connector: &Arc<Connector>,
    limit: &Arc<Limit>,
    done: &Arc<Barrier>,
    (count, width): (usize, usize),
) -> std::thread::JoinHandle<()> {
    let (connector, limit) = (Arc::clone(connector), Arc::clone(limit));
    let done = Arc::clone(done);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(local(async move {
            let pool = Pool::new(connector, limit, times(), Clock::system());
            let mut lanes = Vec::new();
            for _ in 0..width {
                let pool = pool.clone();
                lanes.push(spawn_local(async move {
                    for _ in 0..count {
                        assert_eq!(fetch(&pool, "/").await.unwrap(), "ok");
                    }
                }));
            }
            for lane in lanes {
                lane.await.unwrap();
            }
            // The idle connections of this worker stay open until both workers are done. If one
            // worker closed its connections before the other worker is done, the test would not
            // prove that the workers share the limit.
            done.wait().await;
        }));
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_app_with_one_process_serves_two_workers() {
    let server = Server::start().await;
    let (connector, limit) = (server.connector(), Arc::new(limit(1, 64)));
    let connections = Arc::new(AtomicUsize::new(0));
    let app = tokio::spawn(one_process(server, Arc::clone(&connections)));
    let done = Arc::new(Barrier::new(2));
    let busy = worker(&connector, &limit, &done, (200, 4));
    let other = worker(&connector, &limit, &done, (50, 1));
    tokio::task::spawn_blocking(move || {
        busy.join().unwrap();
        other.join().unwrap();
    })
    .await
    .unwrap();
    app.abort();
    let connections = connections.load(Ordering::SeqCst);
    // The number of connections is far smaller than the number of requests, because each worker
    // uses a connection for several of its own requests.
    assert!(connections < 450, "{connections}");
}

#[tokio::test]
async fn an_idle_connection_is_closed_for_another_worker() {
    local(async {
        let server = Server::start().await;
        let limit = Arc::new(limit(1, 1));
        let one = Pool::new(
            server.connector(),
            Arc::clone(&limit),
            times(),
            Clock::system(),
        );
        let two = Pool::new(
            server.connector(),
            Arc::clone(&limit),
            times(),
            Clock::system(),
        );
        let (first, mut peer) = join!(fetch(&one, "/1"), server.answer(OK));
        first.unwrap();
        assert_eq!((one.idle(), limit.free()), (1, 0));
        let (second, rest) = join!(fetch(&two, "/2"), async {
            let rest = peer.rest().await;
            server.answer(OK).await;
            rest
        });
        assert_eq!(second.unwrap(), "ok");
        assert!(rest.is_empty());
        assert_eq!(one.idle(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_busy_worker_does_not_starve_another() {
    local(async {
        let server = Server::start().await;
        let connector = server.connector();
        let limit = Arc::new(limit(1, 16));
        let busy = Pool::new(
            Arc::clone(&connector),
            Arc::clone(&limit),
            times(),
            Clock::system(),
        );
        let other = Pool::new(connector, Arc::clone(&limit), times(), Clock::system());
        let connections = Arc::new(AtomicUsize::new(0));
        spawn_local(one_process(server, connections));
        let answered = Rc::new(Cell::new(0_usize));
        for _ in 0..2 {
            // Two tasks send requests, so at least one request of this worker is waiting each time
            // the connection becomes free.
            let (busy, answered) = (busy.clone(), Rc::clone(&answered));
            spawn_local(async move {
                while fetch(&busy, "/busy").await.is_ok() {
                    answered.set(answered.get().saturating_add(1));
                }
            });
        }
        while answered.get() < 10 {
            yield_now().await;
        }
        let before = answered.get();
        assert_eq!(fetch(&other, "/other").await.unwrap(), "ok");
        let meanwhile = answered.get().saturating_sub(before);
        assert!(meanwhile < 20, "{meanwhile}");
    })
    .await;
}

#[tokio::test]
async fn waiting_requests_of_one_worker_share_its_connection_in_order() {
    local(async {
        let server = Server::start().await;
        let limit = Arc::new(limit(1, 16));
        let pool = Pool::new(server.connector(), limit, times(), Clock::system());
        let mut waiting = Vec::new();
        for number in 0..10 {
            let pool = pool.clone();
            waiting.push(spawn_local(async move {
                fetch(&pool, &format!("/{number}")).await.unwrap();
            }));
        }
        let mut peer = server.accept().await;
        for number in 0..10 {
            let head = peer.answer(OK).await;
            assert!(head.starts_with(&format!("GET /{number} ")), "{head}");
        }
        for request in waiting {
            request.await.unwrap();
        }
        assert_eq!(pool.idle(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_full_queue_fails_at_once_and_a_long_wait_fails_later() {
    local(async {
        let server = Server::start().await;
        let one = NonZeroUsize::MIN;
        let limit = Arc::new(Limit::new(one, 1, Duration::from_millis(30), SHARES));
        let pool = Pool::new(
            server.connector(),
            Arc::clone(&limit),
            times(),
            Clock::system(),
        );
        let holding = {
            let pool = pool.clone();
            spawn_local(async move { fetch(&pool, "/1").await })
        };
        let mut peer = server.accept().await;
        let waiting = {
            let pool = pool.clone();
            spawn_local(async move { fetch(&pool, "/2").await })
        };
        while limit.waiting() == 0 {
            yield_now().await;
        }
        let third = fetch(&pool, "/3").await;
        assert!(matches!(third, Err(Error::Busy)), "{third:?}");
        assert_eq!(
            limit.waiting(),
            1,
            "the second request was refused instead of the third"
        );
        let second = waiting.await.unwrap();
        assert!(matches!(second, Err(Error::Busy)), "{second:?}");
        assert_eq!(limit.waiting(), 0);
        peer.answer(OK).await;
        assert_eq!(holding.await.unwrap().unwrap(), "ok");
        // No request waits, so the connection becomes idle.
        assert_eq!(pool.idle(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_request_leaves_the_queue() {
    local(async {
        let server = Server::start().await;
        let limit = Arc::new(limit(1, 1));
        let pool = Pool::new(
            server.connector(),
            Arc::clone(&limit),
            times(),
            Clock::system(),
        );
        let mut first = Box::pin(fetch(&pool, "/1"));
        let mut peer = tokio::select! {
            _ = &mut first => panic!("there is no answer"),
            peer = server.accept() => peer,
        };
        let mut second = Box::pin(fetch(&pool, "/2"));
        tokio::select! {
            biased;
            _ = &mut second => panic!("there is no connection"),
            () = yield_now() => {}
        }
        assert_eq!(limit.waiting(), 1);
        drop(second);
        assert_eq!(limit.waiting(), 0);
        let (first, _) = join!(first, peer.answer(OK));
        assert_eq!(first.unwrap(), "ok");
        let (third, head) = join!(fetch(&pool, "/3"), peer.answer(OK));
        assert_eq!(third.unwrap(), "ok");
        assert!(head.starts_with("GET /3 "));
    })
    .await;
}

#[tokio::test]
async fn every_end_of_a_connection_frees_its_permit() {
    local(async {
        let server = Server::start().await;
        let limit = Arc::new(limit(1, 1));
        let pool = Pool::new(
            server.connector(),
            Arc::clone(&limit),
            times(),
            Clock::system(),
        );
        for response in [
            "",
            "nonsense\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nwhole",
            OK,
        ] {
            let (_, ()) = join!(fetch(&pool, "/"), async {
                drop(server.answer(response).await);
            });
            while limit.free() == 0 {
                yield_now().await;
            }
        }
        drop(server);
        assert!(fetch(&pool, "/").await.is_err());
        assert_eq!(limit.free(), 1);
    })
    .await;
}

/// Returns the client with the address `192.0.2.number`.
fn client(number: u8) -> Requester {
    let address = std::net::Ipv4Addr::new(192, 0, 2, number);
    Requester {
        owner: Owner::Address(std::net::IpAddr::V4(address)),
        stream: false,
    }
}

/// A limit under which one client has at most half of the connections while requests of other
/// clients wait.
fn halves(connections: usize) -> Limit {
    let shares = Shares {
        max_thousandths: 500,
        ..SHARES
    };
    Limit::new(
        NonZeroUsize::new(connections).unwrap(),
        256,
        WATCHDOG,
        shares,
    )
}

/// Each of two clients sends requests all the time, in four tasks. Returns the time until the two
/// clients have all answers.
async fn two_busy_clients(pools: &[Pool; 2]) -> Duration {
    let clock = Clock::system();
    let start = clock.instant();
    let mut lanes = Vec::new();
    for lane in 0..8 {
        let pool = pools[usize::from(lane / 4)].clone();
        lanes.push(spawn_local(async move {
            for _ in 0..20 {
                let answer = pool.send_for(client(lane % 2), get("/")).await.unwrap();
                assert_eq!(text(answer).await.unwrap(), "ok");
            }
        }));
    }
    for lane in lanes {
        lane.await.unwrap();
    }
    clock.instant().saturating_duration_since(start)
}

/// The longest allowed time for all requests of the two clients. If each request had to wait for
/// the next review of the exchanges, all requests together would take more than eight seconds.
const SOON: Duration = Duration::from_secs(3);

/// Runs an app that answers every request immediately. If `closes` is true, the app closes the
/// connection after each answer.
async fn quick_app(server: Server, closes: bool, accepted: Rc<Cell<usize>>) {
    let answer = if closes {
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok"
    } else {
        OK
    };
    loop {
        let mut peer = server.accept().await;
        accepted.set(accepted.get().saturating_add(1));
        spawn_local(async move {
            let mut head = Vec::new();
            while let Ok(byte) = peer.0.read_u8().await {
                head.push(byte);
                if head.ends_with(b"\r\n\r\n") {
                    head.clear();
                    if peer.0.write_all(answer.as_bytes()).await.is_err() || closes {
                        return;
                    }
                }
            }
        });
    }
}

#[tokio::test]
async fn clients_with_their_whole_share_get_a_connection_as_soon_as_one_of_theirs_is_free() {
    local(async {
        for (connections, closes, two_workers) in [
            (1, false, false),
            (2, false, false),
            (2, true, false),
            (4, true, false),
            (2, false, true),
            (2, true, true),
        ] {
            let server = Server::start().await;
            let limit = Arc::new(halves(connections));
            let worker = || {
                let limit = Arc::clone(&limit);
                Pool::new(server.connector(), limit, times(), Clock::system())
            };
            let one = worker();
            let other = if two_workers { worker() } else { one.clone() };
            let accepted = Rc::new(Cell::new(0));
            spawn_local(quick_app(server, closes, Rc::clone(&accepted)));
            let took = two_busy_clients(&[one, other]).await;
            assert!(
                took < SOON,
                "{connections} {closes} {two_workers}: {took:?}"
            );
            let reused = closes || two_workers || accepted.get() < 20;
            assert!(reused, "{}", accepted.get());
        }
    })
    .await;
}
