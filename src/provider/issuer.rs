//! The issuer identifier of a provider (OpenID Connect Core 1.0 section 2).
//!
//! The gateway compares issuer identifiers byte for byte. Two identifiers belong to different
//! issuers even if only a trailing slash, the letter case or the port is different (RFC 9207
//! section 2.4). Microsoft Entra has one issuer for each tenant, so the operator configures a
//! template for the issuers of Entra.

use super::SetupError;
use super::settings::Settings;

/// The placeholder for the tenant in a template. The issuer in Entra's metadata contains the same
/// placeholder.
const TENANT: &str = "{tenantid}";

/// Path segments that Entra accepts instead of the identifier of a tenant. Metadata whose URL
/// contains the segment `common` is valid for all tenants.
const SHARED_SEGMENTS: [&str; 3] = ["common", "consumers", "organizations"];

/// The tenant of all personal Microsoft accounts (Microsoft identity platform, "Access tokens",
/// `tid`).
const PERSONAL_ACCOUNTS: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

/// The text with which every issuer identifier of Microsoft Entra begins.
const ENTRA: &str = "https://login.microsoftonline.com/";

/// The path that follows the issuer in the URL of the metadata.
const WELL_KNOWN: &str = "/.well-known/";

/// An issuer identifier, or a template with the tenants whose users are accepted.
#[derive(Clone, Debug)]
pub(super) struct Issuer {
    text: Box<str>,
    tenants: Vec<Box<str>>,
}

impl Issuer {
    /// Reads and checks the issuer and the tenants in `settings`. Returns `None` if the settings
    /// have no issuer.
    pub(super) fn new(settings: &Settings) -> Result<Option<Self>, SetupError> {
        let refuse = |key, problem| Err(SetupError::Setting { key, problem });
        let Some(text) = settings.issuer.as_deref() else {
            if settings.tenants.is_empty() {
                return Ok(None);
            }
            return refuse("tenants", "is given, but there is no issuer");
        };
        if let Some(problem) = format_problem(text) {
            return refuse("issuer", problem);
        }
        // Anybody can get a personal Microsoft account, so the settings may name the tenant of
        // personal accounts only if `open_registration` is true.
        let named = [
            ("issuer", text.split('/').any(is_personal)),
            (
                "tenants",
                settings.tenants.iter().any(|name| is_personal(name)),
            ),
        ];
        let personal = named.into_iter().find(|(_key, personal)| *personal);
        if let Some((key, _)) = personal.filter(|_| !settings.open_registration) {
            let problem = "has the tenant of personal Microsoft accounts, which anybody can get; \
                           write open_registration = true if this is intended";
            return refuse(key, problem);
        }
        match (text.contains(TENANT), settings.tenants.as_slice()) {
            (true, []) => refuse(
                "tenants",
                "is empty, but the issuer has {tenantid}; list the tenants whose users are accepted",
            ),
            (false, [_, ..]) => refuse("tenants", "is given, but the issuer has no {tenantid}"),
            (_, tenants) if tenants.iter().any(|tenant| names_no_tenant(tenant)) => refuse(
                "tenants",
                "has \"common\", \"organizations\" or \"consumers\", which names no tenant; list the \
                 identifiers of the tenants whose users are accepted",
            ),
            (_, tenants) if tenants.iter().any(|tenant| !is_tenant(tenant)) => {
                refuse("tenants", "has an entry that is not a tenant identifier")
            }
            (_, tenants) => Ok(Some(Self {
                text: text.into(),
                tenants: tenants.iter().map(|tenant| (&**tenant).into()).collect(),
            })),
        }
    }

    /// Returns the identifier or the template as configured. The issuer in the metadata must be
    /// equal to the configured identifier or template.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns true if the issuer is a template with tenants.
    pub(super) fn has_tenants(&self) -> bool {
        !self.tenants.is_empty()
    }

    /// Returns true if `issuer` is the configured issuer, or the issuer of one of the tenants.
    pub(super) fn matches(&self, issuer: &str) -> bool {
        if self.tenants.is_empty() {
            return *self.text == *issuer;
        }
        let mut tenants = self.tenants.iter();
        tenants.any(|tenant| fill_template(&self.text, tenant) == issuer)
    }
}

/// Replaces the placeholder in `template` by a tenant.
pub(super) fn fill_template(template: &str, tenant: &str) -> String {
    template.replace(TENANT, tenant)
}

