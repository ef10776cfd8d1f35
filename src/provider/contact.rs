//! Whether the server could be reached lately.
//!
//! A login that cannot be completed is better not begun: before a browser is sent away, the server
//! is connected to, unless that was done a moment ago. However many logins begin at once, one of
//! them asks and the others wait for its answer.

use std::sync::Arc;
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

#[derive(Debug, Default)]
enum Last {
    #[default]
    Unknown,
    Answered(Timestamp),
    Failed(Timestamp, Option<Arc<Error>>),
}

impl Contact {
    /// Reaches the server with `reach`, unless it was reached a moment ago.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfReach`] when it fails, has failed a moment ago, or takes too long.
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
        match &*last {
            Last::Answered(at) if within(*at, FRESH) => return Ok(()),
            Last::Failed(at, cause) if within(*at, AGAIN) => {
                return Err(Error::OutOfReach {
                    retry_after: AGAIN.saturating_sub(now.since(*at)),
                    cause: cause.clone(),
                });
            }
            Last::Answered(_) | Last::Failed(..) | Last::Unknown => {}
        }
        let cause = match timeout(PATIENCE, reach).await {
            Ok(Ok(())) => {
                *last = Last::Answered(clock.now());
                return Ok(());
            }
            Ok(Err(error)) => Some(Arc::new(error)),
            Err(_elapsed) => None,
        };
        *last = Last::Failed(clock.now(), cause.clone());
        Err(Error::OutOfReach {
            retry_after: AGAIN,
            cause,
        })
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
        assert!(
            contact
                .ensure(&clock, async { Err(Error::NotReady) })
                .await
                .is_err()
        );
        clock.advance(Duration::from_secs(2));
        let error = contact.ensure(&clock, async { Ok(()) }).await.unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
        assert_eq!(error.reason(), Error::NotReady.reason());
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
