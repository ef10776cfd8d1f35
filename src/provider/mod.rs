//! An authorization server and our registration there.
//!
//! Knows OAuth 2.0 and OpenID Connect as a client speaks them (RFC 6749, RFC 7636, OpenID Connect
//! Core 1.0): where to send the browser, how to turn a code into tokens and tokens into an identity,
//! and what each kind of server does differently ([`profile`], [`settings`]). Refuses to know browsers, cookies, `state` and
//! sessions: whoever calls [`Provider::redeem`] has matched the response to its request before.
//!
//! Nothing here is sent twice. A code is good once, and a server may have used it up before the
//! connection broke: a new login is the only safe repetition. A refresh token that is sent again is
//! a thief's to many a server: whether and when [`Provider::refresh`] is tried again is for the
//! caller to say.
//!
//! What a server publishes of itself (metadata, keys) is read on the control plane, ahead of time
//! and again from time to time ([`Provider::maintain`]); what cannot be read or is not believed
//! never replaces what was.
//!
//! The entry point is [`Provider`].

mod access_token;
mod authorization;
mod breaker;
mod call_slots;
mod claim_mapping;
mod claims;
mod client_auth;
mod discovery;
mod endpoint;
mod error;
mod error_response;
mod grant;
mod id_token;
mod info;
mod issuer;
mod json;
mod jwt;
mod key_cache;
mod keys;
mod limiter;
mod metadata;
pub mod profile;
mod reachability;
mod refresh;
mod schedule;
pub mod settings;
mod signed_out;
mod token;
mod userinfo;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{self, SHA256};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

pub use authorization::{AuthorizationRequest, Prompt};
pub use error::{
    Actor, Classification, Error, ExchangeError, GrantError, KeysError, NotReady, ReachError,
    ResponseError, Sent, SetupError, TokenCallError, Unreachable,
};
pub use error_response::{ErrorCode, Refusal};
pub use grant::Grant;
pub use json::JsonError;
pub use jwt::signer::{SigningError, SigningKeyProblem};
pub use jwt::{KeyProblem, TokenError, TokenKind};
pub use keys::{KeySetError, SkippedKeys};
pub use metadata::MetadataError;
pub use refresh::{RefreshError, RefreshRequest, Refreshed, Verdict};
pub use settings::{ResponseMode, Settings};
pub use token::ResponseFormatError;
pub use userinfo::UserinfoError;

use crate::clock::{Clock, Timestamp};
use crate::secret::Secret;
use breaker::Breaker;
use call_slots::{CallSlot, CallSlots};
use client_auth::Credentials;
use grant::{GrantVerifier, ResponseContext};
use info::{CallSettings, ProviderInfo};
use issuer::Issuer;
use limiter::Limiter;
use reachability::Reachability;
use settings::{ErrorPattern, GrantType};
use token::{CodeGrant, RequestFormat, TokenResponse};

/// The largest file with a secret or a key, in bytes.
const LARGEST_FILE: u64 = 64 * 1024;

/// A code, with what its request was made with.
#[derive(Debug)]
pub struct Redemption<'a> {
    /// The authorization code.
    pub code: Secret<String>,
    /// The verifier whose challenge was sent (RFC 7636 section 4.5).
    pub code_verifier: Secret<String>,
    /// The nonce that was sent, which the ID token has to repeat.
    pub nonce: &'a str,
    /// The redirection URI that was sent, byte for byte.
    pub redirect_uri: &'a str,
    /// When the authorization request was sent.
    pub begun_at: Timestamp,
}

/// Providers by their configured names.
pub type Providers = BTreeMap<Box<str>, Arc<Provider>>;

/// Our registration at one authorization server.
#[derive(Debug)]
pub struct Provider {
    name: Box<str>,
    settings: Settings,
    issuer: Option<Issuer>,
    call_settings: CallSettings,
    /// Nothing until the metadata was read, where it has to be.
    info: ArcSwapOption<ProviderInfo>,
    /// What the files said last; held while what is known is made anew.
    credentials: Mutex<Credentials>,
    reachability: Reachability,
    format: RequestFormat,
    limiter: Limiter,
    /// Calls that may be under way.
    call_slots: CallSlots,
    breaker: Arc<Breaker>,
    grant_verifier: GrantVerifier,
}

