//! A system clock that only one process sees, and that a test sets (libfaketime).

use std::path::Path;

use tempfile::TempDir;
use tokio::process::Command;

/// The library that `tests/run` installs. The loader replaces `$LIB` by the folder of the libraries.
const LIBRARY: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";

/// A system clock for one process. Timers of the process are not affected, because a real step of the
/// clock does not affect them either.
pub(crate) struct FakeClock(TempDir);

impl FakeClock {
    /// Shows the time of the system.
    pub(crate) fn new() -> Self {
        let clock = Self(tempfile::tempdir().unwrap());
        clock.set(0);
        clock
    }

    /// From now on, the clock differs from the clock of the system by this number of seconds.
    pub(crate) fn set(&self, seconds: i64) {
        let next = self.0.path().join("next");
        std::fs::write(&next, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(next, self.0.path().join("offset")).unwrap();
    }

    /// A shell that sees this clock.
    pub(crate) fn shell(&self) -> Command {
        let installed = std::fs::read_dir("/usr/lib").unwrap().flatten();
        let mut installed = installed.map(|entry| entry.path().join("faketime"));
        assert!(
            installed.any(|path| Path::new(&path).exists()),
            "faketime is missing: run tests/run"
        );
        let mut shell = Command::new("sh");
        shell
            .env("LD_PRELOAD", LIBRARY)
            .env("FAKETIME_TIMESTAMP_FILE", self.0.path().join("offset"))
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        shell
    }
}
