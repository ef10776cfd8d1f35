//! Tests of the route that decides about a path with unusual forms.

use http::Request;
use serde_json::{Value, json};

use super::*;
use crate::access::route_fixture;

const ALL: [&str; 4] = ["encoded_slash", "empty_segment", "backslash", "non_utf8"];

fn route(prefix: &str, access: &Value, forms: &[&str]) -> Value {
    json!({"prefix": prefix, "access": access, "allow_in_path": forms, "upstream": "app"})
}

fn public(prefix: &str) -> Value {
    route(prefix, &json!("public"), &ALL)
}

fn signed_in(prefix: &str) -> Value {
    route(prefix, &json!("signed-in"), &ALL)
}

fn for_groups(prefix: &str, groups: &[&str]) -> Value {
    route(prefix, &route_fixture::groups(groups), &ALL)
}

fn table(routes: &[Value]) -> WorkerRoutes {
    route_fixture::table(&json!(routes)).for_worker()
}

/// Returns the prefix of the route that decides about the path, or the empty text.
fn decided<'a>(routes: &'a WorkerRoutes, path: &str) -> &'a str {
    let request = Request::get(path)
        .header("host", "gw.test")
        .body(())
        .unwrap();
    let (parts, ()) = request.into_parts();
    let (target, readings) = Target::with_unusual_path(&parts, Forms::ALL).unwrap();
    let found = routes.find(&target);
    let accepted = routes.decisive(&target, &readings);
    assert_eq!(
        accepted.map(|route| route.index()),
        found.map(|route| route.index())
    );
    found.map_or("", |route| route.prefix())
}

#[track_caller]
fn assert_decided(routes: &[Value], wanted: &[(&str, &str)]) {
    let routes = table(routes);
    for (path, prefix) in wanted {
        assert_eq!(decided(&routes, path), *prefix, "{path}");
    }
}

#[test]
fn p_55_a_public_route_never_decides_about_a_path_of_a_protected_route() {
    let routes = [public("/"), for_groups("/admin", &["admins"])];
    assert_decided(
        &routes,
        &[
            ("/@scope%2Fname", "/"),
            ("/a//b", "/"),
            ("/a\\b", "/"),
            ("/caf%E9", "/"),
            ("/admin%2Fx", "/admin"),
            ("/ADMIN%2fx", "/admin"),
            ("/%61dmin%5Cx", "/admin"),
            ("/admin;x%2Fy", "/admin"),
            ("/admin//x", "/admin"),
            ("/adm%EFn/x", "/admin"),
            ("/admin%FF", "/admin"),
            ("/ad%FFmin", "/admin"),
            ("/%FFadmin%FF/x", "/admin"),
            ("/admin%20%2Fx", "/admin"),
            ("/administrator%2Fx", "/"),
            ("/x/admin//y", "/"),
        ],
    );
    let routes = [signed_in("/"), public("/public")];
    assert_decided(
        &routes,
        &[
            ("/public/a%2Fb", "/public"),
            ("/public//b", "/public"),
            ("/public/caf%E9", "/public"),
            // Only some readings are paths of the public route.
            ("/public%2Fb", "/"),
            ("/public%5Cb", "/"),
            ("/pub%FFlic/b", "/"),
            ("/public%FF/b", "/"),
        ],
    );
}

#[test]
fn p_55_every_route_of_a_reading_has_to_allow_the_forms() {
    let strict = json!({"prefix": "/admin", "access": "signed-in", "upstream": "app"});
    let routes = [public("/"), strict];
    assert_decided(
        &routes,
        &[
            ("/a%2Fb", "/"),
            ("/admin%2Fb", ""),
            ("/admin//b", ""),
            ("/admin\\b", ""),
            ("/adm%EFn", ""),
        ],
    );
    for form in ALL {
        let routes = table(&[route("/", &json!("public"), &[form])]);
        for (path, needed) in [
            ("/a%2Fb", "encoded_slash"),
            ("/a//b", "empty_segment"),
            ("/a%5Cb", "backslash"),
            ("/a%E9", "non_utf8"),
        ] {
            let wanted = if form == needed { "/" } else { "" };
            assert_eq!(decided(&routes, path), wanted, "{form} {path}");
        }
    }
}

