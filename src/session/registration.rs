//! Provider fingerprints. A fingerprint shows whether a provider is still the provider at which the
//! users signed in.
//!
//! The operator may give the name of a provider to another server or client. The identities of the
//! old sessions have no meaning at another server or client. Each stored session therefore contains
//! a hash of the name and the fingerprint of its provider ([`provider_hash`]). A session whose hash
//! is not the hash of a configured provider ends.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Context, SHA256};

/// A fingerprint of a provider, which changes if the operator gives the provider's name to another
/// server or client.
pub type Registration = [u8; 32];

/// The fingerprints of all providers, by their configured names.
pub type Registrations = BTreeMap<Box<str>, Registration>;

/// The hash of a provider's name and fingerprint.
pub(super) type ProviderHash = [u8; 16];

/// Returns the hash of a provider's name and fingerprint that a stored session contains.
pub(super) fn provider_hash(name: &str, registration: &Registration) -> ProviderHash {
    let mut context = Context::new(&SHA256);
    context.update(registration);
    context.update(name.as_bytes());
    let digest = context.finish();
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

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
