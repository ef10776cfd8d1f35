//! Tests which members of metadata are used, and which endpoints metadata may contain.

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use super::*;
use crate::provider::internal_url::InternalUrl;
use crate::provider::issuer::Issuer;
use crate::provider::metadata::{Metadata, Rules, location};

pub(super) const ISSUER: &str = "https://id.example/realms/shop";

pub(super) fn settings(value: Value) -> Settings {
    let mut settings = json!({ "client_id": "3", "discovery": "openid" });
    let Value::Object(further) = value else {
        panic!("not an object");
    };
    settings.as_object_mut().unwrap().extend(further);
    serde_json::from_value(settings).unwrap()
}

pub(super) fn issuer(text: &str) -> Issuer {
    Issuer::new(&settings(json!({ "issuer": text })))
        .unwrap()
        .unwrap()
}

fn answered(status: u16, media_type: &str, body: &str) -> Result<Metadata, MetadataError> {
    let response = Response::builder()
        .status(status)
        .header("content-type", media_type)
        .body(Bytes::copy_from_slice(body.as_bytes()));
    accepted(&response.unwrap(), ISSUER, json!({}))
}

/// Reads the metadata in `response` for a provider. The argument `of` is the issuer of the
/// provider. The argument `configured` contains the other settings of the provider.
fn accepted(
    response: &Response<Bytes>,
    of: &str,
    mut configured: Value,
) -> Result<Metadata, MetadataError> {
    configured["issuer"] = json!(of);
    let settings = settings(configured);
    let internal_url = InternalUrl::new(&settings).unwrap();
    let rules = Rules {
        issuer: &issuer(of),
        internal_url: internal_url.as_ref(),
        settings: &settings,
    };
    Metadata::read(response, rules)
}

pub(super) fn read(of: &str, further: Value) -> Result<Metadata, MetadataError> {
    read_with(of, further, json!({}))
}

pub(super) fn read_with(
    of: &str,
    further: Value,
    configured: Value,
) -> Result<Metadata, MetadataError> {
    let mut body = json!({ "issuer": of });
    let Value::Object(further) = further else {
        panic!("not an object");
    };
    body.as_object_mut().unwrap().extend(further);
    let response = Response::builder()
        .header("content-type", "application/json")
        .body(Bytes::from(body.to_string()));
    accepted(&response.unwrap(), of, configured)
}

pub(super) fn reason(read: &Result<Metadata, MetadataError>) -> &'static str {
    read.as_ref().map_or_else(MetadataError::reason, |_| "ok")
}

#[test]
fn the_metadata_url_follows_the_standards() {
    let openid = "/.well-known/openid-configuration";
    let oauth = "/.well-known/oauth-authorization-server";
    for (discovery, text, expected) in [
        (
            "openid",
            "https://id.example",
            format!("https://id.example{openid}"),
        ),
        (
            "openid",
            "https://id.example/",
            format!("https://id.example{openid}"),
        ),
        (
            "openid",
            "http://localhost:8700/o",
            format!("http://localhost:8700/o{openid}"),
        ),
        (
            "openid",
            "https://id.example/o/",
            format!("https://id.example/o{openid}"),
        ),
        (
            "openid",
            "https://id.example//api//",
            format!("https://id.example//api/{openid}"),
        ),
        (
            "oauth2",
            "https://id.example",
            format!("https://id.example{oauth}"),
        ),
        (
            "oauth2",
            "https://id.example/",
            format!("https://id.example{oauth}"),
        ),
        (
            "oauth2",
            "https://id.example/o",
            format!("https://id.example{oauth}/o"),
        ),
        (
            "oauth2",
            "https://id.example:8443/a/b/",
            format!("https://id.example:8443{oauth}/a/b"),
        ),
    ] {
        let settings = settings(json!({ "discovery": discovery }));
        let found = location(&settings, Some(&issuer(text)), None)
            .unwrap()
            .unwrap();
        assert_eq!(found.as_str(), expected, "{discovery} {text}");
    }
}

