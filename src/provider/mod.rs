//! An authorization server and our registration there.
//!
//! Knows OAuth 2.0 as a client speaks it (RFC 6749, RFC 7636): where to send the browser, how to
//! turn a code into tokens and tokens into an identity, and what each kind of server does
//! differently ([`profile`], [`settings`]). Refuses to know browsers, cookies, `state` and
//! sessions: whoever calls [`Provider::redeem`] has matched the response to its request before.
//!
//! Nothing here is sent twice. A code is good once, and a server may have used it up before the
//! connection broke: a new login is the only safe repetition.
//!
//! The entry point is [`Provider`].

mod authorization;
mod claims;
mod client_auth;
mod endpoint;
mod error;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "used when the parts are brought together")
)]
mod issuer;
mod json;
mod jwt;
mod limiter;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "used when the parts are brought together")
)]
mod metadata;
mod person;
pub mod profile;
mod refusal;
pub mod settings;
mod token;
mod userinfo;

#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use url::Url;
use zeroize::Zeroizing;

pub use authorization::{AuthorizationRequest, Prompt};
pub use error::{Error, Side};
pub use json::JsonError;
pub use jwt::signer::{SigningError, SigningKeyProblem};
pub use jwt::{AccessTokenError, KeyProblem};
pub use metadata::MetadataError;
pub use refusal::{ErrorCode, Refusal};
pub use settings::{ResponseMode, Settings};
pub use token::AnswerError;
pub use userinfo::UserinfoError;

use crate::clock::{Clock, Timestamp};
use crate::identity::Identity;
use crate::secret::Secret;
use crate::tls::Trust;
use crate::token::TokenSet;
use authorization::AuthorizationEndpoint;
use claims::{Claims, Rules};
use client_auth::{ClientAuth, Credentials};
use endpoint::{Endpoint, endpoint};
use jwt::Verifier;
use limiter::Limiter;
use person::Naming;
use settings::{ErrorShape, IdentitySource, UserinfoBearer};
use token::{Answer, CodeGrant, RequestFormat};
use userinfo::Userinfo;

/// The largest file with a secret or a key, in bytes.
const LARGEST_FILE: u64 = 64 * 1024;

/// What a redeemed code brought.
#[derive(Debug)]
#[must_use]
pub struct Grant {
    /// Who it is.
    pub identity: Identity,
    /// The tokens.
    pub tokens: TokenSet,
}

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
}

/// Our registration at one authorization server.
#[derive(Debug)]
pub struct Provider {
    name: Box<str>,
    authorization: AuthorizationEndpoint,
    token: Endpoint,
    format: RequestFormat,
    client_auth: ClientAuth,
    pkce: bool,
    shapes: Vec<ErrorShape>,
    default_life: Option<Duration>,
    limiter: Limiter,
    verifier: Option<Verifier>,
    naming: Naming,
    issuer: Box<str>,
    source: Source,
}

/// Where the identity comes from, with what is needed to read it there.
#[derive(Debug)]
enum Source {
    AccessToken,
    Nowhere,
    Userinfo(Box<Endpoint>, UserinfoBearer),
}