#[test]
fn p_56_of_different_rules_the_strictest_decides_or_the_path_is_refused() {
    let routes = [
        public("/"),
        signed_in("/a"),
        for_groups("/a/staff", &["staff", "admins"]),
        for_groups("/a/staff/admins", &["admins"]),
        for_groups("/a/staff/others", &["others"]),
    ];
    assert_decided(
        &routes,
        &[
            ("/a%2Fx", "/a"),
            ("/a%2Fstaff", "/a/staff"),
            ("/a/staff%2Fadmins", "/a/staff/admins"),
            ("/a%2Fstaff%2Fadmins", "/a/staff/admins"),
            ("/a/staff%2Fothers", "/a/staff/others"),
            // The members of neither route are all members of the other route.
            ("/a/staff//others", ""),
            // The octet can belong to the names of several routes.
            ("/a/sta%FFf/x", "/a/staff"),
            ("/a/staff/%FFthers", ""),
        ],
    );
    // The wider route is the more specific route.
    let routes = [
        for_groups("/", &["staff"]),
        public("/open"),
        signed_in("/in"),
    ];
    assert_decided(
        &routes,
        &[("/open%2Fx", "/"), ("/in%2Fx", "/"), ("/in/x%2Fy", "/in")],
    );
}

#[test]
fn p_56_routes_that_differ_in_more_than_the_rule_do_not_share_a_path() {
    let with = |key: &str, value: Value| {
        let mut route = signed_in("/in");
        route[key] = value;
        route
    };
    let path = "/in%2Fx";
    for (route, wanted) in [
        (with("name", json!("other name")), "/in"),
        (with("upstream", json!("other")), ""),
        // The route `/` is stricter than these routes.
        (with("allow_preflight", json!(true)), "/"),
        (with("streams", json!({"origins": ["https://x.test"]})), "/"),
        (with("cross_site", json!("allow")), "/"),
        (with("cross_site", json!(["https://x.test"])), "/"),
        (with("cache", json!("pass")), "/"),
        (with("session", json!({"max_age_secs": 60})), "/in"),
        // The app gets other credentials, or another path.
        (with("bearer", json!("none")), ""),
        (with("rewrite", json!({"app_prefix": "/"})), ""),
    ] {
        assert_eq!(
            decided(&table(&[signed_in("/"), route.clone()]), path),
            wanted,
            "{route}"
        );
    }
    let mut strict = signed_in("/");
    strict["streams"] = json!({"upgrades": false});
    assert_eq!(decided(&table(&[strict, signed_in("/in")]), path), "/");
    let mut fresh = signed_in("/");
    fresh["session"] = json!({"max_age_secs": 300, "idle_secs": 60});
    let route = with("session", json!({"max_age_secs": 60}));
    assert_eq!(decided(&table(&[fresh.clone(), route]), path), "");
    assert_eq!(decided(&table(&[fresh, signed_in("/in")]), path), "/");
    let listed = |site: &str| json!([format!("https://{site}.test")]);
    let mut other = signed_in("/");
    other["cross_site"] = listed("y");
    let route = with("cross_site", listed("x"));
    assert_eq!(decided(&table(&[other, route]), path), "");
}

#[test]
fn p_56_routes_for_auth_checks_share_a_path_like_the_routes_of_one_app() {
    let checked = |mut route: Value| {
        route["upstream"] = json!("");
        route
    };
    let admins = || for_groups("/admin", &["admins"]);
    let routes = [checked(public("/")), checked(admins())];
    assert_decided(
        &routes,
        &[
            ("/admin%2Fx", "/admin"),
            ("/admin//x", "/admin"),
            ("/adm%EFn/x", "/admin"),
            ("/x%2Fy", "/"),
        ],
    );
    // The gateway knows the app of only one route.
    assert_decided(&[public("/"), checked(admins())], &[("/admin%2Fx", "")]);
    assert_decided(&[checked(public("/")), admins()], &[("/admin%2Fx", "")]);
    let mut other = checked(admins());
    other["bearer"] = json!("id_token");
    assert_decided(&[checked(signed_in("/")), other], &[("/admin%2Fx", "")]);
}

#[test]
fn a_reading_without_a_route_is_refused() {
    let routes = [public("/a"), signed_in("/b")];
    assert_decided(
        &routes,
        &[
            ("/a/x%2Fy", "/a"),
            ("/a%2Fx", ""),
            ("/c%2Fx", ""),
            ("/a%FF/x", ""),
            ("/b%FF/x", ""),
            ("/b/x%FF", "/b"),
        ],
    );
}
