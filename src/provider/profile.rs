//! A profile contains the defaults for one kind of provider, as data.
//!
//! A profile is a TOML table with any of the keys of [`Settings`](super::settings::Settings). The
//! operator's settings override the values of the profile.

/// The name and the TOML text of each profile, in alphabetical order.
const PROFILES: [(&str, &str); 18] = [
    ("auth0", include_str!("../../config/providers/auth0.toml")),
    (
        "authentik",
        include_str!("../../config/providers/authentik.toml"),
    ),
    (
        "canaille",
        include_str!("../../config/providers/canaille.toml"),
    ),
    ("dex", include_str!("../../config/providers/dex.toml")),
    ("entra", include_str!("../../config/providers/entra.toml")),
    ("github", include_str!("../../config/providers/github.toml")),
    ("gitlab", include_str!("../../config/providers/gitlab.toml")),
    ("google", include_str!("../../config/providers/google.toml")),
    ("hydra", include_str!("../../config/providers/hydra.toml")),
    (
        "keycloak",
        include_str!("../../config/providers/keycloak.toml"),
    ),
    (
        "laravel-passport-12",
        include_str!("../../config/providers/laravel-passport-12.toml"),
    ),
    (
        "laravel-passport-13",
        include_str!("../../config/providers/laravel-passport-13.toml"),
    ),
    (
        "lemonldap-ng",
        include_str!("../../config/providers/lemonldap-ng.toml"),
    ),
    ("oauth2", include_str!("../../config/providers/oauth2.toml")),
    ("oidc", include_str!("../../config/providers/oidc.toml")),
    ("okta", include_str!("../../config/providers/okta.toml")),
    (
        "spring-authorization-server",
        include_str!("../../config/providers/spring-authorization-server.toml"),
    ),
    (
        "zitadel",
        include_str!("../../config/providers/zitadel.toml"),
    ),
];

/// Returns the names of all profiles, in alphabetical order.
pub fn names() -> impl Iterator<Item = &'static str> {
    PROFILES.iter().map(|(name, _text)| *name)
}

/// Returns the TOML text of a profile.
///
/// ```
/// use sidegate::provider::profile;
///
/// assert!(profile::find("oauth2").unwrap().contains("token_calls_per_minute"));
/// assert!(profile::find("oauth1").is_none());
/// ```
pub fn find(name: &str) -> Option<&'static str> {
    let (_name, text) = PROFILES.iter().find(|(known, _text)| *known == name)?;
    Some(text)
}
