//! The store of one process: in memory, or in a file with a cache in memory.
//!
//! [`LocalStore`] is a handle. One thread ([`super::keeper::Keeper`]) changes the sessions. The
//! thread applies each change to the caches of all replicas before the thread answers the caller. A
//! replica is a `Sessions` value, which caches the sessions of a store. Records of used values
//! ([`super::marks`]) and leases ([`super::lease`]) are only in memory.

#![expect(
    clippy::disallowed_types,
    reason = "a lock for the marks of logins; no request with a session takes it"
)]

use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::backend::Backend;
use super::cache::SessionCache;
use super::command::{Answer, Command, ReplicaId};
use super::disk::Disk;
use super::ending::{End, EndReason};
use super::groups::{EndAll, EndedAll, Group};
use super::keeper::{FIRST_REPLICA, Keeper, KeeperHandle, KeeperSettings};
use super::lease::{Leases, StoreLease};
use super::marks::{AllMarks, Mark, MarkKind, Once};
use super::reconfigure::{Reconfiguration, ReconfigureError, Reconfigured};
use super::store::{Opened, Opening, Replacement, Store, StoreError, StoreFuture, Which};
use super::stored::Stored;
use super::{DiskSettings, Maintained, SessionKey, StartError, StoreTag};
use crate::clock::Timestamp;
use crate::seal::KeyRing;

/// A handle with which a replica uses a local store.
#[derive(Debug)]
pub(super) struct LocalStore {
    commands: mpsc::Sender<Command>,
    cache: Arc<SessionCache>,
    replica: ReplicaId,
    count: Arc<AtomicU64>,
    store_tag: StoreTag,
    is_durable: bool,
    marks: Arc<Mutex<AllMarks>>,
    leases: Arc<Leases>,
}

impl LocalStore {
    /// Creates a store in memory and starts its thread.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub(super) fn in_memory(settings: KeeperSettings) -> Result<Self, StartError> {
        let keeper = Keeper::new(Backend::Memory, settings);
        Self::start(StoreTag::random()?, false, keeper)
    }

    /// Opens a file and starts the thread of the store. This function blocks the calling thread. If
    /// the file is large, this function blocks the thread for some seconds.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub(super) fn on_disk(
        settings: &DiskSettings,
        keys: Arc<KeyRing>,
        keeper: KeeperSettings,
        now: Timestamp,
    ) -> Result<Self, StartError> {
        let disk = Disk::open(&settings.file, (keys, &keeper.registrations), now)?;
        let store_tag = disk.store_tag();
        let (mut keeper, handle) = Keeper::new(Backend::Disk(Box::new(disk)), keeper);
        keeper.restore(now)?;
        Self::start(store_tag, true, (keeper, handle))
    }

    fn start(
        store_tag: StoreTag,
        is_durable: bool,
        (keeper, handle): (Keeper, KeeperHandle),
    ) -> Result<Self, StartError> {
        let thread = std::thread::Builder::new().name("sessions".to_owned());
        // No code joins the thread. The thread ends when the store is closed or all handles are
        // dropped.
        thread
            .spawn(move || keeper.run())
            .map_err(StartError::Thread)?;
        Ok(Self {
            commands: handle.commands,
            cache: handle.cache,
            replica: FIRST_REPLICA,
            count: handle.count,
            store_tag,
            is_durable,
            marks: Arc::default(),
            leases: Arc::default(),
        })
    }

    /// Adds a replica to this store. The new replica has its own cache.
    #[cfg(test)]
    pub(super) fn attach(&self, capacity: u64) -> Self {
        let cache = Arc::new(self.cache.sibling(capacity));
        let (answer, answered) = std::sync::mpsc::channel();
        let attached = Arc::clone(&cache);
        let attach = Command::Attach {
            cache: attached,
            answer,
        };
        self.commands.try_send(attach).unwrap();
        Self {
            commands: self.commands.clone(),
            cache,
            replica: answered.recv().unwrap(),
            count: Arc::clone(&self.count),
            store_tag: self.store_tag,
            is_durable: self.is_durable,
            marks: Arc::clone(&self.marks),
            leases: Arc::clone(&self.leases),
        }
    }

    fn marks(&self) -> MutexGuard<'_, AllMarks> {
        // A thread may have panicked while the thread held the lock of the marks. The table of
        // marks can still be used, because a panic leaves at most one unneeded mark in the table.
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.commands.send(command(answer)).await;
        sent.map_err(|_closed| StoreError::Closed)?;
        answered.await.map_err(|_closed| StoreError::Closed)?
    }
}

