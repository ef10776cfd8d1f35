//! What a token response brings, once everything in it is believed.

use std::sync::Arc;
use std::time::Duration;

use super::id_token::{Exchange, IdClaims, IdTokenRules};
use super::issuer::Issuer;
use super::json::Object;
use super::keys::KeySet;
use super::known::Known;
use super::person::{self, Naming};
use super::published::Published;
use super::settings::{IdentitySource, Settings};
use super::token::Answer;
use super::userinfo::{self, Userinfo, UserinfoError};
use super::{Error, Redemption};
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::token::TokenSet;

/// What a redeemed code brought.
#[derive(Debug)]
#[must_use]
pub struct Grant {
    /// Who it is.
    pub identity: Identity,
    /// The tokens.
    pub tokens: TokenSet,
}

/// Decides what is believed of a token response, and who it is.
#[derive(Debug)]
pub(super) struct Judge {
    access_token: Option<AccessTokenRules>,
    id_token: Option<IdTokenRules>,
    keys: Keys,
    naming: Naming,
    source: IdentitySource,
    /// Whether the userinfo is asked, too.
    userinfo: bool,
    default_life: Option<Duration>,
}

/// Where the keys are that sign ID tokens.
#[derive(Debug)]
enum Keys {
    /// In files of ours.
    Given(Arc<KeySet>),
    /// Where the server publishes them.
    Published(Published),
}
