//! The command `sidegate sessions`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use sidegate::admin::{self, Selection};
use sidegate::clock::Clock;
use sidegate::config::{Flags, Source, Variables};
use sidegate::telemetry::chain;

use super::{CONFIG, fail, fail_with, load, print_line};

#[derive(Subcommand)]
pub(super) enum Command {
    /// List sessions: key, provider, user and times
    List(Selected),
    /// End sessions at once, without a sign-out at the provider
    End(Selected),
}

#[derive(Args)]
pub(super) struct Selected {
    #[command(flatten)]
    at: FileOrSocket,
    #[command(flatten)]
    of: OneOrAll,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct FileOrSocket {
    /// The settings file of the running gateway, which names the admin socket
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The admin socket of the running gateway; no settings file is read
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
}

impl FileOrSocket {
    /// Returns the path of the admin socket. Returns `Err` with the exit code if the settings file
    /// has a problem or names no socket.
    fn socket(self) -> Result<PathBuf, ExitCode> {
        let Some(path) = self.config else {
            return Ok(self.socket.unwrap_or_default());
        };
        let source = Source {
            path,
            content: None,
            variables: Variables::Read,
            flags: Flags::default(),
        };
        let config = load(&source, &Clock::system())?;
        let missing = || fail_with(CONFIG, "operations.admin_socket_file is not set");
        config.admin_socket.ok_or_else(missing)
    }
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct OneOrAll {
    /// The sessions of the users with this subject, user name or email address
    #[arg(long, value_name = "TEXT")]
    person: Option<String>,
    /// All sessions
    #[arg(long)]
    all: bool,
}

/// Lists or ends sessions.
pub(super) fn run(command: Command) -> ExitCode {
    let (command, Selected { at, of }) = match command {
        Command::List(selected) => (admin::Command::List, selected),
        Command::End(selected) => (admin::Command::End, selected),
    };
    let socket = match at.socket() {
        Ok(socket) => socket,
        Err(code) => return code,
    };
    let of = of.person.map_or(Selection::All, Selection::Person);
    match admin::client::run(&socket, (command, of), &mut print_line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{}: {}", socket.display(), chain(&error))),
    }
}
