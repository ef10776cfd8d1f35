//! Tests of the connections that are closed to make room for others.

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use tokio::net::TcpSocket;
use tokio::task::{spawn_local, yield_now};

use super::served::local;
use super::*;
use crate::server::report::Reports;
use crate::server::shed::Admission;
use crate::server::slots::Slots;
use crate::server::worker::Registry;

/// The client that the other clients must not harm.
const BYSTANDER: Ipv4Addr = Ipv4Addr::LOCALHOST;
const GREEDY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn limits(connections: usize, per_client: usize) -> Settings {
    let limits = Limits {
        connections,
        connections_per_client: Some(per_client),
        ..Limits::default()
    };
    Settings {
        limits,
        // A silent connection uses its deadline faster than an idle one, as with the default settings.
        ..with(Deadlines {
            first_byte: Duration::from_secs(6),
            ..long()
        })
    }
}

impl Server {
    async fn client_from(&self, address: Ipv4Addr) -> Client<TcpStream> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((address, 0).into()).unwrap();
        Client(socket.connect(self.plain).await.unwrap())
    }

    /// The number of connections that were closed for this reason.
    fn shed(&self, reason: &str) -> u64 {
        let name = format!("sidegate_shed_connections_total{{reason=\"{reason}\"}} ");
        let text = self.metrics.encode();
        let figure = text.lines().find_map(|line| line.strip_prefix(&name));
        figure.map_or(0, |figure| figure.parse().unwrap())
    }

    /// Waits until this number of connections was closed for this reason.
    async fn until_shed(&self, reason: &str, count: u64) {
        let waiting = async {
            while self.shed(reason) < count {
                yield_now().await;
            }
        };
        soon(waiting).await;
    }

    /// Waits until a request for `/` has its answer.
    async fn left_root(&mut self) {
        let left = Event::Left("/".to_owned());
        while self.event().await != left {}
    }

    /// A client whose request is in progress until the test releases it.
    async fn busy_from(&mut self, address: Ipv4Addr) -> Client<TcpStream> {
        let mut busy = self.client_from(address).await;
        busy.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let entered = Event::Entered("/hold".to_owned());
        while self.event().await != entered {}
        busy
    }
}

/// Fills a server with silent connections of one client. The connections of other clients stay open.
async fn others_stay_open(workers: usize) {
    let server = Server::with_workers(limits(16, 16), workers);
    let mut others = vec![server.client_from(BYSTANDER).await];
    assert!(others[0].get("/").await.ends_with("hello"));
    let mut silent = Vec::new();
    for _ in 0..24 {
        silent.push(server.client_from(GREEDY).await);
    }
    // The greedy client has more than its share until the end.
    for last in 1..=8 {
        let mut next = server.client_from([127, 0, 1, last].into()).await;
        assert!(next.get("/").await.ends_with("hello"));
        others.push(next);
    }
    for other in &mut others {
        assert!(other.get("/").await.ends_with("hello"));
    }
    assert_eq!(server.shed("connections"), 0);
    assert!(server.shed("client_share") >= 17);
}

#[tokio::test]
async fn d_43_silent_connections_of_one_client_make_room_for_others() {
    for workers in 1..=3 {
        others_stay_open(workers).await;
    }
}

