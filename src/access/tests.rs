//! Tests that the two representations of a request head (buffer and map) lead to the same decision
//! and to the same fields.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use serde_json::json;
use tokio::runtime::Handle;

use super::refresh::tests::{Fixture, NOW};
use super::*;
use crate::clock::Clock;
use crate::fields::cookie::Others;
use crate::fields::{OwnedFields, Strip, inbound};
use crate::identity::Identity;
use crate::session::{NewSession, Registrations, SessionId, SessionRef, two_replicas};
use crate::telemetry::Metrics;
use crate::token::{Lifetime, TokenSet};
use crate::upstream::{AssertionNames, Upstream};

fn access(fixture: &Fixture) -> Rc<Access> {
    fixture.access(&routes())
}

fn routes() -> RouteTable {
    let app = serde_json::from_value(json!({"url": "http://127.0.0.1:1"})).unwrap();
    let app = Arc::new(Upstream::new("app", &app).unwrap());
    let route = |settings| serde_json::from_value::<RouteSettings>(settings).unwrap();
    let routes = vec![
        (0, route(json!({"prefix": "/"}))),
        (1, route(json!({"prefix": "/open", "access": "public"}))),
        (2, route(json!({"prefix": "/api", "allow_preflight": true}))),
        (
            3,
            route(json!({"prefix": "/staff", "access": {"any_of": {"groups": ["staff"]}}})),
        ),
    ];
    RouteTable::new(routes, &[("app".into(), app)].into(), &["main"]).unwrap()
}

#[tokio::test]
async fn a_session_that_the_store_does_not_return_is_not_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let registrations = Registrations::from([("main".into(), [0; 32])]);
    let [first, second] = two_replicas(folder.path(), &registrations, NOW).map(Arc::new);
    let new = NewSession {
        provider: "main",
        registration: [0; 32],
        identity: Identity::nameless("main"),
        tokens: TokenSet::new("token", None, Lifetime::default()).unwrap(),
        replaces: Vec::new(),
        sid: None,
        device: None,
        begun_at: NOW,
    };
    let id = first.open(new, NOW).await.unwrap();
    let metrics = Arc::new(Metrics::default());
    let control = Handle::current();
    let refresher = Refresher::new(
        Arc::default(),
        Arc::clone(&second),
        metrics,
        Clock::manual(NOW),
        control,
    );
    let settings = Settings {
        routes: &routes(),
        providers: &Arc::default(),
        max_wait: Duration::ZERO,
        session_ids: &Arc::default(),
    };
    second.close().await.unwrap();
    let access = Access::new(&settings, second, Arc::new(refresher));
    let found = access.live_session(SessionRef::from(&id), NOW).await;
    assert!(matches!(found, Err(Cause::Unreachable)), "{found:?}");
}

#[test]
fn the_default_name_of_a_route_is_its_first_host_and_its_prefix() {
    let app = serde_json::from_value(json!({"url": "http://127.0.0.1:1"})).unwrap();
    let apps = [("app".into(), Arc::new(Upstream::new("app", &app).unwrap()))].into();
    for (settings, name) in [
        (json!({"prefix": "/a"}), "/a"),
        (
            json!({"prefix": "/a", "hosts": ["B.test:8080", "c.test"]}),
            "b.test:8080/a",
        ),
        (json!({"hosts": ["b.test"]}), "b.test/"),
        (json!({"hosts": ["b.test"], "name": "main"}), "main"),
    ] {
        let route = serde_json::from_value(settings).unwrap();
        let table = RouteTable::new(vec![(0, route)], &apps, &["main"]).unwrap();
        assert_eq!(table.iter().next().unwrap().name(), name);
    }
}

/// The kind of the decision about a request, and the fields that the app gets if the decision is a
/// permit.
type Outcome = (String, Option<BTreeMap<String, Vec<Vec<u8>>>>);

