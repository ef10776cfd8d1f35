//! Commands with a time limit.

use std::io;
use std::pin::pin;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisFuture, RedisResult, Value};
use tokio::time::timeout;

/// The number of parts into which a time limit is divided.
const PARTS: u32 = 8;

/// A connection that limits the time for each answer. All clones share one connection.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    connection: MultiplexedConnection,
    limit: Duration,
}

impl Commands {
    /// Creates the handle of a connection that has no time limit of its own.
    pub(super) fn new(connection: MultiplexedConnection, limit: Duration) -> Self {
        Self { connection, limit }
    }

    /// Lets the server send the messages of these channels.
    pub(super) async fn subscribe(&mut self, channels: &[String]) -> RedisResult<()> {
        within(self.limit, self.connection.subscribe(channels)).await
    }
}

impl ConnectionLike for Commands {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(within(
            self.limit,
            self.connection.req_packed_command(command),
        ))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let answers = self.connection.req_packed_commands(commands, offset, count);
        Box::pin(within(self.limit, answers))
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}

/// Waits for an answer. The function divides the time limit into parts and waits for one part after
/// the other. If this process does not run for a while, at most one part passes. The function then
/// still reads an answer that the server has sent meanwhile.
async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = RedisResult<T>>,
) -> RedisResult<T> {
    let part = limit.checked_div(PARTS).unwrap_or(limit);
    let mut answer = pin!(answer);
    for _ in 0..PARTS {
        if let Ok(answer) = timeout(part, &mut answer).await {
            return answer;
        }
    }
    Err(io::Error::from(io::ErrorKind::TimedOut).into())
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::time::advance;

    use super::*;
    use crate::clock::Clock;

    const LIMIT: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_the_whole_time_limit() {
        let clock = Clock::system();
        let begun = clock.instant();
        let silence = within::<()>(LIMIT, std::future::pending()).await;
        assert!(silence.unwrap_err().is_timeout());
        let waited = clock.instant().duration_since(begun);
        assert_eq!(waited.as_millis(), LIMIT.as_millis());
    }

    #[tokio::test(start_paused = true)]
    async fn f_12_a_command_does_not_fail_because_this_process_was_stopped() {
        let (sender, answer) = oneshot::channel();
        let answer = async { Ok(answer.await.unwrap()) };
        let command = tokio::spawn(within(LIMIT, answer));
        tokio::task::yield_now().await;
        advance(LIMIT * 10).await;
        tokio::task::yield_now().await;
        sender.send("answer").unwrap();
        assert_eq!(command.await.unwrap().unwrap(), "answer");
    }
}
