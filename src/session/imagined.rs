//! Sessions of imagined users, for the explanation of a decision.

use super::index::{Rank, UserHash};
use super::record::Contents;
use super::{Session, SessionId, StoreTag};
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::token::{Lifetime, TokenSet};

impl Session {
    /// Creates the session of an imagined user of `provider`. No store contains the session. The
    /// tokens of the session are placeholders, which never expire. Returns `None` if the operating
    /// system returns no random bytes.
    pub(crate) fn imagined(provider: &str, identity: Identity, now: Timestamp) -> Option<Self> {
        let rank = Rank {
            user: UserHash::of(&identity),
            ends_at: Timestamp::MAX,
            key: SessionId::random(StoreTag::random().ok()?).ok()?.key(),
        };
        let tokens = TokenSet::new("access-token", None, Lifetime::default()).ok()?;
        let contents = Contents {
            version: 0,
            provider: provider.into(),
            identity,
            sid: None,
            device: None,
            newer: Box::default(),
            tokens: tokens.with_id_token(Some("id-token")),
            opened_at: now,
        };
        Some(Self::new(rank, now, contents))
    }
}
