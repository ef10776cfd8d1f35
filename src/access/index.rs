//! An index of the routes by host and path prefix.

use std::collections::BTreeMap;

use super::route::Route;
use crate::target::FoldedPath;

/// The index finds the few routes that can match a request, even in a table with thousands of
/// routes. The index compares the normal forms of prefixes ([`FoldedPath`]). A
/// route can match a request if the normalized path begins with the route's normalized prefix, and
/// if the route is for the request's host or for all hosts.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// A key of the map consists of a host and a normalized prefix. A value of the map contains the
    /// positions of all routes with the same key. A position is the index of a route in the table
    /// of routes. If a route serves all hosts, its key contains no host.
    positions: BTreeMap<Box<[u8]>, Vec<usize>>,
    /// The number of segments in the prefix with the most segments.
    depth: usize,
    /// Whether at least one route serves only certain hosts.
    by_host: bool,
    /// Whether the table has only one route, which serves all hosts and all paths.
    is_trivial: bool,
}

impl Index {
    pub(super) fn new(routes: &[Route]) -> Self {
        let mut index = Self::default();
        for (position, route) in routes.iter().enumerate() {
            let folded = FoldedPath::of(route.prefix(), usize::MAX);
            let whole = folded.prefixes().last().unwrap_or_default();
            let segments = folded.prefixes().count().saturating_sub(1);
            index.depth = index.depth.max(segments);
            index.by_host |= route.hosts().next().is_some();
            let mut hosts: Vec<&str> = route.hosts().collect();
            if hosts.is_empty() {
                hosts.push("");
            }
            for host in hosts {
                let key = [host, whole].concat().into_bytes();
                index
                    .positions
                    .entry(key.into())
                    .or_default()
                    .push(position);
            }
        }
        let serves_all = |route: &Route| route.prefix() == "/" && route.hosts().next().is_none();
        index.is_trivial = matches!(routes, [only] if serves_all(only));
        index
    }

    /// Whether the first route serves all requests.
    pub(super) fn is_trivial(&self) -> bool {
        self.is_trivial
    }

    /// Returns the first position in the table whose route matches the authority and the path. The
    /// argument `matches` is a function that gets a position and checks the route at this position.
    pub(super) fn first(
        &self,
        (authority, path): (&str, &str),
        matches: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let folded = FoldedPath::of(path, self.depth);
        let mut key = Vec::new();
        let mut best: Option<usize> = None;
        let mut look = |key: &[u8]| {
            let positions = self.positions.get(key).map_or(&[][..], Vec::as_slice);
            // More specific routes come first in the table, so the smallest position belongs to the
            // most specific route.
            let better = |position: &&usize| best.is_none_or(|best| **position < best);
            let found = positions
                .iter()
                .filter(better)
                .find(|position| matches(**position));
            best = found.copied().or(best);
        };
        for prefix in folded.prefixes() {
            look(prefix.as_bytes());
            if self.by_host {
                key.clear();
                key.extend_from_slice(authority.as_bytes());
                key.extend_from_slice(prefix.as_bytes());
                look(&key);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use serde_json::{Value, json};

    use super::*;
    use crate::access::RouteTable;
    use crate::access::route_fixture::{self, target};

    fn table(wanted: &[(&str, &str, &str)]) -> RouteTable {
        let route = |(host, prefix, access): &(&str, &str, &str)| -> Value {
            let hosts: Vec<_> = Some(*host)
                .filter(|host| !host.is_empty())
                .into_iter()
                .collect();
            json!({"hosts": hosts, "prefix": prefix, "access": access})
        };
        let routes: Vec<Value> = wanted.iter().map(route).collect();
        route_fixture::table(&json!(routes))
    }

    #[test]
    fn the_index_and_a_linear_search_find_the_same_route() {
        let prefixes = [
            "/", "/a", "/a/b", "/b/z/", "/b./c", "/a/c;x", "/b%20", "/%C3%BC", "/a%25b", "/b/a/b",
        ];
        let mut wanted = Vec::new();
        for prefix in prefixes {
            // A public prefix below another spelling of a protected prefix is refused.
            if prefix != "/b%20" {
                wanted.push(("", prefix, "signed-in"));
            }
            wanted.push(("x.example", prefix, "public"));
            if prefix != "/a" {
                wanted.push(("y.example:8080", prefix, "signed-in"));
            }
        }
        let table = table(&wanted).for_worker();
        let segments = [
            "a", "A", "a.", "a%20", "a;x=1", "b", "B ", "c", "C;x", "%c3%bc", "%C3%9C", "a%25b",
            "z",
        ];
        let mut found = 0;
        for host in ["x.example", "y.example:8080", "z.example"] {
            for one in segments {
                for two in segments {
                    for end in ["", "/", "/b", "/b/"] {
                        let path = format!("/{one}/{two}{end}").replace(' ', "%20");
                        let target = target(host, &path);
                        let each = table
                            .iter()
                            .find(|route| route.matches(host, target.path()));
                        let indexed = table.find(&target);
                        let name = |route: Option<&Rc<Route>>| route.map(|route| route.index());
                        assert_eq!(name(indexed), name(each), "{host}{path}");
                        found += usize::from(indexed.is_some_and(|route| route.prefix() != "/"));
                    }
                }
            }
        }
        assert!(found > 500, "{found}");
        let root = table.find(&target("z.example", "/")).unwrap();
        assert_eq!(root.prefix(), "/");
    }

    #[test]
    fn the_only_route_of_a_table_serves_all_requests_unless_it_has_a_host_or_a_longer_prefix() {
        for (host, prefix, access, all) in [
            ("", "/", "signed-in", true),
            ("", "/", "public", true),
            ("x.example", "/", "public", false),
            ("", "/a", "signed-in", false),
        ] {
            let table = table(&[(host, prefix, access)]).for_worker();
            for path in ["/", "/b", "/%C3%BC;x/", "/b?/a"] {
                let found = table.find(&target("z.example", path));
                assert_eq!(found.is_some(), all, "{host} {prefix} {access} {path}");
            }
        }
        let two = table(&[("", "/", "signed-in"), ("", "/a", "public")]).for_worker();
        let found = two.find(&target("z.example", "/a"));
        assert_eq!(found.map(|route| route.prefix()), Some("/a"));
    }
}
