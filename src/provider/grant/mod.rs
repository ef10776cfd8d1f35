//! Verifies the tokens of a token response, and reads the identity from the tokens.

mod imagined;
mod logout;
mod refreshed;
mod unverified;
mod verification;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use self::verification::Verification;
use super::access_token::{self, AccessTokenVerifier};
use super::claim_mapping::ClaimMapping;
use super::claims;
use super::endpoint::Endpoint;
use super::group_lists;
use super::id_token::{IdClaims, IdTokenRules, LoginContext};
use super::info::ProviderInfo;
use super::issuer::Issuer;
use super::json::Object;
use super::jwt::TokenKind;
use super::key_cache::KeyCache;
use super::keys::KeySet;
use super::schedule::{self, RefreshTiming};
use super::settings::{IdentitySource, Settings};
use super::token::TokenResponse;
use super::userinfo::{self, Userinfo, UserinfoError};
use super::{GrantError, KeysError, NotReady, Redemption, SetupError};
use crate::clock::{Clock, Timestamp};
use crate::identity::Identity;
use crate::secret::Secret;
use crate::token::{Authentication, TokenSet};

/// The result of a login at the provider: identity and tokens.
#[derive(Debug)]
#[must_use]
pub struct Grant {
    /// The identity.
    pub identity: Identity,
    /// The tokens.
    pub tokens: TokenSet,
    /// The id of the session of the user at the provider (claim `sid` of the ID token). `None` if
    /// the provider has sent no usable `sid`.
    pub sid: Option<Box<str>>,
}

/// Verifies token responses and reads the identity from a token response.
#[derive(Debug)]
pub(super) struct GrantVerifier {
    settings: Settings,
    /// The issuer for identities from a source that names no issuer, such as the userinfo.
    issuer: Box<str>,
    access_token: Option<ArcSwap<AccessTokenVerifier>>,
    /// The requirements for ID tokens, if identities come from ID tokens.
    id_token: Option<IdTokenRules>,
    keys: Keys,
    claim_mapping: ClaimMapping,
}

/// The source of the keys that verify ID tokens.
#[derive(Debug)]
enum Keys {
    /// The operator provides the keys in files. The settings contain the paths of the key files.
    Given(ArcSwap<KeySet>),
    /// The provider publishes the keys.
    Published(Arc<KeyCache>),
}

/// The current contents of the key files.
#[derive(Debug)]
pub(super) struct KeyFiles {
    access_token: Option<AccessTokenVerifier>,
    id_token: Option<KeySet>,
}

/// A token response, with the data that is needed to verify the response.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResponseContext<'a> {
    pub(super) info: &'a ProviderInfo,
    pub(super) answer: &'a TokenResponse,
    /// The time when the token request was sent.
    pub(super) requested_at: Timestamp,
}

impl GrantVerifier {
    /// Reads the key files and checks the settings.
    pub(super) fn new(
        name: &str,
        settings: &Settings,
        issuer: Option<&Issuer>,
    ) -> Result<Self, SetupError> {
        let KeyFiles {
            access_token,
            id_token: from_files,
        } = Self::read_files(settings)?;
        let source = settings.identity.source;
        group_lists::check(&settings.identity)?;
        userinfo::check(&settings.identity)?;
        if source == IdentitySource::AccessToken && access_token.is_none() {
            let key = "access_token.public_key_files";
            let problem = "is empty, but identity.source is \"access_token\"";
            return Err(SetupError::Setting { key, problem });
        }
        if access_token.is_none() {
            access_token::refuse_unused(settings)?;
        }
        let id_token = match source {
            IdentitySource::IdToken => Some(IdTokenRules::new(settings, issuer.cloned())?),
            IdentitySource::AccessToken | IdentitySource::None | IdentitySource::Userinfo => None,
        };
        let keys = match from_files {
            Some(set) => Keys::Given(ArcSwap::from_pointee(set)),
            None => Keys::Published(Arc::default()),
        };
        let named = settings.access_token.issuer.as_deref();
        let named = named.or_else(|| issuer.map(Issuer::as_str));
        Ok(Self {
            settings: settings.clone(),
            issuer: named.unwrap_or(name).into(),
            access_token: access_token.map(ArcSwap::from_pointee),
            id_token,
            keys,
            claim_mapping: ClaimMapping::new(name, &settings.identity)?,
        })
    }

