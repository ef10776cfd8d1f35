//! Paths with forms that a route has to allow: encoded slashes, empty segments, backslashes, and
//! octets that are not UTF-8.

use serde_json::Value;
use tokio::process::Command;

use crate::support::gateway::{PROGRAM, Process, Settings};
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, SESSION, Scene, url};
use crate::support::two_providers::TwoProviders;
use crate::support::upstream::{Answer, Recorded};

/// One path for each form, as a client sends the path and as the app gets the path.
const PATHS: [(&str, &str, &str); 5] = [
    ("encoded_slash", "/x/@scope%2fname", "/x/@scope%2Fname"),
    ("empty_segment", "/x//a///b//", "/x//a///b//"),
    ("backslash", "/x/a\\b%5cc", "/x/a%5Cb%5Cc"),
    ("non_utf8", "/x/caf%e9", "/x/caf%E9"),
    ("encoded_slash", "/x/a%2F", "/x/a%2F"),
];

const ALL: &str =
    "allow_in_path = [\"encoded_slash\", \"empty_segment\", \"backslash\", \"non_utf8\"]\n";

/// Routes for everybody and for one group, which allow these forms.
fn routes(forms: &str) -> String {
    format!(
        "[[routes]]\naccess = \"public\"\n{forms}[[routes]]\nprefix = \"/in\"\n{forms}\
         [[routes]]\nprefix = \"/admin\"\naccess.any_of.groups = [\"admins\"]\n{forms}"
    )
}

async fn ask(scene: &Scene, path: &str, fields: &str) -> (u16, Option<Recorded>) {
    let before = scene.app.count();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    let outcome = exchange(scene.gateway.address(), request.as_bytes(), 1).await;
    let mut arrived = scene.app.requests().split_off(before);
    (outcome.statuses()[0], arrived.pop())
}

#[tokio::test]
async fn a_route_forwards_only_the_forms_that_it_allows() {
    for allowed in [
        "",
        "encoded_slash",
        "empty_segment",
        "backslash",
        "non_utf8",
    ] {
        let forms = if allowed.is_empty() {
            String::new()
        } else {
            format!("allow_in_path = [\"{allowed}\"]\n")
        };
        let scene = Scene::with_routes(&routes(&forms), "").await;
        for (form, sent, forwarded) in PATHS {
            let (status, arrived) = ask(&scene, &format!("{sent}?q=%2F//\\"), "").await;
            if form == allowed {
                assert_eq!(status, 200, "{allowed} {sent}");
                assert_eq!(arrived.unwrap().target(), format!("{forwarded}?q=%2F//\\"));
            } else {
                assert_eq!((status, arrived.is_none()), (400, true), "{allowed} {sent}");
            }
        }
        let (status, arrived) = ask(&scene, "/x/y", "").await;
        assert_eq!((status, arrived.unwrap().target().as_str()), (200, "/x/y"));
    }
}

#[tokio::test]
async fn p_55_an_unusual_path_of_a_protected_route_needs_its_user() {
    let scene = Scene::with_routes(&routes(ALL), "").await;
    let browser = scene.browser_of("alice");
    browser.visit(&url("/in")).await;
    let cookie = browser.cookie(ORIGIN, SESSION).unwrap();
    let cookie = format!("Cookie: {SESSION}={cookie}\r\n");
    for path in [
        "/admin%2Fx",
        "/admin//x",
        "/admin\\x",
        "/ADMIN%5cx",
        "/adm%EFn/x",
        "/admin%FF/x",
        "/ad%FFmin",
        "/%61dmin;x%2Fy",
    ] {
        let (status, arrived) = ask(&scene, path, "").await;
        assert_eq!((status, arrived.is_none()), (401, true), "{path}");
        let (status, arrived) = ask(&scene, path, &cookie).await;
        assert_eq!((status, arrived.is_none()), (403, true), "{path}");
    }
    for path in ["/in%2Fx", "/in//x", "/in\\x", "/i%F1/x"] {
        let (status, arrived) = ask(&scene, path, "").await;
        assert_eq!((status, arrived.is_none()), (401, true), "{path}");
        let (status, arrived) = ask(&scene, path, &cookie).await;
        let arrived = arrived.unwrap();
        assert_eq!(status, 200, "{path}");
        assert!(
            arrived
                .head
                .value("authorization")
                .unwrap()
                .starts_with("Bearer ")
        );
    }
}

