//! The real gateway, as threads of the test or as the real program. Only this file contains the
//! code that configures and starts the gateway.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sidegate::clock::{Clock, Timestamp};
use sidegate::config::{Config, Reusable, Source};
use sidegate::instance::{Explainer, Instance, ReloadCause, ReloadError, Reloaded};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use super::certificates::Authority;
use super::provider::CLIENT_SECRET;
use super::raw::Raw;
use super::wire::TEST_TIMEOUT;

/// The program that belongs to this test binary.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_sidegate");

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

/// `sidegate run --config FILE`. The process is killed when this value is dropped.
pub(crate) struct Process {
    child: Child,
    address: SocketAddr,
    operations: SocketAddr,
    log: Arc<watch::Sender<String>>,
    settings: Settings,
    /// Whether the test has stopped the program.
    is_stopped: AtomicBool,
}

impl Process {
    /// Starts the program and waits until it listens. The program logs at its most detailed level.
    pub(crate) async fn start(settings: Settings) -> Self {
        Self::logging(settings, "level = \"trace\"\n", &[]).await
    }

    /// Like [`Process::start`], with these environment variables.
    pub(crate) async fn start_in(settings: Settings, variables: &[(&str, &str)]) -> Self {
        Self::logging(settings, "level = \"trace\"\n", variables).await
    }

    /// Starts the program with a short log, for a large number of requests.
    pub(crate) async fn start_quietly(settings: Settings) -> Self {
        Self::logging(settings, "access = false\n", &[]).await
    }

    /// Like [`Process::start_quietly`], with these limits of the operating system, as arguments of
    /// `prlimit`.
    pub(crate) async fn start_limited(settings: Settings, limits: &[&str]) -> Self {
        let mut shell = Command::new("prlimit");
        shell.args(limits).arg("sh");
        Self::start_by(settings, shell).await
    }

    /// Like [`Process::start_quietly`]. `shell` starts the program.
    pub(crate) async fn start_by(settings: Settings, shell: Command) -> Self {
        let settings = settings.with("[log]\nformat = \"json\"\naccess = false\n");
        Self::run(settings, shell).await
    }

    /// Starts the program with these keys of `log`.
    pub(crate) async fn start_with(settings: Settings, keys: &str) -> Self {
        Self::logging(settings, keys, &[]).await
    }

    /// Starts the program by this shell, with the access log.
    pub(crate) async fn start_logging_by(settings: Settings, shell: Command) -> Self {
        let settings = settings.with("[log]\nformat = \"json\"\n");
        Self::run(settings, shell).await
    }

    async fn logging(settings: Settings, keys: &str, variables: &[(&str, &str)]) -> Self {
        let settings = settings.with(&format!("[log]\nformat = \"json\"\n{keys}"));
        let mut shell = Command::new("sh");
        shell.envs(variables.iter().copied());
        Self::run(settings, shell).await
    }

    /// Writes the settings file, and starts the program by `shell`.
    async fn run(settings: Settings, shell: Command) -> Self {
        let Running {
            child,
            address,
            operations,
            log,
        } = Running::start(&settings.write(), shell).await;
        Self {
            child,
            address,
            operations,
            log,
            settings,
            is_stopped: AtomicBool::new(false),
        }
    }

    /// Starts the program again at the same addresses. The program has ended before.
    pub(crate) async fn restart(&mut self) {
        self.keep_addresses();
        let next = Running::start(&self.settings.path(), Command::new("sh")).await;
        assert_eq!(next.address, self.address);
        self.child = next.child;
        self.operations = next.operations;
        self.log = next.log;
        self.is_stopped = AtomicBool::new(false);
    }

    /// Like [`Process::restart`], by this shell and with this redirection, such as `>/dev/full`. The
    /// test reads the outputs of the program.
    pub(crate) async fn restart_redirected(&mut self, mut shell: Command, redirection: &str) {
        self.keep_addresses();
        let script = format!("exec \"$0\" run --config \"$1\" {redirection}");
        let shell = shell.args(["-c", &script, PROGRAM]).kill_on_drop(true);
        self.child = shell.arg(self.settings.path()).spawn().unwrap();
        let ready = async {
            while !self.is_ready().await {
                tokio::task::yield_now().await;
            }
        };
        timeout(TEST_TIMEOUT, ready)
            .await
            .expect("the gateway does not become ready");
    }

