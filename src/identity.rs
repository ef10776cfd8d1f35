//! The identity of a user, as the provider states it.
//!
//! An [`Identity`] is a subject **at an issuer**, with its claims. An `Identity` does not record
//! the source of a claim (access token, userinfo or ID token). The `provider` room has already
//! checked the claims. Each claim is stored as a ready field value. Asserting a claim to an
//! upstream therefore only increments a reference count. Text that is not a valid field value can
//! never become a claim.

use http::HeaderValue;

/// The maximum length of a claim, in bytes. A longer claim counts as absent.
const MAX_CLAIM: usize = 4096;

/// The text of a claim as a safe field value: not empty, without control characters, of limited
/// length.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Claim(HeaderValue);

impl Claim {
    /// Accepts `text` if a field can carry it byte for byte: 1 to 4096 bytes of UTF-8, without
    /// control characters and without white space at either end. A receiver would trim such white
    /// space and see another value.
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

    /// The text.
    pub fn as_str(&self) -> &str {
        // The value was created from a `str` and never changes, so the default is never used.
        std::str::from_utf8(self.0.as_bytes()).unwrap_or_default()
    }

    /// The text as a field value. A clone only increments a reference count.
    pub(crate) fn as_value(&self) -> &HeaderValue {
        &self.0
    }
}

/// An email address, and whether the provider has verified it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Email {
    /// The address as the provider gave it.
    pub address: Claim,
    /// True if the provider said `email_verified: true`, or if its profile says that it verifies
    /// every address.
    pub verified: bool,
}

/// A user at an issuer. Use [`Identity::same_person`] to compare users, never a name or an email
/// address.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    /// The issuer identifier of the provider, or its configured name if it has no issuer
    /// identifier.
    pub issuer: Box<str>,
    /// `sub`, or the claim that the profile names instead. `None` if the user is signed in without
    /// a known subject.
    pub subject: Option<Claim>,
    /// The email address.
    pub email: Option<Email>,
    /// The user name at the provider.
    pub preferred_username: Option<Claim>,
    /// The display name. Only the gateway's own pages show the display name.
    pub name: Option<Claim>,
    /// The groups, one claim each. No group contains a comma.
    pub groups: Vec<Claim>,
    /// The groups joined with `,` as one field value. `None` without groups.
    pub groups_value: Option<Claim>,
}

impl Identity {
    /// An identity at `issuer` without a subject: the user is signed in, and nothing else is known.
    pub fn nameless(issuer: &str) -> Self {
        Self {
            issuer: issuer.into(),
            ..Self::default()
        }
    }

    /// Sets the groups. A group that contains a comma is dropped, because the joined value would
    /// show it as two groups.
    #[must_use]
    pub fn with_groups(mut self, groups: impl IntoIterator<Item = Claim>) -> Self {
        self.groups = groups
            .into_iter()
            .filter(|group| !group.as_str().contains(','))
            .collect();
        let names: Vec<&str> = self.groups.iter().map(Claim::as_str).collect();
        self.groups_value = Claim::new(&names.join(","));
        self
    }

    /// Whether both identities have the same subject at the same issuer. Identities without a
    /// subject never match.
    pub fn same_person(&self, other: &Self) -> bool {
        self.subject.is_some() && self.subject == other.subject && self.issuer == other.issuer
    }

    /// The name of the user for a page: the display name, the user name, the email address or the
    /// subject.
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
    fn a_group_with_a_comma_does_not_become_two() {
        let groups = ["staff", "users,admin"].map(|group| Claim::new(group).unwrap());
        let identity = Identity::nameless("op").with_groups(groups);
        assert_eq!(identity.groups_value.unwrap().as_str(), "staff");
    }

    #[test]
    fn a_subject_counts_only_with_its_issuer() {
        let alice = |issuer| Identity {
            subject: Claim::new("1"),
            ..Identity::nameless(issuer)
        };
        assert!(alice("a").same_person(&alice("a")));
        assert!(!alice("a").same_person(&alice("b")));
        assert!(!Identity::nameless("a").same_person(&Identity::nameless("a")));
    }
}
