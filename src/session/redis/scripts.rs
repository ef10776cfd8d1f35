//! The scripts that the server runs. Each script is one transaction.

use redis::Cmd;

use super::event::Origin;

/// Joins the shared functions with the text of a script.
macro_rules! script {
    ($name:literal) => {
        concat!(
            include_str!("lua/common.lua"),
            include_str!(concat!("lua/", $name, ".lua"))
        )
    };
}

pub(super) const OPEN: &str = script!("open");
pub(super) const REPLACE: &str = script!("replace");
pub(super) const END: &str = script!("end");
pub(super) const END_ALL: &str = script!("end_all");
pub(super) const LIST: &str = script!("list");
pub(super) const TOUCH: &str = script!("touch");
pub(super) const SWEEP: &str = script!("sweep");
pub(super) const LEASE: &str = script!("lease");
pub(super) const RELEASE: &str = script!("release");
pub(super) const TAKE: &str = script!("take");

/// The names of keys and channels.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) prefix: String,
    /// The number of the database. The channels of a server are the same in all databases.
    pub(super) database: u16,
    pub(super) origin: Origin,
}

impl Names {
    /// Begins the call of a script. The caller adds the arguments of the script.
    ///
    /// The store sends the text of a script with each call. A call by the digest of the text would
    /// fail after a failover or a restart of the server, and would need a second round trip then.
    pub(super) fn call(&self, script: &str) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command
            .arg(script)
            .arg(0)
            .arg(&self.prefix)
            .arg([self.origin.as_slice(), self.events().as_bytes()].concat());
        command
    }

    /// Returns the key of a session. The hash in the key is not encoded as text, because the server
    /// needs less memory for a shorter key.
    pub(super) fn session(&self, key: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), b"{s", key, b"}"].concat()
    }

    /// Returns the key of a mark. `kind` is one letter.
    pub(super) fn mark(&self, kind: char, mark: &[u8]) -> String {
        format!("{}{{m{kind}{}}}", self.prefix, hex(mark))
    }

    /// Returns the key of the index of all sessions. Its scores are the times of the last uses. The
    /// number in the name is the format version of the sessions in the index.
    pub(super) fn index(&self) -> String {
        format!("{}{{i1}}", self.prefix)
    }

    /// Returns the key that shows that this replica is running.
    pub(super) fn presence(&self) -> String {
        format!("{}{{r{}}}", self.prefix, hex(&self.origin))
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
