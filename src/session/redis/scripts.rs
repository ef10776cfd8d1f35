//! The scripts that the server runs. Each script is one transaction.
//!
//! A script gets the names of its keys as declared keys. All keys of a store are in one hash slot, because their
//! names contain the same hash tag ([`SLOT`]). A script also uses keys that it finds in indexes, which nobody
//! can declare. They are in the same slot, so a server in cluster mode accepts the scripts.

use redis::Cmd;

use super::event::Origin;
use crate::session::groups::ProviderSessionHash;
use crate::session::index::UserHash;

/// Joins the shared functions with the text of a script.
macro_rules! script {
    ($name:literal) => {
        concat!(
            include_str!("lua/common.lua"),
            include_str!(concat!("lua/", $name, ".lua"))
        )
    };
}

pub(super) const ARRIVE: &str = script!("arrive");
pub(super) const OPEN: &str = script!("open");
pub(super) const REMEMBER: &str = script!("remember");
pub(super) const REPLACE: &str = script!("replace");
pub(super) const END: &str = script!("end");
pub(super) const END_ALL: &str = script!("end_all");
pub(super) const LIST: &str = script!("list");
pub(super) const TOUCH: &str = script!("touch");
pub(super) const SWEEP: &str = script!("sweep");
pub(super) const LEASE: &str = script!("lease");
pub(super) const RELEASE: &str = script!("release");
pub(super) const TAKE: &str = script!("take");

/// The hash tag in every key, which determines the slot of the key in a cluster.
const SLOT: &str = "{1}";

/// The name of a key.
pub(super) type Key = Vec<u8>;

/// The names of keys and channels.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) prefix: String,
    /// The number of the database. The channels of a server are the same in all databases.
    pub(super) database: u16,
    pub(super) origin: Origin,
}

impl Names {
    /// Begins the call of a script that uses these keys, and the index of all sessions. The caller adds
    /// the arguments of the script.
    ///
    /// The store sends the text of a script with each call. A call by the digest of the text would
    /// fail after a failover or a restart of the server, and would need a second round trip then.
    pub(super) fn call(&self, script: &str, keys: impl IntoIterator<Item = Key>) -> Cmd {
        let keys: Vec<_> = keys.into_iter().collect();
        let mut command = redis::cmd("EVAL");
        command
            .arg(script)
            .arg(keys.len().saturating_add(1))
            .arg(self.index())
            .arg(keys)
            .arg([self.origin.as_slice(), self.events().as_bytes()].concat());
        command
    }

    /// Returns the name of a key: the prefix, the hash tag, one letter for the kind, and the rest. The
    /// rest is not encoded as text, because the server needs less memory for a shorter key.
    fn key(&self, kind: u8, rest: &[u8]) -> Key {
        [self.prefix.as_bytes(), SLOT.as_bytes(), &[kind], rest].concat()
    }

    /// Returns the key of a session.
    pub(super) fn session(&self, key: &[u8]) -> Key {
        self.key(b's', key)
    }

    /// Returns the key of the lease of a session.
    pub(super) fn lease(&self, key: &[u8]) -> Key {
        self.key(b'l', key)
    }

    /// Returns the key of a mark. `kind` is one letter.
    pub(super) fn mark(&self, kind: u8, mark: &[u8]) -> Key {
        self.key(b'm', &[&[kind], mark].concat())
    }

    /// Returns the key of the index of all sessions. Its scores are the times of the last uses. The
    /// number in the name is the format version of the sessions in the index.
    pub(super) fn index(&self) -> Key {
        self.key(b'i', b"1")
    }

    /// Returns the keys of the indexes that contain a session: the sessions of its user, and of its session
    /// at the provider.
    pub(super) fn indexes(
        &self,
        user: Option<UserHash>,
        provider_session: Option<ProviderSessionHash>,
    ) -> Vec<Key> {
        let user = user.map(|hash| self.key(b'u', &hash.to_bytes()));
        let provider_session = provider_session.map(|hash| self.key(b'p', &hash.to_bytes()));
        user.into_iter().chain(provider_session).collect()
    }

    /// Returns the key that contains the time of the last end of a group. `group` is the form in which scripts
    /// know the group.
    pub(super) fn ended_at(&self, group: &[u8]) -> Key {
        self.key(b'e', group)
    }

    /// Returns the keys that an end of a group uses. `group` is the form in which scripts know the group.
    pub(super) fn of_group(&self, group: &[u8]) -> Vec<Key> {
        match group.split_first() {
            Some((b'K', keys)) => {
                let keys = keys.chunks(16);
                keys.map(|key| self.session(key)).collect()
            }
            Some((b'P', hash)) => vec![self.ended_at(group), self.key(b'p', hash)],
            Some((b'U' | b'W', hash)) => vec![self.ended_at(group), self.key(b'u', hash)],
            Some(_) => vec![self.ended_at(group)],
            None => Vec::new(),
        }
    }

    /// Returns the key that shows that this replica is running.
    pub(super) fn presence(&self) -> Key {
        self.key(b'r', &self.origin)
    }

    /// Returns the key that contains the name of the server that the replicas use.
    pub(super) fn server(&self) -> Key {
        self.key(b'v', b"")
    }

    /// Returns the key that exists while the replicas bring back their latest changes to another server.
    pub(super) fn time_to_repeat(&self) -> Key {
        self.key(b'w', b"")
    }

    /// Returns the first part of every channel.
    fn of_channels(&self) -> String {
        match self.database {
            0 => self.prefix.clone(),
            database => format!("{}{database}:", self.prefix),
        }
    }

    /// Returns the channel for changes of sessions.
    pub(super) fn events(&self) -> String {
        format!("{}events", self.of_channels())
    }

    /// Returns the channel for the heartbeats of this replica.
    pub(super) fn heartbeats(&self) -> String {
        format!("{}heartbeat:{}", self.of_channels(), hex(&self.origin))
    }
}

/// Returns the hexadecimal form of bytes.
fn hex(bytes: &[u8]) -> String {
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    nibbles
        .filter_map(|nibble| char::from_digit(nibble.into(), 16))
        .collect()
}
