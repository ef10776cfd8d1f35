//! The networks whose addresses count as one client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The sizes of the networks that count as one client, as prefix lengths. By default, an IPv4
/// address is one client, and a /64 of IPv6 is one client, because an IPv6 client usually has all
/// addresses of a /64.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ClientNetworks {
    /// The prefix length of IPv4 networks, from 0 to 32.
    pub(crate) ipv4: u32,
    /// The prefix length of IPv6 networks, from 0 to 128.
    pub(crate) ipv6: u32,
}

impl Default for ClientNetworks {
    fn default() -> Self {
        Self { ipv4: 32, ipv6: 64 }
    }
}

impl ClientNetworks {
    /// Returns the first address of the network to which `address` belongs. All addresses of one
    /// network count as one client. An IPv4-mapped IPv6 address is handled as the IPv4 address.
    pub(crate) fn of(self, address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let host = u32::MAX.checked_shr(self.ipv4).unwrap_or_default();
                Ipv4Addr::from_bits(address.to_bits() & !host).into()
            }
            IpAddr::V6(address) => {
                let host = u128::MAX.checked_shr(self.ipv6).unwrap_or_default();
                Ipv6Addr::from_bits(address.to_bits() & !host).into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_network_is_one_client() {
        let default = ClientNetworks::default();
        for (networks, address, expected) in [
            (default, "192.0.2.77", "192.0.2.77"),
            (default, "::ffff:192.0.2.77", "192.0.2.77"),
            (default, "2001:db8:0:1:ffff::2", "2001:db8:0:1::"),
            (
                ClientNetworks {
                    ipv4: 24,
                    ..default
                },
                "192.0.2.77",
                "192.0.2.0",
            ),
            (
                ClientNetworks {
                    ipv6: 48,
                    ..default
                },
                "2001:db8:0:1::2",
                "2001:db8::",
            ),
            (
                ClientNetworks {
                    ipv6: 128,
                    ..default
                },
                "2001:db8::2",
                "2001:db8::2",
            ),
            (
                ClientNetworks { ipv4: 0, ..default },
                "192.0.2.77",
                "0.0.0.0",
            ),
        ] {
            let network = networks.of(address.parse().unwrap());
            assert_eq!(network, expected.parse::<IpAddr>().unwrap(), "{address}");
        }
    }

    /// Generates an address and the expected client network as text. The generator uses only a few
    /// values for the parts of an address, so that many addresses are in the same network.
    fn client() -> impl Strategy<Value = (IpAddr, String)> {
        let few = || prop::sample::select(vec![0_u16, 1, 0x0a00, 0xffff]);
        let wide = [(); 8].map(|()| few());
        wide.prop_flat_map(|wide| (Just(wide), 0..3_u8))
            .prop_map(|(wide, kind)| {
                let narrow = [wide[6], wide[7]].map(u16::to_be_bytes).concat();
                let narrow = Ipv4Addr::new(narrow[0], narrow[1], narrow[2], narrow[3]);
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
                let network = ClientNetworks::default().of(address);
                let before = by_network.entry(network).or_insert_with(|| client.clone());
                prop_assert_eq!(&*before, &client);
                prop_assert_eq!(*by_client.entry(client).or_insert(network), network);
            }
        }
    }
}
