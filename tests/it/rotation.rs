//! A provider that changes its keys while users sign in and stay signed in.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::openid::OpenIdScene;
use crate::support::provider::{Endpoint, Keys, StandIn};
use crate::support::scene::url;

/// The minimum time between two fetches that unknown keys cause.
const AGAIN: Duration = Duration::from_secs(61);

/// Publishes these keys in addition to the provider's own keys.
fn publish_as_well(scene: &OpenIdScene, other: Keys) {
    scene.provider.jwks(move |jwks| {
        let more = other.jwks()["keys"].as_array().unwrap().clone();
        jwks["keys"].as_array_mut().unwrap().extend(more);
    });
}

/// Signs in once. Fails unless a login succeeds and causes this number of key fetches.
async fn signs_in(scene: &OpenIdScene, fetches: usize, context: &str) {
    scene.gateway.advance(AGAIN);
    let attempt = scene.attempt().await;
    attempt.assert_signed_in(context).await;
    assert_eq!(attempt.calls(Endpoint::Jwks), fetches, "{context}");
}

#[tokio::test]
async fn f_07_changed_keys_cause_a_fetch_and_no_failed_login() {
    let scene = OpenIdScene::new().await;
    let provider = &scene.provider;
    signs_in(&scene, 1, "the first").await;
    let first = provider.keys();
    publish_as_well(&scene, first.next());
    signs_in(&scene, 0, "others are added").await;
    provider.rotate_keys();
    publish_as_well(&scene, first);
    signs_in(&scene, 1, "the new ones are used").await;
    provider.behave();
    signs_in(&scene, 0, "the old ones are gone").await;
    provider.rotate_keys();
    signs_in(&scene, 1, "they are swapped").await;
    provider.rotate_just_before_signing();
    signs_in(&scene, 1, "they are swapped just before they sign").await;
    // Known keys stay valid while the provider publishes no keys, even after several fetches.
    provider.jwks(|jwks| jwks["keys"] = json!([]));
    signs_in(&scene, 0, "all are removed").await;
    scene.gateway.advance(Duration::from_hours(2));
    scene.signed_in("alice").await;
    // The gateway does not accept unknown keys while the provider does not publish these keys.
    provider.rotate_keys();
    scene.gateway.advance(AGAIN);
    scene
        .attempt()
        .await
        .assert_refused("502 keys_unusable", "unpublished keys");
    provider.behave();
    signs_in(&scene, 1, "they are back").await;
    signs_in(&scene, 0, "and known").await;
}

#[tokio::test]
async fn f_07_a_refresh_after_the_keys_were_changed_is_accepted() {
    let keys = [("identity.userinfo", "false")];
    let scene = OpenIdScene::prepared(&keys, StandIn::give_refresh_tokens).await;
    let alice = scene.signed_in("alice").await;
    for (round, before_signing) in [false, true].into_iter().enumerate() {
        if before_signing {
            scene.provider.rotate_just_before_signing();
        } else {
            scene.provider.rotate_keys();
        }
        let group = format!("round-{round}");
        let groups = Value::from(vec![group.clone()]);
        scene
            .provider
            .tamper_claims(move |claims| claims["groups"] = groups.clone());
        scene.gateway.advance(Duration::from_secs(3601));
        assert_eq!(alice.fetch(&url("/page")).await.text(), "seen");
        let said = scene.asserted("x-forwarded-groups");
        assert_eq!(said.as_deref(), Some(group.as_str()));
        assert_eq!(scene.provider.refreshes().len(), round + 1);
    }
    assert_eq!(scene.provider.calls(Endpoint::Authorization), 1);
}
