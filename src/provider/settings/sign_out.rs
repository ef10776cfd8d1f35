//! The settings for the sign-out at the provider.

use serde::Deserialize;

/// What a sign-out does at the provider.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SignOutSettings {
    /// Whether a sign-out sends the browser to the end-session endpoint of the provider. By
    /// default, a sign-out sends the browser there if the settings or the metadata contain the
    /// end-session endpoint.
    pub end_session: Option<bool>,
    /// Whether a sign-out revokes the refresh token. By default, a sign-out revokes the refresh
    /// token if the settings or the metadata contain the revocation endpoint.
    pub revoke: Option<bool>,
    /// The claim of the ID token that a sign-out sends as `logout_hint` (OpenID Connect
    /// RP-Initiated Logout 1.0 section 2). Default: a sign-out sends no `logout_hint`.
    pub logout_hint: Option<String>,
    /// How a user who signs out to use another account gets to another account. By default, the
    /// provider ends its session if it has an end-session endpoint, and otherwise the next login
    /// asks for a password.
    pub another_account: Option<AnotherAccount>,
}

/// What happens at the provider when a user wants to use another account.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum AnotherAccount {
    /// The end-session endpoint ends the session at the provider.
    EndSession,
    /// The next login sends `prompt=login`.
    Login,
    /// The next login sends `prompt=select_account`.
    SelectAccount,
}
