//! Moves the sessions of a session file to the shared store, while no gateway uses the file.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;

use super::calls::{lifetime, score};
use super::scripts::TAKE;
use super::settings::RedisSettings;
use super::{RedisStore, Replica, Shared};
use crate::clock::Clock;
use crate::seal::KeyRing;
use crate::session::backend::{Change, Loaded};
use crate::session::disk::Disk;
use crate::session::groups::ProviderSessionHash;
use crate::session::limits::Limits;
use crate::session::registration::provider_hash;
use crate::session::{
    FileError, LimitsOfProviders, Registrations, SessionKey, StartError, StoreError,
};

/// The number of sessions in one round trip.
const AT_ONCE: usize = 100;

/// The result of a move of sessions.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Moved {
    /// The number of sessions that the shared store contains now and did not contain before.
    pub moved: u64,
    /// The number of sessions that the shared store already contained.
    pub known: u64,
}

/// The reason why sessions could not be moved. The operator is responsible for this error. The
/// shared store can already contain some of the sessions, and the file contains the other sessions.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The session file cannot be used.
    #[error("the file of sessions cannot be used")]
    File(#[from] FileError),
    /// The settings name no shared store.
    #[error("session.store of the settings names no shared store; write session.store.redis")]
    NoSharedStore,
    /// The shared store cannot be used.
    #[error("the shared store cannot be used")]
    Start(#[from] StartError),
    /// The shared store did not accept a session.
    #[error("a session could not be moved")]
    Store(#[from] StoreError),
}

/// The shared store to which sessions are moved, and the data that their validity depends on.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) settings: RedisSettings,
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) providers: Registrations,
    /// A session that nobody has used for this time is not moved.
    pub(crate) idle: Duration,
}

/// Moves the valid sessions of a file to the shared store. The file must have been written with the
/// same keys. A session that the shared store has accepted or already contains is removed from the
/// file, so that a later move does not bring back a session that has ended meanwhile. This function
/// blocks the calling thread, which must not be in a runtime.
///
/// # Errors
///
/// [`MoveError`].
pub(crate) fn move_sessions(
    from: &Path,
    to: Destination,
    clock: &Clock,
) -> Result<Moved, MoveError> {
    let runtime = Builder::new_current_thread().build();
    let runtime = runtime.map_err(StartError::Thread)?;
    let sealed = (Arc::clone(&to.keys), &to.providers);
    let mut disk = Disk::open(from, sealed, clock.now())?;
    let limits = Limits::new(to.idle, to.idle, 1, LimitsOfProviders::new());
    let replica = Replica {
        limits: Arc::clone(&limits),
        capacity: 0,
        registrations: to.providers.clone(),
        keys: to.keys,
        clock: clock.clone(),
    };
    let store = RedisStore::start(to.settings, replica)?;
    let mut result = Ok(Moved::default());
    let (mut waiting, mut accepted) = (Vec::new(), Vec::new());
    let mut send = |some: Vec<(SessionKey, Loaded)>, result: &mut Result<Moved, StoreError>| {
        if let Ok(moved) = result {
            let keys: Vec<SessionKey> = some.iter().map(|(key, _)| *key).collect();
            let work = Arc::clone(&store.shared).take(some);
            let task = store.runtime.spawn(work);
            let taken = runtime.block_on(task);
            match taken.unwrap_or(Err(StoreError::Closed)) {
                Ok(some) => {
                    moved.moved = moved.moved.saturating_add(some.moved);
                    moved.known = moved.known.saturating_add(some.known);
                    accepted.extend(keys);
                }
                Err(error) => *result = Err(error),
            }
        }
    };
    disk.restore(&limits, clock.now(), |key, loaded| {
        waiting.push((key, loaded));
        if waiting.len() >= AT_ONCE {
            send(std::mem::take(&mut waiting), &mut result);
        }
    })?;
    send(waiting, &mut result);
    let removed = accepted.into_iter().map(Change::Remove);
    disk.commit(&removed.collect::<Vec<_>>())?;
    Ok(result?)
}

impl Shared {
    /// Stores sessions of another store.
    async fn take(self: Arc<Self>, some: Vec<(SessionKey, Loaded)>) -> Result<Moved, StoreError> {
        if some.is_empty() {
            return Ok(Moved::default());
        }
        let mut commands = redis::pipe();
        let count = some.len();
        for (key, loaded) in some {
            let provider_session = ProviderSessionHash::of_contents(&loaded.contents);
            let registrations = self.registrations.load();
            let name = &loaded.contents.provider;
            let registration = registrations.get(name).ok_or(StoreError::Damaged)?;
            let provider = provider_hash(name, registration);
            let session = loaded.into_stored(key);
            let sealed = self.seal(&session, provider_session, provider)?;
            let indexes = self.names.indexes(session.user(), provider_session);
            let keys = [self.names.session(key.as_bytes())]
                .into_iter()
                .chain(indexes);
            let mut command = self.names.call(TAKE, keys);
            command
                .arg(key.as_bytes().as_slice())
                .arg(sealed)
                .arg(lifetime(&session, self.clock.now()))
                .arg(score(session.last_used()))
                .arg(score(session.ends_at()));
            commands.add_command(command);
        }
        let taken: Vec<u64> = self.send_all(&commands).await?;
        let moved = taken.iter().sum();
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        Ok(Moved {
            moved,
            known: count.saturating_sub(moved),
        })
    }
}
