//! The settings for the sessions of users of one provider.

use std::num::NonZeroU64;

use serde::Deserialize;

/// The limits for the sessions of users who have signed in at the provider. Each limit is shorter
/// than the limit of all sessions. The config module checks this.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SessionSettings {
    /// A session ends if no request uses the session for this time, in seconds. Default: the limit
    /// of all sessions.
    pub idle_secs: Option<NonZeroU64>,
    /// A session ends this long after its login, in seconds. Default: the limit of all sessions.
    pub absolute_secs: Option<NonZeroU64>,
}
