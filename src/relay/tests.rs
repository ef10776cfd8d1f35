//! Tests of a relay between two pairs of sockets.

use std::os::fd::{AsFd as _, OwnedFd};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};

use super::*;

impl Duplex for DuplexStream {
    fn reset_on_close(&self) {}

    fn limit_unsent(&self, _bytes: usize) {}
}

fn end(io: DuplexStream, early: &'static [u8]) -> Peer {
    Peer {
        io: Box::new(io),
        early: Bytes::from_static(early),
    }
}

/// Returns a relay, and the sockets of the client and of the app. The buffer of each socket holds
/// `room` bytes.
fn relay(room: usize) -> (Relay, DuplexStream, DuplexStream) {
    let (client, inner) = duplex(room);
    let (app, other) = duplex(room);
    let relay = Relay::new(
        end(inner, b"early from the client"),
        end(other, b"early from the app"),
        FrameTracker::unknown(),
        SCRATCH,
    );
    (relay, client, app)
}

async fn text(stream: &mut DuplexStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn early_bytes_come_first_and_each_end_is_forwarded() {
    for room in [1, 7, 1024] {
        let (mut relay, mut client, mut app) = relay(room);
        let byte_counts = relay.byte_counts();
        let ends = async {
            let up = async {
                client.write_all(b", more").await.unwrap();
                client.shutdown().await.unwrap();
            };
            let ((), heard) = tokio::join!(up, text(&mut app));
            assert_eq!(heard, "early from the client, more");
            let down = async {
                app.write_all(b", late").await.unwrap();
                app.shutdown().await.unwrap();
            };
            let ((), heard) = tokio::join!(down, text(&mut client));
            assert_eq!(heard, "early from the app, late");
        };
        let (ended, ()) = tokio::join!(relay.run(), ends);
        assert_eq!(ended, Ended::Closed);
        assert_eq!(
            (byte_counts.client_bytes(), byte_counts.app_bytes()),
            (27, 24)
        );
    }
}

#[tokio::test]
async fn a_broken_connection_ends_the_relay() {
    let (mut relay, client, mut app) = relay(64);
    drop(client);
    app.write_all(b"to nobody").await.unwrap();
    assert_eq!(relay.run().await, Ended::ClientBroke);
    let (mut relay, mut client, app) = self::relay(64);
    drop(app);
    client.write_all(b"to nobody").await.unwrap();
    assert_eq!(relay.run().await, Ended::AppBroke);
}

#[tokio::test]
async fn a_closed_relay_sends_a_close_frame_only_between_two_frames() {
    for (sent, closes) in [(&b"\x81\x02ab"[..], true), (b"\x81\x02a", false)] {
        let (mut client, inner) = duplex(1024);
        let (mut app, other) = duplex(1024);
        let (client_end, app_end) = (end(inner, b""), end(other, b""));
        let mut relay = Relay::new(client_end, app_end, FrameTracker::websocket(), SCRATCH);
        app.write_all(sent).await.unwrap();
        let mut heard = vec![0; sent.len()];
        tokio::select! {
            _ended = relay.run() => panic!("it ended by itself"),
            read = client.read_exact(&mut heard) => assert_eq!(read.unwrap(), sent.len()),
        }
        // The relay reads all bytes that the client sends, so that no reset destroys the close
        // frame.
        client.write_all(&[0; 700]).await.unwrap();
        let ends = async {
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest.first() == Some(&0x88), closes, "{rest:?}");
            assert_eq!(rest.is_empty(), !closes, "{rest:?}");
            let mut rest = Vec::new();
            app.read_to_end(&mut rest).await.unwrap();
            assert!(rest.is_empty());
            client.write_all(&[0; 3000]).await.unwrap();
            drop(client);
        };
        tokio::join!(relay.close(Close::Policy), ends);
    }
}

