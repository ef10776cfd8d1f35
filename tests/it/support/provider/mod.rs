//! The one authorization server of these tests: honest until it is told to misbehave in one thing.
//!
//! It signs people in without a form (the browser's `user` cookie says who; `alice` without one),
//! checks client, PKCE and that a code is used once, and answers userinfo requests. Who asks for the
//! scope `openid` gets what OpenID Connect adds: an ID token, published metadata and keys. Who does
//! not gets what Laravel Passport gives: refresh tokens that rotate, whose reuse revokes their family
//! and whose use revokes the access token before.
//!
//! Whatever it says can be changed on its way out; each endpoint can be held, answered by something
//! else or taken away. Keys and signatures are made here, with none of the gateway's code, so that the
//! gateway is never its own judge.

mod answers;
mod keys;
mod server;
mod token;
mod tokens;

pub(crate) use super::oauth::{CANARY, CLIENT_SECRET, parameters, token_request};
pub(crate) use answers::CLIENT;
pub(crate) use keys::{Keys, hs256, left_half};
pub(crate) use server::{Endpoint, StandIn};
pub(crate) use token::{Draft, base64url, unbase64url};
