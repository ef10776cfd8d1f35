//! Slow clients of the app that the bystanders use: uploads of one byte after the other, and
//! answers that nobody reads. Without buffers, the slow clients want more connections than the app
//! has. With the default buffers, 300 slow clients want more connections than the app has by
//! default.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::door::Door;
use super::{LOOK, Plan, Row, greeting, run_row};
use crate::slow_clients::{answer_of, upload};
use crate::support::h2::H2;
use crate::support::raw::Raw;
use crate::support::upstream::Answer;
use crate::support::wire::TEST_TIMEOUT;

/// The time between two bytes of an upload, and the number of these times in an attack. An attack
/// takes longer than a request may wait for a connection.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSES: u32 = 20;

/// The number of connections that an app has by default.
const CONNECTIONS: usize = 256;

/// The path of a long answer.
const LONG_PATH: &str = "/long";

/// The receive buffer of a slow client.
const SMALL: u32 = 4096;

const ROUTES: &str = "[[routes]]\nprefix = \"/public\"\naccess = \"public\"\nupstream = \"app\"\n";

/// What a slow client does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Slow {
    /// Sends one byte after the other.
    Upload,
    /// Does not read a long answer.
    Read,
}
use Slow::{Read, Upload};

/// To whom the requests of the slow clients belong.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Who {
    /// All slow clients have one address and no session.
    OneAddress,
    /// All slow clients have one address and one session.
    OneSession,
    /// Each connection has an address of its own, and no session.
    ManyAddresses,
    /// Each connection has an address and a session of its own.
    ManySessions,
}

/// The slow clients of a row.
#[derive(Clone, Copy)]
struct Crowd {
    what: &'static [Slow],
    who: Who,
    connections: usize,
    /// The number of requests at once on each HTTP/2 connection; 0 for HTTP/1.1.
    streams: u32,
    buffers: bool,
}

/// Slow clients with HTTP/1.1 and without buffers. The app has eight connections.
const FEW: Crowd = Crowd {
    what: &[Upload, Read],
    who: Who::OneAddress,
    connections: 12,
    streams: 0,
    buffers: false,
};

/// The same with HTTP/2.
const FEW_HTTP_2: Crowd = Crowd {
    connections: 1,
    streams: 12,
    ..FEW
};

/// 300 slow clients with HTTP/1.1, with the default buffers.
const MANY: Crowd = Crowd {
    who: Who::ManyAddresses,
    connections: 300,
    buffers: true,
    ..FEW
};

/// The same with HTTP/2.
const MANY_HTTP_2: Crowd = Crowd { streams: 1, ..MANY };

/// 300 slow requests of one client with HTTP/2, with the default buffers.
const STREAMS: Crowd = Crowd {
    who: Who::OneAddress,
    connections: 3,
    streams: 100,
    ..MANY
};

/// One connection of slow clients.
#[derive(Clone)]
struct Connection {
    source: Ipv4Addr,
    cookie: Option<String>,
    /// What the request does, or each request of an HTTP/2 connection in turn.
    what: &'static [Slow],
    crowd: Crowd,
}

impl Connection {
    fn path(&self, slow: Slow) -> String {
        let prefix = if self.cookie.is_some() { "" } else { "/public" };
        match slow {
            Upload => format!("{prefix}/upload"),
            Read => format!("{prefix}{LONG_PATH}"),
        }
    }

    /// Returns whether an upload lasted as long as the attack. `None` if the connection has no
    /// upload.
    async fn run(self, door: Arc<Door>) -> Option<bool> {
        match self.crowd.streams {
            0 => self.over_http_1(&door).await,
            _ => self.over_http_2(&door).await,
        }
    }

    async fn over_http_1(&self, door: &Door) -> Option<bool> {
        let mut slow = Raw::over(door.connect_from(self.source, SMALL).await);
        let cookie = self.cookie.as_ref();
        let fields = cookie.map(|pair| format!("Cookie: {pair}\r\n"));
        let fields = fields.unwrap_or_default();
        let path = self.path(self.what[0]);
        if self.what[0] == Read {
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
            slow.send(request).await;
            sleep(PAUSE * PAUSES).await;
            return None;
        }
        slow.send(upload(&path, &fields)).await;
        for _ in 0..PAUSES {
            // An answer or the end of the connection ends the attack.
            if timeout(PAUSE, slow.more()).await.is_ok() {
                return Some(false);
            }
            slow.send("a").await;
        }
        Some(true)
    }

