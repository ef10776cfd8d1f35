//! Tests of HTTP/1.1 clients that have closed their sending direction and still read.

use super::served::{Served, local, until};
use super::*;
use crate::server::deadline::Phase;

const HALF_CLOSED: Duration = Duration::from_secs(5);
const WRITE: Duration = Duration::from_secs(30);

/// A client that sends a request and closes its sending direction.
async fn client(served: &mut Served, path: &str) -> Client<TcpStream> {
    let mut client = served.client().await;
    client
        .send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .await;
    client.0.shutdown().await.unwrap();
    client
}

#[tokio::test]
async fn s_30_a_half_closed_client_that_reads_slowly_has_the_deadline_for_slow_readers() {
    local(async {
        let deadlines = Deadlines {
            half_closed: HALF_CLOSED,
            write: WRITE,
            ..long()
        };
        let mut served = Served::start(deadlines).await;
        let _client = client(&mut served, "/endless").await;
        let state = served.state();
        until(|| state.is_stalled() && state.is_half_closed()).await;
        let entered = Event::Entered("/endless".to_owned());
        assert_eq!(served.events.recv().await, Some(entered));
        let sweep = Duration::from_secs(1);
        served.pass(HALF_CLOSED * 2);
        served.pass(sweep);
        assert!(!served.has_left().await, "the client may still read");
        served.pass(WRITE);
        served.until_closed().await;
        assert!(served.has_left().await);
    })
    .await;
}

#[tokio::test]
async fn s_30_the_connection_ends_when_a_half_closed_client_has_read_a_large_answer() {
    local(async {
        let mut served = Served::start(long()).await;
        let mut client = client(&mut served, "/large").await;
        let state = served.state();
        // The handler has passed on the whole answer, and the socket has not accepted it.
        until(|| state.phase() == Phase::Idle && state.is_stalled() && state.is_half_closed())
            .await;
        drop(state);
        let answer = client.rest().await;
        assert!(answer.len() > LARGE, "{}", answer.len());
        served.until_closed().await;
    })
    .await;
}
