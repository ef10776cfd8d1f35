//! The integration suite: one binary, one file per subject.
//!
//! `support` is the kit. It speaks the domain (a browser, a legacy app that records what reaches
//! it, an authorization server that can be told to misbehave, a gateway in front of them) and
//! parses HTTP with code of its own, so that the gateway is never its own judge. Everything
//! listens on port 0 of a loopback address; nothing sleeps where an event will do.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    reason = "a failed step in a test is a failed test"
)]

mod browser;
mod chooser;
mod coverage;
mod demo;
mod durable;
mod fields;
mod form_post;
mod forwarding;
mod framing;
mod http2;
mod id_tokens;
mod layering;
mod legacy_app;
mod login;
mod metadata;
mod misuse;
mod openid_rp;
mod operations;
mod outage;
mod pages;
mod passport;
mod provider_answers;
mod recent;
mod refresh;
mod refused_tokens;
mod reload;
mod return_to;
mod rotation;
mod servers;
mod sessions;
mod several;
mod support;
mod token_endpoint;
mod torture;
