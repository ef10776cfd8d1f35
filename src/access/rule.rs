//! The rule of a route: the condition that a user must meet to use the route.

use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::identity::{Claim, Identity};

/// The condition that a user must meet to use a route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Rule {
    /// Everybody may use the route, without a session. `public` is never a default, so the settings
    /// must contain the word `public`.
    Public,
    /// Every user with a session may use the route.
    SignedIn,
    /// A user who is on at least one of these lists may use the route.
    AnyOf(AnyOf),
}

/// Reads `"public"`, `"signed-in"` or `{ any_of = { ... } }`. A derived `Deserialize` would accept
/// a table with a second key and ignore the second key.
impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        const FORMS: &str = "\"public\", \"signed-in\" or { any_of = { groups = [\"...\"] } }";
        impl<'de> Visitor<'de> for Written {
            type Value = Rule;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(FORMS)
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Rule, E> {
                match word {
                    "public" => Ok(Rule::Public),
                    "signed-in" => Ok(Rule::SignedIn),
                    other => Err(E::custom(format!("`{other}` is not a rule; write {FORMS}"))),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Rule, A::Error> {
                let refused = |key: &str| {
                    let why = format!("`{key}` is not the rule `any_of`; write {FORMS}");
                    Err(A::Error::custom(why))
                };
                let mut lists = None;
                while let Some(key) = table.next_key::<String>()? {
                    match key.as_str() {
                        "any_of" => lists = Some(table.next_value::<Table>()?.0),
                        "emails" | "email_domains" | "groups" | "subjects" => {
                            let why = format!(
                                "`{key}` is a list of the rule any_of; write \
                                 {{ any_of = {{ {key} = [\"...\"] }} }}"
                            );
                            return Err(A::Error::custom(why));
                        }
                        other => return refused(other),
                    }
                }
                match lists {
                    Some(lists) => Ok(Rule::AnyOf(lists)),
                    None => Err(A::Error::custom(format!(
                        "the rule is empty; write {FORMS}"
                    ))),
                }
            }
        }
        deserializer.deserialize_any(Written)
    }
}

/// The table `any_of` in the settings. A derived `Deserialize` would also accept a list, and would
/// use the items of the list as the values of the keys.
struct Table(AnyOf);

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl<'de> Visitor<'de> for Written {
            type Value = AnyOf;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table such as { groups = [\"...\"] }")
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<AnyOf, A::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(table))
            }
        }
        deserializer.deserialize_any(Written).map(Self)
    }
}

/// Lists of email addresses, email domains, groups and subjects. A user may use the route if at
/// least one entry of one list matches the user.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(try_from = "RawAnyOf")]
pub(crate) struct AnyOf {
    pub(super) emails: Vec<Box<str>>,
    pub(super) email_domains: Vec<Domains>,
    pub(super) groups: Vec<Box<str>>,
    pub(super) subjects: Vec<Box<str>>,
}

/// The domains of email addresses that one entry of the list `email_domains` allows. The stored
/// domains are in lower case.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Domains {
    /// `*`: every domain.
    Every,
    /// `*.example.com`: all domains below `example.com`, but not `example.com`. The text in the
    /// variant `Below` begins with a dot.
    Below(Box<str>),
    /// `example.com`: this domain.
    One(Box<str>),
}

