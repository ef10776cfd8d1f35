//! The webhook at which an app ends sessions of its users. The webhook is for providers that send no
//! logout tokens, such as Laravel Passport.
//!
//! Each request has a signature: the HMAC with SHA-256 (RFC 2104) over the time of the request and
//! the body. The app and the gateway have the same key.

use std::time::Duration;

use aws_lc_rs::hmac;

use super::issuer::Issuer;
use super::settings::{IdentitySource, Settings};
use super::{Provider, SetupError, secret_file};
use crate::clock::Timestamp;

/// The largest accepted difference between the time of a request and the clock of the gateway.
const MAX_AGE: Duration = Duration::from_mins(5);

/// The minimum length of a key, in bytes (RFC 2104 section 3).
const MIN_KEY: usize = 32;

/// The setting that names the files with the keys.
const KEY: &str = "sign_out.webhook_key_files";

/// The keys of the webhook of one provider. Any of the keys may have signed a request.
#[derive(Debug, Default)]
pub(super) struct WebhookKeys(Vec<hmac::Key>);

impl WebhookKeys {
    /// Reads the key files. The function blocks the calling thread while it reads the files, which
    /// are small.
    ///
    /// # Errors
    ///
    /// Returns [`SetupError`] if a file cannot be read or contains a short key.
    pub(super) fn from_files(settings: &Settings) -> Result<Self, SetupError> {
        let files = settings.sign_out.webhook_key_files.iter();
        let keys = files.map(|path| {
            let key = secret_file(KEY, path)?;
            let bytes = key.expose().as_bytes();
            if bytes.len() < MIN_KEY {
                let problem = "names a file with a key of less than 32 bytes; `openssl rand -hex 32` \
                               makes a key";
                return Err(SetupError::Setting { key: KEY, problem });
            }
            Ok(hmac::Key::new(hmac::HMAC_SHA256, bytes))
        });
        keys.collect::<Result<_, _>>().map(Self)
    }
}

/// Refuses a webhook that can never find a session.
pub(super) fn check(settings: &Settings, issuer: Option<&Issuer>) -> Result<(), SetupError> {
    if settings.sign_out.webhook_key_files.is_empty() {
        return Ok(());
    }
    let refuse = |problem| Err(SetupError::Setting { key: KEY, problem });
    if settings.identity.source == IdentitySource::None {
        return refuse("has no effect, because identity.source is \"none\"");
    }
    if issuer.is_some_and(Issuer::has_tenants) {
        return refuse("cannot be used with tenants, because a request names no tenant");
    }
    Ok(())
}

/// A request to the webhook that has not been verified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignedRequest<'a> {
    /// The time of the request in seconds, as the app has written it.
    pub(crate) time: &'a str,
    /// The signature, as bytes.
    pub(crate) signature: &'a [u8],
    /// The body of the request.
    pub(crate) body: &'a [u8],
}

impl SignedRequest<'_> {
    /// Returns true if the time of the request is close to `now`.
    pub(crate) fn is_recent(&self, now: Timestamp) -> bool {
        let seconds: Option<u64> = self.time.parse().ok();
        let millis = seconds.and_then(|seconds| seconds.checked_mul(1000));
        millis.is_some_and(|millis| now.as_millis().abs_diff(millis) <= millis_of(MAX_AGE))
    }
}

fn millis_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Provider {
    /// Returns true if the settings contain keys for the webhook of this provider.
    pub(crate) fn has_webhook(&self) -> bool {
        !self.settings.sign_out.webhook_key_files.is_empty()
    }

    /// Returns true if the webhooks of both providers have the same key. A signature with this key
    /// would not tell which provider a request belongs to.
    pub(crate) fn shares_webhook_key(&self, other: &Self) -> bool {
        let tags = |keys: &WebhookKeys| -> Vec<_> {
            keys.0
                .iter()
                .map(|key| hmac::sign(key, KEY.as_bytes()))
                .collect()
        };
        let (ours, theirs) = (
            tags(&self.webhook_keys.load()),
            tags(&other.webhook_keys.load()),
        );
        ours.iter()
            .any(|tag| theirs.iter().any(|other| other.as_ref() == tag.as_ref()))
    }

    /// Returns true if one of the keys of this provider has signed the request.
    pub(crate) fn has_signed(&self, request: &SignedRequest<'_>) -> bool {
        let message = [request.time.as_bytes(), b".", request.body].concat();
        let keys = self.webhook_keys.load();
        let mut keys = keys.0.iter();
        // `hmac::verify` takes the same time for each wrong signature.
        keys.any(|key| hmac::verify(key, &message, request.signature).is_ok())
    }

    /// Returns the issuer of the identities from this provider. The provider has no tenants.
    pub(crate) fn identity_issuer(&self) -> &str {
        match (self.settings.identity.source, &self.issuer) {
            (IdentitySource::IdToken, Some(issuer)) => issuer.as_str(),
            _ => self.grant_verifier.issuer(),
        }
    }
}
