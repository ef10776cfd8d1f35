//! Whether the server could be reached lately.
//!
//! A login that cannot be completed is better not begun: before a browser is sent away, the server
//! is connected to, unless that was done a moment ago. However many logins begin at once, one of
//! them asks and the others wait for its answer.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::Error;
use crate::clock::{Clock, Timestamp};

/// For how long a server that answered is taken to be there.
const FRESH: Duration = Duration::from_secs(10);

/// How long a server that did not answer is left alone.
const AGAIN: Duration = Duration::from_secs(5);

/// How long a person waits for a server that says nothing at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known of the server's being there.
#[derive(Debug, Default)]
pub(super) struct Contact(Mutex<Last>);

#[derive(Clone, Copy, Debug, Default)]
enum Last {
    #[default]
    Unknown,
    Answered(Timestamp),
    Failed(Timestamp),
}

impl Contact {
    /// Reaches the server with `reach`, unless it was reached a moment ago.
    ///
    /// # Errors
    ///
    /// What `reach` says; [`Error::OutOfReach`] when it failed a moment ago, or takes too long.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped the next one reaches again.
    pub(super) async fn ensure(
        &self,
        clock: &Clock,
        reach: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        let mut last = self.0.lock().await;
        let now = clock.now();
        // A clock that was set back makes neither of them last.
        let within = |at: Timestamp, time| at <= now && now.since(at) < time;
        match *last {
            Last::Answered(at) if within(at, FRESH) => return Ok(()),
            Last::Failed(at) if within(at, AGAIN) => {
                let retry_after = AGAIN.saturating_sub(now.since(at));
                return Err(Error::OutOfReach { retry_after });
            }
            Last::Answered(_) | Last::Failed(_) | Last::Unknown => {}
        }
        let retry_after = AGAIN;
        let reached = timeout(PATIENCE, reach)
            .await
            .unwrap_or(Err(Error::OutOfReach { retry_after }));
        *last = match reached {
            Ok(()) => Last::Answered(clock.now()),
            Err(_) => Last::Failed(clock.now()),
        };
        reached
    }

    /// Forgets that the server answered: a call of it has failed since.
    pub(super) async fn doubt(&self) {
        *self.0.lock().await = Last::Unknown;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const RETRY: Duration = AGAIN;

    fn refusal() -> Error {
        Error::OutOfReach { retry_after: RETRY }
    }

    #[tokio::test]
    async fn a_server_is_asked_again_when_its_answer_is_old() {
        let (contact, clock) = (Contact::default(), Clock::manual(Timestamp::default()));
        let asked = Cell::new(0);
        let ask = async || {
            asked.set(asked.get() + 1);
            Ok(())
        };
        for (wait, times) in [(0, 1), (9, 1), (1, 2)] {
            clock.advance(Duration::from_secs(wait));
            contact.ensure(&clock, ask()).await.unwrap();
            assert_eq!(asked.get(), times);
        }
        contact.doubt().await;
        contact.ensure(&clock, ask()).await.unwrap();
        assert_eq!(asked.get(), 3);
    }

    #[tokio::test]
    async fn a_server_that_is_down_is_left_alone_for_a_while() {
        let (contact, clock) = (Contact::default(), Clock::manual(Timestamp::default()));
        assert!(contact.ensure(&clock, async { Err(refusal()) }).await.is_err());
        clock.advance(Duration::from_secs(2));
        let error = contact.ensure(&clock, async { Ok(()) }).await.unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
        clock.advance(Duration::from_secs(3));
        assert!(contact.ensure(&clock, async { Ok(()) }).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let (contact, clock) = (Contact::default(), Clock::manual(Timestamp::default()));
        let never = std::future::pending();
        let error = contact.ensure(&clock, never).await.unwrap_err();
        assert!(matches!(error, Error::OutOfReach { .. }));
    }
}
