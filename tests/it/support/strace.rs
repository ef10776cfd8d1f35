//! System calls that fail or take long, in one thread of a process (strace).

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::wire::TEST_TIMEOUT;

/// While this value exists, some system calls of a thread fail or take long.
pub(crate) struct Injection {
    strace: Child,
    calls: PathBuf,
    _folder: tempfile::TempDir,
}

impl Injection {
    /// Changes the system calls `calls` of the thread with this name. `effect` is an effect of
    /// `strace --inject`, such as `error=EROFS`.
    pub(crate) async fn into(process: u32, thread: &str, calls: &str, effect: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("calls");
        let mut strace = Command::new("strace")
            .args([
                "-p",
                &thread_id(process, thread),
                "-e",
                &format!("inject={calls}:{effect}"),
            ])
            .arg("-o")
            .arg(&output)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut said = BufReader::new(strace.stderr.take().unwrap()).lines();
        let line = timeout(TEST_TIMEOUT, said.next_line()).await.unwrap();
        let line = line.unwrap().unwrap_or_default();
        assert!(line.contains("attached"), "{line}");
        Self {
            strace,
            calls: output,
            _folder: folder,
        }
    }

    /// Ends the effect. Returns the number of system calls that were changed.
    pub(crate) async fn end(mut self) -> usize {
        let id = self.strace.id().unwrap().to_string();
        let sent = Command::new("/bin/kill").args(["-s", "TERM", &id]).status();
        assert!(sent.await.unwrap().success());
        timeout(TEST_TIMEOUT, self.strace.wait())
            .await
            .unwrap()
            .unwrap();
        let calls = std::fs::read_to_string(&self.calls).unwrap();
        let changed = |line: &&str| line.contains("(INJECTED)") || line.contains("(DELAYED)");
        calls.lines().filter(changed).count()
    }
}

/// The number of the thread with this name.
fn thread_id(process: u32, name: &str) -> String {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let mut threads = threads.map(|thread| thread.unwrap());
    let thread = threads.find(|thread| {
        let its_name = std::fs::read_to_string(thread.path().join("comm"));
        its_name.unwrap().trim_end() == name
    });
    thread.unwrap().file_name().into_string().unwrap()
}
