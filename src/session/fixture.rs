//! A fixture for tests of sessions: a store that can be started and stopped, and values for the
//! store.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::disk::Disk;
use super::*;
use crate::clock::Clock;
use crate::identity::Claim;
use crate::seal::{Keys, Purpose};
use crate::token::Lifetime;

/// The handles of two replicas of one store, and their limits.
pub(super) type TwoStores = ([Arc<dyn Store>; 2], Arc<Limits>);

/// The settings of a store that a test can stop and start.
pub(super) struct Fixture {
    pub(super) settings: Settings,
    pub(super) providers: Registrations,
    pub(super) keys: Vec<u8>,
    pub(super) folder: tempfile::TempDir,
    /// The replica that the tests use.
    pub(super) replica: Replica,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Replica {
    First,
    Second,
}

impl Fixture {
    pub(super) fn memory() -> Self {
        Self {
            settings: Settings {
                idle: Duration::from_mins(1),
                absolute: Duration::from_mins(10),
                capacity: 10 * 1024 * 1024,
                per_person: 3,
                of_providers: BTreeMap::new(),
                refresh_wait: Duration::from_secs(10),
                store: StoreSettings::Memory,
            },
            providers: Registrations::from([("op".into(), [0; 32])]),
            keys: vec![1],
            folder: tempfile::tempdir().unwrap(),
            replica: Replica::First,
        }
    }

    pub(super) fn disk() -> Self {
        let mut fixture = Self::memory();
        fixture.settings.store = StoreSettings::Disk(DiskSettings {
            file: fixture.file(),
        });
        fixture
    }

    /// Returns a fixture with a file, and with a cache that has room for only a few sessions.
    pub(super) fn crowded() -> Self {
        let mut fixture = Self::disk();
        fixture.settings.capacity = 10 * 1024;
        fixture
    }

    /// Returns a fixture whose tests use the second replica of a store with a file.
    pub(super) fn second() -> Self {
        let mut fixture = Self::disk();
        fixture.replica = Replica::Second;
        fixture
    }

    /// Returns a fixture whose store is a real Redis server. Each fixture has its own sessions.
    pub(super) fn redis() -> Self {
        let mut fixture = Self::memory();
        fixture.settings.store = StoreSettings::Redis(Box::new(redis::server::settings()));
        fixture
    }

    /// Returns a fixture whose tests use the second replica of a store with a Redis server. The
    /// cache has room for only a few sessions.
    pub(super) fn redis_second() -> Self {
        let mut fixture = Self::redis();
        fixture.settings.capacity = 10 * 1024;
        fixture.replica = Replica::Second;
        fixture
    }

    /// Returns one fixture for every kind of store and replica.
    pub(super) fn every() -> [Self; 6] {
        let kits = [
            Self::memory(),
            Self::disk(),
            Self::crowded(),
            Self::second(),
            Self::redis(),
            Self::redis_second(),
        ];
        println!("stores: {kits:?}");
        kits
    }

    /// Returns one fixture for every kind of store that several replicas can share.
    pub(super) fn shared() -> [Self; 2] {
        let kits = [Self::disk(), Self::redis()];
        println!("stores: {kits:?}");
        kits
    }

    pub(super) fn is_durable(&self) -> bool {
        self.settings.store != StoreSettings::Memory
    }

    pub(super) fn file(&self) -> PathBuf {
        self.folder.path().join("sessions.redb")
    }

    /// Opens the session file without a store.
    pub(super) fn open_disk(&self) -> Disk {
        let sealed = (Arc::new(self.ring()), &self.providers);
        Disk::open(&self.file(), sealed, NOW).unwrap()
    }

    pub(super) fn ring(&self) -> KeyRing {
        let path = self.folder.path().join("keys");
        let lines = self.keys.iter().map(|byte| STANDARD.encode([*byte; 32]));
        std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
        let keys = Keys::from_file(&path).unwrap();
        keys.ring(Purpose::Sessions).unwrap()
    }

    pub(super) fn try_start(&self, now: Timestamp) -> Result<Sessions, StartError> {
        let clock = Clock::manual(now);
        match self.replica {
            Replica::First => {
                Sessions::start(self.settings.clone(), self.ring(), &self.providers, &clock)
            }
            Replica::Second => {
                let ([_first, second], limits) = self.stores(now)?;
                Ok(Sessions::on(second, limits, clock))
            }
        }
    }

    /// Starts two replicas of one store. A replica is a `Sessions` value, which caches the sessions
    /// of a store.
    pub(super) fn start_two(&self, now: Timestamp) -> [Sessions; 2] {
        let (stores, limits) = self.stores(now).unwrap();
        stores.map(|store| Sessions::on(store, Arc::clone(&limits), Clock::manual(now)))
    }

    /// Returns the handles of two replicas of one store.
    pub(super) fn stores(&self, now: Timestamp) -> Result<TwoStores, StartError> {
        let StoreSettings::Redis(redis) = &self.settings.store else {
            let ([first, second], limits) = self.local_stores(now)?;
            return Ok(([Arc::new(first), Arc::new(second)], limits));
        };
        let limits = self.limits();
        let start = || {
            let replica = redis::Replica {
                limits: Arc::clone(&limits),
                capacity: self.settings.capacity,
                registrations: self.providers.clone(),
                keys: self.ring().into(),
                clock: Clock::manual(now),
            };
            RedisStore::start((**redis).clone(), replica)
        };
        let stores: [Arc<dyn Store>; 2] = [Arc::new(start()?), Arc::new(start()?)];
        Ok((stores, limits))
    }

