//! The networks of clients.
//!
//! Limits for clients count networks, because one client can use many addresses of its network.

use std::net::IpAddr;

/// The network that counts as one client: the address for IPv4, and the /64 for IPv6. An IPv4
/// address that is mapped to IPv6 (RFC 4291 section 2.5.5.2) is the IPv4 address.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Network {
    is_ipv4: bool,
    bits: u64,
}

impl Network {
    /// Returns the network of `client`.
    pub fn of(client: IpAddr) -> Self {
        let client = client.to_canonical();
        let bits = match client {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).unwrap_or_default(),
        };
        Self {
            is_ipv4: client.is_ipv4(),
            bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Generates an address and the expected client network as text. The generator uses only a few
    /// values for the parts of an address, so that many addresses are in the same network.
    fn client() -> impl Strategy<Value = (IpAddr, String)> {
        let few = || prop::sample::select(vec![0_u16, 1, 0x0a00, 0xffff]);
        let wide = [(); 8].map(|()| few());
        wide.prop_flat_map(|wide| (Just(wide), 0..3_u8))
            .prop_map(|(wide, kind)| {
                let narrow = [wide[6], wide[7]].map(u16::to_be_bytes).concat();
                let narrow = std::net::Ipv4Addr::new(narrow[0], narrow[1], narrow[2], narrow[3]);
                let [a, b, c, d, ..] = wide;
                match kind {
                    0 => (narrow.into(), narrow.to_string()),
                    1 => (narrow.to_ipv6_mapped().into(), narrow.to_string()),
                    _ => match IpAddr::from(wide).to_canonical() {
                        IpAddr::V4(mapped) => (IpAddr::from(wide), mapped.to_string()),
                        IpAddr::V6(_) => {
                            (IpAddr::from(wide), format!("{a:x}:{b:x}:{c:x}:{d:x}::/64"))
                        }
                    },
                }
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn g_11_two_clients_never_share_a_network(
            clients in prop::collection::vec(client(), 1000)
        ) {
            let (mut by_network, mut by_client) = (HashMap::new(), HashMap::new());
            for (address, client) in clients {
                let network = Network::of(address);
                let before = by_network.entry(network).or_insert_with(|| client.clone());
                prop_assert_eq!(&*before, &client);
                prop_assert_eq!(*by_client.entry(client).or_insert(network), network);
            }
        }
    }
}
