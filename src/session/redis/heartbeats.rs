//! The heartbeats of a connection, and the messages that the server sends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{Cmd, PushInfo, PushKind, RedisError, Value};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Shared;
use super::commands::Commands;
use super::error::{Meaning, meaning};
use super::event::Message;
use crate::clock::{Clock, Timestamp};
use crate::session::cache::Event;
use crate::telemetry::chain;

/// A message of the connection to the task that watches over the connection.
#[derive(Debug)]
pub(super) enum Signal {
    /// The server has sent back the heartbeat with this number.
    Heartbeat(u64),
    /// The server is busy for a while.
    Busy(RedisError),
    /// The connection must be replaced, because of this error.
    Lost(RedisError),
    /// The connection was closed, or the Sentinels name another server.
    Closed,
    /// Whether the Sentinels, or a replica of the server, have confirmed that the server is the master.
    Confirmation(bool),
}

/// The heartbeats of a connection that have not come back yet.
#[derive(Debug)]
pub(super) struct Heartbeats {
    /// The time between two heartbeats.
    interval: Duration,
    number: u64,
    /// The time at which the last heartbeat was sent.
    last: Option<Instant>,
    /// The heartbeats with their numbers, oldest first.
    sent: VecDeque<(u64, Timestamp, Instant)>,
}

impl Heartbeats {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            number: 0,
            last: None,
            sent: VecDeque::new(),
        }
    }

    /// Notes that a heartbeat is sent now. Returns its number.
    pub(super) fn begin(&mut self, clock: &Clock) -> u64 {
        self.number = self.number.wrapping_add(1);
        let now = clock.instant();
        self.forgive_delay(now);
        self.last = Some(now);
        self.sent.push_back((self.number, clock.now(), now));
        self.number
    }

    /// A late heartbeat means that this task did not run for a while, or waited for another answer of
    /// the server. This time does not count as a silence of the server.
    fn forgive_delay(&mut self, now: Instant) {
        let Some(last) = self.last else { return };
        let delay = now
            .saturating_duration_since(last)
            .saturating_sub(self.interval);
        if delay < self.interval {
            return;
        }
        for (_, _, sent) in &mut self.sent {
            *sent = sent.checked_add(delay).unwrap_or(now).min(now);
        }
    }

    /// Notes that a heartbeat came back. Returns the time at which it was sent.
    pub(super) fn end(&mut self, number: u64) -> Option<Timestamp> {
        while let Some((first, at, _)) = self.sent.front().copied()
            && first <= number
        {
            self.sent.pop_front();
            if first == number {
                return Some(at);
            }
        }
        None
    }

    /// Returns the time for which the oldest heartbeat has been under way, without the time during
    /// which this process did not run.
    pub(super) fn waiting(&self, clock: &Clock) -> Duration {
        let oldest = self.sent.front().map(|(_, _, sent)| *sent);
        let waiting = oldest.map(|sent| clock.instant().saturating_duration_since(sent));
        waiting.unwrap_or_default()
    }
}

impl Shared {
    /// Sends a heartbeat, and asks for the number of sessions and for the number of replicas. The
    /// heartbeat also writes a key, so that the replica notices if the server refuses writes.
    pub(super) fn beat(
        self: &Arc<Self>,
        mut commands: Commands,
        number: u64,
        signals: mpsc::UnboundedSender<Signal>,
    ) {
        let mut beat = redis::pipe();
        beat.ignore_errors()
            .cmd("PUBLISH")
            .arg(self.names.heartbeats())
            .arg(number.to_be_bytes().as_slice())
            .cmd("ZCARD")
            .arg(self.names.index())
            .add_command(self.presence())
            .cmd("PUBSUB")
            .arg("NUMSUB")
            .arg(self.names.events());
        let shared = Arc::clone(self);
        let beating = async move {
            let answers: Result<Vec<Result<Value, RedisError>>, _> =
                beat.query_async(&mut commands).await;
            let error = match answers {
                Ok(answers) => {
                    if let Some(Ok(Value::Int(count))) = answers.get(1) {
                        shared.note_count(*count);
                    }
                    if let Some(Err(error)) = answers.first()
                        && meaning(error) == Meaning::Refused
                    {
                        let now = shared.clock.since_epoch();
                        shared.alarm.refused_command(error, now);
                    }
                    shared.note_replicas(answers.get(3));
                    shared.note_write(answers.get(2))
                }
                Err(error) => Some(error),
            };
            let signal = match error {
                Some(error) if error.is_timeout() => return,
                Some(error) => match meaning(&error) {
                    Meaning::Busy => Signal::Busy(error),
                    Meaning::Reconnect => Signal::Lost(error),
                    Meaning::Refused => return,
                },
                None => return,
            };
            // The receiver is closed if the connection was already replaced.
            drop(signals.send(signal));
        };
        tokio::spawn(beating);
    }

