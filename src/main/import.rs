//! The command `sidegate import`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand};
use sidegate::import;
use sidegate::telemetry::chain;

use super::{fail, print_error, print_line};

/// Exit code: the imported settings differ from the original settings.
const DIFFERENT: u8 = 2;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Convert the settings of oauth2-proxy; the new settings go to the standard output
    #[command(name = "oauth2-proxy")]
    Oauth2Proxy(Oauth2Proxy),
}

#[derive(Args)]
#[command(group = ArgGroup::new("source").args(["files", "env", "flags"]).required(true).multiple(true))]
pub(super) struct Oauth2Proxy {
    /// Settings files (TOML), or the alpha configuration if the name ends with .yaml or .yml
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A file with the environment variables of oauth2-proxy, one NAME=VALUE in each line
    #[arg(long, value_name = "FILE")]
    env: Option<PathBuf>,
    /// The origin at which browsers reach the app; by default from --redirect-url
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// The flags of oauth2-proxy, which override the variables and the files
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<String>,
}

/// Runs the command.
pub(super) fn run(command: Command) -> ExitCode {
    match command {
        Command::Oauth2Proxy(from) => oauth2_proxy(from),
    }
}

fn oauth2_proxy(from: Oauth2Proxy) -> ExitCode {
    let imported = import::oauth2_proxy(&import::Input {
        files: from.files,
        variables: from.env,
        flags: from.flags,
        public_url: from.public_url,
    });
    match imported {
        Ok(imported) => {
            print_line(imported.settings.trim_end());
            for remark in &imported.remarks {
                print_error(&remark.to_string());
            }
            if imported.is_complete() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(DIFFERENT)
            }
        }
        Err(error) => fail(&chain(&error)),
    }
}
