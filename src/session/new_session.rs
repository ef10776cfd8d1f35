//! The data with which a login creates a session.

use super::SessionKey;
use super::device::Device;
use super::registration::Registration;
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::token::TokenSet;

/// A login that has succeeded.
#[derive(Debug)]
pub struct NewSession<'a> {
    /// The configured name of the provider.
    pub provider: &'a str,
    /// A fingerprint of the URL and the client id that the provider had when the login began. A
    /// different fingerprint shows that the name of the provider now belongs to another server or
    /// client. If the provider has a different fingerprint when the login ends, no session is
    /// created.
    pub registration: Registration,
    /// The identity of the user.
    pub identity: Identity,
    /// The tokens of the grant.
    pub tokens: TokenSet,
    /// The earlier sessions of the same browser, which end when the new session is created.
    pub replaces: Vec<SessionKey>,
    /// The id of the session of the user at the provider: the claim `sid` of the ID token (OpenID
    /// Connect Back-Channel Logout 1.0 section 2.1).
    pub sid: Option<Box<str>>,
    /// The device of the user.
    pub device: Option<Device>,
    /// The time when the login began. If the provider ends the session of the user after this time,
    /// no session is created.
    pub begun_at: Timestamp,
}
