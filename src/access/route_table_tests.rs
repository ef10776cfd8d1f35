//! Tests of the order of the routes, and of the routes that the table refuses.

use serde_json::{Value, json};

use crate::access::route_fixture::{decided, groups, table, try_table};

/// The text of the error for each refused route.
fn refused(routes: &Value) -> Vec<(usize, String)> {
    let errors = try_table(routes, &["main"]).err().unwrap_or_default();
    let texts = errors.into_iter();
    texts
        .map(|(index, error)| (index, error.to_string()))
        .collect()
}

/// The text of a public prefix is longer than the text of a protected prefix with more segments. An
/// app reads the first segment of both prefixes as the same name.
#[test]
fn p_63_a_long_spelling_of_a_public_prefix_does_not_hide_a_protected_prefix() {
    for (public, protected) in [
        ("/%E2%84%AA%E2%84%AA", "/kk/a"),
        ("/kk;version=2026-11-30", "/kk/a"),
        ("/kk%20%20%20%20%20%20%20", "/kk/a"),
        ("/kk%C2%AD%C2%AD%C2%AD", "/kk/a"),
        ("/KK........", "/kk/a"),
        // The slash at the end of the public prefix does not count as a segment.
        ("/kk;version=2026-11-30/", "/kk/a"),
        ("/kk/b%20%20%20%20%20", "/kk/b/c"),
    ] {
        for answer in [json!({}), json!({ "status": 404 })] {
            let mut secret = json!({ "prefix": protected, "access": groups(&["admins"]) });
            if answer != json!({}) {
                secret = json!({ "prefix": protected, "answer": answer });
            }
            let routes = json!([{ "prefix": public, "access": "public" }, secret]);
            let table = table(&routes);
            let below = protected.rsplit('/').next().unwrap();
            let spelled = format!("{}/{below}", public.trim_end_matches('/'));
            for path in [protected, &*spelled, &*format!("{spelled}/x")] {
                let path = path.replace("//", "/");
                assert_eq!(
                    decided(&table, "gw.test", &path),
                    protected,
                    "{path} {routes}"
                );
            }
            let open = format!("{}/open", public.trim_end_matches('/'));
            assert_eq!(decided(&table, "gw.test", &open), public, "{routes}");
        }
    }
}

fn admins(prefix: &str) -> Value {
    json!({ "prefix": prefix, "access": groups(&["admins"]) })
}

fn public(prefix: &str) -> Value {
    json!({ "prefix": prefix, "access": "public" })
}

fn user(prefix: &str) -> Value {
    json!({ "prefix": prefix })
}

/// The route for one host.
fn at(host: &str, mut route: Value) -> Value {
    route["hosts"] = json!([host]);
    route
}

/// An app without regard to case reads `/ADMIN/help` as `/admin/help`.
#[test]
fn p_64_no_spelling_of_a_prefix_opens_what_another_route_protects() {
    let strict = admins("/admin");
    let denied = json!({ "prefix": "/admin", "answer": { "status": 404 } });
    let slow = json!({ "prefix": "/admin", "access": "signed-in",
        "session": { "max_age_secs": 60 } });
    for (routes, wanted) in [
        (json!([strict, public("/ADMIN/help")]), "/admin/help"),
        (json!([strict, public("/adm%C4%B1n/help/")]), "/admin/help/"),
        (
            json!([strict, public("/admin;v=1/x/%C3%84")]),
            "/admin/x/%C3%84",
        ),
        (json!([strict, user("/Admin/help")]), "/admin/help"),
        (
            json!([user("/admin"), public("/Admin/help")]),
            "/admin/help",
        ),
        (json!([denied, public("/Admin/help")]), "/admin/help"),
        (json!([slow, user("/Admin/help")]), "/admin/help"),
        // One host, and all hosts.
        (json!([strict, at("a.test", public("/Admin"))]), "/admin"),
        (
            json!([at("a.test", strict.clone()), public("/Admin/help")]),
            "/admin/help",
        ),
        (
            json!([
                at("A.test:443", strict.clone()),
                at("a.TEST.", public("/Admin/x"))
            ]),
            "/admin/x",
        ),
        // The public prefix stands only for the paths below.
        (json!([strict, public("/Admin/")]), "/admin/"),
        // A strict route between both routes does not matter.
        (
            json!([strict, admins("/Admin/a"), public("/Admin/a/help")]),
            "/admin/a/help",
        ),
    ] {
        let refused = refused(&routes);
        let [(index, text)] = &*refused else {
            panic!("one route is refused: {refused:?} {routes}");
        };
        assert_eq!(*index, routes.as_array().unwrap().len() - 1, "{routes}");
        let advice = format!("as that route does: `{wanted}`");
        assert!(text.ends_with(&advice), "{text} {routes}");
    }
}

