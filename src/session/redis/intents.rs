//! The interface of the store: each call runs as a task on the thread of the replica, so a change that
//! was asked for happens even if nobody waits for it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::Cmd;

use super::alarm::report_lost_ends;
use super::calls::millis;
use super::link::Link;
use super::scripts::Key;
use super::{RedisStore, Shared};
use crate::clock::Timestamp;
use crate::session::cache::SessionCache;
use crate::session::ending::{End, EndReason};
use crate::session::groups::{EndAll, EndedAll, Group};
use crate::session::lease::StoreLease;
use crate::session::marks::{Mark, MarkKind, Once};
use crate::session::reconfigure::{Reconfiguration, ReconfigureError, Reconfigured};
use crate::session::store::{Opened, Opening, Replacement, Store, StoreError, StoreFuture, Which};
use crate::session::stored::Stored;
use crate::session::{Maintained, SessionKey, StoreTag};

impl RedisStore {
    /// Runs a call on the thread of the replica.
    fn run<T, E, F>(&self, call: impl FnOnce(Arc<Shared>) -> F) -> StoreFuture<'_, T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let task = self.runtime.spawn(call(Arc::clone(&self.shared)));
        // A task ends without a result if the thread of the replica has ended.
        Box::pin(async move {
            task.await
                .unwrap_or_else(|_| Err(StoreError::Closed.into()))
        })
    }
}

impl Store for RedisStore {
    fn cache(&self) -> &Arc<SessionCache> {
        &self.shared.cache
    }

    fn store_tag(&self) -> StoreTag {
        self.store_tag
    }

    fn outlives_cache(&self) -> bool {
        true
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.shared.ready()
    }

    fn is_pending(&self, key: &SessionKey) -> bool {
        self.shared.pending.is_ended(key)
    }

    fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    fn replicas(&self) -> NonZeroU32 {
        let replicas = self.shared.replicas.load(Ordering::Relaxed);
        NonZeroU32::new(replicas).unwrap_or(NonZeroU32::MIN)
    }

    fn unreadable(&self) -> [(&'static str, u64); 3] {
        let counts = &self.shared.unreadable;
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [
            ("damaged", of(&counts.damaged)),
            ("newer", of(&counts.newer)),
            ("unknown_key", of(&counts.unknown_key)),
        ]
    }

    fn coherence(&self) -> Option<Duration> {
        Some(self.shared.settings.coherence)
    }

    fn get(&self, key: SessionKey) -> StoreFuture<'_, Option<Arc<Stored>>> {
        self.run(move |shared| shared.get(key))
    }

    fn open(&self, session: Arc<Stored>, opening: Opening) -> StoreFuture<'_, Opened> {
        self.run(move |shared| shared.open(session, opening))
    }

    fn replace(&self, version: u64, next: Arc<Stored>) -> StoreFuture<'_, Replacement> {
        self.run(move |shared| shared.replace(version, next))
    }

    fn end(&self, which: Which, why: EndReason) -> StoreFuture<'_, Vec<End>> {
        self.run(move |shared| shared.end(which, why))
    }

    fn end_all(&self, order: EndAll) -> StoreFuture<'_, EndedAll> {
        self.run(move |shared| shared.end_all(order))
    }

    fn list(&self, group: Group) -> StoreFuture<'_, Vec<SessionKey>> {
        self.run(move |shared| shared.list(group))
    }

    fn touch(&self, uses: Vec<(SessionKey, Timestamp)>) -> StoreFuture<'_, ()> {
        self.run(move |shared| shared.touch(uses))
    }

    fn once(
        &self,
        (kind, mark): (MarkKind, Mark),
        now: Timestamp,
        until: Timestamp,
    ) -> StoreFuture<'_, Once> {
        self.run(move |shared| shared.once((kind, mark), (now, until)))
    }

    fn unmark(&self, (kind, mark): (MarkKind, Mark)) -> StoreFuture<'_, ()> {
        self.run(move |shared| shared.unmark((kind, mark)))
    }

    fn lease(
        &self,
        key: SessionKey,
        now: Timestamp,
        until: Timestamp,
    ) -> StoreFuture<'_, StoreLease> {
        let runtime = self.runtime.clone();
        self.run(move |shared| shared.lease(runtime, key, (now, until)))
    }

    fn sweep(&self, now: Timestamp) -> StoreFuture<'_, Maintained> {
        self.run(move |shared| shared.sweep(now))
    }

    fn reconfigure(
        &self,
        new: Reconfiguration,
        now: Timestamp,
    ) -> StoreFuture<'_, Reconfigured, ReconfigureError> {
        self.run(move |shared| shared.reconfigure(new, now))
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        self.run(|shared| async move {
            // The server answers after all earlier commands, such as the releases of leases.
            drop(shared.send::<redis::Value>(&redis::cmd("PING")).await);
            let last = shared.link.borrow().clone();
            if let Link::Up(mut commands) = last {
                // The warning below reports a failure.
                drop(shared.make_pending(&mut commands).await);
            }
            report_lost_ends(shared.pending.number_of_ends());
            shared.link.send_replace(Link::Closed);
            Ok(())
        })
    }

    #[cfg(test)]
    fn settle(&self) -> StoreFuture<'_, ()> {
        self.run(Shared::settle)
    }
}

impl Shared {
    async fn once(
        self: Arc<Self>,
        (kind, mark): (MarkKind, Mark),
        (now, until): (Timestamp, Timestamp),
    ) -> Result<Once, StoreError> {
        let name = self.mark_name(kind, &mark);
        let set: Option<String> = self.send(&set_mark(&name, until.since(now))).await?;
        if set.is_none() {
            return Ok(Once::Repeated);
        }
        self.journal.note_mark(name, until, self.clock.now());
        Ok(Once::First)
    }

    async fn unmark(self: Arc<Self>, (kind, mark): (MarkKind, Mark)) -> Result<(), StoreError> {
        let name = self.mark_name(kind, &mark);
        self.journal.forget_mark(&name);
        let mut command = redis::cmd("DEL");
        command.arg(name);
        self.send(&command).await
    }

    fn mark_name(&self, kind: MarkKind, mark: &Mark) -> Key {
        let kind = match kind {
            MarkKind::Form => b'f',
            MarkKind::State => b's',
            MarkKind::Ticket => b't',
        };
        self.names.mark(kind, mark)
    }
}

/// Returns the command that sets a mark, unless the mark exists.
pub(super) fn set_mark(name: &[u8], lifetime: Duration) -> Cmd {
    let mut command = redis::cmd("SET");
    let lifetime = millis(lifetime).max(1);
    command.arg(name).arg("").arg("NX").arg("PX").arg(lifetime);
    command
}
