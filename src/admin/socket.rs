//! The admin socket: a Unix socket at which an operator lists and ends sessions, and asks for
//! explanations of decisions.
//!
//! The file of the socket has the mode 0600. The gateway also asks the operating system for the user
//! of each client, because the file has other permissions for a moment after its creation. If every
//! user could replace files in the folder of the socket, another program could pretend to be the
//! gateway, so the gateway refuses such a folder.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::geteuid;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::protocol::{
    AskedExplanation, Command, ExplainRequest, Explained, Reply, Request, Selection, SessionLine,
    SessionsRequest,
};
use crate::clock::{Clock, Timestamp};
use crate::identity::Claim;
use crate::session::{EndReason, EndedAll, Session, SessionKey, Sessions, SessionsOf, StoreError};

/// The longest path of a Unix socket, in bytes.
pub(crate) const MAX_PATH: usize = 107;

/// The longest request, in bytes. The claims of a user can contain many groups.
const MAX_REQUEST: u64 = 1024 * 1024;

/// The time limit of the request, and of each reply that the client has to read. The execution of a
/// command has no time limit, because a store can contain many sessions.
const DEADLINE: Duration = Duration::from_secs(30);

/// The permission bit of a folder in which every user may create files.
const WRITABLE_BY_ALL: u32 = 0o002;

/// The permission bit of a folder in which only the owner of a file may replace the file.
const STICKY: u32 = 0o1000;

/// The pause before the next attempt to accept a connection after a failure.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The reason why the admin socket cannot be created. The operator is responsible for this error.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process uses the socket.
    #[error("another process listens at the admin socket")]
    InUse,
    /// The path belongs to a file that is not a socket.
    #[error("the path of the admin socket belongs to another file")]
    OtherFile,
    /// Every user can replace the socket.
    #[error("every user can replace files in the folder of the admin socket")]
    OpenFolder,
    /// The operating system refuses the socket.
    #[error("the admin socket cannot be created")]
    System(#[from] io::Error),
}

/// The admin socket of a running gateway. When the value is dropped, the gateway serves no further
/// commands and removes the file of the socket.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    path: PathBuf,
    /// The device and the inode of the file. `None` if the file cannot be examined.
    file: Option<(u64, u64)>,
    task: AbortHandle,
}

impl AdminSocket {
    /// Creates the socket, and serves its clients as tasks of the control plane.
    ///
    /// # Errors
    ///
    /// [`SocketError`].
    pub(crate) fn start(
        path: &Path,
        service: Service,
        control: &Handle,
    ) -> Result<Self, SocketError> {
        let _entered = control.enter();
        check_folder(path)?;
        remove_unused(path)?;
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        let user = geteuid().as_raw();
        let task = control.spawn(accept(listener, user, service));
        Ok(Self {
            path: path.to_owned(),
            file: file_at(path),
            task: task.abort_handle(),
        })
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        self.task.abort();
        // Another process may have replaced the file by its own socket.
        if self.file.is_some() && self.file == file_at(&self.path) {
            // A file that is left over does not prevent the next start.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Returns the device and the inode of the file at `path`.
fn file_at(path: &Path) -> Option<(u64, u64)> {
    let file = fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

/// Refuses a folder in which every user can replace the socket.
fn check_folder(path: &Path) -> Result<(), SocketError> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let mode = fs::metadata(folder.unwrap_or_else(|| Path::new(".")))?.mode();
    if mode & WRITABLE_BY_ALL != 0 && mode & STICKY == 0 {
        return Err(SocketError::OpenFolder);
    }
    Ok(())
}

/// Removes the file of a socket at which no process listens.
fn remove_unused(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(file) if !file.file_type().is_socket() => return Err(SocketError::OtherFile),
        Ok(_socket) => {}
    }
    match BlockingStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Ok(fs::remove_file(path)?)
        }
        Err(error) => Err(error.into()),
        Ok(_connected) => Err(SocketError::InUse),
    }
}

