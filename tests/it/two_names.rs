//! A provider that browsers and the gateway reach at different names.

use serde_json::json;
use sidegate::clock::Clock;

use crate::support::browser::Browser;
use crate::support::openid::OpenIdScene;
use crate::support::provider::{Endpoint, StandIn};
use crate::support::scene::ORIGIN;

/// The origin at which browsers reach the provider. The gateway cannot resolve the host name of
/// this origin.
const PUBLIC: &str = "http://id.localhost";

/// A name that nobody can resolve.
const UNKNOWN: &str = "http://provider.invalid";

/// Starts a provider with the public name, and a gateway with the settings that `keys` returns for
/// the address of the provider.
async fn scene(keys: &[(&str, &str)], prepare: impl FnOnce(&StandIn)) -> OpenIdScene {
    let clock = Clock::manual(Clock::system().now());
    let provider = StandIn::known_as(PUBLIC, &clock).await;
    prepare(&provider);
    let internal = format!("http://{}", provider.address());
    let keys: Vec<(&str, String)> = keys
        .iter()
        .map(|(key, value)| (*key, value.replace("INTERNAL", &internal)))
        .collect();
    let keys: Vec<(&str, &str)> = keys.iter().map(|(key, value)| (*key, &**value)).collect();
    OpenIdScene::between(provider, &keys, clock).await
}

fn browser(scene: &OpenIdScene) -> Browser {
    let browser = Browser::new()
        .leading(ORIGIN, scene.gateway.address())
        .leading(PUBLIC, scene.provider.address());
    browser.plant(PUBLIC, "user=alice; Path=/");
    browser
}

/// The `Host` fields of the requests to an endpoint.
fn hosts(scene: &OpenIdScene, endpoint: Endpoint) -> Vec<String> {
    let requests = scene.provider.requests(endpoint).into_iter();
    let hosts = requests.map(|request| request.head.value("host").unwrap());
    hosts.collect()
}

async fn check_sign_in(scene: &OpenIdScene) {
    let attempt = scene.attempt_by(browser(scene)).await;
    attempt.assert_signed_in("alice").await;
    assert_eq!(hosts(scene, Endpoint::Authorization), ["id.localhost"]);
    let internal = scene.provider.address().to_string();
    for endpoint in [
        Endpoint::Metadata,
        Endpoint::Jwks,
        Endpoint::Token,
        Endpoint::Userinfo,
    ] {
        let hosts = hosts(scene, endpoint);
        assert!(!hosts.is_empty(), "{endpoint:?}");
        assert!(
            hosts.iter().all(|host| *host == internal),
            "{endpoint:?}: {hosts:?}"
        );
    }
}

#[tokio::test]
async fn the_gateway_calls_the_internal_url_and_the_browser_the_public_one() {
    let scene = scene(&[("internal_url", "\"INTERNAL\"")], |_provider| ()).await;
    check_sign_in(&scene).await;
}

#[tokio::test]
async fn endpoints_in_the_settings_win_before_the_metadata_is_judged() {
    let keys = [
        (
            "metadata_url",
            "\"INTERNAL/.well-known/openid-configuration\"",
        ),
        ("token_endpoint", "\"INTERNAL/token\""),
        ("userinfo_endpoint", "\"INTERNAL/userinfo\""),
        ("jwks_uri", "\"INTERNAL/jwks\""),
    ];
    let scene = scene(&keys, |provider| {
        provider.metadata(|metadata| {
            for name in ["token_endpoint", "userinfo_endpoint", "jwks_uri"] {
                metadata[name] = json!(format!("{UNKNOWN}/x"));
            }
        });
    })
    .await;
    check_sign_in(&scene).await;
}

#[tokio::test]
async fn a_24_metadata_at_the_internal_url_must_contain_the_public_issuer() {
    let scene = scene(&[("internal_url", "\"INTERNAL\"")], |provider| {
        let internal = format!("http://{}", provider.address());
        provider.metadata(move |metadata| metadata["issuer"] = json!(internal));
    })
    .await;
    let attempt = scene.attempt_by(browser(&scene)).await;
    attempt.assert_refused("502 metadata_issuer", "the internal issuer");
    assert_eq!(scene.provider.calls(Endpoint::Token), 0);
}

#[tokio::test]
async fn x_01_metadata_at_the_internal_url_must_not_lead_to_other_origins() {
    for name in ["token_endpoint", "userinfo_endpoint", "jwks_uri"] {
        let scene = scene(&[("internal_url", "\"INTERNAL\"")], |provider| {
            provider.metadata(move |metadata| metadata[name] = json!(format!("{UNKNOWN}/x")));
        })
        .await;
        let attempt = scene.attempt_by(browser(&scene)).await;
        attempt.assert_refused("502 metadata_endpoint", name);
        assert_eq!(scene.provider.calls(Endpoint::Token), 0, "{name}");
    }
}
