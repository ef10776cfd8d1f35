use std::future::poll_fn;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

fn recorded(bytes: &[u8]) -> Traffic {
    let traffic = Traffic::default();
    traffic.begin(true);
    traffic.on_write(bytes);
    traffic
}

#[test]
fn a_recorded_head_is_restored_unchanged() {
    let head = b"GET /a:b HTTP/1.1\r\nhost: app\r\nx-two: 1\r\nx-two: 2\r\nx-empty: \r\nx-colons: :a:b\r\n\r\n";
    let parts = recorded(head).unanswered_head().unwrap();
    let mut lines: Vec<String> = parts
        .headers
        .iter()
        .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    assert_eq!(
        lines,
        [
            "host=app",
            "x-colons=:a:b",
            "x-empty=",
            "x-two=1",
            "x-two=2"
        ]
    );
    assert_eq!(
        (parts.method, parts.uri),
        (Method::GET, Uri::from_static("/a:b"))
    );
    assert!(parts.headers.values().all(http::HeaderValue::is_sensitive));
}

#[test]
fn a_response_that_begins_with_an_informational_response_is_noticed() {
    for (bytes, status) in [
        ("HTTP/1.1 103 Early Hints\r\n", Some(103)),
        ("HTTP/1.1 102 Processing\r\n", Some(102)),
        ("HTTP/1.1 200 OK\r\n", None),
        ("HTTP/1.1 1", None),
        ("H", None),
    ] {
        let traffic = recorded(b"");
        traffic.on_read(bytes.as_bytes());
        traffic.on_read(b"HTTP/1.1 102 Processing\r\n");
        let found = traffic.informational().map(|status| status.as_u16());
        assert_eq!(found, status, "{bytes}");
        traffic.begin(false);
        assert_eq!(traffic.informational(), None);
    }
}

#[test]
fn a_record_is_wiped_by_a_response_or_the_next_request() {
    let head = b"GET /a:b HTTP/1.1\r\nauthorization: Bearer abc\r\n\r\n";
    let traffic = recorded(head);
    traffic.on_read(b"HTTP/1.1 200 OK");
    assert!(traffic.head.borrow().is_empty());
    assert!(traffic.unanswered_head().is_none());
    let traffic = recorded(head);
    traffic.begin(false);
    traffic.on_write(head);
    assert!(traffic.head.borrow().is_empty());
    assert!(traffic.unanswered_head().is_none());
}

#[test]
fn an_incomplete_head_is_not_restored() {
    assert!(
        recorded(b"GET /a:b HTTP/1.1\r\nhost: app\r\n")
            .unanswered_head()
            .is_none()
    );
    assert!(recorded(b"").unanswered_head().is_none());
}

/// The stream from which hyper reads. `CountingStream` counts the reads for which the watched
/// stream makes no system call.
struct CountingStream {
    watched: MonitoredStream,
    skipped_reads: Rc<Cell<u32>>,
}

impl AsyncRead for CountingStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.watched.traffic.nothing_to_read.get() {
            self.skipped_reads
                .set(self.skipped_reads.get().saturating_add(1));
        }
        Pin::new(&mut self.watched).poll_read(cx, buf)
    }
}

impl AsyncWrite for CountingStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.watched).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.watched).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.watched).poll_shutdown(cx)
    }
}

/// [`Traffic::allow_reads`] is useful only if hyper reads several times in each run of its task.
/// `allow_reads` works only if no other task of hyper reads from the connection.
#[tokio::test]
async fn hyper_reads_several_times_in_one_run_of_its_task() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stream, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (mut origin, traffic) = (accepted.unwrap().0, Rc::new(Traffic::default()));
    let skipped_reads = Rc::new(Cell::new(0));
    let io = TokioIo::new(CountingStream {
        watched: MonitoredStream::new(Stream::Plain(stream.unwrap()), Rc::clone(&traffic)),
        skipped_reads: Rc::clone(&skipped_reads),
    });
    let (mut sender, connection) = http1::handshake(io).await.unwrap();
    let mut connection = std::pin::pin!(connection);
    let connection = poll_fn(|cx| {
        traffic.allow_reads();
        connection.as_mut().poll(cx)
    });
    let exchanges = async {
        for _ in 0..2 {
            sender.ready().await.unwrap();
            let before = skipped_reads.get();
            let request = Request::new(Empty::<Bytes>::new());
            let (response, ()) = tokio::join!(sender.send_request(request), async {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(origin.read_u8().await.unwrap());
                }
                for part in ["HTTP/1.1 200 OK\r\ncontent-le", "ngth: 2\r\n\r\no", "k"] {
                    origin.write_all(part.as_bytes()).await.unwrap();
                    tokio::task::yield_now().await;
                }
            });
            let body = response.unwrap().into_body().collect().await.unwrap();
            assert_eq!(body.to_bytes(), "ok");
            assert!(
                skipped_reads.get() > before,
                "hyper reads only once in each run"
            );
        }
    };
    tokio::select! {
        () = exchanges => {}
        ended = connection => panic!("the connection ended: {ended:?}"),
        () = tokio::time::sleep(std::time::Duration::from_secs(30)) => panic!("nothing is read"),
    }
}

#[tokio::test]
async fn the_next_run_of_the_task_reads_new_bytes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stream, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (mut origin, traffic) = (accepted.unwrap().0, Rc::new(Traffic::default()));
    let mut watched = MonitoredStream::new(Stream::Plain(stream.unwrap()), Rc::clone(&traffic));
    let mut read = |cx: &mut Context<'_>| {
        let mut bytes = [0; 8];
        let mut buf = ReadBuf::new(&mut bytes);
        let outcome = Pin::new(&mut watched).poll_read(cx, &mut buf);
        outcome.map(|outcome| outcome.map(|()| buf.filled().to_vec()).unwrap())
    };
    let mut runs = 0_u32;
    let received = poll_fn(|cx| {
        runs = runs.saturating_add(1);
        traffic.allow_reads();
        let first = read(cx);
        if first.is_pending() {
            // The test reads a second time in the same poll of the task, as hyper does.
            assert!(read(cx).is_pending());
        }
        first
    });
    let (received, sent) = tokio::join!(received, origin.write_all(b"here"));
    sent.unwrap();
    assert_eq!(received, b"here");
    assert!(runs > 1);
    assert!(traffic.received() > 0);
}