impl Provider {
    /// Sets up the provider called `name`: checks `settings`, and reads the secret, the public keys
    /// and the certificate authorities. Blocks for small reads; opens no connection.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`], [`Error::Read`], [`Error::EmptyFile`], [`Error::PublicKey`] and
    /// [`Error::Trust`]: each names the key and, if there is one, the file.
    pub fn new(name: &str, settings: &Settings) -> Result<Self, Error> {
        let client_auth = ClientAuth::new(settings, None, &Credentials::read(settings)?)?;
        let format = RequestFormat::new(settings)?;
        check_shapes(&settings.errors)?;
        let base = settings.url.as_deref();
        let required = |key, text: Option<&String>| {
            let problem = "is missing";
            endpoint(key, base, text.ok_or(Error::Setting { key, problem })?)
        };
        let place = settings.authorization_endpoint.as_ref();
        let place = required("authorization_endpoint", place)?;
        let authorization = AuthorizationEndpoint::new(settings, &place)?;
        let token_url = required("token_endpoint", settings.token_endpoint.as_ref())?;
        let userinfo = settings.userinfo_endpoint.as_deref();
        let userinfo = userinfo
            .map(|text| endpoint("userinfo_endpoint", base, text))
            .transpose()?;
        let tls = trust(settings, [Some(&token_url), userinfo.as_ref()])?;
        let deadline = Duration::from_secs(settings.deadline_secs.get().into());
        let call = |key, url: &Url| Endpoint::new(key, url, tls.as_ref(), deadline);
        let verifier = Verifier::new(&settings.access_token, Rules::new(settings))?;
        let source = match (settings.identity.source, userinfo) {
            (IdentitySource::AccessToken, _) if verifier.is_none() => {
                let key = "access_token.public_key_files";
                let problem = "is empty, but identity.source is \"access_token\"";
                return Err(Error::Setting { key, problem });
            }
            (IdentitySource::AccessToken, _) => Source::AccessToken,
            (IdentitySource::IdToken, _) => {
                let (key, problem) = ("identity.source", "is not there yet");
                return Err(Error::Setting { key, problem });
            }
            (IdentitySource::None, _) => Source::Nowhere,
            (IdentitySource::Userinfo, Some(url)) => {
                let place = Box::new(call("userinfo_endpoint", &url)?);
                Source::Userinfo(place, settings.identity.userinfo_bearer)
            }
            (IdentitySource::Userinfo, None) => {
                let key = "userinfo_endpoint";
                let problem = "is missing, but identity.source is \"userinfo\"";
                return Err(Error::Setting { key, problem });
            }
        };
        let issuer = settings.access_token.issuer.as_deref().unwrap_or(name);
        Ok(Self {
            name: name.into(),
            authorization,
            token: call("token_endpoint", &token_url)?,
            format,
            client_auth,
            pkce: settings.pkce,
            shapes: settings.errors.clone(),
            default_life: settings
                .default_expires_in_secs
                .map(|seconds| Duration::from_secs(seconds.get())),
            limiter: Limiter::per_minute(settings.token_calls_per_minute),
            verifier,
            naming: Naming::new(&settings.identity),
            issuer: issuer.into(),
            source,
        })
    }

    /// The name that the operator gave this provider.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL to send the browser to (RFC 6749 section 4.1.1). The query of the configured
    /// endpoint is kept, and no parameter is there twice. The challenge is left out when PKCE is
    /// off.
    ///
    /// # Errors
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    #[expect(clippy::unused_async, reason = "waits for metadata soon")]
    pub async fn authorization_url(
        &self,
        request: &AuthorizationRequest<'_>,
    ) -> Result<String, Error> {
        Ok(self.authorization.url(request))
    }

    /// What people call the server.
    pub fn display_name(&self) -> &str {
        &self.name
    }

    /// How this server's answers come to the redirection endpoint.
    pub fn response_mode(&self) -> ResponseMode {
        ResponseMode::Query
    }

    /// Checks who an answer of the authorization endpoint says it is from (RFC 9207 section 2.4).
    ///
    /// # Errors
    pub fn check_response_issuer(&self, _iss: Option<&str>) -> Result<(), Error> {
        Ok(())
    }

    /// Redeems an authorization code: one call to the token endpoint (RFC 6749 section 4.1.3), and
    /// one to the userinfo endpoint where the identity comes from there. `redirect_uri` is the one
    /// of the authorization request, byte for byte; the verifier is sent when PKCE is on.
    ///
    /// # Errors
    ///
    /// [`Error::RateLimited`] before anything was sent. Then [`Error::Call`],
    /// [`Error::Redirected`], [`Error::Throttled`], [`Error::Unavailable`],
    /// [`Error::Misconfigured`], [`Error::Refused`] and [`Error::Answer`] of the token call;
    /// [`Error::AccessToken`], [`Error::Token`], [`Error::Userinfo`] and [`Error::NoSubject`] of
    /// what it brought.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: when the future is dropped the code may be used up and the tokens lost.
    /// Run it as a task that outlives the browser's connection.
    pub async fn redeem(&self, redemption: Redemption<'_>, clock: &Clock) -> Result<Grant, Error> {
        let Redemption {
            code,
            code_verifier,
            redirect_uri,
            ..
        } = redemption;
        let asked_at = clock.now();
        self.limiter
            .take(asked_at)
            .map_err(|retry_after| Error::RateLimited { retry_after })?;
        let grant = CodeGrant {
            code: &code,
            code_verifier: self.pkce.then_some(&code_verifier),
            redirect_uri,
        };
        let uri = self.token.uri();
        let format = &self.format;
        let request = format.redemption(uri, &self.client_auth, &grant, asked_at)?;
        let response = self.token.call(request).await.map_err(Error::Call)?;
        // A call takes seconds at some servers: tokens are judged by the time of their arrival,
        // while their life is counted from before the call.
        let arrived_at = clock.now();
        let answer = token::read(response, &self.shapes, arrived_at).inspect_err(|error| {
            if let Error::Throttled {
                retry_after: Some(wait),
            } = error
            {
                self.limiter.pause(arrived_at, *wait);
            }
        })?;
        let claims = self.claims(&answer, arrived_at)?;
        let tokens = self.tokens(&answer, claims.as_ref(), asked_at)?;
        let identity = self.identity(&tokens, claims.as_ref()).await?;
        Ok(Grant { identity, tokens })
    }

