//! Errors that occur when the gateway verifies tokens.

use crate::provider::json::JsonError;
use crate::provider::settings::advice;

/// The purpose of a token. An error has a different reason code for each purpose of a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TokenKind {
    /// An access token (RFC 9068).
    AccessToken,
    /// An ID token (OpenID Connect Core 1.0 section 2).
    IdToken,
    /// A logout token (OpenID Connect Back-Channel Logout 1.0 section 2.4).
    LogoutToken,
    /// A signed userinfo response (OpenID Connect Core 1.0 section 5.3.2).
    Userinfo,
}

/// The reason why a JSON Web Token is refused. No variant contains data of the token. Either the
/// provider issued a wrong token, or the settings are wrong.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The algorithm is not accepted. The error contains the name of the algorithm, if the name is
    /// known.
    #[error("the algorithm `{0}` is not accepted{advice}", advice = advice(.0))]
    Algorithm(&'static str),
    /// The gateway is not in the audience of the token.
    #[error("the gateway is not in the audience of the token (`aud`)")]
    Audience,
    /// The `acr` of the token is not one of the requested authentication contexts.
    #[error("the authentication context is none of the requested ones (`acr`)")]
    AuthenticationContext,
    /// The token was issued to another client.
    #[error("the token was issued to another client (`azp`)")]
    AuthorizedParty,
    /// A claim is missing, has a wrong type or has an impossible value.
    #[error("the claim `{0}` is missing or unusable")]
    Claim(&'static str),
    /// The token has expired.
    #[error("the token has expired (`exp`)")]
    Expired,
    /// The hash of the access token or of the code in the ID token is wrong, so the ID token
    /// belongs to another response.
    #[error("the token belongs to another token response (`{0}`)")]
    Hash(&'static str),
    /// The header has an unsupported member that changes the meaning of the token.
    #[error("the header member `{0}` is not supported")]
    Header(&'static str),
    /// The token is from another issuer.
    #[error("the token is from another issuer (`iss`)")]
    Issuer,
    /// The header or the payload is not a JSON object.
    #[error("the header or the payload is not a JSON object")]
    Json(#[source] JsonError),
    /// The key does not belong to the issuer and the tenant of the token.
    #[error("the key of the signature belongs to another issuer")]
    KeyIssuer,
    /// The token does not have three parts of canonical base64url, or is too long.
    #[error("the token is not a compact JWS")]
    Malformed,
    /// The token belongs to another authorization request.
    #[error("the token belongs to another authorization request (`nonce`)")]
    Nonce,
    /// The token is not valid yet, or was issued in the future.
    #[error("the token is not valid yet (`{0}`)")]
    NotYetValid(&'static str),
    /// The signature does not match any key.
    #[error("no public key matches the signature")]
    Signature,
    /// The token or the authentication of the user is too old.
    #[error("the token is too old (`{0}`)")]
    TooOld(&'static str),
    /// The tenant of the token does not belong to the issuer of the token.
    #[error("the token is of another tenant (`tid`)")]
    Tenant,
    /// The token has a type that is not accepted.
    #[error("the token is of another type")]
    Type,
    /// No key has the `kid` of the token, or no key supports the algorithm of the token.
    #[error("there is no key with this `kid` for this algorithm")]
    UnknownKey,
    /// The token is for the gateway, but also for an audience that `id_token.audiences` does not
    /// list.
    #[error("the token has an audience that `id_token.audiences` does not list (`aud`)")]
    UntrustedAudience,
}

impl TokenError {
    /// Returns the reason code of this error. Logs and metrics contain this stable code.
    pub fn reason(&self, token: TokenKind) -> &'static str {
        let [of_access_token, of_id_token, of_logout_token, of_userinfo] = self.reasons();
        match token {
            TokenKind::AccessToken => of_access_token,
            TokenKind::IdToken => of_id_token,
            TokenKind::LogoutToken => of_logout_token,
            TokenKind::Userinfo => of_userinfo,
        }
    }

    /// Returns true if the same token could be valid with newly fetched keys. The provider may have
    /// added a key, or may have replaced a key by another key with the same id.
    pub fn new_keys_may_help(&self) -> bool {
        matches!(self, Self::Signature | Self::UnknownKey)
    }

    /// Returns the reason codes for an access token, an ID token, a logout token and a userinfo
    /// response.
    fn reasons(&self) -> [&'static str; 4] {
        macro_rules! codes {
            ($fault:literal) => {
                [
                    concat!("access_token_", $fault),
                    concat!("id_token_", $fault),
                    concat!("logout_token_", $fault),
                    concat!("userinfo_", $fault),
                ]
            };
        }
        match self {
            Self::Algorithm(_) => codes!("algorithm"),
            Self::Audience | Self::UntrustedAudience => codes!("audience"),
            Self::AuthenticationContext => codes!("acr"),
            Self::AuthorizedParty => codes!("azp"),
            Self::Claim(_) => codes!("claim"),
            Self::Expired => codes!("expired"),
            Self::Hash(_) => codes!("hash"),
            Self::Header(_) => codes!("header"),
            Self::Issuer => codes!("issuer"),
            Self::Json(_) | Self::Malformed => codes!("malformed"),
            Self::KeyIssuer => codes!("key_issuer"),
            Self::Nonce => codes!("nonce"),
            Self::NotYetValid(_) => codes!("not_yet_valid"),
            Self::Signature => codes!("signature"),
            Self::TooOld(_) => codes!("stale"),
            Self::Tenant => codes!("tenant"),
            Self::Type => codes!("type"),
            Self::UnknownKey => codes!("unknown_key"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_secret_is_refused_with_the_settings_of_the_provider_that_help() {
        for (algorithm, helped) in [("HS256", true), ("HS512", true), ("none", false)] {
            let text = TokenError::Algorithm(algorithm).to_string();
            assert_eq!(
                text.contains("a Signing Key of the provider"),
                helped,
                "{text}"
            );
            assert_eq!(text.contains("LemonLDAP::NG"), helped, "{text}");
        }
    }
}