#[test]
fn the_metadata_url_can_be_configured() {
    let template = json!({
        "issuer": "https://id.example/{tenantid}/v2.0", "tenants": ["one"],
        "metadata_url": "https://id.example/organizations/meta",
    });
    let template = settings(template);
    let issuer = Issuer::new(&template).unwrap();
    let found = location(&template, issuer.as_ref(), None).unwrap().unwrap();
    assert_eq!(found.as_str(), "https://id.example/organizations/meta");
    let off = settings(json!({ "discovery": "none" }));
    assert!(location(&off, issuer.as_ref(), None).unwrap().is_none());
}

#[test]
fn settings_without_a_usable_metadata_url_are_refused() {
    let template = json!({
        "issuer": "https://id.example/{tenantid}/v2.0", "tenants": ["one"],
    });
    for (value, expected) in [
        (json!({}), "issuer"),
        (template, "metadata_url"),
        (
            json!({ "discovery": "none", "metadata_url": "https://id.example/m" }),
            "metadata_url",
        ),
        (
            json!({ "issuer": ISSUER, "metadata_url": "file:///etc/passwd" }),
            "metadata_url",
        ),
        (
            json!({ "issuer": ISSUER, "metadata_url": "/m" }),
            "metadata_url",
        ),
        (json!({ "issuer": "https://u:p@id.example" }), "issuer"),
    ] {
        let settings = settings(value);
        let issuer = Issuer::new(&settings).unwrap();
        let Err(SetupError::Setting { key, .. }) = location(&settings, issuer.as_ref(), None)
        else {
            panic!("{settings:?}");
        };
        assert_eq!(key, expected);
    }
}

#[test]
fn used_members_are_read_and_the_others_are_ignored() {
    let body = json!({
        "authorization_endpoint": "http://localhost:4593//api/oidc/auth?x=1",
        "token_endpoint": "http://localhost:4593//api/oidc/token",
        "userinfo_endpoint": null,
        "jwks_uri": "https://keys.example/jwks",
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "private_key_jwt"],
        "authorization_response_iss_parameter_supported": true,
        "mtls_endpoint_aliases": { "token_endpoint": 5 },
        "claims_supported": 7,
        "registration_endpoint": "file:///etc/passwd",
    });
    let metadata = read("http://localhost:4593/api/oidc", body).unwrap();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        metadata.authorization_endpoint,
        text("http://localhost:4593//api/oidc/auth?x=1")
    );
    assert_eq!(
        metadata.token_endpoint,
        text("http://localhost:4593//api/oidc/token")
    );
    assert_eq!(metadata.userinfo_endpoint, None);
    assert_eq!(metadata.jwks_uri, text("https://keys.example/jwks"));
    let methods = metadata.token_endpoint_auth_methods_supported.unwrap();
    assert_eq!(methods, ["client_secret_basic", "private_key_jwt"]);
    assert!(metadata.authorization_response_iss_parameter_supported);
    let little = read(ISSUER, json!({})).unwrap();
    assert!(!little.authorization_response_iss_parameter_supported);
    assert!(little.token_endpoint_auth_methods_supported.is_none());
}

#[test]
fn a_11_the_challenge_methods_in_the_metadata_are_ignored() {
    let plain = read(ISSUER, json!({})).unwrap();
    for said in [json!(null), json!(["plain"]), json!("S256"), json!({})] {
        let body = json!({ "code_challenge_methods_supported": said });
        assert_eq!(read(ISSUER, body).unwrap(), plain);
    }
}

