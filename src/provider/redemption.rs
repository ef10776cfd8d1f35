//! The exchange of authorization codes.

use std::num::NonZeroU32;
use std::time::Duration;

use super::code_queue::{CodeTurn, Pace, QueuedCode};
use super::grant::{Grant, ResponseContext};
use super::settings::GrantType;
use super::token::CodeGrant;
use super::{ExchangeError, Provider, Sent, TokenCallError};
use crate::clock::{Clock, Timestamp};
use crate::secret::Secret;

/// An authorization code, and the values of the authorization request that led to the code.
#[derive(Debug)]
pub struct Redemption<'a> {
    /// The authorization code.
    pub code: Secret<String>,
    /// The PKCE verifier for the challenge in the authorization request (RFC 7636 section 4.5).
    pub code_verifier: Secret<String>,
    /// The nonce of the authorization request. The ID token must contain the same nonce.
    pub nonce: &'a str,
    /// The redirection URI of the authorization request, byte for byte.
    pub redirect_uri: &'a str,
    /// The time when the authorization request was sent.
    pub begun_at: Timestamp,
    /// The `max_age` of the authorization request, if it differs from the settings. The ID token
    /// must prove that the user has authenticated within this time.
    pub max_age: Option<Duration>,
    /// The number of processes that divide the limits of calls to the provider.
    pub replicas: NonZeroU32,
    /// The turn of the code.
    pub turn: CodeTurn,
}

impl Provider {
    /// Waits until the code of a login may be exchanged. `replicas` is the number of processes that
    /// divide the limits of calls to the provider.
    ///
    /// # Errors
    ///
    /// [`TokenCallError::TooManyCodes`]: other codes had their turn. The code can be sent again.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn code_turn(
        &self,
        code: QueuedCode,
        replicas: NonZeroU32,
        clock: &Clock,
    ) -> Result<CodeTurn, TokenCallError> {
        let concurrent = self.settings.concurrent_calls.get();
        let own = concurrent.checked_div(replicas.get()).unwrap_or_default();
        let most = usize::try_from(own.max(1)).unwrap_or(usize::MAX);
        // With few concurrent calls, one class can occupy two, so that the users of one network do not
        // always wait for each other.
        let of_class = most.saturating_sub(Pace::KEPT).max(most.min(2));
        let pace = |failed| {
            let pace = self.limiter.pace(replicas, failed, clock.now());
            Pace {
                places: pace.places.min(of_class),
                exchanges: pace.exchanges.min(most),
                ..pace
            }
        };
        let turn = self.code_queue.turn(code, pace, clock).await;
        turn.ok_or(TokenCallError::TooManyCodes)
    }

    /// Exchanges an authorization code for tokens with one call to the token endpoint (RFC 6749
    /// section 4.1.3). If the gateway needs the provider's keys or the userinfo for the identity of
    /// the user, the function also fetches the keys or the userinfo.
    ///
    /// # Errors
    ///
    /// Returns [`ExchangeError::Call`] if the call returned no tokens. The
    /// [`Classification`](super::Classification) of a call error states whether the provider may have
    /// used the code. Returns [`ExchangeError::Grant`] if the tokens are not valid.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe. If the future is dropped, the provider may have used the code, and the
    /// tokens are lost. The caller should run the future in a task that can outlive the browser's
    /// connection.
    pub async fn redeem(
        &self,
        mut redemption: Redemption<'_>,
        clock: &Clock,
    ) -> Result<Grant, ExchangeError> {
        let redeemed = self.redeem_in_turn(&redemption, clock).await;
        if let Err(error) = &redeemed
            && error.class().sent == Sent::Possibly
        {
            redemption.turn.note_failed();
        }
        redeemed
    }

    async fn redeem_in_turn(
        &self,
        redemption: &Redemption<'_>,
        clock: &Clock,
    ) -> Result<Grant, ExchangeError> {
        let info = self.info()?;
        // The wait for a slot may be long, so the gateway reads the clock and checks the rate limit
        // after the wait.
        let grant = GrantType::AuthorizationCode;
        let _slot = self.call_slot(grant, redemption.replicas).await?;
        let requested_at = clock.now();
        self.check_rate(
            (GrantType::AuthorizationCode, redemption.replicas),
            requested_at,
        )?;
        let grant = CodeGrant {
            code: &redemption.code,
            code_verifier: self.settings.pkce.then_some(&redemption.code_verifier),
            redirect_uri: redemption.redirect_uri,
        };
        let (uri, client_auth) = (info.token.uri(), &info.client_auth);
        let request = self
            .format
            .redemption(uri, client_auth, &grant, requested_at)?;
        let grant_type = GrantType::AuthorizationCode;
        let answer = self
            .call_token_endpoint(&info, grant_type, request, clock)
            .await?;
        let response = ResponseContext {
            info: &info,
            answer: &answer,
            requested_at,
        };
        Ok(self
            .grant_verifier
            .grant(&response, redemption, clock)
            .await?)
    }
}
