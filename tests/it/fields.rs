//! Fields: only the gateway tells the app who the user is.

use std::net::SocketAddr;

use crate::support::raw::{Response, exchange};
use crate::support::scene::{ORIGIN, SESSION, Scene, url};
use crate::support::two_providers::{SEPARATE_ROUTES, TwoProviders};
use crate::support::upstream::Recorded;

/// Sends a request with these field lines. Returns the request that reached the app.
async fn sent(scene: &Scene, target: &str, lines: &str) -> Recorded {
    let response = answered(scene.gateway.address(), target, lines).await;
    assert_eq!(response.status(), 200, "{lines}: {}", response.text());
    scene.app.last()
}

async fn answered(address: SocketAddr, target: &str, lines: &str) -> Response {
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
    let mut outcome = exchange(address, request.as_bytes(), 1).await;
    outcome
        .responses
        .pop()
        .unwrap_or_else(|| panic!("no answer to {lines}"))
}

/// Fails unless the app got the identity of alice exactly once, and nothing from an attacker.
fn assert_alice(request: &Recorded, context: &str) {
    let text = String::from_utf8_lossy(&request.head.bytes).to_lowercase();
    assert!(!text.contains("evil"), "{context}: {text}");
    let head = &request.head;
    assert_eq!(
        head.value("x-forwarded-user").as_deref(),
        Some("alice"),
        "{context}"
    );
    assert_eq!(
        head.value("x-forwarded-email").as_deref(),
        Some("alice@example.com"),
        "{context}"
    );
    let bearer = head.value("authorization").unwrap_or_default();
    assert!(
        bearer.starts_with("Bearer alice.canary."),
        "{context}: {bearer}"
    );
}

#[tokio::test]
async fn h_01_to_h_09_identity_fields_of_the_client_are_replaced_in_every_spelling() {
    let scene = Scene::new().await;
    let cookie = format!("Cookie: {}\r\n", scene.cookie("alice").await);
    for lines in [
        "X-Forwarded-User: evil\r\n",
        "x-forwarded-user: evil\r\n",
        "X-FORWARDED-USER: evil\r\n",
        "X_Forwarded_User: evil\r\n",
        "x_foRwarded-uSer: evil\r\n",
        "X.Forwarded.User: evil\r\n",
        "X~Forwarded~User: evil\r\n",
        "X-Forwarded-User:\tevil\r\n",
        "X-Forwarded-User: evil\r\nX_Forwarded_User: evil\r\nx-forwarded-user: evil\r\n",
        "X-Forwarded-Email: evil\r\nX-Forwarded-Preferred-Username: evil\r\n",
        "X-Forwarded-Groups: evil\r\nX_Forwarded_Groups: evil\r\n",
    ] {
        assert_alice(&sent(&scene, "/", &format!("{lines}{cookie}")).await, lines);
        assert_alice(&sent(&scene, "/", &format!("{cookie}{lines}")).await, lines);
    }
    let refused = answered(scene.gateway.address(), "/", "X-Forwarded-User : evil\r\n").await;
    assert_eq!(refused.status(), 400);
}

#[tokio::test]
async fn h_10_a_claim_that_is_absent_leaves_no_field() {
    let scene = Scene::new().await;
    scene
        .provider
        .user_members(serde_json::json!({ "email": null, "name": null }));
    let cookie = format!("Cookie: {}\r\n", scene.cookie("alice").await);
    let spoofed = "X-Forwarded-Email: evil\r\nX-Forwarded-Groups: evil\r\n";
    let head = sent(&scene, "/", &format!("{cookie}{spoofed}")).await.head;
    for name in ["x-forwarded-email", "x-forwarded-groups"] {
        assert_eq!(head.values(name), [""; 0], "{name}");
    }
    assert_eq!(head.value("x-forwarded-user").as_deref(), Some("alice"));
}

#[tokio::test]
async fn h_11_h_14_public_routes_assert_nothing_about_an_unknown_visitor() {
    let scene = Scene::new().await;
    let lines =
        "X-Forwarded-User: evil\r\nX_Forwarded_Email: evil\r\nAuthorization: Bearer own\r\n";
    let head = sent(&scene, "/public/x", lines).await.head;
    let text = String::from_utf8_lossy(&head.bytes).to_lowercase();
    assert!(
        !text.contains("evil") && !text.contains("x-forwarded-user"),
        "{text}"
    );
    assert_eq!(head.values("authorization"), ["Bearer own"]);
}

