//! Tests of the provider settings and of routes that name providers.

use super::tests::{SMALL, TestSettings, keys_of, two_providers};

#[test]
fn a_route_takes_one_provider_or_several_or_all() {
    for (provider, expected) in [
        ("", &["main", "work"][..]),
        ("provider = \"work\"", &["work"]),
        ("provider = [\"work\", \"main\"]", &["work", "main"]),
    ] {
        let text = format!("{}\n[[routes]]\n{provider}\n", two_providers());
        let config = TestSettings::new(&text).load().unwrap();
        let route = config.site.routes.iter().next().unwrap();
        let counting: Vec<_> = route.providers().collect();
        assert_eq!(counting, expected, "{provider}");
    }
    for (provider, why) in [
        ("[]", "the list is empty"),
        ("[\"main\", \"main\"]", "names `main` twice"),
        ("[\"main\", \"other\"]", "there is no provider `other`"),
        ("3", "the name of a provider, or a list of names"),
        ("[3]", "a text in quotes"),
    ] {
        let text = format!("{}\n[[routes]]\nprovider = {provider}\n", two_providers());
        let problems = TestSettings::new(&text).problems();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert!(
            problems[0].starts_with("routes.0.provider") && problems[0].contains(why),
            "{problems:#?}"
        );
    }
}

#[test]
fn a_rule_with_subjects_or_groups_names_the_providers_that_it_means() {
    let rule = |list: &str| format!("access = {{ any_of = {{ {list} = [\"x\"] }} }}");
    let (subjects, groups) = (rule("subjects"), rule("groups"));
    let both = "provider = [\"main\", \"work\"]";
    for (text, providers, why) in [
        (&subjects, "", Some("the provider of these subjects")),
        (&subjects, both, Some("the provider of these subjects")),
        (&subjects, "provider = \"work\"", None),
        (&subjects, "provider = [\"work\"]", None),
        (
            &groups,
            "",
            Some("a list of the providers where they mean the same"),
        ),
        (&groups, both, None),
        (&groups, "provider = \"work\"", None),
    ] {
        let written = format!("{}\n[[routes]]\n{text}\n{providers}\n", two_providers());
        let loaded = TestSettings::new(&written).load();
        let problems = loaded.err().map(|problems| problems.0).unwrap_or_default();
        match why {
            None => assert!(problems.is_empty(), "{written}: {problems:#?}"),
            Some(why) => {
                assert_eq!(problems.len(), 1, "{written}: {problems:#?}");
                assert_eq!(problems[0].key, "routes.0.access");
                assert!(problems[0].reason.contains(why), "{problems:#?}");
            }
        }
        // With a single provider, a list of subjects or groups is not ambiguous.
        let alone = format!("{SMALL}\n[[routes]]\n{text}\n");
        assert!(TestSettings::new(&alone).load().is_ok(), "{alone}");
    }
}

#[test]
fn several_providers_without_a_provider_field_cause_a_warning() {
    let warnings = |text: &str| TestSettings::new(text).load().unwrap().warnings;
    let several = warnings(&two_providers());
    assert_eq!(several.len(), 1, "{several:#?}");
    assert!(
        several[0].contains("in the route `/`") && several[0].contains("assertions.provider"),
        "{several:#?}"
    );
    let told = "[assertions]\nprovider = \"X-Forwarded-Provider\"\n";
    let none = Vec::<String>::new();
    assert_eq!(warnings(&format!("{}\n{told}", two_providers())), none);
    let apart =
        "[[routes]]\nprovider = \"main\"\n[[routes]]\nprefix = \"/b\"\nprovider = \"work\"\n";
    assert_eq!(warnings(&format!("{}\n{apart}", two_providers())), none);
    assert_eq!(warnings(SMALL), none);
}

#[test]
fn an_invalid_key_is_the_only_problem_of_its_provider() {
    for (key, named) in [
        ("discovery = \"oidc\"", "providers.main.discovery"),
        (
            "id_token.leeway_secs = 301",
            "providers.main.id_token.leeway_secs",
        ),
        ("issur = \"https://id.example\"", "providers.main.issur"),
    ] {
        let text = SMALL.replace(
            "profile = \"oauth2\"",
            &format!("profile = \"oidc\"\n{key}"),
        );
        let text = text.replace("authorization_endpoint = ", "issuer = ");
        let problems = TestSettings::new(&text).problems();
        assert_eq!(keys_of(&problems), [named], "{problems:#?}");
    }
}

