//! Finds routes that lead to paths of an app that another route protects.
//!
//! Without replaced prefixes, the most specific prefix decides about a path, so a route cannot lead to
//! a path that a more specific prefix protects. With replaced prefixes, two public paths can be the same path
//! of the app. For example, `/pub` with the app prefix `/` also leads to `/admin` of the app, by
//! the path `/pub/admin`. The check therefore compares the app prefixes: if the app prefix of one
//! route covers the app prefix of another route, the first route must not have a less strict rule.
//! The operator who means it writes the name of the protected route into `bypasses`.
//!
//! A route without an app can also protect a path of an app. For example, beside a route `/`, the
//! route `/metrics` with the answer 404 protects `/metrics` of the app of `/`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::rewrite::app_prefix;
use super::route::Route;
use super::route_table::RouteTable;
use super::static_answer::StaticAnswer;
use crate::origin::Origin;
use crate::target::Prefix;
use crate::upstream::Upstream;

/// A route whose users can reach paths that another route protects.
#[derive(Debug)]
pub(crate) struct Bypass<'a> {
    /// The less strict route.
    pub(crate) open: &'a Route,
    /// The stricter route, or a route with an answer.
    pub(crate) protected: &'a Route,
    /// A public path of the route `open`.
    pub(crate) public_path: String,
    /// The path of the app to which `public_path` leads.
    pub(crate) app_path: Prefix,
}

impl RouteTable {
    /// Returns all bypasses, also those that the operator accepts. `hosts` are the public hosts of
    /// the gateway, with their ports.
    pub(crate) fn bypasses(&self, hosts: &[&str]) -> Vec<Bypass<'_>> {
        let mut apps: BTreeMap<_, Vec<OnApp<'_>>> = BTreeMap::new();
        let answers = self
            .iter()
            .flat_map(|route| self.protected_by_answer(route, hosts));
        for path in self.iter().filter_map(OnApp::of).chain(answers) {
            apps.entry(server(path.upstream.origin()))
                .or_default()
                .push(path);
        }
        let mut found = Vec::new();
        for paths in apps.values() {
            // Most apps have no replaced prefix, and then no two paths have to be compared.
            if !paths.iter().any(OnApp::is_replaced) {
                continue;
            }
            for open in paths.iter().filter(|path| path.route.answer().is_none()) {
                let others = paths.iter();
                found.extend(others.filter_map(|other| self.bypass(open, other, hosts)));
            }
        }
        found
    }

    fn bypass<'a>(
        &'a self,
        open: &OnApp<'a>,
        protected: &OnApp<'a>,
        hosts: &[&str],
    ) -> Option<Bypass<'a>> {
        let is_replaced = open.is_replaced() || protected.is_replaced();
        if !is_replaced || !open.prefix.covers(protected.prefix.as_str()) {
            return None;
        }
        if open.route.is_as_strict_as(protected.route) {
            return None;
        }
        // The operator has chosen exactly this path of the app for the open route.
        let is_chosen = protected.prefix.covers(open.prefix.as_str());
        if is_chosen && protected.route.answer().is_some() {
            return None;
        }
        let below = open.prefix.rest(protected.prefix.as_str());
        let public_path = open.route.public_prefix().join(below);
        // Another route may decide about the public path. A route that gives access to everybody
        // does not decide about all spellings of the path, but the app may treat these spellings as
        // the same path.
        let is_reached = hosts.iter().any(|host| {
            let is_open = |route: &&Route| std::ptr::eq(*route, open.route);
            let mut routes = self.iter();
            let decides = routes.find(|route| {
                (is_open(route) || route.protects()) && route.matches(host, &public_path)
            });
            decides.as_ref().is_some_and(is_open)
        });
        is_reached.then(|| Bypass {
            open: open.route,
            protected: protected.route,
            public_path,
            app_path: protected.prefix.clone(),
        })
    }

    /// Returns the paths of apps that a route without an app protects. Without this route, the next
    /// broader route with an app would serve the path.
    fn protected_by_answer<'a>(&'a self, route: &'a Route, hosts: &[&str]) -> Vec<OnApp<'a>> {
        let mut found: Vec<OnApp<'a>> = Vec::new();
        if route.answer().is_none() || !route.protects() {
            return found;
        }
        for host in hosts.iter().filter(|host| route.is_for_host(host)) {
            let after = self.iter().skip_while(|other| !std::ptr::eq(*other, route));
            let mut apps = after.skip(1).filter_map(OnApp::of);
            let broader = apps.find(|app| app.route.matches(host, route.prefix()));
            let path = broader.and_then(|app| app.at(route));
            let is_new = |path: &OnApp<'a>| found.iter().all(|other| !other.is_same_path(path));
            found.extend(path.filter(is_new));
        }
        found
    }
}