#[test]
fn a_24_metadata_of_another_issuer_is_refused() {
    let json = "application/json";
    for said in [
        "https://id.example/realms/shop/",
        "https://ID.example/realms/shop",
        "https://id.example:443/realms/shop",
        "http://id.example/realms/shop",
        "https://id.example/realms%2Fshop",
        "https://evil.example",
        "",
    ] {
        let read = answered(200, json, &json!({ "issuer": said }).to_string());
        assert_eq!(reason(&read), "metadata_issuer", "{said}");
    }
    for body in [
        json!({}),
        json!({ "issuer": null }),
        json!({ "issuer": [ISSUER] }),
        json!({ "issuer": 5 }),
    ] {
        let read = answered(200, json, &body.to_string());
        assert_eq!(reason(&read), "metadata_malformed", "{body}");
    }
    let long = json!({ "issuer": "x".repeat(100_000) }).to_string();
    let shown = answered(200, json, &long).unwrap_err().to_string();
    assert!(shown.len() < 400, "{}", shown.len());
}

#[test]
fn a_25_only_a_complete_response_is_metadata() {
    let json = "application/json";
    let good = json!({ "issuer": ISSUER }).to_string();
    assert_eq!(reason(&answered(200, json, &good)), "ok");
    for (status, media_type, body, expected) in [
        (301, json, &*good, "metadata_status"),
        (204, json, "", "metadata_status"),
        (404, json, &good, "metadata_status"),
        (503, json, &good, "metadata_status"),
        (200, "text/html", &good, "metadata_malformed"),
        (200, json, "<html>", "metadata_malformed"),
        (200, json, "[]", "metadata_malformed"),
        (200, json, "", "metadata_malformed"),
        (200, json, &format!("{good}x"), "metadata_malformed"),
        (
            200,
            json,
            &good.replace('{', r#"{"issuer":"x","#),
            "metadata_malformed",
        ),
    ] {
        let read = answered(status, media_type, body);
        assert_eq!(reason(&read), expected, "{status} {media_type} {body}");
    }
}

#[test]
fn metadata_may_have_any_media_type_except_html() {
    let good = json!({ "issuer": ISSUER }).to_string();
    for media_type in [
        "text/plain",
        "text/plain; charset=utf-8",
        "application/octet-stream",
        "binary/octet-stream",
        "",
    ] {
        assert_eq!(
            reason(&answered(200, media_type, &good)),
            "ok",
            "{media_type}"
        );
    }
    let page = answered(200, "Text/HTML; charset=utf-8", &good);
    assert_eq!(reason(&page), "metadata_malformed");
}

#[test]
fn an_error_shows_what_came_instead_of_metadata() {
    let page = format!(
        "\n<!DOCTYPE html>\u{1b}[2J<p>Maintenance{}",
        "x".repeat(9_000)
    );
    let error = answered(200, "text/html; charset=utf-8", &page).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the body has the content type \"text/html\" and begins with \"<!DOCTYPE [left out]\", \
         so it is not metadata"
    );
    let error = answered(200, "text/plain", "Not \u{1b}[2J now").unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("\"text/plain\" and begins with \"Not ?[2J now\""),
        "{text}"
    );
}

#[test]
fn an_error_names_the_target_of_a_redirect() {
    let redirected = |target: &str| {
        let response = Response::builder()
            .status(302)
            .header("location", target)
            .body(Bytes::new());
        accepted(&response.unwrap(), ISSUER, json!({})).unwrap_err()
    };
    let error = redirected("https://id.example/login?state=secret#x");
    assert_eq!(
        error.to_string(),
        "the provider answered with status 302, a redirect to \"https://id.example/login\""
    );
    assert_eq!(error.reason(), "metadata_status");
    assert!(redirected(&"x".repeat(9_000)).to_string().len() < 300);
}

