//! A provider is an OAuth 2.0 authorization server at which the gateway is a registered client.
//!
//! This module implements the client side of OAuth 2.0 and OpenID Connect (RFC 6749, RFC 7636,
//! OpenID Connect Core 1.0). The module builds the authorization request, exchanges a code for
//! tokens, and reads the identity from the tokens. Profiles and settings describe the differences
//! between kinds of providers ([`profile`], [`settings`]). The module does not handle browsers,
//! cookies, `state` or sessions. Before the caller calls [`Provider::redeem`], the caller must
//! verify that the authorization response belongs to the caller's authorization request.
//!
//! This module never repeats a token request. A code is valid for one request. If the connection
//! breaks, the provider may already have used the code, so only a new login is safe. If a refresh
//! token is used two times, many providers assume that the refresh token was stolen. Only the
//! caller decides whether and when to call [`Provider::refresh`] again.
//!
//! [`Provider::maintain`] reads the published metadata and keys on the control plane, first when
//! the gateway starts and then periodically. If the published metadata or keys are not valid, the
//! gateway keeps the last valid metadata and keys.
//!
//! The entry point is [`Provider`].

mod access_token;
mod authorization;
mod breaker;
mod call_slots;
mod claim_mapping;
mod claims;
mod client_auth;
mod code_queue;
mod discovery;
mod endpoint;
mod error;
mod error_response;
mod files;
mod grant;
mod group_lists;
mod id_token;
mod info;
mod internal_url;
mod issuer;
mod json;
mod jwt;
mod key_cache;
mod keys;
mod limiter;
mod logout;
mod metadata;
mod probe;
pub mod profile;
mod reachability;
mod redemption;
mod refresh;
mod schedule;
pub mod settings;
mod sign_out;
mod signed_out;
mod token;
mod unused_credentials;
mod userinfo;
mod webhook;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use aws_lc_rs::digest::{self, SHA256};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::sync::{Mutex, Semaphore};

pub use authorization::{AuthorizationRequest, Prompt};
pub use code_queue::{CodeTurn, QueueClient, QueuedCode};
pub use error::{
    Actor, Classification, Error, ExchangeError, GrantError, KeysError, NotReady, ReachError,
    ResponseError, Sent, SetupError, TokenCallError, Unreachable,
};
pub(crate) use error_response::printable;
pub use error_response::{ErrorCode, Refusal};
pub(crate) use files::{secret_file, secret_variable};
pub use grant::Grant;
pub(crate) use id_token::LogoutClaims;
pub use json::JsonError;
pub use jwt::signer::{SigningError, SigningKeyProblem};
pub use jwt::{KeyProblem, TokenError, TokenKind};
pub use keys::{KeySetError, SkippedKeys};
pub use logout::LogoutTokenError;
pub(crate) use logout::UnverifiedClaims;
pub use metadata::MetadataError;
pub use redemption::Redemption;
pub use refresh::{RefreshError, RefreshRequest, Refreshed, Verdict};
pub use settings::{ResponseMode, Settings};
pub(crate) use sign_out::EndSession;
pub use token::ResponseFormatError;
pub use userinfo::UserinfoError;
pub(crate) use webhook::SignedRequest;

use crate::clock::{Clock, Timestamp};
use crate::secret::Environment;
use breaker::Breaker;
use call_slots::{CallSlot, CallSlots};
use client_auth::Credentials;
use code_queue::CodeQueue;
use files::{read_text, variable};
use grant::GrantVerifier;
use info::{CallSettings, ProviderInfo};
use internal_url::InternalUrl;
use issuer::Issuer;
use limiter::Limiter;
use reachability::Reachability;
use settings::{ErrorPattern, GrantType};
use token::{RequestFormat, TokenResponse};
use webhook::WebhookKeys;

/// All providers, by the configured name of each provider.
pub type Providers = BTreeMap<Box<str>, Arc<Provider>>;