    /// Whether the token endpoint can be connected to, the TLS handshake included. Sends no
    /// request.
    ///
    /// # Errors
    ///
    /// [`Error::Call`] when it cannot.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn probe(&self) -> Result<(), Error> {
        self.token.connect().await.map_err(Error::Call)
    }

    /// The believed claims of the access token, when there are keys to believe it by.
    fn claims(&self, answer: &Answer, now: Timestamp) -> Result<Option<Claims>, Error> {
        let verify = |verifier: &Verifier| verifier.verify(answer.access_token.expose(), now);
        let claims = self.verifier.as_ref().map(verify).transpose();
        claims.map_err(Error::AccessToken)
    }

    /// The tokens, with the earlier of what the response and what the token itself say of its end.
    fn tokens(
        &self,
        answer: &Answer,
        claims: Option<&Claims>,
        asked_at: Timestamp,
    ) -> Result<TokenSet, Error> {
        let life = answer.expires_in.or(self.default_life);
        let said = life.map(|life| asked_at.plus(life));
        let proven = claims.map(|claims| claims.expires_at);
        let expires_at = said.into_iter().chain(proven).min();
        let refresh_token = answer.refresh_token.as_ref();
        TokenSet::new(
            answer.access_token.expose(),
            refresh_token.map(|token| token.expose().as_str()),
            expires_at,
        )
        .map_err(Error::Token)
    }

    async fn identity(
        &self,
        tokens: &TokenSet,
        claims: Option<&Claims>,
    ) -> Result<Identity, Error> {
        let issuer = &self.issuer;
        let identity = match &self.source {
            Source::AccessToken => {
                claims.and_then(|claims| self.naming.identity(&[&claims.members], issuer))
            }
            Source::Nowhere => Some(Identity::nameless(issuer)),
            Source::Userinfo(endpoint, bearer) => {
                let answer = userinfo::fetch(endpoint, tokens, *bearer).await;
                match answer.map_err(Error::Userinfo)? {
                    Userinfo::Json(members) => self.naming.identity(&[&members], issuer),
                    // Nobody can check the signature yet.
                    Userinfo::Signed(_) => None,
                }
            }
        };
        identity.ok_or(Error::NoSubject)
    }
}

/// A row that asks for nothing would give every answer its meaning.
fn check_shapes(shapes: &[ErrorShape]) -> Result<(), Error> {
    if shapes.iter().any(ErrorShape::matches_everything) {
        let (key, problem) = ("errors", "has a row that asks for nothing");
        return Err(Error::Setting { key, problem });
    }
    Ok(())
}

/// The authorities to believe, read only when an endpoint needs them.
fn trust(
    settings: &Settings,
    endpoints: [Option<&Url>; 2],
) -> Result<Option<Arc<ClientConfig>>, Error> {
    let mut endpoints = endpoints.into_iter().flatten();
    let trust = match &settings.ca_file {
        // A file that cannot be used is an error even when nothing needs it now.
        Some(path) => Trust::from_file(path),
        None if endpoints.any(|url| url.scheme() == "https") => Trust::system(),
        None => return Ok(None),
    };
    trust
        .map(|trust| Some(trust.client_config()))
        .map_err(Error::Trust)
}

/// Reads a file with a secret; one newline at its end is not part of it.
fn secret_file(key: &'static str, path: &Path) -> Result<Secret<String>, Error> {
    let text = Zeroizing::new(read_text(key, path)?);
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.is_empty() {
        let path = path.to_owned();
        return Err(Error::EmptyFile { key, path });
    }
    Ok(Secret::new(secret.to_owned()))
}

/// Reads a small text file that must not be empty.
fn read_text(key: &'static str, path: &Path) -> Result<String, Error> {
    use std::io::{Error as IoError, ErrorKind, Read as _};
    let failed = |source| Error::Read {
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
        return Err(Error::EmptyFile { key, path });
    }
    Ok(text)
}
