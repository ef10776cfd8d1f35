//! The reason why a signature was not verified.

use crate::provider::jwt::{TokenError, TokenKind};
use crate::provider::{GrantError, KeysError};

/// The reason why a signature was not verified.
#[derive(Debug)]
pub(super) enum Unverified {
    Token(TokenError),
    Keys(KeysError),
}

impl Unverified {
    pub(super) fn of(self, kind: TokenKind) -> GrantError {
        match (self, kind) {
            (Self::Keys(error), _) => error.into(),
            (Self::Token(error), TokenKind::AccessToken) => GrantError::AccessToken(error),
            (Self::Token(error), TokenKind::IdToken | TokenKind::LogoutToken) => {
                GrantError::IdToken(error)
            }
            (Self::Token(error), TokenKind::Userinfo) => GrantError::SignedUserinfo(error),
        }
    }
}
