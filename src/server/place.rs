//! The place of a connection among all connections of the server.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::clients::{ClientCount, ClientId};
use super::deadline::ConnectionState;
use super::slots::Slot;

/// The longest time for which a connection stays open after the gateway has asked the connection to
/// close, because another connection needs its slot.
const CLOSING_TIME: Duration = Duration::from_secs(1);

/// The slot of a connection, and the client to which the connection belongs.
#[derive(Debug, Default)]
pub(super) struct Place {
    slot: RefCell<Option<Slot>>,
    /// `None` if the connection belongs to a proxy, or if its client is not known yet.
    client: RefCell<Option<ClientCount>>,
    /// The address in the PROXY header.
    stated: Cell<Option<SocketAddr>>,
    is_shed: Cell<bool>,
}

impl Place {
    /// Gives the connection its slot.
    pub(super) fn occupy(&self, slot: Slot) {
        self.slot.replace(Some(slot));
    }

    /// Counts the connection as a connection of this client.
    pub(super) fn belongs_to(&self, client: ClientCount) {
        self.client.replace(Some(client));
    }

    /// Records the address in the PROXY header of the connection.
    pub(super) fn states(&self, address: Option<SocketAddr>) {
        self.stated.set(address);
    }

    /// Frees the slot when the connection has ended.
    pub(super) fn leave(&self) {
        drop((self.slot.take(), self.client.take()));
    }

    /// Records that the connection is closed, because another connection needs its slot. The
    /// connection does not count for its client any more.
    pub(super) fn shed(&self) {
        self.is_shed.set(true);
        drop(self.client.take());
    }

    /// Returns true if the connection is closed, because another connection needs its slot.
    pub(super) fn is_shed(&self) -> bool {
        self.is_shed.get()
    }

    /// The longest time for which the connection stays open after the gateway has asked it to
    /// close, although the connection still sends bytes.
    pub(super) fn closing_time(&self) -> Duration {
        if self.is_shed() {
            CLOSING_TIME
        } else {
            Duration::MAX
        }
    }

    /// Returns the number of open connections of the client, if the client has more than its share.
    pub(super) fn over_share(&self) -> Option<usize> {
        self.client.borrow().as_ref()?.over_share()
    }

    /// Returns true if the connection belongs to this client.
    pub(super) fn is_of_client(&self, client: ClientId) -> bool {
        let own = self.client.borrow();
        own.as_ref().is_some_and(|own| own.client() == client)
    }

    /// Counts the descriptor of the connection to the app; see [`Slot::second_descriptor`].
    pub(super) fn second_descriptor(&self) -> Option<OwnedSemaphorePermit> {
        self.slot.borrow().as_ref()?.second_descriptor()
    }
}

impl ConnectionState {
    /// The address from which the requests of the connection come: the address in the PROXY header,
    /// or the other end of the socket.
    pub(super) fn client(&self) -> SocketAddr {
        self.place.stated.get().unwrap_or(self.peer)
    }
}
