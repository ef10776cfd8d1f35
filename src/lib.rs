//! Sidegate is a reverse proxy that signs users in.

pub mod access;
pub mod admin;
pub mod clock;
pub mod config;
pub mod fields;
pub mod gateway;
pub mod identity;
pub mod instance;
pub mod login;
pub mod origin;
pub mod provider;
pub mod secret;
pub mod server;
pub mod session;
pub mod target;
pub mod telemetry;
pub mod tls;
pub mod token;
pub mod upstream;
