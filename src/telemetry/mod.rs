//! Information for operators: events, an access-log event for each request, and metrics.
//!
//! No event contains a query string, a cookie, a token or a code.

mod access;
mod event_limiter;
mod histogram;
mod log_writer;
mod metrics;
mod process;
mod requests;
mod streams;
mod text;

use std::io;
use std::sync::OnceLock;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

pub use self::metrics::{GaugeGuard, Metrics, Reload};

pub(crate) use self::access::{RequestEvent, logs_requests, user_agent};
pub(crate) use self::event_limiter::EventLimiter;
use self::log_writer::{COUNTS, LogQueue, StandardOutput};
pub(crate) use self::metrics::TokenCall;
pub(crate) use self::requests::{DecisionLabel, RequestCounters};
pub(crate) use self::streams::OpenStream;
use self::text::{TextFields, UtcTime};
use crate::clock::Clock;

/// The `tracing` target of access-log events.
const ACCESS: &str = "sidegate::access";

/// The format of events.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// One readable line for each event.
    #[default]
    Text,
    /// One line with a JSON object for each event.
    Json,
}

/// The log contains only events of this level or of a more severe level. Filter directives such as
/// `info,sidegate=debug` are also allowed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub(crate) struct Level(String);

impl TryFrom<String> for Level {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // If a word is not a level, the logging library treats the word as the name of a module,
        // and logs only the events of this module. This code therefore accepts a log directive,
        // such as `h2=debug`, only if the directive ends with a level. This code refuses an empty
        // text, although the parser of the library would accept an empty text.
        let is_level = |word: &str| !word.is_empty() && word.trim().parse::<LevelFilter>().is_ok();
        let has_level = |directive: &str| {
            let level = directive.rsplit_once('=').map(|(_target, level)| level);
            is_level(level.unwrap_or(directive))
        };
        match text.split(',').find(|directive| !has_level(directive)) {
            None if text.parse::<EnvFilter>().is_ok() => Ok(Self(text)),
            found => Err(format!(
                "`{}` is not a level; write error, warn, info, debug, trace or off",
                found.unwrap_or(&text).trim()
            )),
        }
    }
}

/// The claim by which the log names the user who signs in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UserClaim {
    /// The email address, even if the provider has not verified the email address.
    Email,
    /// The log does not name users.
    Off,
    /// The user name at the provider.
    PreferredUsername,
    /// The subject.
    Subject,
}

/// The way in which the log names the user who signs in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct UserInLog {
    pub(crate) claim: UserClaim,
    /// True if the log contains a hash of the claim instead of the claim.
    pub(crate) hashed: bool,
}

/// The settings of the log.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The log contains only events of this level or of a more severe level.
    pub(crate) level: Level,
    pub(crate) format: Format,
    /// True if the log contains an access-log event for each request.
    pub(crate) access: bool,
    user: UserClaim,
    user_hashed: bool,
}

impl Settings {
    /// The way in which the log names the user who signs in.
    pub(crate) fn user(&self) -> UserInLog {
        UserInLog {
            claim: self.user,
            hashed: self.user_hashed,
        }
    }
}

/// The queue of the process's log.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// The reason why the log did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process has already started the log. The gateway is responsible for this error, which
    /// shows a defect of the gateway.
    #[error("the log was already started")]
    AlreadyStarted(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The process has no free thread. Responsible: the operator.
    #[error("the thread of the log cannot start")]
    Thread(#[source] io::Error),
}

/// Starts to write events to standard output. A thread of its own writes the events, so no code
/// that logs an event waits for the log, and no error of the log ends anything.
///
/// # Errors
///
/// [`StartError`].
pub fn start(settings: &Settings) -> Result<(), StartError> {
    let level = if settings.access {
        settings.level.0.clone()
    } else {
        format!("{},{ACCESS}=off", settings.level.0)
    };
    // The directives were checked when the settings were read, so the parser never fails here.
    let filter = level.parse::<EnvFilter>().unwrap_or_default();
    let output = StandardOutput(io::stdout());
    let started = LogQueue::start(output, COUNTS.clone(), report_lost);
    let started = started.map_err(StartError::Thread)?;
    let queue = QUEUE.get_or_init(|| started);
    let events = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || queue)
        // The logging library would write its errors to standard error, and would panic if standard
        // error cannot be written.
        .log_internal_errors(false)
        // Color codes are off, because programs that collect logs do not expect color codes.
        .with_ansi(false)
        .with_timer(UtcTime(Clock::system()));
    match settings.format {
        Format::Text => events.fmt_fields(TextFields).try_init(),
        Format::Json => events.json().flatten_event(true).try_init(),
    }
    .map_err(StartError::AlreadyStarted)
}

/// Writes the events that were logged before this call, at the end of the process. Waits for at
/// most one second. Does nothing if the log was not started.
pub fn finish() {
    if let Some(queue) = QUEUE.get() {
        queue.finish();
    }
}

fn report_lost(lines: u64) {
    tracing::warn!(
        lines,
        "Log lines were lost, because the log could not be written"
    );
}

/// Returns the texts of an error and of its causes in one line: `a: b: c`. A cause whose text is already at the end of
/// the line is left out, because some errors contain the text of their cause.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_word_or_directives() {
        for good in ["info", "debug", "info,sidegate=trace", "off"] {
            assert!(Level::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in [
            "warning",
            "verbose",
            "sidegate",
            "info,sidegate",
            "warning=",
            "sidegate=loud",
            "info,",
            "",
        ] {
            let error = Level::try_from(bad.to_owned()).unwrap_err();
            assert!(
                error.contains("is not a level; write error, warn"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_chain_of_causes_is_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);
        let error = Outer(io::Error::other("inner"));
        assert_eq!(chain(&error), "outer: inner");
        let error = Outer(io::Error::other(Outer(io::Error::other("outer"))));
        assert_eq!(chain(&error), "outer");
    }
}
