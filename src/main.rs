//! The command line of Sidegate.

#[path = "main/core_dumps.rs"]
mod core_dumps;
#[path = "main/demo.rs"]
mod demo;
#[path = "main/explain.rs"]
mod explain;
#[path = "main/import.rs"]
mod import;
#[path = "main/output.rs"]
mod output;
#[path = "main/run.rs"]
mod run;
#[path = "main/sessions.rs"]
mod sessions;
#[path = "main/signals.rs"]
mod signals;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use sidegate::clock::Clock;
use sidegate::config::{Config, Flags, Reusable, Source, Variables};
use sidegate::origin::Grade;
use sidegate::snippet::{self, Snippet};
use sidegate::telemetry::{self, chain};

use self::core_dumps::CoreDumps;
use self::output::{print_error, print_line};

/// Exit code: the command failed.
const FAILURE: u8 = 1;
/// Exit code: the command line is not valid (`EX_USAGE` in `sysexits.h`).
const USAGE: u8 = 64;
/// Exit code: the settings have problems (`EX_CONFIG` in `sysexits.h`).
const CONFIG: u8 = 78;

/// A reverse proxy that signs users in with OAuth 2.0 or OpenID Connect, for web apps that do not
/// support these protocols.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "Exit codes: 0 success; 1 failure; 2 the request of `explain` is not permitted, or \
                  the imported settings differ from the original settings; 64 the command line is \
                  not valid; 78 the settings have problems, or `check --online` has found a problem."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve requests until SIGTERM or SIGINT
    Run(Settings),
    /// Check the settings and list all problems, without serving requests
    Check(Check),
    /// Explain what Sidegate would do with a request, and why, without sending the request
    Explain(explain::Arguments),
    /// Print the configuration with which another proxy asks Sidegate about each request
    Snippet {
        /// The proxy
        #[arg(value_name = "PROXY", value_parser = snippet_names())]
        snippet: Snippet,
        #[command(flatten)]
        settings: Settings,
    },
    /// Run a demo on loopback: authorization server, legacy app and gateway in one process
    Demo(demo::Arguments),
    /// List or end the sessions of a running gateway, or move sessions to a shared store
    Sessions {
        #[command(subcommand)]
        command: sessions::Command,
    },
    /// Create a certificate authority and a certificate for localhost, for development
    DevCerts {
        /// The folder for the files; it is created if it does not exist
        dir: PathBuf,
    },
    /// Convert the settings of another gateway, and list what the new settings do not express
    #[command(subcommand)]
    Import(import::Command),
}

#[derive(Args)]
struct Settings {
    /// The settings file (TOML); config/sidegate.toml explains every key
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The address to listen on; overrides server.listen
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The lowest level to log; overrides log.level
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// The log format, text or json; overrides log.format
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

#[derive(Args)]
struct Check {
    #[command(flatten)]
    settings: Settings,
    /// The settings file of the running gateway; the check also lists which sessions a reload would
    /// end, and which settings need a restart
    #[arg(long, value_name = "FILE")]
    running: Option<PathBuf>,
    /// Also ask the providers and apps over the network, for at most five seconds, and list what
    /// would fail; no token is requested
    #[arg(long)]
    online: bool,
}

/// Parses the name of a snippet. The help text and the error message list the names of all snippets.
fn snippet_names() -> impl TypedValueParser<Value = Snippet> {
    let names = PossibleValuesParser::new(Snippet::ALL.map(Snippet::name));
    names.try_map(|name| {
        let mut snippets = Snippet::ALL.into_iter();
        let found = snippets.find(|snippet| snippet.name() == name);
        found.ok_or("unknown proxy")
    })
}

fn main() -> ExitCode {
    let code = execute();
    telemetry::finish();
    output::exit_code(code)
}

fn execute() -> ExitCode {
    // The memory of every command can contain secrets.
    let core_dumps = CoreDumps::forbid();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` are not errors. Clap writes help and version to standard
            // output, and real errors to standard error.
            let is_requested = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            return match error.print() {
                Ok(()) if is_requested => ExitCode::SUCCESS,
                Ok(()) | Err(_) => ExitCode::from(USAGE),
            };
        }
    };
    match cli.command {
        Command::Run(settings) => run::run(&settings, core_dumps),
        Command::Check(arguments) => check(&arguments),
        Command::Explain(arguments) => explain::run(arguments),
        Command::Snippet { snippet, settings } => print_snippet(snippet, &settings),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Sessions { command } => sessions::run(command),
        Command::DevCerts { dir } => dev_certs(&dir),
        Command::Import(command) => import::run(command),
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
        let hosts: Vec<_> = route.hosts().collect();
        let at = if hosts.is_empty() { "" } else { " at " };
        let (prefix, hosts) = (route.prefix(), hosts.join(", "));
        print_line(&format!("open to everybody: {prefix}{at}{hosts}"));
    }
    for (route, forms) in config.site.routes.unusual_paths() {
        print_line(&format!(
            "unusual paths in the route {}: {forms}",
            route.name()
        ));
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
    if arguments.online
        && let Err(code) = check_online(&config, &clock)
    {
        return code;
    }
    let path = settings.config.display();
    print_line(&format!("{path}: the settings are good"));
    ExitCode::SUCCESS
}

fn print_snippet(snippet: Snippet, settings: &Settings) -> ExitCode {
    let config = match load(&settings.source(), &Clock::system()) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match snippet::print(snippet, &config) {
        Ok(text) => {
            print_line(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => fail_with(CONFIG, &chain(&error)),
    }
}

/// Prints what the check over the network has found. Returns `Err` with the exit code if the check
/// has found a problem or could not start.
fn check_online(config: &Config, clock: &Clock) -> Result<(), ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| fail(&format!("cannot start: {error}")))?;
    let tasks = tokio::task::LocalSet::new();
    let findings = runtime.block_on(tasks.run_until(config.check_online(clock)));
    // A slow name look-up must not delay the end of the process.
    runtime.shutdown_background();
    for finding in &findings {
        print_line(&finding.to_string());
    }
    let problems = findings
        .iter()
        .filter(|finding| finding.grade == Grade::Problem)
        .count();
    match problems {
        0 => Ok(()),
        1 => Err(fail_with(CONFIG, "1 problem was found online")),
        more => Err(fail_with(
            CONFIG,
            &format!("{more} problems were found online"),
        )),
    }
}

fn dev_certs(dir: &Path) -> ExitCode {
    match sidegate::tls::development_certificates(dir, &[], Clock::system().now()) {
        Ok(written) => {
            for path in [&written.authority, &written.certificate, &written.key] {
                print_line(&format!("wrote {}", path.display()));
            }
            print_line(&format!(
                "Add {} to the trusted certificates of your browser. Set server.certificate_file and \
                 server.key_file to the other two files.",
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
