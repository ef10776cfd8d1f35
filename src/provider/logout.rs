//! Logout requests from the provider (OpenID Connect Back-Channel Logout 1.0).

use super::id_token::LogoutClaims;
use super::jwt::{TokenError, TokenKind};
use super::{KeysError, NotReady, Provider, jwt};
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
}

/// Returns the `iss` of a token without the verification of the token.
pub(crate) fn unverified_issuer(token: &str) -> Option<String> {
    jwt::unverified_claim(token, "iss")
}

impl Provider {
    /// Returns true if the settings use ID tokens of the issuer `iss`, so that the issuer can also
    /// send logout tokens.
    pub(crate) fn may_send_logout_tokens_as(&self, iss: &str) -> bool {
        let issuer = self.issuer.as_ref();
        self.grant_verifier.uses_id_tokens() && issuer.is_some_and(|issuer| issuer.matches(iss))
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
        let claims = verifier.logout_claims(token, &info, clock).await?;
        if claims.sid.is_none() && self.settings.identity.claims.subject != "sub" {
            return Err(LogoutTokenError::OtherSubject);
        }
        Ok(claims)
    }
}
