//! Tests how the setting `internal_url` and the endpoints in the settings change the use of
//! metadata.

use serde_json::json;

use super::metadata::{ISSUER, issuer, read, read_with, reason, settings};
use crate::provider::internal_url::InternalUrl;
use crate::provider::metadata::location;

const INTERNAL: &str = "http://keycloak.svc:8080/realms/shop";

#[test]
fn the_gateway_calls_the_internal_url_and_browsers_the_public_one() {
    let of = |path: &str| format!("https://id.example/realms/shop/protocol/{path}");
    let body = json!({
        "authorization_endpoint": of("auth"),
        "token_endpoint": of("token"),
        // The metadata of Keycloak can contain URLs with the internal host name at which the
        // gateway reads the metadata.
        "userinfo_endpoint": format!("{INTERNAL}/protocol/userinfo"),
        "jwks_uri": "https://keys.example/jwks",
    });
    let configured = json!({ "internal_url": INTERNAL });
    let metadata = read_with(ISSUER, body, configured).unwrap();
    assert_eq!(metadata.authorization_endpoint, Some(of("auth")));
    let internal = |path: &str| Some(format!("{INTERNAL}/protocol/{path}"));
    assert_eq!(metadata.token_endpoint, internal("token"));
    assert_eq!(metadata.userinfo_endpoint, internal("userinfo"));
    let keys = Some("https://keys.example/jwks".to_owned());
    assert_eq!(metadata.jwks_uri, keys);
}

#[test]
fn the_gateway_reads_the_metadata_at_the_internal_url() {
    let openid = "/.well-known/openid-configuration";
    let oauth = "/.well-known/oauth-authorization-server";
    for (discovery, internal, expected) in [
        ("openid", INTERNAL, format!("{INTERNAL}{openid}")),
        ("openid", "http://id/x", format!("http://id/x{openid}")),
        (
            "oauth2",
            INTERNAL,
            format!("http://keycloak.svc:8080{oauth}/realms/shop"),
        ),
    ] {
        let value = json!({ "issuer": ISSUER, "discovery": discovery, "internal_url": internal });
        let settings = settings(value);
        let internal_url = InternalUrl::new(&settings).unwrap();
        let found = location(&settings, Some(&issuer(ISSUER)), internal_url.as_ref());
        assert_eq!(found.unwrap().unwrap().as_str(), expected);
    }
    let elsewhere = json!({
        "issuer": ISSUER, "discovery": "oauth2", "internal_url": "http://id/x",
    });
    let elsewhere = settings(elsewhere);
    let internal_url = InternalUrl::new(&elsewhere).unwrap();
    let error = location(&elsewhere, Some(&issuer(ISSUER)), internal_url.as_ref()).unwrap_err();
    assert_eq!(error.key(), "metadata_url");
}

#[test]
fn x_01_an_internal_url_does_not_allow_other_origins() {
    for (name, url) in [
        ("authorization_endpoint", "http://keycloak.svc:8080/auth"),
        ("authorization_endpoint", "http://id.example/auth"),
        ("token_endpoint", "http://keycloak.svc:8081/token"),
        ("token_endpoint", "http://keycloak.svc/token"),
        ("token_endpoint", "http://user@keycloak.svc:8080/token"),
        ("userinfo_endpoint", "http://169.254.169.254/latest"),
        ("jwks_uri", "https://localhost/jwks"),
    ] {
        let configured = json!({ "internal_url": INTERNAL });
        let read = read_with(ISSUER, json!({ name: url }), configured);
        assert_eq!(reason(&read), "metadata_endpoint", "{name} {url}");
    }
}

#[test]
fn an_endpoint_in_the_settings_is_not_read_from_the_metadata() {
    for name in [
        "authorization_endpoint",
        "token_endpoint",
        "userinfo_endpoint",
        "jwks_uri",
    ] {
        let configured = json!({ name: "https://id.example/own" });
        for url in [json!("http://id.svc:8080/x"), json!("file:///x"), json!(5)] {
            let body = json!({ name: url });
            assert_ne!(reason(&read(ISSUER, body.clone())), "ok", "{name} {url}");
            let metadata = read_with(ISSUER, body, configured.clone()).unwrap();
            assert_eq!(metadata, read(ISSUER, json!({})).unwrap(), "{name} {url}");
        }
    }
}