#[tokio::test]
async fn h_15_proxy_fields_are_not_forwarded() {
    let scene = Scene::new().await;
    let lines =
        "Proxy: evil\r\nProxy-Authorization: Basic evil\r\nProxy-Connection: keep-alive\r\n";
    let head = sent(&scene, "/public/x", lines).await.head;
    for name in ["proxy", "proxy-authorization", "proxy-connection"] {
        assert_eq!(head.values(name), [""; 0], "{name}");
    }
}

#[tokio::test]
async fn h_19_h_20_no_field_chooses_method_path_or_route() {
    let scene = Scene::new().await;
    for name in [
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Original-URI",
        "X-Forwarded-Uri",
        "X-Accel-Redirect",
        "X-Envoy-Original-Path",
        "X-Middleware-Rewrite",
        "Destination",
    ] {
        let line = format!("{name}: /public/x\r\n");
        let response = answered(scene.gateway.address(), "/admin", &line).await;
        assert_eq!(response.status(), 401, "{name}");
    }
    assert_eq!(scene.app.count(), 0);
    let head = sent(
        &scene,
        "/public/x",
        "X-Original-URL: /a\r\nX-HTTP-Method-Override: DELETE\r\n",
    );
    let head = head.await.head;
    assert_eq!(head.values("x-original-url"), [""; 0]);
    assert!(head.start_line().starts_with("GET /public/x "));
}

#[tokio::test]
async fn h_25_ordinary_fields_pass_byte_for_byte() {
    let scene = Scene::new().await;
    let long = "v".repeat(8000);
    let lines = format!("X-Long: {long}\r\nX-Latin: \u{e4}\r\nA: 1\r\nB: 2\r\nx-User-Agent: z\r\n");
    let head = sent(&scene, "/public/x", &lines).await.head;
    assert_eq!(head.value("x-long").unwrap(), long);
    // The app got UTF-8 bytes, and the test reads the bytes as Latin-1.
    assert_eq!(head.value("x-latin").unwrap(), "\u{c3}\u{a4}");
    for name in ["a", "b", "x-user-agent"] {
        assert!(head.value(name).is_some(), "{name}");
    }
    let many = "A: b\r\n".repeat(150);
    let response = answered(scene.gateway.address(), "/public/x", &many).await;
    assert_eq!(response.status(), 431);
}

#[tokio::test]
async fn h_26_c_22_our_cookies_are_removed_and_others_are_forwarded_unchanged() {
    let scene = Scene::new().await;
    let cookie = scene.cookie("alice").await;
    let lines =
        format!("Cookie: a=\"1 2\"; {cookie}; __Host-sidegate-0123456789abcdef=x;b=;  c=%3D|x\r\n");
    let last = sent(&scene, "/", &lines).await;
    let arrived = last.head.value("cookie").unwrap();
    assert!(!arrived.contains("sidegate"), "{arrived}");
    for pair in ["a=\"1 2\"", "b=", "c=%3D|x"] {
        assert!(
            arrived.split(';').any(|other| other.trim() == pair),
            "{pair} in {arrived}"
        );
    }
    let only_ours = sent(&scene, "/", &format!("Cookie: {cookie}\r\n")).await;
    assert_eq!(only_ours.head.values("cookie"), [""; 0]);
    let none_ours = sent(&scene, "/public/x", "Cookie: x=1;y=\"2\" ;z\r\n").await;
    assert_eq!(
        none_ours.head.value("cookie").as_deref(),
        Some("x=1;y=\"2\" ;z")
    );
}

#[tokio::test]
async fn h_33_h_34_hop_by_hop_fields_are_not_forwarded() {
    let scene = Scene::new().await;
    let lines = "Keep-Alive: timeout=5\r\nTE: trailers, deflate\r\nTrailer: X\r\n\
                 Proxy-Authenticate: Basic\r\nConnection: upgrade\r\nUpgrade: h2c\r\n";
    let head = sent(&scene, "/public/x", lines).await.head;
    for name in ["keep-alive", "trailer", "upgrade", "proxy-authenticate"] {
        assert_eq!(head.values(name), [""; 0], "{name}");
    }
    // The forwarded `TE` contains `trailers`, but no transfer coding.
    assert_eq!(head.values("te"), ["trailers"]);
    assert_eq!(head.values("connection"), ["te"]);
    let alone = sent(&scene, "/public/x", "Upgrade: websocket\r\n")
        .await
        .head;
    assert_eq!(alone.values("upgrade"), [""; 0]);
}

