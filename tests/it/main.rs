//! The integration tests: one binary, one file for each subject.
//!
//! `support` has the tools: a browser, a legacy app that records requests, an authorization server
//! that can be made to misbehave, and a gateway in front of them. `support` parses HTTP with its
//! own code, so that the gateway's parser does not check itself. Every server of the tests listens
//! on port 0 of a loopback address. No test sleeps if it can wait for an event.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    reason = "a test must fail if one of its steps fails"
)]

mod access_log;
mod admin;
mod after_sign_out;
mod answer_heads;
mod app_fields;
mod apps;
mod auth_check;
mod auth_check_direct;
mod back_channel;
mod browser;
mod buffers;
mod checked_routes;
mod chooser;
mod client_limits;
mod coverage;
mod cross_site;
mod deadlines;
mod demo;
mod deployments;
mod downloads;
mod durable;
mod early_answers;
mod enforce;
mod events;
mod examples;
mod expectation;
mod explain;
mod faults;
mod fields;
mod form_post;
mod forwarding;
mod fragments;
mod framing;
mod front_channel;
mod group_lists;
mod groups;
mod grpc;
mod hints;
mod http2;
mod id_tokens;
mod import;
mod invented_codes;
mod kept_forms;
mod kept_forms_attacks;
mod layering;
mod login;
mod logout_tokens;
mod long_answers;
mod metadata;
mod misuse;
mod modes;
mod oauth2_auth;
mod oauth2_endpoints;
mod one_sign_in;
mod online;
mod openid_logout;
mod openid_rp;
mod operations;
mod outage;
mod own_prefix;
mod own_sessions;
mod pages;
mod passport;
mod path_apps;
mod path_spellings;
mod prefixed_apps;
mod provider_answers;
mod proxies;
mod proxy_protocol;
mod quick;
mod recent;
mod refresh;
mod refusals;
mod refused_tokens;
mod reload;
mod remember;
mod return_to;
mod rewriting;
mod rotation;
mod rules;
mod self_signed;
mod servers;
mod session_ends;
mod sessions;
mod settings_mistakes;
mod several;
mod shared_caches;
mod shared_store;
mod sign_out;
mod signed_assertions;
mod silent;
mod slow_clients;
mod spill;
mod static_answers;
mod stream_peers;
mod support;
mod tab_storage;
mod token_endpoint;
mod torture;
mod trailers;
mod two_names;
mod unusual_paths;
mod userinfo;
mod warnings;
mod webhook;
mod websocket;
