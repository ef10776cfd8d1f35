//! The redirection endpoints, where providers send their answers (RFC 6749 section 3.1.2).

use super::{OwnPaths, PublicUrl};
use crate::target::Prefix;

/// The gateway's redirection endpoint for each provider. The path of a redirection endpoint is the
/// same at every origin of the gateway.
///
/// If there is only one provider, its redirection endpoint has the configured path. If there are
/// several providers, each provider has its own path below the configured path. The gateway never
/// accepts the answer of one provider as the answer of another provider, because each provider has
/// its own path (RFC 9700 section 4.4.2.2).
#[derive(Clone, Debug)]
pub(crate) struct RedirectionEndpoints {
    path: Box<str>,
    /// The configured path, if it is not below the prefix of the gateway's own endpoints.
    elsewhere: Option<Prefix>,
    /// The configured names of the providers, sorted.
    providers: Box<[Box<str>]>,
}

impl RedirectionEndpoints {
    /// Creates the redirection endpoints. The path of each redirection endpoint is `path` or a path
    /// below `path`. `own` are the paths of the other endpoints of the gateway. `providers` are the
    /// configured names of all providers.
    pub(crate) fn new<'a>(
        path: &str,
        own: &OwnPaths,
        providers: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut providers: Vec<Box<str>> = providers.into_iter().map(Into::into).collect();
        providers.sort_unstable();
        Self {
            path: path.into(),
            elsewhere: Prefix::parse(path).ok().filter(|_| !own.cover(path)),
            providers: providers.into(),
        }
    }

    /// Returns the configured path.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Returns true if `path` is reserved for redirection endpoints, even if `path` is written in an
    /// unusual way. If there are several providers, every path below the configured path is
    /// reserved, even if no provider has the name in the path.
    pub(crate) fn is_own_path(&self, path: &str) -> bool {
        match path.strip_prefix(&*self.path) {
            Some("") => return true,
            Some(below) if self.providers.len() > 1 && below.starts_with('/') => return true,
            Some(_) | None => {}
        }
        // `OwnPaths::cover` finds the other spellings of a path below the prefix of the gateway.
        let covering = self.elsewhere.as_ref().filter(|own| own.covers(path));
        covering.is_some_and(|own| self.providers.len() > 1 || own.rest(path).is_empty())
    }

    /// Returns the provider whose redirection endpoint has the path `path`.
    pub(crate) fn provider_at(&self, path: &str) -> Option<&str> {
        let below = path.strip_prefix(&*self.path)?;
        if let [only] = &*self.providers {
            return below.is_empty().then_some(only);
        }
        let below = below.strip_prefix('/')?;
        let mut names = self.providers.iter().map(AsRef::as_ref);
        names.find(|name| *name == below)
    }

    /// Returns the redirection URI that the operator must register at `provider` for the origin
    /// `public_url`.
    pub(crate) fn redirect_uri(&self, public_url: &PublicUrl, provider: &str) -> String {
        let (origin, path) = (public_url.origin(), &self.path);
        match &*self.providers {
            [] | [_] => format!("{origin}{path}"),
            _ => format!("{origin}{path}/{provider}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/oauth2/callback";

    fn endpoints<const N: usize>(path: &str, providers: [&str; N]) -> RedirectionEndpoints {
        let own = OwnPaths::try_from("/oauth2/".to_owned()).unwrap();
        RedirectionEndpoints::new(path, &own, providers)
    }

    #[test]
    fn a_single_provider_uses_the_configured_path() {
        let endpoints = endpoints(PATH, ["main"]);
        assert_eq!(endpoints.provider_at(PATH), Some("main"));
        for other in ["/oauth2/callback/main", "/oauth2/callback/", "/oauth2", ""] {
            assert_eq!(endpoints.provider_at(other), None, "{other}");
            assert!(!endpoints.is_own_path(other), "{other}");
        }
        assert!(endpoints.is_own_path(PATH));
    }

    #[test]
    fn p_45_no_spelling_of_a_redirection_endpoint_elsewhere_belongs_to_an_app() {
        let one = endpoints("/auth/callback", ["main"]);
        let several = endpoints("/auth/callback", ["main", "work"]);
        for spelling in [
            "/auth/callback",
            "/Auth/CALLBACK",
            "/auth;x/callback",
            "/auth/callback;x=1",
            "/auth/callback.",
        ] {
            assert!(one.is_own_path(spelling), "{spelling}");
            assert!(several.is_own_path(spelling), "{spelling}");
        }
        for spelling in ["/Auth/callback", "/auth/callback;x"] {
            assert_eq!(one.provider_at(spelling), None, "{spelling}");
        }
        for below in ["/auth/callback/main", "/AUTH/callback/main"] {
            assert!(
                !one.is_own_path(below) && several.is_own_path(below),
                "{below}"
            );
        }
        for apps in ["/auth", "/auth/callbacks", "/auth/Call", "/x/auth/callback"] {
            assert!(
                !one.is_own_path(apps) && !several.is_own_path(apps),
                "{apps}"
            );
        }
    }

    #[test]
    fn a_23_each_of_several_providers_has_its_own_endpoint() {
        let endpoints = endpoints(PATH, ["work", "main"]);
        let public_url = PublicUrl::try_from("https://gw.test".to_owned()).unwrap();
        for name in ["main", "work"] {
            let path = format!("{PATH}/{name}");
            assert_eq!(endpoints.provider_at(&path), Some(name));
            let uri = endpoints.redirect_uri(&public_url, name);
            assert_eq!(uri, format!("https://gw.test{path}"));
        }
        for nobodys in [
            PATH,
            "/oauth2/callback/",
            "/oauth2/callback/Main",
            "/oauth2/callback/main/",
            "/oauth2/callback/nobody",
        ] {
            assert_eq!(endpoints.provider_at(nobodys), None, "{nobodys}");
            assert!(endpoints.is_own_path(nobodys), "{nobodys}");
        }
        for apps in ["/oauth2/callbacks", "/oauth2", "/main", "/"] {
            assert!(!endpoints.is_own_path(apps), "{apps}");
        }
    }
}
