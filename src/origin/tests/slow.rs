//! Tests of slow clients: if a request waits for a connection, the gateway evicts an exchange that
//! waits for its client.

use std::net::{IpAddr, Ipv4Addr};

use tokio::join;
use tokio::task::yield_now;

use super::*;
use crate::origin::Eviction;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// The head of an answer, and a part of its content.
const PART: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart";

/// Returns a client whose address ends with `number`.
fn client(number: u8) -> Requester {
    let address = Ipv4Addr::new(192, 0, 2, number);
    let owner = Owner::Address(IpAddr::V4(address));
    Requester {
        owner,
        stream: false,
    }
}

fn limit_with(connections: usize, slow_client: Duration) -> Arc<Limit> {
    let connections = NonZeroUsize::new(connections).unwrap();
    let shares = Shares {
        slow_client,
        max_thousandths: 500,
    };
    Arc::new(Limit::new(connections, 16, WATCHDOG, shares))
}

const SHORT: Duration = Duration::from_millis(50);
/// During `LONGER`, a pool calls the function `review` several times.
const LONGER: Duration = Duration::from_millis(300);

async fn fetch_for(pool: &Pool, requester: Requester) -> Result<String, Error> {
    text(pool.send_for(requester, get("/")).await?).await
}

#[tokio::test]
async fn an_upload_that_waits_for_its_client_loses_its_connection() {
    local(async {
        let server = Server::start().await;
        let limit = limit_with(1, SHORT);
        let [one, two] = [&limit, &limit].map(|limit| {
            Pool::new(
                server.connector(),
                Arc::clone(limit),
                times(),
                Clock::system(),
            )
        });
        let (sender, body) = TestBody::new();
        let upload = one.send_for(client(1), request(Method::POST, "/", body));
        sender.send(Ok(Bytes::from_static(b"first"))).unwrap();
        let waits = async {
            let mut peer = server.accept().await;
            peer.until("first\r\n").await;
            // The waiting request belongs to another worker.
            let (answer, rest) = join!(fetch_for(&two, client(2)), async {
                let rest = peer.rest().await;
                server.answer(OK).await;
                rest
            });
            assert_eq!(answer.unwrap(), "ok");
            assert!(rest.is_empty());
        };
        let (uploaded, ()) = join!(upload, waits);
        let error = uploaded.map(|_| ()).unwrap_err();
        assert!(
            matches!(error, Error::Evicted(Eviction::SlowClient)),
            "{error:?}"
        );
        assert_eq!(limit.waiting(), 0);
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_nobody_reads_loses_its_connection_and_breaks_off() {
    local(async {
        let server = Server::start().await;
        let limit = limit_with(1, SHORT);
        let pool = Pool::new(server.connector(), limit, times(), Clock::system());
        let (answer, _peer) = join!(pool.send_for(client(1), get("/")), server.answer(PART));
        let mut body = answer.unwrap().into_body();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "part");
        let watch = body.eviction().unwrap();
        let (other, _peer) = join!(fetch_for(&pool, client(2)), server.answer(OK));
        assert_eq!(other.unwrap(), "ok");
        assert_eq!(watch.evicted().await, Eviction::SlowClient);
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(
            matches!(error, Error::Evicted(Eviction::SlowClient)),
            "{error:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn an_exchange_that_waits_for_its_app_keeps_its_connection() {
    local(async {
        let server = Server::start().await;
        let limit = limit_with(1, SHORT);
        let pool = Pool::new(server.connector(), limit, times(), Clock::system());
        let (answer, mut peer) = join!(pool.send_for(client(1), get("/")), server.answer(PART));
        let mut body = answer.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        // The client has accepted the first part of the answer, and asks for the next part.
        let reading = async {
            let rest = body.collect().await.unwrap().to_bytes();
            assert_eq!(rest, " rest");
        };
        let waiting = async {
            let mut waiting = std::pin::pin!(fetch_for(&pool, client(2)));
            let waited = timeout(LONGER, &mut waiting).await;
            assert!(waited.is_err(), "{waited:?}");
            peer.send(" rest").await;
            let (other, _head) = join!(waiting, peer.answer(OK));
            assert_eq!(other.unwrap(), "ok");
        };
        join!(reading, waiting);
    })
    .await;
}

#[tokio::test]
async fn the_eviction_of_one_exchange_does_not_end_the_next_on_the_same_connection() {
    local(async {
        let server = Server::start().await;
        let limit = limit_with(1, SHORT);
        let pool = Pool::new(server.connector(), limit, times(), Clock::system());
        let (answer, mut peer) = join!(pool.send_for(client(1), get("/")), server.answer(PART));
        let mut body = answer.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        let watch = body.eviction().unwrap();
        peer.send(" rest").await;
        body.collect().await.unwrap();
        assert_eq!(pool.idle(), 1);
        let (answer, ()) = join!(pool.send_for(client(1), get("/")), async {
            peer.answer(PART).await;
        });
        let mut next = answer.unwrap().into_body();
        next.frame().await.unwrap().unwrap();
        let (other, _peer) = join!(fetch_for(&pool, client(2)), server.answer(OK));
        assert_eq!(other.unwrap(), "ok");
        let first = timeout(Duration::ZERO, watch.evicted()).await;
        assert!(first.is_err(), "{first:?}");
        assert!(next.frame().await.unwrap().is_err());
    })
    .await;
}

#[tokio::test]
async fn a_client_with_its_whole_share_leaves_free_connections_to_other_clients() {
    local(async {
        let server = Server::start().await;
        let limit = limit_with(2, WATCHDOG);
        let pool = Pool::new(
            server.connector(),
            Arc::clone(&limit),
            times(),
            Clock::system(),
        );
        let (one, two) = (client(1), client(2));
        let mut answers = Vec::new();
        let mut peers = Vec::new();
        for _ in 0..2 {
            let (answer, peer) = join!(pool.send_for(one, get("/")), server.answer(PART));
            answers.push(answer.unwrap());
            peers.push(peer);
        }
        let mut own = std::pin::pin!(fetch_for(&pool, one));
        let mut other = std::pin::pin!(fetch_for(&pool, two));
        // The first client has more than its share of the connections, so requests of the second
        // client go first.
        while limit.held_back() == 0 {
            let polled = timeout(SHORT, async { join!(&mut own, &mut other) }).await;
            assert!(polled.is_err());
        }
        let mut peer = peers.pop().unwrap();
        peer.send(" rest").await;
        assert_eq!(text(answers.pop().unwrap()).await.unwrap(), "part rest");
        let answering = async {
            let (answer, _head) = join!(&mut other, peer.answer(OK));
            assert_eq!(answer.unwrap(), "ok");
        };
        tokio::select! {
            () = answering => {}
            own = &mut own => panic!("the request was not held back: {own:?}"),
        }
        // The connection is idle, but the waiting request of the first client does not get this
        // connection.
        let held_back = timeout(LONGER, &mut own).await;
        assert!(held_back.is_err(), "{held_back:?}");
        assert_eq!(pool.idle(), 1);
        let (again, _head) = join!(fetch_for(&pool, two), peer.answer(OK));
        assert_eq!(again.unwrap(), "ok");
        // An exchange of the first client ends, so the first client may use a connection again.
        drop(answers);
        let answering = async {
            tokio::select! {
                head = peer.answer(OK) => head,
                mut next = server.accept() => next.answer(OK).await,
            }
        };
        let (own, _head) = join!(own, answering);
        assert_eq!(own.unwrap(), "ok");
        yield_now().await;
        assert_eq!(limit.waiting(), 0);
    })
    .await;
}