#[tokio::test]
async fn p_57_an_unusual_path_never_reaches_the_gateways_own_endpoints() {
    let scene = Scene::with_routes(&routes(ALL), "").await;
    for path in [
        "/oauth2%2Fsign_in",
        "/oauth2//sign_in",
        "/oauth2\\sign_in",
        "/oauth2/sign_out%2F",
        "/oauth2//callback?code=a&state=b",
        "/OAUTH2%5Ccallback",
        "/oauth2%FF/sign_in",
        "/oa%FFuth2/sign_in",
        "/oau%FEh2/x",
        "/oauth2/caf%E9",
        "/oauth2;x%2Fy",
    ] {
        let (status, arrived) = ask(&scene, path, "").await;
        assert_eq!((status, arrived.is_none()), (400, true), "{path}");
    }
}

#[tokio::test]
async fn p_57_an_unusual_path_never_reaches_a_redirection_endpoint_with_another_path() {
    let login = "[login]\ncallback_path = \"/app/signed-in\"\n";
    let scene = Scene::with_routes(&format!("{login}{}", routes(ALL)), "").await;
    for path in [
        "/app%2Fsigned-in?code=a&state=b",
        "/app//signed-in?code=a&state=b",
        "/app\\signed-in",
        "/app%5Csigned%2Din",
        "/app/signed-in%FF",
        "/%FFapp/signed-in?code=a&state=b",
    ] {
        let (status, arrived) = ask(&scene, path, "").await;
        assert_eq!((status, arrived.is_none()), (400, true), "{path}");
    }
    // The paths of the app stay paths of the app, and the endpoint stays the gateway's.
    for path in [
        "/app/signed-in/x",
        "/app/signed-in%2Fx",
        "/app/signed-inx%FF",
        "/app",
    ] {
        let (status, arrived) = ask(&scene, path, "").await;
        assert_eq!((status, arrived.is_some()), (200, true), "{path}");
    }
    for path in ["/app/signed-in?code=a&state=b", "/app/signed%2Din?code=a"] {
        let (status, arrived) = ask(&scene, path, "").await;
        assert_eq!((status, arrived.is_none()), (400, true), "{path}");
    }
    let (status, arrived) = ask(&scene, "/app/signed-in?error=access_denied", "").await;
    assert_eq!((status, arrived.is_none()), (403, true));
}

#[tokio::test]
async fn p_57_each_path_below_the_redirection_endpoint_of_several_providers_is_reserved() {
    let login = "[login]\ncallback_path = \"/app/signed-in\"\n";
    let routes = format!("{login}[[routes]]\naccess = \"public\"\n{ALL}");
    let two = TwoProviders::start(&routes).await;
    for path in [
        "/app/signed-in%2Fmain?code=a&state=b",
        "/app/signed-in//main?code=a&state=b",
        "/app%2Fsigned-in/main",
        "/app/signed-in\\main",
        "/app/signed-in/main%FF",
        "/app/signed-in/caf%E9",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let outcome = exchange(two.gateway.address(), request.as_bytes(), 1).await;
        assert_eq!((outcome.statuses()[0], two.app.count()), (400, 0), "{path}");
    }
}

#[tokio::test]
async fn a_login_returns_to_an_unusual_path() {
    for (_, sent, _) in PATHS {
        let scene = Scene::with_routes(&format!("[[routes]]\n{ALL}"), "").await;
        // A browser replaces a backslash by a slash.
        let path = format!("{}?x=1%0A%092", sent.replace('\\', "%5C"));
        let page = scene.browser_of("alice").visit(&url(&path)).await;
        assert_eq!(page.text(), "seen", "{}", page.describe());
        let target = scene.app.last().target();
        assert!(target.eq_ignore_ascii_case(&path), "{target}");
    }
}

#[tokio::test]
async fn r_unusual_paths_never_lead_to_another_origin() {
    let scene = Scene::with_routes(&format!("[[routes]]\n{ALL}"), "").await;
    let navigation =
        "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nAccept: text/html\r\n";
    for path in [
        "//evil.test",
        "///evil.test/x",
        "/\\evil.test",
        "/%5cevil.test",
        "/%2fevil.test",
        "/%2F%2Fevil.test",
        "/.//evil.test",
        "/a/..//evil.test",
        "/a%2f..%2f%2fevil.test",
        "/%ff/evil.test",
        "/%ff%2fevil.test",
        "/%c0%af/evil.test",
        "/%252f%252fevil.test",
    ] {
        let (status, arrived) = ask(&scene, path, navigation).await;
        assert_eq!((status, arrived.is_none()), (400, true), "{path}");
    }
}