    /// Checks that the settings or the metadata contain every endpoint that is needed to read the
    /// identity.
    pub(super) fn check(&self, info: &ProviderInfo) -> Result<(), SetupError> {
        let refuse = |key, problem| Err(SetupError::Setting { key, problem });
        match self.settings.identity.source {
            IdentitySource::Userinfo if info.userinfo.is_none() => {
                let problem = "is missing, but identity.source is \"userinfo\"";
                refuse("userinfo_endpoint", problem)
            }
            IdentitySource::IdToken if self.uses_published_keys() && info.jwks.is_none() => {
                let problem = "is missing, and so are id_token.jwks_file and \
                               id_token.public_key_files";
                refuse("jwks_uri", problem)
            }
            IdentitySource::AccessToken
            | IdentitySource::IdToken
            | IdentitySource::None
            | IdentitySource::Userinfo => Ok(()),
        }
    }

    /// Returns the issuer for identities from a source that names no issuer.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns true if identities come from ID tokens.
    pub(super) fn uses_id_tokens(&self) -> bool {
        self.id_token.is_some()
    }

    fn uses_published_keys(&self) -> bool {
        matches!(self.keys, Keys::Published(_))
    }

    /// If `self` and the verifier `before` use published keys, `self` gets the keys that `before`
    /// has fetched.
    pub(super) fn take_over_keys(&mut self, before: &Self) {
        if let (Keys::Published(keys), Keys::Published(fetched)) = (&mut self.keys, &before.keys) {
            *keys = Arc::clone(fetched);
        }
    }

    /// Fetches the published keys again, if the settings use published keys.
    pub(super) async fn refetch_keys(
        &self,
        info: &ProviderInfo,
        clock: &Clock,
    ) -> Result<(), KeysError> {
        match self.published(info) {
            Some((published, endpoint)) => published.refetch(endpoint, clock).await,
            None => Ok(()),
        }
    }

    /// Fetches the published keys if no keys are cached. If the settings use no published keys, the
    /// function does nothing. Without keys, the gateway cannot verify an ID token.
    pub(super) async fn first_keys(
        &self,
        info: &ProviderInfo,
        clock: &Clock,
    ) -> Result<(), KeysError> {
        match self.published(info) {
            Some((published, endpoint)) => published.first(endpoint, clock).await.map(drop),
            None => Ok(()),
        }
    }

