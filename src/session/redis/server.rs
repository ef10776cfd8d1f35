//! A real Redis server for the tests of this process.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::settings::{Address, LoginFiles, RedisSettings};

/// A running server. The server ends when this value is dropped, or when the process of the test
/// ends.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    /// The shell that ends the server when its standard input is closed.
    shell: Child,
}

impl Server {
    /// Starts a server with these options of the command line.
    pub(crate) fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            shell: run(&folder.path().join("redis.sock"), options),
            folder,
        }
    }

    /// Returns the path of the server's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// Kills the server.
    pub(crate) fn kill(&mut self) {
        drop(self.shell.stdin.take());
        self.shell.wait().unwrap();
    }

    /// Starts the server again after [`Server::kill`].
    pub(crate) fn start_again(&mut self, options: &[&str]) {
        self.shell = run(&self.socket(), options);
    }

    /// Runs a command of the server, and returns its answer.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .arg("-s")
            .arg(self.socket())
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Returns settings for this server, with an unused prefix.
    pub(crate) fn settings(&self) -> RedisSettings {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        RedisSettings {
            servers: vec![Address::Unix(self.socket())],
            sentinel_master: None,
            database: 0,
            prefix: format!("test{}:", NEXT.fetch_add(1, Ordering::Relaxed)),
            login: LoginFiles::default(),
            sentinel_login: LoginFiles::default(),
            tls: None,
            connect_timeout: Duration::from_secs(2),
            // The machine of the tests can be slow.
            command_timeout: Duration::from_secs(10),
            coherence: Duration::from_secs(1),
            outage: Duration::from_mins(1),
            report_delay: Duration::ZERO,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run(socket: &std::path::Path, options: &[&str]) -> Child {
    // The shell closes its copy of the standard output. If the server does not start, no process has
    // the output open, and the reader gets its end.
    let script = "redis-server \"$@\" & pid=$!; exec > /dev/null; cat > /dev/null; kill -9 $pid; \
                  wait $pid; true";
    let mut shell = Command::new("sh")
        .args(["-c", script, "sh", "--port", "0", "--save", ""])
        .arg("--unixsocket")
        .arg(socket)
        .arg("--dir")
        .arg(socket.parent().unwrap())
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = BufReader::new(shell.stdout.take().unwrap());
    let mut lines = said.lines().map_while(Result::ok);
    let started = lines.find(|line| line.to_lowercase().contains("ready to accept connections"));
    assert!(started.is_some(), "redis-server did not start");
    // The server would wait if nobody read its output.
    drop(std::thread::spawn(move || lines.for_each(drop)));
    shell
}

/// Returns settings for the server that all tests of this process share. The settings have an unused
/// prefix.
pub(in crate::session) fn settings() -> RedisSettings {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(&[])).settings()
}
