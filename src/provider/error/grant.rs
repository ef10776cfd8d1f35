//! Judging a token response, and who it is about.

use super::{KeysError, NotReady};
use crate::provider::jwt::{TokenError, TokenKind};
use crate::provider::userinfo::UserinfoError;
use crate::token;

/// Why a token response is not believed, or brings nobody.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The JWT access token is not believed: a key or audience is configured wrongly, or a clock is
    /// wrong.
    #[error("the access token is not believed")]
    AccessToken(#[source] TokenError),
    /// The ID token is not believed: `client_id`, `issuer` or a clock is wrong, or the answer belongs
    /// to somebody else.
    #[error("the ID token is not believed")]
    IdToken(#[source] TokenError),
    /// There are no keys to verify a signature with.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The token response has no ID token, which is where the identity comes from: the scope
    /// `openid` has to be granted.
    #[error("the token response has no ID token")]
    NoIdToken,
    /// The claims name nobody; look at `identity.claims.subject`.
    #[error("the identity has no subject")]
    NoSubject,
    /// It is not known where the userinfo endpoint is.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// The answer to a refresh is proven to be about another subject, or from another issuer, than
    /// the session (OpenID Connect Core 1.0 section 12.2). It is the provider's mistake, or an
    /// attacker swaps answers.
    #[error("the answer to the refresh is about somebody else")]
    OtherPerson,
    /// The userinfo is about somebody else than the ID token (OpenID Connect Core 1.0 section
    /// 5.3.2). It is the provider's mistake, or an attacker swaps access tokens.
    #[error("the userinfo is not about the subject of the ID token")]
    OtherSubject,
    /// The signed userinfo is not believed.
    #[error("the signed userinfo is not believed")]
    SignedUserinfo(#[source] TokenError),
    /// The access token or the refresh token cannot be used: no HTTP field can carry it.
    #[error("the token cannot be used")]
    Token(#[source] token::Error),
    /// The userinfo endpoint gave no claims.
    #[error("the userinfo endpoint gave no claims")]
    Userinfo(#[source] UserinfoError),
}

impl GrantError {
    /// A stable code for logs, counters and pages.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::AccessToken(error) => error.reason(TokenKind::AccessToken),
            Self::IdToken(error) => error.reason(TokenKind::IdToken),
            Self::Keys(error) => error.reason(),
            Self::NoIdToken => "no_id_token",
            Self::NoSubject => "no_subject",
            Self::NotReady(error) => error.reason(),
            Self::OtherPerson => "refresh_of_other_person",
            Self::OtherSubject => "userinfo_subject",
            Self::SignedUserinfo(error) => error.reason(TokenKind::Userinfo),
            Self::Token(_) => "token_unusable",
            Self::Userinfo(_) => "userinfo_failed",
        }
    }
}
