//! What answers of the token endpoint mean.

use std::num::NonZeroU32;

use serde::Deserialize;

/// What a refresh does at this server (RFC 6749 section 6).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Refresh {
    /// The old access token is dead as soon as the refresh succeeds, so that it is refreshed as late
    /// as can be. Default: yes.
    pub revokes_access_token: bool,
    /// How long an answer is waited for, in seconds. No request waits that long; but an answer that
    /// is given up may have used up the refresh token. Default: 60.
    pub deadline_secs: NonZeroU32,
}

impl Default for Refresh {
    fn default() -> Self {
        Self {
            revokes_access_token: true,
            deadline_secs: NonZeroU32::MIN.saturating_add(59),
        }
    }
}

/// A grant that is turned into tokens at the token endpoint.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    /// A code, once, at the end of a login (RFC 6749 section 4.1.3).
    AuthorizationCode,
    /// A refresh token (RFC 6749 section 6).
    RefreshToken,
}

/// A row that gives an error answer of the token endpoint its meaning. What is given must be
/// equal; what is absent matches anything.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ErrorPattern {
    /// What was asked with.
    pub grant: Option<GrantType>,
    /// The status code.
    pub status: Option<u16>,
    /// The member `error`.
    pub error: Option<String>,
    /// The member `error_description`.
    pub description: Option<String>,
    /// The member `hint`.
    pub hint: Option<String>,
    /// Whether the answer has no body at all. Default: no, and then it may have one or none.
    #[serde(default)]
    pub empty: bool,
    /// What it means.
    pub meaning: ErrorMeaning,
}

/// What an error answer of the token endpoint means for the one who asked.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub enum ErrorMeaning {
    /// This code or refresh token is no good, and will not become good.
    #[serde(rename = "fatal")]
    GrantRefused,
    /// It says nothing about the code or the token: try again later.
    #[serde(rename = "later")]
    Temporary,
    /// Our registration or our request is at fault: an operator has to act.
    #[serde(rename = "ours")]
    Misconfigured,
}

/// A row that describes how an app behind refuses an access token, besides answering 401.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SignedOutPattern {
    /// The status code.
    pub status: u16,
    /// The path that `Location` leads to; host and query are not looked at.
    pub location: String,
}
