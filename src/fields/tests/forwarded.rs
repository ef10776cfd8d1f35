//! Tests of the forwarding fields that the gateway trusts, and of the forwarding fields that the
//! app gets.

use super::*;
use crate::fields::forwarded::{Client, Peer, Scheme, TrustedPeers, parse_network};

/// Returns the client of a request from `peer`, and the fields that the gateway writes. The request
/// arrives without TLS, and the network 10.0.0.0/8 is trusted.
fn through(peer: &str, fields: &[(&'static str, &'static str)]) -> (Client, HeaderMap) {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_static(value));
    }
    let trusted = TrustedPeers::new(["10.0.0.0/8".parse().unwrap()]);
    let peer = Peer::new(peer.parse().unwrap());
    let client = Client::read(&peer, Scheme::Http, &headers, &trusted);
    strip(&mut headers);
    client.write(&mut headers, &HeaderValue::from_static("gw.test"));
    (client, headers)
}

fn chain(peer: &str, list: &'static str) -> String {
    let (client, headers) = through(peer, &[("x-forwarded-for", list)]);
    let chain = headers["x-forwarded-for"].to_str().unwrap().to_owned();
    assert_eq!(
        chain.split(',').next().unwrap(),
        client.address().to_string()
    );
    chain
}

#[test]
fn h_16_addresses_from_an_untrusted_peer_are_ignored() {
    assert_eq!(chain("203.0.113.1", "1.2.3.4"), "203.0.113.1");
    assert_eq!(chain("2001:db8::1", "10.0.0.1"), "2001:db8::1");
}

#[test]
fn h_16_a_trusted_peer_is_trusted_up_to_the_first_untrusted_address() {
    for (list, wanted) in [
        ("1.2.3.4", "1.2.3.4, 10.0.0.7"),
        ("6.6.6.6, 1.2.3.4", "1.2.3.4, 10.0.0.7"),
        ("6.6.6.6, 1.2.3.4, 10.0.0.8", "1.2.3.4, 10.0.0.8, 10.0.0.7"),
        ("10.0.0.9, 10.0.0.8", "10.0.0.9, 10.0.0.8, 10.0.0.7"),
        ("garbage, 1.2.3.4", "1.2.3.4, 10.0.0.7"),
        ("1.2.3.4:5678", "1.2.3.4, 10.0.0.7"),
        ("[2001:db8::1]:5678", "2001:db8::1, 10.0.0.7"),
        ("[2001:db8::1]", "2001:db8::1, 10.0.0.7"),
        ("::ffff:1.2.3.4", "1.2.3.4, 10.0.0.7"),
        ("1.2.3.4, ::ffff:10.0.0.8", "1.2.3.4, 10.0.0.8, 10.0.0.7"),
    ] {
        assert_eq!(chain("10.0.0.7", list), wanted, "{list}");
        assert_eq!(chain("::ffff:10.0.0.7", list), wanted, "{list}");
    }
}

/// Only the proxies can connect to the gateway, but nobody knows which addresses of the list are
/// proxies. A client can send its own list to a proxy that appends to the list.
#[test]
fn h_16_if_every_peer_is_trusted_only_the_last_address_counts() {
    for networks in [
        &["0.0.0.0/0", "::/0"][..],
        &["0.0.0.0/1", "128.0.0.0/1", "::/0"],
        &["10.0.0.0/8", "11.0.0.0/8"],
    ] {
        let trusted = TrustedPeers::new(networks.iter().map(|text| parse_network(text).unwrap()));
        for (list, wanted) in [
            ("1.2.3.4", "1.2.3.4, 10.0.0.7"),
            ("6.6.6.6, 1.2.3.4", "1.2.3.4, 10.0.0.7"),
            ("6.6.6.6, 1.2.3.4, 10.0.0.8", "10.0.0.8, 10.0.0.7"),
            ("garbage, 10.0.0.8", "10.0.0.8, 10.0.0.7"),
            ("1.2.3.4, garbage", "10.0.0.7"),
            ("", "10.0.0.7"),
        ] {
            let mut fields = headers(&[("x-forwarded-for", list)]);
            let peer = Peer::new("10.0.0.7".parse().unwrap());
            let client = Client::read(&peer, Scheme::Http, &fields, &trusted);
            client.write(&mut fields, &HeaderValue::from_static("gw.test"));
            assert_eq!(fields["x-forwarded-for"], wanted, "{networks:?} {list}");
            let first = wanted.split(',').next().unwrap();
            assert_eq!(client.address().to_string(), first, "{networks:?} {list}");
        }
    }
}

