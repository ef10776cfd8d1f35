//! The settings for the sign-out at the provider.

use std::path::PathBuf;

use serde::Deserialize;

use super::request::BodyFormat;

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
    /// The request with which a sign-out revokes a token at a provider that has its own way instead
    /// of RFC 7009. Default: RFC 7009.
    pub revocation_request: Option<RevocationRequest>,
    /// The page at which a user signs out at the provider: a URL, or a path below `url`. The page
    /// after a sign-out has a link to this page. Only for a provider without an end-session
    /// endpoint. Default: no link.
    pub page: Option<String>,
    /// The files with the keys of the webhook, at which an app ends sessions of its users. Any of
    /// the keys may have signed a request. Without a key, the gateway has no webhook.
    #[serde(default)]
    pub webhook_key_files: Vec<PathBuf>,
    /// The claim of the ID token that a sign-out sends as `logout_hint` (OpenID Connect
    /// RP-Initiated Logout 1.0 section 2). Default: a sign-out sends no `logout_hint`.
    pub logout_hint: Option<String>,
    /// How a user who signs out to use another account gets to another account. By default, the
    /// provider ends its session if it has an end-session endpoint, and otherwise the next login
    /// asks for a password.
    pub another_account: Option<AnotherAccount>,
}

impl SignOutSettings {
    /// The provider's own request for a revocation, unless the settings switch revocations off.
    pub(in crate::provider) fn own_revocation(&self) -> Option<&RevocationRequest> {
        let request = self.revocation_request.as_ref();
        request.filter(|_request| self.revoke != Some(false))
    }
}

/// A request that revokes a token in the provider's own way. The client authenticates with its
/// secret by the Basic scheme.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RevocationRequest {
    /// The method of the request.
    pub method: RevocationMethod,
    /// A URL, or a path below `url`. The text `{client_id}` is a placeholder for the client
    /// identifier.
    pub url: String,
    /// The format of the body. The body has one member, with the name and the value of the token.
    pub body: BodyFormat,
    /// The token that is revoked.
    pub token: RevokedToken,
}

/// The method of a request that revokes a token.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "UPPERCASE")]
pub enum RevocationMethod {
    /// DELETE.
    Delete,
    /// POST.
    Post,
}

/// The token that a sign-out revokes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum RevokedToken {
    /// The access token of the session.
    AccessToken,
    /// The refresh token of the session.
    RefreshToken,
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
