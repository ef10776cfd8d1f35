//! The settings of a session store in Redis or Valkey.

use std::num::{NonZeroU16, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use url::{Host, Url};

/// The settings of a session store in Redis or Valkey, which several replicas share.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, try_from = "RawSettings")]
pub struct RedisSettings {
    /// The server. With `sentinel_master`, the Sentinels, one of which knows the server.
    pub(crate) servers: Vec<Address>,
    /// The name of the master that the Sentinels watch. `None` if `servers` is the server itself.
    pub(crate) sentinel_master: Option<String>,
    /// The number of the logical database.
    pub(crate) database: u16,
    /// The first characters of every key and of every channel.
    pub(crate) prefix: String,
    /// The files with the user name and the password for the server.
    pub(crate) login: LoginFiles,
    /// The files with the user name and the password for the Sentinels.
    pub(crate) sentinel_login: LoginFiles,
    /// The files for TLS. `None` if the connections are not encrypted.
    pub(crate) tls: Option<TlsFiles>,
    /// The longest time for one attempt to connect.
    pub(crate) connect_timeout: Duration,
    /// The longest time to wait for the answer to a command.
    pub(crate) command_timeout: Duration,
    /// The time after which no replica uses a session that another replica has ended, while the
    /// store answers.
    pub(crate) coherence: Duration,
    /// The time for which a replica uses cached sessions while the store does not answer.
    pub(crate) outage: Duration,
    /// The longest time by which the report of a use can be late.
    pub(crate) report_delay: Duration,
}

/// The address of a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Address {
    /// A host and a port.
    Tcp(Host<String>, u16),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The files with a user name and a password. The store reads the files for each connection.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct LoginFiles {
    pub(crate) username: Option<PathBuf>,
    pub(crate) password: Option<PathBuf>,
}

/// The files for TLS connections. The store reads the files for each connection.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct TlsFiles {
    /// The trusted certificate authorities. By default, the authorities of the system.
    pub(crate) ca: Option<PathBuf>,
    /// The certificate chain and the private key with which the gateway identifies itself.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSettings {
    urls: Vec<String>,
    sentinel_master: Option<String>,
    #[serde(default)]
    database: u16,
    #[serde(default = "default_prefix")]
    prefix: String,
    username_file: Option<PathBuf>,
    password_file: Option<PathBuf>,
    sentinel_username_file: Option<PathBuf>,
    sentinel_password_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    client_cert_file: Option<PathBuf>,
    client_key_file: Option<PathBuf>,
    #[serde(default = "two")]
    connect_timeout_secs: NonZeroU64,
    #[serde(default = "one")]
    command_timeout_secs: NonZeroU64,
    #[serde(default = "one")]
    coherence_secs: NonZeroU64,
    #[serde(default = "default_outage")]
    outage_secs: u64,
}

fn default_prefix() -> String {
    "sidegate:".to_owned()
}

fn default_outage() -> u64 {
    60
}

fn one() -> NonZeroU64 {
    NonZeroU64::MIN
}

fn two() -> NonZeroU64 {
    one().saturating_add(1)
}

/// The default port of a Redis server.
const PORT: u16 = 6379;
/// The default port of a Sentinel.
const SENTINEL_PORT: u16 = 26379;
/// The longest prefix, in bytes. Every key contains the prefix.
const LONGEST_PREFIX: usize = 64;
/// The upper limits of the times, in seconds.
const LONGEST_TIMEOUT: u64 = 60;
const LONGEST_COHERENCE: u64 = 60;
const LONGEST_OUTAGE: u64 = 3600;
/// The longest time without a report of a session that is in use, with some time for the report.
const LONGEST_UNREPORTED: Duration = Duration::from_secs(65);

impl TryFrom<RawSettings> for RedisSettings {
    type Error = String;

    fn try_from(raw: RawSettings) -> Result<Self, String> {
        raw.check_limits()?;
        let default_port = if raw.sentinel_master.is_some() {
            SENTINEL_PORT
        } else {
            PORT
        };
        let read = raw.urls.iter().map(|text| server(text, default_port));
        let read = read.collect::<Result<Vec<_>, _>>()?;
        let encrypted = read.iter().filter(|(_, encrypted)| *encrypted).count();
        if encrypted != 0 && encrypted != read.len() {
            return Err("urls has redis:// and rediss:// addresses; use one of the two".to_owned());
        }
        let servers: Vec<_> = read.into_iter().map(|(server, _)| server).collect();
        raw.check_servers(&servers)?;
        let tls = raw.tls(encrypted > 0)?;
        Ok(Self {
            login: login(
                (raw.username_file, raw.password_file),
                ("username_file", "password_file"),
            )?,
            sentinel_login: login(
                (raw.sentinel_username_file, raw.sentinel_password_file),
                ("sentinel_username_file", "sentinel_password_file"),
            )?,
            servers,
            sentinel_master: raw.sentinel_master,
            database: raw.database,
            prefix: raw.prefix,
            tls,
            connect_timeout: Duration::from_secs(raw.connect_timeout_secs.get()),
            command_timeout: Duration::from_secs(raw.command_timeout_secs.get()),
            coherence: Duration::from_secs(raw.coherence_secs.get()),
            outage: Duration::from_secs(raw.outage_secs),
            // A replica cannot report uses while the store does not answer.
            report_delay: Duration::from_secs(raw.outage_secs).saturating_add(LONGEST_UNREPORTED),
        })
    }
}

