use serde_json::json;

use super::*;
use crate::provider::settings::KeptValues;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn mapping(settings: &IdentitySettings) -> ClaimMapping {
    ClaimMapping::new("main", settings).unwrap()
}

fn groups_of(identity: &Identity) -> String {
    let names: Vec<&str> = identity.groups.iter().map(Claim::as_str).collect();
    names.join(" ")
}

fn identity(settings: &IdentitySettings, members: Value) -> Option<Identity> {
    let Value::Object(members) = members else {
        panic!("not an object");
    };
    mapping(settings).identity(&[&members], "op", NOW)
}

fn settings(value: Value) -> IdentitySettings {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_laravel_user_gives_an_identity() {
    let settings = settings(json!({
        "source": "userinfo",
        "emails_verified": "timestamp",
        "claims": { "subject": "id", "email_verified": "email_verified_at" },
    }));
    let mut user = json!({
        "id": 17, "name": "Alice", "email": "alice@example.com",
        "email_verified_at": "2023-07-18T20:48:13.000000Z", "created_at": null,
    });
    let alice = identity(&settings, user.clone()).unwrap();
    assert_eq!(alice.subject.as_ref().unwrap().as_str(), "17");
    assert_eq!(alice.label(), Some("Alice"));
    assert!(alice.email.unwrap().verified);
    for unverified in [
        json!(null),
        json!(""),
        json!(false),
        json!(true),
        json!("never"),
    ] {
        user["email_verified_at"] = unverified;
        assert!(
            !identity(&settings, user.clone())
                .unwrap()
                .email
                .unwrap()
                .verified
        );
    }
}

#[test]
fn claims_are_found_by_path_and_by_names_with_dots() {
    let settings = settings(json!({ "claims": {
        "subject": "data.user.id",
        "groups": "https://example.com/groups",
        "name": "",
    }}));
    let found = identity(
        &settings,
        json!({
            "data": { "user": { "id": "a" } },
            "https://example.com/groups": ["x"],
            "": "nobody",
        }),
    );
    let found = found.unwrap();
    assert_eq!(groups_of(&found), "x");
    assert_eq!(found.subject.unwrap().as_str(), "a");
    assert!(found.name.is_none());
}

/// Returns the identity from an ID token and a userinfo response.
fn both(settings: &IdentitySettings, id_token: &Value, userinfo: &Value) -> Identity {
    let sources = [id_token, userinfo].map(|value| value.as_object().unwrap());
    mapping(settings)
        .identity(&sources, "https://id.example", NOW)
        .unwrap()
}

#[test]
fn the_id_token_wins_and_the_userinfo_adds() {
    let settings = settings(json!({ "claims": { "groups": "access.roles" } }));
    let found = both(
        &settings,
        &json!({ "sub": "1", "name": "Alice", "preferred_username": null, "access": {} }),
        &json!({
            "sub": "1", "name": "Mallory", "preferred_username": "alice",
            "access": { "roles": ["a"] },
        }),
    );
    assert_eq!(&*found.issuer, "https://id.example");
    assert_eq!(groups_of(&found), "a");
    assert_eq!(found.name.unwrap().as_str(), "Alice");
    assert_eq!(found.preferred_username.unwrap().as_str(), "alice");
    // If a claim of the ID token cannot be used, the gateway does not use the same claim of the
    // userinfo.
    let unusable = both(
        &settings,
        &json!({ "sub": "1", "name": ["Alice"] }),
        &json!({ "sub": "1", "name": "Mallory" }),
    );
    assert!(unusable.name.is_none());
}

#[test]
fn j_75_only_the_source_of_an_address_can_verify_it() {
    let (a, b) = (json!("a@id.example"), json!("b@id.example"));
    let yes = json!(true);
    for (id_token, userinfo, verified) in [
        (
            json!({ "email": a, "email_verified": yes }),
            json!({}),
            true,
        ),
        (
            json!({ "email": a }),
            json!({ "email": a, "email_verified": yes }),
            true,
        ),
        (
            json!({}),
            json!({ "email": a, "email_verified": yes }),
            true,
        ),
        (
            json!({ "email": a }),
            json!({ "email": b, "email_verified": yes }),
            false,
        ),
        (
            json!({ "email": a }),
            json!({ "email_verified": yes }),
            false,
        ),
        (
            json!({ "email_verified": yes }),
            json!({ "email": a }),
            false,
        ),
    ] {
        let (mut id_token, userinfo) = (id_token, userinfo);
        id_token["sub"] = json!("1");
        let found = both(&IdentitySettings::default(), &id_token, &userinfo);
        let email = found.email.unwrap();
        assert_eq!(email.address.as_str(), "a@id.example");
        assert_eq!(email.verified, verified, "{id_token} {userinfo}");
    }
}

#[test]
fn j_76_groups_may_be_the_names_of_an_object() {
    let claim = "urn:zitadel:iam:org:project:roles";
    let settings = settings(json!({ "claims": { "groups": claim } }));
    let roles = json!({
        "admin": { "271": "shop.example" }, "staff": {}, "a,b": {}, "x\n": {},
        "guest": false, "boss": null, "root": true, "king": "yes",
    });
    let found = identity(&settings, json!({ "sub": "1", claim: roles })).unwrap();
    assert_eq!(groups_of(&found), "a,b admin staff");
    for unusable in [
        json!({}),
        json!(true),
        json!(5),
        json!([{ "name": "admin" }]),
    ] {
        let found = identity(&settings, json!({ "sub": "1", claim: unusable })).unwrap();
        assert!(found.groups.is_empty());
    }
}

#[test]
fn groups_in_another_place_are_not_fetched() {
    let members = json!({
        "sub": "1", "_claim_names": { "groups": "src1" },
        "_claim_sources": { "src1": { "endpoint": "https://id.example/groups" } },
    });
    let found = identity(&IdentitySettings::default(), members.clone()).unwrap();
    assert!(found.groups.is_empty());
    let mapping = mapping(&IdentitySettings::default());
    let mut members = members.as_object().unwrap().clone();
    assert!(mapping.groups_are_elsewhere(&[&members]));
    members.insert("groups".to_owned(), json!(["a"]));
    assert!(!mapping.groups_are_elsewhere(&[&members]));
    let plain = json!({ "sub": "1", "_claim_names": "groups" });
    assert!(!mapping.groups_are_elsewhere(&[plain.as_object().unwrap()]));
}

#[test]
fn j_68_without_a_usable_subject_there_is_no_identity() {
    let long = "x".repeat(256);
    for sub in [
        json!(null),
        json!(""),
        json!(1.5),
        json!(true),
        json!("a\r\nb"),
        json!(long),
        json!([1]),
    ] {
        assert!(
            identity(&IdentitySettings::default(), json!({ "sub": sub })).is_none(),
            "{sub}"
        );
    }
    assert!(identity(&IdentitySettings::default(), json!({})).is_none());
}

#[test]
fn j_75_only_true_verifies_an_email() {
    for (claim, verified) in [
        (json!(true), true),
        (json!("true"), false),
        (json!(1), false),
        (json!(null), false),
        (json!("2023-07-18"), false),
    ] {
        let members = json!({ "sub": "1", "email": "a@b", "email_verified": claim });
        let found = identity(&IdentitySettings::default(), members).unwrap();
        assert_eq!(found.email.unwrap().verified, verified, "{claim}");
    }
    let always = settings(json!({ "emails_verified": "always" }));
    let found = identity(&always, json!({ "sub": "1", "email": "a@b" })).unwrap();
    assert!(found.email.unwrap().verified);
}

#[test]
fn j_76_claims_of_an_unexpected_type_are_absent() {
    let found = identity(
        &IdentitySettings::default(),
        json!({
            "sub": "1", "name": { "a": 1 }, "email": "a\r\nX-User: root", "__proto__": "x",
            "preferred_username": ["root"], "groups": ["a", 5, { "b": 1 }, "c,admin", "d\n", "e"],
        }),
    );
    let found = found.unwrap();
    assert!(found.name.is_none() && found.email.is_none());
    assert!(found.preferred_username.is_none());
    assert_eq!(groups_of(&found), "a c,admin e");
    let single = json!({ "sub": "1", "groups": "admin" });
    let single = identity(&IdentitySettings::default(), single).unwrap();
    assert_eq!(groups_of(&single), "admin");
    let many: Vec<String> = (0..100_000).map(|n| n.to_string()).collect();
    let many = json!({ "sub": "1", "groups": many });
    let many = identity(&IdentitySettings::default(), many).unwrap();
    assert_eq!(many.groups.iter().len(), 100_000);
}

#[test]
fn a_path_leads_into_lists_of_objects() {
    let roles = |path: &str, claims: Value| {
        let settings = settings(json!({ "claims": { "groups": path } }));
        groups_of(&identity(&settings, claims).unwrap())
    };
    let groups = json!({ "sub": "1", "groups": [
        { "id": 1, "name": "CN=Admins,DC=example" }, { "name": "staff" }, { "id": 2 }, "x",
    ] });
    assert_eq!(
        roles("groups[].name", groups.clone()),
        "CN=Admins,DC=example staff"
    );
    assert_eq!(roles("groups[]", groups), "x");
    let nested = json!({ "sub": "1", "org": { "teams": [
        { "roles": [{ "n": "a" }, { "n": "b" }] }, { "roles": [] }, { "roles": [{ "n": "c" }] },
    ] } });
    assert_eq!(roles("org.teams[].roles[].n", nested.clone()), "a b c");
    for other in ["org[].teams", "teams[].roles", "org.teams[].roles[].m"] {
        assert_eq!(roles(other, nested.clone()), "", "{other}");
    }
    let subject = settings(json!({ "claims": { "subject": "ids[].id" } }));
    let refused = ClaimMapping::new("main", &subject).unwrap_err();
    assert!(
        refused.to_string().contains("only for `groups`"),
        "{refused}"
    );
}

#[test]
fn a_claim_with_another_form_is_one_hint_a_day() {
    let due = |claims: Value, hint: &str| {
        let mapping = mapping(&IdentitySettings::default());
        let mut claims = claims;
        claims["sub"] = json!("1");
        let _identity = mapping.identity(&[claims.as_object().unwrap()], "op", NOW);
        let later = NOW.plus(Duration::from_hours(24));
        (!mapping.is_due(hint, NOW), mapping.is_due(hint, later))
    };
    let (address, groups) = (json!("a@b.example"), "identity.claims.groups");
    for (claims, hint, given) in [
        (json!({ "groups": [{ "name": "admin" }] }), groups, true),
        (json!({ "groups": { "admin": true } }), groups, true),
        (json!({ "groups": 5 }), groups, true),
        (
            json!({ "groups": { "admin": {}, "staff": false } }),
            groups,
            false,
        ),
        (json!({ "groups": ["a", "b,c"] }), groups, false),
        (json!({ "groups": [] }), groups, false),
        (json!({ "name": ["Alice"] }), "identity.claims.name", true),
        (json!({ "name": "" }), "identity.claims.name", false),
        (
            json!({ "email": address, "email_verified": "true" }),
            "email_verified_form",
            true,
        ),
        (
            json!({ "email": address, "email_verified": false }),
            "email_verified_form",
            false,
        ),
        (
            json!({ "email": address, "email_verified": false }),
            "email_unverified",
            true,
        ),
        (json!({ "email": address }), "email_unverified", true),
        (
            json!({ "email": address, "email_verified": true }),
            "email_unverified",
            false,
        ),
        (json!({}), "email_unverified", false),
    ] {
        assert_eq!(due(claims.clone(), hint), (given, true), "{claims} {hint}");
    }
}

#[test]
fn an_additional_claim_is_a_text_a_whole_number_or_a_truth_value() {
    let settings = IdentitySettings {
        kept: KeptValues {
            claims: [
                "a.b", "number", "truth", "real", "list", "table", "empty", "cut",
            ]
            .map(Into::into)
            .to_vec(),
            id_token: false,
        },
        ..IdentitySettings::default()
    };
    let claims = json!({
        "sub": "1", "a": { "b": "Küche" }, "number": 7, "truth": false, "real": 1.5,
        "list": ["x"], "table": {}, "empty": "", "cut": "a\r\nb", "other": "x",
    });
    let identity = both(&settings, &claims, &json!({ "a": { "b": "later" } }));
    let found = identity.claims.iter();
    let found: Vec<_> = found
        .map(|(path, claim)| (&**path, claim.as_str()))
        .collect();
    assert_eq!(
        found,
        [("a.b", "Küche"), ("number", "7"), ("truth", "false")]
    );
}
