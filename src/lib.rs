//! Sidegate is a reverse proxy that signs users in.

pub mod clock;
pub mod identity;
pub mod secret;
pub mod telemetry;
pub mod token;