/// Decides about a request whose head is in a buffer, without a map of the fields.
fn in_a_buffer(
    access: &Rc<Access>,
    (method, target): (&Method, &Target),
    head: &[(&str, &[u8])],
) -> Outcome {
    let names = AssertionNames::default();
    let owned = OwnedFields::new(names.iter());
    let strip = Strip::of(head, &owned);
    let mut left: Vec<(&str, &[u8])> = head.to_vec();
    left.retain(|(name, _)| !strip.removes(name));
    let recent = Recent::default();
    let decision = access.decide((method, &left[..]), target, &recent, NOW);
    let Decision::Permit(mut permit) = decision else {
        return (kind(&decision), None);
    };
    let mut sent = BTreeMap::<String, Vec<Vec<u8>>>::new();
    for (name, value) in &left {
        let values = sent.entry(name.to_ascii_lowercase()).or_default();
        values.push(value.to_vec());
    }
    let cookies = match permit.cookies_left(&left[..]) {
        Others::Unchanged => None,
        Others::Line(line) => Some((&header::COOKIE, Some(line))),
        Others::None => Some((&header::COOKIE, None)),
    };
    let groups = permit.groups();
    let asserted = permit.assertions(&groups);
    let asserted = asserted.map(|(name, value)| (name, value.cloned()));
    for (name, value) in cookies.into_iter().chain(asserted) {
        sent.remove(name.as_str());
        if let Some(value) = value {
            sent.insert(name.to_string(), vec![value.as_bytes().to_vec()]);
        }
    }
    ("Permit".to_owned(), Some(sent))
}

/// Decides about a request whose fields are in a map, as the gateway does.
fn in_a_map(
    access: &Rc<Access>,
    (method, target): (&Method, &Target),
    head: &[(&str, &[u8])],
    recent: &Recent,
) -> Outcome {
    let mut fields = HeaderMap::new();
    for (name, value) in head {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        fields.append(name, HeaderValue::from_bytes(value).unwrap());
    }
    let names = AssertionNames::default();
    inbound(&mut fields, &OwnedFields::new(names.iter()), false);
    let decision = access.decide((method, &fields), target, recent, NOW);
    let Decision::Permit(mut permit) = decision else {
        return (kind(&decision), None);
    };
    permit.write(&mut fields);
    let mut sent = BTreeMap::<String, Vec<Vec<u8>>>::new();
    for (name, value) in &fields {
        let values = sent.entry(name.to_string()).or_default();
        values.push(value.as_bytes().to_vec());
    }
    ("Permit".to_owned(), Some(sent))
}

fn kind(decision: &Decision) -> String {
    let text = match decision {
        Decision::Challenge(challenge) => challenge.cause.reason(),
        Decision::Forbid(_) => "Forbid",
        other @ (Decision::Answer(_)
        | Decision::Permit(_)
        | Decision::NoRoute
        | Decision::SignInFirst(_)
        | Decision::Unavailable(_)
        | Decision::Wait(_)) => panic!("{other:?}"),
    };
    text.to_owned()
}

fn valid() -> Lifetime {
    Lifetime {
        expires_at: Some(NOW.plus(Duration::from_hours(1))),
        ..Lifetime::default()
    }
}

