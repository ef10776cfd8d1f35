//! The credentials that an app gets: a token, or a user name and a password.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::field_name::FieldName;
use super::value::FieldValue;
use crate::identity::Identity;
use crate::secret::Secret;
use crate::token::{TokenSet, secret_value};

/// The token that an app gets.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bearer {
    /// The access token.
    AccessToken,
    /// The ID token. The setting `id_token` works only with a provider that sends ID tokens.
    IdToken,
    /// No token.
    None,
}

/// The settings of the credentials. The settings of an upstream and the settings of a route can
/// each contain credential settings. If a route has at least one credential setting, the credential
/// settings of the upstream do not apply to the route.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct CredentialSettings {
    pub(crate) bearer: Option<Bearer>,
    pub(crate) token_field: Option<FieldName>,
    pub(crate) basic: Option<BasicSettings>,
}

/// The user name and the password of the `Authorization` field with the scheme `Basic`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct BasicSettings {
    /// The user name.
    pub(crate) user: FieldValue,
    /// The file with the password.
    pub(crate) password_file: Option<PathBuf>,
    /// The environment variable with the password.
    pub(crate) password_env: Option<String>,
}

/// The reason why the settings of the credentials contradict each other. Each message is shown
/// after the name of a key.
///
/// Responsible: the operator.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum CredentialError {
    #[error(
        "cannot be written together with `bearer`, because both use the field Authorization; \
         write bearer = \"none\", or name another field for the token with `token_field`"
    )]
    TwoCredentials,
    #[error("has no effect, because bearer = \"none\"; leave `token_field` out")]
    NoToken,
    #[error("contains a colon, so the user name cannot be encoded (RFC 7617)")]
    Colon,
}

impl CredentialError {
    /// The name of the invalid key, relative to the table of the route or of the upstream.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::TwoCredentials => "basic",
            Self::NoToken => "token_field",
            Self::Colon => "basic.user",
        }
    }
}

impl CredentialSettings {
    /// Returns the written keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'static str> {
        let keys = [
            ("bearer", self.bearer.is_some()),
            ("token_field", self.token_field.is_some()),
            ("basic", self.basic.is_some()),
        ];
        keys.into_iter()
            .filter_map(|(key, is_written)| is_written.then_some(key))
    }

    /// The token that the app gets. By default, an app gets the access token, unless the app gets a
    /// user name and a password instead.
    pub(crate) fn token(&self) -> Bearer {
        let instead = self.basic.is_some() && self.token_field.is_none();
        let default = if instead {
            Bearer::None
        } else {
            Bearer::AccessToken
        };
        self.bearer.unwrap_or(default)
    }

    /// Checks that all settings can have an effect.
    ///
    /// # Errors
    ///
    /// [`CredentialError`].
    pub(crate) fn check(&self) -> Result<(), CredentialError> {
        let token = self.token();
        if token == Bearer::None && self.token_field.is_some() {
            return Err(CredentialError::NoToken);
        }
        let Some(basic) = &self.basic else {
            return Ok(());
        };
        if token != Bearer::None && self.token_field.is_none() {
            return Err(CredentialError::TwoCredentials);
        }
        if basic.user.has_colon() {
            return Err(CredentialError::Colon);
        }
        Ok(())
    }
}

/// The user name cannot be encoded, because it contains a colon (RFC 7617 section 2).
#[derive(Debug)]
pub(super) struct ColonInUser;

/// Returns the value of `Authorization` with the scheme `Basic`. Returns `None` if the identity
/// does not contain the claim with the user name.
pub(super) fn basic(
    user: &FieldValue,
    password: &Secret<String>,
    identity: &Identity,
) -> Result<Option<HeaderValue>, ColonInUser> {
    let Some(user) = user.text(identity) else {
        return Ok(None);
    };
    if user.contains(':') {
        return Err(ColonInUser);
    }
    let pair = Zeroizing::new([&*user, ":", password.expose()].concat());
    let encoded = Zeroizing::new(STANDARD.encode(&*pair));
    Ok(secret("Basic ", &encoded))
}

/// Returns a field value that consists of the scheme and the token. Returns `None` if the session
/// has no such token.
pub(super) fn token(bearer: Bearer, scheme: &str, tokens: &TokenSet) -> Option<HeaderValue> {
    let token = match bearer {
        Bearer::AccessToken => Some(tokens.access_token()),
        Bearer::IdToken => tokens.id_token().map(|token| token.expose().as_str()),
        Bearer::None => None,
    };
    secret(scheme, token?)
}

/// Returns a field value that consists of `before` and then `text`. The buffer never grows, because
/// growth would leave a copy of the secret in memory.
fn secret(before: &str, text: &str) -> Option<HeaderValue> {
    let length = before.len().saturating_add(text.len());
    let mut buffer = Zeroizing::new(Vec::with_capacity(length));
    buffer.extend_from_slice(before.as_bytes());
    buffer.extend_from_slice(text.as_bytes());
    secret_value(buffer)
}
