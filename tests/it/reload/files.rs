//! The files of a reload: files that cannot be read, watched files, and the check of a new file.

use sidegate::instance::ReloadCause;

use super::{ANYBODY, NOBODY, edited, on_disk};
use crate::support::browser::Browser;
use crate::support::gateway::{PROGRAM, Process, Settings};
use crate::support::provider::StandIn;
use crate::support::scene::{Scene, url};
use crate::support::upstream::RecordingUpstream;

/// Settings from a changed file are tried again until they succeed. If other keys change in the
/// meantime, the gateway still tries the failed settings again, and does not use the old settings
/// as the new settings.
#[tokio::test]
async fn failed_settings_are_tried_again() {
    let mut scene = Scene::new().await;
    let text = scene.gateway.settings().text();
    let settings = scene.gateway.settings();
    let secret = settings
        .file("later", "")
        .replace("later", "secret_of_later");
    let open = edited(
        &text,
        ANYBODY,
        "[[routes]]\nprefix = \"/\"\naccess = \"public\"\n",
    );
    let missing = format!(
        "[providers.more]\nprofile = \"oidc\"\nissuer = \"http://127.0.0.1:1\"\n\
                           client_id = \"1\"\nclient_secret_file = \"{secret}\"\n"
    );
    let open = open.replace("prefix = \"/\"\n", "prefix = \"/\"\nprovider = \"main\"\n");
    let open = open.replace(
        "prefix = \"/team\"\n",
        "prefix = \"/team\"\nprovider = \"main\"\n",
    );
    settings.overwrite(&format!("{open}{missing}"));
    let replaced = scene.gateway.reload_for(ReloadCause::SettingsFile).await;
    assert!(replaced.is_err());
    scene.gateway.settings().overwrite("half of a");
    scene
        .gateway
        .reload_for(ReloadCause::KeyFile)
        .await
        .unwrap();
    assert_eq!(scene.browser().fetch(&url("/")).await.status, 401);
    scene.gateway.settings().file("secret_of_later", "secret");
    scene.gateway.reload_for(ReloadCause::Retry).await.unwrap();
    assert_eq!(scene.browser().fetch(&url("/")).await.status, 200);
}

#[tokio::test]
async fn a_file_that_could_not_be_read_is_read_by_the_next_try() {
    let mut scene = Scene::new().await;
    let text = scene.gateway.settings().text();
    scene.gateway.settings().remove();
    let replaced = scene.gateway.reload_for(ReloadCause::SettingsFile).await;
    assert!(replaced.is_err());
    assert!(scene.gateway.reload_for(ReloadCause::Retry).await.is_err());
    scene
        .gateway
        .settings()
        .overwrite(&edited(&text, ANYBODY, NOBODY));
    scene.gateway.reload_for(ReloadCause::Retry).await.unwrap();
    let alice = scene.browser_of("alice");
    assert_eq!(alice.visit(&url("/")).await.status, 403);
}

/// The settings file is a pipe without a writer, so reading it never ends.
#[tokio::test]
async fn a_reload_that_hangs_does_not_keep_the_process_from_stopping() {
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    let settings = Settings::new("http://localhost", &provider.url(), &app.url());
    let mut process = Process::start(settings).await;
    process.settings().become_a_pipe().await;
    process.signal("HUP").await;
    process.signal("TERM").await;
    assert!(process.ended().await.success());
    assert!(!process.log().contains("Settings"), "{}", process.log());
}

#[tokio::test]
async fn a_watched_file_is_read_when_it_is_replaced_and_never_while_it_is_written() {
    let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
    let settings = Settings::new("http://localhost", &provider.url(), &app.url());
    let settings = settings.public_urls(&["http://localhost"]).with(ANYBODY);
    let process = Process::start(settings.watched()).await;
    let closed = process.settings().text();
    let open = edited(
        &closed,
        ANYBODY,
        "[[routes]]\nprefix = \"/\"\naccess = \"public\"\n",
    );
    let browser = Browser::new().leading("http://localhost", process.address());
    process.settings().write_in_place(&open);
    process
        .wait_for_log(|log| log.contains("was written in place"))
        .await;
    assert_eq!(browser.fetch("http://localhost/").await.status, 401);
    assert!(!process.log().contains("Settings reloaded"));
    process.settings().overwrite(&open);
    process
        .wait_for_log(|log| log.contains("Settings reloaded"))
        .await;
    assert_eq!(browser.fetch("http://localhost/").await.status, 200);
}

/// The output of `sidegate check` for `new`, compared with a gateway that runs with `running`.
async fn checked(new: &str, running: &str) -> String {
    let mut command = tokio::process::Command::new(PROGRAM);
    let output = command
        .args(["check", "--config", new, "--running", running])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

#[tokio::test]
async fn check_says_what_a_reload_would_end_while_the_gateway_runs() {
    let scene = Scene::with(on_disk).await;
    for user in ["alice", "bob"] {
        scene.signed_in(user).await;
    }
    let settings = scene.gateway.settings();
    let running = settings.file("running.toml", &settings.text());
    let said = checked(&running, &running).await;
    assert!(
        !said.contains("ends") && !said.contains("restart"),
        "{said}"
    );
    let text = edited(&settings.text(), "client_id = \"3\"", "client_id = \"4\"");
    let text = edited(&text, "workers = 2", "workers = 3");
    let new = settings.file("new.toml", &text);
    let said = checked(&new, &running).await;
    for line in [
        "ends 2 sessions of the provider `main`: ",
        "ends the sessions of the provider `main`: its issuer, URL or client_id has changed",
        "changes only with a restart: server.workers",
    ] {
        assert!(said.contains(line), "{line} is not in\n{said}");
    }
}
