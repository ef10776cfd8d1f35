//! Verifies the signatures of the tokens that a provider signs.

use super::unverified::Unverified;
use super::{GrantVerifier, Keys};
use crate::clock::Clock;
use crate::provider::KeysError;
use crate::provider::id_token::IdTokenRules;
use crate::provider::info::ProviderInfo;
use crate::provider::jwt::{self, ExpectedHeader, TokenError, VerifiedToken};
use crate::provider::key_cache::TokenOrigin;

/// The data that is needed to verify a signed token of the provider.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verification<'a> {
    pub(super) rules: &'a IdTokenRules,
    pub(super) info: &'a ProviderInfo,
    pub(super) clock: &'a Clock,
}

impl GrantVerifier {
    /// Verifies the signature of an ID token or of a signed userinfo response.
    pub(super) async fn verified(
        &self,
        token: &str,
        verification: &Verification<'_>,
    ) -> Result<VerifiedToken, Unverified> {
        let expected = verification.rules.expected();
        let origin = TokenOrigin::TokenResponse;
        self.verified_as((&expected, origin), token, verification)
            .await
    }

    /// Verifies a signature. If the key is unknown or the signature is wrong, the function fetches
    /// the keys again and verifies the signature a second time.
    pub(super) async fn verified_as(
        &self,
        (expected, origin): (&ExpectedHeader<'_>, TokenOrigin),
        token: &str,
        verification: &Verification<'_>,
    ) -> Result<VerifiedToken, Unverified> {
        let clock = verification.clock;
        let published = match &self.keys {
            Keys::Given(set) => {
                return jwt::verify(token, expected, &set.load()).map_err(Unverified::Token);
            }
            Keys::Published(published) => published,
        };
        let Some(endpoint) = &verification.info.jwks else {
            return Err(Unverified::Token(TokenError::UnknownKey));
        };
        let seen = published.first(endpoint, clock).await;
        let seen = seen.map_err(Unverified::Keys)?;
        let error = match jwt::verify(token, expected, &seen.keys) {
            Err(error) if error.new_keys_may_help() => error,
            verified => return verified.map_err(Unverified::Token),
        };
        match published.newer((&seen, origin), endpoint, clock).await {
            Ok(newer) => jwt::verify(token, expected, &newer.keys).map_err(Unverified::Token),
            // The key is known, and only the signature is wrong, so the token would probably also
            // be invalid with newer keys.
            Err(KeysError::FetchedRecently { .. }) if !matches!(error, TokenError::UnknownKey) => {
                Err(Unverified::Token(error))
            }
            Err(error) => Err(Unverified::Keys(error)),
        }
    }
}
