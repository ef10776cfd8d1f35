//! Why a token is not believed.

use crate::provider::json::JsonError;

/// What a token was given for; the same fault has a code of its own for each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TokenKind {
    /// An access token (RFC 9068).
    AccessToken,
    /// An ID token (OpenID Connect Core 1.0 section 2).
    IdToken,
    /// A signed answer of the userinfo endpoint (OpenID Connect Core 1.0 section 5.3.2).
    Userinfo,
}

/// Why a JSON Web Token is not believed. No variant carries what the token says.
///
/// Side: provider.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The algorithm is not one of ours. Carries its name where it is a registered one.
    #[error("the algorithm `{0}` is not one of those that are believed")]
    Algorithm(&'static str),
    /// The token is for somebody else.
    #[error("the token is not for us (`aud`)")]
    Audience,
    /// None of the authentication contexts that were asked for.
    #[error("the authentication context is none of those asked for (`acr`)")]
    AuthenticationContext,
    /// The token was issued to another client.
    #[error("the token was issued to another client (`azp`)")]
    AuthorizedParty,
    /// A claim is missing, of another type or out of any reason.
    #[error("the claim `{0}` is missing or unusable")]
    Claim(&'static str),
    /// The token has expired.
    #[error("the token has expired (`exp`)")]
    Expired,
    /// The hash of what the token came with is another.
    #[error("the token belongs to another answer (`{0}`)")]
    Hash(&'static str),
    /// The header has a member that has to be understood, and is not.
    #[error("the header member `{0}` is not understood")]
    Header(&'static str),
    /// The token is from somebody else.
    #[error("the token is from another issuer (`iss`)")]
    Issuer,
    /// Header or payload are not the JSON object that they have to be.
    #[error("the header or the payload is not a JSON object")]
    Json(#[source] JsonError),
    /// The key belongs to another issuer or tenant than the token.
    #[error("the key that made the signature is that of another issuer")]
    KeyIssuer,
    /// Not three parts of canonical base64url, or too long.
    #[error("the token is not a compact JWS")]
    Malformed,
    /// The token answers another request.
    #[error("the token answers another request (`nonce`)")]
    Nonce,
    /// The token is for later, or from the future.
    #[error("the token is not valid yet (`{0}`)")]
    NotYetValid(&'static str),
    /// None of the keys made the signature.
    #[error("none of the public keys made the signature")]
    Signature,
    /// The token, or the authentication of the person, is too long ago.
    #[error("the token is out of date (`{0}`)")]
    TooOld(&'static str),
    /// Issuer and tenant of the token do not fit.
    #[error("the token is of another tenant (`tid`)")]
    Tenant,
    /// Another kind of token.
    #[error("the token is of another type")]
    Type,
    /// There is no key of the name that the token gives, or none for its algorithm.
    #[error("there is no key of that name for that algorithm (`kid`)")]
    UnknownKey,
    /// The token is for us, and for somebody who is not in `id_token.audiences`.
    #[error("the token is also for somebody we do not trust (`aud`)")]
    UntrustedAudience,
}

impl TokenError {
    /// A stable code for logs and counters.
    pub fn reason(&self, token: TokenKind) -> &'static str {
        let [of_access_token, of_id_token, of_userinfo] = self.reasons();
        match token {
            TokenKind::AccessToken => of_access_token,
            TokenKind::IdToken => of_id_token,
            TokenKind::Userinfo => of_userinfo,
        }
    }

    /// Whether the same token may be believed once the server's keys are read again: it has new
    /// ones, or one of the same name.
    pub fn new_keys_may_help(&self) -> bool {
        matches!(self, Self::Signature | Self::UnknownKey)
    }

    /// The codes for an access token, an ID token and a userinfo answer.
    fn reasons(&self) -> [&'static str; 3] {
        macro_rules! codes {
            ($fault:literal) => {
                [
                    concat!("access_token_", $fault),
                    concat!("id_token_", $fault),
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
