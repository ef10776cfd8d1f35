//! The command `explain`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value};
use sidegate::admin::{self, AskedExplanation, Explained};
use sidegate::clock::Clock;
use sidegate::config::{Flags, Source, Variables};
use sidegate::instance::Explainer;
use sidegate::telemetry::chain;

use super::{fail, load, print_line};

/// Exit code: the gateway does not permit the request.
const NOT_PERMITTED: u8 = 2;

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    from: FileOrSocket,
    /// The URL of the request, or only a path for the first public URL
    url: String,
    /// The method of the request
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    method: String,
    /// A JSON file with the claims of the user, as the provider sends them; without a file, the
    /// request has no session
    #[arg(long = "as", value_name = "FILE")]
    claims: Option<PathBuf>,
    /// The provider of the user; needed only with several providers
    #[arg(long, value_name = "NAME", requires = "claims")]
    provider: Option<String>,
    /// The request has no session, which is the default
    #[arg(long, conflicts_with = "claims")]
    anonymous: bool,
    /// Print the explanation as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct FileOrSocket {
    /// The settings file; no running gateway is needed
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The admin socket of the running gateway, which explains with its current settings
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
}

/// Prints the explanation.
pub(super) fn run(arguments: Arguments) -> ExitCode {
    let claims = match arguments.claims.as_deref().map(read_claims).transpose() {
        Ok(claims) => claims,
        Err(problem) => return fail(&problem),
    };
    let asked = AskedExplanation {
        method: arguments.method,
        url: arguments.url,
        claims,
        provider: arguments.provider,
    };
    let FileOrSocket { config, socket } = arguments.from;
    let explained = match (config, socket) {
        (Some(path), _) => offline(path, &asked),
        (None, socket) => by_gateway(&socket.unwrap_or_default(), asked),
    };
    let explained = match explained {
        Ok(explained) => explained,
        Err(code) => return code,
    };
    if arguments.json {
        match serde_json::to_string_pretty(&explained.data) {
            Ok(json) => print_line(&json),
            Err(error) => return fail(&chain(&error)),
        }
    } else {
        print_line(&explained.text);
    }
    if explained.is_permitted {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_PERMITTED)
    }
}

/// Explains with the settings in a file.
fn offline(path: PathBuf, asked: &AskedExplanation) -> Result<Explained, ExitCode> {
    let clock = Clock::system();
    let source = Source {
        path,
        content: None,
        variables: Variables::Read,
        flags: Flags::default(),
    };
    let config = load(&source, &clock)?;
    let failed = |text: String| fail(&text);
    let explainer = Explainer::offline(config, &clock).map_err(|error| failed(chain(&error)))?;
    explainer.explain_asked(asked).map_err(failed)
}

/// Asks the running gateway.
fn by_gateway(socket: &Path, asked: AskedExplanation) -> Result<Explained, ExitCode> {
    let shown = socket.display();
    admin::client::explain(socket, asked)
        .map_err(|error| fail(&format!("{shown}: {}", chain(&error))))
}

/// Reads the claims of a user from a JSON file.
fn read_claims(path: &Path) -> Result<Map<String, Value>, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{shown}: not a JSON object: {error}"))
}
