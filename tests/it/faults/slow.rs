//! Slow clients of the app that the bystanders use: uploads of one byte after the other, and
//! answers that nobody reads. The slow clients want more connections than the app has.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Door, Plan, Row, greeting, run_row};
use crate::slow_clients::{long_answer, upload};
use crate::support::h2::H2;
use crate::support::raw::Raw;
use crate::support::socket::End;
use crate::support::upstream::Answer;

/// The number of slow clients. The app has eight connections.
const CLIENTS: usize = 12;

/// The number of attempts of each slow client.
const ROUNDS: usize = 3;

/// The time between two bytes of an upload, and the number of bytes that an attempt sends with this
/// pause.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSES: usize = 10;

/// The path of an answer that is too long for the buffers of the gateway.
const LONG_PATH: &str = "/long";

const APP: &str = "connections = 8\nslow_client_secs = 1";

/// A proxy with the address of the test reports the addresses of the clients.
const PROXY: &str = "trusted_proxies = [\"127.0.0.0/8\"]";

/// How the gateway identifies a slow client.
#[derive(Clone)]
enum Who {
    /// All slow clients have one address and no session.
    OneAddress,
    /// Each slow client has an address of its own.
    ManyAddresses,
    /// All slow clients have this session.
    Session(String),
}

impl Who {
    /// The path prefix and the fields of the requests of a slow client.
    fn request(&self, number: usize) -> (&'static str, String) {
        match self {
            Self::OneAddress => ("/public", String::new()),
            Self::ManyAddresses => {
                let address = format!("X-Forwarded-For: 203.0.113.{number}\r\n");
                ("/public", address)
            }
            Self::Session(cookie) => ("", format!("Cookie: {cookie}\r\n")),
        }
    }
}

/// A slow client: its connection to the gateway, its name, and its number.
type SlowClient = fn(Arc<Door>, Who, usize) -> Attack;
type Attack = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Sends one byte after the other over HTTP/1.1.
fn uploading(door: Arc<Door>, who: Who, number: usize) -> Attack {
    Box::pin(async move {
        let (prefix, fields) = who.request(number);
        for _ in 0..ROUNDS {
            let mut slow = Raw::connect(door.address).await;
            slow.send(upload(&format!("{prefix}/upload"), &fields))
                .await;
            for _ in 0..PAUSES {
                // An answer or the end of the connection ends the attempt.
                if timeout(PAUSE, slow.more()).await.is_ok() {
                    break;
                }
                slow.send("a").await;
            }
        }
    })
}

/// Does not read a long answer over HTTP/1.1.
fn reading(door: Arc<Door>, who: Who, number: usize) -> Attack {
    Box::pin(async move {
        let (prefix, fields) = who.request(number);
        let path = format!("{prefix}{LONG_PATH}");
        for _ in 0..ROUNDS {
            let mut slow = End::with_small_buffer(door.address).await;
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
            slow.send(request).await;
            sleep(PAUSE * u32::try_from(PAUSES).unwrap()).await;
        }
    })
}

/// Does the same as `uploading` or `reading`, on streams of one HTTP/2 connection.
fn over_http_2(door: Arc<Door>, method: &'static str, path: &'static str) -> Attack {
    Box::pin(async move {
        let config = door.tls.as_ref().unwrap().client(&["h2"]);
        let fields = [
            (":method", method),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", path),
        ];
        let fields = fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let streams = || (0..CLIENTS).map(|number| u32::try_from(number * 2 + 1).unwrap());
        for _ in 0..ROUNDS {
            let mut slow = H2::connect(door.address, "localhost", Arc::clone(&config)).await;
            for stream in streams() {
                slow.head(stream, &fields, method == "POST").await;
            }
            for _ in 0..PAUSES {
                sleep(PAUSE).await;
                if method == "POST" {
                    for stream in streams() {
                        slow.data(stream, b"a").await;
                    }
                }
            }
        }
    })
}

