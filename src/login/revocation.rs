//! Ends the sessions that an app names in a signed request: the webhook for providers that send no
//! logout tokens.

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;

use super::Login;
use super::back_channel::{LogoutRefusal, logged, notice};
use crate::provider::{Provider, SignedRequest};
use crate::session::{EndReason, EndedAll, Named, NamedSessions};

/// A request to the webhook.
#[derive(Debug)]
pub(crate) struct RevocationRequest {
    /// The value of the signature field: `t=TIME,v1=SIGNATURE`. The signature is hexadecimal.
    pub(crate) signature: Option<String>,
    /// The JSON body.
    pub(crate) body: Bytes,
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
        let throttle = &self.process.refused_webhooks;
        // The check of a signature takes little time, so there is no limit for a limited client.
        self.counted((throttle, client), |_is_limited| async move {
            login.revoke_named(&request).await
        })
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
        let _search = match named {
            Named::Email(_) => {
                let turn = self.process.email_searches.try_acquire();
                Some(turn.map_err(|_searching| LogoutRefusal::Busy)?)
            }
            Named::Sid(_) | Named::Subject(_) => None,
        };
        let of = NamedSessions {
            provider: provider.name(),
            issuer: provider.identity_issuer(),
            named: &named,
        };
        let (why, now) = (EndReason::Revoked, self.process.clock.now());
        let notice = (notice(id(provider, &signature), now), now);
        let ended = self.process.sessions.end_named(of, why, notice).await;
        match logged(provider, why, ended)? {
            EndedAll::Ended(_) => Ok(()),
            EndedAll::Repeated => Err(LogoutRefusal::Repeated),
        }
    }

    /// Returns the provider whose key has signed a request.
    fn signer_of(&self, request: &SignedRequest<'_>) -> Option<&Provider> {
        let mut providers = self.providers.values().map(AsRef::as_ref);
        providers.find(|provider: &&Provider| provider.has_signed(request))
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
