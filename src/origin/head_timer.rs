//! How long an origin may take to answer.

use std::future::pending;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::progress::UploadProgress;

/// How long an origin has left for its response head.
///
/// The timer belongs to the connection, not to a request: arming one and taking it back costs more
/// than all else here.
#[derive(Default)]
pub(super) struct HeadTimer(Option<Pin<Box<Sleep>>>);

impl HeadTimer {
    /// Ready when the origin, asked at `asked`, has let us wait for `limit`.
    pub(super) async fn expired(
        &mut self,
        asked: Instant,
        limit: Duration,
        progress: Option<&Rc<UploadProgress>>,
    ) {
        let mut since = Some(asked);
        while let Some(begin) = since {
            match begin.checked_add(limit) {
                Some(due) => self.sleep_until(due).await,
                None => pending().await,
            }
            // Meanwhile the origin may have taken more of the request.
            since = progress
                .map(|progress| progress.waiting_since())
                .filter(|later| *later > begin);
        }
    }

    /// A timer that is due earlier is left as it is and set anew when it fires: the due time only
    /// ever moves later, and nearly every answer comes before.
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