impl RawSettings {
    fn check_limits(&self) -> Result<(), String> {
        let limits = [
            (
                "connect_timeout_secs",
                self.connect_timeout_secs.get(),
                LONGEST_TIMEOUT,
            ),
            (
                "command_timeout_secs",
                self.command_timeout_secs.get(),
                LONGEST_TIMEOUT,
            ),
            (
                "coherence_secs",
                self.coherence_secs.get(),
                LONGEST_COHERENCE,
            ),
            ("outage_secs", self.outage_secs, LONGEST_OUTAGE),
        ];
        for (key, value, limit) in limits {
            if value > limit {
                return Err(format!("{key} ({value}) exceeds {limit}"));
            }
        }
        let is_allowed = |c: char| c.is_ascii_graphic() && !matches!(c, '{' | '}' | '*' | '?');
        if self.prefix.is_empty() || !self.prefix.chars().all(is_allowed) {
            return Err(
                "prefix must be visible ASCII characters without `{`, `}`, `*` and `?`, such as \
                 sidegate:"
                    .to_owned(),
            );
        }
        if self.prefix.len() > LONGEST_PREFIX {
            return Err(format!("prefix has more than {LONGEST_PREFIX} characters"));
        }
        Ok(())
    }

    fn check_servers(&self, servers: &[Address]) -> Result<(), String> {
        let of_sentinels = self.sentinel_username_file.is_some();
        let of_sentinels = of_sentinels || self.sentinel_password_file.is_some();
        let is_unix = |server: &Address| matches!(server, Address::Unix(_));
        let problem = match (&self.sentinel_master, servers) {
            (_, []) => "urls is empty",
            (None, [_, _, ..]) => {
                "urls has several addresses, but sentinel_master is not set; several addresses are \
                 the Sentinels of one master"
            }
            (None, _) if of_sentinels => {
                "sentinel_username_file and sentinel_password_file have no effect without \
                 sentinel_master"
            }
            (Some(name), _) if name.is_empty() => "sentinel_master is empty",
            (Some(_), servers) if servers.iter().any(is_unix) => {
                "with sentinel_master, urls are the Sentinels, which have no Unix sockets"
            }
            (None | Some(_), _) => return Ok(()),
        };
        Err(problem.to_owned())
    }

    fn tls(&self, encrypted: bool) -> Result<Option<TlsFiles>, String> {
        let files = [
            ("ca_file", &self.ca_file),
            ("client_cert_file", &self.client_cert_file),
            ("client_key_file", &self.client_key_file),
        ];
        let unused = files.iter().find(|(_, file)| file.is_some());
        if let (false, Some((key, _))) = (encrypted, unused) {
            return Err(format!("{key} has no effect without a rediss:// address"));
        }
        let client = match (self.client_cert_file.clone(), self.client_key_file.clone()) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err("client_cert_file needs client_key_file".to_owned()),
            (None, Some(_)) => return Err("client_key_file needs client_cert_file".to_owned()),
        };
        let ca = self.ca_file.clone();
        Ok(encrypted.then_some(TlsFiles { ca, client }))
    }
}

fn login(
    (username, password): (Option<PathBuf>, Option<PathBuf>),
    (username_key, password_key): (&str, &str),
) -> Result<LoginFiles, String> {
    if username.is_some() && password.is_none() {
        return Err(format!("{username_key} needs {password_key}"));
    }
    Ok(LoginFiles { username, password })
}

/// Reads an address. Returns the address, and true if the connection is encrypted.
fn server(text: &str, default_port: u16) -> Result<(Address, bool), String> {
    // The error does not show the text, because the text can contain a password.
    let forms = "write redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH";
    let url =
        Url::parse(text).map_err(|error| format!("urls has a bad address ({error}); {forms}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "urls has an address with a user name or a password; use username_file and \
             password_file"
                .to_owned(),
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!(
            "urls has an address with a query or a fragment; {forms}"
        ));
    }
    if url.scheme() == "unix" {
        let path = PathBuf::from(url.path());
        if url.has_host() || !path.is_absolute() || url.path() == "/" {
            return Err(format!(
                "urls has a unix:// address without a path; {forms}"
            ));
        }
        return Ok((Address::Unix(path), false));
    }
    let encrypted = match url.scheme() {
        "redis" => false,
        "rediss" => true,
        scheme => {
            return Err(format!(
                "urls has an address with the scheme {scheme}; {forms}"
            ));
        }
    };
    if !matches!(url.path(), "" | "/") {
        return Err(
            "urls has an address with a path; set the number of the database with \
                    database"
                .to_owned(),
        );
    }
    let host = url.host_str().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| format!("urls has an address without a host; {forms}"))?;
    // The parser does not parse the hosts of schemes that it does not know.
    let host = Host::parse(host).map_err(|error| format!("urls has a bad host: {error}"))?;
    let port = url.port().and_then(NonZeroU16::new);
    Ok((
        Address::Tcp(host, port.map_or(default_port, NonZeroU16::get)),
        encrypted,
    ))
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