impl Provider {
    /// Sets up the provider called `name`: checks `settings`, and reads the secret, the keys and
    /// the certificate authorities. Blocks for small reads; opens no connection.
    ///
    /// # Errors
    ///
    /// [`SetupError`] names the key and, if there is one, the file.
    pub fn new(name: &str, settings: &Settings) -> Result<Self, SetupError> {
        if settings.errors.iter().any(ErrorPattern::matches_everything) {
            let (key, problem) = ("errors", "has a row that asks for nothing");
            return Err(SetupError::Setting { key, problem });
        }
        let issuer = Issuer::new(settings)?;
        if settings.require_response_iss && issuer.is_none() {
            let (key, problem) = (
                "require_response_iss",
                "is true, but no issuer is configured",
            );
            return Err(SetupError::Setting { key, problem });
        }
        let call_settings = CallSettings::new(settings)?;
        let credentials = Credentials::read(settings)?;
        let placeholder = discovery::placeholder(settings, issuer.as_ref())?;
        let must_be_read = placeholder.is_some();
        let info = ProviderInfo::new(settings, &credentials, &call_settings, placeholder)?;
        let grant_verifier = GrantVerifier::new(name, settings, issuer.as_ref())?;
        grant_verifier.check(&info)?;
        Ok(Self {
            name: name.into(),
            settings: settings.clone(),
            issuer,
            call_settings,
            info: ArcSwapOption::from_pointee((!must_be_read).then_some(info)),
            credentials: Mutex::new(credentials),
            reachability: Reachability::default(),
            format: RequestFormat::new(settings)?,
            limiter: Limiter::per_minute(settings.token_calls_per_minute),
            call_slots: CallSlots::new(settings.concurrent_calls),
            breaker: Arc::default(),
            grant_verifier,
        })
    }

    /// Whether this was made as `name` from these very settings. What the files hold that they name
    /// is not asked: [`Provider::maintain`] follows it.
    pub fn is_made_from(&self, name: &str, settings: &Settings) -> bool {
        *self.name == *name && self.settings == *settings
    }

    /// The provider to use from now on, after the settings were read again and `self` was made from
    /// them. If nothing changed, returns `before`, with all that it knows of the server. If `before`
    /// is the same registration ([`Provider::fingerprint`]) with other settings, `self` shares its
    /// count of calls and its breaker, so that a reload lets nobody call more often. If what is
    /// published is also read from the same places, `self` takes over the metadata and the keys, so
    /// that a reload while the server is down changes nothing for those who are signed in.
    pub fn replacing(mut self, before: &Arc<Self>) -> Arc<Self> {
        if before.is_made_from(&self.name, &self.settings) {
            return Arc::clone(before);
        }
        if before.name == self.name && before.fingerprint() == self.fingerprint() {
            self.limiter.share_with(&before.limiter);
            self.breaker = Arc::clone(&before.breaker);
            if self.settings.reads_the_same_as(&before.settings) {
                self.take_over(before);
            }
        }
        Arc::new(self)
    }

    /// Takes over what `before` has read, unless these settings cannot be used with it.
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

    /// The name that the operator gave this provider.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What people call the server.
    pub fn display_name(&self) -> &str {
        self.settings.display_name.as_deref().unwrap_or(&self.name)
    }

