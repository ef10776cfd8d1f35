//! Verifies the response to a refresh.
//!
//! The response must belong to the user of the session. If a verified response belongs to another
//! user, the gateway uses none of the tokens in the response. An ID token is optional at a refresh.
//! If the ID token is invalid, the new tokens are used, but the identity is not updated (OpenID
//! Connect Core 1.0 section 12.2).

use super::{GrantVerifier, ResponseContext, Verification};
use crate::clock::Clock;
use crate::identity::Identity;
use crate::provider::GrantError;
use crate::provider::id_token::RefreshContext;
use crate::provider::jwt::{TokenError, TokenKind, VerifiedToken};
use crate::provider::refresh::{RefreshRequest, Refreshed};
use crate::provider::settings::IdentitySource;
use crate::telemetry::chain;

impl GrantVerifier {
    /// Verifies the response to a refresh.
    pub(in crate::provider) async fn refreshed(
        &self,
        response: &ResponseContext<'_>,
        request: &RefreshRequest<'_>,
        clock: &Clock,
    ) -> Result<Refreshed, GrantError> {
        let answer = response.answer;
        let claims = self.access_claims(response, clock.now())?;
        let refresh_token = answer
            .refresh_token
            .as_ref()
            .or_else(|| request.tokens.refresh_token());
        let tokens = self.tokens(response, refresh_token, claims.as_ref())?;
        // An ID token is optional at a refresh, so the session keeps its ID token until a refresh
        // returns a new ID token.
        let old = request.tokens.id_token();
        let old = old.filter(|_| self.keeps_id_tokens(response.info));
        let mut id_token = old.map(|token| token.expose().as_str());
        let identity = match (self.settings.identity.source, &self.id_token) {
            (IdentitySource::IdToken, Some(rules)) => {
                let verification = Verification {
                    rules,
                    info: response.info,
                    clock,
                };
                let identity = self
                    .refreshed_identity(&verification, response, request)
                    .await;
                match identity {
                    Ok(identity) => {
                        id_token = self.kept_id_token(response).or(id_token);
                        identity
                    }
                    Err(error) => self.keep_identity(error)?,
                }
            }
            (IdentitySource::AccessToken, _) => {
                let identity = self.identity_from_access_token(claims, clock.now());
                Some(identity.ok_or_else(|| self.claim_mapping.no_subject())?)
            }
            (IdentitySource::IdToken | IdentitySource::None | IdentitySource::Userinfo, _) => None,
        };
        if let Some(identity) = &identity {
            same_user(identity, request)?;
        }
        let authentication = request.tokens.authentication().cloned();
        Ok(Refreshed {
            tokens: tokens
                .with_authentication(authentication)
                .with_id_token(id_token),
            identity,
        })
    }

    /// Returns the identity from the ID token. Returns `None` if the response has no ID token, or
    /// if the identity also has claims from the userinfo.
    async fn refreshed_identity(
        &self,
        verification: &Verification<'_>,
        response: &ResponseContext<'_>,
        request: &RefreshRequest<'_>,
    ) -> Result<Option<Identity>, GrantError> {
        let Some(token) = &response.answer.id_token else {
            return Ok(None);
        };
        let verified = self.verified(token.expose(), verification).await;
        let verified = verified.map_err(|error| error.of(TokenKind::IdToken))?;
        let identity = self.checked_identity(verification, &verified, response, request)?;
        // The ID token does not contain the claims of the userinfo, so an identity from the ID
        // token alone would be incomplete.
        let alone = response.info.userinfo.is_none() || !self.settings.identity.userinfo;
        Ok(alone.then_some(identity))
    }

    /// The function checks the user before the other claims. If the tokens in the response belong
    /// to another user, the session must not get the tokens.
    fn checked_identity(
        &self,
        verification: &Verification<'_>,
        verified: &VerifiedToken,
        response: &ResponseContext<'_>,
        request: &RefreshRequest<'_>,
    ) -> Result<Identity, GrantError> {
        let rules = verification.rules;
        let issuer = match rules.issuer_of(verified) {
            Err(TokenError::Issuer) => return Err(GrantError::OtherUser),
            result => result.map_err(GrantError::IdToken)?,
        };
        let now = verification.clock.now();
        let identity = self
            .claim_mapping
            .identity(&[&verified.members], issuer, now);
        let identity = identity.ok_or_else(|| self.claim_mapping.no_subject())?;
        same_user(&identity, request)?;
        let later = RefreshContext {
            access_token: &response.answer.access_token,
            authentication: request.tokens.authentication(),
        };
        rules
            .check_refreshed(verified, &later, verification.clock.now())
            .map_err(GrantError::IdToken)?;
        Ok(identity)
    }

    /// If the response is about another user, returns the error. If the response has another error,
    /// logs the error and returns `None`, so that the session keeps its identity.
    fn keep_identity(&self, error: GrantError) -> Result<Option<Identity>, GrantError> {
        if matches!(error, GrantError::OtherUser) {
            return Err(error);
        }
        tracing::warn!(
            issuer = &*self.issuer,
            reason = error.reason(),
            error = chain(&error),
            "The ID token of a refresh is not valid, the known identity stays"
        );
        Ok(None)
    }
}

fn same_user(identity: &Identity, request: &RefreshRequest<'_>) -> Result<(), GrantError> {
    let same = identity.same_user(request.identity);
    same.then_some(()).ok_or(GrantError::OtherUser)
}
