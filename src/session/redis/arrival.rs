//! The arrival at a server that may lack the latest changes of its predecessor.
//!
//! A replica of the gateway writes the name of its server to the store. After a failover or a restart, the server has
//! another name. The first replica of the gateway that arrives there then writes a key with a limited time to live.
//! While this key exists, no replica gets a new lease. During this time, the other replicas also arrive, and bring back
//! what the server lacks ([`super::journal`]): their leases, and the token sets of their refreshes. Without this time,
//! a replica could use a refresh token that another replica has already used.
//!
//! The command `WAIT` cannot replace this time. While the server waits for its replicas, it runs no other command of the
//! connection. After a failover from one of two servers, the new master has no replica that could confirm a change.

use std::time::Duration;

use redis::{InfoDict, RedisError};

use super::Shared;
use super::calls::millis;
use super::connect::Open;
use super::link::LONGEST_PAUSE;
use super::scripts::ARRIVE;

impl Shared {
    /// Notes at the server that this replica uses the server now.
    pub(super) async fn arrive(&self, open: &mut Open) -> Result<(), RedisError> {
        self.alarm.eviction(open.eviction.as_deref());
        let Some(name) = &open.name else {
            self.alarm.server_unknown();
            return Ok(());
        };
        let keys = [self.names.server(), self.names.time_to_repeat()];
        let mut command = self.names.call(ARRIVE, keys);
        command.arg(name).arg(millis(self.time_to_repeat()));
        let waits: Result<i64, _> = command.query_async(&mut open.commands).await;
        match waits {
            Ok(0) => Ok(()),
            Ok(_) => {
                tracing::info!(
                    store.server = open.server,
                    "The session store uses another server; refreshes begin when the replicas have \
                     repeated their latest changes"
                );
                Ok(())
            }
            result => super::journal::unless_refused(result),
        }
    }

    /// Returns the time within which the replicas notice that they have lost their server, and connect to another.
    fn time_to_repeat(&self) -> Duration {
        let noticed = self.patience().saturating_mul(2);
        noticed.saturating_add(LONGEST_PAUSE)
    }
}

/// Returns the name of a server, which changes at a restart, and when the server becomes a master.
pub(super) fn name(info: &InfoDict) -> Option<String> {
    let run: String = info.get("run_id")?;
    let history: String = info.get("master_replid")?;
    Some(format!("{run}:{history}"))
}
