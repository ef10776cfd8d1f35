//! Why a provider could not be set up or did not let somebody in.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::jwt::signer::{SigningError, SigningKeyProblem};
use super::jwt::{AccessTokenError, KeyProblem};
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
    AccessToken(#[source] AccessTokenError),
    /// The token response is not one (RFC 6749 section 5.1). Side: provider.
    #[error("the token response is not understood")]
    Answer(#[source] AnswerError),
    /// The JWT by which we say who we are could not be made. Side: gateway.
    #[error("the client assertion could not be made")]
    Assertion(#[source] SigningError),
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
    /// The server's metadata cannot be used. Side: provider; usually an issuer that is configured
    /// wrongly.
    #[error("the metadata of the authorization server cannot be used")]
    Metadata(#[source] MetadataError),
    /// The server refuses us, not the user: wrong secret, wrong redirection URI, a request that it
    /// does not understand. Side: gateway; compare our settings with the registration there.
    #[error("the authorization server refuses this client")]
    Misconfigured(#[source] Refusal),
    /// The claims name nobody. Side: provider; look at `identity.claims.subject`.
    #[error("the identity has no subject")]
    NoSubject,
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
    #[error("the key in {} (setting `access_token.public_key_files`) cannot be used", path.display())]
    PublicKey {
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
    /// The code is no good. Side: client; a new login helps.
    #[error("the authorization server refuses the code")]
    Refused(#[source] Refusal),
    /// A setting is missing, wrong or at odds with another. Side: gateway.
    #[error("setting `{key}` {problem}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
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
    /// A stable code for logs, counters and pages.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::AccessToken(error) => error.reason(),
            Self::Answer(_) => "token_response_malformed",
            Self::Assertion(_) => "client_assertion",
            Self::Call(error) if error.may_have_been_processed() => "provider_call_failed",
            Self::Call(_) => "provider_unreachable",
            Self::EmptyFile { .. }
            | Self::PrivateKey { .. }
            | Self::PublicKey { .. }
            | Self::Read { .. }
            | Self::Setting { .. }
            | Self::Trust(_) => "provider_settings",
            Self::Metadata(error) => error.reason(),
            Self::Misconfigured(_) => "client_refused",
            Self::NoSubject => "no_subject",
            Self::RateLimited { .. } => "token_calls_limited",
            Self::Redirected { .. } => "token_endpoint_redirected",
            Self::Refused(_) => "code_refused",
            Self::Throttled { .. } => "provider_throttled",
            Self::Token(_) => "token_unusable",
            Self::Unavailable { .. } => "provider_unavailable",
            Self::Userinfo(_) => "userinfo_failed",
        }
    }

    /// Whose fault it is.
    pub fn side(&self) -> Side {
        match self {
            Self::Refused(_) => Side::Client,
            Self::Assertion(_)
            | Self::EmptyFile { .. }
            | Self::Misconfigured(_)
            | Self::PrivateKey { .. }
            | Self::PublicKey { .. }
            | Self::RateLimited { .. }
            | Self::Read { .. }
            | Self::Redirected { .. }
            | Self::Setting { .. }
            | Self::Trust(_) => Side::Gateway,
            Self::AccessToken(_)
            | Self::Answer(_)
            | Self::Call(_)
            | Self::Metadata(_)
            | Self::NoSubject
            | Self::Throttled { .. }
            | Self::Token(_)
            | Self::Unavailable { .. }
            | Self::Userinfo(_) => Side::Provider,
        }
    }

    /// After what time another try makes sense, when that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } => Some(*retry_after),
            Self::Throttled { retry_after } | Self::Unavailable { retry_after, .. } => *retry_after,
            Self::AccessToken(_)
            | Self::Answer(_)
            | Self::Assertion(_)
            | Self::Call(_)
            | Self::EmptyFile { .. }
            | Self::Metadata(_)
            | Self::Misconfigured(_)
            | Self::NoSubject
            | Self::PrivateKey { .. }
            | Self::PublicKey { .. }
            | Self::Read { .. }
            | Self::Redirected { .. }
            | Self::Refused(_)
            | Self::Setting { .. }
            | Self::Token(_)
            | Self::Trust(_)
            | Self::Userinfo(_) => None,
        }
    }
}