impl Domains {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Every);
        }
        let below = text.strip_prefix('*').filter(|rest| rest.starts_with('.'));
        let name = below
            .and_then(|rest| rest.strip_prefix('.'))
            .unwrap_or(text);
        if !name.contains('*') && email_domain(&format!("a@{name}")).is_some() {
            let lower = |text: &str| text.to_ascii_lowercase().into();
            return Ok(
                below.map_or_else(|| Self::One(lower(name)), |rest| Self::Below(lower(rest)))
            );
        }
        let advice = match (text.rsplit_once('@'), text.strip_prefix('.')) {
            (Some((_, domain)), _) => format!("write \"{domain}\""),
            (None, Some(domain)) => {
                format!("write \"{domain}\", or \"*.{domain}\" for all domains below it")
            }
            (None, None) => "write \"example.com\", \"*.example.com\" or \"*\"".to_owned(),
        };
        Err(format!(
            "`{text}` in email_domains is not a domain; {advice}"
        ))
    }

    fn contain(&self, domain: &str) -> bool {
        match self {
            Self::Every => true,
            Self::Below(end) => domain
                .strip_suffix(&**end)
                .is_some_and(|rest| !rest.is_empty()),
            Self::One(name) => **name == *domain,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawAnyOf {
    emails: Vec<String>,
    email_domains: Vec<String>,
    groups: Vec<String>,
    subjects: Vec<String>,
}

impl TryFrom<RawAnyOf> for AnyOf {
    type Error = String;

    fn try_from(raw: RawAnyOf) -> Result<Self, String> {
        let RawAnyOf {
            emails,
            email_domains,
            groups,
            subjects,
        } = raw;
        if [&emails, &email_domains, &groups, &subjects]
            .into_iter()
            .all(Vec::is_empty)
        {
            return Err("all lists are empty, so nobody could use the route".to_owned());
        }
        let emails_checked = emails.iter().map(|email| check_email(email));
        let domains = email_domains.iter().map(|domain| Domains::parse(domain));
        let groups_checked = groups.iter().map(|name| check_name("groups", name));
        let subjects_checked = subjects.iter().map(|name| check_name("subjects", name));
        let wrong: Vec<String> = emails_checked
            .chain(domains.clone().map(|domain| domain.map(drop)))
            .chain(groups_checked)
            .chain(subjects_checked)
            .filter_map(Result::err)
            .collect();
        if !wrong.is_empty() {
            return Err(wrong.join("; and "));
        }
        // The comparison of email addresses ignores case. Groups and subjects are compared exactly,
        // because two groups or two subjects of a provider may differ only in case.
        let lower = |text: String| text.to_ascii_lowercase().into();
        let exact = |texts: Vec<String>| texts.into_iter().map(String::into_boxed_str).collect();
        Ok(Self {
            emails: emails.into_iter().map(lower).collect(),
            email_domains: domains.collect::<Result<_, _>>()?,
            groups: exact(groups),
            subjects: exact(subjects),
        })
    }
}

impl AnyOf {
    fn are_part_of(&self, others: &Self) -> bool {
        fn all_in<T: PartialEq>(list: &[T], other: &[T]) -> bool {
            list.iter().all(|entry| other.contains(entry))
        }
        all_in(&self.emails, &others.emails)
            && all_in(&self.email_domains, &others.email_domains)
            && all_in(&self.groups, &others.groups)
            && all_in(&self.subjects, &others.subjects)
    }
}

/// Checks an entry of the list `emails`.
fn check_email(email: &str) -> Result<(), String> {
    if email_domain(email).is_some() && !email.contains('*') {
        return Ok(());
    }
    let advice = match email.rsplit_once('@') {
        _ if email == "*" => "write email_domains = [\"*\"] for every verified address".to_owned(),
        _ if email != email.trim() => "remove the white space around it".to_owned(),
        Some(("" | "*", domain)) => {
            format!("write email_domains = [\"{domain}\"] for every address of the domain")
        }
        Some(_) | None => "write \"name@example.com\"".to_owned(),
    };
    Err(format!(
        "`{email}` in emails is not an email address; {advice}"
    ))
}

/// Checks an entry of the list `groups` or `subjects`. This function refuses an entry that can
/// never match a user.
fn check_name(list: &str, name: &str) -> Result<(), String> {
    if name.contains('*') {
        return Err(format!(
            "`{name}` in {list} would match nobody, because `*` has no meaning here; write each name, \
             or access = \"signed-in\" for every user"
        ));
    }
    if Claim::new(name).is_some() {
        return Ok(());
    }
    let trimmed = name.trim();
    let why = if trimmed.is_empty() {
        format!("a name in {list} is empty; remove it")
    } else if trimmed != name {
        format!("`{name}` in {list} has white space at its start or end; write \"{trimmed}\"")
    } else {
        format!("a name in {list} is too long or has control characters, so it matches nobody")
    };
    Err(why)
}

/// The claims that the identities of a provider can have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a separate claim")]
pub(crate) struct KnownClaims {
    pub(crate) subject: bool,
    pub(crate) groups: bool,
    pub(crate) verified_email: bool,
    /// Whether the identity comes from an ID token.
    pub(crate) id_token: bool,
}

/// Whether a user meets the rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub(super) enum Verdict {
    Allowed,
    Refused,
}

impl Rule {
    /// Whether the rule lists users by subject.
    pub(super) fn lists_subjects(&self) -> bool {
        matches!(self, Self::AnyOf(lists) if !lists.subjects.is_empty())
    }

    /// Whether the rule lists users by group.
    pub(super) fn lists_groups(&self) -> bool {
        matches!(self, Self::AnyOf(lists) if !lists.groups.is_empty())
    }

    /// Whether every user with a verified email address meets the rule.
    pub(super) fn admits_every_address(&self) -> bool {
        matches!(self, Self::AnyOf(lists) if lists.email_domains.contains(&Domains::Every))
    }

    /// Whether at least one user can meet the rule, if identities have only the claims in `known`.
    pub(crate) fn can_be_met(&self, known: KnownClaims) -> bool {
        match self {
            Self::Public | Self::SignedIn => true,
            Self::AnyOf(lists) => {
                let emails = !lists.emails.is_empty() || !lists.email_domains.is_empty();
                (known.subject && !lists.subjects.is_empty())
                    || (known.groups && !lists.groups.is_empty())
                    || (known.verified_email && emails)
            }
        }
    }

    /// Returns true if every user who meets this rule also meets `other`. The lists are compared
    /// entry by entry, so the function also returns false for some rules that admit the same users.
    pub(super) fn is_as_strict_as(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Public) | (Self::SignedIn | Self::AnyOf(_), Self::SignedIn) => true,
            (Self::AnyOf(lists), Self::AnyOf(others)) => lists.are_part_of(others),
            (Self::Public, Self::SignedIn | Self::AnyOf(_)) | (Self::SignedIn, Self::AnyOf(_)) => {
                false
            }
        }
    }

    /// Checks whether a signed-in user meets the rule.
    pub(super) fn check(&self, identity: &Identity) -> Verdict {
        match self {
            Self::Public | Self::SignedIn => Verdict::Allowed,
            Self::AnyOf(lists) if lists.entry_of(identity).is_some() => Verdict::Allowed,
            Self::AnyOf(_) => Verdict::Refused,
        }
    }
}

