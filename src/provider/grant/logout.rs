//! Verifies the logout tokens of a provider.

use super::unverified::Unverified;
use super::{GrantVerifier, Verification};
use crate::clock::Clock;
use crate::provider::LogoutTokenError;
use crate::provider::id_token::LogoutClaims;
use crate::provider::info::ProviderInfo;
use crate::provider::key_cache::TokenOrigin;

impl GrantVerifier {
    /// Verifies a logout token: the signature and every claim.
    ///
    /// # Errors
    ///
    /// [`LogoutTokenError`].
    pub(in crate::provider) async fn logout_claims(
        &self,
        token: &str,
        info: &ProviderInfo,
        clock: &Clock,
    ) -> Result<LogoutClaims, LogoutTokenError> {
        let rules = self.id_token.as_ref();
        let rules = rules.ok_or(LogoutTokenError::NoIdTokens)?;
        let verification = Verification { rules, info, clock };
        let expected = (&rules.expected_of_logout(), TokenOrigin::LogoutRequest);
        let verified = self.verified_as(expected, token, &verification).await;
        let verified = verified.map_err(|unverified| match unverified {
            Unverified::Token(error) => LogoutTokenError::Token(error),
            Unverified::Keys(error) => LogoutTokenError::Keys(error),
        })?;
        Ok(rules.check_logout(&verified, clock.now())?)
    }
}
