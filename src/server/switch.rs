//! Requests that ask for a switch to another protocol, on a connection or on an HTTP/2 stream.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::connection::Serving;
use super::deadline::{ConnectionState, Protocol};
use super::{Content, Handler, TunnelFn, TunnelStop, UpgradedClient};
use crate::fields::UpgradeRequest;
use crate::relay::Peer;

/// If the handler's answer switches to another protocol, the connection or one HTTP/2 stream
/// becomes the tunnel.
pub(super) enum Switch {
    /// The request asks for no other protocol, so there is no tunnel.
    No,
    /// The connection itself becomes the tunnel.
    Connection(Rc<Cell<Option<TunnelFn>>>),
    /// One HTTP/2 stream of the connection becomes the tunnel (RFC 8441).
    Stream(OnUpgrade),
}

impl Switch {
    /// Reads which protocol a request asks for, and adds the result to the request's extensions for
    /// the handler.
    pub(super) fn read<H: Handler>(
        head: &mut Parts,
        protocol: Protocol,
        serving: &Serving<H>,
    ) -> Self {
        let on_upgrade = head.extensions.remove::<OnUpgrade>();
        match protocol {
            Protocol::Http1 => {
                // hyper leaves the socket open after each request with an `Upgrade` field, even if
                // the request is not a valid handshake.
                serving.state.upgrade_requested();
                let Some(upgrade) = UpgradeRequest::read(head) else {
                    if let Some(protocols) = head.headers.get(UPGRADE) {
                        tracing::debug!(
                            client.address = %serving.state.client(),
                            ?protocols,
                            "The field Upgrade of a request is ignored"
                        );
                    }
                    return Self::No;
                };
                head.extensions.insert(upgrade);
                Self::Connection(Rc::clone(&serving.tunnel))
            }
            Protocol::Http2 => {
                let name = head.extensions.remove::<hyper::ext::Protocol>();
                let upgrade = name.and_then(|name| UpgradeRequest::of_stream(name.as_str()));
                let (Some(upgrade), Some(on_upgrade)) = (upgrade, on_upgrade) else {
                    return Self::No;
                };
                // The method becomes GET, because the app gets an HTTP/1.1 handshake. Therefore all
                // code that checks the method treats an HTTP/2 handshake as a GET request.
                head.method = Method::GET;
                head.extensions.insert(upgrade);
                Self::Stream(on_upgrade)
            }
        }
    }

    /// Begins the tunnel, if the response contains a tunnel.
    pub(super) fn answer<B: Content>(
        self,
        response: &mut Response<B>,
        state: &Rc<ConnectionState>,
    ) {
        if let Self::No = self {
            return;
        }
        let tunnel = response.body_mut().take_tunnel();
        let tunnel = tunnel.map(|tunnel| with_descriptor(tunnel, state));
        match (self, tunnel) {
            (Self::Connection(slot), Some(tunnel)) => slot.set(Some(tunnel)),
            (Self::Stream(on_upgrade), Some(tunnel)) => {
                let in_flight = state.begin(Protocol::Http1);
                let stop = TunnelStop(Rc::clone(state));
                // No code waits for this task. The task ends when the connection is closed, because
                // closing the connection also closes the HTTP/2 stream of the tunnel.
                drop(tokio::task::spawn_local(async move {
                    // If `on_upgrade` fails, the client has disconnected.
                    if let Ok(stream) = on_upgrade.await {
                        let client = Peer {
                            io: Box::new(TokioIo::new(stream)),
                            early: Bytes::new(),
                        };
                        tunnel(UpgradedClient { client, stop }).await;
                    }
                    drop(in_flight);
                }));
            }
            (Self::Connection(_), None) => {
                // Bytes after the request may belong to the other protocol, so the connection must
                // not read these bytes as a request.
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            (Self::No, _) | (Self::Stream(_), None) => {}
        }
    }
}

/// Counts the descriptor of the connection to the app until the tunnel ends.
fn with_descriptor(tunnel: TunnelFn, state: &ConnectionState) -> TunnelFn {
    let descriptor = state.place.second_descriptor();
    Box::new(|client| {
        Box::pin(async move {
            tunnel(client).await;
            drop(descriptor);
        })
    })
}
