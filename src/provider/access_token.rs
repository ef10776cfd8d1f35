//! Verifies JWT access tokens (RFC 9068), if the operator has configured keys.

use std::time::Duration;

use super::SetupError;
use super::claims::{self, Dates};
use super::json::Object;
use super::jwt::{self, ExpectedHeader, TokenError};
use super::keys::KeySet;
use super::settings::{Algorithm, IdentitySource, Settings};
use crate::clock::Timestamp;

/// The claims of a verified access token.
#[derive(Debug)]
pub(super) struct Claims {
    pub(super) expires_at: Timestamp,
    pub(super) members: Object,
}

/// Verifies the access tokens of one provider.
#[derive(Debug)]
pub(super) struct AccessTokenVerifier {
    keys: KeySet,
    algorithms: Vec<Algorithm>,
    audience: String,
    issuer: Option<String>,
    dates: Dates,
}

impl AccessTokenVerifier {
    /// Reads the keys that verify access tokens. Returns `None` if no key is configured. Without a
    /// key, the gateway cannot verify access tokens.
    pub(super) fn new(settings: &Settings) -> Result<Option<Self>, SetupError> {
        let (client_id, settings) = (&settings.client_id, &settings.access_token);
        let (files, algorithms) = (&settings.public_key_files, &settings.algorithms);
        let keys = KeySet::from_pem_files("access_token.public_key_files", files, algorithms)?;
        Ok(keys.map(|keys| Self {
            keys,
            algorithms: algorithms.clone(),
            audience: settings.audience.as_ref().unwrap_or(client_id).clone(),
            issuer: settings.issuer.clone(),
            dates: Dates {
                leeway: Duration::from_secs(settings.leeway_secs.into()),
                quoted: settings.quoted_dates,
            },
        }))
    }

    /// Verifies the signature of an access token, and then checks the audience, the issuer, the
    /// dates and the subject.
    pub(super) fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, TokenError> {
        let expected = ExpectedHeader {
            algorithms: &self.algorithms,
            types: jwt::ACCESS_TOKEN_TYPES,
        };
        let members = jwt::verify(token, &expected, &self.keys)?.members;
        let audiences = claims::audiences(&members)?;
        if !audiences.contains(&&*self.audience) {
            return Err(TokenError::Audience);
        }
        match (claims::text(&members, "iss")?, self.issuer.as_deref()) {
            (None, Some(_)) => return Err(TokenError::Claim("iss")),
            (Some(stated), Some(expected)) if stated != expected => return Err(TokenError::Issuer),
            // If no issuer is configured, `iss` is not checked.
            (_, _) => {}
        }
        let expires_at = self.dates.check(&members, now)?;
        claims::subject(&members)?;
        Ok(Claims {
            expires_at,
            members,
        })
    }
}

/// Refuses the required audience and the required issuer of access tokens. Sidegate calls this
/// function if no key is configured, because Sidegate then checks no access token.
pub(super) fn refuse_unused(settings: &Settings) -> Result<(), SetupError> {
    // With the source "userinfo" or "none", the key also names the issuer of the users, so it has an effect.
    let names_issuer = matches!(
        settings.identity.source,
        IdentitySource::None | IdentitySource::Userinfo
    );
    let access_token = &settings.access_token;
    let key = if access_token.audience.is_some() {
        "access_token.audience"
    } else if access_token.issuer.is_some() && !names_issuer {
        "access_token.issuer"
    } else {
        return Ok(());
    };
    let problem = "has no effect, because Sidegate checks access tokens only with \
                   access_token.public_key_files; add the keys, or leave it out";
    Err(SetupError::Setting { key, problem })
}
