//! A real cache in front of the gateway: nginx with `proxy_cache`.

use std::net::SocketAddr;
use std::path::Path;

use tokio::process::Command;

use super::{CACHEABLE, ROUTES};
use crate::support::program::{Program, free_address, nginx};
use crate::support::raw::{Response, get};
use crate::support::scene::Scene;
use crate::support::upstream::{Answer, Recorded};

/// Returns the command of a cache that stores every answer that it may store.
fn cache(gateway: SocketAddr, folder: &Path) -> Command {
    let address: SocketAddr = free_address().parse().unwrap();
    let http = format!(
        "proxy_cache_path pages keys_zone=pages:1m;\n\
         server {{ listen {address};\nlocation / {{ proxy_pass http://{gateway};\n\
         proxy_set_header Host localhost;\nproxy_cache pages;\nproxy_cache_valid any 10m;\n\
         add_header X-Cache $upstream_cache_status always; }} }}\n"
    );
    nginx(&http, folder, address)
}

/// The answer of an app that shows the user. The path contains the number of the fields about
/// caching.
fn page(request: &Recorded) -> Answer {
    let user = request.head.value("x-forwarded-user").unwrap_or_default();
    let text = format!("page of {user}");
    let number = request.target().rsplit('/').next().unwrap().parse();
    let fields: &str = number.map_or("", |number: usize| CACHEABLE[number]);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", text.len());
    Answer::raw(format!("{head}{fields}\r\n{text}").as_bytes())
}

/// A cache in front of a gateway, and the cookies of two users.
struct Front {
    cache: Program,
    alice: String,
    bob: String,
    _scene: Scene,
}

impl Front {
    async fn start() -> Self {
        let scene = Scene::with_routes(ROUTES, "").await;
        let alice = format!("Cookie: {}\r\n", scene.cookie("alice").await);
        let bob = format!("Cookie: {}\r\n", scene.cookie("bob").await);
        scene.app.answer_by(page);
        let gateway = scene.gateway.address();
        Self {
            cache: Program::start("listening ", |folder| cache(gateway, folder)).await,
            alice,
            bob,
            _scene: scene,
        }
    }

    /// Opens a page through the cache.
    async fn open(&self, path: &str, cookie: &str) -> Response {
        let address = self.cache.address().parse().unwrap();
        get(address, path, cookie).await.unwrap()
    }
}

#[tokio::test]
async fn x_25_a_cache_in_front_never_serves_the_page_of_one_person_to_another() {
    let front = Front::start().await;
    let (alice, bob) = (&front.alice, &front.bob);
    for prefix in ["/page", "/public"] {
        for (number, fields) in CACHEABLE.iter().enumerate() {
            let path = format!("{prefix}/{number}");
            for (cookie, user) in [(alice, "alice"), (bob, "bob"), (alice, "alice")] {
                let page = front.open(&path, cookie).await;
                let expected = (200, format!("page of {user}"));
                assert_eq!((page.status(), page.text()), expected, "{path} {fields}");
                let cached = page.head.value("x-cache");
                assert_eq!(cached.as_deref(), Some("MISS"), "{path} {fields}");
            }
            // A visitor without a session gets no page of a user.
            let page = front.open(&path, "").await;
            let (status, text) = match prefix {
                "/public" => (200, "page of "),
                _ => (401, ""),
            };
            assert_eq!(page.status(), status, "{path} {fields}");
            assert!(!page.text().contains("alice"), "{path} {fields}");
            assert!(
                page.text().ends_with(text),
                "{path} {fields}: {}",
                page.text()
            );
        }
    }
}

/// With `cache = "pass"`, the operator states that the pages are the same for all users. The test
/// also shows that the cache of the other test would serve the page of one person to another.
#[tokio::test]
async fn x_25_a_cache_stores_the_answers_of_a_route_that_allows_it() {
    let front = Front::start().await;
    let (alice, bob) = (&front.alice, &front.bob);
    // nginx treats a `private` that names fields like a `private` without names.
    let cacheable = CACHEABLE.iter().enumerate();
    let cacheable = cacheable.filter(|(_number, fields)| !fields.contains("private="));
    for (number, fields) in cacheable {
        let path = format!("/cached/{number}");
        for (cookie, cached) in [(alice, "MISS"), (bob, "HIT")] {
            let page = front.open(&path, cookie).await;
            assert_eq!(page.text(), "page of alice", "{path} {fields}");
            assert_eq!(
                page.head.value("x-cache").as_deref(),
                Some(cached),
                "{path} {fields}"
            );
        }
    }
    // The answer to a visitor of a public route is the same for all visitors.
    for cached in ["MISS", "HIT"] {
        let page = front.open("/public/1", "").await;
        assert_eq!(page.head.value("x-cache").as_deref(), Some(cached));
    }
}
