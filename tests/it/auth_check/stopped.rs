//! Proxies whose gateway does not answer their auth checks: no request may pass.

use std::net::TcpListener;

use tokio::net::TcpSocket;

use super::fronts::{Front, HANGING_ENVOY, HANGING_HAPROXY, HANGING_NGINX};
use super::{Asking, record};
use crate::support::browser::Browser;
use crate::support::browser_request::BrowserRequest;
use crate::support::scene::{ORIGIN, Scene, url};
use crate::support::upstream::RecordingUpstream;

/// Stops the gateway of a scene, and fails if a request of a signed-in browser still passes the proxy.
pub(super) async fn nothing_passes(scene: Scene, browser: &Browser, name: &str) {
    let Scene { gateway, app, .. } = scene;
    passes(browser, &app, name).await;
    let address = gateway.address();
    gateway.drain().await;
    // This socket does not listen, so connections are refused. It keeps the port, so that no server of
    // another test gets the auth checks.
    let unused = TcpSocket::new_v4().unwrap();
    unused.set_reuseaddr(true).unwrap();
    unused.bind(address).unwrap();
    let form = [("note", "x")];
    for request in [
        BrowserRequest::fetch(&url("/page")),
        BrowserRequest::navigation(&url("/page")),
        BrowserRequest::fetch(&url("/public/x")),
        BrowserRequest::navigation(&url("/notes"))
            .form(&form)
            .from(ORIGIN),
    ] {
        is_refused(browser, request, &app, name).await;
    }
    drop(unused);
}

/// Fails unless a request of the browser reaches the app.
async fn passes(browser: &Browser, app: &RecordingUpstream, name: &str) {
    let before = app.count();
    let page = browser.fetch(&url("/page")).await;
    assert_eq!(page.status, 200, "{name}: {}", page.describe());
    assert_eq!(app.count(), before + 1, "{name}");
}

async fn is_refused(
    browser: &Browser,
    request: BrowserRequest,
    app: &RecordingUpstream,
    name: &str,
) {
    let before = app.count();
    let page = browser.send(request).await;
    let shown = page.describe();
    assert!(page.status.is_server_error(), "{name}: {shown}");
    assert_eq!(app.count(), before, "{name}: {shown}");
}

/// At the address of the gateway, a listener accepts connections and never answers.
async fn nothing_passes_while_the_gateway_hangs(front: &'static Front) {
    let asking = Asking::start(front).await;
    let browser = asking.signed_in("alice").await;
    let Asking { scene, proxy, .. } = asking;
    let Scene { gateway, app, .. } = scene;
    passes(&browser, &app, front.name).await;
    let address = gateway.address();
    gateway.drain().await;
    let silent = TcpListener::bind(address).unwrap();
    silent.set_nonblocking(true).unwrap();
    // The proxy may first use a connection to the stopped gateway.
    let mut has_asked = false;
    for _ in 0..3 {
        let request = BrowserRequest::fetch(&url("/page"));
        is_refused(&browser, request, &app, front.name).await;
        // The kernel has accepted the connection of the auth check.
        has_asked |= silent.accept().is_ok();
        if has_asked {
            break;
        }
    }
    assert!(has_asked, "{}: no auth check", front.name);
    record("auth_checks.txt", &[front.name, "hanging gateway"]);
    drop(proxy);
}

#[tokio::test]
async fn p_44_nginx_forwards_nothing_while_the_gateway_hangs() {
    nothing_passes_while_the_gateway_hangs(&HANGING_NGINX).await;
}

#[tokio::test]
async fn p_44_haproxy_forwards_nothing_while_the_gateway_hangs() {
    nothing_passes_while_the_gateway_hangs(&HANGING_HAPROXY).await;
}

#[tokio::test]
async fn p_44_envoy_forwards_nothing_while_the_gateway_hangs() {
    nothing_passes_while_the_gateway_hangs(&HANGING_ENVOY).await;
}
