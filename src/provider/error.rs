//! Why a provider could not be set up or did not let somebody in.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::jwt::signer::{SigningError, SigningKeyProblem};
use super::jwt::{KeyProblem, TokenError, TokenKind};
use super::keys::KeySetError;
use super::metadata::MetadataError;
use super::refusal::Refusal;
use super::token::AnswerError;
use super::userinfo::UserinfoError;
use crate::{origin, tls, token};

/// Whose fault it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// The browser: what it brought is no good.
    Client,
    /// The gateway: its configuration, or a limit of its own.
    Gateway,
    /// The authorization server.
    Provider,
}

/// Why a provider could not be set up or did not let somebody in. No variant carries a secret, a
/// code or a token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The JWT access token is not believed. Side: provider; usually a key or audience that is
    /// configured wrongly, or a clock.
    #[error("the access token is not believed")]
    AccessToken(#[source] TokenError),
    /// The token response is not one (RFC 6749 section 5.1). Side: provider.
    #[error("the token response is not understood")]
    Answer(#[source] AnswerError),
    /// The JWT by which we say who we are could not be made. Side: gateway.
    #[error("the client assertion could not be made")]
    Assertion(#[source] SigningError),
    /// As many calls of the server are under way as may be. Side: provider, which is slow, or
    /// gateway (`concurrent_calls`); it passes.
    #[error("too many calls of the authorization server are under way")]
    Busy,
    /// The server could not be reached, did not answer in time, or answered more than is taken. Side:
    /// provider; it passes.
    #[error("the call to the authorization server failed")]
    Call(#[source] origin::Error),
    /// A file with a secret or a key holds nothing. Side: gateway.
    #[error("{} (setting `{key}`) is empty", path.display())]
    EmptyFile {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The ID token is not believed. Side: provider; usually `client_id`, `issuer` or a clock that is
    /// wrong, or an answer that belongs to somebody else.
    #[error("the ID token is not believed")]
    IdToken(#[source] TokenError),
    /// A file with a key set cannot be used. Side: gateway.
    #[error("the key set in {} (setting `{key}`) cannot be used", path.display())]
    KeySet {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeySetError,
    },
    /// The published keys cannot be used. Side: provider.
    #[error("the published keys cannot be used")]
    Keys(#[source] KeySetError),
    /// The keys could not be fetched. Side: provider; it passes.
    #[error("the call for the keys failed")]
    KeysCall(#[source] origin::Error),
    /// The keys were fetched a moment ago, or were not to be had then. Side: provider; it passes.
    #[error("the keys were asked for a moment ago")]
    KeysJustFetched,
    /// Another status than 200 where the keys should be. Side: provider.
    #[error("the server answered with status {0} instead of keys")]
    KeysStatus(u16),
    /// The server has failed several refreshes in a row, or asked for it, and is left alone for a
    /// while. Side: provider; it passes.
    #[error("the authorization server is left alone for another {} ms", retry_after.as_millis())]
    LeftAlone {
        /// When it is tried again.
        retry_after: Duration,
    },
    /// The server's metadata cannot be used. Side: provider; often an issuer that is configured
    /// wrongly.
    #[error("the metadata at {place} cannot be used")]
    Metadata {
        /// Where it was asked for.
        place: Box<str>,
        /// What is wrong with it.
        #[source]
        source: MetadataError,
    },
    /// The server refuses us, not the user: wrong secret, wrong redirection URI, a request that it
    /// does not understand. Side: gateway; compare our settings with the registration there.
    #[error("the authorization server refuses this client")]
    Misconfigured(#[source] Refusal),
    /// The token response has no ID token, which is where the identity comes from. Side: provider;
    /// the scope `openid` has to be granted.
    #[error("the token response has no ID token")]
    NoIdToken,
    /// There is no refresh token. Side: gateway.
    #[error("there is no refresh token")]
    NoRefreshToken,
    /// The claims name nobody. Side: provider; look at `identity.claims.subject`.
    #[error("the identity has no subject")]
    NoSubject,
    /// The metadata has not been read yet. Side: provider; it passes.
    #[error("the metadata of the authorization server has not been read yet")]
    NotReady,
    /// The answer to a refresh is proven to be about another subject, or from another issuer, than
    /// the session (OpenID Connect Core 1.0 section 12.2). Side: provider, or an attacker who
    /// swaps answers.
    #[error("the answer to the refresh is about somebody else")]
    OtherPerson,
    /// The userinfo is about somebody else than the ID token (OpenID Connect Core 1.0 section
    /// 5.3.2). Side: provider, or an attacker who swaps access tokens.
    #[error("the userinfo is not about the subject of the ID token")]
    OtherSubject,
    /// People cannot be sent to the server: it could not be reached a moment ago, what it says of
    /// itself cannot be used, or it says nothing. Side: provider; it mostly passes.
    #[error("the authorization server cannot be used now")]
    OutOfReach {
        /// When it is tried again.
        retry_after: Duration,
        /// Why, unless it said nothing at all.
        #[source]
        cause: Option<Arc<Self>>,
    },
    /// Our private key cannot be used. Side: gateway.
    #[error("the key in {} (setting `client_assertion.private_key_file`) cannot be used", path.display())]
    PrivateKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: SigningKeyProblem,
    },
    /// A public key cannot be used. Side: gateway.
    #[error("the key in {} (setting `{key}`) cannot be used", path.display())]
    PublicKey {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyProblem,
    },
    /// We would call the token endpoint more often than is allowed. Side: gateway; it passes.
    #[error("the token endpoint may not be called for another {} ms", retry_after.as_millis())]
    RateLimited {
        /// When the next call may be made.
        retry_after: Duration,
    },
    /// A file could not be read as text. Side: gateway.
    #[error("{} (setting `{key}`) could not be read", path.display())]
    Read {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// The token endpoint answered with a redirect, which is never followed: the code and the
    /// client secret would go along. Side: gateway; the endpoint's address is wrong.
    #[error("the token endpoint answered with a redirect ({status})")]
    Redirected {
        /// The status.
        status: u16,
    },
    /// The refresh token is no good any more: used up, expired, revoked, or the person may not sign in
    /// now. Side: client; a new login helps.
    #[error("the authorization server refuses the refresh token")]
    RefreshRefused(#[source] Refusal),
    /// The code is no good. Side: client; a new login helps.
    #[error("the authorization server refuses the code")]
    Refused(#[source] Refusal),
    /// The answer of the authorization endpoint says that it is from somebody else, or does not say
    /// who it is from at a server that promises to (RFC 9207 section 2.4). Side: provider, or an
    /// attacker who mixes up two of them.
    #[error("the answer of the authorization endpoint is not from this issuer")]
    ResponseIssuer,
    /// A setting is missing, wrong or at odds with another. Side: gateway.
    #[error("setting `{key}` {problem}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The signed userinfo is not believed. Side: provider.
    #[error("the signed userinfo is not believed")]
    SignedUserinfo(#[source] TokenError),
    /// The server throttles us (429). Side: provider; it passes. `token_calls_per_minute` is too
    /// high, or others share our address.
    #[error("the authorization server asks for fewer calls")]
    Throttled {
        /// When to come back, when it said so.
        retry_after: Option<Duration>,
    },
    /// The access token or the refresh token cannot be used. Side: provider.
    #[error("the token cannot be used")]
    Token(#[source] token::Error),
    /// The authorities for this server cannot be used. Side: gateway.
    #[error("the certificate authorities (setting `ca_file`) cannot be used")]
    Trust(#[source] tls::Error),
    /// The server is out of order (408, 425, 5xx). Side: provider; it passes.
    #[error("the authorization server is out of order")]
    Unavailable {
        /// When to come back, when it said so.
        retry_after: Option<Duration>,
        /// What it answered.
        #[source]
        refusal: Refusal,
    },
    /// The userinfo endpoint gave no claims. Side: provider.
    #[error("the userinfo endpoint gave no claims")]
    Userinfo(#[source] UserinfoError),
}

impl Error {
    /// A server that has said nothing for as long as anybody waits; it may be asked again after the
    /// same time.
    pub fn silent(waited: Duration) -> Self {
        Self::OutOfReach {
            retry_after: waited,
            cause: None,
        }
    }

    /// A stable code for logs, counters and pages.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::AccessToken(error) => error.reason(TokenKind::AccessToken),
            Self::Answer(_) => "token_response_malformed",
            Self::Assertion(_) => "client_assertion",
            Self::Busy => "provider_busy",
            Self::Call(error) if error.may_have_been_processed() => "provider_call_failed",
            Self::OutOfReach {
                cause: Some(cause), ..
            } => cause.reason(),
            Self::Call(_) | Self::OutOfReach { .. } => "provider_unreachable",
            Self::EmptyFile { .. }
            | Self::KeySet { .. }
            | Self::PrivateKey { .. }
            | Self::PublicKey { .. }
            | Self::Read { .. }
            | Self::Setting { .. }
            | Self::Trust(_) => "provider_settings",
            Self::IdToken(error) => error.reason(TokenKind::IdToken),
            Self::Keys(error) => error.reason(),
            Self::KeysCall(_) | Self::KeysJustFetched | Self::KeysStatus(_) => "keys_unavailable",
            Self::LeftAlone { .. } => "provider_left_alone",
            Self::Metadata { source, .. } => source.reason(),
            Self::Misconfigured(_) => "client_refused",
            Self::NoIdToken => "no_id_token",
            Self::NoRefreshToken => "no_refresh_token",
            Self::NoSubject => "no_subject",
            Self::NotReady => "metadata_missing",
            Self::OtherPerson => "refresh_of_other_person",
            Self::OtherSubject => "userinfo_subject",
            Self::RateLimited { .. } => "token_calls_limited",
            Self::Redirected { .. } => "token_endpoint_redirected",
            Self::RefreshRefused(_) => "refresh_refused",
            Self::Refused(_) => "code_refused",
            Self::ResponseIssuer => "response_issuer",
            Self::SignedUserinfo(error) => error.reason(TokenKind::Userinfo),
            Self::Throttled { .. } => "provider_throttled",
            Self::Token(_) => "token_unusable",
            Self::Unavailable { .. } => "provider_unavailable",
            Self::Userinfo(_) => "userinfo_failed",
        }
    }

    /// Whose fault it is.
    pub fn side(&self) -> Side {
        match self {
            Self::RefreshRefused(_) | Self::Refused(_) => Side::Client,
            Self::OutOfReach {
                cause: Some(cause), ..
            } => cause.side(),
            Self::Assertion(_)
            | Self::EmptyFile { .. }
            | Self::KeySet { .. }
            | Self::Misconfigured(_)
            | Self::NoRefreshToken
            | Self::PrivateKey { .. }
            | Self::PublicKey { .. }
            | Self::RateLimited { .. }
            | Self::Read { .. }
            | Self::Redirected { .. }
            | Self::Setting { .. }
            | Self::Trust(_) => Side::Gateway,
            Self::AccessToken(_)
            | Self::Answer(_)
            | Self::Busy
            | Self::Call(_)
            | Self::IdToken(_)
            | Self::Keys(_)
            | Self::KeysCall(_)
            | Self::KeysJustFetched
            | Self::KeysStatus(_)
            | Self::LeftAlone { .. }
            | Self::Metadata { .. }
            | Self::NoIdToken
            | Self::NoSubject
            | Self::NotReady
            | Self::OtherPerson
            | Self::OtherSubject
            | Self::OutOfReach { .. }
            | Self::ResponseIssuer
            | Self::SignedUserinfo(_)
            | Self::Throttled { .. }
            | Self::Token(_)
            | Self::Unavailable { .. }
            | Self::Userinfo(_) => Side::Provider,
        }
    }

    /// Whether the trouble is one that passes by itself, so that trying again makes sense.
    pub fn passes(&self) -> bool {
        match self {
            Self::Busy
            | Self::Call(_)
            | Self::KeysCall(_)
            | Self::KeysJustFetched
            | Self::LeftAlone { .. }
            | Self::NotReady
            | Self::RateLimited { .. }
            | Self::Throttled { .. }
            | Self::Unavailable { .. } => true,
            Self::KeysStatus(status) => matches!(status, 408 | 425 | 429 | 500..),
            Self::Metadata { source, .. } => source.passes(),
            Self::OutOfReach { cause, .. } => cause.as_ref().is_none_or(|cause| cause.passes()),
            Self::Userinfo(error) => error.passes(),
            Self::AccessToken(_)
            | Self::Answer(_)
            | Self::Assertion(_)
            | Self::EmptyFile { .. }
            | Self::IdToken(_)
            | Self::Keys(_)
            | Self::KeySet { .. }
            | Self::Misconfigured(_)
            | Self::NoIdToken
            | Self::NoRefreshToken
            | Self::NoSubject
            | Self::OtherPerson
            | Self::OtherSubject
            | Self::PrivateKey { .. }
            | Self::PublicKey { .. }
            | Self::Read { .. }
            | Self::Redirected { .. }
            | Self::RefreshRefused(_)
            | Self::Refused(_)
            | Self::ResponseIssuer
            | Self::Setting { .. }
            | Self::SignedUserinfo(_)
            | Self::Token(_)
            | Self::Trust(_) => false,
        }
    }

    /// Whether nothing was sent to the server, so that a code is as good as it was.
    pub fn sent_nothing(&self) -> bool {
        matches!(
            self,
            Self::Busy
                | Self::LeftAlone { .. }
                | Self::NoRefreshToken
                | Self::NotReady
                | Self::OutOfReach { .. }
                | Self::RateLimited { .. }
        )
    }

    /// After what time another try makes sense, when that is known.
    #[expect(clippy::wildcard_enum_match_arm, reason = "few errors know")]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::LeftAlone { retry_after }
            | Self::OutOfReach { retry_after, .. }
            | Self::RateLimited { retry_after } => Some(*retry_after),
            Self::Throttled { retry_after } | Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