/// Serves clients until the task is aborted. Only the user `gateway` and `root` are served.
async fn accept(listener: UnixListener, gateway: u32, service: Service) {
    loop {
        let Ok((stream, _address)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let user = stream.peer_cred().map(|peer| peer.uid());
        if user.is_ok_and(|user| user == gateway || user == 0) {
            let service = service.clone();
            drop(tokio::spawn(async move {
                // If the client disconnects, nobody needs the rest of the answer.
                drop(service.serve(stream).await);
            }));
        }
    }
}

/// The reason why a command was not finished.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the client has disconnected")]
    Disconnected(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Explains a decision of the running gateway. The error is the reason why there is no explanation.
type Explain = dyn Fn(&AskedExplanation) -> Result<Explained, String> + Send + Sync;

/// The parts of the gateway that the admin socket uses.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) clock: Clock,
    pub(crate) explain: Arc<Explain>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

impl Service {
    /// Reads one request, and sends the replies.
    async fn serve(&self, mut stream: UnixStream) -> Result<(), Failure> {
        let mut line = String::new();
        let mut reader = BufReader::new((&mut stream).take(MAX_REQUEST));
        timely(reader.read_line(&mut line)).await?;
        let done = match serde_json::from_str::<Request>(&line) {
            Err(_invalid) => Reply::Failed("the request is not valid".to_owned()),
            Ok(Request::Explain(ExplainRequest { explain })) => match (self.explain)(&explain) {
                Ok(explained) => Reply::Explained(Box::new(explained)),
                Err(reason) => Reply::Failed(reason),
            },
            Ok(Request::Sessions(request)) => match self.run(request, &mut stream).await {
                Ok(sessions) => Reply::Done { sessions },
                Err(Failure::Store(error)) => Reply::Failed(error.to_string()),
                Err(disconnected) => return Err(disconnected),
            },
        };
        send(&mut stream, &done).await?;
        Ok(stream.shutdown().await?)
    }

    /// Runs a command. Returns the number of sessions that the command has listed or ended.
    async fn run(&self, request: SessionsRequest, stream: &mut UnixStream) -> Result<u64, Failure> {
        let now = self.clock.now();
        match request.command {
            Command::List => self.list(&request.of, now, stream).await,
            Command::End => {
                let ended = self.end(&request.of, now).await?;
                tracing::warn!(sessions = ended, "An operator has ended sessions");
                Ok(ended)
            }
        }
    }

    async fn list(
        &self,
        selection: &Selection,
        now: Timestamp,
        stream: &mut UnixStream,
    ) -> Result<u64, Failure> {
        let mut count: u64 = 0;
        // The sessions are read one by one, because all sessions together may need much memory.
        for key in self.sessions.keys_of(SessionsOf::Everyone).await? {
            let session = self.selected(key, selection).await?;
            let Some(session) = session else {
                continue;
            };
            let line = self.describe(&session, now);
            if line.ends_in > 0 {
                send(stream, &Reply::Session(line)).await?;
                count = count.saturating_add(1);
            }
        }
        Ok(count)
    }

    async fn end(&self, selection: &Selection, now: Timestamp) -> Result<u64, StoreError> {
        if *selection == Selection::All {
            return self.end_all(SessionsOf::Everyone, now).await;
        }
        let (mut people, mut nameless) = (BTreeSet::new(), Vec::new());
        for key in self.sessions.keys_of(SessionsOf::Everyone).await? {
            let session = self.selected(key, selection).await?;
            let Some(session) = session else {
                continue;
            };
            let identity = session.identity();
            match &identity.subject {
                Some(subject) => {
                    people.insert((identity.issuer.clone(), subject.as_str().to_owned()));
                }
                None => nameless.push(key),
            }
        }
        let mut count = self.end_all(SessionsOf::Keys(&nameless), now).await?;
        for (issuer, subject) in &people {
            let user = SessionsOf::User { issuer, subject };
            count = count.saturating_add(self.end_all(user, now).await?);
        }
        Ok(count)
    }

    async fn end_all(&self, of: SessionsOf<'_>, now: Timestamp) -> Result<u64, StoreError> {
        let why = EndReason::Revoked;
        match self.sessions.end_all(of, why, (None, now)).await? {
            EndedAll::Ended(keys) => Ok(u64::try_from(keys.len()).unwrap_or(u64::MAX)),
            EndedAll::Repeated => Ok(0),
        }
    }

    /// Returns the session with this key, if the selection contains the session. A damaged session
    /// belongs to no selection, because nobody knows its user.
    async fn selected(
        &self,
        key: SessionKey,
        selection: &Selection,
    ) -> Result<Option<Arc<Session>>, StoreError> {
        match self.sessions.peek(key).await {
            Err(StoreError::Damaged) => Ok(None),
            Err(error) => Err(error),
            Ok(session) => Ok(session.filter(|session| selection.contains(session.identity()))),
        }
    }

    fn describe(&self, session: &Session, now: Timestamp) -> SessionLine {
        let identity = session.identity();
        let text = |claim: &Claim| claim.as_str().to_owned();
        let email = identity.email.as_ref().map(|email| &email.address);
        SessionLine {
            key: session.key().log_prefix(),
            provider: session.provider().to_owned(),
            subject: identity.subject.as_ref().map(text),
            user_name: identity.preferred_username.as_ref().map(text),
            email: email.map(text),
            device: session
                .device()
                .map(|device| format!("{} at {}", device.name(), device.network())),
            opened_ago: now.since(session.opened_at()).as_secs(),
            used_ago: now.since(session.last_used()).as_secs(),
            ends_in: self.sessions.deadlines(session).idle.since(now).as_secs(),
        }
    }
}

async fn send(stream: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_string(reply)?;
    line.push('\n');
    timely(stream.write_all(line.as_bytes())).await
}

/// Waits for the client, but not longer than [`DEADLINE`].
async fn timely<T>(exchange: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_elapsed| io::Error::from(io::ErrorKind::TimedOut);
    timeout(DEADLINE, exchange).await.map_err(late)?
}
