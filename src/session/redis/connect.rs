//! Opens connections to the server: name look-up, TCP or Unix socket, TLS, login, and the question to
//! the Sentinels.
//!
//! The files with passwords, certificates and keys are read for each connection to the server, and once for each
//! question to all Sentinels. So a changed file takes effect at the next connection and at the next question.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ErrorKind, InfoDict, ProtocolVersion, PushInfo, RedisConnectionInfo,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsConnector;
use url::Host;

use super::arrival;
use super::commands::Commands;
use super::error::RedisConnectError;
use super::sentinels::{Found, SentinelAnswer, has_replica, master_of, read_answer};
use super::settings::{Address, LoginFiles, RedisSettings, TlsFiles};
use crate::secret::{only_line, read_file};
use crate::tls::{self, ServerIdentity, Trust};

/// The time without data after which the operating system checks whether the server still exists.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// An open connection. When the connection is dropped, its task and its socket are closed.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) commands: Commands,
    pub(super) server: Box<str>,
    /// The name that the server has until its next restart or its next change of role. `None` if the user of the
    /// store may not ask for it.
    pub(super) name: Option<String>,
    /// The memory policy of the server, if a full server removes keys.
    pub(super) eviction: Option<String>,
    /// The number of the last failover, as the Sentinels have told it. Zero without Sentinels.
    pub(super) epoch: u64,
    driver: JoinHandle<()>,
}

/// What connections to servers need from the files: the user name and the password, and the settings of TLS.
#[derive(Clone)]
pub(super) struct Access {
    info: RedisConnectionInfo,
    tls: Option<Arc<ClientConfig>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// Opens a connection to the server that accepts writes. `pushed` gets the messages of the server.
///
/// # Errors
///
/// [`RedisConnectError`].
///
/// # Cancel safety
///
/// If the future is dropped, the connection is closed.
pub(super) async fn connect(
    settings: &RedisSettings,
    pushed: impl Fn(PushInfo) -> Result<(), ()> + Send + Sync + 'static,
) -> Result<Open, RedisConnectError> {
    let found = match &settings.sentinel_master {
        Some(master) => {
            let access = sentinel_access(settings).await?;
            Some(master_of(settings, (master, access), None).await?)
        }
        None => None,
    };
    let server = match &found {
        Some(found) => Some(found.master.clone()),
        None => settings.servers.first().cloned(),
    };
    let server = server.ok_or_else(|| RedisConnectError::NoMaster("".into()))?;
    let config = config().set_push_sender(pushed);
    let access = Access {
        info: login(&settings.login, settings.database)?,
        tls: shared_tls_config(settings)?,
    };
    let mut open = open(settings, &server, (&access, config)).await?;
    open.epoch = found.as_ref().map(|found| found.epoch).unwrap_or_default();
    check_role(&mut open, found.as_ref()).await?;
    Ok(open)
}

fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        // `Commands` limits the time for each answer.
        .set_response_timeout(None)
        .set_connection_timeout(None)
}

/// Reads the user name and the password.
fn login(files: &LoginFiles, database: u16) -> Result<RedisConnectionInfo, RedisConnectError> {
    let mut info = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_db(database.into())
        // Redis before 7.2 does not know the command that sends the name of the client library.
        .set_skip_set_lib_name();
    if let Some(path) = &files.username {
        info = info.set_username(one_line(path)?);
    }
    if let Some(path) = &files.password {
        info = info.set_password(one_line(path)?);
    }
    Ok(info)
}

fn one_line(path: &Path) -> Result<String, RedisConnectError> {
    let text = read_file(path).map_err(|source| RedisConnectError::File {
        path: path.to_owned(),
        source,
    })?;
    let line = only_line(text.expose());
    let line = line.ok_or_else(|| RedisConnectError::FileText(path.to_owned()))?;
    Ok(line.to_owned())
}

async fn open(
    settings: &RedisSettings,
    server: &Address,
    (access, config): (&Access, AsyncConnectionConfig),
) -> Result<Open, RedisConnectError> {
    let name = || server.to_string().into_boxed_str();
    let silent = |_elapsed| RedisConnectError::Silent(name());
    let deadline = sleep(settings.connect_timeout).deadline();
    let opening = async {
        let socket = socket(access.tls.as_ref(), server, deadline).await?;
        let made = MultiplexedConnection::new_with_config(&access.info, socket, config).await;
        made.map_err(|source| {
            let (server, source) = (name(), Arc::new(source));
            let code = source.code().unwrap_or_default();
            if source.kind() == ErrorKind::AuthenticationFailed
                || matches!(code, "WRONGPASS" | "NOAUTH")
            {
                RedisConnectError::Login { server, source }
            } else if source.to_string().contains("refused to switch database") {
                // The library has no kind for this error.
                RedisConnectError::Database { server, source }
            } else {
                RedisConnectError::Server { server, source }
            }
        })
    };
    let (connection, driver) = timeout_at(deadline, opening).await.map_err(silent)??;
    Ok(Open {
        commands: Commands::new(connection, settings.command_timeout),
        server: name(),
        name: None,
        eviction: None,
        epoch: 0,
        driver: tokio::spawn(driver),
    })
}

