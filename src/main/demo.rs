//! The command `sidegate demo`.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use sidegate::demo::{self, Demo};
use sidegate::telemetry::chain;

use super::output::print_line;
use super::signals::StopSignals;
use super::{FAILURE, fail};

#[derive(Args)]
pub(super) struct Arguments {
    /// Test a complete login over real sockets, print each step, and exit
    #[arg(long)]
    check: bool,
    /// The kind of authorization server
    #[arg(long, value_name = "KIND", default_value = "passport-13", value_parser = provider_names())]
    provider: demo::ProviderKind,
    /// Break this step on purpose, to show that the check can fail
    #[arg(long = "break", value_name = "STEP", requires = "check", value_parser = step_names())]
    broken: Option<demo::Step>,
    /// The loopback address that the gateway listens on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4180")]
    listen: SocketAddr,
}

/// Parses the name of a step of the demo check. The help text and the error message list the names
/// of all steps.
fn step_names() -> impl TypedValueParser<Value = demo::Step> {
    let names = PossibleValuesParser::new(demo::Step::ALL.map(demo::Step::name));
    names.try_map(|name| {
        let mut steps = demo::Step::ALL.into_iter();
        steps.find(|step| step.name() == name).ok_or("unknown step")
    })
}

/// Parses the name of a kind of authorization server.
fn provider_names() -> impl TypedValueParser<Value = demo::ProviderKind> {
    let names = PossibleValuesParser::new(demo::ProviderKind::ALL.map(demo::ProviderKind::name));
    names.try_map(|name| {
        let mut kinds = demo::ProviderKind::ALL.into_iter();
        let found = kinds.find(|kind| kind.name() == name);
        found.ok_or("unknown kind of authorization server")
    })
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    runtime.block_on(async {
        // With `--check`, the demo uses any free port, because no user opens the demo in a browser.
        let listen = if arguments.check {
            SocketAddr::from(([127, 0, 0, 1], 0))
        } else {
            arguments.listen
        };
        let purpose = if arguments.check {
            demo::Purpose::Check(arguments.broken)
        } else {
            demo::Purpose::Show
        };
        match Demo::start(listen, arguments.provider, purpose).await {
            Err(error) => fail(&chain(&error)),
            Ok(running) if arguments.check => check(running).await,
            Ok(running) => show(running).await,
        }
    })
}

async fn check(demo: Demo) -> ExitCode {
    let passed = match demo.check() {
        Ok(check) => check
            .run(&mut |report| print_line(&report.to_string()))
            .await
            .is_ok(),
        Err(error) => return fail(&chain(&error)),
    };
    demo.stop().await;
    if passed {
        print_line("All steps passed.");
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    }
}

async fn show(demo: Demo) -> ExitCode {
    let mut signals = match StopSignals::listen() {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("cannot listen for signals: {error}")),
    };
    print_line(&format!(
        "This is a demo for development. Everything runs on loopback, and nothing is kept when \
         the demo stops.\n\n  \
         open      {}\n  \
         user      alice\n  \
         password  password\n\n\
         The gateway runs on {}\n\
         in front of a legacy app on {} and {}.\n\
         Stop with Ctrl-C.",
        demo.public_url(),
        demo.settings_file().display(),
        demo.app().address(),
        demo.provider_as_text(),
    ));
    signals.next().await;
    demo.stop().await;
    ExitCode::SUCCESS
}