    /// Returns the handles of two replicas of one local store.
    pub(super) fn local_stores(
        &self,
        now: Timestamp,
    ) -> Result<([LocalStore; 2], Arc<Limits>), StartError> {
        let settings = self.keeper_settings();
        let limits = Arc::clone(&settings.limits);
        let first = match &self.settings.store {
            StoreSettings::Disk(disk) => {
                LocalStore::on_disk(disk, self.ring().into(), settings, now)?
            }
            StoreSettings::Memory | StoreSettings::Redis(_) => LocalStore::in_memory(settings)?,
        };
        let second = first.attach(self.settings.capacity);
        Ok(([first, second], limits))
    }

    pub(super) fn start(&self, now: Timestamp) -> Sessions {
        self.try_start(now).unwrap()
    }

    pub(super) fn limits(&self) -> Arc<Limits> {
        let settings = &self.settings;
        Limits::new(
            settings.idle,
            settings.absolute,
            settings.per_person,
            settings.of_providers.clone(),
        )
    }

    /// Returns the settings of the keeper, which is the thread of the store.
    pub(super) fn keeper_settings(&self) -> KeeperSettings {
        KeeperSettings {
            limits: self.limits(),
            capacity: self.settings.capacity,
            registrations: self.providers.clone(),
        }
    }

    /// Returns the settings of this fixture for a reload.
    pub(super) fn reconfiguration(&self) -> Reconfiguration {
        Reconfiguration {
            of_providers: self.settings.of_providers.clone(),
            idle: self.settings.idle,
            absolute: self.settings.absolute,
            per_person: self.settings.per_person,
            keys: Some(self.ring().into()),
            registrations: self.providers.clone(),
        }
    }

    /// Returns the message that an operator sees if the start fails.
    pub(super) fn refusal(&self) -> String {
        let error = self.try_start(NOW).map(|_| ()).unwrap_err();
        crate::telemetry::chain(&error)
    }
}

impl fmt::Debug for Fixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {:?}", self.replica, self.settings.store)
    }
}

/// Starts two replicas of one store. The session file of the store is in `folder`. The replicas act
/// like two processes.
pub(crate) fn two_replicas(
    folder: &Path,
    providers: &Registrations,
    now: Timestamp,
) -> [Sessions; 2] {
    let mut fixture = Fixture::disk();
    let file = folder.join("sessions.redb");
    fixture.settings.store = StoreSettings::Disk(DiskSettings { file });
    fixture.settings.idle = Duration::from_hours(1);
    fixture.settings.absolute = Duration::from_hours(8);
    fixture.providers.clone_from(providers);
    fixture.start_two(now)
}

/// Starts two replicas of one store in a Redis server. The replicas act like two processes.
pub(crate) fn two_redis_replicas(providers: &Registrations, now: Timestamp) -> [Sessions; 2] {
    let mut fixture = Fixture::redis();
    fixture.settings.idle = Duration::from_hours(1);
    fixture.settings.absolute = Duration::from_hours(8);
    fixture.providers.clone_from(providers);
    fixture.start_two(now)
}

pub(super) const NOW: Timestamp = Timestamp::from_millis(1_000_000);

pub(super) fn clock() -> Clock {
    Clock::manual(NOW)
}

pub(super) fn user(subject: &str) -> Identity {
    Identity {
        subject: Claim::new(subject),
        ..Identity::nameless("op")
    }
}

pub(super) fn tokens(access_token: &str) -> TokenSet {
    TokenSet::new(access_token, Some("refresh"), Lifetime::default()).unwrap()
}

pub(super) fn login(subject: &str) -> NewSession<'static> {
    NewSession {
        provider: "op",
        registration: [0; 32],
        identity: user(subject),
        tokens: tokens("token-0"),
        replaces: Vec::new(),
        sid: None,
        device: None,
        begun_at: NOW,
    }
}

pub(super) async fn open(sessions: &Sessions, subject: &str, now: Timestamp) -> SessionId {
    sessions.open(login(subject), now).await.unwrap()
}

/// Looks up a session, and fetches the session if it is not in memory. If the cache is full and
/// evicts the session immediately after the fetch, the function fetches the session again.
pub(super) async fn found(sessions: &Sessions, id: &SessionId, now: Timestamp) -> Lookup {
    for _ in 0..100 {
        let lookup = sessions.find(id, now);
        if !matches!(lookup, Lookup::Away) {
            return lookup;
        }
        if sessions.fetch(&id.key()).await.unwrap().is_none() {
            return Lookup::Unknown;
        }
    }
    Lookup::Away
}

pub(super) async fn session(sessions: &Sessions, id: &SessionId) -> Arc<Session> {
    let lookup = found(sessions, id, NOW).await;
    let Lookup::Live(session) = lookup else {
        panic!("{lookup:?}")
    };
    session
}

pub(super) async fn live(sessions: &Sessions, id: &SessionId, now: Timestamp) -> bool {
    matches!(found(sessions, id, now).await, Lookup::Live(_))
}