#[tokio::test]
async fn h_01_h_13_h_26_c_02_c_22_fields_and_cookies_of_an_unusual_path() {
    let scene = Scene::with_routes(&format!("[[routes]]\n{ALL}"), "").await;
    let cookie = scene.cookie("alice").await;
    let forged = "X-Forwarded-User: root\r\nx_forwarded_user: root\r\n\
                  Authorization: Bearer forged\r\nX-Original-URL: /public\r\n";
    for (_, sent, forwarded) in PATHS {
        let fields = format!("{forged}Cookie: a=b; {cookie}; c=d\r\n");
        let (status, arrived) = ask(&scene, sent, &fields).await;
        let arrived = arrived.unwrap();
        assert_eq!((status, arrived.target().as_str()), (200, forwarded));
        assert_eq!(arrived.head.values("x-forwarded-user").len(), 1, "{sent}");
        assert_ne!(
            arrived.head.value("x-forwarded-user").unwrap(),
            "root",
            "{sent}"
        );
        assert_eq!(arrived.head.values("x_forwarded_user"), [""; 0], "{sent}");
        assert_eq!(arrived.head.values("x-original-url"), [""; 0], "{sent}");
        assert_ne!(
            arrived.head.value("authorization").unwrap(),
            "Bearer forged",
            "{sent}"
        );
        assert_eq!(arrived.head.value("cookie").unwrap(), "a=b; c=d", "{sent}");
        // Two different session cookies are no session.
        let (status, arrived) =
            ask(&scene, sent, &format!("Cookie: {cookie}; {SESSION}=x\r\n")).await;
        assert_eq!((status, arrived.is_none()), (401, true), "{sent}");
    }
    let browser = scene.signed_in("alice").await;
    let planted = format!("{SESSION}=planted; Path=/; Secure; HttpOnly");
    scene
        .app
        .next(Answer::with(200, &[("Set-Cookie", &planted)], "set"));
    let page = browser.fetch(&url("/x/a%2Fb")).await;
    assert_eq!(
        (page.text().as_str(), page.field("set-cookie")),
        ("set", None)
    );
}

#[tokio::test]
async fn check_names_the_routes_that_allow_unusual_paths() {
    let nowhere = "http://127.0.0.1:1";
    let settings = Settings::new(ORIGIN, nowhere, nowhere).with(&routes(ALL));
    let checked = Command::new(PROGRAM)
        .args(["check", "--config"])
        .arg(settings.write())
        .output();
    let checked = checked.await.unwrap();
    let said = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.status.success(), "{said}");
    let lines = said.lines().filter(|line| line.contains("unusual paths"));
    let forms = "backslash, empty_segment, encoded_slash, non_utf8";
    let expected =
        ["/in", "/admin", "/"].map(|route| format!("unusual paths in the route {route}: {forms}"));
    assert!(lines.eq(expected), "{said}");
}

#[tokio::test]
async fn the_log_names_the_routes_that_allow_unusual_paths_and_shows_the_path() {
    let scene = Scene::new().await;
    let routes = format!("[[routes]]\n[[routes]]\nprefix = \"/x\"\naccess = \"public\"\n{ALL}");
    let settings = Settings::new(ORIGIN, &scene.provider.url(), &scene.app.url()).with(&routes);
    let process = Process::start(settings).await;
    let log = process.log();
    let lines: Vec<Value> = log
        .lines()
        .filter(|line| line.contains("Route allows unusual paths"))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert_eq!(lines[0]["route"], "/x");
    let forms = "backslash, empty_segment, encoded_slash, non_utf8";
    assert_eq!(lines[0]["forms"], forms);
    for (_, sent, forwarded) in PATHS {
        let request = format!("GET {sent} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let outcome = exchange(process.address(), request.as_bytes(), 1).await;
        assert_eq!(outcome.statuses(), [200], "{sent}");
        let path = serde_json::to_string(forwarded).unwrap();
        let shown = format!("\"url.path\":{path}");
        process.wait_for_log(|log| log.contains(&shown)).await;
    }
}

#[tokio::test]
async fn p_56_e_03_a_replaced_prefix_opens_no_path_to_readings_of_another_route() {
    let routes = "[[routes]]\naccess = \"public\"\nallow_in_path = [\"encoded_slash\"]\n\
                  [[routes]]\nprefix = \"/admin\"\naccess.any_of.groups = [\"admins\"]\n\
                  [[routes]]\nprefix = \"/g\"\naccess = \"public\"\n\
                  allow_in_path = [\"encoded_slash\"]\nrewrite.app_prefix = \"/\"\n\
                  [[routes]]\nprefix = \"/g/admin\"\naccess.any_of.groups = [\"admins\"]\n\
                  rewrite.app_prefix = \"/admin\"\n";
    let scene = Scene::with_routes(routes, "").await;
    for path in ["/g%2Fx/admin/users", "/g%2Fx", "/g/x%2F..%2Fadmin"] {
        let (status, arrived) = ask(&scene, path, "").await;
        assert_eq!((status, arrived.is_none()), (400, true), "{path}");
    }
    // The form survives the replacement of the prefix.
    let (status, arrived) = ask(&scene, "/g/@scope%2fname", "").await;
    assert_eq!(status, 200);
    assert_eq!(arrived.unwrap().target(), "/@scope%2Fname");
}
