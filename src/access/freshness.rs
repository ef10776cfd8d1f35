//! How recent a sign-in must be on a route.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::Deserialize;

use super::{Cause, Challenge};
use crate::clock::Timestamp;
use crate::provider::Prompt;
use crate::session::Session;

/// The shortest accepted time, in seconds. A shorter time could pass during the sign-in.
const SHORTEST: u32 = 60;

/// The limits of a route for the sign-in of its users. A user who exceeds a limit has to sign in
/// again.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, try_from = "RawFreshness")]
pub(crate) struct Freshness {
    /// The longest time for which a session may have been unused since its login, in seconds.
    pub(crate) idle_secs: Option<u32>,
    /// The longest time since the user has authenticated at the provider, in seconds.
    pub(crate) max_age_secs: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFreshness {
    idle_secs: Option<NonZeroU32>,
    max_age_secs: Option<NonZeroU32>,
}

impl TryFrom<RawFreshness> for Freshness {
    type Error = String;

    fn try_from(raw: RawFreshness) -> Result<Self, String> {
        let checked = |name: &str, seconds: Option<NonZeroU32>| match seconds.map(NonZeroU32::get) {
            Some(seconds) if seconds < SHORTEST => Err(format!(
                "{name} ({seconds}) is shorter than {SHORTEST} seconds, so the time could pass during \
                 the sign-in"
            )),
            seconds => Ok(seconds),
        };
        Ok(Self {
            idle_secs: checked("idle_secs", raw.idle_secs)?,
            max_age_secs: checked("max_age_secs", raw.max_age_secs)?,
        })
    }
}

impl Freshness {
    /// Returns true if the route has no limits of its own.
    pub(super) fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the reason why the user of `session` has to sign in again, if there is one.
    pub(super) fn exceeded(&self, session: &Session, now: Timestamp) -> Option<Cause> {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let idle = self.idle_secs.map(seconds);
        // A pause also counts if the session began after it, without a new authentication at the
        // provider.
        let has_paused = |idle: Duration| {
            let authenticated_at = session.authenticated_at();
            session.longest_pause() >= idle
                || authenticated_at.is_some_and(|at| at.plus(idle) < session.opened_at())
        };
        if idle.is_some_and(has_paused) {
            return Some(Cause::Paused);
        }
        let max_age = self.max_age_secs.map(seconds);
        let is_old = max_age.is_some_and(|age| !session.is_authenticated_within(age, now));
        is_old.then_some(Cause::SignInTooOld)
    }
}

impl Challenge {
    /// Returns the `prompt` of a login that meets the limits of the route.
    pub(crate) fn fresh_prompt(&self) -> Prompt {
        let limits = self.route.freshness().copied().unwrap_or_default();
        let seconds = [limits.idle_secs, limits.max_age_secs]
            .into_iter()
            .flatten();
        let prompt = match self.cause {
            Cause::Paused | Cause::SignInTooOld => Prompt::Login,
            Cause::Conflicting
            | Cause::Expired
            | Cause::GrantEnded
            | Cause::Malformed
            | Cause::NoCookie
            | Cause::OtherInstance
            | Cause::OtherProvider
            | Cause::RefusedByApp
            | Cause::TokenExpired
            | Cause::Unknown
            | Cause::Unreachable => Prompt::AsNeeded,
        };
        prompt.with_max_age(seconds.min())
    }
}
