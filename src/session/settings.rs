//! The settings of sessions.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use super::{LimitsOfProviders, RedisSettings};

/// The settings of sessions: lifetimes, limits and the store.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, try_from = "RawSettings")]
pub struct Settings {
    /// A session ends if no request uses the session for this time.
    pub idle: Duration,
    /// A session ends this long after its login, even if the session is in use.
    pub absolute: Duration,
    /// The shorter limits of single providers, which come from the settings of the providers.
    pub of_providers: LimitsOfProviders,
    /// The maximum number of bytes of memory for all sessions.
    pub capacity: u64,
    /// The maximum number of sessions of one user. If a user with this number of sessions signs in
    /// again, the user's oldest session ends.
    pub per_person: usize,
    /// The longest time that a request waits for the refresh of its session, or for a read of the
    /// session from the store.
    pub refresh_wait: Duration,
    /// The place where sessions are stored.
    pub store: StoreSettings,
}

/// The place where sessions are stored.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreSettings {
    /// The sessions are only in memory, and they end with the process. If the sessions need more
    /// memory than `session.capacity_mib` allows, the least recently used session ends.
    #[default]
    Memory,
    /// The sessions are in a file, with a cache in memory. The sessions continue after a restart.
    Disk(DiskSettings),
    /// The sessions are in Redis or Valkey, with a cache in memory. Several replicas share the
    /// sessions.
    Redis(Box<RedisSettings>),
}

/// The settings of the session file.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSettings {
    /// The path of the file. If the file does not exist, the gateway creates the file. The folder
    /// must exist.
    pub file: PathBuf,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSettings {
    idle_secs: NonZeroU64,
    absolute_secs: NonZeroU64,
    capacity_mib: NonZeroU64,
    per_person: NonZeroUsize,
    refresh_wait_secs: NonZeroU64,
    store: StoreSettings,
}

/// The longest lifetime that browsers accept for a cookie (RFC 6265bis section 5.5).
const LONGEST_SECS: u64 = 400 * 24 * 3600;

/// The upper limit of the setting `refresh_wait_secs`, in seconds.
const LONGEST_WAIT_SECS: u64 = 300;

impl TryFrom<RawSettings> for Settings {
    type Error = String;

    fn try_from(raw: RawSettings) -> Result<Self, String> {
        let RawSettings {
            idle_secs,
            absolute_secs,
            capacity_mib,
            per_person,
            refresh_wait_secs,
            store,
        } = raw;
        let (idle_secs, absolute_secs) = (idle_secs.get(), absolute_secs.get());
        if idle_secs > absolute_secs {
            return Err(format!(
                "idle_secs ({idle_secs}) exceeds absolute_secs ({absolute_secs})"
            ));
        }
        if absolute_secs > LONGEST_SECS {
            return Err(format!(
                "absolute_secs ({absolute_secs}) exceeds the 400 days ({LONGEST_SECS}) for which \
                 browsers keep a cookie"
            ));
        }
        let refresh_wait_secs = refresh_wait_secs.get();
        if refresh_wait_secs > LONGEST_WAIT_SECS {
            return Err(format!(
                "refresh_wait_secs ({refresh_wait_secs}) exceeds {LONGEST_WAIT_SECS}: nobody waits \
                 longer for a page"
            ));
        }
        Ok(Self {
            idle: Duration::from_secs(idle_secs),
            absolute: Duration::from_secs(absolute_secs),
            of_providers: LimitsOfProviders::new(),
            capacity: capacity_mib.get().saturating_mul(1024 * 1024),
            per_person: per_person.get(),
            refresh_wait: Duration::from_secs(refresh_wait_secs),
            store,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let seconds = |seconds| NonZeroU64::new(seconds).unwrap();
        let raw = |idle, absolute| RawSettings {
            idle_secs: seconds(idle),
            absolute_secs: seconds(absolute),
            capacity_mib: NonZeroU64::MIN,
            per_person: NonZeroUsize::MIN,
            refresh_wait_secs: seconds(10),
            store: StoreSettings::Memory,
        };
        let error = Settings::try_from(raw(9, 2)).unwrap_err();
        assert_eq!(error, "idle_secs (9) exceeds absolute_secs (2)");
        let error = Settings::try_from(raw(9, 40_000_000)).unwrap_err();
        assert!(error.contains("400 days"));
    }
}
