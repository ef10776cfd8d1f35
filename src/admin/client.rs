//! The client of the admin socket: the command `sidegate sessions`.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::protocol::{Command, Reply, Request, Selection, SessionLine};
use crate::clock::in_words;

/// The reason why a command was not finished. The operator is responsible for this error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The gateway has not finished the command.
    #[error("the gateway has not finished the command: {0}")]
    Failed(String),
    /// The gateway does not listen at the admin socket, or the caller may not use the socket.
    #[error("the admin socket cannot be used")]
    Socket(#[from] io::Error),
    /// The gateway has closed the connection. Only the user of the gateway and `root` may use the
    /// socket.
    #[error(
        "the gateway has closed the connection; only the user who runs the gateway, and root, may \
         use the admin socket"
    )]
    Closed,
}

/// Sends a command to the gateway that listens at `socket`. Calls `print` for each line of the
/// result. Blocks the calling thread.
///
/// # Errors
///
/// [`Error`].
pub fn run(
    socket: &Path,
    (command, of): (Command, Selection),
    print: &mut impl FnMut(&str),
) -> Result<(), Error> {
    let mut stream = UnixStream::connect(socket)?;
    let mut request = serde_json::to_string(&Request { command, of }).map_err(io::Error::from)?;
    request.push('\n');
    stream.write_all(request.as_bytes())?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?).map_err(io::Error::from)? {
            Reply::Session(session) => print(&describe(&session)),
            Reply::Failed(reason) => return Err(Error::Failed(reason)),
            Reply::Done { sessions } => {
                let verb = match command {
                    Command::End => "ended",
                    Command::List => "listed",
                };
                let noun = if sessions == 1 { "session" } else { "sessions" };
                print(&format!("{sessions} {noun} {verb}"));
                return Ok(());
            }
        }
    }
    Err(Error::Closed)
}

fn describe(session: &SessionLine) -> String {
    let words = |seconds| in_words(Duration::from_secs(seconds));
    let names = [&session.subject, &session.user_name, &session.email];
    let names: Vec<&str> = names.into_iter().flatten().map(String::as_str).collect();
    format!(
        "{}  {}  {}  {}  signed in {} ago, used {} ago, ends in {}",
        session.key,
        session.provider,
        names.join(" "),
        session.device.as_deref().unwrap_or("unknown device"),
        words(session.opened_ago),
        words(session.used_ago),
        words(session.ends_in),
    )
}
