//! The rule of a route: the condition that a user has to meet to use the route.

use serde::Deserialize;

use crate::identity::{Claim, Identity};

/// The condition that a user has to meet to use a route.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Rule {
    /// Everybody may use the route, without a session. The settings have to state this rule
    /// explicitly.
    Public,
    /// Every user with a session may use the route.
    SignedIn,
    /// A user who is on at least one of these lists may use the route.
    #[serde(rename = "any_of")]
    AnyOf(AnyOf),
}

/// Lists of users. A user has to be on at least one of the lists.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(try_from = "RawAnyOf")]
pub(crate) struct AnyOf {
    emails: Vec<Box<str>>,
    email_domains: Vec<Box<str>>,
    groups: Vec<Box<str>>,
    subjects: Vec<Box<str>>,
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
        for email in &emails {
            if address(email).is_none() {
                return Err(format!("`{email}` in emails is not an email address"));
            }
        }
        for domain in &email_domains {
            if address(&format!("a@{domain}")).is_none() {
                return Err(format!(
                    "`{domain}` in email_domains is not a domain; write it without @"
                ));
            }
        }
        if groups
            .iter()
            .chain(&subjects)
            .any(|name| Claim::new(name).is_none())
        {
            return Err(
                "a name in groups or subjects is empty or has control characters".to_owned(),
            );
        }
        // The comparison of email addresses ignores case. Groups and subjects are compared exactly,
        // because two groups or two subjects of a provider may differ only in case.
        let lower = |texts: Vec<String>| {
            texts
                .into_iter()
                .map(|text| text.to_ascii_lowercase().into())
                .collect()
        };
        let exact = |texts: Vec<String>| texts.into_iter().map(String::into_boxed_str).collect();
        Ok(Self {
            emails: lower(emails),
            email_domains: lower(email_domains),
            groups: exact(groups),
            subjects: exact(subjects),
        })
    }
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

    /// Checks whether a signed-in user meets the rule.
    pub(super) fn check(&self, identity: &Identity) -> Verdict {
        match self {
            Self::Public | Self::SignedIn => Verdict::Allowed,
            Self::AnyOf(lists) if lists.name(identity) => Verdict::Allowed,
            Self::AnyOf(_) => Verdict::Refused,
        }
    }
}

impl AnyOf {
    fn name(&self, identity: &Identity) -> bool {
        let subject = identity.subject.as_ref().map(Claim::as_str);
        let by_subject =
            subject.is_some_and(|subject| self.subjects.iter().any(|s| **s == *subject));
        let by_group = identity
            .groups
            .iter()
            .any(|group| self.groups.iter().any(|listed| **listed == *group.as_str()));
        by_subject || by_group || self.by_email(identity)
    }

    /// An email address is compared with the lists only if the provider has verified the address,
    /// and if all programs read the address in the same way.
    fn by_email(&self, identity: &Identity) -> bool {
        let verified = identity.email.as_ref().filter(|email| email.verified);
        let Some(email) = verified.map(|email| email.address.as_str().to_ascii_lowercase()) else {
            return false;
        };
        let Some(domain) = address(&email) else {
            return false;
        };
        self.emails.iter().any(|listed| **listed == *email)
            || self.email_domains.iter().any(|listed| **listed == *domain)
    }
}

/// Returns the domain of an email address, or `None` if the address cannot be compared safely. A
/// safe address is ASCII and has exactly one `@`, no quotes and no trailing dot.
fn address(email: &str) -> Option<&str> {
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
mod tests {
    use super::*;
    use crate::identity::Email;

    fn rule(toml: &str) -> Rule {
        #[derive(Deserialize)]
        struct Holder {
            access: Rule,
        }
        use figment::providers::{Format as _, Toml};
        figment::Figment::from(Toml::string(toml))
            .extract::<Holder>()
            .unwrap()
            .access
    }

    fn with_email(address: &str, verified: bool) -> Identity {
        let email = Claim::new(address).map(|address| Email { address, verified });
        Identity {
            email,
            subject: Claim::new("1"),
            ..Identity::nameless("op")
        }
    }

    #[test]
    fn rules_as_they_are_written() {
        assert_eq!(rule("access = 'public'"), Rule::Public);
        assert_eq!(rule("access = 'signed-in'"), Rule::SignedIn);
        let listed = rule("access = { any_of = { groups = ['staff'] } }");
        assert!(matches!(listed, Rule::AnyOf(_)));
    }

    #[test]
    fn adv_cve_2021_21411_a_user_without_the_group_is_refused() {
        let staff = rule("access = { any_of = { groups = ['staff'] } }");
        let person = |groups: &[&str]| {
            Identity::nameless("op")
                .with_groups(groups.iter().filter_map(|group| Claim::new(group)))
        };
        assert_eq!(staff.check(&person(&["users", "staff"])), Verdict::Allowed);
        for groups in [&["users"][..], &[], &["Staff"], &["staff2"]] {
            assert_eq!(staff.check(&person(groups)), Verdict::Refused);
        }
    }

    #[test]
    fn a_listed_email_address_matches_one_user_in_any_case() {
        let alice = rule("access = { any_of = { emails = ['Alice@company.com'] } }");
        let check = |address, verified| alice.check(&with_email(address, verified));
        assert_eq!(check("alice@company.com", true), Verdict::Allowed);
        assert_eq!(check("ALICE@company.com", true), Verdict::Allowed);
        assert_eq!(check("alice@company.com", false), Verdict::Refused);
        for other in ["bob@company.com", "alice@evil.com", "xalice@company.com"] {
            assert_eq!(check(other, true), Verdict::Refused, "{other}");
        }
    }

    #[test]
    fn adv_cve_2026_40574_only_a_plain_verified_address_of_the_domain_is_accepted() {
        let company = rule("access = { any_of = { email_domains = ['Company.com'] } }");
        let check = |address, verified| company.check(&with_email(address, verified));
        assert_eq!(check("alice@company.com", true), Verdict::Allowed);
        assert_eq!(check("Alice@COMPANY.com", true), Verdict::Allowed);
        assert_eq!(check("alice@company.com", false), Verdict::Refused);
        for bad in [
            "attacker@evil.com@company.com",
            "\"a@b\"@company.com",
            "a@company.com.",
            "a@сompany.com",
            "a@evilcompany.com",
            "a@sub.company.com",
            "company.com",
            "@company.com",
        ] {
            assert_eq!(check(bad, true), Verdict::Refused, "{bad}");
        }
    }

    #[test]
    fn lists_that_can_match_nobody_are_rejected() {
        let raw = |emails: &[&str], email_domains: &[&str]| RawAnyOf {
            emails: emails.iter().map(ToString::to_string).collect(),
            email_domains: email_domains.iter().map(ToString::to_string).collect(),
            ..RawAnyOf::default()
        };
        for (emails, domains) in [
            (&[][..], &[][..]),
            (&["alice"], &[]),
            (&[], &["@company.com"]),
            (&[], &[".company.com"]),
            (&[], &["company.com."]),
            (&[], &["company..com"]),
        ] {
            assert!(AnyOf::try_from(raw(emails, domains)).is_err());
        }
    }

    #[test]
    fn subjects_are_compared_exactly() {
        let one = rule("access = { any_of = { subjects = ['1'] } }");
        assert_eq!(one.check(&with_email("a@b.c", false)), Verdict::Allowed);
        assert_eq!(one.check(&Identity::nameless("op")), Verdict::Refused);
    }
}
