//! Session files of format 1. A start seals their entries anew, so that the file has format 2.
//!
//! In format 1, nothing binds an entry to its file or to its provider. The file has a table with
//! the fingerprints of the providers instead.

use std::io;
use std::path::Path;

use redb::{
    Database, ReadTransaction, ReadableDatabase as _, ReadableTable as _, TableDefinition,
    TableError, WriteTransaction,
};

use super::SessionKey;
use super::entry::{Entry, FileId, Format, Sealing};
use super::file::{FileError, SESSIONS, USED, corrupted, refused, write_format};
use super::registration::Registrations;
use crate::clock::Timestamp;
use crate::seal::KeyRing;
use crate::secret::NoRandomness;

/// The table with the encrypted provider fingerprints. The key of each entry is the name of the
/// provider.
const PROVIDERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("providers");

/// Reads the provider fingerprints from a file of format 1. This function skips a fingerprint that
/// cannot be decrypted.
pub(super) fn registrations(
    transaction: &ReadTransaction,
    keys: &KeyRing,
) -> Result<Registrations, redb::Error> {
    let table = match transaction.open_table(PROVIDERS) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Registrations::new()),
        Err(error) => return Err(error.into()),
    };
    let mut registrations = Registrations::new();
    for entry in table.iter()? {
        let (name, sealed) = entry?;
        let context = [b"provider ", name.value().as_bytes()].concat();
        let opened = keys.open(&context, sealed.value());
        let known = opened.and_then(|plain| plain.as_slice().try_into().ok());
        registrations.extend(known.map(|known| (name.value().into(), known)));
    }
    Ok(registrations)
}

/// Seals the sessions of a file of format 1 anew, so that the file has format 2. Returns the new id
/// of the file. One commit changes the whole file. A session whose provider has no fingerprint in
/// the file stays in the file, and ends when the store reads the file.
///
/// # Errors
///
/// After a [`FileError`], the file still has format 1.
pub(super) fn upgrade(
    path: &Path,
    database: &Database,
    keys: &KeyRing,
    now: Timestamp,
) -> Result<FileId, FileError> {
    let file = FileId::random()?;
    let convert = || {
        let before = database.begin_read()?;
        let providers = &registrations(&before, keys)?;
        let transaction = database.begin_write()?;
        let sealing = Sealing {
            file,
            providers,
            keys,
        };
        let unknown_key = seal_anew((&before, &transaction), &sealing, now)?;
        if unknown_key == 0 {
            transaction.delete_table(PROVIDERS)?;
            write_format(&transaction, file)?;
            transaction.commit()?;
        } else {
            transaction.abort()?;
        }
        Ok(unknown_key)
    };
    let converted: Result<_, redb::Error> = convert();
    match converted.map_err(|error| refused(path, error))? {
        0 => {
            tracing::info!(
                file.path = %path.display(),
                "The session file has a new format now, which older versions of Sidegate refuse"
            );
            Ok(file)
        }
        sessions => Err(FileError::UnknownKey {
            path: path.to_owned(),
            sessions,
        }),
    }
}

/// Replaces the entries, and removes the expired entries. Returns the number of sessions that cannot
/// be decrypted with any of the keys.
fn seal_anew(
    (before, transaction): (&ReadTransaction, &WriteTransaction),
    sealing: &Sealing<'_>,
    now: Timestamp,
) -> Result<usize, redb::Error> {
    let mut sessions = transaction.open_table(SESSIONS)?;
    let mut used = transaction.open_table(USED)?;
    let mut unknown_key = 0_usize;
    for entry in before.open_table(SESSIONS)?.iter()? {
        let (key, value) = entry?;
        let key = SessionKey::from_bytes(*key.value());
        let entry = Entry::new(value.value(), Format::First(sealing.providers));
        let entry = entry.ok_or_else(|| corrupted("an entry is too short"))?;
        if entry.ends_at <= now {
            sessions.remove(key.as_bytes())?;
            used.remove(key.as_bytes())?;
        } else if entry.is_known_to(sealing.keys) {
            let plain = entry.unseal(&key, sealing.keys);
            let plain = plain.ok_or_else(|| corrupted("an entry cannot be opened"))?;
            let sealed = sealing.seal_contents(&key, entry.ends_at, &plain);
            let sealed = sealed.ok_or_else(|| io::Error::other(NoRandomness))?;
            sessions.insert(key.as_bytes(), sealed.as_slice())?;
        } else {
            unknown_key = unknown_key.saturating_add(1);
        }
    }
    Ok(unknown_key)
}

#[cfg(test)]
#[path = "first_format_tests.rs"]
mod tests;
