//! Clients that open many connections, until no connection, no descriptor or no memory is left.

use std::net::Ipv4Addr;

use super::{Plan, Row, run_row};
use crate::support::limits;
use crate::support::raw::Raw;

/// The address of the client with many connections. The bystanders have another address.
const GREEDY: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);

const ROUTES: &str = "[[routes]]\nprefix = \"/public\"\naccess = \"public\"\nupstream = \"app\"\n";
const REQUEST: &str = "GET /public HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// With a limit of 1,024 descriptors, the connections of clients, and the second connections of
/// their streams, get this number of descriptors. The two apps get 512, and everything else 176.
const FOR_CLIENTS: usize = 336;

/// What a connection of the crowd does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Crowd {
    /// Sends nothing.
    Silent,
    /// Sends the first bytes of a head.
    HalfHead,
    /// Sends a request, reads the answer, and stays idle.
    Idle,
}
use Crowd::{HalfHead, Idle, Silent};

/// Opens a connection from the greedy address. The gateway can close the connection at any time.
async fn open(row: &Row, crowd: Crowd) -> Raw {
    let mut connection = Raw::over(row.door.connect_from(GREEDY, 4096).await);
    match crowd {
        Silent => {}
        HalfHead => connection.send("GET /public HT").await,
        Idle => {
            connection.send(REQUEST).await;
            connection.response("GET").await;
        }
    }
    connection
}

/// Opens connections of all these kinds in turn. A user signs in before the last ones are open, and
/// the operations listener answers.
async fn fill(row: &Row, kinds: &[Crowd], connections: usize) -> Vec<Raw> {
    let mut open_connections = Vec::new();
    for (number, kind) in kinds.iter().cycle().take(connections).enumerate() {
        open_connections.push(open(row, *kind).await);
        if number % (connections / 4) == connections / 4 - 1 {
            row.cookie(&format!("dave{number}")).await;
            assert!(row.figure("process_open_fds").await > 0);
        }
    }
    open_connections
}