#[test]
fn h_16_garbage_in_the_used_part_of_the_list_selects_the_peer() {
    for list in [
        "",
        "garbage",
        "1.2.3.4, unknown",
        "1.2.3.4,",
        "1.2.3.4, 10.0.0.8, x",
        "_x",
    ] {
        assert_eq!(chain("10.0.0.7", list), "10.0.0.7", "{list}");
    }
    assert_eq!(through("10.0.0.7", &[]).0.address().to_string(), "10.0.0.7");
}

#[test]
fn h_16_several_lines_are_one_list() {
    let lines = [
        ("x-forwarded-for", "6.6.6.6, 1.2.3.4"),
        ("x-forwarded-for", "10.0.0.8"),
    ];
    let (client, headers) = through("10.0.0.7", &lines);
    assert_eq!(client.address().to_string(), "1.2.3.4");
    assert_eq!(headers["x-forwarded-for"], "1.2.3.4, 10.0.0.8, 10.0.0.7");
}

#[test]
fn h_17_no_field_changes_the_scheme_and_another_scheme_of_a_trusted_peer_is_noticed() {
    for (peer, value, other) in [
        ("203.0.113.1", "https", false),
        ("10.0.0.7", "https", true),
        ("10.0.0.7", "HTTPS", true),
        ("10.0.0.7", "https, http", false),
        ("10.0.0.7", "http,https", true),
        ("10.0.0.7", "http", false),
        ("10.0.0.7", "ftp", false),
        ("10.0.0.7", "", false),
    ] {
        let (client, headers) = through(peer, &[("x-forwarded-proto", value)]);
        assert_eq!(client.has_other_scheme(), other, "{peer} {value}");
        assert_eq!(headers["x-forwarded-proto"], "http", "{peer} {value}");
    }
    let trusted = TrustedPeers::new(["10.0.0.0/8".parse().unwrap()]);
    let peer = Peer::new("10.0.0.7".parse().unwrap());
    for (value, other) in [("http", true), ("https", false)] {
        let mut fields = headers(&[("x-forwarded-proto", value)]);
        let client = Client::read(&peer, Scheme::Https, &fields, &trusted);
        assert_eq!(client.has_other_scheme(), other, "{value}");
        client.write(&mut fields, &HeaderValue::from_static("gw.test"));
        assert_eq!(fields["x-forwarded-proto"], "https", "{value}");
    }
}

#[test]
fn h_17_h_18_h_24_only_our_forwarding_fields_arrive_each_once() {
    let (_, headers) = through(
        "10.0.0.7",
        &[
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-host", "evil.test"),
            ("x_forwarded_host", "evil.test"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "1"),
            ("x-forwarded-prefix", "/x"),
            ("forwarded", "for=1.2.3.4;host=evil.test;proto=http"),
            ("forwarded", "for=_x"),
        ],
    );
    let mut names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"]
    );
    assert_eq!(headers["x-forwarded-host"], "gw.test");
}

#[test]
fn a_client_read_after_the_strip_is_the_peer() {
    let trusted = TrustedPeers::new(["10.0.0.0/8".parse().unwrap()]);
    let mut headers = HeaderMap::new();
    headers.insert("x-forwarded-for", HeaderValue::from_static("1.2.3.4"));
    strip(&mut headers);
    let peer = Peer::new("10.0.0.7".parse().unwrap());
    let client = Client::read(&peer, Scheme::Https, &headers, &trusted);
    client.write(&mut headers, &HeaderValue::from_static("gw.test"));
    assert_eq!(client.address(), peer.address());
    assert_eq!(headers["x-forwarded-proto"], "https");
}

#[test]
fn x_17_an_address_with_a_zone_is_ignored() {
    let link = TrustedPeers::new(["fe80::/10".parse().unwrap()]);
    for (list, wanted) in [
        ("203.0.113.9, fe80::2", "203.0.113.9"),
        ("203.0.113.9, fe80::2%1", "fe80::1"),
        ("203.0.113.9, fe80::2%eth0", "fe80::1"),
        ("203.0.113.9, [fe80::2%1]", "fe80::1"),
        ("203.0.113.9, [fe80::2%1]:443", "fe80::1"),
        ("203.0.113.9, [fe80::2%eth0]:443", "fe80::1"),
        ("203.0.113.9%0", "fe80::1"),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static(list));
        let peer = Peer::new("fe80::1".parse().unwrap());
        let client = Client::read(&peer, Scheme::Https, &headers, &link);
        assert_eq!(client.address().to_string(), wanted, "{list}");
    }
}

