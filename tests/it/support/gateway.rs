//! The settings of a gateway, and a gateway on threads of the test. [`Process`] is a gateway as a
//! process.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sidegate::clock::{Clock, Timestamp};
use sidegate::config::{Config, Reusable, Source};
use sidegate::instance::{Explainer, Instance, ReloadCause, ReloadError, Reloaded};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use super::certificates::Authority;
pub(crate) use super::process::{PROGRAM, Process};
use super::provider::CLIENT_SECRET;
use super::wire::TEST_TIMEOUT;

/// A settings file that is not complete yet. The files that the settings name are in the same
/// folder.
pub(crate) struct Settings {
    folder: TempDir,
    public_urls: String,
    server: String,
    provider: String,
    app: String,
    rest: String,
}

impl Settings {
    /// The smallest settings of a test: plain HTTP on a free port, one provider, one app.
    pub(crate) fn new(public_url: &str, provider: &str, app: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("client_secret");
        write_private(&secret, &format!("{CLIENT_SECRET}\n"));
        let provider = format!(
            "[providers.main]\nprofile = \"oauth2\"\nurl = \"{provider}\"\nclient_id = \"3\"\n\
             client_secret_file = \"{}\"\nauthorization_endpoint = \"/authorize\"\n\
             token_endpoint = \"/token\"\nuserinfo_endpoint = \"/userinfo\"\n\
             identity.source = \"userinfo\"\n",
            secret.display()
        );
        Self {
            folder,
            public_urls: format!("public_url = [\"{public_url}\"]\n"),
            server: "[server]\nlisten = \"127.0.0.1:0\"\nworkers = 2\n".to_owned(),
            provider,
            app: format!("[upstreams.app]\nurl = \"{app}\"\n"),
            rest: "[operations]\nlisten = \"127.0.0.2:0\"\n".to_owned(),
        }
    }

