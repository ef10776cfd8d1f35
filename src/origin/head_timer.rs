//! The deadline by which the head of a response has to arrive.

use std::future::pending;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::progress::UploadProgress;

/// The timer for a response head.
///
/// An HTTP/1.1 connection uses one timer for all its requests, because creating and removing a
/// timer for each request is expensive.
#[derive(Default)]
pub(super) struct HeadTimer(Option<Pin<Box<Sleep>>>);

impl HeadTimer {
    /// Waits until the origin has exceeded the time limit `limit`. The time is counted from
    /// `sent_at`, or from the time at which the origin last accepted bytes of the request body.
    pub(super) async fn expired(
        &mut self,
        sent_at: Instant,
        limit: Duration,
        progress: Option<&Rc<UploadProgress>>,
    ) {
        let mut since = Some(sent_at);
        while let Some(begin) = since {
            match begin.checked_add(limit) {
                Some(due) => self.sleep_until(due).await,
                None => pending().await,
            }
            // If the origin has accepted bytes of the request body since `begin`, the origin gets
            // more time.
            since = progress
                .map(|progress| progress.waiting_since())
                .filter(|later| *later > begin);
        }
    }

    /// Waits until `due`. If the timer is set for a time before `due`, this function first waits
    /// until the timer fires, and then sets the timer to `due`. Nearly every answer arrives before
    /// the timer fires, so the timer is rarely set again. The timer is never set for a time after
    /// `due`, because a deadline only moves to a later time.
    async fn sleep_until(&mut self, due: Instant) {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        loop {
            timer.as_mut().await;
            if timer.deadline() >= due {
                return;
            }
            timer.as_mut().reset(due);
        }
    }
}
