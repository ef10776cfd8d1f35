//! The suite's provider under torture, and the app that takes its tokens, to be tried by hand.
//!
//!     cargo run --example torture_provider -- --faults 25 --lifetime 5
//!
//! prints what to put into the settings of a gateway. `GET /log` at the provider shows what it has
//! issued, what was used up, and which answers were lost; `login_hint` or the cookie `user` says
//! who signs in.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    reason = "the suite's kit, by hand"
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
#[expect(dead_code, reason = "the kit serves more than this")]
mod support {
    pub(crate) mod oauth;
    pub(crate) mod torture;
    pub(crate) mod upstream;
    pub(crate) mod wire;
}

/// An authorization server that is hard on its clients. For tests; never for people.
#[derive(Parser)]
struct Options {
    /// Where it listens; a loopback address
    #[arg(long, default_value = "127.0.0.1:9700")]
    listen: SocketAddr,
    /// Where the app listens; a loopback address
    #[arg(long, default_value = "127.0.0.1:9701")]
    app: SocketAddr,
    /// Which calls go wrong, and how
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many of a hundred refreshes go wrong
    #[arg(long, default_value_t = 0, value_name = "PERCENT")]
    faults: u64,
    /// How long an access token lives; several are taken in turn at random
    #[arg(long, default_value = "5", value_name = "SECONDS")]
    lifetime: Vec<u64>,
    /// A refresh does not kill the old access token
    #[arg(long)]
    keep_access_tokens: bool,
    /// How long a refresh token that was used up stays good for another try
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
