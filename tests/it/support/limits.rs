//! Limits of the operating system for a process, which a test can change.

use std::process::Command;

/// Sets the file size limit of a process. A small limit has the effect of a full disk. The process
/// must ignore the signal XFSZ.
pub(crate) fn limit_file_size(process: u32, bytes: &str) {
    set(process, &format!("--fsize={bytes}:unlimited"));
}

/// Sets how many descriptors a process and its children may open.
pub(crate) fn set_descriptors(process: u32, number: u32) {
    // Only the soft limit changes. The hard limit is usually much larger.
    set(process, &format!("--nofile={number}:"));
}

fn set(process: u32, limit: &str) {
    let status = Command::new("prlimit")
        .args(["--pid", &process.to_string(), limit])
        .status();
    assert!(status.unwrap().success(), "{limit}");
}
