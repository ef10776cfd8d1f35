//! The client to which an exchange belongs.

use std::net::IpAddr;

use crate::fields::ClientNetworks;

/// The client to which an exchange or a stream belongs. Every limit per client counts all requests
/// with the same `Owner` value together.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Owner {
    /// A client with a session. The value in this variant is the session key.
    Session([u8; 16]),
    /// The address of a client without a session.
    Address(IpAddr),
}

impl Owner {
    /// Returns the owner of a request. If `session` is `Some`, `address` has no effect. An IPv6
    /// client usually has all addresses of a `/64` network, so these addresses count as one client.
    pub(crate) fn new(session: Option<&[u8; 16]>, address: IpAddr) -> Self {
        match session {
            Some(session) => Self::Session(*session),
            None => Self::Address(ClientNetworks::default().of(address)),
        }
    }
}

/// The data that the queue of an origin needs about the sender of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Requester {
    /// The client to which the request belongs.
    pub(crate) owner: Owner,
    /// Whether the gateway has declared the request to be a stream. The client of a stream may be
    /// silent for any time.
    pub(crate) stream: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(address: &str) -> Owner {
        Owner::new(None, address.parse().unwrap())
    }

    #[test]
    fn a_network_of_ipv6_and_a_mapped_address_are_one_owner() {
        assert_eq!(owner("2001:db8::1"), owner("2001:db8:0:0:ffff::2"));
        assert_ne!(owner("2001:db8::1"), owner("2001:db8:0:1::1"));
        assert_eq!(owner("::ffff:192.0.2.1"), owner("192.0.2.1"));
        let addresses = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let [one, other] = addresses.map(|address| Owner::new(Some(&[7; 16]), address));
        assert_eq!(one, other);
    }
}
