//! Whose the sessions of a file are: what each provider was when they were opened.
//!
//! A session names its provider as the operator calls it. The operator may point that name at
//! another server or client while nothing runs, and then nobody of before is anybody there. So the
//! file says for each name what stood behind it, sealed, and all its sessions are of that.

use std::collections::BTreeMap;
use std::io;

use redb::{ReadableTable as _, TableDefinition, TableError, WriteTransaction};

use crate::seal::KeyRing;

/// What a provider is: another server or client gives another value.
pub type Registration = [u8; 32];

/// What each provider is, by its configured name.
pub type Registrations = BTreeMap<Box<str>, Registration>;

/// Whether a session that was opened under `before` counts under `after`.
pub(super) fn counts(provider: &str, before: &Registrations, after: &Registrations) -> bool {
    let known = before.get(provider);
    known.is_some() && known == after.get(provider)
}

/// Tells the operator which sessions have ended with their provider.
pub(super) fn report(ended: &BTreeMap<Box<str>, u64>) {
    if !ended.is_empty() {
        tracing::warn!(
            reason = "provider_changed",
            sessions = ended.values().sum::<u64>(),
            providers = ?ended,
            "Sessions have ended, because their provider is not configured any more or is another \
             server or client now"
        );
    }
}

/// Registrations by name, each sealed. Written anew at each start and
/// whenever they or the keys change, so the newest key seals them.
const PROVIDERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("providers");

/// What the file says. An entry that does not open says nothing.
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

/// Puts these in the place of what the file says.
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

/// What an entry is bound to.
fn context(name: &str) -> Vec<u8> {
    [b"provider ", name.as_bytes()].concat()
}