impl Route {
    /// Returns true if every request that this route permits would also be permitted by the route
    /// `other`.
    pub(super) fn is_as_strict_as(&self, other: &Self) -> bool {
        !other.answer().is_some_and(StaticAnswer::denies)
            && self.admits_only_users_of(other)
            && self.has_guards_of(other)
    }

    /// Returns true if everyone who may use this route may also use the route `other`.
    pub(crate) fn admits_only_users_of(&self, other: &Self) -> bool {
        let mut providers = self.providers();
        other.is_public()
            || self.rule.is_as_strict_as(&other.rule)
                && providers.all(|name| other.provider(name).is_some())
    }
}

/// A path of an app, and the route that decides about the path.
struct OnApp<'a> {
    route: &'a Route,
    upstream: &'a Upstream,
    /// The prefix of the route as the app knows it.
    prefix: Prefix,
}

impl<'a> OnApp<'a> {
    fn of(route: &'a Route) -> Option<Self> {
        let upstream = route.upstream()?;
        Some(Self {
            route,
            upstream,
            prefix: app_prefix(route.public_prefix(), route.rewrite_settings(), upstream),
        })
    }

    /// Returns the path of the app for the prefix of a route without an app. The prefix is below the
    /// prefix of this route.
    fn at(&self, route: &'a Route) -> Option<Self> {
        let below = self.route.public_prefix().rest(route.prefix());
        Some(Self {
            route,
            upstream: self.upstream,
            prefix: Prefix::parse(&self.prefix.join(below)).ok()?,
        })
    }

    fn is_replaced(&self) -> bool {
        self.prefix != *self.route.public_prefix()
    }

    fn is_same_path(&self, other: &Self) -> bool {
        self.prefix == other.prefix && self.upstream.origin() == other.upstream.origin()
    }
}