#[test]
fn open_registration_requires_a_rule_or_the_setting_anyone() {
    let open = two_providers().replacen("profile", "open_registration = true\nprofile", 1);
    let routes = |text: &str| format!("{open}\n{text}");
    let any_of = "access.any_of.email_domains = [\"example.com\"]";
    for (text, expected) in [
        (open.clone(), &["providers.main.anyone"][..]),
        (
            routes("[[routes]]\n[[routes]]\nprefix = \"/b\"\nprovider = \"main\"\n"),
            &["routes.0.access", "routes.1.access"],
        ),
        (
            routes("[[routes]]\nprovider = [\"work\", \"main\"]\n"),
            &["routes.0.access"],
        ),
        (routes("[[routes]]\nprovider = \"work\"\n"), &[]),
        (routes("[[routes]]\naccess = \"public\"\n"), &[]),
        (routes(&format!("[[routes]]\n{any_of}\n")), &[]),
        (
            open.replace(
                "open_registration = true",
                "open_registration = true\nanyone = true",
            ),
            &[],
        ),
        (
            two_providers().replacen("profile", "anyone = true\nprofile", 1),
            &[],
        ),
    ] {
        let loaded = TestSettings::new(&text).load();
        let problems = loaded.err().map(|problems| problems.0).unwrap_or_default();
        let keys: Vec<_> = problems.iter().map(|problem| &*problem.key).collect();
        assert_eq!(keys, expected, "{problems:#?}");
        for problem in &problems {
            assert!(
                problem.reason.contains("any_of = { email_domains")
                    && problem.reason.contains("providers.main.anyone = true"),
                "{problem:?}"
            );
        }
    }
}

#[test]
fn every_missing_file_of_a_provider_is_named() {
    let files = "client_assertion.private_key_file = \"@/a\"\nid_token.jwks_file = \"@/b\"\n\
                 id_token.public_key_files = [\"@/c\"]\nprofile";
    let problems = TestSettings::new(&SMALL.replace("profile", files)).problems();
    assert_eq!(
        keys_of(&problems),
        [
            "providers.main.client_assertion.private_key_file",
            "providers.main.id_token.jwks_file",
            "providers.main.id_token.public_key_files"
        ],
        "{problems:#?}"
    );
}

#[test]
fn a_string_instead_of_a_list_is_explained() {
    let text = SMALL.replace("profile", "scopes = \"openid\"\nprofile");
    let problems = TestSettings::new(&text).problems();
    assert_eq!(keys_of(&problems), ["providers.main.scopes"]);
    assert!(
        problems[0].ends_with("expected a list such as [\"...\"], found string \"openid\""),
        "{problems:#?}"
    );
}

#[test]
fn a_zero_instead_of_a_positive_number_is_explained() {
    let text = SMALL.replace("profile", "concurrent_calls = 0\nprofile");
    let problems = TestSettings::new(&text).problems();
    assert!(
        problems[0].ends_with("expected a whole number above 0, found signed int `0`"),
        "{problems:#?}"
    );
}

#[test]
fn the_complete_settings_files_in_the_readme_load() {
    let blocks = include_str!("../../README.md").split("```toml\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split("```").next());
    let complete: Vec<&str> = blocks
        .filter(|block| block.contains("public_url"))
        .collect();
    assert_eq!(complete.len(), 2);
    assert_eq!(
        complete.last(),
        Some(&include_str!("../../config/minimal.toml"))
    );
    for text in complete {
        let written = TestSettings::new(&text.replace("/run/secrets/sidegate", "@"));
        written.file("client_secret", "s3cret-canary\n");
        written.file(
            "oauth-public.key",
            include_str!("../../tests/data/passport/public_key.pem"),
        );
        let config = written.load().map_err(|problems| problems.to_string());
        assert_eq!(config.unwrap().warnings, [""; 0], "{text}");
    }
}
