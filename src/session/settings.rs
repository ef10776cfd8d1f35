//! What the operator says about sessions.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

/// How long sessions last, how many there may be, and where they are kept.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, try_from = "RawSettings")]
pub struct Settings {
    /// A session that is not used for this long ends.
    pub idle: Duration,
    /// A session ends this long after its login, whatever its use.
    pub absolute: Duration,
    /// Bytes of memory that all sessions together may take.
    pub capacity: u64,
    /// Sessions that one person may have; the oldest end first.
    pub per_person: usize,
    /// How long a request waits at most for a session that has to be refreshed or fetched first.
    pub refresh_wait: Duration,
    /// Where they are kept.
    pub store: StoreSettings,
}

/// Where sessions are kept.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreSettings {
    /// In memory alone: they end with the process, and the least recently used when memory is full.
    #[default]
    Memory,
    /// In a file, with memory in front: they outlive the process.
    Disk(DiskSettings),
}

/// The file of durable sessions.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSettings {
    /// Its path; it is made when it is not there, its folder is not.
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

/// Browsers keep no cookie for longer (RFC 6265bis section 5.5).
const LONGEST_SECS: u64 = 400 * 24 * 3600;

/// The longest time that a request can be made to wait for its session.
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