#[test]
fn p_64_a_prefix_that_opens_nothing_of_another_route_is_accepted() {
    let strict = admins("/admin");
    for routes in [
        // The prefix begins exactly as the protected prefix, so the operator has opened it.
        json!([strict, public("/admin/help")]),
        json!([strict, public("/admin/HELP;x")]),
        json!([strict, at("a.test", public("/admin"))]),
        json!([strict, public("/admin/")]),
        // The rule is as strict.
        json!([strict, admins("/ADMIN/help")]),
        json!([user("/admin"), admins("/ADMIN/help")]),
        // The gateway itself answers.
        json!([strict, { "prefix": "/ADMIN/x", "access": "public",
            "answer": { "redirect": "/" } }]),
        // No host has both routes.
        json!([
            at("a.test", strict.clone()),
            at("b.test", public("/ADMIN/help"))
        ]),
        // The app reads other paths.
        json!([strict, public("/administration/help"), public("/x/ADMIN")]),
        // The protected prefix is the more specific prefix.
        json!([public("/ADMIN"), admins("/admin/x")]),
    ] {
        let refused = refused(&routes);
        assert!(refused.is_empty(), "{refused:?} {routes}");
    }
}

#[test]
fn equally_specific_routes_are_tried_in_the_order_host_and_slash() {
    let routes = json!([
        { "prefix": "/a", "name": "all" },
        { "prefix": "/a", "name": "host", "hosts": ["a.test"], "access": "public" },
        { "prefix": "/a/", "name": "below", "access": "public" },
        { "name": "root" },
    ]);
    let table = table(&routes);
    for (host, path, wanted) in [
        ("a.test", "/a", "host"),
        ("a.test", "/a/x", "below"),
        ("b.test", "/a", "all"),
        ("b.test", "/a/x", "below"),
        ("b.test", "/x/a", "root"),
    ] {
        assert_eq!(decided(&table, host, path), wanted, "{host}{path}");
    }
}

/// The target of a request has one form of each host.
#[test]
fn every_spelling_of_a_host_in_the_settings_is_the_host_of_a_request() {
    for host in [
        "A.Test",
        "a.test.",
        "a.test:443",
        "a.test:80",
        "A.TEST.:443",
    ] {
        let routes = json!([{ "name": "one", "hosts": [host] }, { "name": "others" }]);
        let table = table(&routes);
        for (requested, wanted) in [("a.test", "one"), ("a.test:444", "others")] {
            assert_eq!(decided(&table, requested, "/"), wanted, "{host}");
        }
        let twice = json!([{ "hosts": [host] }, { "hosts": ["a.test"] }]);
        let error = "it has the same host and prefix as the route `a.test/`; remove one of them";
        assert_eq!(refused(&twice), [(1, error.to_owned())], "{host}");
    }
    let routes = json!([{ "name": "one", "hosts": ["[2001:DB8:0::1]:8443"] }]);
    let found = decided(&table(&routes), "[2001:db8::1]:8443", "/");
    assert_eq!(found, "one");
}
