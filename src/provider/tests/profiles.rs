//! Tests the profiles.

use super::*;

#[test]
fn every_profile_works_with_the_required_settings() {
    let files = Files::new();
    for name in profile::names() {
        let profile = profile::find(name).unwrap();
        let given = match name {
            "oauth2" => "authorization_endpoint = \"/authorize\"\ntoken_endpoint = \"/token\"",
            // The profile of a provider with only one server already contains the issuer.
            _ if profile.contains("\nissuer = ") => "",
            _ if profile.contains("discovery = ") => "issuer = \"https://id.example\"",
            _ => "",
        };
        let provider = files.provider(name, "https://id.example", given);
        assert!(provider.settings.pkce, "{name}");
        // The metadata has not been read yet.
        let needs_metadata = profile.contains("discovery = ");
        assert_eq!(provider.info().is_err(), needs_metadata, "{name}");
    }
    assert!(profile::names().is_sorted());
}

#[test]
fn the_passport_profiles_match_passport() {
    let files = Files::new();
    for name in ["laravel-passport-12", "laravel-passport-13"] {
        let settings = settings(name, &files.operator("https://id.example", ""));
        assert_eq!(settings.token_request.body, settings::BodyFormat::Json);
        assert_eq!(
            settings.client_authentication,
            settings::ClientAuthentication::ClientSecretPost
        );
        assert_eq!(settings.token_calls_per_minute.get(), 50);
        assert_eq!(settings.deadline_secs.get(), 15);
        assert_eq!(settings.identity.source, IdentitySource::AccessToken);
        assert_eq!(
            settings.access_token.algorithms,
            [settings::Algorithm::RS256]
        );
        assert!(settings.refresh.revokes_access_token);
        assert_eq!(settings.signed_out_answers.len(), 1);
    }
}
