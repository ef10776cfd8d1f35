//! The stand-in provider of these tests. The stand-in provider is correct unless a test changes its
//! behaviour.
//!
//! The stand-in provider signs users in without a form. The browser's cookie `user` names the user;
//! without a cookie, the user is `alice`, but nobody is signed in silently (`prompt=none`). The
//! stand-in provider checks the client, PKCE and that a code is used only once, and answers
//! userinfo requests. With the scope `openid`, a client gets the additions of OpenID Connect: an ID
//! token, published metadata and keys. Without this scope, the stand-in behaves like Laravel
//! Passport: refresh tokens rotate, the reuse of a refresh token revokes its family, and a refresh
//! revokes the previous access token.
//!
//! Tests can change every answer. Tests can delay an endpoint, replace its answers or switch it
//! off. The module creates keys and signatures without the gateway's code, so that the gateway's
//! code does not check itself.

mod answers;
mod keys;
mod server;
mod token;
mod tokens;

pub(crate) use super::oauth::{CANARY, CLIENT_SECRET, parameters, token_request};
pub(crate) use answers::CLIENT;
pub(crate) use keys::{Keys, hs256, left_half};
pub(crate) use server::{Endpoint, Hold, StandIn};
pub(crate) use token::{Draft, base64url, unbase64url};
