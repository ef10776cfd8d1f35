//! The command `sidegate run`.

use std::process::ExitCode;

use sidegate::clock::Clock;
use sidegate::config::{self, Config, Reusable, Source};
use sidegate::instance::Instance;
use sidegate::telemetry::{self, chain};
use tokio::runtime;
use tokio::task::spawn_blocking;

use super::core_dumps::CoreDumps;
use super::output::print_last_error;
use super::signals::Signals;
use super::{CONFIG, FAILURE, Settings};

/// Runs the command.
pub(super) fn run(settings: &Settings, core_dumps: CoreDumps) -> ExitCode {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    let source = settings.source();
    let code = runtime.block_on(async {
        // The handlers come first, because a signal without a handler kills the process.
        match Signals::listen() {
            Ok(signals) => serve(source, core_dumps, signals).await,
            Err(error) => fail(&format!("cannot listen for signals: {error}")),
        }
    });
    // The end of the process must not wait for a start or a reload that hangs while it reads a file.
    runtime.shutdown_background();
    code
}

/// Starts an instance, serves until a signal stops the process, and then drains. A second signal
/// stops the process immediately.
async fn serve(source: Source, core_dumps: CoreDumps, mut signals: Signals) -> ExitCode {
    let starting = spawn_blocking(move || start(&source, &core_dumps));
    let started = tokio::select! {
        biased;
        started = starting => started,
        // Before the end of the start, the process is not ready and has nothing to drain.
        () = signals.stop.next() => return ExitCode::SUCCESS,
    };
    let mut instance = match started {
        Ok(Ok(instance)) => instance,
        Ok(Err(code)) => return code,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    signals.serve(&mut instance).await;
    tokio::select! {
        drained = instance.drain() => match drained.lost {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::from(FAILURE),
        },
        () = signals.stop.next() => fail("stopped at once by a second signal"),
    }
}

/// Starts the log and the gateway. Returns `Err` with the exit code if the start has failed.
fn start(source: &Source, core_dumps: &CoreDumps) -> Result<Instance, ExitCode> {
    let clock = Clock::system();
    let config = Config::load(source, &Reusable::default(), &clock).map_err(|problems| {
        print_last_error(problems.to_string());
        ExitCode::from(CONFIG)
    })?;
    telemetry::start(&config.log).map_err(|error| fail(&chain(&error)))?;
    switch_core_dumps(core_dumps, config.core_dumps);
    Instance::start(config, &clock).map_err(|error| fail(&chain(&error)))
}

fn switch_core_dumps(core_dumps: &CoreDumps, wanted: config::CoreDumps) {
    let switched = match wanted {
        config::CoreDumps::Allowed => core_dumps.allow(),
        config::CoreDumps::Forbidden => core_dumps.forbidden(),
    };
    if let Err(error) = switched {
        let key = "server.core_dumps";
        tracing::warn!(key, %error, "The operating system has refused to switch core dumps");
    }
}

/// Writes the reason why the process has to end.
fn fail(text: &str) -> ExitCode {
    print_last_error(format!("sidegate: {text}"));
    ExitCode::from(FAILURE)
}