#[test]
fn a_member_of_another_type_is_named() {
    for (name, value) in [
        ("token_endpoint", json!(["https://id.example/token"])),
        ("jwks_uri", json!(5)),
        ("userinfo_endpoint", json!(false)),
        (
            "token_endpoint_auth_methods_supported",
            json!("client_secret_basic"),
        ),
        ("token_endpoint_auth_methods_supported", json!(["none", 5])),
        (
            "authorization_response_iss_parameter_supported",
            json!("true"),
        ),
    ] {
        let error = read(ISSUER, json!({ name: value })).unwrap_err();
        assert_eq!(error.reason(), "metadata_malformed");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn x_01_unsafe_endpoints_in_metadata_are_refused() {
    let names = [
        "authorization_endpoint",
        "token_endpoint",
        "userinfo_endpoint",
        "jwks_uri",
    ];
    for bad in [
        "file:///etc/passwd",
        "ftp://id.example/token",
        "javascript:alert(1)",
        "//id.example/token",
        "/token",
        "",
        "https://",
        "https:///token",
        "https:/id.example/token",
        "https:\\\\id.example\\token",
        "https://id.example\\@evil.example/",
        " https://id.example/token",
        "https://id.example/to\tken",
        "https://user:secret@id.example/token",
        "https://@id.example/token",
        "https://id.example/token#x",
        "https://id.example/token#",
        "http://id.example/token",
        "http://169.254.169.254/latest",
        "http://127.0.0.1:8080/",
        "https://127.0.0.1/token",
        "https://127.1/token",
        "https://2130706433/token",
        "https://0x7f.0.0.1/token",
        "https://0.0.0.0/token",
        "https://169.254.169.254/latest",
        "https://[::1]/token",
        "https://[::]/token",
        "https://[fe80::1]/token",
        "https://[::ffff:127.0.0.1]/token",
        "https://[::ffff:169.254.169.254]/token",
        "https://localhost/token",
        "https://LOCALHOST./token",
        "https://x.localhost/token",
    ] {
        for name in names {
            let error = read(ISSUER, json!({ name: bad })).expect_err(bad);
            assert_eq!(error.reason(), "metadata_endpoint", "{bad}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}

#[test]
fn a_24_an_endpoint_may_be_on_another_host_with_tls() {
    for (of, good) in [
        (ISSUER, "https://tokens.example/token"),
        (ISSUER, "https://id.example:8443/token"),
        (ISSUER, "https://10.0.0.7/token"),
        ("https://127.0.0.1:9600", "https://127.0.0.1:9601/token"),
        ("https://[::1]", "https://[::1]:9601/token"),
        (
            "http://127.0.0.1:9600/realms/shop",
            "http://127.0.0.1:9600/token",
        ),
        ("http://id.example", "http://id.example:80/token"),
        ("http://localhost:1", "https://localhost:2/token"),
    ] {
        let metadata = read(of, json!({ "token_endpoint": good })).unwrap();
        assert_eq!(metadata.token_endpoint.as_deref(), Some(good), "{of}");
    }
    for (of, bad) in [
        ("http://127.0.0.1:9600", "http://127.0.0.1:9601/token"),
        ("http://127.0.0.1:9600", "http://localhost:9600/token"),
        ("http://127.0.0.1:9600", "https://[::1]:9600/token"),
        ("https://127.0.0.1:9600", "http://127.0.0.1:9600/token"),
    ] {
        let read = read(of, json!({ "token_endpoint": bad }));
        assert_eq!(reason(&read), "metadata_endpoint", "{of} {bad}");
    }
}

#[test]
fn an_unusable_endpoint_of_the_sign_out_is_treated_as_absent() {
    let read = |url: Value| {
        let further = json!({ "end_session_endpoint": url, "revocation_endpoint": url });
        let metadata = read(ISSUER, further).unwrap();
        [metadata.end_session_endpoint, metadata.revocation_endpoint]
    };
    let usable = "https://id.example/logout?realm=shop";
    assert_eq!(
        read(json!(usable)),
        [Some(usable.to_owned()), Some(usable.to_owned())]
    );
    for unusable in [
        json!(7),
        json!("/logout"),
        json!("javascript:alert(1)"),
        json!("http://evil.test/"),
    ] {
        assert_eq!(read(unusable.clone()), [None, None], "{unusable}");
    }
}
