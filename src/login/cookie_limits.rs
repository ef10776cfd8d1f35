//! Limits for the number of cookies that logins leave in one browser.
//!
//! Browsers limit the number of cookies of a domain with all its hosts: Chromium keeps 180 cookies,
//! and then deletes the cookies that were not used for the longest time. A page of another site can
//! begin many logins at all hosts of the gateway. Without limits, the browser would delete the
//! session cookies of these hosts, and the cookies of the apps. A host does not see the cookies of
//! another host, so all hosts of a domain share the limits equally.

use std::collections::BTreeMap;

use url::{Host, Url};

use super::{PublicUrl, PublicUrls};

/// The maximum number of pending logins in one browser, if the domain has only one host.
const MAX_TABS: usize = 60;

/// The number of pending logins that each host may have, however many hosts the domain has.
const MIN_TABS: usize = 10;

/// The maximum number of saved pages in one browser, if the domain has only one host. A saved page
/// has up to three cookies.
const MAX_PAGES: usize = 20;

/// The number of saved pages that each host may have, however many hosts the domain has.
const MIN_PAGES: usize = 2;

/// For this number of hosts, the limits keep a domain below 150 cookies. A wildcard counts as this
/// number of hosts.
const MANY_HOSTS: usize = 8;

/// The number of public hosts of each domain.
#[derive(Clone, Debug, Default)]
pub(crate) struct CookieLimits(BTreeMap<Box<str>, usize>);

impl CookieLimits {
    /// Counts the hosts in `urls`.
    pub(crate) fn new(urls: &PublicUrls) -> Self {
        let mut hosts = BTreeMap::new();
        for name in urls.names() {
            let (name, weight) = match name.split_once("://*.") {
                Some((scheme, parent)) => (format!("{scheme}://x.{parent}"), MANY_HOSTS),
                None => (name, 1),
            };
            let count: &mut usize = hosts.entry(domain(&name)).or_default();
            *count = count.saturating_add(weight);
        }
        Self(hosts)
    }

    /// Returns the maximum number of pending logins at `host` in one browser.
    pub(super) fn tabs(&self, host: &PublicUrl) -> usize {
        self.share(MAX_TABS, host).max(MIN_TABS)
    }

    /// Returns the maximum number of saved pages of `host` in one browser.
    pub(super) fn pages(&self, host: &PublicUrl) -> usize {
        self.share(MAX_PAGES, host).max(MIN_PAGES)
    }

    fn share(&self, of_domain: usize, host: &PublicUrl) -> usize {
        let hosts = self.0.get(&domain(host.origin())).copied();
        of_domain
            .checked_div(hosts.unwrap_or(1))
            .unwrap_or(of_domain)
    }
}

/// Returns the domain to which a browser counts the cookies of a host. Only the list of public
/// suffixes contains all these domains, so this function returns the last two labels. For a host such
/// as `app.example.co.uk`, the domain is then too large, and the limits are smaller than necessary.
fn domain(origin: &str) -> Box<str> {
    let url = Url::parse(origin).ok();
    match url.as_ref().and_then(Url::host) {
        Some(Host::Domain(name)) => {
            let dots = name.rmatch_indices('.').map(|(at, _)| at);
            let start = dots.skip(1).map(|at| at.saturating_add(1)).next();
            name.get(start.unwrap_or_default()..).unwrap_or(name).into()
        }
        Some(address) => address.to_string().into(),
        None => origin.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(urls: &[&str]) -> CookieLimits {
        let urls = serde_json::to_string(urls).unwrap();
        CookieLimits::new(&serde_json::from_str(&urls).unwrap())
    }

    fn url(text: &str) -> PublicUrl {
        PublicUrl::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn c_12_the_hosts_of_a_domain_share_the_limits() {
        let one = limits(&[
            "https://app.example.com",
            "https://example.net",
            "https://[::1]:8",
        ]);
        for alone in [
            "https://app.example.com",
            "https://example.net",
            "https://[::1]:8",
        ] {
            let alone = url(alone);
            assert_eq!((one.tabs(&alone), one.pages(&alone)), (60, 20), "{alone}");
        }
        let three = limits(&[
            "https://example.com:8443",
            "https://a.example.com",
            "https://b.c.example.com",
            "https://example.net",
        ]);
        let host = url("https://a.example.com");
        assert_eq!((three.tabs(&host), three.pages(&host)), (20, 6));
        let other = url("https://example.net");
        assert_eq!((three.tabs(&other), three.pages(&other)), (60, 20));
        // Two addresses are two domains.
        let addresses = limits(&["http://127.0.0.1", "http://127.0.0.2"]);
        assert_eq!(addresses.pages(&url("http://127.0.0.1")), 20);
        let wildcard = limits(&["https://login.example.com", "https://*.example.com"]);
        let host = url("https://one.example.com");
        assert_eq!((wildcard.tabs(&host), wildcard.pages(&host)), (10, 2));
    }

    #[test]
    fn c_12_eight_hosts_stay_below_the_limit_of_a_browser() {
        for count in 1..=MANY_HOSTS {
            let urls: Vec<_> = (0..count)
                .map(|n| format!("https://h{n}.example.com"))
                .collect();
            let limits = limits(&urls.iter().map(String::as_str).collect::<Vec<_>>());
            let host = url(&urls[0]);
            // The session cookie, and the counter of logins.
            let cookies = limits.tabs(&host) + 3 * limits.pages(&host) + 2;
            assert!(cookies * count <= 150, "{count} hosts: {}", cookies * count);
        }
    }
}
