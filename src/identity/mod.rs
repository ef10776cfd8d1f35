//! The identity of a user, as stated by the provider.
//!
//! An [`Identity`] is a subject **at an issuer**, with the claims about this subject. An `Identity`
//! does not record the source of a claim (access token, userinfo or ID token). The `provider`
//! module has already checked the claims. Each claim is stored as a field value, so the gateway can
//! send a claim to an upstream without copying the claim. Text that is not a valid field value can
//! never become a claim.

mod groups;
mod listed;
mod log_hash;

use http::HeaderValue;

pub use self::groups::Groups;
pub(crate) use self::groups::{GroupsForm, GroupsFormat};
pub(crate) use self::listed::{ListedClaim, ListedClaims};
pub use self::log_hash::LogHash;

/// The maximum length of a claim, in bytes. A claim that is longer than `MAX_CLAIM` counts as
/// absent.
const MAX_CLAIM: usize = 4096;

/// The text of a claim, stored as a safe field value. The text of a claim is not empty, has a
/// limited length and contains no control characters.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Claim(HeaderValue);

impl Claim {
    /// Creates a claim, or returns `None` if a field value cannot contain `text` unchanged. `text`
    /// must have 1 to 4096 bytes of UTF-8, no control characters, and no white space at its start
    /// or end. If a claim began or ended with white space, the receiver of the field would remove
    /// the white space and get a different text.
    ///
    /// ```
    /// use sidegate::identity::Claim;
    ///
    /// assert_eq!(Claim::new("alice").unwrap().as_str(), "alice");
    /// assert!(Claim::new("alice\r\nX-User: root").is_none());
    /// assert!(Claim::new("").is_none());
    /// ```
    pub fn new(text: &str) -> Option<Self> {
        let unsafe_text =
            text.is_empty() || text.len() > MAX_CLAIM || text.chars().any(char::is_control);
        if unsafe_text || text.trim() != text {
            return None;
        }
        HeaderValue::from_bytes(text.as_bytes()).ok().map(Self)
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        // The bytes of a claim come from a `str` and never change, so the conversion to `str` never
        // fails.
        std::str::from_utf8(self.0.as_bytes()).unwrap_or_default()
    }

    /// Returns the text of the claim as a field value. A clone of the field value only increments a
    /// reference count.
    pub(crate) fn as_value(&self) -> &HeaderValue {
        &self.0
    }
}

/// An email address, and whether the provider has verified the address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Email {
    /// The email address, exactly as the provider sent it.
    pub address: Claim,
    /// True if the provider states that the address is verified, or if the settings state that the
    /// provider verifies every address.
    pub verified: bool,
}

/// A user at an issuer. Compare users only with [`Identity::same_user`], never by a name or an
/// email address.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    /// The issuer identifier of the provider. For a provider without an issuer identifier, `issuer`
    /// is the configured name of the provider.
    pub issuer: Box<str>,
    /// The value of the claim `sub`, or of the claim that the operator has configured instead of
    /// `sub`. `subject` is `None` if the user is signed in without a known subject.
    pub subject: Option<Claim>,
    /// The email address.
    pub email: Option<Email>,
    /// The name of the user's account at the provider.
    pub preferred_username: Option<Claim>,
    /// The display name. Only the gateway's own pages show the display name.
    pub name: Option<Claim>,
    /// The groups.
    pub groups: Groups,
    /// The additional claims that the settings name for an app, each with its path in the claims of
    /// the provider.
    pub claims: Box<[(Box<str>, Claim)]>,
    /// The hash that names the user in the log.
    pub log_hash: LogHash,
}

impl Identity {
    /// Returns the identity of an unknown user at `issuer`: the gateway knows only that the user is
    /// signed in.
    pub fn nameless(issuer: &str) -> Self {
        Self {
            issuer: issuer.into(),
            ..Self::default()
        }
    }

    /// Sets the groups.
    #[must_use]
    pub fn with_groups(mut self, groups: impl IntoIterator<Item = Claim>) -> Self {
        self.groups = groups.into_iter().collect();
        self
    }

    /// Sets the additional claims.
    #[must_use]
    pub(crate) fn with_claims(
        mut self,
        claims: impl IntoIterator<Item = (Box<str>, Claim)>,
    ) -> Self {
        self.claims = claims.into_iter().collect();
        self
    }

    /// Returns the additional claim with this path.
    pub(crate) fn claim(&self, path: &str) -> Option<&Claim> {
        let mut claims = self.claims.iter();
        claims
            .find(|(other, _)| **other == *path)
            .map(|(_, claim)| claim)
    }

    /// Returns the email address, if the provider has verified it.
    pub(crate) fn verified_email(&self) -> Option<&Claim> {
        let email = self.email.as_ref().filter(|email| email.verified);
        email.map(|email| &email.address)
    }

    /// Returns true if both identities have the same subject at the same issuer. Two identities
    /// without a subject are never the same user.
    pub fn same_user(&self, other: &Self) -> bool {
        self.subject.is_some() && self.subject == other.subject && self.issuer == other.issuer
    }

    /// Returns the name of the user for a page: the first known value of display name, user name,
    /// email address and subject.
    pub(crate) fn label(&self) -> Option<&str> {
        let claims = [&self.name, &self.preferred_username];
        let named = claims.into_iter().flatten().next();
        let emailed = self.email.as_ref().map(|email| &email.address);
        named
            .or(emailed)
            .or(self.subject.as_ref())
            .map(Claim::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_would_split_a_field_is_refused() {
        for bad in ["a\nb", "a\rb", "a\0b", "", " a", "a ", "\u{85}a", "a\u{7f}"] {
            assert!(Claim::new(bad).is_none(), "{bad:?}");
        }
        assert!(Claim::new(&"a".repeat(4097)).is_none());
        assert_eq!(Claim::new("Zoë Müller").unwrap().as_str(), "Zoë Müller");
    }

    #[test]
    fn a_subject_counts_only_with_its_issuer() {
        let alice = |issuer| Identity {
            subject: Claim::new("1"),
            ..Identity::nameless(issuer)
        };
        assert!(alice("a").same_user(&alice("a")));
        assert!(!alice("a").same_user(&alice("b")));
        assert!(!Identity::nameless("a").same_user(&Identity::nameless("a")));
    }
}
