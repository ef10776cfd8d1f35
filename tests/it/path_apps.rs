//! Unusual paths at real web servers and frameworks, which read paths in different ways. The app of
//! each test answers `admin` for each path that the app itself reads as `/admin` or as a path below
//! `/admin`. The gateway requires a sign-in for `/admin`, and all other paths are public.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::support::gateway::{Gateway, Settings};
use crate::support::program::{Program, peer};
use crate::support::provider::StandIn;
use crate::support::raw::{Response, get};
use crate::support::scene::ORIGIN;

/// The forms that both routes allow, one list for each gateway. The last list has all forms.
const MODES: [&str; 5] = [
    "\"encoded_slash\"",
    "\"empty_segment\"",
    "\"backslash\"",
    "\"non_utf8\"",
    "\"encoded_slash\", \"empty_segment\", \"backslash\", \"non_utf8\"",
];

/// Paths that some app reads as `/admin` or as a path below `/admin`, and similar paths.
fn corpus() -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let names = [
        "admin", "ADMIN", "%61dmin", "admin;x", "admin%FF", "ad%FFmin", "adm%EFn",
    ];
    let dots = ["", "..", "%2e%2e", "..;", ".", "..%FF"];
    let separators = ["/", "//", "%2F", "\\", "%5C", "/%2F", "%5C/"];
    for separator in separators {
        for name in names {
            paths.insert(format!("/{name}{separator}x"));
            paths.insert(format!("{separator}{name}"));
            paths.insert(format!("/public{separator}{name}/x"));
            paths.insert(format!("{separator}public/{name}/x"));
        }
        for dots in dots {
            paths.insert(format!("/public{separator}{dots}{separator}admin/x"));
            paths.insert(format!("/public/{dots}{separator}admin"));
            paths.insert(format!("/x%E9{separator}{dots}/admin"));
        }
    }
    paths
}

fn is_admin(response: &Response) -> bool {
    response.status() == 200 && response.text().trim() == "admin"
}

/// No request without a session gets the answer `admin`. In the mode with all forms, the gateway
/// asks for a sign-in for at least one unusual path that the app reads as a path of `/admin`, and
/// forwards at least one unusual path.
async fn protects(app: &Program) {
    let provider = StandIn::start().await;
    let direct: SocketAddr = app
        .address()
        .strip_prefix("http://")
        .unwrap()
        .parse()
        .unwrap();
    let mut hidden = BTreeSet::new();
    for path in corpus() {
        if get(direct, &path, "")
            .await
            .is_some_and(|response| is_admin(&response))
        {
            hidden.insert(path);
        }
    }
    let start = |mode: &str| {
        let routes = format!(
            "[[routes]]\naccess = \"public\"\nallow_in_path = [{mode}]\n\
             [[routes]]\nprefix = \"/admin\"\nallow_in_path = [{mode}]\n"
        );
        Gateway::start(Settings::new(ORIGIN, &provider.url(), app.address()).with(&routes))
    };
    // The paths that the gateway refuses if no route allows unusual forms.
    let mut unusual = BTreeSet::new();
    let gateway = start("");
    for path in corpus() {
        if get(gateway.address(), &path, "").await.unwrap().status() == 400 {
            unusual.insert(path);
        }
    }
    gateway.drain().await;
    for mode in MODES {
        let gateway = start(mode);
        let (mut forwarded, mut protected, mut changed) = (0, 0, 0);
        for path in corpus() {
            let response = get(gateway.address(), &path, "").await.unwrap();
            assert!(!is_admin(&response), "{mode}: {path}");
            let unusual = unusual.contains(&path);
            changed += usize::from(unusual && response.status() != 400);
            match response.status() {
                401 if hidden.contains(&path) => protected += usize::from(unusual),
                400 | 401 => {}
                // The app has answered.
                200 | 301 | 404 => forwarded += usize::from(unusual),
                other => panic!("{mode}: {path}: {other}"),
            }
        }
        assert!(changed > 0, "{mode}: the key changes no answer");
        if mode == MODES[4] {
            assert!(protected > 0 && forwarded > 0, "{protected} {forwarded}");
        }
        gateway.drain().await;
    }
}

async fn python_app(name: &str) -> Program {
    peer("path_apps.py", &[name]).await
}

#[tokio::test]
async fn p_58_django_never_serves_a_protected_path() {
    protects(&python_app("django").await).await;
}

#[tokio::test]
async fn p_58_starlette_never_serves_a_protected_path() {
    protects(&python_app("starlette").await).await;
}

#[tokio::test]
async fn p_58_an_app_that_leaves_out_octets_never_serves_a_protected_path() {
    protects(&python_app("lossy").await).await;
}

#[tokio::test]
async fn p_58_a_file_server_never_serves_a_protected_path() {
    protects(&python_app("files").await).await;
}

#[tokio::test]
async fn p_58_nginx_never_serves_a_protected_path() {
    protects(&python_app("nginx").await).await;
}

#[tokio::test]
async fn p_58_node_never_serves_a_protected_path() {
    protects(&peer("path_app.mjs", &["url"]).await).await;
    protects(&peer("path_app.mjs", &["windows"]).await).await;
}

#[tokio::test]
async fn p_58_tomcat_never_serves_a_protected_path() {
    protects(&peer("PathApp.java", &["ISO-8859-1"]).await).await;
    protects(&peer("PathApp.java", &["UTF-8"]).await).await;
}