#[tokio::test]
async fn d_09_silent_connections_are_closed_before_idle_ones_and_requests_in_progress_never() {
    let mut server = Server::start(limits(3, 3));
    let [mut idle, mut silent] = [
        server.client_from([127, 0, 0, 3].into()).await,
        server.client_from([127, 0, 0, 4].into()).await,
    ];
    assert!(idle.get("/").await.ends_with("hello"));
    let mut busy = server.busy_from([127, 0, 0, 5].into()).await;
    let mut next = server.client_from([127, 0, 0, 6].into()).await;
    assert!(next.get("/").await.ends_with("hello"));
    assert_eq!(silent.rest().await, "");
    // Now both other connections are idle, and `idle` is older.
    let mut last = server.client_from([127, 0, 0, 7].into()).await;
    assert!(last.get("/").await.ends_with("hello"));
    assert_eq!(idle.rest().await, "");
    assert!(next.get("/").await.ends_with("hello"));
    assert_eq!(server.shed("connections"), 2);
    server.probe.release.add_permits(1);
    assert!(busy.until("held").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn d_09_a_half_head_and_a_half_handshake_make_room() {
    let server = Server::start(limits(2, 2));
    let mut head = server.client_from([127, 0, 0, 3].into()).await;
    head.send("GET / HT").await;
    let mut hello = Client(TcpStream::connect(server.secure).await.unwrap());
    hello.send([22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3]).await;
    let mut open = Vec::new();
    for last in 4..6 {
        let mut next = server.client_from([127, 0, 0, last].into()).await;
        assert!(next.get("/").await.ends_with("hello"));
        open.push(next);
    }
    assert_eq!(head.rest().await, "");
    assert_eq!(hello.rest().await, "");
}

#[tokio::test]
async fn d_43_a_client_at_its_limit_loses_its_own_waiting_connection() {
    let mut server = Server::start(limits(16, 2));
    let mut others = server.client_from(BYSTANDER).await;
    assert!(others.get("/").await.ends_with("hello"));
    let [mut first, mut second] = [
        server.client_from(GREEDY).await,
        server.client_from(GREEDY).await,
    ];
    assert!(first.get("/").await.ends_with("hello"));
    assert!(second.get("/").await.ends_with("hello"));
    let mut third = server.client_from(GREEDY).await;
    assert!(third.get("/").await.ends_with("hello"));
    assert_eq!(first.rest().await, "");
    assert_eq!(server.shed("client_limit"), 1);
    // If all connections of the client have requests in progress, its new connection is closed.
    drop((second, third));
    let (mut one, mut two) = (
        server.busy_from(GREEDY).await,
        server.busy_from(GREEDY).await,
    );
    assert_eq!(server.client_from(GREEDY).await.rest().await, "");
    server.until_shed("client_refused", 1).await;
    assert!(others.get("/").await.ends_with("hello"));
    server.probe.release.add_permits(2);
    for busy in [&mut one, &mut two] {
        assert!(busy.until("held").await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn d_43_two_clients_get_room_from_the_same_other_worker_at_once() {
    local(async {
        let settings = limits(8, 1);
        let slots = Slots::new(&settings.limits, Reports::new(None));
        let worker = || Registry::new(settings, Arc::clone(&slots), Clock::system());
        let (asking, asked) = (worker(), worker());
        let address = |last| IpAddr::from([127, 0, 0, last]);
        let open = |worker: &Rc<Registry>, last| {
            worker.enter((address(last), 1).into(), slots.try_take().unwrap())
        };
        let waiting = [3, 4].map(|last| {
            let connection = open(&asked, last);
            let client = slots.clients.enter(address(last));
            connection.state.place.belongs_to(client);
            connection
        });
        let other = Rc::clone(&asked);
        drop(spawn_local(async move { other.shed_for_others().await }));
        yield_now().await;
        let [one, two] = [3, 4].map(|last| {
            let admission = asking.admit(address(last));
            assert!(matches!(admission, Admission::Pending(_)));
            (open(&asking, last), admission)
        });
        let settled = soon(async {
            tokio::join!(
                asking.settle(&one.0.state, one.1),
                asking.settle(&two.0.state, two.1)
            )
        });
        assert_eq!(settled.await, (true, true));
        assert!(waiting.iter().all(|waiting| waiting.state.place.is_shed()));
    })
    .await;
}

#[tokio::test]
async fn d_43_by_default_one_client_leaves_an_eighth_of_the_connections_to_others() {
    let mut settings = limits(16, 16);
    settings.limits.connections_per_client = None;
    let mut server = Server::start(settings);
    let mut busy = Vec::new();
    for _ in 0..14 {
        busy.push(server.busy_from(GREEDY).await);
    }
    assert_eq!(server.client_from(GREEDY).await.rest().await, "");
    server.until_shed("client_refused", 1).await;
    let mut other = server.client_from(BYSTANDER).await;
    assert!(other.get("/").await.ends_with("hello"));
}

#[tokio::test]
async fn f_22_connections_and_tunnels_use_no_more_descriptors_than_allowed() {
    let mut settings = limits(16, 16);
    settings.limits.descriptors = 2;
    let mut server = Server::start(settings);
    let mut first = server.client_from([127, 0, 0, 3].into()).await;
    assert!(first.get("/").await.ends_with("hello"));
    let busy = server.busy_from([127, 0, 0, 4].into()).await;
    let mut next = server.client_from([127, 0, 0, 5].into()).await;
    assert!(next.get("/").await.ends_with("hello"));
    assert_eq!(first.rest().await, "");
    drop(busy);
}

#[tokio::test]
async fn d_43_the_limit_of_a_client_also_applies_if_descriptors_allow_fewer_connections() {
    let mut settings = limits(16, 12);
    settings.limits.descriptors = 8;
    let mut server = Server::start(settings);
    let mut busy = Vec::new();
    for _ in 0..7 {
        busy.push(server.busy_from(GREEDY).await);
    }
    assert_eq!(server.client_from(GREEDY).await.rest().await, "");
    server.until_shed("client_refused", 1).await;
    let mut other = server.client_from(BYSTANDER).await;
    assert!(other.get("/").await.ends_with("hello"));
}

#[tokio::test]
async fn d_43_a_client_at_its_limit_gets_no_connection_of_others() {
    let mut server = Server::start(limits(3, 1));
    let mut others = Vec::new();
    for last in 3..5 {
        let mut other = server.client_from([127, 0, 0, last].into()).await;
        assert!(other.get("/").await.ends_with("hello"));
        others.push(other);
    }
    let mut busy = server.busy_from(GREEDY).await;
    assert_eq!(server.client_from(GREEDY).await.rest().await, "");
    server.until_shed("client_refused", 1).await;
    assert_eq!(server.shed("connections"), 0);
    for other in &mut others {
        assert!(other.get("/").await.ends_with("hello"));
    }
    server.probe.release.add_permits(1);
    assert!(busy.until("held").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn d_09_a_connection_whose_body_is_still_read_after_its_answer_does_not_wait() {
    let mut server = Server::start(limits(2, 2));
    let mut upload = server.client_from([127, 0, 0, 3].into()).await;
    upload
        .send("POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234")
        .await;
    assert!(upload.until("later").await.starts_with("HTTP/1.1 200"));
    let mut idle = server.client_from([127, 0, 0, 4].into()).await;
    assert!(idle.get("/").await.ends_with("hello"));
    let mut next = server.client_from([127, 0, 0, 5].into()).await;
    assert!(next.get("/").await.ends_with("hello"));
    assert_eq!(idle.rest().await, "");
    upload.send("56789").await;
    let left = Event::Left("/later".to_owned());
    while server.event().await != left {}
}

/// The types of the HTTP/2 frames that a server sends (RFC 9113 section 6).
fn types(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let Some(([high, middle, low, kind, ..], rest)) = bytes.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, *high, *middle, *low]);
        types.push(*kind);
        bytes = rest.get(length.try_into().unwrap()..).unwrap_or_default();
    }
    types
}

#[tokio::test]
async fn d_43_a_shed_http2_connection_ends_at_once() {
    const HEADERS: u8 = 1;
    const GOAWAY: u8 = 7;
    let mut server = Server::start(limits(2, 2));
    let mut http2 = server.secure_client(&[b"h2"]).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // A GET request for https://a/ on the first stream.
    let request = b"\0\0\x06\x01\x05\0\0\0\x01\x82\x87\x84\x41\x01a";
    http2.send([&preface[..], request].concat()).await;
    server.left_root().await;
    let mut busy = server.busy_from([127, 0, 0, 3].into()).await;
    let mut next = server.client_from([127, 0, 0, 4].into()).await;
    assert!(next.get("/").await.ends_with("hello"));
    let mut bytes = Vec::new();
    let read = soon(http2.0.read_to_end(&mut bytes)).await;
    // After a graceful end, the client could begin further requests.
    let types = types(&bytes);
    assert!(types.contains(&HEADERS), "{types:?} {read:?}");
    assert!(!types.contains(&GOAWAY), "{types:?} {read:?}");
    assert_eq!(server.shed("connections"), 1);
    server.probe.release.add_permits(1);
    assert!(busy.until("held").await.starts_with("HTTP/1.1 200"));
}
