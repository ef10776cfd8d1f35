//! Binary data: a page in a browser, the Python package `websockify`, and a TCP server.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::program::record;
use crate::support::upstream::Answer;
use crate::support::webdriver::Chromium;
use crate::support::wire::TEST_TIMEOUT;

use super::{app, scene_with};

/// The TCP server ends a connection after this number of bytes.
const SIZE: u64 = 16 * 1024 * 1024;

/// A page whose function `converse` sends `size` bytes. After the last byte, the page closes the
/// WebSocket, or waits until the WebSocket is closed.
const PAGE: &str = "<script>\
    const bytes = new Uint8Array(16 * 1024 * 1024);\
    for (let i = 0; i < bytes.length; i += 65536) crypto.getRandomValues(bytes.subarray(i, i + 65536));\
    const converse = (url, size, closes) => new Promise(done => {\
      const socket = new WebSocket(url, ['binary', 'base64']);\
      socket.binaryType = 'arraybuffer';\
      const parts = [];\
      let length = 0;\
      socket.onopen = () => {\
        for (let i = 0; i < size; i += 100003) socket.send(bytes.subarray(i, Math.min(i + 100003, size)));\
      };\
      socket.onmessage = message => {\
        parts.push(message.data);\
        length += message.data.byteLength;\
        if (closes && length === size) socket.close(1000);\
      };\
      socket.onclose = async event => {\
        const got = new Uint8Array(await new Blob(parts).arrayBuffer());\
        done({ protocol: socket.protocol, code: event.code, reason: event.reason, length,\
          same: got.every((byte, index) => byte === bytes[index]) });\
      };\
    });\
    </script>";

/// A TCP server that sends the received bytes back, and ends the connection after [`SIZE`] bytes.
/// If the other side ends first, the channel gets the number of bytes.
async fn echo() -> (SocketAddr, mpsc::UnboundedReceiver<u64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ended, ends) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, ended.clone()));
        }
    });
    (address, ends)
}

async fn serve(mut stream: TcpStream, ended: mpsc::UnboundedSender<u64>) {
    let (reading, mut writing) = stream.split();
    let count = copy(&mut reading.take(SIZE), &mut writing).await.unwrap();
    if count < SIZE {
        ended.send(count).unwrap();
    }
}

#[tokio::test]
async fn websockify_carries_megabytes_and_both_ends_of_a_tcp_connection() {
    let (server, mut ends) = echo().await;
    let app = app("websockify_app", &[&server.port().to_string()]).await;
    let scene = scene_with(&app, "/tcp").await;
    scene
        .app
        .answer_by(|_| Answer::with(200, &[("Content-Type", "text/html")], PAGE));
    let browser = Chromium::leading("localhost:80", scene.gateway.address()).await;
    browser.open("http://localhost/page").await;
    browser.wait_for(|url| url.ends_with("/page")).await;
    let expected = |reason: &str, length: u64| -> Value {
        json!({ "protocol": "binary", "code": 1000, "reason": reason, "length": length, "same": true })
    };
    let directly = app.address().replace("http:", "ws:");
    for url in [&*directly, "ws://localhost/tcp"] {
        let until_end = format!("converse('{url}', {SIZE}, false)");
        let seen = browser.promise(&until_end).await;
        assert_eq!(seen, expected("Target closed", SIZE), "{url}");
        let closing = format!("converse('{url}', 300000, true)");
        let seen = browser.promise(&closing).await;
        assert_eq!(seen, expected("", 300_000), "{url}");
        let end = timeout(TEST_TIMEOUT, ends.recv()).await;
        assert_eq!(
            end.expect("the TCP side stays open"),
            Some(300_000),
            "{url}"
        );
    }
    record("stream_peers.txt", &["binary WebSocket", "websockify"]);
}
