//! Floods over HTTP/2: clients that send frames of one kind as fast as they can, and clients that
//! never or hardly open their windows. Each flood has two periods: first, the bystanders measure how
//! fast they are, and then the flood begins ([`super::outcome::Comparison`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::door::Door;
use super::outcome::{Comparison, now};
use super::{IDLE, Plan, Row, run_row};
use crate::slow_clients::answer_of;
use crate::support::h2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, H2, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame, indexed_literal, literals,
};
use crate::support::upstream::RecordingUpstream;

/// The number of requests of each bystander before a flood.
const QUIET: usize = 100;

/// The time of a flood.
const FLOOD: Duration = Duration::from_secs(2);

/// The number of connections of a flood. The gateway has two workers.
const CONNECTIONS: usize = 4;

/// The pause before a client connects again. The rows measure the cost of frames, and not the cost of
/// TLS handshakes.
const RECONNECT: Duration = Duration::from_millis(50);

/// The memory, in KiB, by which the floods of a row may increase the largest memory of the gateway:
/// 32 MiB for each connection. The buffers for answers (`buffer_mib`) are a part of this memory.
const MEMORY: usize = CONNECTIONS * 32 * 1024;

/// The number of concurrent requests that the gateway allows on one connection.
const STREAMS: u32 = 100;

/// The number of frames in one write.
const FRAMES: u32 = 500;

/// The length of an answer that fits into the buffer of the gateway (`answer_kib`).
const LENGTH: usize = 100 << 10;

/// A field of a block that names the newest entry of the field table, which has the index 62 (RFC
/// 7541 sections 2.3.3 and 6.1).
const NEWEST: u8 = 0xbe;

/// Only one row of floods runs at a time, because a flood needs all processors.
static ONE_ROW: Mutex<()> = Mutex::const_new(());

/// How the gateway ends a flood.
#[derive(Clone, Copy)]
enum End {
    /// The gateway closes the connections, and counts the refusals with this reason.
    Refused(&'static str),
    /// The connections stay open, because such frames are allowed and cost little.
    Open,
}

/// One kind of flood.
#[derive(Clone, Copy)]
struct Flood {
    name: &'static str,
    /// Whether the client begins with the preface and with settings.
    begins: bool,
    /// The first bytes of the client, or the first bytes after its settings.
    opening: fn() -> Vec<u8>,
    /// The frames of the write with this number.
    frames: fn(u32) -> Vec<u8>,
    /// The pause between two writes.
    pause: Duration,
    /// Whether the client reads.
    reads: bool,
    end: End,
}

/// A flood without an opening and without pauses. The client reads.
const PLAIN: Flood = Flood {
    name: "",
    begins: true,
    opening: Vec::new,
    frames: |_| Vec::new(),
    pause: Duration::ZERO,
    reads: true,
    end: End::Open,
};

/// A request without a body, on `stream`, with these further bytes of its block.
fn get(stream: u32, path: &[u8], more: &[u8]) -> Vec<u8> {
    let mut block = head(b"GET", path);
    block.extend(more);
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
}

fn head(method: &[u8], path: &[u8]) -> Vec<u8> {
    literals(&[
        (b":method", method),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", path),
    ])
}

/// The client's stream with this number.
fn stream(number: u32) -> u32 {
    number * 2 + 1
}

/// The frames that `each` returns for the numbers of the write `write`.
fn each(write: u32, count: u32, each: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    let numbers = write * count..(write + 1) * count;
    numbers.flat_map(each).collect()
}

/// The same frame many times.
fn repeated(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(kind, flags, stream, payload).repeat(usize::try_from(FRAMES).unwrap())
}

/// Settings with one value.
fn setting(name: u8, value: u32) -> Vec<u8> {
    let mut payload = vec![0, name];
    payload.extend(value.to_be_bytes());
    frame(SETTINGS, 0, 0, &payload)
}

/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const INITIAL_WINDOW: u8 = 4;

impl Flood {
    /// Floods the gateway on one connection after the other until `until`. Returns the number of
    /// connections that the gateway has closed.
    async fn run(self, door: Arc<Door>, until: Instant) -> usize {
        let mut closed = 0;
        while now() < until {
            let mut client = if self.begins {
                door.connect_http2().await
            } else {
                H2::connect_without_preface(door.address, "localhost", door.http2()).await
            };
            let mut bytes = (self.opening)();
            for write in 0.. {
                bytes.extend((self.frames)(write));
                let sent = async {
                    if self.reads {
                        client.flood(&bytes).await
                    } else {
                        client.bytes(&bytes).await
                    }
                };
                match timeout_at(until, sent).await {
                    Ok(true) if now() < until => {}
                    Ok(true) | Err(_) => return closed,
                    Ok(false) => break,
                }
                bytes.clear();
                sleep(self.pause).await;
            }
            closed += 1;
            sleep(RECONNECT).await;
        }
        closed
    }

