//! Hints in the log: the data that the provider sent at a login, and the setting that helps if data
//! is missing.

use serde_json::{Value, json};

use crate::support::browser::{Browser, Page};
use crate::support::gateway::{Process, Settings};
use crate::support::openid;
use crate::support::provider::{Endpoint, StandIn};
use crate::support::scene::{ORIGIN, url};
use crate::support::upstream::{Answer, RecordingUpstream};

const ADMINS: &str = "CN=Admins,OU=Groups,DC=example,DC=com";
const ROUTES: &str =
    "[[routes]]\n[[routes]]\nprefix = \"/staff\"\naccess.any_of.groups = [\"staff\"]\n";

/// A gateway process with a route for the group `staff`, and its provider and app.
async fn process(more: &str, members: Value) -> (Process, StandIn, RecordingUpstream) {
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    let settings = Settings::new(ORIGIN, &provider.url(), &app.url());
    let process = Process::start_with(settings.with(ROUTES), more).await;
    provider.user_members(members);
    (process, provider, app)
}

async fn sign_in(process: &Process, provider: &StandIn, user: &str) -> Browser {
    let browser = Browser::new().leading(ORIGIN, process.address());
    browser.plant(&provider.url(), &format!("user={user}; Path=/"));
    assert_eq!(browser.visit(&url("/")).await.text(), "seen");
    browser
}