/// Returns the host and the port of a server. Upstreams with the same server are one app, even if
/// they have different names or paths. The different spellings of the local host are one host.
fn server(origin: &Origin) -> (String, u16) {
    let host = origin.host();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let address = host
        .parse()
        .ok()
        .map(|address: IpAddr| address.to_canonical());
    let is_local = match address {
        Some(address) => address.is_loopback() || address.is_unspecified(),
        None => host == "localhost" || host.ends_with(".localhost"),
    };
    let host = match address {
        _ if is_local => "localhost".to_owned(),
        Some(address) => address.to_string(),
        None => host.to_owned(),
    };
    (host, origin.port())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::access::route_fixture::{groups, try_table};

    const HOSTS: [&str; 3] = ["gw.test", "a.test", "b.test"];

    /// The bypasses of a table with these routes. Each text names the open route, the protected
    /// route, the public path and the path of the app.
    fn bypasses(routes: &Value) -> Vec<String> {
        let table = try_table(routes, &["main", "second"]).unwrap();
        let text = |bypass: Bypass<'_>| {
            let (open, protected) = (bypass.open.name(), bypass.protected.name());
            let app_path = bypass.app_path.as_str();
            format!("{open} {protected} {} {app_path}", bypass.public_path)
        };
        let mut found: Vec<_> = table.bypasses(&HOSTS).into_iter().map(text).collect();
        found.sort();
        found
    }

    /// A route with this rule whose app has another prefix.
    fn replaced(prefix: &str, access: &Value, app_prefix: &str) -> Value {
        let rewrite = json!({ "app_prefix": app_prefix });
        json!({ "prefix": prefix, "access": access, "provider": "main", "rewrite": rewrite })
    }

    #[test]
    fn e_03_a_removed_prefix_that_leads_to_a_protected_path_is_found() {
        let (open, user) = (json!("public"), json!("signed-in"));
        let admins = json!({ "prefix": "/admin", "access": groups(&["a"]), "provider": "main" });
        let all = json!({ "prefix": "/" });
        let everything = replaced("/pub", &open, "/");
        let bypass = "/pub /admin /pub/admin /admin";
        for (routes, wanted) in [
            (json!([everything, admins]), vec![bypass]),
            (json!([everything, all]), vec!["/pub / /pub/ /"]),
            (
                json!([everything, all, admins]),
                vec!["/pub / /pub/ /", bypass],
            ),
            (
                json!([replaced("/all", &user, "/"), admins]),
                vec!["/all /admin /all/admin /admin"],
            ),
            // The app may ignore the case of its paths.
            (
                json!([replaced("/pub", &open, "/Admin/x"), { "prefix": "/admin/X/y" }]),
                vec!["/pub /admin/X/y /pub/y /admin/X/y"],
            ),
            // The prefix of the protected route is replaced.
            (
                json!([{ "access": "public" }, replaced("/adm", &groups(&["a"]), "/admin")]),
                vec!["/ /adm /admin /admin"],
            ),
            // The URL of another upstream leads to a path of the same app.
            (
                json!([{ "access": "public" },
                    { "prefix": "/adm", "upstream": "below", "rewrite": { "app_prefix": "/" } }]),
                vec!["/ /adm /admin/ /admin/"],
            ),
            // Another host leads to the same app.
            (
                json!([{ "hosts": ["a.test"] }, { "prefix": "/pub", "hosts": ["b.test"],
                    "access": "public", "rewrite": { "app_prefix": "/" } }]),
                vec!["b.test/pub a.test/ /pub/ /"],
            ),
            // The route that protects the public path is only for one host.
            (
                json!([everything, admins, { "prefix": "/pub/admin", "hosts": ["a.test"],
                    "access": groups(&["a"]), "provider": "main",
                    "rewrite": { "app_prefix": "/admin" } }]),
                vec![bypass, "/pub a.test/pub/admin /pub/admin /admin"],
            ),
            // A public route at the public path does not decide about `/pub/ADMIN`.
            (
                json!([everything, admins, { "prefix": "/pub/admin", "access": "public",
                    "answer": { "redirect": "/admin" } }]),
                vec![bypass],
            ),
            // The users of another provider are other users.
            (
                json!([{ "prefix": "/a", "provider": "main" },
                    { "prefix": "/b", "rewrite": { "app_prefix": "/a" } }]),
                vec!["/b /a /b /a"],
            ),
            // A member of only one of the groups may use the open route.
            (
                json!([replaced("/x", &groups(&["a", "b"]), "/"), admins]),
                vec!["/x /admin /x/admin /admin"],
            ),
        ] {
            assert_eq!(bypasses(&routes), wanted, "{routes}");
        }
    }

    #[test]
    fn a_rule_that_is_not_enforced_protects_nothing() {
        let admins = json!({ "prefix": "/admin", "access": groups(&["a"]), "provider": "main" });
        let mut open = replaced("/x", &groups(&["a"]), "/");
        assert_eq!(bypasses(&json!([open, admins])), Vec::<String>::new());
        open["enforce"] = json!(false);
        assert_eq!(
            bypasses(&json!([open, admins])),
            ["/x /admin /x/admin /admin"]
        );
    }

    #[test]
    fn e_03_a_removed_prefix_that_leads_to_no_protected_path_is_accepted() {
        let (open, user, group) = (json!("public"), json!("signed-in"), groups(&["a"]));
        let admins = json!({ "prefix": "/admin", "access": group, "provider": "main" });
        let everything = replaced("/pub", &open, "/");
        for routes in [
            json!([everything]),
            // Without a replaced prefix, the most specific prefix decides.
            json!([{ "access": "public" }, admins]),
            // Another route protects the public path.
            json!([everything, admins, replaced("/pub/admin", &group, "/admin")]),
            json!([everything, admins, { "prefix": "/pub/admin/", "answer": { "status": 404 } }]),
            json!([everything, admins, { "prefix": "/pub/admin", "access": "public",
                "answer": { "status": 404 } }]),
            // The gateway serves no other host.
            json!([everything, admins, { "prefix": "/pub/admin", "hosts": HOSTS,
                "access": group, "provider": "main", "rewrite": { "app_prefix": "/admin" } }]),
            // The operator has chosen exactly this path of the app.
            json!([replaced("/pub", &open, "/admin/icons"), admins]),
            // The apps are different.
            json!([admins, { "prefix": "/pub", "access": "public", "upstream": "other",
                "rewrite": { "app_prefix": "/" } }]),
            // The rule is as strict.
            json!([replaced("/a", &user, "/"), replaced("/b", &user, "/")]),
            json!([replaced("/x", &group, "/"), admins]),
            json!([replaced("/x", &group, "/"), replaced("/y", &group, "/")]),
        ] {
            assert_eq!(bypasses(&routes), Vec::<String>::new(), "{routes}");
        }
    }

    #[test]
    fn e_03_a_removed_prefix_that_leads_to_a_path_that_an_answer_protects_is_found() {
        let open = json!("public");
        let wiki = replaced("/wiki", &open, "/");
        let all = json!({ "access": "public" });
        let block = |prefix: &str| json!({ "prefix": prefix, "answer": { "status": 404 } });
        let public_block = json!({ "prefix": "/metrics", "access": "public",
            "answer": { "status": 410 } });
        let file = json!({ "prefix": "/file", "answer": { "redirect": "/" } });
        let bypass = "/wiki /metrics /wiki/metrics /metrics";
        for (routes, wanted) in [
            (json!([all, wiki, block("/metrics")]), vec![bypass]),
            (json!([all, wiki, public_block]), vec![bypass]),
            // Also a user who is signed in must not reach the path.
            (
                json!([replaced("/wiki", &groups(&["a"]), "/"), { "access": "public" },
                    block("/metrics")]),
                vec!["/ /wiki / /", bypass],
            ),
            // The rule of the answer is stricter.
            (
                json!([all, wiki, file]),
                vec!["/wiki /file /wiki/file /file"],
            ),
            // The path of the app has another prefix.
            (
                json!([{ "access": "public" }, replaced("/w", &open, "/x"), block("/w/a")]),
                vec!["/ /w/a /x/a /x/a"],
            ),
            // The answer is below another answer.
            (
                json!([all, wiki, block("/a"), block("/a/b")]),
                vec!["/wiki /a /wiki/a /a", "/wiki /a/b /wiki/a/b /a/b"],
            ),
            // The answer is for one host of the app.
            (
                json!([all, wiki, { "prefix": "/metrics", "hosts": ["a.test"],
                    "answer": { "status": 503 } }]),
                vec!["/wiki a.test/metrics /wiki/metrics /metrics"],
            ),
        ] {
            assert_eq!(bypasses(&routes), wanted, "{routes}");
        }
        for routes in [
            json!([all, wiki, block("/metrics"), block("/wiki/metrics")]),
            // The answer protects nothing.
            json!([all, wiki, { "prefix": "/metrics", "access": "public",
                "answer": { "redirect": "/" } }]),
            json!([replaced("/wiki", &json!("signed-in"), "/"), { "provider": "main" }, file]),
            // No route serves this path of the app without the answer.
            json!([wiki, block("/metrics")]),
            json!([wiki, block("/metrics"), { "access": "public", "upstream": "other" }]),
            // The operator has chosen exactly this path of the app.
            json!([all, block("/metrics"), replaced("/m", &open, "/metrics/")]),
        ] {
            assert_eq!(bypasses(&routes), Vec::<String>::new(), "{routes}");
        }
    }

    #[test]
    fn e_03_another_spelling_of_the_host_of_an_app_is_the_same_app() {
        for upstream in ["localhost", "every"] {
            let routes = json!([
                { "prefix": "/pub", "access": "public", "upstream": upstream,
                    "rewrite": { "app_prefix": "/" } },
                { "prefix": "/admin" },
            ]);
            assert_eq!(bypasses(&routes), ["/pub /admin /pub/admin /admin"]);
        }
    }

    #[test]
    fn the_names_of_one_server_are_recognised() {
        for (one, other, is_same) in [
            ("http://app:80", "http://app", true),
            ("http://app.", "http://app", true),
            ("http://app", "http://app.internal", false),
            ("http://app:81", "http://app", false),
            ("http://127.0.0.1", "http://localhost", true),
            ("http://[::1]", "http://a.localhost.", true),
            ("http://0.0.0.0", "http://127.1.2.3", true),
            ("http://[::]", "http://127.0.0.1", true),
            ("http://[::ffff:10.0.0.1]", "http://10.0.0.1", true),
            ("http://10.0.0.2", "http://10.0.0.1", false),
        ] {
            let server = |text: &str| server(&text.parse().unwrap());
            assert_eq!(server(one) == server(other), is_same, "{one} {other}");
        }
    }
}
