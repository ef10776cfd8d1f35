//! Logout requests from the provider (OpenID Connect Back-Channel Logout 1.0).

use std::time::Duration;

use super::id_token::LogoutClaims;
use super::json::Object;
use super::jwt::{TokenError, TokenKind};
use super::{KeysError, NotReady, Provider, claims, jwt};
use crate::clock::Clock;

/// The reason why a logout token has no effect.
#[derive(Debug, thiserror::Error)]
pub enum LogoutTokenError {
    /// The keys of the provider cannot be fetched.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The settings do not use the ID tokens of the provider, so the gateway knows neither the keys
    /// nor the algorithms of its logout tokens.
    #[error("the settings do not use ID tokens of this provider")]
    NoIdTokens,
    /// The metadata has not been read yet.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// The token names only a user, but the setting `identity.claims.subject` takes the subject of
    /// users from another claim.
    #[error(
        "the token names a user by `sub`, but `identity.claims.subject` names another claim; let \
         the provider send the `sid`"
    )]
    OtherSubject,
    /// The token is not valid.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl LogoutTokenError {
    /// Returns the stable code of this error for logs.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Keys(error) => error.reason(),
            Self::NoIdTokens => "no_id_tokens",
            Self::NotReady(error) => error.reason(),
            Self::OtherSubject => "other_subject",
            Self::Token(error) => error.reason(TokenKind::LogoutToken),
        }
    }

    /// Returns true if the same token may be valid later.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::Keys(_) | Self::NotReady(_) => true,
            Self::NoIdTokens | Self::OtherSubject | Self::Token(_) => false,
        }
    }

    /// Returns the time after which the same token may be valid, if the time is known.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Keys(error) => error.class().retry_after,
            Self::NoIdTokens | Self::NotReady(_) | Self::OtherSubject | Self::Token(_) => None,
        }
    }
}

/// The claims of a token that has not been verified. Anybody can have written these claims.
#[derive(Debug)]
pub(crate) struct UnverifiedClaims(Object);

impl UnverifiedClaims {
    /// Reads the claims. Returns `None` if the token is malformed.
    pub(crate) fn of(token: &str) -> Option<Self> {
        jwt::unverified_claims(token).map(Self)
    }

    /// Returns the issuer that the token states.
    pub(crate) fn issuer(&self) -> Option<&str> {
        self.0.get("iss")?.as_str()
    }

    fn has_audience(&self, client_id: &str) -> bool {
        claims::audiences(&self.0).is_ok_and(|audiences| audiences.contains(&client_id))
    }
}

impl Provider {
    /// Returns true if the settings use ID tokens of the issuer `iss`, so that the issuer can also
    /// send logout tokens.
    pub(crate) fn may_send_logout_tokens_as(&self, iss: &str) -> bool {
        let issuer = self.issuer.as_ref();
        self.grant_verifier.uses_id_tokens() && issuer.is_some_and(|issuer| issuer.matches(iss))
    }

    /// Returns true if this provider could have sent a logout token with these claims to the
    /// gateway. The function verifies nothing, so the function takes little time.
    pub(crate) fn may_have_sent(&self, token: &UnverifiedClaims) -> bool {
        let issuer = token.issuer().unwrap_or_default();
        self.may_send_logout_tokens_as(issuer) && token.has_audience(&self.settings.client_id)
    }

    /// Verifies a logout token: the signature and every claim (OpenID Connect Back-Channel Logout
    /// 1.0 section 2.6). The caller must make sure that a token has an effect only one time.
    ///
    /// # Errors
    ///
    /// [`LogoutTokenError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn logout_claims(
        &self,
        token: &str,
        clock: &Clock,
    ) -> Result<LogoutClaims, LogoutTokenError> {
        if self.info().is_err() {
            // A logout token can arrive before the gateway has read the metadata.
            drop(self.ready(clock).await);
        }
        let info = self.info()?;
        let verifier = &self.grant_verifier;
        let mut claims = verifier.logout_claims(token, &info, clock).await?;
        if self.settings.identity.claims.subject != "sub" {
            if claims.sid.is_none() {
                return Err(LogoutTokenError::OtherSubject);
            }
            // The `sub` of the token is not the subject of a user.
            claims.subject = None;
        }
        Ok(claims)
    }
}
