//! Provider fingerprints in the session file. The fingerprints show whether a provider is still the
//! provider at which the users signed in.
//!
//! A session contains only the configured name of its provider. Before the next start of the
//! gateway, the operator may give the name of a provider to another server or client. The
//! identities of the old sessions have no meaning at another server or client. The file therefore
//! also contains an encrypted fingerprint of each provider. If the fingerprint of a provider
//! changes, the store writes the new fingerprint and removes the sessions of the provider in the
//! same commit.

use std::collections::BTreeMap;
use std::io;

use redb::{ReadableTable as _, TableDefinition, TableError, WriteTransaction};

use crate::seal::KeyRing;

/// A fingerprint of a provider, which changes if the operator gives the provider's name to another
/// server or client.
pub type Registration = [u8; 32];

/// The fingerprints of all providers, by their configured names.
pub type Registrations = BTreeMap<Box<str>, Registration>;

/// Returns true if the fingerprint of a provider has not changed, so that the sessions of the
/// provider stay valid.
pub(super) fn is_same(provider: &str, before: &Registrations, after: &Registrations) -> bool {
    let known = before.get(provider);
    known.is_some() && known == after.get(provider)
}

/// Logs the number of sessions that have ended because their provider has changed.
pub(super) fn report(ended: &BTreeMap<Box<str>, u64>) {
    if !ended.is_empty() {
        tracing::warn!(
            reason = "provider_changed",
            sessions = ended.values().sum::<u64>(),
            providers = ?ended,
            "Sessions have ended because their provider was removed from the settings or is another \
             server or client now"
        );
    }
}

/// The database table with the encrypted provider fingerprints. The key of each entry is the name
/// of the provider. The store writes all fingerprints at each start, and after each change of a
/// fingerprint or a key. All fingerprints in the file are therefore encrypted with the newest key.
const PROVIDERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("providers");

/// Reads the provider fingerprints from the file. This function skips a fingerprint that cannot be
/// decrypted.
pub(super) fn read(
    transaction: &redb::ReadTransaction,
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
        let opened = keys.open(&context(name.value()), sealed.value());
        let known = opened.and_then(|plain| plain.as_slice().try_into().ok());
        registrations.extend(known.map(|known| (name.value().into(), known)));
    }
    Ok(registrations)
}

/// Replaces the provider fingerprints in the file.
pub(super) fn write(
    transaction: &WriteTransaction,
    registrations: &Registrations,
    keys: &KeyRing,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(PROVIDERS)?;
    table.retain(|_name, _sealed| false)?;
    for (name, known) in registrations {
        let sealed = keys.seal(&context(name), known);
        let sealed = sealed.map_err(io::Error::other)?;
        table.insert(&**name, sealed.as_slice())?;
    }
    Ok(())
}

/// Returns the associated data of an encrypted fingerprint.
fn context(name: &str) -> Vec<u8> {
    [b"provider ", name.as_bytes()].concat()
}