    /// Whether the program listens and `/readyz` answers with 200.
    pub(crate) async fn is_ready(&self) -> bool {
        let Ok(mut connection) = Raw::try_connect(self.operations, None).await else {
            return false;
        };
        connection
            .send("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
            .await;
        let answer = connection.response("GET").await;
        answer.is_some_and(|answer| answer.status() == 200)
    }

    /// Writes the addresses of the program into its settings.
    fn keep_addresses(&self) {
        let mut text = self.settings.text();
        for address in [self.address, self.operations] {
            text = text.replace(&format!("{}:0", address.ip()), &address.to_string());
        }
        self.settings.write_in_place(&text);
    }

    /// The settings file.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The public address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the operations listener.
    pub(crate) fn operations(&self) -> SocketAddr {
        self.operations
    }

    /// Everything that the program has logged.
    pub(crate) fn log(&self) -> String {
        self.log.borrow().clone()
    }

    /// Waits until the log satisfies `wanted`.
    pub(crate) async fn wait_for_log(&self, wanted: impl Fn(&str) -> bool) {
        let mut changes = self.log.subscribe();
        let came = timeout(TEST_TIMEOUT, changes.wait_for(|log| wanted(log)))
            .await
            .is_ok();
        assert!(came, "the log never says so:\n{}", self.log());
    }

    /// Sends a signal by name.
    pub(crate) async fn signal(&self, name: &str) {
        if matches!(name, "INT" | "KILL" | "QUIT" | "TERM") {
            self.is_stopped.store(true, Ordering::Relaxed);
        }
        let id = self.id().to_string();
        let sent = Command::new("/bin/kill")
            .args(["-s", name, &id])
            .status()
            .await
            .unwrap();
        assert!(sent.success());
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("the gateway has ended")
    }

    /// Whether the program has not ended yet.
    pub(crate) fn is_running(&self) -> bool {
        self.child.id().is_some()
    }

    /// Whether the program has ended, although the test has not stopped it.
    pub(crate) fn has_crashed(&mut self) -> bool {
        let has_ended = self.child.try_wait().unwrap().is_some();
        has_ended && !self.is_stopped.load(Ordering::Relaxed)
    }

    /// Waits until the program ends.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        timeout(TEST_TIMEOUT, self.child.wait())
            .await
            .expect("the gateway did not end")
            .unwrap()
    }

    /// The resident memory in KiB.
    pub(crate) fn memory(&self) -> usize {
        self.kibibytes("VmRSS:")
    }

    /// The largest resident memory since the start in KiB.
    pub(crate) fn peak_memory(&self) -> usize {
        self.kibibytes("VmHWM:")
    }

    fn kibibytes(&self, name: &str) -> usize {
        let id = self.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let value = line.unwrap().trim().trim_end_matches(" kB");
        value.parse().unwrap()
    }

    /// The number of open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        let id = self.id();
        std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count()
    }
}

/// A running program that listens.
struct Running {
    child: Child,
    address: SocketAddr,
    operations: SocketAddr,
    log: Arc<watch::Sender<String>>,
}

impl Running {
    /// Starts the program by `shell`, and waits until it listens.
    async fn start(settings: &Path, mut shell: Command) -> Self {
        // A write beyond the file size limit of a test must fail. Without the trap, the write would
        // kill the process.
        let script = "trap '' XFSZ; exec \"$0\" run --config \"$1\"";
        let mut child = shell
            .args(["-c", script, PROGRAM])
            .arg(settings)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = Arc::new(watch::Sender::new(String::new()));
        tokio::spawn(collect(child.stdout.take().unwrap(), Arc::clone(&log)));
        tokio::spawn(collect(child.stderr.take().unwrap(), Arc::clone(&log)));
        let mut changes = log.subscribe();
        let listening = changes.wait_for(|log| addresses(log).is_some());
        let found = timeout(TEST_TIMEOUT, listening).await.ok();
        let found = found.and_then(|log| addresses(&log.unwrap()));
        let Some((address, operations)) = found else {
            panic!("the gateway does not listen:\n{}", *log.borrow());
        };
        Self {
            child,
            address,
            operations,
            log,
        }
    }
}

async fn collect(stream: impl AsyncRead + Unpin, log: Arc<watch::Sender<String>>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.send_modify(|log| log.extend([line.as_str(), "\n"]));
    }
}

/// The public address and the operations address, when they have been logged.
fn addresses(log: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line = log.lines().find(|line| line.contains("Listening"))?;
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
    // Fields are at the top level or below `fields`, depending on the format.
    let find = |name| event.get(name).or_else(|| event.get("fields")?.get(name));
    let address = |name| find(name)?.as_str()?.parse().ok();
    Some((address("server.address")?, address("operations")?))
}
