//! The answer to one user must not stay in a shared cache in front of the gateway (RFC 9111).

mod nginx;

use crate::support::raw::{Raw, Response};
use crate::support::scene::Scene;
use crate::support::upstream::Answer;

/// The routes of the scenes of this module. `/cached` forwards the fields about caching unchanged.
const ROUTES: &str = r#"
[[routes]]
prefix = "/"
allow_preflight = true
[[routes]]
prefix = "/public"
access = "public"
[[routes]]
prefix = "/cached"
cache = "pass"
[[routes]]
prefix = "/shared"
access = "public"
cache = "pass"
"#;

/// Fields of an answer that allow a shared cache to store the answer.
const CACHEABLE: [&str; 9] = [
    "",
    "Cache-Control: public, max-age=600\r\n",
    "Cache-Control: max-age=600\r\n",
    "Cache-Control: s-maxage=600\r\n",
    "Cache-Control: public\r\nCache-Control: max-age=600\r\n",
    "Cache-Control: private=\"set-cookie\", max-age=600\r\n",
    "Last-Modified: Mon, 19 Jan 2026 03:14:07 GMT\r\n",
    "Expires: Fri, 19 Jan 2046 03:14:07 GMT\r\n",
    "CDN-Cache-Control: max-age=600\r\nSurrogate-Control: max-age=600\r\nX-Accel-Expires: 600\r\n",
];

/// The fields with which an app instructs only shared caches.
const TARGETED: [&str; 3] = ["cdn-cache-control", "surrogate-control", "x-accel-expires"];

/// Returns the answer of the gateway to one request.
async fn ask(scene: &Scene, request: &str) -> Response {
    let mut raw = Raw::connect(scene.gateway.address()).await;
    raw.send(request.to_owned()).await;
    let method = request.split(' ').next().unwrap();
    raw.response(method).await.unwrap()
}

fn get(path: &str, cookie: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{cookie}\r\n")
}

fn answer(status: u16, fields: &str) -> Answer {
    let text = format!("HTTP/1.1 {status} Status\r\nContent-Length: 0\r\n{fields}\r\n");
    Answer::raw(text.as_bytes())
}

#[tokio::test]
async fn x_25_an_answer_to_a_user_forbids_shared_caches_to_store_it() {
    let scene = Scene::with_routes(ROUTES, "").await;
    let cookie = format!("Cookie: {}\r\n", scene.cookie("alice").await);
    for fields in CACHEABLE {
        for (status, path) in [
            (200, "/page"),
            (304, "/page"),
            (404, "/page"),
            (301, "/page"),
            (206, "/page"),
            (200, "/public/page"),
        ] {
            scene.app.next(answer(status, fields));
            let page = ask(&scene, &get(path, &cookie)).await;
            assert_eq!(page.status(), status, "{path} {fields}");
            let control = page.head.values("cache-control");
            let expected = if fields.contains("max-age=600") && !fields.contains("CDN") {
                "private, max-age=600"
            } else {
                "private"
            };
            assert_eq!(control, [expected], "{path} {status} {fields}");
            for name in TARGETED {
                assert_eq!(page.head.value(name), None, "{path} {fields}");
            }
            for name in ["last-modified", "expires"] {
                let is_sent = fields.to_ascii_lowercase().starts_with(name);
                assert_eq!(page.head.value(name).is_some(), is_sent, "{path} {fields}");
            }
        }
    }
}

#[tokio::test]
async fn x_25_strict_answers_and_answers_to_everybody_stay_as_the_app_wrote_them() {
    let scene = Scene::with_routes(ROUTES, "").await;
    let cookie = format!("Cookie: {}\r\n", scene.cookie("alice").await);
    let strict = "Cache-Control: no-store\r\n";
    for (path, cookie, fields) in [
        ("/page", &*cookie, strict),
        ("/page", &*cookie, "Cache-Control: max-age=0, private\r\n"),
        ("/public/page", "", "Cache-Control: public, max-age=600\r\n"),
        ("/public/page", "", "CDN-Cache-Control: max-age=600\r\n"),
        ("/public/page", "", ""),
        (
            "/cached/page",
            &*cookie,
            "Cache-Control: public, s-maxage=9\r\n",
        ),
        (
            "/cached/page",
            &*cookie,
            "Surrogate-Control: max-age=600\r\n",
        ),
        ("/cached/page", &*cookie, ""),
        (
            "/shared/page",
            &*cookie,
            "Cache-Control: public, s-maxage=9\r\n",
        ),
    ] {
        scene.app.next(answer(200, fields));
        let page = ask(&scene, &get(path, cookie)).await;
        assert_eq!(page.status(), 200, "{path} {fields}");
        for name in ["cache-control", "cdn-cache-control", "surrogate-control"] {
            let (sent, value) = fields.trim_end().split_once(": ").unwrap_or_default();
            let expected = sent.eq_ignore_ascii_case(name).then(|| value.to_owned());
            assert_eq!(page.head.value(name), expected, "{path} {fields}");
        }
    }
}

/// A request without a session on a route that is not public is a CORS preflight.
#[tokio::test]
async fn x_25_no_shared_cache_stores_an_answer_of_a_protected_route_without_a_session() {
    let scene = Scene::with_routes(ROUTES, "").await;
    scene.app.next(answer(204, "Cache-Control: public\r\n"));
    let preflight = "OPTIONS /page HTTP/1.1\r\nHost: localhost\r\n\
                     Origin: https://www.example.com\r\nAccess-Control-Request-Method: PUT\r\n\r\n";
    let page = ask(&scene, preflight).await;
    assert_eq!(page.status(), 204);
    assert_eq!(page.head.values("cache-control"), ["private"]);
}
