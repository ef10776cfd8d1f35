//! The internal URL of a provider, which the gateway uses for its own calls to the provider.
//!
//! Browsers reach the provider at its public name, which is the name in the issuer. The gateway can
//! reach the same provider under another name, for example the name of a service in a Kubernetes
//! cluster. In every URL that the gateway calls, the setting `internal_url` replaces the issuer.

use url::Url;

use super::SetupError;
use super::endpoint::endpoint;
use super::settings::{Discovery, Settings};

/// The key of the setting for the internal URL.
const KEY: &str = "internal_url";

/// The issuer, and the URL that replaces the issuer when the gateway calls the provider.
#[derive(Clone, Debug)]
pub(super) struct InternalUrl {
    issuer: Url,
    internal: Url,
}

impl InternalUrl {
    /// Reads the setting. Returns `None` if there is no internal URL.
    ///
    /// # Errors
    ///
    /// Returns [`SetupError::Setting`] if the setting is not a URL, or has no effect.
    pub(super) fn new(settings: &Settings) -> Result<Option<Self>, SetupError> {
        let refuse = |problem| Err(SetupError::Setting { key: KEY, problem });
        let Some(text) = &settings.internal_url else {
            return Ok(None);
        };
        let internal = endpoint(KEY, None, text)?;
        if internal.query().is_some() {
            return refuse("has a query");
        }
        let Some(issuer) = &settings.issuer else {
            return refuse("is given, but there is no `issuer` that it can replace");
        };
        if settings.discovery == Discovery::None {
            return refuse(
                "has no effect without metadata; write the internal URLs as token_endpoint, \
                 userinfo_endpoint and jwks_uri",
            );
        }
        let called = [
            &settings.metadata_url,
            &settings.token_endpoint,
            &settings.userinfo_endpoint,
            &settings.jwks_uri,
        ];
        if called.into_iter().all(Option::is_some) {
            return refuse("has no effect, because the settings contain every URL that is called");
        }
        if !settings.tenants.is_empty() {
            return refuse("cannot replace an issuer with {tenantid}");
        }
        let issuer = endpoint("issuer", None, issuer)?;
        Ok(Some(Self { issuer, internal }))
    }

    /// Returns true if `url` has the origin of the internal URL, but not the origin of the issuer.
    pub(super) fn is_at(&self, url: &Url) -> bool {
        url.origin() == self.internal.origin() && !self.replaces(url)
    }

    /// Returns true if `url` has the origin of the issuer.
    pub(super) fn replaces(&self, url: &Url) -> bool {
        url.origin() == self.issuer.origin()
    }

    /// Returns the URL that the gateway calls instead of the URL `public`. A URL that does not have
    /// the origin of the issuer stays unchanged. Returns `None` if the following rules give no
    /// internal URL for `public`.
    ///
    /// If the path of `public` begins with the issuer's path, the path of the internal URL replaces
    /// the issuer's path. If the path of `public` does not begin with the path of the issuer, the
    /// internal URL must end with the path of the issuer. In this case, the path of `public`
    /// replaces the issuer's path at the end of the internal URL. For example, with the issuer
    /// `https://id.example/o/app` and the internal URL `http://id:9000/o/app`, the result for
    /// `https://id.example/o/token` is `http://id:9000/o/token`.
    pub(super) fn of(&self, public: &Url) -> Option<Url> {
        if !self.replaces(public) {
            return Some(public.clone());
        }
        let [issuer, internal] =
            [&self.issuer, &self.internal].map(|url| url.path().trim_end_matches('/'));
        let below = public.path().strip_prefix(issuer);
        let path = match below.filter(|below| below.is_empty() || below.starts_with('/')) {
            Some(below) => format!("{internal}{below}"),
            None => format!("{}{}", internal.strip_suffix(issuer)?, public.path()),
        };
        let mut url = self.internal.clone();
        url.set_path(&path);
        url.set_query(public.query());
        Some(url)
    }
}

#[cfg(test)]
mod tests {
    use figment::Figment;
    use figment::providers::{Format as _, Toml};

    use super::*;

    fn read(issuer: &str, internal: &str, further: &str) -> Result<InternalUrl, String> {
        let text = format!(
            "client_id = \"3\"\nissuer = \"{issuer}\"\ninternal_url = \"{internal}\"\n{further}"
        );
        let settings: Settings = Figment::from(Toml::string(&text)).extract().unwrap();
        let read = InternalUrl::new(&settings).map_err(|error| error.to_string());
        read.map(|url| url.unwrap())
    }

    const OPENID: &str = "discovery = \"openid\"";

    #[test]
    fn the_internal_url_replaces_the_issuer() {
        for (issuer, internal, public, called) in [
            (
                "https://id.example/realms/x",
                "http://keycloak:8080/realms/x",
                "https://id.example/realms/x/protocol/token?a=b",
                Some("http://keycloak:8080/realms/x/protocol/token?a=b"),
            ),
            (
                "https://id.example/",
                "http://id:80/base/",
                "https://id.example/token",
                Some("http://id/base/token"),
            ),
            (
                "https://id.example/app",
                "http://id/other",
                "https://id.example/app//token",
                Some("http://id/other//token"),
            ),
            // The endpoint is not below the issuer.
            (
                "https://id.example/o/app/",
                "https://id:9443/base/o/app/",
                "https://id.example/o/token/",
                Some("https://id:9443/base/o/token/"),
            ),
            (
                "https://id.example/app",
                "http://id:9000/other",
                "https://id.example/application/token",
                None,
            ),
            // The endpoint has another origin than the issuer.
            (
                "https://id.example",
                "http://id:9000",
                "https://keys.example/jwks",
                Some("https://keys.example/jwks"),
            ),
            (
                "https://id.example",
                "http://id:9000",
                "https://id.example:8443/jwks",
                Some("https://id.example:8443/jwks"),
            ),
        ] {
            let url = read(issuer, internal, OPENID).unwrap();
            let found = url.of(&public.parse().unwrap());
            assert_eq!(found.as_ref().map(Url::as_str), called, "{public}");
        }
    }

    #[test]
    fn an_internal_url_without_an_effect_is_refused() {
        for (issuer, internal, further, why) in [
            ("https://id.example", "http://id", "", "no effect"),
            (
                "https://id.example",
                "http://id",
                "discovery = \"openid\"\nmetadata_url = \"https://id.example/m\"\n\
                 token_endpoint = \"https://id.example/t\"\n\
                 userinfo_endpoint = \"https://id.example/u\"\n\
                 jwks_uri = \"https://id.example/j\"",
                "no effect",
            ),
            ("https://id.example", "id:8080", OPENID, "not an http"),
            ("https://id.example", "http://id?x", OPENID, "a query"),
            ("https://id.example", "http://id#x", OPENID, "a fragment"),
            ("https://id.example", "http://a:b@id", OPENID, "a user name"),
            (
                "https://id.example/{tenantid}",
                "http://id",
                "discovery = \"openid\"\ntenants = [\"one\"]",
                "{tenantid}",
            ),
        ] {
            let error = read(issuer, internal, further).unwrap_err();
            assert!(error.contains("internal_url"), "{error}");
            assert!(error.contains(why), "{internal}: {error}");
        }
    }
}