impl AnyOf {
    /// Returns the first entry that names the user.
    pub(super) fn entry_of(&self, identity: &Identity) -> Option<Entry<'_>> {
        let subject = identity.subject.as_ref().map(Claim::as_str);
        let by_subject =
            subject.and_then(|subject| self.subjects.iter().find(|listed| ***listed == *subject));
        if let Some(subject) = by_subject {
            return Some(Entry::Subject(subject));
        }
        let is_member = |listed: &str| {
            let mut groups = identity.groups.iter();
            groups.any(|group| group.as_str() == listed)
        };
        if let Some(group) = self.groups.iter().find(|listed| is_member(listed)) {
            return Some(Entry::Group(group));
        }
        self.entry_of_email(identity)
    }

    /// An email address is compared with the lists only if the provider has verified the address,
    /// and if all programs read the address in the same way.
    fn entry_of_email(&self, identity: &Identity) -> Option<Entry<'_>> {
        let verified = identity.verified_email()?;
        let email = verified.as_str().to_ascii_lowercase();
        let domain = email_domain(&email)?;
        if let Some(listed) = self.emails.iter().find(|listed| ***listed == *email) {
            return Some(Entry::Email(listed));
        }
        let mut domains = self.email_domains.iter();
        let listed = domains.find(|listed| listed.contain(domain))?;
        Some(Entry::Domains(listed))
    }
}

/// An entry of a rule that names a user.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Entry<'a> {
    Domains(&'a Domains),
    Email(&'a str),
    Group(&'a str),
    Subject(&'a str),
}

/// Returns the domain of an email address, or `None` if the address cannot be compared safely. A
/// safe email address consists of ASCII characters and has exactly one `@`, no quotes and no
/// trailing dot.
pub(crate) fn email_domain(email: &str) -> Option<&str> {
    let (local, domain) = email.split_once('@')?;
    let plain = |text: &str| {
        // If an address contains quotes, comments or literals (RFC 5322), an app may read it as the
        // address of another user.
        let allowed = |byte: u8| byte.is_ascii_graphic() && !b"@\"\\(),:;<>[]".contains(&byte);
        !text.is_empty() && text.bytes().all(allowed)
    };
    let dotted =
        |text: &str| !text.starts_with('.') && !text.ends_with('.') && !text.contains("..");
    (plain(local) && plain(domain) && dotted(domain)).then_some(domain)
}

#[cfg(test)]
#[path = "rule_tests.rs"]
mod tests;
