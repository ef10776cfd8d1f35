//! Who somebody is, as an authorization server says it.
//!
//! An [`Identity`] is a subject **at an issuer** with the claims in use. It knows nothing of
//! where they came from (access token, userinfo, id token); what goes in has been checked by the
//! `provider` room. Each claim is held as a ready field value, so that asserting it to an upstream
//! costs a reference count and a claim that cannot be a field value cannot be asserted at all.

use http::HeaderValue;

/// The longest claim that is taken, in bytes; longer ones are treated as absent.
const MAX_CLAIM: usize = 4096;

/// A claim's text that is safe as a field value: not empty, no control characters, bounded.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Claim(HeaderValue);

impl Claim {
    /// Takes `text` when it can be asserted in a field byte for byte: 1 to 4096 bytes of UTF-8
    /// without control characters and without white space at either end (a receiver would trim it
    /// and see another value).
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
        // Built from a `str` and never changed, so this never falls back.
        std::str::from_utf8(self.0.as_bytes()).unwrap_or_default()
    }

    /// The text as a field value; a clone is a reference count.
    pub(crate) fn as_value(&self) -> &HeaderValue {
        &self.0
    }
}

/// An email address and whether the provider vouches for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Email {
    /// The address as the provider gave it.
    pub address: Claim,
    /// The provider said `email_verified: true`, or its profile says that it verifies all.
    pub verified: bool,
}

/// A person at an issuer. Equality of people is [`Identity::same_person`], never a name or email.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    /// The issuer: the provider's configured name, or its issuer identifier where it has one.
    pub issuer: Box<str>,
    /// `sub`, or the claim that the profile names instead. `None`: signed in, nameless.
    pub subject: Option<Claim>,
    /// The email address.
    pub email: Option<Email>,
    /// The name that people call themselves at the provider.
    pub preferred_username: Option<Claim>,
    /// A display name, for our own pages only.
    pub name: Option<Claim>,
    /// Groups, each a claim of its own; none contains a comma.
    pub groups: Vec<Claim>,
    /// The groups joined with `,` as one field value; `None` when there are none.
    pub groups_value: Option<Claim>,
}

impl Identity {
    /// A nameless identity at `issuer`: signed in, nothing more known.
    pub fn nameless(issuer: &str) -> Self {
        Self {
            issuer: issuer.into(),
            ..Self::default()
        }
    }

    /// Sets the groups. Those that contain a comma are dropped: joined with commas they would
    /// read as other groups.
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

    /// Whether both are the same subject at the same issuer. Nameless identities are nobody's
    /// equal.
    pub fn same_person(&self, other: &Self) -> bool {
        self.subject.is_some() && self.subject == other.subject && self.issuer == other.issuer
    }

    /// What to call this person on a page: name, preferred user name, email or subject.
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
