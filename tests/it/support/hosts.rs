//! The host names that one process knows. A test can change them while the process runs.

use std::net::Ipv4Addr;

use tempfile::TempDir;
use tokio::process::Command;

/// Mounts the first two files over the system's files, and runs the other arguments.
const MOUNT: &str = "mount --bind \"$1\" /etc/hosts && mount --bind \"$2\" /etc/resolv.conf && \
                     shift 2 && exec \"$@\"";

/// Own versions of `/etc/hosts` and `/etc/resolv.conf`, which only one process sees.
pub(crate) struct Hosts(TempDir);

impl Hosts {
    /// Knows no name yet. The process asks a name server that does not exist.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
        let hosts = Self(folder);
        hosts.set(&[]);
        hosts
    }

    /// From now on, the process knows only these names.
    pub(crate) fn set(&self, names: &[(&str, Ipv4Addr)]) {
        let lines = names
            .iter()
            .map(|(name, address)| format!("{address} {name}\n"));
        let lines: String = lines.collect();
        // The process sees only this file, so the file is overwritten and not replaced.
        std::fs::write(self.0.path().join("hosts"), lines).unwrap();
    }

    /// A shell that sees the own files. The shell needs no privilege of the system.
    pub(crate) fn shell(&self) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--map-root-user", "--mount", "sh", "-c", MOUNT, "sh"])
            .arg(self.0.path().join("hosts"))
            .arg(self.0.path().join("resolv.conf"))
            .arg("sh");
        command
    }
}
