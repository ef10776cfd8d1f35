//! The settings for refreshes and for responses of the token endpoint.

use std::num::NonZeroU32;

use serde::Deserialize;

/// The settings for refreshes (RFC 6749 section 6).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Refresh {
    /// True if a refresh revokes the old access token. If a refresh revokes the old access token,
    /// the gateway sends the refresh as late as possible. Default: yes.
    pub revokes_access_token: bool,
    /// The time limit for the response to a refresh, in seconds. Requests that need the new access
    /// token wait for at most `session.refresh_wait_secs`. The time limit is long, because the new
    /// refresh token is lost if the gateway stops waiting. Default: 60.
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

/// A grant type that the gateway uses at the token endpoint.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    /// An authorization code, which is exchanged at the end of a login (RFC 6749 section 4.1.3).
    AuthorizationCode,
    /// A refresh token (RFC 6749 section 6).
    RefreshToken,
}

/// A pattern that classifies an error response of the token endpoint. Each configured value must be
/// equal to the value in the response. An omitted value matches every response.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ErrorPattern {
    /// The grant type of the request.
    pub grant: Option<GrantType>,
    /// The status code.
    pub status: Option<u16>,
    /// The member `error`.
    pub error: Option<String>,
    /// The member `error_description`.
    pub description: Option<String>,
    /// The member `hint`.
    pub hint: Option<String>,
    /// True if the pattern matches only a response without a body. By default, the pattern matches
    /// responses with a body and responses without a body.
    #[serde(default)]
    pub empty: bool,
    /// The classification.
    pub meaning: ErrorMeaning,
}

/// The meaning of an error response of the token endpoint.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub enum ErrorMeaning {
    /// The provider refuses the code or the refresh token now and in every later call.
    #[serde(rename = "fatal")]
    GrantRefused,
    /// The response does not show whether the code or the refresh token is still valid. A later
    /// call to the token endpoint may succeed.
    #[serde(rename = "later")]
    Temporary,
    /// The gateway's request is wrong, or the gateway's client settings at the provider are wrong.
    /// The error continues until an operator corrects the settings.
    #[serde(rename = "ours")]
    Misconfigured,
}