    /// A complete settings file.
    pub(crate) fn whole(text: &str) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            public_urls: text.to_owned(),
            server: String::new(),
            provider: String::new(),
            app: String::new(),
            rest: String::new(),
        }
    }

    /// Sets other public URLs.
    pub(crate) fn public_urls(mut self, urls: &[&str]) -> Self {
        self.public_urls = format!("public_url = {urls:?}\n");
        self
    }

    /// Adds sections, as TOML.
    pub(crate) fn with(mut self, toml: &str) -> Self {
        self.rest.push_str(toml);
        self
    }

    /// Adds keys of `server`.
    pub(crate) fn server(mut self, toml: &str) -> Self {
        self.server.extend([toml, "\n"]);
        self
    }

    /// Makes the gateway listen on all addresses.
    pub(crate) fn listening_everywhere(self) -> Self {
        self.listening_at("0.0.0.0:0")
    }

    /// Makes the gateway listen at another address.
    pub(crate) fn listening_at(mut self, address: &str) -> Self {
        self.server = self.server.replace("127.0.0.1:0", address);
        self
    }

    /// Makes the gateway use only one worker, so that all connections belong to the same worker.
    pub(crate) fn one_worker(mut self) -> Self {
        self.server = self.server.replace("workers = 2", "workers = 1");
        self
    }

    /// Adds keys of the app.
    pub(crate) fn app(mut self, toml: &str) -> Self {
        self.app.extend([toml, "\n"]);
        self
    }

    /// Replaces the whole section of the app.
    pub(crate) fn apps(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.app);
        self
    }

    /// Adds keys of the provider.
    pub(crate) fn of_provider(mut self, toml: &str) -> Self {
        self.provider.push_str(toml);
        self
    }

    /// Replaces the whole section of the provider.
    pub(crate) fn provider(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.provider);
        self
    }

    /// Makes the gateway use TLS, with a certificate of `authority` for `localhost`.
    pub(crate) fn tls(self, authority: &Authority) -> Self {
        let files = authority.issue(self.folder.path(), &["localhost"]);
        let keys = format!(
            "certificate_file = \"{}\"\nkey_file = \"{}\"",
            files.certificate.display(),
            files.key.display()
        );
        self.server(&keys)
    }

    /// Writes a file that the settings can name. Returns its path.
    pub(crate) fn file(&self, name: &str, contents: &str) -> String {
        let path = self.folder.path().join(name);
        write_private(&path, contents);
        path.display().to_string()
    }

    /// The path of the settings file.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("sidegate.toml")
    }

    /// The contents of the settings file.
    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap()
    }

    /// Replaces the settings file with a new file.
    pub(crate) fn overwrite(&self, text: &str) {
        let next = self.file("next.toml", text);
        std::fs::rename(next, self.path()).unwrap();
    }

    /// Overwrites the contents of the settings file in place.
    pub(crate) fn write_in_place(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }

    /// Removes the settings file.
    pub(crate) fn remove(&self) {
        std::fs::remove_file(self.path()).unwrap();
    }

    /// Replaces the settings file with a pipe.
    pub(crate) async fn become_a_pipe(&self) {
        let pipe = self.folder.path().join("pipe");
        let made = Command::new("mkfifo").arg(&pipe).status().await.unwrap();
        assert!(made.success());
        std::fs::rename(pipe, self.path()).unwrap();
    }

    /// Makes the gateway watch the settings file.
    pub(crate) fn watched(mut self) -> Self {
        self.public_urls.push_str("watch = true\n");
        self
    }

    /// Writes the settings file.
    pub(crate) fn write(&self) -> PathBuf {
        let path = self.path();
        let parts = [
            &self.public_urls,
            &self.server,
            &self.provider,
            &self.app,
            &self.rest,
        ];
        let text: String = parts.into_iter().map(String::as_str).collect();
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// Writes a file that only its owner can read, so that the gateway does not warn.
fn write_private(path: &Path, contents: &str) {
    std::fs::write(path, contents).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// A gateway on threads of this process. The test controls the clock of the gateway.
pub(crate) struct Gateway {
    instance: Box<Instance>,
    clock: Clock,
    settings: Settings,
}

impl Gateway {
    pub(crate) fn start(settings: Settings) -> Self {
        Self::with_clock(settings, Clock::manual(Clock::system().now()))
    }

    /// Starts the gateway with a clock that other servers also use.
    pub(crate) fn with_clock(settings: Settings, clock: Clock) -> Self {
        let path = settings.write();
        let config = Config::load(&Source::file(path), &Reusable::default(), &clock);
        let config = config.unwrap_or_else(|problems| panic!("{problems}"));
        let instance = Instance::start(config, &clock).unwrap();
        Self {
            instance: Box::new(instance),
            clock,
            settings,
        }
    }

    /// Overwrites the settings with `text` and reloads them.
    pub(crate) async fn reload(&mut self, text: &str) -> Result<Reloaded, ReloadError> {
        self.settings.overwrite(text);
        self.instance.reload(ReloadCause::Signal).await
    }

    /// Reloads the settings for this cause.
    pub(crate) async fn reload_for(&mut self, cause: ReloadCause) -> Result<Reloaded, ReloadError> {
        self.instance.reload(cause).await
    }

    /// The settings file.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Explains what the gateway would do with a request.
    pub(crate) fn explainer(&self) -> Explainer {
        self.instance.explainer()
    }

    /// The public address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.instance.address()
    }

    /// The address of the operations listener.
    pub(crate) fn operations(&self) -> SocketAddr {
        self.instance.operations_address().unwrap()
    }

    /// The clock, for a second gateway.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Advances the clock.
    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Sets the clock back.
    pub(crate) fn set_back(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap();
        let now = self.clock.now().as_millis();
        self.clock.set(Timestamp::from_millis(now - by));
    }

    /// Stops accepting connections, and finishes the requests in progress.
    pub(crate) async fn drain(self) {
        timeout(TEST_TIMEOUT, self.instance.drain())
            .await
            .expect("the drain did not end");
    }
}
