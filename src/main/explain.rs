//! The command `explain`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value};
use sidegate::clock::Clock;
use sidegate::gateway::Question;
use sidegate::instance::Explainer;
use sidegate::telemetry::chain;

use super::{Settings, fail, load, print_line};

/// Exit code: the gateway does not permit the request.
const NOT_PERMITTED: u8 = 2;

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: Settings,
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

/// Prints the explanation.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let clock = Clock::system();
    let config = match load(&arguments.settings.source(), &clock) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let claims = match arguments.claims.as_deref().map(read_claims).transpose() {
        Ok(claims) => claims,
        Err(problem) => return fail(&problem),
    };
    let explainer = match Explainer::offline(config, &clock) {
        Ok(explainer) => explainer,
        Err(error) => return fail(&chain(&error)),
    };
    let question = Question {
        method: &arguments.method,
        url: &arguments.url,
        claims: claims.as_ref(),
        provider: arguments.provider.as_deref(),
    };
    let explanation = match explainer.explain(&question) {
        Ok(explanation) => explanation,
        Err(error) => return fail(&chain(&error)),
    };
    if arguments.json {
        match serde_json::to_string_pretty(&explanation) {
            Ok(json) => print_line(&json),
            Err(error) => return fail(&chain(&error)),
        }
    } else {
        print_line(&explanation.to_string());
    }
    if explanation.is_permitted() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_PERMITTED)
    }
}

/// Reads the claims of a user from a JSON file.
fn read_claims(path: &Path) -> Result<Map<String, Value>, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{shown}: not a JSON object: {error}"))
}