/// An authorization server, with all data that the gateway needs to use the server.
#[derive(Debug)]
pub struct Provider {
    name: Box<str>,
    settings: Settings,
    /// The environment variables that settings such as `client_secret_env` name.
    environment: Environment,
    issuer: Option<Issuer>,
    internal_url: Option<InternalUrl>,
    call_settings: CallSettings,
    /// The endpoints and the client authentication. If the settings use metadata, `info` is `None`
    /// until the metadata has been read.
    info: ArcSwapOption<ProviderInfo>,
    /// The credentials that the gateway last read from the files. A task must hold the lock on the
    /// credentials while the task replaces `info`.
    credentials: Mutex<Credentials>,
    reachability: Reachability,
    format: RequestFormat,
    limiter: Limiter,
    /// Limits the number of concurrent calls.
    call_slots: CallSlots,
    /// The codes that wait for their exchange.
    code_queue: Arc<CodeQueue>,
    /// Limits the number of concurrent revocations.
    revocations: Semaphore,
    breaker: Arc<Breaker>,
    grant_verifier: GrantVerifier,
    webhook_keys: ArcSwap<WebhookKeys>,
}

impl Provider {
    /// Sets up the provider with the name `name`: checks `settings`, and reads the secret, the keys
    /// and the certificate authorities. `environment` contains the environment variables that name
    /// proxies or contain secrets. Reading the small files blocks the calling thread. The function
    /// opens no network connection.
    ///
    /// # Errors
    ///
    /// [`SetupError`] names the setting, and also the file if a file is wrong.
    pub fn new(
        name: &str,
        settings: &Settings,
        environment: &Environment,
    ) -> Result<Self, SetupError> {
        if settings.errors.iter().any(ErrorPattern::matches_everything) {
            let key = "errors";
            let problem = "has a row without a condition, which would match every response";
            return Err(SetupError::Setting { key, problem });
        }
        signed_out::check(&settings.signed_out_answers)?;
        sign_out::check(settings)?;
        let issuer = Issuer::new(settings)?;
        webhook::check(settings, issuer.as_ref())?;
        if settings.require_response_iss && issuer.is_none() {
            let (key, problem) = ("require_response_iss", "is true, but there is no `issuer`");
            return Err(SetupError::Setting { key, problem });
        }
        let internal_url = InternalUrl::new(settings)?;
        let call_settings = CallSettings::new(settings, environment)?;
        let credentials = Credentials::read(settings, environment)?;
        let placeholder = discovery::placeholder(settings, issuer.as_ref(), internal_url.as_ref())?;
        let needs_metadata = placeholder.is_some();
        let info = ProviderInfo::new(settings, &credentials, &call_settings, placeholder)?;
        let grant_verifier = GrantVerifier::new(name, settings, issuer.as_ref())?;
        grant_verifier.check(&info)?;
        Ok(Self {
            name: name.into(),
            settings: settings.clone(),
            environment: environment.clone(),
            issuer,
            internal_url,
            call_settings,
            // Placeholder metadata is used only to check the settings. The gateway must never call
            // the endpoints of placeholder metadata.
            info: ArcSwapOption::from_pointee((!needs_metadata).then_some(info)),
            credentials: Mutex::new(credentials),
            reachability: Reachability::default(),
            format: RequestFormat::new(settings)?,
            limiter: Limiter::per_minute(settings.token_calls_per_minute),
            call_slots: CallSlots::new(settings.concurrent_calls),
            code_queue: Arc::default(),
            revocations: Semaphore::new(sign_out::MAX_REVOCATIONS),
            breaker: Arc::default(),
            grant_verifier,
            webhook_keys: ArcSwap::from_pointee(WebhookKeys::from_files(settings)?),
        })
    }

    /// Returns true if this provider was made with the same name and the same settings. The
    /// contents of the files that the settings name are not compared, because
    /// [`Provider::maintain`] reads these files again.
    pub fn is_made_from(&self, name: &str, settings: &Settings) -> bool {
        *self.name == *name && self.settings == *settings
    }

