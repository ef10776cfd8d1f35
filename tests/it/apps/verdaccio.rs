//! Verdaccio, a registry of npm packages, with the real npm. Verdaccio checks the tokens of npm.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::browser::Browser;
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{Gateway, Settings};
use crate::support::program::{Program, free_address, installed, project, with_errors_in_output};
use crate::support::provider::StandIn;

use super::{passed, recipe, settings};

/// The longest time for one command of npm on a busy machine.
const NPM_TIMEOUT: Duration = Duration::from_mins(3);

/// The places of the files that Verdaccio writes.
const PLACES: &str = "storage: ./storage\nauth:\n  htpasswd:\n    file: ./users\n\
                      log: { type: stdout, format: pretty, level: warn }\n";

/// Node.js with a home folder of its own.
fn node(home: &Path) -> Command {
    let mut command = with_errors_in_output(installed(&project("tests/.cache/node/bin/node")));
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", home);
    command
}

/// Starts Verdaccio with the settings of the recipe.
async fn start() -> Program {
    let program = project("tests/.cache/npm/node_modules/verdaccio/bin/verdaccio");
    let prepare = |folder: &Path| {
        let config = folder.join("config.yaml");
        fs::write(&config, [PLACES, recipe("Verdaccio", "yaml")[0]].concat()).unwrap();
        let mut command = node(folder);
        command
            .arg(installed(&program))
            .arg("--config")
            .arg(config)
            .args(["--listen", &free_address()]);
        command
    };
    Program::start("http address - ", prepare).await
}

/// A gateway at an address that npm can reach, and Verdaccio behind the gateway.
struct Registry {
    _gateway: Gateway,
    _provider: StandIn,
    _verdaccio: Program,
    /// Host and port of the public URL.
    host: String,
}

impl Registry {
    async fn start() -> Self {
        let (verdaccio, provider) = (start().await, StandIn::start().await);
        let (address, _) = verdaccio.address().split_once("/ - ").unwrap();
        let host = free_address();
        let addresses = [
            ("http://127.0.0.1:4873", address),
            ("npm.example.com", &host),
        ];
        let public_url = format!("http://{host}");
        let settings = Settings::new(&public_url, &provider.url(), "")
            .listening_at(&host)
            .apps(&settings("Verdaccio", &addresses));
        Self {
            _gateway: Gateway::start(settings),
            _provider: provider,
            _verdaccio: verdaccio,
            host,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.host)
    }

    /// Creates a user of Verdaccio, as `npm adduser` does. Returns the token.
    async fn add_user(&self) -> String {
        let user = json!({ "name": "alice", "password": "alice-password" }).to_string();
        let request = BrowserRequest::fetch(&self.url("/-/user/org.couchdb.user:alice"))
            .method("PUT")
            .body("application/json", user.as_bytes());
        let answer = Browser::new().send(request).await;
        assert_eq!(answer.status, 201, "{}", answer.describe());
        answer.json()["token"].as_str().unwrap().to_owned()
    }

    /// The folder of a package. Commands of npm in this folder use the registry and the token.
    fn folder(&self, package: &str, token: &str) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let registry = format!(
            "registry={}\n//{}/:_authToken={token}\n",
            self.url("/"),
            self.host
        );
        fs::write(folder.path().join(".npmrc"), registry).unwrap();
        fs::write(folder.path().join("package.json"), package).unwrap();
        folder
    }
}

/// Runs npm in a folder. Returns whether npm succeeded, and its output.
async fn npm(folder: &TempDir, arguments: &[&str]) -> (bool, String) {
    let npm = project("tests/.cache/node/lib/node_modules/npm/bin/npm-cli.js");
    let mut command = node(folder.path());
    command
        .arg(installed(&npm))
        .args(arguments)
        .current_dir(folder.path())
        .kill_on_drop(true);
    let output = timeout(NPM_TIMEOUT, command.output()).await;
    let output = output.expect("npm does not end").unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), printed)
}

#[tokio::test]
async fn npm_publishes_and_installs_a_scoped_package_with_its_own_token_only() {
    let registry = Registry::start().await;
    let token = registry.add_user().await;
    let package = json!({ "name": "@acme/sample", "version": "1.0.0" }).to_string();
    let user = json!({ "name": "user", "dependencies": { "@acme/sample": "1.0.0" } }).to_string();
    for arguments in [["publish", "--no-audit"], ["install", "--no-audit"]] {
        let text = if arguments[0] == "publish" {
            &package
        } else {
            &user
        };
        let stranger = registry.folder(text, "guess");
        let (succeeded, printed) = npm(&stranger, &arguments).await;
        assert!(!succeeded && printed.contains("E401"), "{printed}");
        let alice = registry.folder(text, &token);
        let (succeeded, printed) = npm(&alice, &arguments).await;
        assert!(succeeded, "{printed}");
        if arguments[0] == "install" {
            let installed = alice.path().join("node_modules/@acme/sample/package.json");
            assert!(installed.exists(), "{printed}");
            let lock = fs::read_to_string(alice.path().join("package-lock.json")).unwrap();
            let archive = registry.url("/@acme/sample/-/sample-1.0.0.tgz");
            assert!(lock.contains(&archive), "{lock}");
        }
    }
    passed(
        "Verdaccio",
        "npm publish and install of a scoped package (%2F)",
    );
}
