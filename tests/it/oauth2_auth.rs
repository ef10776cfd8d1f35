//! Auth checks in the form of oauth2-proxy, at `/oauth2/auth`.

use serde_json::json;

use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::scene::{Scene, assert_no_canary, url};

const LISTED: &str = "[auth_check]\noauth2_proxy = [\"127.0.0.0/8\"]\n";

/// The request that nginx sends for a request of its client.
async fn ask(browser: &Browser, query: &str) -> Page {
    let check = BrowserRequest::fetch(&url(&format!("/oauth2/auth{query}")));
    let check = check.field("x-forwarded-uri", "/public/page");
    browser
        .send(check.field("x-original-uri", "/public/page"))
        .await
}

async fn scene(routes: &str) -> Scene {
    let scene = Scene::with_routes(&format!("{LISTED}{routes}"), "").await;
    scene.provider.user_members(json!({
        "preferred_username": "al", "groups": ["staff", "ops"],
    }));
    scene
}

#[tokio::test]
async fn a_signed_in_user_gets_202_with_the_identity_and_without_tokens() {
    let scene = scene("[[routes]]\nprefix = \"/\"\n").await;
    let nobody = ask(&scene.browser(), "").await;
    assert_eq!(nobody.status, 401, "{}", nobody.describe());
    assert!(nobody.body.is_empty() && nobody.set_cookies().is_empty());
    let browser = scene.signed_in("alice").await;
    let answer = ask(&browser, "").await;
    assert_eq!(answer.status, 202, "{}", answer.describe());
    for (name, value) in [
        ("x-auth-request-user", Some("alice")),
        ("x-auth-request-email", Some("alice@example.com")),
        ("x-auth-request-preferred-username", Some("al")),
        ("x-auth-request-groups", Some("staff,ops")),
        ("gap-auth", Some("alice@example.com")),
        ("cache-control", Some("no-store")),
        ("authorization", None),
        ("cookie", None),
        ("set-cookie", None),
    ] {
        assert_eq!(answer.field(name), value, "{name}");
    }
    assert_no_canary(&answer);
}

#[tokio::test]
async fn the_lists_in_the_query_restrict_the_users() {
    let scene = scene("[[routes]]\nprefix = \"/\"\n").await;
    let browser = scene.signed_in("alice").await;
    for (query, status) in [
        ("?allowed_groups=ops", 202),
        ("?allowed_groups=admins,staff", 202),
        ("?allowed_groups=admins&allowed_groups=staff", 202),
        ("?allowed_groups=admins", 403),
        ("?allowed_groups=Staff", 403),
        ("?allowed_groups=", 202),
        ("?allowed_emails=Alice%40example.com", 202),
        ("?allowed_emails=bob@example.com", 403),
        ("?allowed_email_domains=example.com", 202),
        ("?allowed_email_domains=ample.com", 403),
        ("?allowed_email_domains=*.com,*.org", 202),
        ("?allowed_email_domains=.example.com", 403),
        ("?allowed_groups=staff&allowed_emails=bob@example.com", 403),
        ("?other=1", 202),
    ] {
        assert_eq!(ask(&browser, query).await.status, status, "{query}");
    }
}

#[tokio::test]
async fn adv_cve_2026_40574_only_a_plain_address_is_on_a_list() {
    let scene = scene("[[routes]]\nprefix = \"/\"\n").await;
    for email in [
        "attacker@evil.test@example.com",
        "\"attacker@evil.test\"@example.com",
        "a@example.com.",
        "a,b@example.com",
        "@example.com",
        "example.com",
    ] {
        scene.provider.user_members(json!({ "email": email }));
        let browser = scene.signed_in("alice").await;
        assert_eq!(ask(&browser, "").await.status, 202, "{email}");
        for list in [
            "?allowed_email_domains=example.com".to_owned(),
            "?allowed_email_domains=*.com".to_owned(),
            format!("?allowed_emails={email}"),
        ] {
            assert_eq!(ask(&browser, &list).await.status, 403, "{email} {list}");
        }
    }
}

