//! The failing provider of the tests, and the app that accepts its tokens, for use by hand.
//!
//!     cargo run --example torture_provider -- --faults 25 --lifetime 5
//!
//! prints the settings for a gateway. `GET /log` at the provider shows issued tokens, used tokens
//! and lost answers. `login_hint` or the cookie `user` names the user who signs in.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    reason = "test tools, used by hand"
)]

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use sidegate::clock::Clock;

use self::support::torture::app::TokenApp;
use self::support::torture::fault::Schedule;
use self::support::torture::ledger::{Ledger, ProviderBehavior};
use self::support::torture::server::TortureProvider;
use self::support::upstream::RecordingUpstream;

#[path = "it/support"]
#[expect(dead_code, reason = "other tests use the rest")]
mod support {
    pub(crate) mod oauth;
    pub(crate) mod torture;
    pub(crate) mod upstream;
    pub(crate) mod wire;
}

/// An authorization server that often fails. Only for tests, never for real users.
#[derive(Parser)]
struct Options {
    /// The address to listen on; must be loopback
    #[arg(long, default_value = "127.0.0.1:9700")]
    listen: SocketAddr,
    /// The address of the app; must be loopback
    #[arg(long, default_value = "127.0.0.1:9701")]
    app: SocketAddr,
    /// Selects the failing calls and their faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The percentage of refreshes with a fault
    #[arg(long, default_value_t = 0, value_name = "PERCENT")]
    faults: u64,
    /// The lifetime of an access token; with several values, one is chosen at random
    #[arg(long, default_value = "5", value_name = "SECONDS")]
    lifetime: Vec<u64>,
    /// A refresh does not revoke the old access token
    #[arg(long)]
    keep_access_tokens: bool,
    /// How long a used refresh token is accepted for a second try
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    grace: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let options = Options::parse();
    let ours = |address: SocketAddr| {
        assert!(address.ip().is_loopback(), "{address} is not loopback");
        RecordingUpstream::at(address)
    };
    let (shared_ledger, clock) = (Ledger::shared_ledger(), Clock::system());
    let behavior = ProviderBehavior {
        server: "main",
        kills_access_tokens: !options.keep_access_tokens,
        grace: Duration::from_secs(options.grace),
    };
    let schedule = Schedule::new(options.seed, options.faults, &options.lifetime);
    let server = ours(options.listen).await;
    let provider = TortureProvider::with(server, &shared_ledger, behavior, (schedule, &clock));
    let app = TokenApp::with(ours(options.app).await, &shared_ledger, &clock);
    println!(
        "[upstreams.app]\nurl = \"{}\"\n{}",
        app.url(),
        provider.section("oauth2", "/path/to/a/file/with/any/secret")
    );
    tokio::signal::ctrl_c().await.unwrap();
}
