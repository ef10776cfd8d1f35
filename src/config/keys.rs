//! The keys that seal logins under way and sessions on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use zeroize::Zeroizing;

use super::section::Reader;
use super::{LoginSection, Reusable};
use crate::seal::{KeyRing, Keys, Purpose};
use crate::session::{self, StoreSettings};
use crate::telemetry::chain;

/// A file of keys that is in use, and what tells its content from other content.
#[derive(Debug)]
pub(crate) struct KeyFile {
    pub(crate) path: PathBuf,
    pub(crate) content: Option<Digest>,
}

/// Tells one content of a file from another.
pub(crate) type Digest = [u8; SHA256_OUTPUT_LEN];

/// The digest of what the file at `path` holds now.
pub(crate) fn content_digest(path: &Path) -> Option<Digest> {
    let text = Zeroizing::new(std::fs::read(path).ok()?);
    digest(&SHA256, &text).as_ref().try_into().ok()
}

/// What seals values that leave the process's memory.
pub(super) struct SealingKeys {
    pub(super) logins: Arc<KeyRing>,
    pub(super) sessions: KeyRing,
    pub(super) file: Option<KeyFile>,
}

/// Reads the keys. Without a file of them, logins that are under way keep their random keys.
pub(super) fn keys(
    section: Option<&LoginSection>,
    session: Option<&session::Settings>,
    reusable: &Reusable,
    reader: &mut Reader<'_>,
) -> Option<SealingKeys> {
    let section = section?;
    if let Some(session) = session {
        check_store(session, section, reader);
    }
    // Before the keys: a file that changes meanwhile is read again later.
    let file = section.state_key_file.as_ref().map(|path| KeyFile {
        path: path.clone(),
        content: content_digest(path),
    });
    let keys = match &section.state_key_file {
        Some(path) => Keys::from_file(path).map_err(|error| chain(&error)),
        None => Keys::random().map_err(|error| chain(&error)),
    };
    let rings = keys.and_then(|keys| {
        let rings = (keys.ring(Purpose::Logins), keys.ring(Purpose::Sessions));
        let sessions = rings.1.map_err(|error| chain(&error))?;
        let logins = rings.0.map_err(|error| chain(&error))?;
        let random = reusable.random_keys.as_ref();
        let kept = random.filter(|_random| section.state_key_file.is_none());
        let logins = kept.map_or_else(|| Arc::new(logins), Arc::clone);
        Ok(SealingKeys {
            logins,
            sessions,
            file,
        })
    });
    rings
        .map_err(|reason| reader.note("login.state_key_file", reason))
        .ok()
}

/// Whether durable sessions can be kept where they shall be.
fn check_store(session: &session::Settings, login: &LoginSection, reader: &mut Reader<'_>) {
    let StoreSettings::Disk(disk) = &session.store else {
        return;
    };
    if login.state_key_file.is_none() {
        let reason = "is needed: sessions on disk are sealed with its keys (session.store)";
        reader.note("login.state_key_file", reason);
    }
    if let Err(error) = session::inspect(&disk.file) {
        reader.note("session.store.disk.file", chain(&error));
    }
}
