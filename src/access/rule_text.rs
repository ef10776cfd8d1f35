//! The text of a rule and of its entries, as the settings write them.

use std::fmt;

use super::rule::{AnyOf, Domains, Entry, Rule};

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str("public"),
            Self::SignedIn => f.write_str("signed-in"),
            Self::AnyOf(lists) => write!(f, "any_of {lists}"),
        }
    }
}

impl fmt::Display for AnyOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let domains = self.email_domains.iter().map(ToString::to_string);
        let domains: Vec<Box<str>> = domains.map(Into::into).collect();
        let lists = [
            ("emails", &self.emails),
            ("email_domains", &domains),
            ("groups", &self.groups),
            ("subjects", &self.subjects),
        ];
        let lists = lists.into_iter().filter(|(_, entries)| !entries.is_empty());
        let lists: Vec<String> = lists
            .map(|(name, entries)| format!("{name} = {entries:?}"))
            .collect();
        write!(f, "{{ {} }}", lists.join(", "))
    }
}

impl fmt::Display for Domains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every => f.write_str("*"),
            Self::Below(end) => write!(f, "*{end}"),
            Self::One(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domains(domains) => write!(f, "email_domains `{domains}`"),
            Self::Email(email) => write!(f, "emails `{email}`"),
            Self::Group(group) => write!(f, "groups `{group}`"),
            Self::Subject(subject) => write!(f, "subjects `{subject}`"),
        }
    }
}
