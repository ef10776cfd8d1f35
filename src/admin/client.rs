//! The client of the admin socket: the commands `sidegate sessions` and `sidegate explain`.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::protocol::{
    AskedExplanation, Command, ExplainRequest, Explained, Reply, Request, Selection, SessionLine,
    SessionsRequest,
};
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

/// The characters that have no width, or that change the line or the direction of the text after them.
const INVISIBLE: [RangeInclusive<char>; 5] = [
    '\u{061c}'..='\u{061c}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{feff}'..='\u{feff}',
];

/// The hint after a command that was to end the sessions of a person, but has found no session.
const NOBODY_FOUND: &str = "No session belongs to this person, so no login in progress is refused. If \
                            this person is signing in now, run the command again after the login, or \
                            end all sessions with --all.";

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
    let names_a_person = matches!(of, Selection::Person(_));
    for reply in replies(socket, &Request::Sessions(SessionsRequest { command, of }))? {
        match reply? {
            Reply::Session(session) => print(&describe(&session)),
            Reply::Failed(reason) => return Err(Error::Failed(reason)),
            // The gateway answers a request about sessions never with an explanation.
            Reply::Explained(_) => return Err(Error::Closed),
            Reply::Done { sessions } => {
                let verb = match command {
                    Command::End => "ended",
                    Command::List => "listed",
                };
                let noun = if sessions == 1 { "session" } else { "sessions" };
                print(&format!("{sessions} {noun} {verb}"));
                if sessions == 0 && names_a_person && command == Command::End {
                    print(NOBODY_FOUND);
                }
                return Ok(());
            }
        }
    }
    Err(Error::Closed)
}

/// Asks the gateway that listens at `socket` for an explanation. Blocks the calling thread.
///
/// # Errors
///
/// [`Error`].
pub fn explain(socket: &Path, asked: AskedExplanation) -> Result<Explained, Error> {
    let request = Request::Explain(ExplainRequest { explain: asked });
    match replies(socket, &request)?.next() {
        Some(reply) => match reply? {
            Reply::Explained(explained) => Ok(*explained),
            Reply::Failed(reason) => Err(Error::Failed(reason)),
            // The gateway answers a request for an explanation never with sessions.
            Reply::Session(_) | Reply::Done { .. } => Err(Error::Closed),
        },
        None => Err(Error::Closed),
    }
}

/// Sends a request to the gateway that listens at `socket`, and reads its replies.
fn replies(
    socket: &Path,
    request: &Request,
) -> Result<impl Iterator<Item = Result<Reply, Error>> + use<>, Error> {
    let mut stream = UnixStream::connect(socket)?;
    let mut request = serde_json::to_string(request).map_err(io::Error::from)?;
    request.push('\n');
    stream.write_all(request.as_bytes())?;
    let lines = BufReader::new(stream).lines();
    Ok(lines.map(|line| Ok(serde_json::from_str(&line?).map_err(io::Error::from)?)))
}

fn describe(session: &SessionLine) -> String {
    let words = |seconds| in_words(Duration::from_secs(seconds));
    let names = [&session.subject, &session.user_name, &session.email];
    let names: Vec<&str> = names.into_iter().flatten().map(String::as_str).collect();
    format!(
        "{}  {}  {}  {}  signed in {} ago, used {} ago, ends in {}",
        session.key,
        session.provider,
        visible(&names.join(" ")),
        session.device.as_deref().unwrap_or("unknown device"),
        words(session.opened_ago),
        words(session.used_ago),
        words(session.ends_in),
    )
}

/// Replaces control characters, and the characters of [`INVISIBLE`]. The names come from the provider,
/// and users can often choose their names.
fn visible(text: &str) -> String {
    let is_invisible = |c| INVISIBLE.iter().any(|range| range.contains(&c));
    text.replace(|c: char| c.is_control() || is_invisible(c), "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_change_the_rest_of_the_line() {
        assert_eq!(
            visible("a\u{202e}b\u{2066}c\u{1b}[2K"),
            "a\u{fffd}b\u{fffd}c\u{fffd}[2K"
        );
        assert_eq!(visible("Zoë 山田 \\ \""), "Zoë 山田 \\ \"");
    }
}