    /// Another value for another server or another client: what is known of people here counts only
    /// where this is the same. The server is its issuer as configured, or, without one, where its
    /// token endpoint is configured to be.
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
            // No part can run into the next one, and none is not the empty one.
            let text = part.map_or_else(String::new, |text| format!("{}:{text}", text.len()));
            context.update(text.as_bytes());
            context.update(b",");
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(context.finish().as_ref());
        fingerprint
    }

    /// How this server's answers come to the redirection endpoint.
    pub fn response_mode(&self) -> ResponseMode {
        self.settings.authorization_request.response_mode
    }

    /// What was found out a moment ago about whether people can be sent to the server, if anything
    /// was. Waits for nothing.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub fn recent_readiness(&self, now: Timestamp) -> Option<Result<(), Unreachable>> {
        self.reachability.recent(now)
    }

    /// Makes sure that people can be sent to the server: that its metadata and keys were read,
    /// where they are to be, and that its token endpoint could be connected to a moment ago. Takes
    /// as long as those calls may.
    ///
    /// # Errors
    ///
    /// [`Unreachable`], with the cause.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; what was being asked is asked again.
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

    /// The URL to send the browser to (RFC 6749 section 4.1.1). The query of the endpoint is kept,
    /// and no parameter of ours is there twice. The challenge is left out when PKCE is off, the
    /// nonce where no ID token is asked for.
    ///
    /// # Errors
    ///
    /// [`NotReady`] while the metadata has not been read.
    pub fn authorization_url(
        &self,
        request: &AuthorizationRequest<'_>,
    ) -> Result<String, NotReady> {
        Ok(self.info()?.authorization.url(request))
    }

    /// Checks who an answer of the authorization endpoint says it is from (RFC 9207 section 2.4):
    /// where the issuer is known nobody else may have answered, and where the server promises to
    /// say it, it has to.
    ///
    /// # Errors
    ///
    /// [`ResponseError`].
    pub fn check_response_issuer(&self, iss: Option<&str>) -> Result<(), ResponseError> {
        let right = match (iss, &self.issuer) {
            (Some(iss), Some(issuer)) => issuer.matches(iss),
            (Some(_), None) => true,
            (None, _) => !self.settings.require_response_iss && !self.info()?.promises_iss,
        };
        right.then_some(()).ok_or(ResponseError::Issuer)
    }

    /// Redeems an authorization code: one call to the token endpoint (RFC 6749 section 4.1.3), and
    /// what it takes to know who it is: the server's keys, the userinfo.
    ///
    /// # Errors
    ///
    /// [`ExchangeError::Call`] when the call brought no tokens; whether the code may have been used up
    /// is in its [`Classification`]. [`ExchangeError::Grant`] when they are not believed.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: when the future is dropped the code may be used up and the tokens lost.
    /// Run it as a task that outlives the browser's connection.
    pub async fn redeem(
        &self,
        redemption: Redemption<'_>,
        clock: &Clock,
    ) -> Result<Grant, ExchangeError> {
        let info = self.info()?;
        let _slot = self.call_slot(GrantType::AuthorizationCode).await?;
        let requested_at = clock.now();
        self.admit(GrantType::AuthorizationCode, requested_at)?;
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
        let answer = self.ask(&info, grant_type, request, clock).await?;
        let response = ResponseContext {
            info: &info,
            answer: &answer,
            requested_at,
        };
        Ok(self
            .grant_verifier
            .grant(&response, &redemption, clock)
            .await?)
    }

    /// Calls the token endpoint, once.
    async fn ask(
        &self,
        info: &ProviderInfo,
        grant: GrantType,
        request: Request<Full<Bytes>>,
        clock: &Clock,
    ) -> Result<TokenResponse, TokenCallError> {
        let deadline = match grant {
            GrantType::AuthorizationCode => self.call_settings.deadline,
            GrantType::RefreshToken => {
                Duration::from_secs(self.settings.refresh.deadline_secs.get().into())
            }
        };
        let called = info.token.call_within(deadline, request).await;
        let response = called
            .map_err(TokenCallError::Call)
            .inspect_err(|_| self.reachability.forget_success())?;
        // A call takes seconds at some servers: an answer is judged by the time of its arrival,
        // while the life of tokens is counted from before the call.
        let arrived_at = clock.now();
        let answer = token::read(response, grant, &self.settings.errors, arrived_at);
        if let Err(TokenCallError::Throttled {
            retry_after: Some(wait),
        }) = &answer
        {
            self.limiter.pause(arrived_at, *wait);
        }
        answer.inspect(|_granted| self.breaker.succeeded())
    }

    fn info(&self) -> Result<Arc<ProviderInfo>, NotReady> {
        self.info.load_full().ok_or(NotReady)
    }

    /// A place among the calls that may be under way.
    async fn call_slot(&self, grant: GrantType) -> Result<CallSlot<'_>, TokenCallError> {
        let slot = self
            .call_slots
            .take(grant, self.call_settings.deadline)
            .await;
        slot.ok_or(TokenCallError::Busy)
    }

    /// A call out of those that may be made in a minute.
    fn admit(&self, grant: GrantType, now: Timestamp) -> Result<(), TokenCallError> {
        let taken = self.limiter.take(grant, now);
        taken.map_err(|retry_after| TokenCallError::RateLimited { retry_after })
    }
}

/// Reads a file with a secret; one newline at its end is not part of it.
fn secret_file(key: &'static str, path: &Path) -> Result<Secret<String>, SetupError> {
    let text = Zeroizing::new(read_text(key, path)?);
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.is_empty() {
        let path = path.to_owned();
        return Err(SetupError::EmptyFile { key, path });
    }
    Ok(Secret::new(secret.to_owned()))
}

/// Reads a small text file that must not be empty.
fn read_text(key: &'static str, path: &Path) -> Result<String, SetupError> {
    use std::io::{Error as IoError, ErrorKind, Read as _};
    let failed = |source| SetupError::Read {
        key,
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(failed)?;
    let read = file
        .take(LARGEST_FILE.saturating_add(1))
        .read_to_string(&mut text);
    let length = u64::try_from(read.map_err(failed)?).unwrap_or(u64::MAX);
    if length > LARGEST_FILE {
        return Err(failed(IoError::from(ErrorKind::FileTooLarge)));
    }
    if text.trim().is_empty() {
        let path = path.to_owned();
        return Err(SetupError::EmptyFile { key, path });
    }
    Ok(text)
}