    async fn over_http_2(&self, door: &Door) -> Option<bool> {
        let stream = door.connect_from(self.source, SMALL).await;
        let mut slow = H2::over(stream, "localhost", door.http2()).await;
        let streams = (0..self.crowd.streams).map(|number| number * 2 + 1);
        let streams: Vec<_> = streams.zip(self.what.iter().cycle()).collect();
        for (stream, what) in &streams {
            self.open(&mut slow, *stream, **what).await;
        }
        let uploads = streams.iter().filter(|(_, what)| **what == Upload);
        let uploads: Vec<_> = uploads.map(|(stream, _)| *stream).collect();
        for _ in 0..PAUSES {
            sleep(PAUSE).await;
            for stream in &uploads {
                slow.data(*stream, b"a").await;
            }
        }
        let answer = timeout(LOOK, slow.block(*uploads.first()?));
        Some(answer.await.is_err())
    }

    /// Opens an HTTP/2 stream.
    async fn open(&self, slow: &mut H2, stream: u32, what: Slow) {
        let path = self.path(what);
        let method = if what == Upload { "POST" } else { "GET" };
        let mut fields = vec![
            (":method", method),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", &path),
        ];
        fields.extend(self.cookie.iter().map(|pair| ("cookie", &**pair)));
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        slow.head(stream, &fields, what == Upload).await;
    }
}

impl Crowd {
    /// The connections. Each does one of the kinds of `what`; an HTTP/2 connection with several
    /// streams does all kinds.
    async fn connections(&self, row: &Row) -> Vec<Connection> {
        let cookies = self.cookies(row).await;
        let connections = (0..self.connections).map(|number| {
            let [_, _, high, low] = u32::try_from(number).unwrap().to_be_bytes();
            let source = match self.who {
                Who::OneAddress | Who::OneSession => Ipv4Addr::LOCALHOST,
                Who::ManyAddresses | Who::ManySessions => Ipv4Addr::new(127, 1, high, low),
            };
            let what = if self.streams > 1 {
                self.what
            } else {
                &self.what[number % self.what.len()..][..1]
            };
            Connection {
                source,
                cookie: cookies.get(number % cookies.len().max(1)).cloned(),
                what,
                crowd: *self,
            }
        });
        connections.collect()
    }

    /// The sessions of the slow clients.
    async fn cookies(&self, row: &Row) -> Vec<String> {
        let count = match self.who {
            Who::OneAddress | Who::ManyAddresses => 0,
            Who::OneSession => 1,
            Who::ManySessions => self.connections,
        };
        let mut cookies = Vec::new();
        for number in 0..count {
            cookies.push(row.cookie(&format!("mallory{number}")).await);
        }
        cookies
    }

    fn plan(&self) -> Plan {
        Plan {
            bystanders_app: if self.buffers {
                "slow_client_secs = 1\nqueue_wait_secs = 3"
            } else {
                "connections = 8\nslow_client_secs = 1\nqueue_wait_secs = 3"
            },
            without_buffers: !self.buffers,
            tls: self.streams > 0,
            rest: ROUTES.to_owned(),
            ..Plan::default()
        }
    }

    /// Runs a row in which these slow clients and the bystanders use one app.
    async fn run(self, name: &'static str) {
        run_row(name, self.plan(), async |row: &mut Row| {
            // Without buffers, a long answer does not fit into the buffers of the kernel.
            let long = answer_of(if self.buffers { 1 << 20 } else { 8 << 20 });
            row.app.answer_by(move |request| {
                if request.target().ends_with(LONG_PATH) {
                    long.clone()
                } else {
                    Answer::ok(&greeting(request))
                }
            });
            let mut attacks = JoinSet::new();
            for connection in self.connections(row).await {
                attacks.spawn(connection.run(Arc::clone(&row.door)));
            }
            let connecting = async {
                while row.gateway.descriptors() < row.descriptors + self.connections {
                    sleep(LOOK).await;
                }
            };
            timeout(TEST_TIMEOUT, connecting).await.unwrap();
            let lasted = attacks.join_all().await;
            if self.buffers {
                let mut uploads = lasted.into_iter().flatten();
                assert!(uploads.all(|lasted| lasted), "an upload ended early");
                self.assert_buffered(row).await;
            } else {
                self.assert_scarce(row).await;
            }
        })
        .await;
    }

    /// The number of answers that nobody reads.
    fn readers(&self) -> usize {
        let streams = usize::try_from(self.streams).unwrap().max(1);
        let kinds = self.what.len();
        let readers = self.what.iter().filter(|what| **what == Read).count();
        self.connections * streams * readers / kinds
    }

    /// Fails if buffered uploads have used many connections of the app. Fails also if the slow readers
    /// have used only few connections.
    /// An answer that nobody reads is larger than its buffer.
    async fn assert_buffered(&self, row: &Row) {
        let (readers, most) = (self.readers(), row.app.most_connections());
        if readers == 0 {
            assert!(most < 20, "the uploads used {most} connections");
            return;
        }
        let expected = readers.min(CONNECTIONS) / 2;
        assert!(most >= expected, "the readers used {most} connections");
        if readers > CONNECTIONS {
            assert!(evictions(row).await > 0, "no slow reader had to give way");
        }
    }

