//! What answers of the token endpoint mean.

use serde::Deserialize;

/// What a refresh does at this server (RFC 6749 section 6).
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Refresh {
    /// The answer brings a new refresh token and the old one is dead. Default: yes.
    pub rotates: bool,
    /// The old access token is dead as soon as the refresh succeeds. Default: yes.
    pub revokes_access_token: bool,
}

impl Default for Refresh {
    fn default() -> Self {
        Self {
            rotates: true,
            revokes_access_token: true,
        }
    }
}

/// A row that gives an error answer of the token endpoint its meaning. What is given must be
/// equal; what is absent matches anything.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorShape {
    /// The status code.
    pub status: Option<u16>,
    /// The member `error`.
    pub error: Option<String>,
    /// The member `error_description`.
    pub description: Option<String>,
    /// The member `hint`.
    pub hint: Option<String>,
    /// What it means.
    pub meaning: Meaning,
}

/// What an error answer of the token endpoint means for the one who asked.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    /// This code or refresh token is no good, and will not become good.
    Fatal,
    /// It says nothing about the code or the token: try again later.
    Later,
    /// Our registration or our request is at fault: an operator has to act.
    Ours,
}
