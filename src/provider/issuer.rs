//! Whose server it is (OpenID Connect Core 1.0 section 2).
//!
//! Identifiers are compared byte for byte: a trailing slash, another case or a port make another
//! issuer (RFC 9207 section 2.4). One kind of server has an issuer for each tenant; such an
//! identifier is configured as a template.

use super::Error;
use super::settings::Settings;

/// What stands for the tenant in a template, in the words of the server that has them.
const TENANT: &str = "{tenantid}";

/// An issuer identifier, or a template and the tenants whose people are taken.
#[derive(Clone, Debug)]
pub(super) struct Issuer {
    text: Box<str>,
    tenants: Vec<Box<str>>,
}

impl Issuer {
    /// `None` where the settings name none.
    pub(super) fn new(settings: &Settings) -> Result<Option<Self>, Error> {
        let refuse = |key, problem| Err(Error::Setting { key, problem });
        let Some(text) = settings.issuer.as_deref() else {
            if settings.tenants.is_empty() {
                return Ok(None);
            }
            return refuse("tenants", "are given, but no issuer");
        };
        let web = text.starts_with("https://") || text.starts_with("http://");
        if !web || text.contains(['?', '#', ' ']) {
            return refuse("issuer", "is not a URL without query and fragment");
        }
        match (text.contains(TENANT), settings.tenants.as_slice()) {
            (true, []) => refuse("tenants", "is empty, but the issuer is that of any tenant"),
            (false, [_, ..]) => refuse("tenants", "are given, but the issuer has no {tenantid}"),
            (_, tenants) if tenants.iter().any(|tenant| !is_tenant(tenant)) => {
                refuse("tenants", "has an entry that is no tenant's identifier")
            }
            (_, tenants) => Ok(Some(Self {
                text: text.into(),
                tenants: tenants.iter().map(|tenant| (&**tenant).into()).collect(),
            })),
        }
    }

    /// The identifier or template as it is configured, which is what metadata has to say.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is a template.
    pub(super) fn has_tenants(&self) -> bool {
        !self.tenants.is_empty()
    }

    /// Whether `issuer` is this one, or that of one of the tenants.
    pub(super) fn is(&self, issuer: &str) -> bool {
        if self.tenants.is_empty() {
            return *self.text == *issuer;
        }
        let mut tenants = self.tenants.iter();
        tenants.any(|tenant| filled(&self.text, tenant) == issuer)
    }
}

/// `template` with a tenant in it.
pub(super) fn filled(template: &str, tenant: &str) -> String {
    template.replace(TENANT, tenant)
}

fn is_tenant(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(text: &str, tenants: &[&str]) -> Result<Option<Issuer>, Error> {
        let settings = serde_json::json!({
            "client_id": "3", "issuer": text, "tenants": tenants,
        });
        Issuer::new(&serde_json::from_value(settings).unwrap())
    }

    #[test]
    fn j_36_an_issuer_is_compared_byte_for_byte() {
        let issuer = issuer("https://id.example/realms/shop", &[])
            .unwrap()
            .unwrap();
        assert!(issuer.is("https://id.example/realms/shop"));
        for other in [
            "https://id.example/realms/shop/",
            "https://ID.example/realms/shop",
            "http://id.example/realms/shop",
            "https://id.example:443/realms/shop",
            "https://id.example/realms%2Fshop",
            "https://id.example/realms/shop\0",
            "https://id.example/realms/shop2",
            "",
        ] {
            assert!(!issuer.is(other), "{other:?}");
        }
    }

    #[test]
    fn only_listed_tenants_fill_a_template() {
        let template = "https://id.example/{tenantid}/v2.0";
        let issuer = issuer(template, &["one", "two"]).unwrap().unwrap();
        assert!(issuer.is("https://id.example/one/v2.0"));
        assert!(issuer.is("https://id.example/two/v2.0"));
        for other in [
            "https://id.example/three/v2.0",
            template,
            "https://id.example//v2.0",
        ] {
            assert!(!issuer.is(other), "{other}");
        }
    }

    #[test]
    fn what_cannot_be_an_issuer_is_refused() {
        for (text, tenants) in [
            ("id.example", &[][..]),
            ("https://id.example?x=1", &[]),
            ("https://id.example/{tenantid}", &[]),
            ("https://id.example", &["one"]),
            ("https://id.example/{tenantid}", &["a/b"]),
            ("https://id.example/{tenantid}", &[""]),
        ] {
            assert!(issuer(text, tenants).is_err(), "{text} {tenants:?}");
        }
    }
}
