//! Apps that break a stream at its beginning or in the middle: the rows of
//! `tests/data/broken_streams.txt`. The client must see that the stream is broken.

use tokio::time::timeout;

use super::{Plan, Row, run_row};
use crate::support::raw::unescape;
use crate::support::socket::{End, Opening, switching};
use crate::support::wire::{Framing, TEST_TIMEOUT};

const ROWS: &str = include_str!("../../data/broken_streams.txt");

/// The head of an event stream.
const EVENTS: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_09_f_10_f_11_a_stream_that_its_app_breaks_never_ends_cleanly() {
    let plan = Plan {
        streams: "streams.idle_secs = 1",
        app: "response_timeout_secs = 1\nbody_timeout_secs = 1",
        ..Plan::default()
    };
    run_row("the app breaks a stream", plan, async |row: &mut Row| {
        let cookie = row.cookie("alice").await;
        let lines: Vec<_> = ROWS.lines().filter(|line| !line.starts_with('#')).collect();
        row.outcome.more_rows += lines.len() - 1;
        for line in lines {
            let columns: Vec<_> = line.split('\t').collect();
            let [_what, stream, bytes, then, sight] = columns[..] else {
                panic!("not five columns: {line}");
            };
            let mut client = End::connect(row.gateway.address()).await;
            client.send(request(stream, &cookie)).await;
            let (_head, app) = row.sockets.accept().await;
            let playing = tokio::spawn(play(app, bytes, then));
            let seen = timeout(TEST_TIMEOUT, look(&mut client)).await;
            assert_eq!(seen.as_deref(), Ok(sight), "{line}");
            drop(client);
            let played = timeout(TEST_TIMEOUT, playing).await;
            played.expect("the gateway keeps a connection").unwrap();
        }
    })
    .await;
}

fn request(stream: &str, cookie: &str) -> String {
    match stream {
        "websocket" => Opening::at("/any").of_browser(cookie).bytes(),
        "events" => format!(
            "GET /any HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\
             Cookie: {cookie}\r\n\r\n"
        ),
        other => panic!("no stream {other}"),
    }
}

/// Acts as the app until the gateway or the app has ended the connection.
async fn play(mut app: End, bytes: &str, then: &str) {
    let bytes = bytes.replace("<switch>", &switching());
    let bytes = unescape(&bytes.replace("<events>", EVENTS));
    app.send(&bytes).await;
    match then {
        "close" => app.finish().await,
        "reset" => return app.reset(),
        "hang" => {}
        "repeat" => while app.wire.write(&bytes).await {},
        other => panic!("nothing called {other}"),
    }
    app.wire.until_end().await;
}

/// The result that the client sees, in the words of the table.
async fn look(client: &mut End) -> String {
    let head = loop {
        match client.wire.head().await {
            Some(head) if (102..200).contains(&head.status()) => {}
            Some(head) => break head,
            // The gateway has dropped a head that was ready to be sent.
            None => return "unfinished".to_owned(),
        }
    };
    match head.status() {
        101 => after_switch(client).await,
        200 => {
            let framing = head.response_framing("GET");
            assert_eq!(framing, Framing::Chunked);
            let body = client.wire.body(&framing, &mut |_| {}).await;
            let end = if body.complete { "clean" } else { "unfinished" };
            end.to_owned()
        }
        status => status.to_string(),
    }
}

async fn after_switch(client: &mut End) -> String {
    match client.wire.until_end().await {
        (_bytes, Some(_error)) => "reset".to_owned(),
        (bytes, None) => match bytes[..] {
            [0x88, _, high, low, ..] => {
                format!("close frame {}", u16::from_be_bytes([high, low]))
            }
            _ => format!("cut after {}", bytes.escape_ascii()),
        },
    }
}