    /// Returns the cache and the URL of the published keys, if the settings use published keys.
    pub(super) fn published<'a>(
        &'a self,
        info: &'a ProviderInfo,
    ) -> Option<(&'a KeyCache, &'a Endpoint)> {
        match &self.keys {
            Keys::Published(published) if self.id_token.is_some() => {
                Some((published, info.jwks.as_ref()?))
            }
            Keys::Published(_) | Keys::Given(_) => None,
        }
    }

    /// Reads the key files again. The function blocks the calling thread while it reads the files,
    /// which are small.
    pub(super) fn read_files(settings: &Settings) -> Result<KeyFiles, SetupError> {
        Ok(KeyFiles {
            access_token: AccessTokenVerifier::new(settings)?,
            id_token: KeySet::from_files(&settings.id_token)?,
        })
    }

    /// Replaces the keys in use with the keys that were read from the files.
    pub(super) fn use_files(&self, files: KeyFiles) {
        if let (Some(old), Some(new)) = (&self.access_token, files.access_token) {
            old.store(Arc::new(new));
        }
        if let (Keys::Given(old), Some(new)) = (&self.keys, files.id_token) {
            old.store(Arc::new(new));
        }
    }

    /// Verifies the response to the exchange of a code.
    pub(super) async fn grant(
        &self,
        response: &ResponseContext<'_>,
        redemption: &Redemption<'_>,
        clock: &Clock,
    ) -> Result<Grant, GrantError> {
        let access_claims = self.access_claims(response, clock.now())?;
        let refresh_token = response.answer.refresh_token.as_ref();
        let tokens = self.tokens(response, refresh_token, access_claims.as_ref())?;
        if refresh_token.is_none() {
            self.log_refresh_token_hint(clock.now());
        }
        let (mut authentication, mut id_token, mut sid) = (None, None, None);
        let identity = match (self.settings.identity.source, &self.id_token) {
            (IdentitySource::IdToken, Some(rules)) => {
                let verification = Verification {
                    rules,
                    info: response.info,
                    clock,
                };
                let claims = self.id_claims(&verification, response, redemption).await?;
                id_token = self.kept_id_token(response);
                sid = claims::sid(&claims.members).map(Into::into);
                // The gateway needs the nonce only to check the ID token of a later refresh. A route
                // can limit the time since `auth_time`.
                let nonce = refresh_token.map(|_| redemption.nonce);
                authentication = Some(Authentication {
                    nonce: nonce.unwrap_or_default().into(),
                    auth_time: rules.auth_time(&claims),
                });
                self.identity_from_id_token(&verification, &claims, &tokens)
                    .await?
            }
            (IdentitySource::AccessToken, _) => {
                self.identity_from_access_token(access_claims, clock.now())
            }
            (IdentitySource::Userinfo, _) => {
                self.identity_from_userinfo(response.info, &tokens, clock)
                    .await?
            }
            (IdentitySource::IdToken | IdentitySource::None, _) => {
                Some(Identity::nameless(&self.issuer))
            }
        };
        Ok(Grant {
            identity: identity.ok_or_else(|| self.claim_mapping.no_subject())?,
            tokens: tokens
                .with_authentication(authentication)
                .with_id_token(id_token),
            sid,
        })
    }

    /// Returns true if sessions keep the ID token: for an app, or for the sign-out at the provider.
    fn keeps_id_tokens(&self, info: &ProviderInfo) -> bool {
        self.settings.identity.kept.id_token || info.end_session.is_some()
    }

    /// Returns the ID token of a response, if sessions keep the ID token. The caller has verified
    /// the ID token.
    fn kept_id_token<'a>(&self, response: &ResponseContext<'a>) -> Option<&'a str> {
        let id_token = response.answer.id_token.as_ref();
        let kept = id_token.filter(|_| self.keeps_id_tokens(response.info));
        kept.map(|token| token.expose().as_str())
    }

    /// Returns the claims of the access token, if keys that verify access tokens are configured.
    fn access_claims(
        &self,
        response: &ResponseContext<'_>,
        now: Timestamp,
    ) -> Result<Option<access_token::Claims>, GrantError> {
        let token = response.answer.access_token.expose();
        let verify = |verifier: &ArcSwap<AccessTokenVerifier>| verifier.load().verify(token, now);
        let claims = self.access_token.as_ref().map(verify).transpose();
        claims.map_err(GrantError::AccessToken)
    }

    fn identity_from_access_token(
        &self,
        claims: Option<access_token::Claims>,
        now: Timestamp,
    ) -> Option<Identity> {
        let members = claims?.members;
        self.claim_mapping.identity(&[&members], &self.issuer, now)
    }

    /// Logs a warning that the provider sent no refresh token, if a missing scope is the likely
    /// reason. Without a refresh token, a session ends when its first access token expires.
    fn log_refresh_token_hint(&self, now: Timestamp) {
        let settings = &self.settings;
        let scope = |name: &str| settings.scopes.iter().any(|scope| scope == name);
        // Google sends a refresh token because of the parameter `access_type`, and not because of a
        // scope.
        let parameters = &settings.authorization_request.parameters;
        let asks = scope("offline_access") || parameters.contains_key("access_type");
        if scope("openid") && !asks && self.claim_mapping.is_due("refresh_token", now) {
            tracing::warn!(
                issuer = &*self.issuer,
                setting = "scopes",
                "The provider gave no refresh token, and scopes does not contain offline_access"
            );
        }
    }

    /// Creates the token set. The token set expires at the earlier of two times: the expiry in the
    /// response, and the expiry in the access token.
    fn tokens(
        &self,
        response: &ResponseContext<'_>,
        refresh_token: Option<&Secret<String>>,
        claims: Option<&access_token::Claims>,
    ) -> Result<TokenSet, GrantError> {
        let (answer, requested_at) = (response.answer, response.requested_at);
        let default = self.settings.default_expires_in_secs;
        let default = default.map(|seconds| Duration::from_secs(seconds.get()));
        let expires_in = answer.expires_in.or(default);
        let in_response = expires_in.map(|lifetime| requested_at.plus(lifetime));
        let in_token = claims.map(|claims| claims.expires_at);
        // The response and the token can state different expiry times. The gateway uses the earlier
        // of the two expiry times, because the provider can refuse the access token after this
        // time.
        let expires_at = in_response.into_iter().chain(in_token).min();
        let timing = if self.settings.refresh.revokes_access_token {
            RefreshTiming::Late
        } else {
            RefreshTiming::Early
        };
        let timing = refresh_token.map(|_| timing);
        TokenSet::new(
            answer.access_token.expose(),
            refresh_token.map(|token| token.expose().as_str()),
            schedule::lifetime(
                requested_at,
                expires_at,
                timing,
                schedule::random_fraction(),
            ),
        )
        .map_err(GrantError::Token)
    }

    /// Returns the claims of the ID token, or an error if there is no ID token (OpenID Connect Core
    /// 1.0 section 3.1.3.3).
    async fn id_claims(
        &self,
        verification: &Verification<'_>,
        response: &ResponseContext<'_>,
        redemption: &Redemption<'_>,
    ) -> Result<IdClaims, GrantError> {
        let answer = response.answer;
        let token = answer.id_token.as_ref().ok_or(GrantError::NoIdToken)?;
        let verified = self.verified(token.expose(), verification).await;
        let verified = verified.map_err(|error| error.of(TokenKind::IdToken))?;
        let login = LoginContext {
            nonce: redemption.nonce,
            access_token: &answer.access_token,
            code: &redemption.code,
            begun_at: redemption.begun_at,
            max_age: redemption.max_age,
        };
        let now = verification.clock.now();
        verification
            .rules
            .check(verified, &login, now)
            .map_err(GrantError::IdToken)
    }

    /// Returns the identity from an ID token. If the settings ask for the userinfo, the identity
    /// also contains claims from the userinfo.
    async fn identity_from_id_token(
        &self,
        verification: &Verification<'_>,
        claims: &IdClaims,
        tokens: &TokenSet,
    ) -> Result<Option<Identity>, GrantError> {
        let endpoint = verification.info.userinfo.as_ref();
        let endpoint = endpoint.filter(|_| self.settings.identity.userinfo);
        let Some(endpoint) = endpoint else {
            let now = verification.clock.now();
            return Ok(self
                .claim_mapping
                .identity(&[&claims.members], &claims.issuer, now));
        };
        let userinfo = match self.userinfo(endpoint, tokens).await? {
            Userinfo::Json(members) => members,
            Userinfo::Signed(token) => {
                let verified = self.verified(token.expose(), verification).await;
                let verified = verified.map_err(|error| error.of(TokenKind::Userinfo))?;
                let members = verified.members;
                let now = verification.clock.now();
                verification
                    .rules
                    .check_userinfo(&members, &claims.issuer, now)
                    .map_err(GrantError::SignedUserinfo)?;
                members
            }
        };
        // If the userinfo and the ID token have different subjects, the userinfo is about another
        // user (OpenID Connect Core 1.0 section 5.3.2).
        if userinfo.get("sub").and_then(serde_json::Value::as_str) != Some(&*claims.subject) {
            return Err(GrantError::OtherSubject);
        }
        let (sources, now) = ([&claims.members, &userinfo], verification.clock.now());
        Ok(self.claim_mapping.identity(&sources, &claims.issuer, now))
    }

    /// Returns the identity from the userinfo of a provider without ID tokens.
    async fn identity_from_userinfo(
        &self,
        info: &ProviderInfo,
        tokens: &TokenSet,
        clock: &Clock,
    ) -> Result<Option<Identity>, GrantError> {
        let Some(endpoint) = &info.userinfo else {
            return Err(NotReady.into());
        };
        let failed = |error| GrantError::userinfo(endpoint.uri(), error);
        let members: Object = match self.userinfo(endpoint, tokens).await? {
            Userinfo::Json(members) => members,
            // If the settings do not use ID tokens, the settings do not state which keys can verify
            // signed userinfo.
            Userinfo::Signed(_) => return Err(failed(UserinfoError::Signed)),
        };
        let identity = self
            .claim_mapping
            .identity(&[&members], &self.issuer, clock.now());
        let Some(mut identity) = identity else {
            return Ok(None);
        };
        // If the userinfo contains a verified email address, no call to the emails endpoint is
        // needed.
        let unverified = !identity.email.as_ref().is_some_and(|email| email.verified);
        if let Some(emails) = info.emails.as_ref().filter(|_| unverified) {
            let email = userinfo::fetch_email(emails, tokens).await;
            let failed = |error| GrantError::userinfo(emails.uri(), error);
            identity.email = email.map_err(failed)?.or(identity.email);
        }
        let listed = group_lists::read(&info.group_lists, tokens).await?;
        Ok(Some(self.claim_mapping.with_listed(
            identity,
            listed,
            clock.now(),
        )))
    }

    async fn userinfo(
        &self,
        endpoint: &Endpoint,
        tokens: &TokenSet,
    ) -> Result<Userinfo, GrantError> {
        let bearer = self.settings.identity.userinfo_bearer;
        let fetched = userinfo::fetch(endpoint, tokens, bearer).await;
        fetched.map_err(|error| GrantError::userinfo(endpoint.uri(), error))
    }
}
