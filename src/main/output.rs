//! The output of the commands. No error of an output ends a command.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::FAILURE;

/// The longest time for which a process that has to end waits for standard error.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// True if a line for standard output was lost because of an error, such as a full disk.
static HAS_LOST_OUTPUT: AtomicBool = AtomicBool::new(false);

/// Writes a line to standard output.
///
/// If the reader has closed the pipe (`sidegate check | head -1`), the reader wants no more lines,
/// and the command continues without output. After another error, the command fails at its end.
pub(super) fn print_line(text: &str) {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            if !HAS_LOST_OUTPUT.swap(true, Ordering::Relaxed) {
                print_error(&format!("sidegate: cannot write the output: {error}"));
            }
        }
        Ok(()) | Err(_) => {}
    }
}

/// Returns the exit code of the process for the exit code of its command.
pub(super) fn exit_code(of_command: ExitCode) -> ExitCode {
    if of_command == ExitCode::SUCCESS && HAS_LOST_OUTPUT.load(Ordering::Relaxed) {
        return ExitCode::from(FAILURE);
    }
    of_command
}

/// Writes a line to standard error. If standard error cannot be written, there is no other place
/// for the line.
pub(super) fn print_error(text: &str) {
    let line = format!("{text}\n");
    io::stderr().write_all(line.as_bytes()).unwrap_or_default();
}

/// Writes the last line of a process that has to end, to standard error. A pipe that nobody reads
/// delays the end of the process only for a limited time.
pub(super) fn print_last_error(text: String) {
    let (done, waiting) = mpsc::channel();
    let printing = thread::Builder::new().spawn(move || {
        print_error(&text);
        // The waiting time may be over.
        done.send(()).unwrap_or_default();
    });
    if printing.is_ok() {
        waiting.recv_timeout(LAST_WORDS).unwrap_or_default();
    }
}
