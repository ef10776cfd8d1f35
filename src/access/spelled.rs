//! Finds the route of a path that is not written like the prefix of the first route that covers it.
//!
//! An app may read `/OPEN/x` as `/open/x`, or as another path that only the broader route `/` serves.
//! The request must meet the rules of both routes. If the first route that covers the path is at
//! least as strict as the other routes, it decides. Otherwise the strictest of the routes decides. If
//! no rule is as strict as all others, no route serves the path.

use std::rc::Rc;

use super::route::Route;
use super::route_table::WorkerRoutes;
use crate::target::Reading;

impl WorkerRoutes {
    /// Finds the route for requests with this authority and this usual path.
    pub(crate) fn serving(&self, authority: &str, path: &str) -> Option<&Rc<Route>> {
        if self.is_trivial() {
            return self.get(0);
        }
        let route = self.get(self.position(authority, path)?)?;
        if route.is_written(authority, path) {
            Some(route)
        } else {
            self.spelled(authority, path)
        }
    }

    #[cold]
    fn spelled(&self, authority: &str, path: &str) -> Option<&Rc<Route>> {
        let mut positions = Vec::new();
        self.add_routes(authority, &Reading::usual(path), &mut positions)?;
        let routes = positions.iter().map(|position| self.get(*position));
        let routes: Vec<&Rc<Route>> = routes.collect::<Option<_>>()?;
        let (first, others) = routes.split_first()?;
        // The gateway itself gives the answer, so the request reaches no app.
        let answers = first.answer().is_some();
        if answers
            || others.iter().all(|other| first.is_at_least(other))
            || first.is_alone_for_folder(others, path)
        {
            return Some(first);
        }
        // With a replaced prefix, the app gets other paths than those that the routes judge.
        if routes.iter().any(|route| route.rewrite().is_some()) {
            return None;
        }
        let strictest = |route: &&Rc<Route>| routes.iter().all(|other| route.is_within(other));
        routes.iter().copied().find(strictest)
    }
}

impl Route {
    /// Returns true if the path of a request to this host begins with the exact prefix of the route.
    pub(super) fn is_written(&self, authority: &str, path: &str) -> bool {
        self.prefix.matches(path) && self.is_for_host(authority)
    }

    /// Returns true if the path is the prefix without its last slash, and no other route has the app
    /// of this route. Most apps redirect such a path to the path with the slash.
    fn is_alone_for_folder(&self, others: &[&Rc<Self>], path: &str) -> bool {
        self.prefix().strip_suffix('/') == Some(path)
            && others.iter().all(|other| !self.has_app_of(other))
    }

    /// Returns true if every request that this route permits would also be permitted by `other`.
    fn is_at_least(&self, other: &Self) -> bool {
        self.admits_only_users_of(other) && self.has_guards_of(other)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::access::route_fixture::{groups, table};

    /// The name of the route that decides about a path. The name is empty if no route decides.
    fn decided(routes: &Value, path: &str) -> String {
        crate::access::route_fixture::decided(&table(routes), "gw.test", path)
    }

    #[test]
    fn p_60_another_spelling_has_to_meet_the_rules_of_all_routes_that_may_own_it() {
        let (staff, admins) = (groups(&["staff", "admins"]), groups(&["admins"]));
        let user = json!({});
        let strict = json!({ "prefix": "/desk", "access": admins });
        let open = json!({ "prefix": "/desk", "access": "signed-in" });
        let of = |access: &Value| json!({ "access": access });
        let moved = json!({ "prefix": "/desk", "upstream": "other" });
        for (routes, exact, spelled) in [
            // A group rule under a rule for all users who are signed in, and under a public route.
            (json!([user, strict]), "/desk", "/desk"),
            (json!([{ "access": "public" }, strict]), "/desk", "/desk"),
            (json!([of(&staff), strict]), "/desk", "/desk"),
            // A rule for all users who are signed in under a group rule.
            (json!([of(&admins), open]), "/desk", "/"),
            (
                json!([of(&admins), { "prefix": "/desk", "access": staff }]),
                "/desk",
                "/",
            ),
            // No rule contains the other rule.
            (json!([of(&groups(&["other"])), strict]), "/desk", ""),
            // The routes have different apps.
            (json!([user, moved]), "/desk", "/desk"),
            (json!([of(&admins), moved]), "/desk", ""),
            // The gateway answers.
            (
                json!([of(&admins), { "prefix": "/desk", "answer": { "status": 404 } }]),
                "/desk",
                "/desk",
            ),
            // A public route matches exactly.
            (
                json!([of(&admins), { "prefix": "/desk", "access": "public" }]),
                "/desk",
                "/",
            ),
            // Sidegate knows no other route for the path.
            (json!([open]), "/desk", "/desk"),
            // The broader route wants a fresh sign-in.
            (
                json!([{ "access": admins, "session": { "max_age_secs": 300 } },
                       { "prefix": "/desk", "access": admins }]),
                "/desk",
                "/",
            ),
            // The longer route allows shared caches to store answers.
            (
                json!([of(&admins), { "prefix": "/desk", "access": admins, "cache": "pass" }]),
                "/desk",
                "/",
            ),
            // Between the two routes is a third route.
            (
                json!([user, { "prefix": "/de%C5%BFk", "access": admins, "hosts": ["gw.test"] }, open]),
                "gw.test/de%C5%BFk",
                "gw.test/de%C5%BFk",
            ),
        ] {
            assert_eq!(decided(&routes, "/desk/x"), exact, "{routes}");
            for path in ["/DESK/x", "/de%C5%BFk", "/desk;x=1/y", "/%20desk"] {
                assert_eq!(decided(&routes, path), spelled, "{path} {routes}");
            }
        }
    }

    #[test]
    fn p_60_a_prefix_without_its_last_slash_belongs_to_its_route_unless_another_route_may_own_it() {
        let (staff, admins) = (groups(&["staff"]), groups(&["admins"]));
        let root = json!({ "access": staff });
        let reports =
            |app: &str| json!({ "prefix": "/reports/", "access": admins, "upstream": app });
        for (routes, expected) in [
            (json!([root, reports("other")]), "/reports/"),
            (json!([root, reports("app")]), ""),
        ] {
            assert_eq!(decided(&routes, "/reports"), expected, "{routes}");
            assert_eq!(decided(&routes, "/reports/x"), "/reports/", "{routes}");
        }
    }
}