#[tokio::test]
async fn an_unverified_address_is_on_no_list_and_in_no_field() {
    let scene = scene("[[routes]]\nprefix = \"/\"\n").await;
    scene
        .provider
        .user_members(json!({ "email_verified": false }));
    let browser = scene.signed_in("alice").await;
    let answer = ask(&browser, "").await;
    assert_eq!(
        (answer.status.as_u16(), answer.field("x-auth-request-email")),
        (202, None)
    );
    assert_eq!(answer.field("gap-auth"), Some("alice"));
    let listed = ask(&browser, "?allowed_email_domains=example.com").await;
    assert_eq!(listed.status, 403);
}

#[tokio::test]
async fn the_start_page_decides_and_always_needs_a_session() {
    let public = "[[routes]]\nprefix = \"/\"\naccess = \"public\"\n\
                  [[routes]]\nprefix = \"/private\"\n";
    let scene = scene(public).await;
    assert_eq!(ask(&scene.browser(), "").await.status, 401);
    let browser = scene.browser_of("alice");
    browser.visit(&url("/private")).await;
    assert_eq!(ask(&browser, "").await.status, 202);

    let admins = "[[routes]]\nprefix = \"/\"\naccess.any_of.groups = [\"admins\"]\n\
                  provider = \"main\"\n[[routes]]\nprefix = \"/all\"\n";
    let scene = self::scene(admins).await;
    let browser = scene.browser_of("alice");
    browser.visit(&url("/all")).await;
    let answer = ask(&browser, "").await;
    assert_eq!(
        (answer.status.as_u16(), answer.field("x-auth-request-user")),
        (403, None)
    );
}

#[tokio::test]
async fn the_groups_have_the_form_of_the_settings_and_left_out_groups_are_counted() {
    const LEFT_OUT: &str = "sidegate_groups_left_out_total{provider=\"main\"}";
    for (form, expected, left_out) in [
        ("groups_bytes = 6", &["staff"][..], Some(2)),
        ("", &["staff,ops"][..], Some(1)),
        (
            "groups_format = \"json\"",
            &["[\"staff\",\"ops\",\"a,b\"]"][..],
            None,
        ),
        (
            "groups_format = \"repeated\"",
            &["staff", "ops", "a,b"][..],
            None,
        ),
    ] {
        // The app gets no groups, so only the auth check can count.
        let settings = format!("[assertions]\ngroups = \"\"\n{form}\n[[routes]]\nprefix = \"/\"\n");
        let scene = scene(&settings).await;
        let groups = json!({ "groups": ["staff", "ops", "a,b"] });
        scene.provider.user_members(groups);
        let browser = scene.signed_in("alice").await;
        let answer = ask(&browser, "").await;
        let values = answer.fields.get_all("x-auth-request-groups");
        let values: Vec<_> = values.into_iter().collect();
        assert_eq!(values, expected, "{form}");
        assert_eq!(scene.figure(LEFT_OUT).await, left_out, "{form}");
    }
}

#[tokio::test]
async fn only_a_listed_proxy_may_ask() {
    for settings in ["", "[auth_check]\noauth2_proxy = [\"10.0.0.5\"]\n"] {
        let routes = format!("{settings}[[routes]]\nprefix = \"/\"\n");
        let scene = Scene::with_routes(&routes, "").await;
        let browser = scene.signed_in("alice").await;
        let check = BrowserRequest::fetch(&url("/oauth2/auth"));
        // The address of the client is not the address of the proxy.
        let answer = browser
            .send(check.field("x-forwarded-for", "10.0.0.5"))
            .await;
        assert_eq!(answer.status, 404, "{settings}");
        assert_eq!(answer.field("x-auth-request-user"), None);
    }
}
