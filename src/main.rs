//! The command line of Sidegate.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use sidegate::clock::Clock;
use sidegate::config::{Config, Flags, Reusable, Source, Variables};
use sidegate::demo;
use sidegate::instance::{Instance, ReloadCause};
use sidegate::telemetry::{self, chain};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Something failed while running.
const FAILURE: u8 = 1;
/// The command line cannot be understood (`EX_USAGE` of sysexits).
const USAGE: u8 = 64;
/// The settings are wrong (`EX_CONFIG`).
const CONFIG: u8 = 78;

/// A reverse proxy that signs users in: OAuth 2 and OpenID Connect for web apps that know
/// nothing of it.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "Exit codes: 0 all went well; 1 something failed; 64 the command line cannot be \
                  understood; 78 the settings are wrong."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve, as the settings print_line, until SIGTERM or SIGINT
    Run(Settings),
    /// Name every problem of the settings that can be seen at once, and serve nothing
    Check(Check),
    /// Try it: an authorization server, a legacy app and the gateway in one process, on loopback
    Demo(Demo),
    /// Write a certificate authority and a certificate for localhost, for development
    DevCerts {
        /// The folder to write to; made if it is not there
        dir: PathBuf,
    },
}

#[derive(Args)]
struct Settings {
    /// The settings file (TOML); config/sidegate.toml documents every key
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Listen here instead of server.listen
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Log from this level on instead of log.level
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Log as text or json instead of log.format
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

#[derive(Args)]
struct Check {
    #[command(flatten)]
    settings: Settings,
    /// The settings that a gateway runs with now: print_line what a reload would end, and what it cannot
    /// change
    #[arg(long, value_name = "FILE")]
    running: Option<PathBuf>,
}

#[derive(Args)]
struct Demo {
    /// Drive a whole login over real sockets, print each step, and stop
    #[arg(long)]
    check: bool,
    /// What the authorization server answers as
    #[arg(long, value_name = "KIND", default_value = "passport-13", value_parser = provider_names())]
    provider: demo::ProviderKind,
    /// Break this step on purpose, to see that the check can fail
    #[arg(long = "break", value_name = "STEP", requires = "check", value_parser = step_names())]
    broken: Option<demo::Step>,
    /// Where the gateway listens; a loopback address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4180")]
    listen: SocketAddr,
}

/// The steps of the demo's check by name. The help lists them, and so does the error for another.
fn step_names() -> impl TypedValueParser<Value = demo::Step> {
    let names = PossibleValuesParser::new(demo::Step::ALL.map(demo::Step::name));
    names.try_map(|name| {
        let mut steps = demo::Step::ALL.into_iter();
        steps.find(|step| step.name() == name).ok_or("no such step")
    })
}

/// What the demo's authorization server can answer as, by name.
fn provider_names() -> impl TypedValueParser<Value = demo::ProviderKind> {
    let names = PossibleValuesParser::new(demo::ProviderKind::ALL.map(demo::ProviderKind::name));
    names.try_map(|name| {
        let mut kinds = demo::ProviderKind::ALL.into_iter();
        let found = kinds.find(|kind| kind.name() == name);
        found.ok_or("no such kind of provider")
    })
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no mistakes; clap writes each where it belongs.
            let arguments = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            return match error.print() {
                Ok(()) if arguments => ExitCode::SUCCESS,
                Ok(()) | Err(_) => ExitCode::from(USAGE),
            };
        }
    };
    match cli.command {
        Command::Run(settings) => run(&settings),
        Command::Check(arguments) => check(&arguments),
        Command::Demo(demo) => run_demo(&demo),
        Command::DevCerts { dir } => dev_certs(&dir),
    }
}

impl Settings {
    fn source(&self) -> Source {
        Source {
            path: self.config.clone(),
            content: None,
            variables: Variables::Read,
            flags: Flags {
                listen: self.listen.clone(),
                log_level: self.log_level.clone(),
                log_format: self.log_format.clone(),
            },
        }
    }
}

fn load(source: &Source, clock: &Clock) -> Result<Config, ExitCode> {
    Config::load(source, &Reusable::default(), clock).map_err(|problems| {
        print_error(&problems.to_string());
        ExitCode::from(CONFIG)
    })
}

fn check(arguments: &Check) -> ExitCode {
    let (settings, clock) = (&arguments.settings, Clock::system());
    let config = match load(&settings.source(), &clock) {
        Ok(config) => config,
        Err(code) => return code,
    };
    for warning in &config.warnings {
        print_error(&format!("warning: {warning}"));
    }
    for route in config.site.routes.iter().filter(|route| route.is_public()) {
        print_line(&format!("open to everybody: {}", route.prefix()));
    }
    match config.sessions_that_end(clock.now()) {
        Ok(ends) => ends.iter().for_each(|line| print_line(line)),
        Err(error) => return fail_with(CONFIG, &chain(&error)),
    }
    if let Some(running) = &arguments.running {
        let source = Source {
            path: running.clone(),
            ..settings.source()
        };
        match load(&source, &clock) {
            Ok(before) => config
                .changes_since(&before)
                .iter()
                .for_each(|line| print_line(line)),
            Err(code) => return code,
        }
    }
    let path = settings.config.display();
    print_line(&format!("{path}: the settings are good"));
    ExitCode::SUCCESS
}