    /// Runs the flood, and checks how it ends.
    async fn check(self, row: &mut Row) {
        let reason = match self.end {
            End::Refused(reason) => reason,
            End::Open => "http2_flood",
        };
        let refusals = format!("sidegate_refusals_total{{reason=\"{reason}\"}}");
        let refused = row.figure(&refusals).await;
        let quiet = now();
        for bystander in &mut row.bystanders {
            bystander.sends(QUIET).await;
        }
        let begin = now();
        let mut clients = JoinSet::new();
        for _ in 0..CONNECTIONS {
            clients.spawn(self.run(Arc::clone(&row.door), begin + FLOOD));
        }
        let closed: usize = clients.join_all().await.iter().sum();
        row.outcome.comparisons.push(Comparison {
            flood: self.name,
            periods: [quiet, begin, now()],
        });
        match self.end {
            End::Refused(_) => {
                assert!(closed > 0, "{}: no connection was closed", self.name);
                row.wait_for_at_least(&refusals, refused + 1).await;
            }
            End::Open => assert_eq!(closed, 0, "{}: connections were closed", self.name),
        }
    }
}

/// Runs the floods of a row, one after the other. `flooded` is the app of the floods.
async fn run_floods(name: &'static str, floods: &[Flood]) {
    let _one_row = ONE_ROW.lock().await;
    let flooded = RecordingUpstream::start().await;
    flooded.forget_what_is_answered();
    flooded.answer_by(|_request| answer_of(LENGTH));
    let plan = Plan {
        tls: true,
        rest: format!(
            "[upstreams.flooded]\nurl = \"{}\"\n{IDLE}\
             [[routes]]\nprefix = \"/flooded\"\naccess = \"public\"\nupstream = \"flooded\"\n",
            flooded.url()
        ),
        ..Plan::default()
    };
    run_row(name, plan, async |row: &mut Row| {
        row.outcome.more_rows += floods.len() - 1;
        let memory = row.gateway.peak_memory();
        for flood in floods {
            flood.check(row).await;
            let grown = row.gateway.peak_memory() - memory;
            assert!(grown < MEMORY, "{}: {grown} KiB", flood.name);
        }
        // The gateway closes connections of the app that nobody uses.
        if flooded.connections() > 0 {
            flooded.wait_until_unconnected().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_10_d_12_streams_that_are_reset_at_once_end_the_connection() {
    let floods = [
        Flood {
            name: "streams that the client resets",
            frames: |write| {
                each(write, FRAMES, |number| {
                    let mut frames = get(stream(number), b"/flooded", b"");
                    frames.extend(frame(RST_STREAM, 0, stream(number), &[0, 0, 0, 8]));
                    frames
                })
            },
            end: End::Refused("http2_flood"),
            ..PLAIN
        },
        Flood {
            name: "streams that the client makes the gateway reset",
            frames: |write| {
                each(write, STREAMS, |number| {
                    let mut frames = get(stream(number), b"/flooded", b"");
                    let overflow = 0x7fff_ffff_u32.to_be_bytes();
                    frames.extend(frame(WINDOW_UPDATE, 0, stream(number), &overflow));
                    frames
                })
            },
            end: End::Refused("http2_flood"),
            ..PLAIN
        },
    ];
    run_floods("HTTP/2 streams that are reset", &floods).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_11_d_14_d_16_heads_that_cost_more_than_they_weigh_end_the_connection() {
    let floods = [
        Flood {
            name: "empty CONTINUATION frames",
            opening: || frame(HEADERS, END_STREAM, 1, &head(b"GET", b"/flooded")),
            frames: |_| repeated(CONTINUATION, 0, 1, b""),
            end: End::Refused("http2_flood"),
            ..PLAIN
        },
        Flood {
            name: "CONTINUATION frames with fields",
            opening: || frame(HEADERS, END_STREAM, 1, &head(b"GET", b"/flooded")),
            frames: |_| {
                let fields = literals(&[(b"a", &[b'a'; 8000])]);
                frame(CONTINUATION, 0, 1, &fields).repeat(20)
            },
            end: End::Refused("http2_flood"),
            ..PLAIN
        },
        Flood {
            name: "a block that decompresses to megabytes",
            opening: || {
                let seed = indexed_literal(b"x", &[b'a'; 3900]);
                get(1, b"/flooded", &seed)
            },
            frames: |write| get(stream(write + 1), b"/flooded", &[NEWEST; 2000]),
            end: End::Refused("http2_flood"),
            ..PLAIN
        },
        Flood {
            name: "fields without a name",
            frames: |write| get(stream(write), b"/flooded", &[0, 0, 1, b'a']),
            end: End::Refused("malformed"),
            ..PLAIN
        },
        Flood {
            name: "tables that are resized",
            // The largest table and the smallest table, many times. The answers are short, and the
            // client opens the window of the connection for them.
            frames: |write| {
                let mut block = [0x3f, 0xe1, 0x1f, 0x20].repeat(2000);
                block.extend(head(b"GET", b"/none"));
                let head = frame(HEADERS, END_HEADERS | END_STREAM, stream(write), &block);
                let window = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 16, 0]);
                [head, window].concat()
            },
            ..PLAIN
        },
        Flood {
            name: "a preface of HTTP/3.0",
            begins: false,
            opening: || b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n".to_vec(),
            end: End::Refused("malformed"),
            ..PLAIN
        },
    ];
    run_floods("HTTP/2 heads", &floods).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_13_d_15_frames_that_carry_nothing_cost_bystanders_nothing() {
    let ping = Flood {
        name: "PING frames",
        frames: |_| repeated(PING, 0, 0, &[7; 8]),
        ..PLAIN
    };
    let settings = Flood {
        name: "SETTINGS frames",
        frames: |_| repeated(SETTINGS, 0, 0, b""),
        end: End::Refused("http2_flood"),
        ..PLAIN
    };
    let floods = [
        ping,
        Flood {
            name: "PING frames whose answers nobody reads",
            reads: false,
            ..ping
        },
        settings,
        Flood {
            name: "SETTINGS frames whose answers nobody reads",
            reads: false,
            ..settings
        },
        Flood {
            name: "PRIORITY frames",
            frames: |write| {
                each(write, FRAMES, |number| {
                    frame(PRIORITY, 0, stream(number), &[0; 5])
                })
            },
            ..PLAIN
        },
        Flood {
            name: "WINDOW_UPDATE frames",
            frames: |_| repeated(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
            ..PLAIN
        },
        Flood {
            name: "a window that overflows",
            frames: |_| repeated(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            end: End::Refused("malformed"),
            ..PLAIN
        },
        Flood {
            name: "empty DATA frames",
            opening: || frame(HEADERS, END_HEADERS, 1, &head(b"POST", b"/flooded")),
            frames: |_| repeated(DATA, 0, 1, b""),
            end: End::Refused("http2_flood"),
            ..PLAIN
        },
    ];
    run_floods("HTTP/2 frames that carry nothing", &floods).await;
}

/// Opens all streams of a connection. The client never opens their windows. `more` is added to the
/// block of each head.
fn closed_windows(more: &[u8]) -> Vec<u8> {
    let mut bytes = setting(INITIAL_WINDOW, 0);
    bytes.extend(each(0, STREAMS, |number| {
        get(stream(number), b"/flooded", more)
    }));
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_14_d_17_windows_that_hardly_open_cost_no_connection_of_the_app() {
    let floods = [
        Flood {
            name: "windows of zero",
            opening: || closed_windows(b""),
            pause: Duration::from_millis(20),
            ..PLAIN
        },
        Flood {
            name: "windows of zero, and cookies in eight hundred pieces",
            opening: || {
                // The first piece enters the field table, and the others name it.
                let mut bytes = setting(INITIAL_WINDOW, 0);
                bytes.extend(get(1, b"/flooded", &indexed_literal(b"cookie", b"")));
                bytes.extend(each(0, STREAMS - 1, |number| {
                    get(stream(number + 1), b"/flooded", &[NEWEST; 800])
                }));
                bytes
            },
            pause: Duration::from_millis(20),
            ..PLAIN
        },
        Flood {
            name: "windows that open by one byte",
            opening: || closed_windows(b""),
            frames: |_| {
                each(0, STREAMS, |number| {
                    frame(WINDOW_UPDATE, 0, stream(number), &[0, 0, 0, 1])
                })
            },
            pause: Duration::from_millis(20),
            ..PLAIN
        },
        Flood {
            name: "windows that settings open and close",
            opening: || closed_windows(b""),
            frames: |_| {
                let open = setting(INITIAL_WINDOW, 1);
                [open, setting(INITIAL_WINDOW, 0)].concat().repeat(100)
            },
            end: End::Refused("http2_flood"),
            ..PLAIN
        },
    ];
    run_floods("HTTP/2 windows", &floods).await;
}