/// The number of connections that the gateway has closed for this reason.
async fn shed(row: &Row, reason: &str) -> u64 {
    let name = format!("sidegate_shed_connections_total{{reason=\"{reason}\"}}");
    row.figure(&name).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_09_f_22_a_thousand_idle_connections_leave_descriptors_to_others() {
    let plan = Plan {
        limits: &["--nofile=1024:1024"],
        rest: ROUTES.to_owned(),
        ..Plan::default()
    };
    run_row(
        "descriptors, 1,000 connections of one address",
        plan,
        async |row: &mut Row| {
            // A stream has a connection of its client and a connection to its app.
            let cookie = row.cookie("alice").await;
            let mut streams = Vec::new();
            for _ in 0..60 {
                streams.push(row.open(&cookie).await);
            }
            let crowd = fill(row, &[Idle, Silent], 1000).await;
            // The bystanders and the users who sign in use a few connections to apps and providers.
            let most = row.descriptors + FOR_CLIENTS + 20;
            assert!(row.gateway.descriptors() < most);
            assert!(shed(row, "client_share").await > 0);
            assert_eq!(shed(row, "descriptors").await, 0);
            row.gateway
                .wait_for_log(|log| log.contains("the process may open only 1024"))
                .await;
            drop((crowd, streams));
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_22_connections_are_closed_when_the_system_refuses_descriptors() {
    // The gateway may close every connection without a request in progress. All requests use the one
    // connection to the app, because a new one would get no descriptor.
    let plan = Plan {
        repeats: true,
        one_worker: true,
        bystanders_app: "connections = 1",
        rest: ROUTES.to_owned(),
        ..Plan::default()
    };
    run_row("descriptors, taken away", plan, async |row: &mut Row| {
        // The gateway does not know about this limit.
        let few = u32::try_from(row.gateway.descriptors()).unwrap() + 20;
        limits::set_descriptors(row.gateway.id(), few);
        let mut crowd = Vec::new();
        for _ in 0..200 {
            crowd.push(open(row, Silent).await);
        }
        let mut last = open(row, Silent).await;
        last.send(REQUEST).await;
        assert_eq!(last.response("GET").await.unwrap().status(), 200);
        row.gateway
            .wait_for_log(|log| log.contains("\"reason\":\"descriptors\""))
            .await;
        limits::set_descriptors(row.gateway.id(), 1024);
        assert!(shed(row, "descriptors").await > 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_43_silent_sockets_of_one_address_leave_connections_to_others() {
    let plan = Plan {
        server: "connections = 200\nconnections_per_client = 200",
        rest: ROUTES.to_owned(),
        ..Plan::default()
    };
    run_row(
        "260 silent sockets of one address",
        plan,
        async |row: &mut Row| {
            for kinds in [&[Silent][..], &[HalfHead], &[Silent, HalfHead, Idle]] {
                fill(row, kinds, 260).await;
            }
            assert!(shed(row, "client_share").await > 0);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_43_a_client_at_its_limit_leaves_connections_to_others() {
    let plan = Plan {
        server: "connections = 200\nconnections_per_client = 20",
        rest: ROUTES.to_owned(),
        ..Plan::default()
    };
    run_row(
        "260 connections above a limit of 20",
        plan,
        async |row: &mut Row| {
            let crowd = fill(row, &[Silent, HalfHead, Idle], 260).await;
            // If a client opens connections too fast, the gateway refuses some of them.
            let (closed, refused) = (
                shed(row, "client_limit").await,
                shed(row, "client_refused").await,
            );
            assert!(closed > 0 && closed + refused >= 230, "{closed} {refused}");
            assert_eq!(shed(row, "client_share").await, 0);
            drop(crowd);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_43_silent_sockets_behind_a_listed_proxy_leave_connections_to_others() {
    let plan = Plan {
        server: "connections = 200\nconnections_per_client = 20\n\
                 trusted_proxies = [\"127.0.0.1\", \"127.1.0.1\"]",
        rest: ROUTES.to_owned(),
        ..Plan::default()
    };
    run_row(
        "260 silent sockets behind a listed proxy",
        plan,
        async |row: &mut Row| {
            for kinds in [&[Silent][..], &[HalfHead], &[Silent, HalfHead, Idle]] {
                fill(row, kinds, 260).await;
            }
            assert!(shed(row, "connections").await > 0);
            assert_eq!(shed(row, "client_limit").await, 0);
        },
    )
    .await;
}

/// The size of the unfinished head or body of a connection that uses much memory.
const LARGE: usize = 30_000;
/// The size of a head that the gateway must not store.
const HUGE: usize = 2_000_000;
/// The highest memory, in KiB. The gateway needs about 145,000.
const MOST_MEMORY: usize = 180_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_23_connections_bodies_and_sessions_stay_below_a_memory_limit() {
    let plan = Plan {
        limits: &["--data=400000000"],
        server: "connections = 2000\nbuffer_mib = 8",
        rest: format!("{ROUTES}[session]\ncapacity_mib = 8\n"),
        ..Plan::default()
    };
    run_row("a memory limit", plan, async |row: &mut Row| {
        // Each session needs more than 16,000 bytes.
        let token = serde_json::json!({ "refresh_token": "x".repeat(16_000) });
        row.provider.token_members(token);
        for number in 0..200 {
            row.cookie(&format!("dave{number}")).await;
        }
        let field = "a".repeat(LARGE);
        let head = format!("GET /public HTTP/1.1\r\nHost: localhost\r\nX-A: {field}");
        let body = format!(
            "POST /public HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n{field}"
        );
        let mut crowd = Vec::new();
        for text in [&head, &body].into_iter().cycle().take(3000) {
            let mut connection = open(row, Silent).await;
            connection.send(text).await;
            crowd.push(connection);
        }
        // One client gets half of `buffer_mib`. The gateway may still be reading the last bodies.
        while row.figure("sidegate_buffered_bytes").await < 3_000_000 {}
        let huge = format!("GET /public HTTP/1.1\r\nX-A: {}", "a".repeat(HUGE));
        for _ in 0..50 {
            let mut connection = open(row, Silent).await;
            connection.send(&huge).await;
            crowd.push(connection);
        }
        row.cookie("erin").await;
        assert!(row.gateway.is_running());
        let buffered = row.figure("sidegate_buffered_bytes").await;
        assert!((3_000_000..5_000_000).contains(&buffered), "{buffered}");
        let peak = row.gateway.peak_memory();
        assert!(peak < MOST_MEMORY, "{peak} KiB");
        drop(crowd);
    })
    .await;
}
