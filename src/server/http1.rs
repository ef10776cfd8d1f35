//! Serves one HTTP/1.1 connection.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;

use super::arrivals::Opening;
use super::connection::{BUFFER, Broken, Finished, Serving, answer, finish};
use super::dormant::Stage;
use super::head_limits::{FieldRoom, beginning};
use super::phase::{Phase, Protocol};
use super::refusal::Refusal;
use super::socket::Plaintext;
use super::{Handler, Settings, TunnelFn, TunnelStop, UpgradedClient};
use crate::relay::{Duplex, Peer};

/// The result of [`serve_requests`].
enum Served<S> {
    /// The connection has ended.
    Ended,
    /// The connection is dormant. If hyper has read a part of the next head, `early` contains this
    /// part.
    Dormant { stream: S, early: Bytes },
    /// hyper has refused a head. `early` contains the bytes of the head that have arrived.
    Refused { stream: S, early: Bytes },
    /// The connection has switched to another protocol.
    Switched(TunnelFn, Peer),
}

/// Serves HTTP/1.1, and then the tunnel if the connection has switched to another protocol. The
/// future of [`serve_requests`] is in a box, so that its memory is free while the connection is
/// dormant and while the tunnel is open.
pub(super) async fn serve_http1<H, S>(serving: Rc<Serving<H>>, mut stream: S, mut early: Bytes)
where
    H: Handler,
    S: Duplex + 'static,
{
    let state = Rc::clone(&serving.state);
    let mut room = FieldRoom::Usual;
    loop {
        let requests = serve_requests(Rc::clone(&serving), (stream, early), room);
        match Box::pin(requests).await {
            Served::Ended => return,
            Served::Dormant {
                stream: open,
                early: read,
            } => (stream, early) = (open, read),
            Served::Refused {
                stream: open,
                early: read,
            } => (stream, early, room) = (open, read, FieldRoom::Most),
            Served::Switched(tunnel, client) => {
                let _in_flight = state.begin(Protocol::Http1);
                let stop = TunnelStop(state);
                return tunnel(UpgradedClient { client, stop }).await;
            }
        }
        // If bytes have already arrived, the loop gives these bytes to a new connection of hyper
        // immediately, so that the deadline for the request head applies.
        if early.is_empty() {
            state.dormancy_ended().await;
        }
    }
}

fn builder(settings: &Settings, room: FieldRoom) -> http1::Builder {
    let limits = &settings.limits;
    let mut builder = http1::Builder::new();
    builder
        // hyper drops the handler when it finds the end of the input. `Plaintext` hides the end from
        // hyper while the client may still wait for its answer.
        .half_close(false)
        .keep_alive(true)
        // The sweep enforces the time limit for a request head, so hyper needs no timer for each
        // request.
        .header_read_timeout(None)
        .title_case_headers(settings.title_case_fields)
        .max_header_size(limits.library_head_bytes())
        .max_buf_size(limits.library_head_bytes().max(BUFFER));
    if let Some(fields) = limits.library_fields(room) {
        builder.max_headers(fields);
    }
    builder
}

/// Serves HTTP/1.1 until the connection ends, becomes dormant or switches to another protocol.
/// `early` contains bytes that were already read from the stream.
async fn serve_requests<H, S>(
    serving: Rc<Serving<H>>,
    (stream, early): (S, Bytes),
    room: FieldRoom,
) -> Served<S>
where
    H: Handler,
    S: Duplex + 'static,
{
    let state = Rc::clone(&serving.state);
    let tunnel = Rc::clone(&serving.tunnel);
    let plaintext = Plaintext::new(stream, Rc::clone(&state), Protocol::Http1)
        .rewound(early)
        .withholding_refusals(room == FieldRoom::Usual);
    let builder = builder(&serving.settings, room);
    let answering = Rc::clone(&serving);
    let service = service_fn(move |request| answer(&answering, request, Protocol::Http1));
    let mut connection = builder.serve_connection(TokioIo::new(plaintext), service);
    state.dormancy().set(Stage::Awake);
    let after_poll = |_cx: &mut Context<'_>| Poll::Ready(Ok(()));
    // The graceful shutdown of hyper closes a connection immediately, even if a request has arrived
    // and was not read yet. To lose no request, the gateway first answers the next request with
    // `Connection: close`, and then begins the shutdown. The shutdown would add `Connection: close`
    // even to a 101 response, so it does not begin while the gateway may still send a 101 response.
    let may_close = || {
        let phase = state.phase();
        let may_switch = phase == Phase::Busy && state.is_upgrade_requested();
        state.has_served() && phase != Phase::Head && !may_switch
    };
    let finished = finish(
        &state,
        Pin::new(&mut connection),
        after_poll,
        may_close,
        http1::Connection::graceful_shutdown,
    );
    let finished = finished.await;
    match finished {
        Err(broken) => {
            let parts = connection.into_parts();
            let io = parts.io.into_inner();
            if io.has_withheld_refusal() {
                let (stream, early) = io.into_parts(parts.read_buf);
                return Served::Refused { stream, early };
            }
            state.break_answer();
            report(&serving, &broken, &parts.read_buf);
            return Served::Ended;
        }
        Ok(Finished::Dormant) => {
            let parts = connection.into_parts();
            let (stream, early) = parts.io.into_inner().into_parts(parts.read_buf);
            return Served::Dormant { stream, early };
        }
        Ok(Finished::Ended) if !state.is_upgrade_requested() => return Served::Ended,
        Ok(Finished::Ended) => {}
    }
    // If a request asked for another protocol, hyper does not close the socket when its HTTP
    // connection ends.
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner();
    let Some(tunnel) = tunnel.take() else {
        // If `shutdown` fails, the client has already disconnected.
        io.shutdown().await.unwrap_or_default();
        return Served::Ended;
    };
    let (stream, early) = io.into_parts(parts.read_buf);
    let client = Peer {
        io: Box::new(stream),
        early,
    };
    Served::Switched(tunnel, client)
}

/// Tells the handler why a connection has ended, if the client has sent something that is wrong.
/// `read` are the bytes of the refused head that have arrived.
fn report<H: Handler>(serving: &Serving<H>, broken: &Broken, read: &[u8]) {
    let Broken::Http(error) = broken else {
        return;
    };
    // After the first request, the first bytes of the connection do not explain the error.
    let opening = if serving.state.has_served() {
        Opening::Other
    } else {
        serving.state.arrivals().opening()
    };
    if let Some(refusal) = Refusal::of_http1(error, opening) {
        let head = (refusal == Refusal::HeadTooLarge).then(|| beginning(read));
        serving.refused(refusal, error, head.flatten().as_ref());
    }
}