    /// Looks at the answer to the write of a heartbeat. Returns the error if there is one.
    fn note_write(&self, answer: Option<&Result<Value, RedisError>>) -> Option<RedisError> {
        match answer? {
            Ok(_) => {
                self.alarm.accepted();
                None
            }
            Err(error) => {
                if meaning(error) == Meaning::Refused {
                    self.alarm.refused(&chain(error));
                }
                Some(error.clone())
            }
        }
    }

    pub(super) fn note_count(&self, count: i64) {
        if let Ok(count) = u64::try_from(count) {
            self.count.store(count, Ordering::Relaxed);
        }
    }

    /// Notes the number of replicas: the number of connections that get the messages about changes.
    fn note_replicas(&self, answer: Option<&Result<Value, RedisError>>) {
        if let Some(Err(error)) = answer {
            self.alarm.replicas_unknown(error);
        }
        // The answer contains the name of the channel and the number.
        if let Some(Ok(Value::Array(answer))) = answer
            && let Some(Value::Int(replicas)) = answer.last()
            && let Ok(replicas) = u32::try_from(*replicas)
        {
            self.replicas.store(replicas, Ordering::Relaxed);
        }
    }

    /// Returns the command that shows that this replica is running.
    pub(super) fn presence(&self) -> Cmd {
        let lifetime = self.settings.coherence.saturating_mul(60);
        let mut command = redis::cmd("SET");
        command
            .arg(self.names.presence())
            .arg("")
            .arg("PX")
            .arg(u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX));
        command
    }

    /// Handles a message of the server. The connection calls this function in the order in which the
    /// server has sent the messages and the answers to commands.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library has many kinds of messages, and the enum is non-exhaustive"
    )]
    pub(super) fn receive(
        &self,
        push: PushInfo,
        signals: &mpsc::UnboundedSender<Signal>,
    ) -> Result<(), ()> {
        let signal = match push.kind {
            PushKind::Disconnection => Signal::Closed,
            PushKind::Message => {
                let mut data = push.data.into_iter();
                let (Some(channel), Some(Value::BulkString(payload))) = (data.next(), data.next())
                else {
                    return Ok(());
                };
                if channel == Value::BulkString(self.names.events().into_bytes()) {
                    self.apply(&payload);
                    return Ok(());
                }
                match payload.as_slice().try_into() {
                    Ok(number) => Signal::Heartbeat(u64::from_be_bytes(number)),
                    Err(_) => return Ok(()),
                }
            }
            _ => return Ok(()),
        };
        signals.send(signal).map_err(drop)
    }

    /// Applies a message of another replica to the cache.
    fn apply(&self, payload: &[u8]) {
        let Some(message) = Message::read(payload) else {
            return;
        };
        if message.origin == self.names.origin {
            // This replica applies its own changes when it gets the answers to its commands.
            return;
        }
        for event in message.events {
            // The cache may already contain a newer version, which this replica has stored.
            if let (Event::Replaced(key), Some(version)) = (&event, message.version)
                && let Some(cached) = self.cache.live(key)
                && cached.version() >= version
            {
                continue;
            }
            self.cache.apply(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const INTERVAL: Duration = Duration::from_millis(250);

    #[tokio::test(start_paused = true)]
    async fn the_silence_of_a_server_is_measured() {
        let clock = Clock::system();
        let mut heartbeats = Heartbeats::new(INTERVAL);
        for number in 1..=8 {
            assert_eq!(heartbeats.begin(&clock), number);
            advance(INTERVAL).await;
        }
        assert_eq!(heartbeats.waiting(&clock), INTERVAL * 8);
        assert!(heartbeats.end(7).is_some() && heartbeats.end(7).is_none());
        assert_eq!(heartbeats.waiting(&clock), INTERVAL);
    }

    #[tokio::test(start_paused = true)]
    async fn f_12_the_time_during_which_this_process_was_stopped_is_no_silence() {
        let clock = Clock::system();
        let mut heartbeats = Heartbeats::new(INTERVAL);
        let _first = heartbeats.begin(&clock);
        advance(INTERVAL).await;
        let _second = heartbeats.begin(&clock);
        advance(Duration::from_secs(10)).await;
        let _third = heartbeats.begin(&clock);
        assert_eq!(heartbeats.waiting(&clock), INTERVAL * 2);
        advance(INTERVAL).await;
        assert_eq!(heartbeats.waiting(&clock), INTERVAL * 3);
    }
}
