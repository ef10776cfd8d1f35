//! Route tables for tests.

use std::sync::Arc;

use http::Request;
use serde_json::{Value, json};

use super::{RouteError, RouteSettings, RouteTable};
use crate::target::Target;
use crate::upstream::Upstream;

/// The apps that the routes can name.
const APPS: [(&str, &str); 5] = [
    ("app", "http://127.0.0.1:1"),
    ("below", "http://127.0.0.1:1/admin"),
    ("other", "http://127.0.0.1:2"),
    ("localhost", "https://LOCALHOST.:1"),
    ("every", "http://[::ffff:127.0.0.2]:1"),
];

/// Builds a table from a list of routes. A route without `answer` and `upstream` has the app `app`.
pub(super) fn try_table(
    routes: &Value,
    providers: &[&str],
) -> Result<RouteTable, Vec<(usize, RouteError)>> {
    let app = |(name, url): (&str, &str)| {
        let settings = serde_json::from_value(json!({ "url": url })).unwrap();
        let app = Arc::new(Upstream::new(name, &settings).unwrap());
        (Box::<str>::from(name), app)
    };
    let apps = APPS.map(app).into();
    let routes = routes.as_array().unwrap().iter().cloned().map(|mut route| {
        let named = route.as_object_mut().unwrap();
        if !named.contains_key("answer") {
            named.entry("upstream").or_insert_with(|| json!("app"));
        }
        serde_json::from_value::<RouteSettings>(route).unwrap()
    });
    RouteTable::new(routes.enumerate().collect(), &apps, providers)
}

/// Builds a table of routes for the provider `main`.
pub(super) fn table(routes: &Value) -> RouteTable {
    try_table(routes, &["main"]).unwrap()
}

/// The target of a request for a usual path.
pub(super) fn target(host: &str, path: &str) -> Target {
    let request = Request::get(path).header("host", host).body(()).unwrap();
    Target::from_request(&request.into_parts().0).unwrap()
}

/// The name of the route that decides about a request. The name is empty if no route decides.
pub(super) fn decided(table: &RouteTable, host: &str, path: &str) -> String {
    let routes = table.for_worker();
    let route = routes.find(&target(host, path));
    route.map_or_else(String::new, |route| route.name().to_owned())
}

/// A rule for the members of these groups.
pub(super) fn groups(names: &[&str]) -> Value {
    json!({ "any_of": { "groups": names } })
}
