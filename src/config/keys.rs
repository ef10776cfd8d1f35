//! The keys that encrypt pending logins and the sessions in the session file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use zeroize::Zeroizing;

use super::section::Reader;
use super::{LoginSection, Reusable};
use crate::seal::{KeyRing, Keys, Purpose};
use crate::secret::Environment;
use crate::session::{self, StoreSettings};
use crate::telemetry::chain;

/// The configured key file, with a digest of the content that was read.
#[derive(Debug)]
pub(crate) struct KeyFile {
    pub(crate) path: PathBuf,
    pub(crate) content: Option<Digest>,
}

/// The SHA-256 digest of a file. If two digests differ, the content of the file has changed.
pub(crate) type Digest = [u8; SHA256_OUTPUT_LEN];

/// Returns the digest of the current content of the file at `path`, or `None` if the file cannot be
/// read.
pub(crate) fn content_digest(path: &Path) -> Option<Digest> {
    let text = Zeroizing::new(std::fs::read(path).ok()?);
    digest(&SHA256, &text).as_ref().try_into().ok()
}

/// The keys that encrypt pending logins, and the keys that encrypt sessions on disk.
pub(super) struct SealingKeys {
    pub(super) logins: Arc<KeyRing>,
    pub(super) sessions: KeyRing,
    pub(super) file: Option<KeyFile>,
    /// True if the settings name no keys, so that the keys are random.
    pub(super) random: bool,
}

/// Reads the keys that encrypt data. If the settings name neither a key file nor an environment
/// variable with keys, the keys are random. A reload uses the random login keys in `reusable`
/// again, so that pending logins stay valid.
pub(super) fn keys(
    (section, session): (Option<&LoginSection>, Option<&session::Settings>),
    (reusable, environment): (&Reusable, &Environment),
    reader: &mut Reader<'_>,
) -> Option<SealingKeys> {
    let section = section?;
    if let Some(session) = session
        && reader.is_clean("session.store")
    {
        check_store(session, section, reader);
    }
    // The digest of the key file is computed before the keys are read. If the key file changes just
    // before the keys are read, the stored digest is the digest of the old content. The next check
    // of the key file finds a different digest, and the gateway reads the keys again.
    let file = section.state_key_file.as_ref().map(|path| KeyFile {
        path: path.clone(),
        content: content_digest(path),
    });
    let random = section.state_key_file.is_none() && section.state_key_env.is_none();
    let (key, keys) = match (&section.state_key_file, &section.state_key_env) {
        (Some(_), Some(name)) => {
            let twice = format!(
                "the variable {name} is named together with state_key_file; write only one of the \
                 two settings"
            );
            (ENV, Err(twice))
        }
        (Some(path), None) => (FILE, Keys::from_file(path).map_err(|error| chain(&error))),
        (None, Some(name)) => (ENV, from_variable(name, environment)),
        (None, None) => (FILE, Keys::random().map_err(|error| chain(&error))),
    };
    let rings = keys.and_then(|keys| {
        let rings = (keys.ring(Purpose::Logins), keys.ring(Purpose::Sessions));
        let sessions = rings.1.map_err(|error| chain(&error))?;
        let logins = rings.0.map_err(|error| chain(&error))?;
        let kept = reusable.random_keys.as_ref().filter(|_kept| random);
        let logins = kept.map_or_else(|| Arc::new(logins), Arc::clone);
        Ok(SealingKeys {
            logins,
            sessions,
            file,
            random,
        })
    });
    rings.map_err(|reason| reader.note(key, reason)).ok()
}

const FILE: &str = "login.state_key_file";
const ENV: &str = "login.state_key_env";

/// Reads the keys in the environment variable `name`. If the keys cannot be used, returns the
/// reason as text.
fn from_variable(name: &str, environment: &Environment) -> Result<Keys, String> {
    let place = format!("the variable {name}");
    let text = environment.get(name);
    let text = text.ok_or_else(|| format!("{place} is not set, or is empty"))?;
    Keys::from_text(&place, text.expose()).map_err(|error| chain(&error))
}

/// Checks the settings of the session store: its files and its keys.
fn check_store(session: &session::Settings, login: &LoginSection, reader: &mut Reader<'_>) {
    let (place, key, inspected) = match &session.store {
        StoreSettings::Memory => return,
        StoreSettings::Disk(disk) => {
            let inspected = session::inspect(&disk.file).map_err(|error| chain(&error));
            (
                "on disk (session.store)",
                "session.store.disk.file",
                inspected,
            )
        }
        StoreSettings::Redis(redis) => {
            let inspected = redis.check_files().map_err(|error| chain(&error));
            (
                "in the store; all replicas need the same keys (session.store)",
                "session.store.redis",
                inspected,
            )
        }
    };
    if login.state_key_file.is_none() && login.state_key_env.is_none() {
        let reason = format!("is required: the keys in this file seal the sessions {place}");
        reader.note(FILE, reason);
    }
    if let Err(reason) = inspected {
        reader.note(key, reason);
    }
}