/// Returns the events whose line contains `text`.
fn events(process: &Process, text: &str) -> Vec<Value> {
    let log = process.log();
    let lines = log.lines().filter(|line| line.contains(text));
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn the_log_says_who_signed_in_and_what_came() {
    let members =
        json!({ "groups": [ADMINS], "email": "alice@example.com", "email_verified": "true" });
    let user = "user = \"email\"\nuser_hashed = false\n";
    let (process, provider, _app) = process(user, members).await;
    for _ in 0..2 {
        sign_in(&process, &provider, "alice").await;
    }
    process
        .wait_for_log(|log| log.matches("Signed in").count() == 2)
        .await;
    for event in events(&process, "Signed in") {
        assert_eq!(event["enduser.id"], "alice@example.com", "{event}");
        assert_eq!(event["email"], "unverified", "{event}");
        assert_eq!(event["groups"], 1, "{event}");
        assert_eq!(event["refresh_token"], true, "{event}");
    }
    // The log contains each hint and each warning once, although both logins have the same cause.
    for (text, setting) in [
        (
            "The claim email_verified is not true or false",
            "identity.emails_verified",
        ),
        (
            "cannot carry all groups of a user",
            "assertions.groups_format, assertions.groups_bytes",
        ),
    ] {
        let [event] = <[Value; 1]>::try_from(events(&process, text)).unwrap();
        assert_eq!(event["setting"], setting, "{event}");
        assert_eq!(event["provider"], "main", "{event}");
    }
}

#[tokio::test]
async fn groups_that_a_rule_needs_and_that_never_come_are_one_hint() {
    let (process, provider, _app) = process("", json!({ "sub": "alice" })).await;
    for _ in 0..2 {
        sign_in(&process, &provider, "alice").await;
    }
    process
        .wait_for_log(|log| log.matches("Signed in").count() == 2)
        .await;
    let [hint] = <[Value; 1]>::try_from(events(&process, "A rule lists groups")).unwrap();
    assert!(
        hint["setting"].as_str().unwrap().starts_with("scopes"),
        "{hint}"
    );
    let [event, _] = <[Value; 2]>::try_from(events(&process, "Signed in")).unwrap();
    // By default, the log has a hash instead of the subject.
    let user = event["enduser.id"].as_str().unwrap();
    assert!(
        user.len() == 16 && user.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{user}"
    );
}

#[tokio::test]
async fn a_login_without_a_refresh_token_is_one_hint_at_the_scopes() {
    for (scopes, hints) in [("[\"openid\"]", 1), ("[\"openid\", \"offline_access\"]", 0)] {
        let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
        provider.tamper_token_response(|body| {
            body.as_object_mut().unwrap().remove("refresh_token");
        });
        let keys = [("scopes", scopes)];
        let settings = openid::settings(&provider.url(), &app.url(), &keys);
        let process = Process::start_with(settings, "").await;
        for _ in 0..2 {
            sign_in(&process, &provider, "alice").await;
        }
        let twice = |log: &str| log.matches("Signed in").count() == 2;
        process.wait_for_log(twice).await;
        let given = events(&process, "The provider gave no refresh token");
        assert_eq!(given.len(), hints, "{scopes}");
        assert!(
            given.iter().all(|hint| hint["setting"] == "scopes"),
            "{given:?}"
        );
        let event = &events(&process, "Signed in")[0];
        assert_eq!(event["refresh_token"], false, "{event}");
    }
}

/// A login at a provider that was changed by `prepare`. Returns the last page and the log.
async fn failed_login(keys: &[(&str, &str)], prepare: impl FnOnce(&StandIn)) -> (Page, String) {
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    prepare(&provider);
    let settings = openid::settings(&provider.url(), &app.url(), keys);
    let process = Process::start_with(settings, "").await;
    let browser = Browser::new().leading(ORIGIN, process.address());
    let page = browser.visit(&url("/")).await;
    let logged = |log: &str| log.contains("Login not started") || log.contains("Login failed");
    process.wait_for_log(logged).await;
    let log = process.log().replace(&provider.url(), "PROVIDER");
    (page, log.replace("\\\"", "'"))
}

#[tokio::test]
async fn the_log_names_the_claim_and_the_url_that_caused_a_failed_login() {
    let keys = [("identity.claims.subject", "\"employee_id\"")];
    let (page, log) = failed_login(&keys, |_provider| ()).await;
    assert_eq!(page.status, 502, "{}", page.describe());
    let said = "the claim `employee_id` is missing or cannot be used as the subject (setting \
                `identity.claims.subject`)";
    assert!(log.contains(said), "{log}");
    let (page, log) = failed_login(&[], |provider| {
        provider.raw(Endpoint::Userinfo, 404, "text/plain", "");
    })
    .await;
    assert_eq!(page.status, 502, "{}", page.describe());
    let said = "the endpoint PROVIDER/userinfo returned no claims: the endpoint answered with \
                status 404";
    assert!(log.contains(said), "{log}");
}

#[tokio::test]
async fn the_log_says_what_came_instead_of_metadata_and_the_page_does_not_say_that_nothing_came() {
    let (page, log) = failed_login(&[], |provider| {
        let html = "<h1>Welcome</h1>";
        provider.raw(Endpoint::Metadata, 200, "text/html", html);
    })
    .await;
    assert_eq!(page.status, 503, "{}", page.describe());
    let title = "The sign-in server&#39;s answer cannot be read";
    assert!(page.text().contains(title), "{}", page.text());
    let said = "the body has the content type 'text/html' and begins with '<h1>Welcome</h1>'";
    assert!(log.contains(said), "{log}");
    let (page, log) = failed_login(&[], |provider| {
        let moved = Answer::with(301, &[("Location", "https://id.example/new?x=1")], "");
        provider.instead(Endpoint::Metadata, moved);
    })
    .await;
    assert_eq!(page.status, 502, "{}", page.describe());
    let said = "the provider answered with status 301, a redirect to 'https://id.example/new'";
    assert!(log.contains(said), "{log}");
}

#[tokio::test]
async fn metadata_as_plain_text_is_used() {
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    provider.rewrite(Endpoint::Metadata, |body| {
        Answer::with(200, &[("Content-Type", "text/plain")], body)
    });
    let settings = openid::settings(&provider.url(), &app.url(), &[]);
    let process = Process::start_with(settings, "").await;
    sign_in(&process, &provider, "alice").await;
}
