//! Finds routes that lead to paths of an app that another route protects with a stricter rule.
//!
//! Without replaced prefixes, the longest prefix decides about a path, so a route cannot lead to a
//! path that a longer prefix protects. With replaced prefixes, two public paths can be the same path
//! of the app. For example, `/pub` with the app prefix `/` also leads to `/admin` of the app, by
//! the path `/pub/admin`. The check therefore compares the app prefixes: if the app prefix of one
//! route covers the app prefix of another route, the first route must not have a less strict rule.
//! The operator who means it writes the name of the protected route into `bypasses`.

use super::rewrite::app_prefix;
use super::route::{Route, RouteTable};
use crate::target::Prefix;
use crate::upstream::Upstream;

/// A route whose users can reach paths that another route protects.
#[derive(Debug)]
pub(crate) struct Bypass<'a> {
    /// The route with the less strict rule.
    pub(crate) open: &'a Route,
    /// The route with the stricter rule.
    pub(crate) protected: &'a Route,
    /// A public path of the route `open`.
    pub(crate) public_path: String,
    /// The path of the app to which `public_path` leads.
    pub(crate) app_path: Prefix,
}

impl RouteTable {
    /// Returns all bypasses, also those that the operator accepts.
    pub(crate) fn bypasses(&self) -> Vec<Bypass<'_>> {
        let mut found = Vec::new();
        let apps: Vec<_> = self.iter().filter_map(OnApp::of).collect();
        for open in &apps {
            let others = apps.iter().filter(|other| other.is_same_app(open));
            found.extend(others.filter_map(|other| self.bypass(open, other)));
        }
        found
    }

    fn bypass<'a>(&'a self, open: &OnApp<'a>, protected: &OnApp<'a>) -> Option<Bypass<'a>> {
        let is_replaced = open.is_replaced() || protected.is_replaced();
        if !is_replaced || !open.prefix.covers(protected.prefix.as_str()) {
            return None;
        }
        if open.route.is_as_strict_as(protected.route) {
            return None;
        }
        let below = open.prefix.rest(protected.prefix.as_str());
        let public_path = open.route.public_prefix().join(below);
        // Another route may decide about the public path. A public route does not decide about all
        // spellings of the path, but the app may treat these spellings as the same path.
        let is_reached = self.hosts_of(open.route).into_iter().any(|host| {
            let is_open = |route: &&Route| std::ptr::eq(*route, open.route);
            let mut routes = self.iter();
            let decides = routes.find(|route| {
                (is_open(route) || !route.is_public()) && route.matches(host, &public_path)
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
}

/// A route that leads to an app.
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

    fn is_replaced(&self) -> bool {
        self.prefix != *self.route.public_prefix()
    }

    /// Two upstreams with one origin are one app, even if they have different names or paths.
    fn is_same_app(&self, other: &Self) -> bool {
        self.upstream.origin() == other.upstream.origin()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    /// The bypasses of a table with these routes. Each text names the open route, the protected
    /// route, the public path and the path of the app.
    fn bypasses(routes: &Value) -> Vec<String> {
        let app = |name: &str, url: &str| {
            let settings = serde_json::from_value(json!({ "url": url })).unwrap();
            let app = Arc::new(Upstream::new(name, &settings).unwrap());
            (Box::<str>::from(name), app)
        };
        let apps = BTreeMap::from([
            app("app", "http://127.0.0.1:1"),
            app("below", "http://127.0.0.1:1/admin"),
            app("other", "http://127.0.0.1:2"),
        ]);
        let routes = routes.as_array().unwrap().iter().cloned().map(|mut route| {
            let named = route.as_object_mut().unwrap();
            if !named.contains_key("answer") {
                named.entry("upstream").or_insert_with(|| json!("app"));
            }
            serde_json::from_value(route).unwrap()
        });
        let routes = routes.enumerate().collect();
        let table = RouteTable::new(routes, &apps, &["main", "second"]).unwrap();
        let text = |bypass: Bypass<'_>| {
            let (open, protected) = (bypass.open.name(), bypass.protected.name());
            let app_path = bypass.app_path.as_str();
            format!("{open} {protected} {} {app_path}", bypass.public_path)
        };
        let mut found: Vec<_> = table.bypasses().into_iter().map(text).collect();
        found.sort();
        found
    }

    /// A route with this rule whose app has another prefix.
    fn replaced(prefix: &str, access: &Value, app_prefix: &str) -> Value {
        let rewrite = json!({ "app_prefix": app_prefix });
        json!({ "prefix": prefix, "access": access, "provider": "main", "rewrite": rewrite })
    }

    fn groups(names: &[&str]) -> Value {
        json!({ "any_of": { "groups": names } })
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
                    "answer": { "status": 404 } }]),
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
    fn e_03_a_removed_prefix_that_leads_to_no_protected_path_is_accepted() {
        let (open, user, group) = (json!("public"), json!("signed-in"), groups(&["a"]));
        let admins = json!({ "prefix": "/admin", "access": group, "provider": "main" });
        let everything = replaced("/pub", &open, "/");
        for routes in [
            json!([everything]),
            // Without a replaced prefix, the longest prefix decides.
            json!([{ "access": "public" }, admins]),
            // Another route protects the public path.
            json!([everything, admins, replaced("/pub/admin", &group, "/admin")]),
            json!([everything, admins, { "prefix": "/pub/admin/", "answer": { "status": 404 } }]),
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
}