#[tokio::test]
async fn h_35_options_with_max_forwards_0_are_answered_by_the_gateway() {
    let scene = Scene::new().await;
    let request = "OPTIONS /public/x HTTP/1.1\r\nHost: localhost\r\nMax-Forwards: 0\r\n\r\n";
    let outcome = exchange(scene.gateway.address(), request.as_bytes(), 1).await;
    assert_eq!((outcome.statuses(), scene.app.count()), (vec![204], 0));
    let asterisk = "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let outcome = exchange(scene.gateway.address(), asterisk.as_bytes(), 1).await;
    assert_eq!((outcome.statuses(), scene.app.count()), (vec![204], 0));
    let one = request.replace(": 0", ": 1");
    exchange(scene.gateway.address(), one.as_bytes(), 1).await;
    assert_eq!(
        scene.app.last().head.value("max-forwards").as_deref(),
        Some("0")
    );
}

#[tokio::test]
async fn h_36_a_loop_of_gateways_ends() {
    let scene = Scene::new().await;
    let head = sent(&scene, "/public/x", "Via: 1.0 other\r\n").await.head;
    let via = head.values("via").join(", ");
    assert!(via.starts_with("1.0 other, 1.1 "), "{via}");
    let own = via.rsplit(' ').next().unwrap();
    let lines = format!("Via: 1.1 {own}\r\n").repeat(20);
    let response = answered(scene.gateway.address(), "/public/x", &lines).await;
    assert_eq!(response.status(), 508);
}

#[tokio::test]
async fn h_37_similar_names_are_different_fields() {
    let scene = Scene::new().await;
    let lines = "X%2DForwarded%2DUser: a\r\nX-Note: =?utf-8?b?ZXZpbA==?=\r\n";
    let head = sent(&scene, "/public/x", lines).await.head;
    assert_eq!(head.value("x%2dforwarded%2duser").as_deref(), Some("a"));
    assert_eq!(
        head.value("x-note").as_deref(),
        Some("=?utf-8?b?ZXZpbA==?=")
    );
}

#[tokio::test]
async fn a_browser_sees_the_app_and_the_app_sees_the_person() {
    let scene = Scene::new().await;
    let browser = scene.signed_in("bob").await;
    browser.fetch(&url("/api?x=1&y=%20")).await;
    let last = scene.app.last();
    assert_eq!(last.target(), "/api?x=1&y=%20");
    assert_eq!(last.head.value("x-forwarded-user").as_deref(), Some("bob"));
    assert!(browser.cookie(ORIGIN, SESSION).is_some());
}

#[tokio::test]
async fn only_the_gateway_tells_an_app_which_provider_signed_the_user_in() {
    let spoofed = "X-Forwarded-Provider: evil\r\nx_forwarded_provider: evil\r\n\
                   X-Signed-In-By: evil\r\nX_Signed.In~By: evil\r\n";
    let told = format!("{SEPARATE_ROUTES}\n[assertions]\nprovider = \"X-Signed-In-By\"\n");
    for (settings, expected) in [
        (&*told, [Some("main"), Some("other")]),
        (SEPARATE_ROUTES, [None, None]),
    ] {
        let two = TwoProviders::start(settings).await;
        for (path, name) in ["/page", "/other/page"].into_iter().zip(expected) {
            let browser = two.browser();
            assert_eq!(browser.visit(&url(path)).await.text(), "seen");
            let session = browser.cookie(ORIGIN, SESSION).unwrap();
            let lines = format!("{spoofed}Cookie: {SESSION}={session}\r\n");
            let answer = answered(two.gateway.address(), path, &lines).await;
            assert_eq!(answer.status(), 200, "{}", answer.text());
            let head = two.app.last().head;
            assert_eq!(head.values("x-forwarded-provider"), [""; 0]);
            if settings == told {
                assert_eq!(head.value("x-signed-in-by").as_deref(), name);
                assert!(!String::from_utf8_lossy(&head.bytes).contains("evil"));
            } else {
                // With the other settings, `X-Signed-In-By` is not a field of the gateway, so the
                // client's value is forwarded.
                assert_eq!(head.value("x-signed-in-by").as_deref(), Some("evil"));
            }
        }
    }
}