/// Refuses a server that cannot store sessions: a node of a cluster, a replica, or a master that may have a
/// successor.
async fn check_role(open: &mut Open, found: Option<&Found>) -> Result<(), RedisConnectError> {
    let server = || open.server.clone();
    // Redis before 7.0 does not accept the names of several sections.
    let info = redis::cmd("INFO");
    // The user of the store may not be allowed to use this command.
    let info: Option<InfoDict> = info.query_async(&mut open.commands).await.ok();
    let is = |name: &str, value: &str| {
        let found: Option<String> = info.as_ref().and_then(|info| info.get(name));
        found.as_deref() == Some(value)
    };
    if is("redis_mode", "cluster") || is("server_mode", "cluster") {
        return Err(RedisConnectError::Cluster(server()));
    }
    if found.is_some() && is("role", "slave") {
        return Err(RedisConnectError::NotMaster(server()));
    }
    let is_confirmed = found.is_none_or(|found| found.is_confirmed);
    if !is_confirmed && !info.as_ref().is_some_and(has_replica) {
        return Err(RedisConnectError::Unconfirmed(server()));
    }
    open.name = info.as_ref().and_then(arrival::name);
    open.eviction = info.as_ref().and_then(eviction);
    Ok(())
}

/// Returns the memory policy of a server that removes keys when it is full.
fn eviction(info: &InfoDict) -> Option<String> {
    let policy: String = info.get("maxmemory_policy")?;
    let most: String = info.get("maxmemory")?;
    (policy != "noeviction" && most != "0").then_some(policy)
}

/// Asks a Sentinel for the address of the master. `None` if the Sentinel does not know the master.
///
/// # Errors
///
/// [`RedisConnectError`].
pub(super) async fn ask_sentinel(
    settings: &RedisSettings,
    sentinel: &Address,
    (master, access): (&str, &Access),
) -> Result<Option<SentinelAnswer>, RedisConnectError> {
    let mut open = open(settings, sentinel, (access, config())).await?;
    let mut commands = redis::pipe();
    commands
        .ignore_errors()
        .cmd("SENTINEL")
        .arg("get-master-addr-by-name")
        .arg(master)
        .cmd("SENTINEL")
        .arg("master")
        .arg(master);
    let answers = commands.query_async(&mut open.commands).await;
    answers.and_then(read_answer).map_err(|source| {
        let (server, source) = (sentinel.to_string().into(), Arc::new(source));
        if source.to_string().contains("unknown command") {
            RedisConnectError::NotSentinel(server)
        } else {
            RedisConnectError::Server { server, source }
        }
    })
}

/// Connects to the server. If the TLS handshake has not ended at `deadline`, the error says so.
async fn socket(
    tls: Option<&Arc<ClientConfig>>,
    server: &Address,
    deadline: Instant,
) -> Result<Box<dyn Socket>, RedisConnectError> {
    let failed = |source| RedisConnectError::Socket {
        server: server.to_string().into(),
        source,
    };
    let (host, port) = match server {
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(failed)?;
            return Ok(Box::new(stream));
        }
        Address::Tcp(host, port) => (host, *port),
    };
    let name = match host {
        Host::Domain(name) => name.clone(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    let stream = TcpStream::connect((name.as_str(), port)).await;
    let stream = stream.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    SockRef::from(&stream)
        .set_tcp_keepalive(&keepalive)
        .map_err(failed)?;
    let Some(config) = tls else {
        return Ok(Box::new(stream));
    };
    let name = ServerName::try_from(name)
        .map_err(|_invalid| failed(io::Error::other("the host is not a valid server name")))?;
    let connector = TlsConnector::from(Arc::clone(config));
    let stream = timeout_at(deadline, connector.connect(name, stream))
        .await
        .map_err(|_elapsed| RedisConnectError::SilentTls(server.to_string().into()))?
        .map_err(failed)?;
    Ok(Box::new(stream))
}

impl RedisSettings {
    /// Checks that the files with passwords, certificates and keys can be used. This function blocks
    /// the calling thread while it reads the files.
    ///
    /// # Errors
    ///
    /// [`RedisConnectError`].
    pub(crate) fn check_files(&self) -> Result<(), RedisConnectError> {
        login(&self.login, self.database)?;
        login(&self.sentinel_login, 0)?;
        if let Some(files) = &self.tls {
            tls_config(files)?;
        }
        Ok(())
    }
}

/// Reads the files for the connections to all Sentinels, on another thread: the calls of the store wait for this
/// thread, and the certificates of the system are many files.
///
/// # Errors
///
/// [`RedisConnectError`].
///
/// # Cancel safety
///
/// Cancel safe.
pub(super) async fn sentinel_access(settings: &RedisSettings) -> Result<Access, RedisConnectError> {
    let settings = settings.clone();
    let reading = tokio::task::spawn_blocking(move || {
        Ok(Access {
            info: login(&settings.sentinel_login, 0)?,
            tls: shared_tls_config(&settings)?,
        })
    });
    match reading.await {
        Ok(access) => access,
        // The runtime ends.
        Err(_) => Err(RedisConnectError::NoMaster("".into())),
    }
}

fn shared_tls_config(settings: &RedisSettings) -> Result<Option<Arc<ClientConfig>>, tls::Error> {
    let config = settings.tls.as_ref().map(tls_config).transpose()?;
    Ok(config.map(Arc::new))
}

/// Reads the TLS files.
fn tls_config(files: &TlsFiles) -> Result<ClientConfig, tls::Error> {
    let trust = match &files.ca {
        Some(path) => Trust::from_file(path)?,
        None => Trust::system()?,
    };
    let identity = files.client.as_ref();
    let identity = identity.map(|(certificate, key)| ServerIdentity {
        certificate: certificate.clone(),
        key: key.clone(),
    });
    trust.without_http(identity.as_ref())
}