/// A permit replaces the client's assertion fields, even if no other code has removed them.
#[tokio::test]
async fn a_permit_replaces_forged_fields() {
    let fixture = Fixture::new(Handle::current());
    let (id, session) = fixture.opened(valid()).await;
    let access = access(&fixture);
    for path in ["/", "/open"] {
        let request = Request::get(path).header("host", "app.example");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let target = Target::from_request(&parts).unwrap();
        let mut fields = HeaderMap::new();
        let names = AssertionNames::default();
        for name in names.iter().chain([&header::AUTHORIZATION]) {
            fields.append(name, HeaderValue::from_static("forged"));
            fields.append(name, HeaderValue::from_static("twice"));
        }
        if path == "/" {
            let cookie = format!("__Host-sidegate={}", id.to_text().expose());
            fields.insert(header::COOKIE, HeaderValue::try_from(cookie).unwrap());
        }
        let asked = (&Method::GET, &fields);
        let decision = access.decide(asked, &target, &Recent::default(), NOW);
        let Decision::Permit(mut permit) = decision else {
            panic!("{decision:?}");
        };
        let told = permit.fields((&Method::GET, target.authority_value()));
        permit.write(&mut fields);
        let written: Vec<_> = fields
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let bearers: Vec<_> = fields.get_all(header::AUTHORIZATION).iter().collect();
        if path == "/" {
            assert_eq!(told, written, "another proxy is told what the app is told");
            assert_eq!(bearers, [session.tokens().bearer()]);
        } else {
            assert_eq!(told, []);
            assert_eq!(bearers, ["forged", "twice"], "the app asks for credentials");
        }
        // The app gets no field except `Authorization`, because the user of the session has no
        // claims, and the request has only the gateway's own cookie.
        assert_eq!(fields.len(), bearers.len(), "{path}: {fields:?}");
    }
}

/// Describes the request of a test: whether the request has a session, and the method of the
/// request.
const SIGNED_IN: (bool, Method) = (true, Method::GET);
const NOBODY: (bool, Method) = (false, Method::GET);
const PREFLIGHT: (bool, Method) = (false, Method::OPTIONS);

/// Sends a request with `Authorization` fields of the client to a gateway with one route. Returns
/// the fields that the app gets.
fn with_their_credentials(
    fixture: &Fixture,
    route: &serde_json::Value,
    id: Option<&SessionId>,
    method: &Method,
) -> BTreeMap<String, Vec<Vec<u8>>> {
    let app = serde_json::from_value(json!({"url": "http://127.0.0.1:1"})).unwrap();
    let apps = [("app".into(), Arc::new(Upstream::new("app", &app).unwrap()))].into();
    let settings = serde_json::from_value(route.clone()).unwrap();
    let routes = RouteTable::new(vec![(0, settings)], &apps, &["main"]).unwrap();
    let access = fixture.access(&routes);
    let request = Request::get("/").header("host", "app.example").body(());
    let target = Target::from_request(&request.unwrap().into_parts().0).unwrap();
    let cookie = id.map(|id| format!("__Host-sidegate={}", id.to_text().expose()));
    let mut head: Vec<(&str, &[u8])> = vec![
        ("Authorization", b"Basic eA=="),
        ("authorization", b"Bearer x"),
        ("Origin", b"https://elsewhere.example"),
        ("Access-Control-Request-Method", b"PUT"),
    ];
    head.extend(cookie.as_ref().map(|cookie| ("Cookie", cookie.as_bytes())));
    let (kind, sent) = in_a_map(&access, (method, &target), &head, &Recent::default());
    assert_eq!(kind, "Permit", "{route}");
    sent.unwrap()
}

