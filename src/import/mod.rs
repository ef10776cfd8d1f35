//! Converts the settings of oauth2-proxy to settings of Sidegate.
//!
//! [`oauth2_proxy`] is the entry point. The file `options.txt` has a row for each option of
//! oauth2-proxy. The row states which key of Sidegate gets the value, or why no key exists. If the
//! meaning of an option depends on other options, the code of this module decides.
//!
//! If Sidegate cannot express a rule about users exactly, nobody may pass, and a remark names the
//! option. Only an exact path becomes a path prefix, which also matches the paths below. A remark and
//! a comment name each such path. The import never keeps the value of a secret.

mod access;
mod alpha;
mod alpha_keys;
mod app;
mod convert;
mod document;
mod headers;
mod options;
mod provider;
mod read;
mod server;
mod skip;

use std::fmt;
use std::io;
use std::path::PathBuf;

/// The places of the settings of oauth2-proxy.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// Settings files: TOML, or the alpha configuration in YAML if the name ends with `.yaml` or
    /// `.yml`.
    pub files: Vec<PathBuf>,
    /// A file with environment variables, one `NAME=VALUE` in each line.
    pub variables: Option<PathBuf>,
    /// The flags of the command line.
    pub flags: Vec<String>,
    /// The origin at which browsers reach the gateway, if the settings do not contain it.
    pub public_url: Option<String>,
}

/// The result of an import.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The settings of Sidegate, in TOML.
    pub settings: String,
    /// Remarks about the options that the settings do not express, sorted by their grades.
    pub remarks: Vec<Remark>,
}

impl Imported {
    /// Returns true if the settings express every option.
    pub fn is_complete(&self) -> bool {
        !self.remarks.iter().any(|remark| remark.grade.is_a_loss())
    }
}

/// A remark about an option of oauth2-proxy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remark {
    /// The name of the option as the operator has written it.
    pub option: String,
    /// The grade of the remark.
    pub grade: Grade,
    /// The explanation, which never contains the value of a secret.
    pub text: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let option = document::printable(&self.option);
        write!(f, "{}: {option}: {}", self.grade.as_str(), self.text)
    }
}

/// The grade of a remark.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Grade {
    /// Sidegate has no equivalent, or the import needs a value that it does not know.
    Lost,
    /// The settings differ from the option, because the option is dangerous.
    Safe,
    /// The settings differ from the option in a detail.
    Changed,
    /// The operator has to do one more step, such as to write a secret into a file.
    ToDo,
    /// Sidegate does the same without a key.
    Covered,
}

impl Grade {
    /// Returns the words in front of the remark.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "not carried over",
            Self::Safe => "made safe",
            Self::Changed => "changed",
            Self::ToDo => "to do",
            Self::Covered => "no key needed",
        }
    }

    /// Returns true if the settings do not express the option.
    fn is_a_loss(self) -> bool {
        match self {
            Self::Lost | Self::Safe | Self::Changed => true,
            Self::ToDo | Self::Covered => false,
        }
    }
}

/// The reason why the settings of oauth2-proxy cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file has a syntax error.
    #[error("{} is not {language}: {place}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The language of the file.
        language: &'static str,
        /// The place of the error in the file.
        place: String,
    },
}

/// Converts the settings of oauth2-proxy.
///
/// # Errors
///
/// Returns [`Error`] if a file cannot be read.
pub fn oauth2_proxy(input: &Input) -> Result<Imported, Error> {
    let given = read::Given::read(input)?;
    let mut import = convert::Import::new(given);
    provider::set_profile(&mut import);
    import.convert_rows();
    server::convert(&mut import, input.public_url.as_deref());
    provider::convert(&mut import);
    let mut apps = app::apps(&mut import);
    headers::convert(&mut import, &mut apps);
    access::convert(&mut import, &apps);
    Ok(import.finish())
}
