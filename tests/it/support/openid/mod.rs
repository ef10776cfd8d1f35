//! An OpenID Provider that is honest until it is told to misbehave in one thing.
//!
//! It signs people in without a form (the browser's `user` cookie says who; `alice` without one),
//! publishes metadata and keys, and answers userinfo requests. Whatever it says can be changed on
//! its way out; each endpoint can be held, answered by something else or taken away. Keys and
//! signatures are made here, with none of the gateway's code, so that the gateway is never its own
//! judge.

mod answers;
mod keys;
mod scene;
mod server;
mod token;

pub(crate) use keys::{Keys, hs256, left_half};
pub(crate) use scene::{OpenIdScene, settings};
pub(crate) use server::{Endpoint, OpenIdProvider};
pub(crate) use token::{Draft, base64url, unbase64url};
