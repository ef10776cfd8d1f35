//! The settings for the sign-out at the provider.

use std::path::PathBuf;

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
    /// The files with the keys of the webhook, at which an app ends sessions of its users. Any of
    /// the keys may have signed a request. Without a key, the gateway has no webhook.
    #[serde(default)]
    pub webhook_key_files: Vec<PathBuf>,
}