    /// Fails unless connections of the app were scarce: a slow client has lost a connection, or the
    /// only slow client has used its share of four connections while the bystanders used others.
    async fn assert_scarce(&self, row: &Row) {
        let one = matches!(self.who, Who::OneAddress | Who::OneSession);
        let shared = one && row.app.most_connections() > 4;
        let evictions = evictions(row).await;
        assert!(shared || evictions > 0, "no slow client had to give way");
    }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_d_40_slow_uploads_from_one_address_leave_connections_to_others() {
    let crowd = Crowd {
        what: &[Upload],
        ..FEW
    };
    crowd.run("slow uploads, one address").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_d_40_slow_uploads_of_one_session_leave_connections_to_others() {
    let crowd = Crowd {
        what: &[Upload],
        who: Who::OneSession,
        ..FEW
    };
    crowd.run("slow uploads, one session").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_slow_uploads_from_many_addresses_leave_connections_to_others() {
    let crowd = Crowd {
        what: &[Upload],
        who: Who::ManyAddresses,
        ..FEW
    };
    crowd.run("slow uploads, many addresses").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_d_40_slow_uploads_over_http_2_leave_connections_to_others() {
    let crowd = Crowd {
        what: &[Upload],
        ..FEW_HTTP_2
    };
    crowd.run("slow uploads, HTTP/2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_d_40_slow_uploads_of_one_session_over_http_2_leave_connections_to_others() {
    let crowd = Crowd {
        what: &[Upload],
        who: Who::OneSession,
        ..FEW_HTTP_2
    };
    crowd.run("slow uploads, HTTP/2, one session").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_39_d_40_slow_readers_from_one_address_leave_connections_to_others() {
    let crowd = Crowd {
        what: &[Read],
        ..FEW
    };
    crowd.run("slow readers, one address").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_39_d_40_slow_readers_of_one_session_leave_connections_to_others() {
    let crowd = Crowd {
        what: &[Read],
        who: Who::OneSession,
        ..FEW
    };
    crowd.run("slow readers, one session").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_39_slow_readers_from_many_addresses_leave_connections_to_others() {
    let crowd = Crowd {
        what: &[Read],
        who: Who::ManyAddresses,
        ..FEW
    };
    crowd.run("slow readers, many addresses").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_39_d_40_slow_readers_over_http_2_leave_connections_to_others() {
    let crowd = Crowd {
        what: &[Read],
        ..FEW_HTTP_2
    };
    crowd.run("slow readers, HTTP/2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_d_39_d_40_slow_uploads_and_readers_leave_connections_to_others() {
    FEW.run("slow both ways, one address").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_d_39_slow_uploads_and_readers_from_many_addresses_leave_connections_to_others() {
    let crowd = Crowd {
        who: Who::ManyAddresses,
        ..FEW
    };
    crowd.run("slow both ways, many addresses").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_slow_uploads_from_300_addresses_leave_connections_to_others() {
    let crowd = Crowd {
        what: &[Upload],
        ..MANY
    };
    crowd.run("slow uploads, 300 addresses").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_slow_uploads_from_300_addresses_over_http_2_leave_connections_to_others() {
    let crowd = Crowd {
        what: &[Upload],
        ..MANY_HTTP_2
    };
    crowd.run("slow uploads, HTTP/2, 300 addresses").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_39_slow_readers_from_300_addresses_leave_connections_to_others() {
    let crowd = Crowd {
        what: &[Read],
        ..MANY
    };
    crowd.run("slow readers, 300 addresses").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_39_slow_readers_from_300_addresses_over_http_2_leave_connections_to_others() {
    let crowd = Crowd {
        what: &[Read],
        ..MANY_HTTP_2
    };
    crowd.run("slow readers, HTTP/2, 300 addresses").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_d_39_slow_clients_from_300_addresses_over_http_2_leave_connections_to_others() {
    MANY_HTTP_2
        .run("slow both ways, HTTP/2, 300 addresses")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_d_39_slow_clients_from_300_addresses_with_300_sessions_leave_connections_to_others() {
    let crowd = Crowd {
        who: Who::ManySessions,
        ..MANY
    };
    crowd.run("slow both ways, 300 sessions").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_d_39_300_slow_http_2_streams_of_one_address_leave_connections_to_others() {
    STREAMS.run("slow both ways, HTTP/2, one address").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_38_d_39_300_slow_http_2_streams_of_one_session_leave_connections_to_others() {
    let crowd = Crowd {
        who: Who::OneSession,
        ..STREAMS
    };
    crowd.run("slow both ways, HTTP/2, one session").await;
}
