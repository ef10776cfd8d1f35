//! Errors that occur when the gateway verifies a token response or reads the identity from a token
//! response.

use http::Uri;

use super::{KeysError, NotReady};
use crate::provider::jwt::{TokenError, TokenKind};
use crate::provider::userinfo::UserinfoError;
use crate::token;

/// The reason why a token response is refused, or why no identity could be read from the response.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The JWT access token is not valid. The configured key or audience is wrong, or a clock is
    /// wrong.
    #[error("the access token is not valid")]
    AccessToken(#[source] TokenError),
    /// A list of groups could not be read. The error contains the URL of the list of groups.
    #[error("the groups could not be read from {0}")]
    Groups(Box<str>, #[source] UserinfoError),
    /// The ID token is not valid. `client_id`, `issuer` or a clock is wrong, or the ID token
    /// belongs to another user or request.
    #[error("the ID token is not valid")]
    IdToken(#[source] TokenError),
    /// No keys are available to verify a signature.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The settings take the identity from the ID token, but the token response has no ID token.
    /// The provider has to grant the scope `openid`.
    #[error("the token response has no ID token")]
    NoIdToken,
    /// The claims contain no usable subject.
    #[error(
        "the claim `{claim}` is missing or cannot be used as the subject (setting \
         `identity.claims.subject`)"
    )]
    NoSubject {
        /// The configured name of the claim that contains the subject.
        claim: Box<str>,
    },
    /// The location of the userinfo endpoint is not known yet.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// The response to a refresh has another subject or another issuer than the session (OpenID
    /// Connect Core 1.0 section 12.2). The provider made a mistake, or an attacker has swapped the
    /// responses of two users.
    #[error("the response to the refresh is about another user")]
    OtherUser,
    /// The userinfo and the ID token have different subjects (OpenID Connect Core 1.0 section
    /// 5.3.2). The provider made a mistake, or an attacker has swapped the access tokens of two
    /// users.
    #[error("the userinfo and the ID token have different subjects")]
    OtherSubject,
    /// The signed userinfo response is not valid.
    #[error("the signed userinfo is not valid")]
    SignedUserinfo(#[source] TokenError),
    /// The access token or the refresh token is empty, too long, or has a character that is not
    /// allowed.
    #[error("the token cannot be used")]
    Token(#[source] token::Error),
    /// The userinfo endpoint, or the endpoint with the email addresses, returned no claims.
    #[error("the endpoint {url} returned no claims")]
    Userinfo {
        /// The URL of the endpoint.
        url: Box<str>,
        /// The problem with the response.
        #[source]
        source: UserinfoError,
    },
}

impl GrantError {
    /// Creates the error for an endpoint that returned no claims.
    pub(in crate::provider) fn userinfo(url: &Uri, source: UserinfoError) -> Self {
        let url = url.to_string().into();
        Self::Userinfo { url, source }
    }

    /// Returns the reason code of this error: a stable code for logs, metrics and pages.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::AccessToken(error) => error.reason(TokenKind::AccessToken),
            Self::Groups(..) => "groups_failed",
            Self::IdToken(error) => error.reason(TokenKind::IdToken),
            Self::Keys(error) => error.reason(),
            Self::NoIdToken => "no_id_token",
            Self::NoSubject { .. } => "no_subject",
            Self::NotReady(error) => error.reason(),
            Self::OtherUser => "refresh_of_other_person",
            Self::OtherSubject => "userinfo_subject",
            Self::SignedUserinfo(error) => error.reason(TokenKind::Userinfo),
            Self::Token(_) => "token_unusable",
            Self::Userinfo { .. } => "userinfo_failed",
        }
    }
}
