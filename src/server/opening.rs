//! Opens connections: counts the client, waits for a slot, and serves the connection in a task.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::connection::{Serving, serve};
use super::listener::{accept, prepare};
use super::proxy_protocol::read_header;
use super::shed::Admission;
use super::worker::{Registration, Worker};
use super::{Connection, Handler, Protocols, Security};
use crate::tls::Acceptor;

impl<H: Handler> Worker<H> {
    /// Accepts the connections of a listener in a task of its own.
    pub(super) fn accept(
        self: &Rc<Self>,
        listener: TcpListener,
        protocols: Protocols,
        drain: watch::Receiver<bool>,
    ) -> JoinHandle<()> {
        let (worker, protocols) = (Rc::clone(self), Rc::new(protocols));
        let registry = Rc::clone(&self.registry);
        let open = move |stream, peer| {
            let (worker, protocols) = (Rc::clone(&worker), Rc::clone(&protocols));
            async move { worker.open(stream, peer, &protocols).await }
        };
        let free_descriptors = move || registry.free_descriptors();
        tokio::task::spawn_local(accept(listener, drain, open, free_descriptors))
    }

    /// Waits until the limits of connections allow one more connection, and then serves the
    /// connection in a task of its own. Closes the connection if its client has too many
    /// connections.
    pub(super) async fn open(
        self: &Rc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        protocols: &Protocols,
    ) {
        // A load balancer states the client in the PROXY header, which the task reads.
        let has_header = protocols.proxies.contain(peer);
        let admission = match (has_header, self.handler.client(peer)) {
            (false, Some(client)) => self.registry.admit(client),
            (true, _) | (false, None) => Admission::Exempt,
        };
        let slot = match admission {
            Admission::Refused => return,
            // The client has reached its limit. No other client loses a connection for it.
            Admission::Pending(_) => self.registry.free_slot(peer),
            // This call always returns a slot.
            Admission::Counted(_) | Admission::Exempt => self.registry.slot().await,
        };
        let Some(slot) = slot else {
            return;
        };
        if let Err(error) = prepare(&stream) {
            tracing::debug!(client.address = %peer, %error, "Connection has already ended");
            return;
        }
        let registration = self.registry.enter(peer, slot);
        let state = Rc::clone(&registration.state);
        let config = protocols.tls.as_ref().map(Acceptor::config);
        let worker = Rc::clone(self);
        let task = if has_header {
            let proxies = protocols.proxies.clone();
            tokio::task::spawn_local(async move {
                let header = Box::pin(read_header(&registration.state, stream, &proxies));
                if let Some((stream, stated)) = header.await {
                    registration.state.place.states(stated);
                    let client = stated.and_then(|stated| worker.handler.client(stated));
                    let registry = &worker.registry;
                    let admission =
                        client.map_or(Admission::Exempt, |client| registry.admit(client));
                    if registry.settle(&registration.state, admission).await {
                        let serving = worker.serving(&registration, config.is_some());
                        serve(serving, stream, config).await;
                    }
                }
                drop(registration);
            })
        } else {
            let serving = self.serving(&registration, config.is_some());
            tokio::task::spawn_local(async move {
                if worker.registry.settle(&registration.state, admission).await {
                    drop(worker);
                    serve(serving, stream, config).await;
                }
                drop(registration);
            })
        };
        state.spawned(task.abort_handle());
    }

    /// Creates the data for the requests of a connection.
    fn serving(&self, registration: &Registration, is_encrypted: bool) -> Rc<Serving<H>> {
        let state = &registration.state;
        let security = if is_encrypted {
            Security::Tls
        } else {
            Security::Plain
        };
        let per_connection = self.handler.connection_opened(Connection {
            peer: state.client(),
            socket_peer: state.peer,
            security,
        });
        Rc::new(Serving {
            handler: Rc::clone(&self.handler),
            per_connection: Rc::new(per_connection),
            state: Rc::clone(state),
            settings: self.registry.settings,
            tunnel: Rc::default(),
        })
    }
}