    /// Returns the provider to use after a reload of the settings. `self` was made from the new
    /// settings, and `before` was made from the old settings.
    ///
    /// If the settings have not changed, the function returns `before`, with its metadata and keys.
    ///
    /// If the settings have changed, but the name and the fingerprint ([`Provider::fingerprint`])
    /// have not changed, `self` shares the breaker, the call counter and the queue of codes of
    /// `before`. A reload of the settings must not reset the limits on the calls to the provider.
    ///
    /// If the URLs for metadata and keys and the trusted certificates are also unchanged, `self`
    /// copies the metadata and keys of `before`. If the metadata contradicts the new settings,
    /// `self` copies nothing. A reload of the settings while the provider is down does not affect
    /// signed-in users.
    pub fn replacing(mut self, before: &Arc<Self>) -> Arc<Self> {
        if before.is_made_from(&self.name, &self.settings) {
            return Arc::clone(before);
        }
        if before.name == self.name && before.fingerprint() == self.fingerprint() {
            self.limiter.share_with(&before.limiter);
            self.breaker = Arc::clone(&before.breaker);
            self.code_queue = Arc::clone(&before.code_queue);
            if self.settings.has_same_sources_as(&before.settings) {
                self.take_over(before);
            }
        }
        Arc::new(self)
    }

    /// Copies the metadata and keys of `before`, unless the metadata contradicts the new settings.
    fn take_over(&mut self, before: &Self) {
        let Some(info) = before.info.load_full() else {
            return;
        };
        let (settings, credentials) = (&self.settings, self.credentials.get_mut());
        let info = ProviderInfo::new(
            settings,
            credentials,
            &self.call_settings,
            info.metadata.clone(),
        );
        let usable = info
            .ok()
            .filter(|info| self.grant_verifier.check(info).is_ok());
        if let Some(info) = usable {
            self.grant_verifier.take_over_keys(&before.grant_verifier);
            self.info.store(Some(Arc::new(info)));
        }
    }

    /// Returns the configured name of this provider.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the name that pages show for the provider.
    pub fn display_name(&self) -> &str {
        self.settings.display_name.as_deref().unwrap_or(&self.name)
    }

