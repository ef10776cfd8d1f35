//! Trac, a wiki and a tracker of tickets in Python. A plugin reads the user from a field.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::support::browser::Page;
use crate::support::browser_request::BrowserRequest;
use crate::support::form::links;
use crate::support::program::{Program, free_address, installed, project, with_errors_in_output};
use crate::support::scene::TLS_ORIGIN;

use super::{Front, finish_sign_out, forged, nameless, passed, recipe, replaced, settings, url};

/// Starts Trac with a new environment, and with the plugin and the settings of the recipe.
async fn start() -> Program {
    let programs = project("tests/.cache/venv/bin");
    let prepare = |folder: &Path| {
        let environment = folder.join("environment");
        let given = folder.join("given.ini");
        let ini = replaced(
            recipe("Trac", "ini")[0],
            &[("https://trac.example.com", TLS_ORIGIN)],
        );
        fs::write(&given, ini).unwrap();
        let created = std::process::Command::new(installed(&programs.join("trac-admin")))
            .arg(&environment)
            .arg("initenv")
            .arg(format!("--config={}", given.display()))
            .args(["Project", "sqlite:db/trac.db"])
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&created.stdout);
        assert!(created.status.success(), "{printed}");
        let plugin = environment.join("plugins/sidegate.py");
        fs::write(plugin, recipe("Trac", "python")[0]).unwrap();
        let address = free_address();
        let (host, port) = address.split_once(':').unwrap();
        let mut command = with_errors_in_output(&programs.join("tracd"));
        command
            .args(["--hostname", host, "--port", port, "--single-env"])
            .arg(environment)
            .env("PYTHONUNBUFFERED", "1");
        command
    };
    Program::start("Serving on ", prepare).await
}

/// The gateway in front of Trac, as in the recipe.
async fn front(trac: &Program) -> Front {
    let address = trac.address().trim_end_matches('/');
    Front::start(&settings("Trac", &[("http://127.0.0.1:8000", address)])).await
}

/// The name of the user in a page of Trac.
fn shown_user(page: &Page) -> String {
    let text = page.text();
    let (_, rest) = text
        .split_once("logged in as ")
        .unwrap_or_else(|| panic!("nobody is logged in: {}", page.describe()));
    rest.split_once('<').unwrap().0.to_owned()
}

#[tokio::test]
async fn trac_knows_a_user_with_any_name_and_nobody_poses_as_another_user() {
    let trac = start().await;
    let front = front(&trac).await;
    front
        .provider
        .user_members(json!({ "preferred_username": "zoë 100%" }));
    let (zoe, page) = front.sign_in("zoe", "/wiki").await;
    assert_eq!(shown_user(&page), "zoë 100%");
    // The redirect of Trac leads to the public URL.
    let answer = zoe.open(&url("/search?q=TracGuide")).await;
    assert_eq!(answer.field("location"), Some(&*url("/wiki/TracGuide")));
    // The user is the reporter of a new ticket.
    let ticket = zoe.open(&url("/newticket")).await;
    let reporter = "<span class=\"trac-author-user\">zoë 100%</span>";
    assert!(ticket.text().contains(reporter), "{}", ticket.describe());
    front
        .provider
        .user_members(json!({ "preferred_username": "mallory" }));
    let (mallory, page) = front.sign_in("mallory", "/wiki").await;
    assert_eq!(shown_user(&page), "mallory");
    let request = BrowserRequest::navigation(&url("/wiki"));
    let requests = forged(&request, "X-Forwarded-User", "alice");
    for request in requests.clone() {
        assert_eq!(shown_user(&mallory.send(request).await), "mallory");
    }
    front
        .assert_needs_a_login("/wiki", "X-Forwarded-User")
        .await;
    let nameless = nameless(&front).await;
    for request in requests {
        let page = nameless.send(request).await;
        assert_eq!(page.status, 200, "{}", page.describe());
        assert!(!page.text().contains("logged in as"), "{}", page.describe());
    }
    passed("Trac", "sign-in, any user name, forged fields");
}

#[tokio::test]
async fn a_logout_in_trac_is_a_sign_out_at_the_gateway() {
    let trac = start().await;
    let front = front(&trac).await;
    let (alice, page) = front.sign_in("alice", "/wiki").await;
    let links = links(&page.text());
    let logout = links.iter().find(|link| link.label == "Logout");
    let target = page.url.join(&logout.unwrap().href).unwrap();
    let answer = alice.open(target.as_str()).await;
    finish_sign_out(&alice, answer).await;
    passed("Trac", "sign-out");
}
