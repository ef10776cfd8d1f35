//! An authorization server that is hard on its clients, and the app that takes its tokens.
//!
//! It signs everybody in without a form, issues tokens that say whose they are, rotates refresh
//! tokens and ends the whole login when an old one comes back, as real servers do. A [`fault::Schedule`] says which
//! call meets which [`fault::Fault`], by a seed, so that a run can be had again. The
//! [`ledger::Ledger`] knows what was issued, what was used up and which answers were lost: it is
//! the only witness of what no client could have helped.
//!
//! By hand: `cargo run --example torture_provider -- --help`.

pub(crate) mod app;
pub(crate) mod fault;
pub(crate) mod ledger;
pub(crate) mod server;
