//! A real Redis server that several gateways share.

use std::net::SocketAddr;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::program::free_address;
use crate::support::raw::Raw;

/// A `redis-server`. The server is killed when its value is dropped.
pub(super) struct SharedStore {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl SharedStore {
    /// Starts the server on a free port of 127.0.0.1, and waits until it accepts connections.
    pub(super) async fn start() -> Self {
        let address: SocketAddr = free_address().parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let port = address.port().to_string();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port, "--save", ""])
            .args(["--appendonly", "no", "--maxmemory-policy", "noeviction"])
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server is missing: run tests/run");
        while Raw::try_connect(address, None).await.is_err() {
            tokio::task::yield_now().await;
        }
        Self {
            child,
            address,
            _folder: folder,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a signal by name.
    pub(super) async fn signal(&self, name: &str) {
        let id = self.child.id().expect("the store has ended").to_string();
        let sent = Command::new("/bin/kill")
            .args(["-s", name, &id])
            .status()
            .await;
        assert!(sent.unwrap().success());
    }
}