/// Runs a row in which these slow clients and the bystanders use one app.
async fn attack(
    name: &'static str,
    plan: Plan,
    clients: impl AsyncFnOnce(&mut Row) -> Vec<Attack>,
) {
    let plan = Plan {
        bystanders_app: APP,
        without_buffers: true,
        rest: "[[routes]]\nprefix = \"/public\"\naccess = \"public\"\nupstream = \"app\"\n"
            .to_owned(),
        ..plan
    };
    run_row(name, plan, async |row: &mut Row| {
        let long = long_answer();
        row.app.answer_by(move |request| {
            if request.target().ends_with(LONG_PATH) {
                long.clone()
            } else {
                Answer::ok(&greeting(request))
            }
        });
        let mut attacks: JoinSet<()> = clients(row).await.into_iter().collect();
        while let Some(ended) = attacks.join_next().await {
            ended.unwrap();
        }
        assert!(
            evictions(row).await > 0,
            "no slow client has lost a connection"
        );
    })
    .await;
}

/// The number of exchanges of slow clients that have lost their connection.
async fn evictions(row: &Row) -> u64 {
    let mut sum = 0;
    for route in ["/public", "/"] {
        for kind in ["request", "response"] {
            for reason in ["slow_client", "client_over_share"] {
                let labels = format!("route=\"{route}\",kind=\"{kind}\",reason=\"{reason}\"");
                sum += row
                    .figure(&format!("sidegate_evictions_total{{{labels}}}"))
                    .await;
            }
        }
    }
    sum
}

/// `CLIENTS` slow clients, each of a kind in `kinds`.
fn crowd(row: &Row, who: &Who, kinds: &[SlowClient]) -> Vec<Attack> {
    let kinds = kinds.iter().cycle().take(CLIENTS).enumerate();
    kinds
        .map(|(number, kind)| kind(Arc::clone(&row.door), who.clone(), number))
        .collect()
}

fn proxied() -> Plan {
    Plan {
        server: PROXY,
        ..Plan::default()
    }
}

fn tls() -> Plan {
    Plan {
        tls: true,
        ..Plan::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_d_40_slow_uploads_from_one_address_leave_connections_to_others() {
    attack("slow uploads, one address", Plan::default(), async |row| {
        crowd(row, &Who::OneAddress, &[uploading])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_d_40_slow_uploads_of_one_session_leave_connections_to_others() {
    attack("slow uploads, one session", Plan::default(), async |row| {
        let cookie = row.cookie("mallory").await;
        crowd(row, &Who::Session(cookie), &[uploading])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_slow_uploads_from_many_addresses_leave_connections_to_others() {
    attack("slow uploads, many addresses", proxied(), async |row| {
        crowd(row, &Who::ManyAddresses, &[uploading])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_d_40_slow_uploads_over_http_2_leave_connections_to_others() {
    attack("slow uploads, HTTP/2", tls(), async |row| {
        vec![over_http_2(Arc::clone(&row.door), "POST", "/public/upload")]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_39_d_40_slow_readers_from_one_address_leave_connections_to_others() {
    attack("slow readers, one address", Plan::default(), async |row| {
        crowd(row, &Who::OneAddress, &[reading])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_39_slow_readers_from_many_addresses_leave_connections_to_others() {
    attack("slow readers, many addresses", proxied(), async |row| {
        crowd(row, &Who::ManyAddresses, &[reading])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_39_d_40_slow_readers_over_http_2_leave_connections_to_others() {
    attack("slow readers, HTTP/2", tls(), async |row| {
        vec![over_http_2(Arc::clone(&row.door), "GET", "/public/long")]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_d_39_d_40_slow_uploads_and_readers_leave_connections_to_others() {
    attack(
        "slow both ways, one address",
        Plan::default(),
        async |row| crowd(row, &Who::OneAddress, &[uploading, reading]),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_d_39_slow_uploads_and_readers_from_many_addresses_leave_connections_to_others() {
    attack("slow both ways, many addresses", proxied(), async |row| {
        crowd(row, &Who::ManyAddresses, &[uploading, reading])
    })
    .await;
}