    /// Returns a hash that identifies the authorization server and the client. Stored identities
    /// and tokens are valid only for a provider with the same fingerprint. The configured issuer
    /// identifies the server. Without an issuer, the configured location of the token endpoint
    /// identifies the server.
    pub fn fingerprint(&self) -> [u8; 32] {
        let settings = &self.settings;
        let server = match &settings.issuer {
            Some(issuer) => [Some(issuer), None, None],
            None => [
                &settings.url,
                &settings.token_endpoint,
                &settings.metadata_url,
            ]
            .map(Option::as_ref),
        };
        let mut context = digest::Context::new(&SHA256);
        let client = Some(&settings.client_id);
        for part in server.into_iter().chain([client]) {
            // Each part of the hashed text begins with its length, so that two different lists of
            // parts never give the same text. If a part is missing, the hashed text contains no
            // length for this part. Therefore the hashed text for a missing part differs from the
            // hashed text for an empty part.
            let text = part.map_or_else(String::new, |text| format!("{}:{text}", text.len()));
            context.update(text.as_bytes());
            context.update(b",");
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(context.finish().as_ref());
        fingerprint
    }

    /// Returns the response mode: the method by which the provider sends the authorization
    /// response.
    pub fn response_mode(&self) -> ResponseMode {
        self.settings.authorization_request.response_mode
    }

    /// Returns whether the last check found that logins at this provider can begin. Returns `None`
    /// if the provider was not checked recently. The function returns immediately.
    ///
    /// # Errors
    ///
    /// Returns [`Unreachable`] if the recent check failed.
    pub fn recent_readiness(&self, now: Timestamp) -> Option<Result<(), Unreachable>> {
        self.reachability.recent(now)
    }

    /// Makes sure that a login can begin: the required metadata and keys have been read, and the
    /// gateway has recently connected to the token endpoint.
    ///
    /// # Errors
    ///
    /// Returns [`Unreachable`] with the cause.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. If the future is dropped, the next call of `ready` starts from the beginning.
    pub async fn ready(&self, clock: &Clock) -> Result<(), Unreachable> {
        let reach = async {
            match self.info.load_full() {
                Some(info) => info.token.connect().await.map_err(ReachError::Connect)?,
                None => self.discover().await?,
            }
            Ok(self
                .grant_verifier
                .first_keys(&*self.info()?, clock)
                .await?)
        };
        self.reachability.ensure(clock, reach).await
    }

    /// Returns the URL of the authorization request (RFC 6749 section 4.1.1). If the URL of the
    /// authorization endpoint has a query, the returned URL also contains this query. No reserved
    /// parameter appears twice in the URL. If PKCE is off, the URL contains no code challenge. The
    /// nonce is omitted if no ID token is requested.
    ///
    /// # Errors
    ///
    /// Returns [`NotReady`] while the metadata has not been read.
    pub fn authorization_url(
        &self,
        request: &AuthorizationRequest<'_>,
    ) -> Result<String, NotReady> {
        Ok(self.info()?.authorization.url(request))
    }

    /// Checks the `iss` parameter of an authorization response (RFC 9207 section 2.4). If an issuer
    /// is configured, `iss` must be equal to the configured issuer. If the provider promises `iss`
    /// in its metadata, `iss` must be present.
    ///
    /// # Errors
    ///
    /// Returns [`ResponseError`].
    pub fn check_response_issuer(&self, iss: Option<&str>) -> Result<(), ResponseError> {
        let right = match (iss, &self.issuer) {
            (Some(iss), Some(issuer)) => issuer.matches(iss),
            (Some(_), None) => true,
            (None, _) => !self.settings.require_response_iss && !self.info()?.promises_iss,
        };
        right.then_some(()).ok_or(ResponseError::Issuer)
    }

    /// Makes one call to the token endpoint.
    async fn call_token_endpoint(
        &self,
        info: &ProviderInfo,
        grant: GrantType,
        request: Request<Full<Bytes>>,
        clock: &Clock,
    ) -> Result<TokenResponse, TokenCallError> {
        let deadline = match grant {
            GrantType::AuthorizationCode => self.call_settings.deadline,
            GrantType::RefreshToken => self.refresh_deadline(),
        };
        // After a failed call, the next login has to check the provider again.
        let called = info.token.call_within(deadline, request).await;
        let response = called
            .map_err(TokenCallError::Call)
            .inspect_err(|_| self.reachability.forget_success())?;
        // A call can take seconds, so the dates in a token are compared with the time at which the
        // response has arrived. The gateway counts the lifetime of a token from the time before the
        // call, so that the gateway never uses a token after its expiry.
        let arrived_at = clock.now();
        let answer = token::read(response, grant, &self.settings.errors, arrived_at);
        let answer = answer.map_err(|error| info.client_auth.explain(error));
        // After a response with status 429, the gateway pauses all token requests to the provider,
        // for refreshes and for logins.
        if let Err(TokenCallError::Throttled {
            retry_after: Some(wait),
        }) = &answer
        {
            self.limiter.pause(arrived_at, *wait);
        }
        // Every successful call shows that the provider works, so a successful call at a login also
        // makes the breaker allow refreshes.
        answer.inspect(|_granted| self.breaker.succeeded())
    }

    fn info(&self) -> Result<Arc<ProviderInfo>, NotReady> {
        self.info.load_full().ok_or(NotReady)
    }

    /// Waits until this replica may make one more call at the same time.
    async fn call_slot(
        &self,
        grant: GrantType,
        replicas: NonZeroU32,
    ) -> Result<CallSlot<'_>, TokenCallError> {
        let patience = self.call_settings.deadline;
        let slot = self.call_slots.take((grant, replicas), patience).await;
        slot.ok_or(TokenCallError::Busy)
    }

    /// Checks the limit of calls per minute and counts one call.
    fn check_rate(
        &self,
        (grant, replicas): (GrantType, NonZeroU32),
        now: Timestamp,
    ) -> Result<(), TokenCallError> {
        let taken = self.limiter.take(grant, replicas, now);
        taken.map_err(|retry_after| TokenCallError::RateLimited { retry_after })
    }
}
