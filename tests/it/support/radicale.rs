//! Radicale, a `CalDAV` server of 2025: a real app that reads the user's name from a field.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The server. Radicale stops when its value is dropped.
pub(crate) struct Radicale {
    address: SocketAddr,
    _process: Child,
    _storage: TempDir,
}

impl Radicale {
    /// Starts the server on a free port. It trusts `X-Remote-User`.
    ///
    /// # Panics
    ///
    /// Panics if Radicale is not installed, because a test that cannot run has failed.
    pub(crate) async fn start() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let program = root.join("tests/.cache/venv/bin/radicale");
        assert!(
            program.exists(),
            "{} is missing: run tests/run",
            program.display()
        );
        let storage = tempfile::tempdir().unwrap();
        // Radicale does not accept port 0. The test therefore selects a free port, and tries
        // another port if a program has taken the port in the meantime.
        for _ in 0..5 {
            let free = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            if let Some(process) = launch(&program, address, &storage).await {
                return Self {
                    address,
                    _process: process,
                    _storage: storage,
                };
            }
        }
        panic!("radicale did not start")
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Starts the program and waits until the program is ready; `None` if the program ended.
async fn launch(program: &Path, address: SocketAddr, storage: &TempDir) -> Option<Child> {
    let mut process = Command::new(program)
        .args([
            "--hosts",
            &address.to_string(),
            "--auth-type",
            "http_x_remote_user",
        ])
        .args(["--rights-type", "owner_only", "--logging-level", "info"])
        .arg("--storage-filesystem-folder")
        .arg(storage.path())
        .env("RADICALE_CONFIG", "")
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let starting = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("server ready") {
                return true;
            }
        }
        false
    };
    let ready = timeout(Duration::from_mins(1), starting)
        .await
        .expect("radicale did not start in time");
    // The log must be read, because the program blocks when the pipe is full.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    ready.then_some(process)
}