#[tokio::test]
async fn h_13_h_14_h_39_authorization_of_the_client_reaches_only_public_routes_without_credentials()
{
    let fixture = Fixture::new(Handle::current());
    let (id, _session) = fixture.opened(valid()).await;
    let theirs = vec!["Basic eA==", "Bearer x"];
    for (route, (is_signed_in, method), expected) in [
        (json!({}), SIGNED_IN, vec!["Bearer a"]),
        (json!({"bearer": "none"}), SIGNED_IN, vec![]),
        (json!({"bearer": "id_token"}), SIGNED_IN, vec![]),
        (json!({"token_field": "X-T"}), SIGNED_IN, vec![]),
        (json!({"allow_preflight": true}), PREFLIGHT, vec![]),
        (json!({"access": "public"}), SIGNED_IN, theirs.clone()),
        (json!({"access": "public"}), NOBODY, theirs.clone()),
        (json!({"access": "public"}), PREFLIGHT, theirs.clone()),
        (
            json!({"access": "public", "bearer": "none"}),
            SIGNED_IN,
            theirs.clone(),
        ),
        (
            json!({"access": "public", "token_field": "X-T"}),
            SIGNED_IN,
            theirs.clone(),
        ),
        (
            json!({"access": "public", "bearer": "access_token"}),
            SIGNED_IN,
            vec!["Bearer a"],
        ),
        (
            json!({"access": "public", "bearer": "access_token"}),
            NOBODY,
            vec![],
        ),
        (
            json!({"access": "public", "bearer": "id_token"}),
            NOBODY,
            vec![],
        ),
    ] {
        let cookie = is_signed_in.then_some(&id);
        let mut sent = with_their_credentials(&fixture, &route, cookie, &method);
        let arrived = sent.remove("authorization").unwrap_or_default();
        let expected: Vec<Vec<u8>> = expected.into_iter().map(Into::into).collect();
        assert_eq!(arrived, expected, "{route} {is_signed_in} {method}");
        let bare = is_signed_in && route.get("token_field").is_some();
        let token = sent.remove("x-t").unwrap_or_default();
        assert_eq!(
            token,
            Vec::from_iter(bare.then(|| b"a".to_vec())),
            "{route}"
        );
    }
}

#[tokio::test]
async fn a_head_in_a_buffer_and_a_map_give_the_same_result() {
    let fixture = Fixture::new(Handle::current());
    let (id, _session) = fixture.opened(valid()).await;
    let access = access(&fixture);
    let ours = format!("__Host-sidegate={}", id.to_text().expose());
    let among_others = format!("lang=en; {ours}; theme=dark");
    let cookies: [&[(&str, &[u8])]; 7] = [
        &[],
        &[("Cookie", b"lang=en")],
        &[("Cookie", among_others.as_bytes())],
        &[("cookie", b"lang=en"), ("COOKIE", ours.as_bytes())],
        &[("Cookie", ours.as_bytes())],
        &[
            ("Cookie", ours.as_bytes()),
            ("Cookie", b"__Host-sidegate=x"),
        ],
        &[("Cookie", b"__Host-sidegate=x")],
    ];
    let others: [(&str, &[u8]); 10] = [
        ("Accept", b"*/*"),
        ("Authorization", b"Basic eA=="),
        ("Connection", b"keep-alive, X-Hop"),
        ("x-hop", b"1"),
        ("X-Forwarded-User", b"root"),
        ("x_forwarded_user", b"root"),
        ("TE", b"deflate"),
        ("Origin", b"https://elsewhere.example"),
        ("Access-Control-Request-Method", b"PUT"),
        ("X-Twice", b"1"),
    ];
    let mut seen = BTreeMap::<String, usize>::new();
    for path in ["/", "/open/a", "/api/x", "/staff"] {
        let request = Request::get(path)
            .header("host", "app.example")
            .body(())
            .unwrap();
        let target = Target::from_request(&request.into_parts().0).unwrap();
        for method in [Method::GET, Method::OPTIONS] {
            for cookies in cookies {
                let head = [&others[..], cookies, &[("x-twice", b"2")]].concat();
                let asked = (&method, &target);
                let expected = in_a_buffer(&access, asked, &head);
                // At the second request, `recent` contains the session of the first request.
                let recent = Recent::default();
                for _ in 0..2 {
                    let outcome = in_a_map(&access, asked, &head, &recent);
                    assert_eq!(outcome, expected, "{method} {path} {cookies:?}");
                }
                *seen.entry(expected.0).or_default() += 1;
            }
        }
    }
    let kinds: Vec<&str> = seen.keys().map(String::as_str).collect();
    let expected = [
        "Forbid",
        "Permit",
        "conflicting_cookies",
        "malformed_cookie",
        "no_cookie",
    ];
    assert_eq!(kinds, expected);
}