#[tokio::test]
async fn a_relay_keeps_no_more_than_its_limit_for_a_side_that_does_not_read() {
    const ROOM: usize = 1000;
    const KIB: usize = 1024;
    for max_lag in [KIB, 16 * KIB, 64 * KIB, 100 * KIB, 1024 * KIB] {
        let (mut client, inner) = duplex(ROOM);
        // One read can return more bytes than the limit allows.
        let (mut app, other) = duplex(4 * SCRATCH);
        let (client_end, app_end) = (end(inner, b""), end(other, b""));
        let mut relay = Relay::new(client_end, app_end, FrameTracker::unknown(), max_lag);
        let byte_counts = relay.byte_counts();
        let sent: Vec<u8> = (0..=255).cycle().take(2 * 1024 * KIB).collect();
        let mut writing = Box::pin(async {
            app.write_all(&sent).await.unwrap();
            app.shutdown().await.unwrap();
        });
        let turns = async {
            for _ in 0..20_000 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ended = relay.run() => panic!("it ended by itself"),
            () = &mut writing => panic!("everything was read"),
            () = turns => {}
        }
        let read = usize::try_from(byte_counts.app_bytes()).unwrap();
        // The relay does not begin a read that could exceed the limit.
        let least = max_lag.saturating_sub(SCRATCH).saturating_add(ROOM);
        let fits = least < read && read <= max_lag.saturating_add(ROOM);
        assert!(fits, "{read} bytes were read with a limit of {max_lag}");
        assert!(relay.to_client.pending.capacity() <= max_lag, "{max_lag}");
        let reading = async {
            client.shutdown().await.unwrap();
            let mut came = Vec::new();
            client.read_to_end(&mut came).await.unwrap();
            assert!(came == sent, "{max_lag}");
        };
        let (ended, (), ()) = tokio::join!(relay.run(), writing, reading);
        assert_eq!(ended, Ended::Closed);
    }
}

impl Duplex for TcpStream {
    fn reset_on_close(&self) {}

    fn limit_unsent(&self, bytes: usize) {
        limit_unsent(&SockRef::from(self), bytes);
    }
}

/// Returns a connection, and a second file descriptor of the connection's socket.
async fn socket(listener: &TcpListener) -> (Peer, OwnedFd) {
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await;
    let stream = stream.unwrap();
    let socket = stream.as_fd().try_clone_to_owned().unwrap();
    let peer = Peer {
        io: Box::new(stream),
        early: Bytes::new(),
    };
    (peer, socket)
}

#[tokio::test]
async fn the_kernel_keeps_no_more_unsent_bytes_than_a_relay() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (max_lag, unsent) in [(1024, 1024), (64 * 1024 * 1024, MAX_UNSENT)] {
        let (client, at_client) = socket(&listener).await;
        let (app, at_app) = socket(&listener).await;
        let _relay = Relay::new(client, app, FrameTracker::unknown(), max_lag);
        for socket in [&at_client, &at_app] {
            let limit = SockRef::from(socket).tcp_notsent_lowat().unwrap();
            assert_eq!(limit, unsent, "{max_lag}");
        }
    }
}

/// A connection that always has a byte to read and always accepts all bytes that are written.
struct Eager;

/// Returns `Poll::Pending` if the task has used up its cooperative budget, as a socket of tokio
/// does.
fn poll_turn(cx: &mut Context<'_>) -> Poll<()> {
    std::pin::pin!(tokio::task::coop::consume_budget()).poll(cx)
}

impl AsyncRead for Eager {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(poll_turn(cx));
        buffer.put_slice(b"x");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Eager {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(poll_turn(cx));
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Duplex for Eager {
    fn reset_on_close(&self) {}

    fn limit_unsent(&self, _bytes: usize) {}
}

#[tokio::test]
async fn a_side_that_never_stops_sending_does_not_stop_the_other() {
    let eager = || Peer {
        io: Box::new(Eager),
        early: Bytes::new(),
    };
    let mut relay = Relay::new(eager(), eager(), FrameTracker::unknown(), SCRATCH);
    let byte_counts = relay.byte_counts();
    let turns = async {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ended = relay.run() => panic!("it ended by itself"),
        () = turns => {}
    }
    let (up, down) = (byte_counts.client_bytes(), byte_counts.app_bytes());
    assert!(up > 100 && down > 100, "{up} and {down} bytes");
}
