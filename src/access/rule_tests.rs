//! Tests of rules.

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
        Identity::nameless("op").with_groups(groups.iter().filter_map(|group| Claim::new(group)))
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
        (&[], &["*company.com"]),
        (&[], &["*."]),
        (&[], &["**"]),
        (&[], &["company.*"]),
        (&["*"], &[]),
        (&["*@company.com"], &[]),
        (&[], &["company.com."]),
        (&[], &["company..com"]),
    ] {
        assert!(AnyOf::try_from(raw(emails, domains)).is_err());
    }
}

#[test]
fn a_star_in_email_domains_stands_for_verified_addresses_only() {
    let check = |toml: &str, address, verified| rule(toml).check(&with_email(address, verified));
    let every = "access = { any_of = { email_domains = ['*'] } }";
    assert_eq!(check(every, "a@x.example", true), Verdict::Allowed);
    assert_eq!(check(every, "a@x.example", false), Verdict::Refused);
    assert_eq!(check(every, "a@b@x.example", true), Verdict::Refused);
    let below = "access = { any_of = { email_domains = ['*.Company.com'] } }";
    for address in ["a@x.company.com", "a@Y.x.COMPANY.com"] {
        assert_eq!(check(below, address, true), Verdict::Allowed, "{address}");
    }
    for address in [
        "a@company.com",
        "a@evilcompany.com",
        "a@x.company.com.evil",
        "a@.company.com",
    ] {
        assert_eq!(check(below, address, true), Verdict::Refused, "{address}");
    }
    assert_eq!(check(below, "a@x.company.com", false), Verdict::Refused);
}

/// A `*` compares no part of the address, so only the check of the shape refuses an address.
#[test]
fn an_address_that_programs_read_in_different_ways_names_nobody() {
    let every = rule("access = { any_of = { email_domains = ['*'] } }");
    for address in ["a@x.example", "a.b+c@x.example", "a@localhost", "!#$%&'*@x"] {
        let user = with_email(address, true);
        assert_eq!(every.check(&user), Verdict::Allowed, "{address}");
    }
    for address in [
        "a",
        "a@",
        "@x.example",
        "@",
        "a@b@x.example",
        "a@@x.example",
        "a@.x.example",
        "a@x..example",
        "a@x.example.",
        "a@.",
        "a b@x.example",
        "a@x example",
        "a@x,example",
        "a,b@x.example",
        "a;b@x.example",
        "a<b>@x.example",
        "a(b)@x.example",
        "a:b@x.example",
        "\"a\"@x.example",
        "a\\b@x.example",
        "a@[x.example]",
        "\u{e9}@x.example",
        "a@\u{e9}.example",
        "a@x.example\u{a0}",
    ] {
        let user = with_email(address, true);
        assert_eq!(every.check(&user), Verdict::Refused, "{address}");
        assert_eq!(email_domain(address), None, "{address}");
    }
}

#[test]
fn a_listed_address_admits_nobody_else() {
    let listed = rule("access = { any_of = { emails = ['a@x.example', 'B@x.example'] } }");
    for (address, verdict) in [
        ("a@x.example", Verdict::Allowed),
        ("b@X.example", Verdict::Allowed),
        ("c@x.example", Verdict::Refused),
        ("a@y.example", Verdict::Refused),
        ("a@x.example.", Verdict::Refused),
        ("a@x.example@y.example", Verdict::Refused),
        ("", Verdict::Refused),
    ] {
        assert_eq!(
            listed.check(&with_email(address, true)),
            verdict,
            "{address}"
        );
        let unverified = with_email(address, false);
        assert_eq!(listed.check(&unverified), Verdict::Refused, "{address}");
    }
}

#[test]
fn subjects_are_compared_exactly() {
    let listed = rule("access = { any_of = { subjects = ['1', 'Bob'] } }");
    let user = |subject: &str| Identity {
        subject: Claim::new(subject),
        ..Identity::nameless("op")
    };
    for (subject, verdict) in [
        ("1", Verdict::Allowed),
        ("Bob", Verdict::Allowed),
        ("2", Verdict::Refused),
        ("11", Verdict::Refused),
        ("bob", Verdict::Refused),
        ("BOB", Verdict::Refused),
        ("1 ", Verdict::Refused),
    ] {
        assert_eq!(listed.check(&user(subject)), verdict, "{subject}");
    }
    assert_eq!(listed.check(&with_email("a@b.c", false)), Verdict::Allowed);
    assert_eq!(listed.check(&Identity::nameless("op")), Verdict::Refused);
    // A subject is neither an email address nor a group.
    let named = Identity {
        email: with_email("1", true).email,
        subject: Claim::new("2"),
        ..Identity::nameless("op").with_groups([Claim::new("1").unwrap()])
    };
    assert_eq!(listed.check(&named), Verdict::Refused);
}

#[test]
fn a_rule_that_admits_fewer_users_is_stricter() {
    let public = "access = 'public'";
    let user = "access = 'signed-in'";
    let one = "access.any_of.groups = ['a']";
    let two = "access.any_of = { groups = ['a', 'b'], emails = ['a@b.test'] }";
    let domain = "access.any_of.email_domains = ['b.test']";
    let subject = "access.any_of.subjects = ['a']";
    for (strict, others) in [
        (public, &[public][..]),
        (user, &[public, user]),
        (one, &[public, user, one, two]),
        (two, &[public, user, two]),
        (domain, &[public, user, domain]),
        (subject, &[public, user, subject]),
    ] {
        for other in [public, user, one, two, domain, subject] {
            let found = rule(strict).is_as_strict_as(&rule(other));
            assert_eq!(found, others.contains(&other), "{strict} {other}");
        }
    }
}

#[test]
fn the_text_of_a_rule_names_its_entries() {
    let shown =
        rule("access = { any_of = { groups = ['a', 'b'], email_domains = ['*.x.example', '*'] } }");
    let lists = "{ email_domains = [\"*.x.example\", \"*\"], groups = [\"a\", \"b\"] }";
    assert_eq!(shown.to_string(), format!("any_of {lists}"));
    assert_eq!(rule("access = 'public'").to_string(), "public");
    assert_eq!(rule("access = 'signed-in'").to_string(), "signed-in");
}

#[test]
fn the_entry_that_names_a_user_is_found() {
    let Rule::AnyOf(lists) = rule(
        "access = { any_of = { groups = ['a', 'b'], emails = ['m@x.example'], \
         email_domains = ['y.example'], subjects = ['7'] } }",
    ) else {
        panic!("any_of is a rule with lists")
    };
    let entry = |identity: &Identity| lists.entry_of(identity).map(|entry| entry.to_string());
    let subject = Identity {
        subject: Claim::new("7"),
        ..Identity::nameless("op")
    };
    let group = Identity::nameless("op").with_groups([Claim::new("b").unwrap()]);
    for (identity, expected) in [
        (subject, Some("subjects `7`")),
        (group, Some("groups `b`")),
        (
            with_email("M@x.example", true),
            Some("emails `m@x.example`"),
        ),
        (
            with_email("n@y.example", true),
            Some("email_domains `y.example`"),
        ),
        (with_email("n@y.example", false), None),
        (with_email("n@x.example", true), None),
    ] {
        assert_eq!(entry(&identity).as_deref(), expected);
    }
}
