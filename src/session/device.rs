//! The device with which a user has signed in, as far as the page about the user's own sessions
//! needs it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest stored name, in bytes.
const MAX_NAME: usize = 40;

/// The longest stored network, in bytes. The longest IPv6 network is shorter.
const MAX_NETWORK: usize = 24;

/// The texts that browsers have in `User-Agent`, and the names of the browsers. The first text that
/// occurs decides, because many browsers also name the browsers of which they are variants.
const BROWSERS: [(&str, &str); 9] = [
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Vivaldi/", "Vivaldi"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
];

/// The texts that systems have in `User-Agent`, and the names of the systems.
const SYSTEMS: [(&str, &str); 7] = [
    ("Windows", "Windows"),
    ("Android", "Android"),
    ("iPhone", "an iPhone"),
    ("iPad", "an iPad"),
    ("CrOS", "ChromeOS"),
    ("Macintosh", "a Mac"),
    ("Linux", "Linux"),
];

/// The device with which a user has signed in. The texts are short, because each session keeps them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    /// The browser and the system, such as `Firefox on Linux`.
    pub(super) name: Box<str>,
    /// The network of the client.
    pub(super) network: Box<str>,
}

impl Device {
    /// Describes the device of a client with this `User-Agent` and this address.
    pub fn new(user_agent: &str, address: IpAddr) -> Self {
        Self {
            name: name(user_agent).into(),
            network: network(address).into(),
        }
    }

    /// Reads a stored device. Returns `None` if a text is longer than [`Device::new`] makes it, or if
    /// there is no network.
    pub(super) fn stored(name: &str, network: &str) -> Option<Self> {
        let fits = name.len() <= MAX_NAME && network.len() <= MAX_NETWORK;
        let is_stored = fits && !network.is_empty();
        is_stored.then(|| Self {
            name: name.into(),
            network: network.into(),
        })
    }

    /// Returns the browser and the system.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the network of the client at the login.
    pub(crate) fn network(&self) -> &str {
        &self.network
    }
}

fn name(user_agent: &str) -> String {
    let known = |table: &[(&str, &'static str)]| {
        let mut rows = table.iter();
        rows.find(|(text, _)| user_agent.contains(text))
            .map(|(_, name)| *name)
    };
    match (known(&BROWSERS), known(&SYSTEMS)) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(browser), None) => browser.to_owned(),
        (None, Some(system)) => format!("A browser on {system}"),
        (None, None) => {
            let product = user_agent.split(['/', ' ']).next().unwrap_or_default();
            let shown = product.chars().filter(char::is_ascii_alphanumeric);
            let shown: String = shown.take(MAX_NAME).collect();
            if shown.is_empty() {
                "An unknown program".to_owned()
            } else {
                shown
            }
        }
    }
}

/// Returns the network of an address: the first 24 bits of an IPv4 address, or the first 48 bits of
/// an IPv6 address. The network shows where a user has signed in, and not which machine the user has
/// used.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            format!("{}/24", Ipv4Addr::new(a, b, c, 0))
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            format!("{}/48", Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_agent_becomes_a_name_that_people_know() {
        let mozilla = |rest: &str| format!("Mozilla/5.0 ({rest}");
        let webkit = "AppleWebKit/537.36 (KHTML, like Gecko)";
        for (user_agent, expected) in [
            (
                mozilla("X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
                "Firefox on Linux",
            ),
            (
                mozilla(&format!(
                    "Windows NT 10.0) {webkit} Chrome/139.0 Safari/537.36"
                )),
                "Chrome on Windows",
            ),
            (
                mozilla(&format!(
                    "Windows NT 10.0) {webkit} Chrome/139.0 Safari/537.36 Edg/139.0"
                )),
                "Edge on Windows",
            ),
            (
                mozilla("Macintosh; Intel Mac OS X 10_15) Version/18.5 Safari/605.1"),
                "Safari on a Mac",
            ),
            (
                mozilla("iPhone; CPU iPhone OS 18_5 like Mac OS X) Version/18.5 Safari/604.1"),
                "Safari on an iPhone",
            ),
            (
                mozilla(&format!(
                    "Linux; Android 15) {webkit} SamsungBrowser/28.0 Chrome/130.0 Safari/537.36"
                )),
                "Samsung Internet on Android",
            ),
            (mozilla("X11; Linux x86_64) Kit/1.0"), "A browser on Linux"),
            ("curl/8.5.0".to_owned(), "curl"),
            (String::new(), "An unknown program"),
            ("<script>/1".to_owned(), "script"),
            ("\u{202e}x".to_owned(), "x"),
            ("x".repeat(5000), &*"x".repeat(MAX_NAME)),
        ] {
            assert_eq!(name(&user_agent), expected, "{user_agent}");
        }
        let longest = |table: &[(&str, &str)]| table.iter().map(|(_, name)| name.len()).max();
        let (browser, system) = (longest(&BROWSERS).unwrap(), longest(&SYSTEMS).unwrap());
        assert!(browser + " on ".len() + system <= MAX_NAME);
    }

    #[test]
    fn the_network_does_not_name_the_machine() {
        for (address, expected) in [
            ("192.0.2.77", "192.0.2.0/24"),
            ("::ffff:192.0.2.77", "192.0.2.0/24"),
            ("255.255.255.255", "255.255.255.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
            ("::1", "::/48"),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(network(address), expected);
            assert!(network(address).len() <= MAX_NETWORK);
        }
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
        assert_eq!(network(longest), "ffff:ffff:ffff::/48");
        let device = Device::new("curl/8", longest);
        let stored = Device::stored(device.name(), device.network());
        assert_eq!(stored, Some(device));
        assert_eq!(Device::stored(&"x".repeat(MAX_NAME + 1), ""), None);
    }
}
