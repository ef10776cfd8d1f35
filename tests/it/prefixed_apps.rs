//! Real apps below a prefix that they do not know.

use std::path::Path;

use crate::support::browser::Browser;
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{Gateway, Settings};
use crate::support::program::{
    Program, free_address, installed, peer, project, with_errors_in_output,
};
use crate::support::provider::StandIn;
use crate::support::scene::{ORIGIN, url};
use crate::support::webdriver::Chromium;

/// A Django app, and a gateway with the app at the prefix `/team/notes`.
async fn notes() -> (Program, StandIn, Gateway) {
    let app = peer("prefix_app.py", &[]);
    let (app, provider) = tokio::join!(app, StandIn::start());
    let app_url = format!("http://{}", app.address());
    let route = "[[routes]]\nprefix = \"/team/notes\"\nrewrite.app_prefix = \"/\"\n\
                 rewrite.locations = true\nrewrite.cookies = true\n";
    let settings = Settings::new(ORIGIN, &provider.url(), &app_url).with(route);
    (app, provider, Gateway::start(settings))
}

#[tokio::test]
async fn a_real_browser_uses_a_django_app_that_does_not_know_its_prefix() {
    let (_app, _provider, gateway) = notes().await;
    let browser = Chromium::leading("localhost:80", gateway.address()).await;
    browser.open("http://localhost/team/notes").await;
    let text = browser.wait_for(|url| url.ends_with("/team/notes/")).await;
    assert!(text.contains("0 notes at /"), "{text}");
    // The form needs the session cookie and the cookie with the CSRF token.
    browser
        .run("document.querySelector('form button').click()")
        .await;
    let text = browser
        .wait_for(|url| url.ends_with("localhost/team/notes/notes/0"))
        .await;
    assert!(text.contains("milk at /notes/0"), "{text}");
    browser.run("document.getElementById('back').click()").await;
    let text = browser.wait_for(|url| url.ends_with("/team/notes/")).await;
    assert!(text.contains("1 notes at /"), "{text}");
    browser
        .run("document.getElementById('first').click()")
        .await;
    browser
        .wait_for(|url| url.ends_with("/team/notes/notes/0"))
        .await;
    let cookies = browser.client().get_all_cookies().await.unwrap();
    let of_app = cookies
        .iter()
        .filter(|cookie| matches!(cookie.name(), "sessionid" | "csrftoken"));
    let paths: Vec<_> = of_app.map(|cookie| cookie.path()).collect();
    assert_eq!(paths, [Some("/team/notes"), Some("/team/notes")]);
}

const PROPFIND: &str = "<?xml version=\"1.0\"?><D:propfind xmlns:D=\"DAV:\"><D:prop>\
                        <D:current-user-principal/></D:prop></D:propfind>";

/// Starts Radicale, which reads the name of the user from `X-Remote-User`.
async fn radicale() -> Program {
    let program = project("tests/.cache/venv/bin/radicale");
    let prepare = |folder: &Path| {
        let mut command = with_errors_in_output(installed(&program));
        command
            .args(["--hosts", &free_address()])
            .args(["--auth-type", "http_x_remote_user"])
            .args(["--rights-type", "owner_only", "--logging-level", "info"])
            .arg("--storage-filesystem-folder")
            .arg(folder)
            .env("RADICALE_CONFIG", "");
        command
    };
    Program::start("Listening on ", prepare).await
}

#[tokio::test]
async fn radicale_learns_its_prefix_from_a_field_and_from_no_client() {
    let (provider, app) = tokio::join!(StandIn::start(), radicale());
    let app_url = format!("http://{}", app.address().trim_matches('\''));
    let settings = Settings::new(ORIGIN, &provider.url(), &app_url).with(
        "[assertions]\nuser = \"X-Remote-User\"\n[[routes]]\nprefix = \"/calendars\"\n\
         rewrite.app_prefix = \"/\"\nrewrite.prefix_fields = [\"X-Script-Name\"]\n",
    );
    let gateway = Gateway::start(settings);
    let browser = Browser::new().leading(ORIGIN, gateway.address());
    browser.plant(&provider.url(), "user=alice; Path=/");
    let start = browser.visit(&url("/calendars")).await;
    assert_eq!(start.status, 200, "{}", start.describe());
    assert_eq!(start.url.path(), "/calendars/.web/");
    for forged in ["x-script-name", "X_Script_Name", "SCRIPT_NAME"] {
        let visit = BrowserRequest::fetch(&url("/calendars/alice/"))
            .method("PROPFIND")
            .field("depth", "0")
            .field(forged, "/evil");
        let found = browser
            .send(visit.body("application/xml", PROPFIND.as_bytes()))
            .await;
        assert_eq!(found.status, 207, "{}", found.describe());
        let text = found.text();
        assert!(text.contains("<href>/calendars/alice/</href>"), "{text}");
        assert!(!text.contains("evil"), "{text}");
    }
}
