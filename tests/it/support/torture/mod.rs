//! An authorization server that often fails, and an app that accepts its tokens.
//!
//! The server signs every user in without a form. The tokens of the server contain their user. Like
//! real servers, the server rotates refresh tokens, and ends the whole login when an old refresh
//! token is used again. A [`fault::Schedule`] selects the [`fault::Fault`] of each call from a
//! seed, so that a run can be repeated. The [`ledger::Ledger`] records issued tokens, used tokens
//! and lost answers. Only the ledger can prove that no client could have avoided the end of a
//! login.
//!
//! The command `cargo run --example torture_provider -- --help` describes how to start the server
//! by hand.

pub(crate) mod app;
pub(crate) mod fault;
pub(crate) mod kills;
pub(crate) mod ledger;
pub(crate) mod server;