/// Returns the problem if `text` is not a valid issuer.
fn format_problem(text: &str) -> Option<&'static str> {
    if !text.starts_with("https://") && !text.starts_with("http://") {
        Some("must begin with https://")
    } else if text.contains(['?', '#']) {
        Some("has a query or a fragment, which an issuer must not have")
    } else if is_shared_by_all_tenants(text) {
        Some(
            "names no tenant; replace \"common\", \"organizations\" or \"consumers\" by the identifier \
             of a tenant, or by {tenantid} and list the tenants",
        )
    } else if text.contains(' ') {
        Some("has a space in it")
    } else if text.contains(WELL_KNOWN) {
        Some(
            "is the URL of metadata; write the part before /.well-known/, or the value of `issuer` \
             in the metadata",
        )
    } else {
        None
    }
}

/// Returns true if `issuer` is a URL of Entra that all tenants share. A URL that all tenants share
/// is never the issuer of a token.
fn is_shared_by_all_tenants(issuer: &str) -> bool {
    let tenant = issuer.strip_prefix(ENTRA);
    let tenant = tenant.and_then(|path| path.split('/').next());
    tenant.is_some_and(names_no_tenant)
}

fn names_no_tenant(text: &str) -> bool {
    SHARED_SEGMENTS
        .iter()
        .any(|name| text.eq_ignore_ascii_case(name))
}

fn is_personal(text: &str) -> bool {
    text.eq_ignore_ascii_case(PERSONAL_ACCOUNTS)
}

fn is_tenant(text: &str) -> bool {
    // A slash or another special character in a tenant could change the structure of the issuer
    // URL.
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(text: &str, tenants: &[&str]) -> Result<Option<Issuer>, SetupError> {
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
        assert!(issuer.matches("https://id.example/realms/shop"));
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
            assert!(!issuer.matches(other), "{other:?}");
        }
    }

    #[test]
    fn only_listed_tenants_fill_a_template() {
        let template = "https://id.example/{tenantid}/v2.0";
        let issuer = issuer(template, &["one", "two"]).unwrap().unwrap();
        assert!(issuer.matches("https://id.example/one/v2.0"));
        assert!(issuer.matches("https://id.example/two/v2.0"));
        for other in [
            "https://id.example/three/v2.0",
            template,
            "https://id.example//v2.0",
        ] {
            assert!(!issuer.matches(other), "{other}");
        }
    }

    #[test]
    fn what_cannot_be_an_issuer_is_refused() {
        let template = "https://id.example/{tenantid}";
        for (text, tenants, why) in [
            ("id.example", &[][..], "`issuer` must begin with https://"),
            ("ftp://id.example", &[], "must begin with https://"),
            ("https://id.example?x=1", &[], "has a query or a fragment"),
            ("https://id.example#x", &[], "has a query or a fragment"),
            ("https://id.example/a b", &[], "has a space"),
            (
                "https://id.example/.well-known/openid-configuration",
                &[],
                "write the part before /.well-known/",
            ),
            (
                "https://id.example/.well-known/oauth-authorization-server/realm",
                &[],
                "the value of `issuer` in the metadata",
            ),
            (
                "https://login.microsoftonline.com/common/v2.0",
                &[],
                "names no tenant; replace \"common\"",
            ),
            (
                "https://login.microsoftonline.com/Organizations",
                &[],
                "names no tenant",
            ),
            (template, &[], "`tenants` is empty"),
            ("https://id.example", &["one"], "`tenants` is given"),
            (template, &["a/b"], "not a tenant identifier"),
            (template, &[""], "not a tenant identifier"),
            (template, &["one", "common"], "names no tenant"),
            (template, &["Organizations"], "names no tenant"),
            (template, &["consumers"], "names no tenant"),
        ] {
            let error = issuer(text, tenants).unwrap_err().to_string();
            assert!(error.contains(why), "{text} {tenants:?}: {error}");
        }
    }

    #[test]
    fn a_realm_elsewhere_may_be_called_common() {
        assert!(issuer("https://id.example/realms/common", &[]).is_ok());
    }

    #[test]
    fn personal_accounts_need_open_registration() {
        let own = format!("https://id.example/{PERSONAL_ACCOUNTS}/v2.0");
        let upper = PERSONAL_ACCOUNTS.to_ascii_uppercase();
        for (text, tenants) in [
            (&*own, &[][..]),
            ("https://id.example/{tenantid}", &["one", PERSONAL_ACCOUNTS]),
            ("https://id.example/{tenantid}", &[&*upper]),
        ] {
            let read = |open_registration: bool| {
                let settings = serde_json::json!({
                    "client_id": "3", "issuer": text, "tenants": tenants,
                    "open_registration": open_registration,
                });
                Issuer::new(&serde_json::from_value(settings).unwrap())
            };
            let error = read(false).unwrap_err().to_string();
            assert!(error.contains("open_registration = true"), "{error}");
            assert!(read(true).is_ok(), "{text}");
        }
    }
}