fn run(settings: &Settings) -> ExitCode {
    let clock = Clock::system();
    let source = settings.source();
    let config = match load(&source, &clock) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if let Err(error) = telemetry::start(&config.log) {
        return fail(&chain(&error));
    }
    until_signal(|| Instance::start(config, &clock).map_err(|error| chain(&error)))
}

/// Starts an instance, serves until a signal, drains. A second signal stops at once.
fn until_signal(start: impl FnOnce() -> Result<Instance, String>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    let code = runtime.block_on(async {
        let listening = (Signals::listen(), signal(SignalKind::hangup()));
        let (mut signals, mut hangup) = match listening {
            (Ok(signals), Ok(hangup)) => (signals, hangup),
            (Err(error), _) | (_, Err(error)) => {
                return fail(&format!("cannot listen for signals: {error}"));
            }
        };
        let mut instance = match start() {
            Ok(instance) => instance,
            Err(error) => return fail(&error),
        };
        signals.serve(&mut hangup, &mut instance).await;
        tokio::select! {
            drained = instance.drain() => match drained.lost {
                0 => ExitCode::SUCCESS,
                _ => ExitCode::from(FAILURE),
            },
            () = signals.next() => fail("stopped at once by a second signal"),
        }
    });
    // A reload may still wait for a file that cannot be read to its end.
    runtime.shutdown_background();
    code
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self {
            terminate,
            interrupt,
        })
    }

    /// Serves until a signal to stop. SIGHUP and replaced files put other settings in force.
    async fn serve(&mut self, hangup: &mut Signal, instance: &mut Instance) {
        loop {
            let cause = tokio::select! {
                () = self.next() => return,
                _ = hangup.recv() => ReloadCause::Signal,
                cause = instance.reload_due() => cause,
            };
            tokio::select! {
                // A file that cannot be read to its end must not keep the process from stopping.
                () = self.next() => return,
                // What came of it is in the log.
                _reloaded = instance.reload(cause) => {}
            }
        }
    }

    /// Waits for a signal to stop.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn run_demo(demo: &Demo) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    runtime.block_on(async {
        // A check has nothing to show in a browser, so any free port will do.
        let listen = if demo.check {
            SocketAddr::from(([127, 0, 0, 1], 0))
        } else {
            demo.listen
        };
        let purpose = if demo.check {
            demo::Purpose::Check(demo.broken)
        } else {
            demo::Purpose::Show
        };
        match demo::Demo::start(listen, demo.provider, purpose).await {
            Err(error) => fail(&chain(&error)),
            Ok(running) if demo.check => check_demo(running).await,
            Ok(running) => show_demo(running).await,
        }
    })
}

async fn check_demo(demo: demo::Demo) -> ExitCode {
    let held = match demo.check() {
        Ok(check) => check
            .run(&mut |report| print_line(&report.to_string()))
            .await
            .is_ok(),
        Err(error) => return fail(&chain(&error)),
    };
    demo.stop().await;
    if held {
        print_line("All steps held.");
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    }
}

async fn show_demo(demo: demo::Demo) -> ExitCode {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("cannot listen for signals: {error}")),
    };
    print_line(&format!(
        "This is a demo for development: everything is on loopback and forgotten when it stops.\n\n  \
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

fn dev_certs(dir: &Path) -> ExitCode {
    match sidegate::tls::development_certificates(dir, &[], Clock::system().now()) {
        Ok(written) => {
            for path in [&written.authority, &written.certificate, &written.key] {
                print_line(&format!("wrote {}", path.display()));
            }
            print_line(&format!(
                "Trust {} where you need to; set server.certificate_file and server.key_file to \
                 the other two.",
                written.authority.display()
            ));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&chain(&error)),
    }
}

fn fail(text: &str) -> ExitCode {
    fail_with(FAILURE, text)
}

fn fail_with(code: u8, text: &str) -> ExitCode {
    print_error(&format!("sidegate: {text}"));
    ExitCode::from(code)
}

#[expect(
    clippy::print_stdout,
    reason = "the command line speaks to whoever typed it"
)]
fn print_line(text: &str) {
    println!("{text}");
}

#[expect(
    clippy::print_stderr,
    reason = "the command line speaks to whoever typed it"
)]
fn print_error(text: &str) {
    eprintln!("{text}");
}
