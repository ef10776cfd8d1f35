//! Ends the sessions that an app names in a signed request: the webhook for providers that send no
//! logout tokens.

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use serde::Deserialize;

use super::Login;
use super::back_channel::LogoutRefusal;
use crate::provider::{Provider, SignedRequest};
use crate::session::{EndReason, EndedAll, SessionKey, SessionsOf, StoreError};

/// A request to the webhook.
#[derive(Debug)]
pub(crate) struct RevocationRequest {
    /// The value of the signature field: `t=TIME,v1=SIGNATURE`. The signature is hexadecimal.
    pub(crate) signature: Option<String>,
    /// The JSON body.
    pub(crate) body: Bytes,
}

/// The sessions that a request names. The JSON is an object with exactly one of these members.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Named {
    /// The sessions of the user with this email address. The case of the letters makes no
    /// difference.
    Email(String),
    /// The sessions that belong to this session at the provider.
    Sid(String),
    /// The sessions of the user with this subject.
    Subject(String),
}

/// The reason why a request to the webhook is not valid.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum WebhookError {
    /// The body does not name a user or a session.
    #[error("the body is not an object with exactly one of `subject`, `email` and `sid`")]
    Body,
    /// The signature field is missing, repeated or malformed.
    #[error("the field with the signature is missing, repeated or malformed")]
    Field,
    /// No key of the settings has signed the request.
    #[error("no key of the settings has signed the request")]
    Signature,
    /// The time of the request is more than five minutes away from the clock of the gateway.
    #[error("the request is older than five minutes, or a clock is wrong")]
    Time,
}

impl WebhookError {
    /// Returns the stable code of the error for logs.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Body => "webhook_body",
            Self::Field => "webhook_field",
            Self::Signature => "webhook_signature",
            Self::Time => "webhook_time",
        }
    }
}

impl Login {
    /// Returns true if the settings contain a key for the webhook of a provider.
    pub(crate) fn has_webhook(&self) -> bool {
        let mut providers = self.providers.values();
        providers.any(|provider| provider.has_webhook())
    }

    /// Ends the sessions that a signed request of an app names. `client` is the address of the app.
    ///
    /// # Errors
    ///
    /// [`LogoutRefusal`]: no session has ended.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the request continues.
    pub(crate) async fn revoke_sessions(
        self: &Arc<Self>,
        request: RevocationRequest,
        client: IpAddr,
    ) -> Result<(), LogoutRefusal> {
        let login = Arc::clone(self);
        self.limited(client, async move { login.revoke_named(&request).await })
            .await
    }

    async fn revoke_named(&self, request: &RevocationRequest) -> Result<(), LogoutRefusal> {
        let field = request.signature.as_deref().and_then(parse);
        let (time, signature) = field.ok_or(WebhookError::Field)?;
        let signed = SignedRequest {
            time,
            signature: &signature,
            body: &request.body,
        };
        let provider = self.signer_of(&signed).ok_or(WebhookError::Signature)?;
        if !signed.is_recent(self.process.clock.now()) {
            return Err(WebhookError::Time.into());
        }
        let named: Named =
            serde_json::from_slice(&request.body).map_err(|_invalid| WebhookError::Body)?;
        let (issuer, keys): (&str, Vec<SessionKey>);
        let of = match &named {
            Named::Email(email) => {
                let found = self.keys_by_email(provider, email).await;
                keys = found.map_err(|error| LogoutRefusal::Failed(error.into()))?;
                SessionsOf::Keys(&keys)
            }
            Named::Sid(sid) => {
                issuer = provider.identity_issuer();
                SessionsOf::ProviderSession { issuer, sid }
            }
            Named::Subject(subject) => {
                issuer = provider.identity_issuer();
                SessionsOf::User { issuer, subject }
            }
        };
        let ended = self.end_once(provider, (of, id(provider, &signature)), EndReason::Revoked);
        match ended.await? {
            EndedAll::Ended(_) => Ok(()),
            EndedAll::Repeated => Err(LogoutRefusal::Repeated),
        }
    }

    /// Returns the provider whose key has signed a request.
    fn signer_of(&self, request: &SignedRequest<'_>) -> Option<&Provider> {
        let mut providers = self.providers.values().map(AsRef::as_ref);
        providers.find(|provider: &&Provider| provider.has_signed(request))
    }

    /// Returns the keys of the sessions of the users of `provider` with this email address. The
    /// function reads all sessions of the store.
    async fn keys_by_email(
        &self,
        provider: &Provider,
        email: &str,
    ) -> Result<Vec<SessionKey>, StoreError> {
        let sessions = &self.process.sessions;
        let mut keys = Vec::new();
        for key in sessions.keys_of(SessionsOf::Everyone).await? {
            let session = match sessions.peek(key).await {
                // A damaged session has no readable email address.
                Err(StoreError::Damaged) => None,
                session => session?,
            };
            let is_named = session.is_some_and(|session| {
                let known = session.identity().email.as_ref();
                let known = known.map(|known| known.address.as_str());
                session.provider() == provider.name()
                    && known.is_some_and(|known| known.eq_ignore_ascii_case(email))
            });
            if is_named {
                keys.push(key);
            }
        }
        Ok(keys)
    }
}

/// Reads the value of the signature field: the time, and the signature as bytes.
fn parse(field: &str) -> Option<(&str, Vec<u8>)> {
    let (time, signature) = field.split_once(',')?;
    let (time, signature) = (time.strip_prefix("t=")?, signature.strip_prefix("v1=")?);
    let (pairs, rest) = signature.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let bytes = pairs.iter().map(|pair| {
        let digits = std::str::from_utf8(pair).ok()?;
        let is_hex = pair.iter().all(u8::is_ascii_hexdigit);
        is_hex.then(|| u8::from_str_radix(digits, 16).ok())?
    });
    Some((time, bytes.collect::<Option<_>>()?))
}

/// Returns the hash that identifies a request. The signature depends on the time and on the body, so
/// every request has another signature.
fn id(provider: &Provider, signature: &[u8]) -> [u8; 32] {
    let text = [b"webhook ", provider.name().as_bytes(), b" ", signature].concat();
    let mut id = [0; 32];
    id.copy_from_slice(digest(&SHA256, &text).as_ref());
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_field_has_a_time_and_a_hexadecimal_signature() {
        assert_eq!(parse("t=5,v1=00fF"), Some(("5", vec![0, 255])));
        for bad in [
            "",
            "t=5",
            "v1=00,t=5",
            "t=5,v1=0",
            "t=5,v1=0g",
            "t=5,v1=+1",
            "t=5, v1=00",
            "t=5,v0=00",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