impl Store for LocalStore {
    fn cache(&self) -> &Arc<SessionCache> {
        &self.cache
    }

    fn store_tag(&self) -> StoreTag {
        self.store_tag
    }

    fn outlives_cache(&self) -> bool {
        self.is_durable
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn get(&self, key: SessionKey) -> StoreFuture<'_, Option<Arc<Stored>>> {
        Box::pin(self.ask(move |answer| Command::Get { key, answer }))
    }

    fn open(&self, session: Arc<Stored>, opening: Opening) -> StoreFuture<'_, Opened> {
        let replica = self.replica;
        Box::pin(self.ask(move |answer| Command::Open {
            session,
            opening,
            replica,
            answer,
        }))
    }

    fn replace(&self, version: u64, next: Arc<Stored>) -> StoreFuture<'_, Replacement> {
        let replica = self.replica;
        Box::pin(self.ask(move |answer| Command::Replace {
            version,
            next,
            replica,
            answer,
        }))
    }

    fn end(&self, which: Which, why: EndReason) -> StoreFuture<'_, Vec<End>> {
        Box::pin(self.ask(move |answer| Command::End { which, why, answer }))
    }

    fn end_all(&self, order: EndAll) -> StoreFuture<'_, EndedAll> {
        Box::pin(self.ask(move |answer| Command::EndAll { order, answer }))
    }

    fn list(&self, group: Group) -> StoreFuture<'_, Vec<SessionKey>> {
        Box::pin(self.ask(move |answer| Command::List { group, answer }))
    }

    fn touch(&self, uses: Vec<(SessionKey, Timestamp)>) -> StoreFuture<'_, ()> {
        Box::pin(self.ask(move |answer| Command::Touch { uses, answer }))
    }

    fn once(
        &self,
        (kind, mark): (MarkKind, Mark),
        now: Timestamp,
        until: Timestamp,
    ) -> StoreFuture<'_, Once> {
        let once = self.marks().of(kind).once(mark, now, until);
        Box::pin(ready(Ok(once)))
    }

    fn unmark(&self, (kind, mark): (MarkKind, Mark)) -> StoreFuture<'_, ()> {
        self.marks().of(kind).unmark(&mark);
        Box::pin(ready(Ok(())))
    }

    fn lease(
        &self,
        key: SessionKey,
        now: Timestamp,
        until: Timestamp,
    ) -> StoreFuture<'_, StoreLease> {
        let lease = self.leases.lease(key, now, until);
        Box::pin(ready(Ok(lease)))
    }

    fn sweep(&self, now: Timestamp) -> StoreFuture<'_, Maintained> {
        Box::pin(self.ask(move |answer| Command::Sweep { now, answer }))
    }

    fn reconfigure(
        &self,
        new: Reconfiguration,
        now: Timestamp,
    ) -> StoreFuture<'_, Reconfigured, ReconfigureError> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let new = Box::new(new);
            let command = Command::Reconfigure { new, now, answer };
            let sent = self.commands.send(command).await;
            sent.map_err(|_closed| StoreError::Closed)?;
            answered.await.map_err(|_closed| StoreError::Closed)?
        })
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(self.ask(|answer| Command::Close { answer }))
    }
}
