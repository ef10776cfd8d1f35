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
    /// Move the sessions of a session file to the shared store, while no gateway uses the file
    Move(Move),
}

#[derive(Args)]
pub(super) struct Move {
    /// The settings file with session.store.redis and with the keys of the session file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The session file: session.store.disk.file of the settings so far
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
}

/// Moves sessions to the shared store.
fn move_sessions(Move { config, from }: &Move) -> ExitCode {
    let clock = Clock::system();
    let config = match load(&source(config.clone()), &clock) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match config.move_sessions(from, &clock) {
        Ok(moved) => {
            let (from, known) = (from.display(), moved.known);
            let count = moved.moved;
            print_line(&format!(
                "moved {count} sessions; the store already had {known} sessions of the file"
            ));
            print_line(&format!("{from} is no longer needed; remove it"));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&chain(&error)),
    }
}

/// Returns the settings file without flags.
fn source(path: PathBuf) -> Source {
    Source {
        path,
        content: None,
        variables: Variables::Read,
        flags: Flags::default(),
    }
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
        let config = load(&source(path), &Clock::system())?;
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

/// Lists, ends or moves sessions.
pub(super) fn run(command: Command) -> ExitCode {
    let (command, Selected { at, of }) = match command {
        Command::Move(arguments) => return move_sessions(&arguments),
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
