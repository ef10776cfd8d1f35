//! The real program as a process.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use super::gateway::Settings;
use super::raw::Raw;
use super::wire::TEST_TIMEOUT;

/// The program that belongs to this test binary.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_sidegate");

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
