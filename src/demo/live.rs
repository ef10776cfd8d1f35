//! The app's page with live clocks, and the two streams that the page opens: a WebSocket and an
//! event stream (server-sent events). The page with live clocks shows that a stream ends with its
//! session.
//!
//! The app writes the frames of the WebSocket without a library, because the app sends only short
//! text frames and a close frame.

use std::io;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::pages::page_with_script;
use super::serve::{ReplyBody, answer, plain};
use crate::clock::Clock;
use crate::fields::websocket_accept;

/// The time between two messages of a stream.
const INTERVAL: Duration = Duration::from_secs(1);

const SCRIPT: &str = include_str!("live.js");

const PAGE: &str = "<h1>Live clocks</h1>\n\
     <p>The app sends the time once a second, over two streams through the gateway.</p>\n\
     <noscript><p class=\"problem\">The clocks need JavaScript.</p></noscript>\n\
     <div class=\"clocks\">\n\
     <section class=\"clock\" id=\"socket\"><h2>WebSocket</h2><time>\u{2013}</time>\
     <p role=\"status\">Connecting</p></section>\n\
     <section class=\"clock\" id=\"events\"><h2>Event stream</h2><time>\u{2013}</time>\
     <p role=\"status\">Connecting</p></section>\n</div>\n\
     <h2>What to try</h2>\n<ol>\n\
     <li><a href=\"/\" target=\"_blank\" rel=\"noopener\">Open the app in another tab.</a></li>\n\
     <li>Sign out in another tab: both clocks stop within a second. From then on, the gateway \
     answers each attempt to connect with 401.</li>\n\
     <li>Sign in again in any tab: both clocks start again by themselves.</li>\n</ol>\n\
     <p><a href=\"/\">Back</a></p>";

/// Returns the page with the live clocks, which show the time that the app sends.
pub(crate) fn page() -> Response<ReplyBody> {
    page_with_script("Live clocks", PAGE, SCRIPT)
}

/// Returns an event stream with the time.
pub(crate) fn events(clock: &Clock) -> Response<ReplyBody> {
    let (sender, parts) = mpsc::channel(1);
    let clock = clock.clone();
    tokio::spawn(async move {
        // Sending fails when the client has disconnected.
        while sender.send(event(&clock)).await.is_ok() {
            tokio::time::sleep(INTERVAL).await;
        }
    });
    let mut response = answer(StatusCode::OK, "text/event-stream", "");
    let uncached = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, uncached);
    *response.body_mut() = ReplyBody::Live(parts);
    response
}

fn event(clock: &Clock) -> Bytes {
    Bytes::from(format!("data: {}\n\n", date(clock)))
}

/// Switches the connection to a WebSocket on which the app regularly sends the time.
pub(crate) fn socket(request: Request<Bytes>, clock: &Clock) -> Response<ReplyBody> {
    let Some(accept) = accept(request.headers()) else {
        let mut response = plain(StatusCode::UPGRADE_REQUIRED, "only for WebSockets\n");
        let fields = response.headers_mut();
        fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
        fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        fields.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return response;
    };
    let clock = clock.clone();
    tokio::spawn(async move {
        let ended = match hyper::upgrade::on(request).await {
            Ok(switched) => send_time(TokioIo::new(switched), &clock).await,
            Err(error) => Err(io::Error::other(error)),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "WebSocket of the demo ended early");
        }
    });
    let mut response = Response::new(ReplyBody::whole(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// Returns the value of `Sec-WebSocket-Accept`, or `None` if the request is not the handshake of a
/// WebSocket.
fn accept(headers: &HeaderMap) -> Option<HeaderValue> {
    let upgrade = headers.get(UPGRADE)?.as_bytes();
    let version = headers.get(SEC_WEBSOCKET_VERSION)?.as_bytes();
    let websocket = upgrade.eq_ignore_ascii_case(b"websocket") && version == b"13";
    websocket.then(|| websocket_accept(headers.get(SEC_WEBSOCKET_KEY)?))?
}

/// Sends the current time repeatedly until the client ends the WebSocket.
async fn send_time(mut io: impl AsyncRead + AsyncWrite + Unpin, clock: &Clock) -> io::Result<()> {
    let mut first = [0];
    loop {
        io.write_all(&frame(TEXT, date(clock).as_bytes())).await?;
        let read = tokio::select! {
            read = io.read(&mut first) => read?,
            () = tokio::time::sleep(INTERVAL) => continue,
        };
        if read == 0 {
            return io.shutdown().await;
        }
        // The script of the demo page sends no WebSocket message. A browser sends no ping, so each
        // frame of a browser is a close frame.
        let [first] = first;
        let code = if first & 0x0f == CLOSE {
            NORMAL_CLOSURE
        } else {
            UNSUPPORTED_DATA
        };
        io.write_all(&frame(CLOSE, &code.to_be_bytes())).await?;
        return io.shutdown().await;
    }
}

/// The opcodes of RFC 6455 section 5.2.
const TEXT: u8 = 1;
const CLOSE: u8 = 8;

/// The close codes of RFC 6455 section 7.4.1.
const NORMAL_CLOSURE: u16 = 1000;
const UNSUPPORTED_DATA: u16 = 1003;

/// Returns a complete WebSocket frame, as a server sends it (RFC 6455 section 5.2). The payload is
/// at most 125 bytes long, so its length fits into one byte.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let payload = payload.get(..125).unwrap_or(payload);
    let length = u8::try_from(payload.len()).unwrap_or_default();
    [&[0x80 | opcode, length], payload].concat()
}

/// Returns the time as an HTTP date.
fn date(clock: &Clock) -> String {
    let since = Duration::from_millis(clock.now().as_millis());
    let now = SystemTime::UNIX_EPOCH.checked_add(since);
    httpdate::fmt_http_date(now.unwrap_or(SystemTime::UNIX_EPOCH))
}
