//! The log event about a completed login.

use aws_lc_rs::digest::{SHA256, digest};

use super::WorkerSite;
use crate::identity::{Claim, Identity};
use crate::telemetry::{UserClaim, UserInLog};

impl WorkerSite {
    /// Logs who signed in and which claims and tokens the provider sent. The log event helps an
    /// operator to see why a rule refuses a user.
    pub(super) fn log_signed_in(
        &self,
        request_id: &str,
        (provider, session_key): (&str, String),
        identity: &Identity,
        refreshable: bool,
    ) {
        let user = user(self.settings().log_user, identity);
        let email = match &identity.email {
            Some(email) if email.verified => "verified",
            Some(_) => "unverified",
            None => "none",
        };
        let groups = identity.groups.iter().len();
        tracing::info!(
            request.id = request_id,
            provider,
            session.key = session_key,
            enduser.id = user,
            email,
            groups,
            refresh_token = refreshable,
            "Signed in"
        );
        let mut routes = self.access.routes();
        let needed = routes.any(|route| route.lists_groups_of(provider));
        if needed && groups == 0 && self.login().hint_is_due(("groups", provider)) {
            tracing::warn!(
                provider,
                setting = "scopes, identity.claims.groups, identity.userinfo",
                "A rule lists groups, but the provider gave none"
            );
        }
    }
}

/// Returns the name of a user for the log. Returns `None` if the setting `log.user` is off, or if
/// the identity does not contain the claim.
pub(super) fn user(settings: UserInLog, identity: &Identity) -> Option<String> {
    let claim = match settings.claim {
        UserClaim::Email => identity.email.as_ref().map(|email| &email.address),
        UserClaim::Off => None,
        UserClaim::PreferredUsername => identity.preferred_username.as_ref(),
        UserClaim::Subject => identity.subject.as_ref(),
    };
    let text = claim.map(Claim::as_str)?;
    if !settings.hashed {
        return Some(text.to_owned());
    }
    let compute = || hash(&identity.issuer, text);
    let hash = identity
        .log_hash
        .with(settings.claim, compute, str::to_owned);
    Some(hash)
}

/// Returns the hash of a user's name for the log. The same user name at two issuers means two
/// users, so the hash includes the issuer.
fn hash(issuer: &str, name: &str) -> Box<str> {
    // In the input of the hash, a line break separates the issuer from the name, because no issuer
    // contains a line break.
    let hash = digest(&SHA256, format!("{issuer}\n{name}").as_bytes());
    // Eight bytes of a hash are enough to distinguish the users of one gateway. A SHA-256 hash has
    // 32 bytes, so the default is never used.
    let start = hash.as_ref().first_chunk().copied().unwrap_or_default();
    format!("{:016x}", u64::from_be_bytes(start)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Email;

    #[test]
    fn the_log_names_a_user_by_the_claim_of_the_settings() {
        let alice = |issuer: &str| Identity {
            subject: Claim::new("42"),
            preferred_username: Claim::new("alice"),
            email: Claim::new("alice@example.org").map(|address| Email {
                address,
                verified: false,
            }),
            ..Identity::nameless(issuer)
        };
        let named = |claim, hashed, issuer| user(UserInLog { claim, hashed }, &alice(issuer));
        for (claim, text) in [
            (UserClaim::Subject, Some("42")),
            (UserClaim::PreferredUsername, Some("alice")),
            (UserClaim::Email, Some("alice@example.org")),
            (UserClaim::Off, None),
        ] {
            assert_eq!(named(claim, false, "op").as_deref(), text);
        }
        // printf 'op\n42' | sha256sum
        let hash = named(UserClaim::Subject, true, "op").unwrap();
        assert_eq!(hash, "984624ac3e011294");
        assert_ne!(named(UserClaim::Subject, true, "other"), Some(hash));
        assert_eq!(named(UserClaim::Off, true, "op"), None);
    }
}
