//! Tests of the connections that are closed to make room for others.

use std::net::Ipv4Addr;

use tokio::net::TcpSocket;

use super::*;

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
                tokio::task::yield_now().await;
            }
        };
        soon(waiting).await;
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

/// Fills a server with silent connections of one client. Returns true if the connections of other
/// clients stay open.
async fn others_stay_open(workers: usize) -> bool {
    let server = Server::with_workers(limits(16, 16), workers);
    let mut idle = server.client_from(BYSTANDER).await;
    assert!(idle.get("/").await.ends_with("hello"));
    let mut silent = Vec::new();
    for _ in 0..24 {
        silent.push(server.client_from(GREEDY).await);
    }
    for _ in 0..20 {
        let mut next = server.client_from(BYSTANDER).await;
        assert!(next.get("/").await.ends_with("hello"));
    }
    assert!(server.shed("client_share") > 0);
    let stays_open = server.shed("connections") == 0;
    if stays_open && workers == 1 {
        assert!(idle.get("/").await.ends_with("hello"));
    }
    stays_open
}

#[tokio::test]
async fn d_43_silent_connections_of_one_client_make_room_for_others() {
    // Another worker may take too long to close a connection.
    others_stay_open(2).await;
    // On a busy machine, a worker may take too long to close its own connection.
    for _attempt in 0..5 {
        if others_stay_open(1).await {
            return;
        }
    }
    panic!("connections of other clients are closed in each attempt");
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
async fn d_43_by_default_one_client_leaves_an_eighth_of_the_connections_to_others() {
    let mut settings = limits(16, 16);
    settings.limits.connections_per_client = None;
    let mut server = Server::start(settings);
    let mut busy = Vec::new();
    for _ in 0..14 {
        busy.push(server.busy_from(GREEDY).await);
    }
    assert_eq!(server.client_from(GREEDY).await.rest().await, "");
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
    let mut other = server.client_from(BYSTANDER).await;
    assert!(other.get("/").await.ends_with("hello"));
}