#[test]
fn x_17_a_network_of_mapped_addresses_is_the_ipv4_network() {
    for (network, address, wanted) in [
        ("::ffff:10.0.0.0/104", "10.1.2.3", true),
        ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", true),
        ("::ffff:10.0.0.0/104", "11.1.2.3", false),
        ("::ffff:10.0.0.7/128", "10.0.0.7", true),
        ("::ffff:10.0.0.7/128", "10.0.0.8", false),
        ("10.0.0.7/32", "::ffff:10.0.0.7", true),
        ("10.0.0.7/32", "::10.0.0.7", false),
        ("::/0", "2001:db8::1", true),
        // The network `::/0` does not contain the IPv4-mapped addresses.
        ("::/0", "::ffff:10.0.0.7", false),
        ("::ffff:0:0/95", "10.0.0.7", false),
        ("64:ff9b::/96", "10.0.0.7", false),
    ] {
        let trusted = TrustedPeers::new([network.parse().unwrap()]);
        let address: std::net::IpAddr = address.parse().unwrap();
        assert_eq!(trusted.contains(address), wanted, "{address} in {network}");
    }
}

#[test]
fn x_26_networks_that_contain_almost_everybody_are_found() {
    let widest = |list: &str| {
        let networks = list.split(' ').filter(|network| !network.is_empty());
        let networks = networks.map(|network| parse_network(network).unwrap());
        let wide = TrustedPeers::new(networks).widest();
        wide.map_or_else(String::new, |network| network.to_string())
    };
    for (list, wide) in [
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("10.0.0.0/8 ::/0", "::/0"),
        ("0.0.0.0/1 128.0.0.0/1", "0.0.0.0/0"),
        ("128.0.0.0/1 0.0.0.0/2 64.0.0.0/2", "0.0.0.0/0"),
        ("::/1 8000::/1", "::/0"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::ffff:0:0/97 ::ffff:128.0.0.0/97", "0.0.0.0/0"),
        // Almost everybody, or all public addresses of IPv6.
        ("0.0.0.0/1", "0.0.0.0/1"),
        ("2000::/3", "2000::/3"),
        ("10.0.0.0/8 11.0.0.0/8", "10.0.0.0/7"),
        ("", ""),
        (
            "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 127.0.0.1",
            "",
        ),
        ("10.0.0.1/8 fd00::1/8", ""),
        ("fc00::/7 fe80::/10 ::1 2001:db8::/32", ""),
    ] {
        assert_eq!(widest(list), wide, "{list}");
    }
}

#[test]
fn x_17_a_mapped_address_is_trusted_as_its_ipv4_address() {
    let trusted = TrustedPeers::new(["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
    for (address, wanted) in [
        ("10.1.2.3", true),
        ("::ffff:10.1.2.3", true),
        ("fd00::1", true),
        ("::ffff:11.1.2.3", false),
        ("::1", false),
    ] {
        assert_eq!(
            trusted.contains(address.parse().unwrap()),
            wanted,
            "{address}"
        );
    }
    assert!(!TrustedPeers::default().contains("127.0.0.1".parse().unwrap()));
}

#[test]
fn a_client_behind_a_trusted_peer_by_example() {
    let mut headers = HeaderMap::new();
    headers.insert(
        "x-forwarded-for",
        HeaderValue::from_static("6.6.6.6, 203.0.113.9"),
    );
    let peer = Peer::new("10.0.0.7".parse().unwrap());
    let closed = Client::read(&peer, Scheme::Http, &headers, &TrustedPeers::default());
    assert_eq!(closed.address(), peer.address());
    let balancers = TrustedPeers::new(["10.0.0.0/8".parse().unwrap()]);
    let open = Client::read(&peer, Scheme::Http, &headers, &balancers);
    assert_eq!(open.address().to_string(), "203.0.113.9");
}

#[test]
fn trust_in_nobody_is_told_from_trust_in_somebody() {
    assert!(TrustedPeers::default().is_empty());
    assert!(TrustedPeers::new([]).is_empty());
    assert!(!TrustedPeers::new(["10.0.0.0/8".parse().unwrap()]).is_empty());
}
