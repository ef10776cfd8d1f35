//! The identity of an imagined user, for the explanation of a decision.

use super::IdentitySource;
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::provider::Provider;
use crate::provider::json::Object;

impl Provider {
    /// Returns the identity of a user with these claims, as if the provider had sent the claims in
    /// the source of the identity (`identity.source`). Returns `None` if the claims contain no
    /// usable subject.
    pub(crate) fn imagined_identity(&self, claims: &Object, now: Timestamp) -> Option<Identity> {
        let verifier = &self.grant_verifier;
        match verifier.settings.identity.source {
            IdentitySource::None => Some(Identity::nameless(&verifier.issuer)),
            IdentitySource::AccessToken | IdentitySource::IdToken | IdentitySource::Userinfo => {
                let mapping = &verifier.claim_mapping;
                mapping.identity(&[claims], &verifier.issuer, now)
            }
        }
    }
}
