//! Tests of the profiles of providers.

use super::Source;
use super::tests::TestSettings;
use crate::provider::{self, profile};

/// Returns the settings of a provider whose settings table contains only `profile` and `client_id`.
fn bare(profile: &str) -> provider::Settings {
    let text = format!("[providers.main]\nprofile = \"{profile}\"\nclient_id = \"me\"\n");
    let written = TestSettings::new(&text);
    let path = written.path();
    let text = std::fs::read_to_string(&path).unwrap();
    Source::file(path)
        .layers(&text)
        .extract_inner("providers.main")
        .unwrap()
}

#[test]
fn every_profile_has_keys_that_a_provider_knows() {
    for name in profile::names() {
        assert_eq!(bare(name).profile.as_deref(), Some(name));
    }
    assert!(profile::names().is_sorted());
}

#[test]
fn every_profile_names_the_required_settings_and_says_whether_it_was_tested() {
    for name in profile::names() {
        let text = profile::find(name).unwrap();
        assert!(text.contains("Required settings: "), "{name}");
        let run = text.matches("\n# Tested with ").count();
        let written = text
            .matches("\n# Not tested with a real server: written from ")
            .count();
        assert_eq!(run + written, 1, "{name}");
    }
}

#[test]
fn profiles_with_open_registration_are_marked() {
    let open = profile::names().filter(|name| bare(name).open_registration);
    let open: Vec<&str> = open.collect();
    assert_eq!(open, ["auth0", "github", "gitlab", "google", "zitadel"]);
}

#[test]
fn a_profile_with_openid_discovery_requests_and_uses_an_id_token() {
    use crate::provider::settings::{Discovery, EmailsVerified, IdentitySource};
    for name in profile::names() {
        let settings = bare(name);
        let discovers = settings.discovery == Discovery::Openid;
        let uses_id_token = settings.identity.source == IdentitySource::IdToken;
        let asks = settings
            .scopes
            .first()
            .is_some_and(|scope| scope == "openid");
        assert_eq!((uses_id_token, asks), (discovers, discovers), "{name}");
        assert_ne!(
            settings.identity.emails_verified,
            EmailsVerified::Always,
            "{name}"
        );
    }
}
