//! The endpoints and the client authentication of a provider, from the settings and the metadata.
//! Settings override the metadata.

use std::time::Duration;

use http::HeaderValue;
use url::Url;
use url::form_urlencoded::byte_serialize;

use super::SetupError;
use super::authorization::AuthorizationEndpoint;
use super::client_auth::{ClientAuth, Credentials, basic_authorization};
use super::endpoint::{Endpoint, endpoint, is_clear_text};
use super::group_lists::GroupList;
use super::metadata::Metadata;
use super::settings::{Discovery, GroupsEndpoint, Settings};
use crate::origin::{Proxies, Proxy};
use crate::secret::Environment;
use crate::tls::Trust;

/// The trusted certificates, the proxies and the deadline for calls to a provider.
#[derive(Debug)]
pub(super) struct CallSettings {
    pub(super) trust: Option<Trust>,
    pub(super) proxies: Proxies,
    pub(super) deadline: Duration,
}

/// The setting with the endpoints that list groups.
pub(super) const GROUPS: &str = "identity.groups_endpoints";

/// The setting with the URL of the provider's own request that revokes a token.
const REVOCATION_URL: &str = "sign_out.revocation_request.url";

impl CallSettings {
    /// Reads the certificate authorities if `ca_file` is set, or if a call to the provider can need
    /// TLS.
    ///
    /// # Errors
    ///
    /// Returns [`SetupError::Setting`] if a URL would use plain http over a network. Returns
    /// [`SetupError::Trust`] if the certificate authorities cannot be used.
    pub(super) fn new(settings: &Settings, environment: &Environment) -> Result<Self, SetupError> {
        check_clear_text(settings)?;
        let configured = [
            &settings.issuer,
            &settings.internal_url,
            &settings.metadata_url,
            &settings.url,
            &settings.authorization_endpoint,
            &settings.token_endpoint,
            &settings.userinfo_endpoint,
            &settings.jwks_uri,
            &settings.revocation_endpoint,
            &settings.identity.emails_endpoint,
        ];
        let lists = &settings.identity.groups_endpoints;
        let lists = lists.iter().map(|list| &list.endpoint);
        let own_revocation = settings.sign_out.own_revocation().map(|own| &own.url);
        let further = lists.chain(own_revocation);
        let mut configured = configured.into_iter().flatten().chain(further);
        let uses_tls = configured.any(|url| url.starts_with("https:"));
        // The metadata can contain an `https` endpoint, even if no configured URL uses TLS.
        let may_use_tls = uses_tls || settings.discovery != Discovery::None;
        let trust = match &settings.ca_file {
            // An unusable `ca_file` is always an error, even if no URL uses TLS now.
            Some(path) => Some(Trust::from_file(path).map_err(SetupError::Trust)?),
            None if uses_tls => Some(Trust::system().map_err(SetupError::Trust)?),
            None if may_use_tls => Trust::system().ok(),
            None => None,
        };
        Ok(Self {
            trust: named(trust, settings, may_use_tls)?,
            proxies: proxies(settings, environment)?,
            deadline: Duration::from_secs(settings.deadline_secs.get().into()),
        })
    }

    /// Prepares one endpoint.
    ///
    /// # Errors
    ///
    /// Returns [`SetupError::Setting`] if the endpoint cannot be called.
    pub(super) fn endpoint(&self, key: &'static str, url: &Url) -> Result<Endpoint, SetupError> {
        Endpoint::new(key, url, self)
    }
}

/// Reads the setting `proxy`. If `proxy` is not set, environment variables name the proxies.
fn proxies(settings: &Settings, environment: &Environment) -> Result<Proxies, SetupError> {
    let key = "proxy";
    let text = match settings.proxy.as_deref() {
        None => return Ok(Proxies::from_variables(environment)),
        Some("none") => return Ok(Proxies::Fixed(None)),
        Some(text) => text,
    };
    let problem = "must be \"http://HOST:PORT\" or \"none\"";
    let proxy: Proxy = text
        .parse()
        .map_err(|_invalid| SetupError::Setting { key, problem })?;
    if proxy.has_credentials() {
        let problem = "has a user name or password in it; a secret must not be in the settings; \
                       write the whole URL into the variable https_proxy or http_proxy";
        return Err(SetupError::Setting { key, problem });
    }
    Ok(Proxies::Fixed(Some(proxy)))
}

/// Applies the setting `server_name`.
fn named(
    trust: Option<Trust>,
    settings: &Settings,
    may_use_tls: bool,
) -> Result<Option<Trust>, SetupError> {
    let key = "server_name";
    let Some(name) = &settings.server_name else {
        return Ok(trust);
    };
    let problem = "has no effect, because no URL of the provider begins with https";
    let trust = trust.filter(|_trust| may_use_tls);
    let trust = trust.ok_or(SetupError::Setting { key, problem })?;
    let problem = "is not a host name or an IP address";
    let named = trust.with_server_name(name);
    let named = named.map_err(|_invalid| SetupError::Setting { key, problem })?;
    Ok(Some(named))
}

/// Refuses plain http to other machines, unless `plain_http` is true.
///
/// This function checks only the URLs in the settings. [`Metadata::read`] accepts a plain http URL
/// only at the origin of the issuer or of the internal URL. Because this function checks the issuer
/// and the internal URL, the endpoints in the metadata need no further check.
fn check_clear_text(settings: &Settings) -> Result<(), SetupError> {
    let configured = [
        ("issuer", &settings.issuer),
        ("internal_url", &settings.internal_url),
        ("metadata_url", &settings.metadata_url),
        ("jwks_uri", &settings.jwks_uri),
        ("token_endpoint", &settings.token_endpoint),
        ("userinfo_endpoint", &settings.userinfo_endpoint),
        (
            "identity.emails_endpoint",
            &settings.identity.emails_endpoint,
        ),
        ("authorization_endpoint", &settings.authorization_endpoint),
        ("end_session_endpoint", &settings.end_session_endpoint),
        ("revocation_endpoint", &settings.revocation_endpoint),
    ];
    let configured = configured.into_iter();
    let configured = configured.filter_map(|(key, text)| Some((key, text.as_deref()?)));
    let lists = settings.identity.groups_endpoints.iter();
    let lists = lists.map(|list| (GROUPS, &*list.endpoint));
    let own_revocation = settings.sign_out.own_revocation();
    let further = lists.chain(own_revocation.map(|own| (REVOCATION_URL, &*own.url)));
    let secure_issuer = settings
        .issuer
        .as_ref()
        .is_some_and(|issuer| issuer.starts_with("https://"));
    for (key, text) in configured.chain(further) {
        // This function ignores an invalid URL, because [`Endpoint::new`] returns a better error.
        let url = endpoint(key, settings.url.as_deref(), text);
        if !url.is_ok_and(|url| is_clear_text(&url)) {
            continue;
        }
        let refuse = |problem| Err(SetupError::Setting { key, problem });
        // If the keys were sent without TLS, an attacker on the network could replace the keys and
        // issue tokens in the name of the issuer.
        if secure_issuer && matches!(key, "metadata_url" | "jwks_uri") {
            return refuse(
                "is plain http, but the issuer is https; keys have to come by https as well",
            );
        }
        if !settings.plain_http {
            return refuse(
                "is plain http to another machine: secrets, tokens and keys can be read and \
                 changed on the way; write https, or plain_http = true where nobody else can \
                 reach that network",
            );
        }
        tracing::warn!(
            key,
            "The endpoint has no TLS: secrets and tokens cross the network unencrypted"
        );
    }
    Ok(())
}

/// The data that is needed for authorization requests and calls to a provider.
#[derive(Debug)]
pub(super) struct ProviderInfo {
    pub(super) authorization: AuthorizationEndpoint,
    pub(super) token: Endpoint,
    pub(super) userinfo: Option<Endpoint>,
    pub(super) emails: Option<Endpoint>,
    pub(super) group_lists: Vec<GroupList>,
    pub(super) jwks: Option<Endpoint>,
    /// The URL to which a sign-out sends the browser. `None` if there is no end-session endpoint, or
    /// if the settings switch its use off.
    pub(super) end_session: Option<Url>,
    /// Where a sign-out revokes a token. `None` if there is no revocation endpoint, or if the
    /// settings switch its use off.
    pub(super) revocation: Option<Revocation>,
    /// The page at which a user signs out at the provider, if there is no end-session endpoint.
    pub(super) sign_out_page: Option<Url>,
    pub(super) client_auth: ClientAuth,
    /// True if the provider sends its issuer in every authorization response (RFC 9207 section 3).
    pub(super) promises_iss: bool,
    /// The metadata from which the endpoints were read, if the settings use metadata.
    pub(super) metadata: Option<Metadata>,
}

impl ProviderInfo {
    /// Combines the settings with the metadata.
    ///
    /// # Errors
    ///
    /// Returns [`SetupError::Setting`] if an endpoint cannot be used. The function also returns
    /// [`SetupError::Setting`] if neither the settings nor the metadata contain a required
    /// endpoint.
    pub(super) fn new(
        settings: &Settings,
        credentials: &Credentials,
        call_settings: &CallSettings,
        metadata: Option<Metadata>,
    ) -> Result<Self, SetupError> {
        let read = metadata.as_ref();
        let base = settings.url.as_deref();
        let required = |key, configured: &Option<String>, published: Option<&String>| {
            let problem = "is missing";
            let url = locate(key, base, configured.as_ref(), published)?;
            url.ok_or(SetupError::Setting { key, problem })
        };
        let optional = |key, configured: &Option<String>, published: Option<&String>| {
            let url = locate(key, base, configured.as_ref(), published)?;
            url.map(|url| call_settings.endpoint(key, &url)).transpose()
        };
        let authorization = required(
            "authorization_endpoint",
            &settings.authorization_endpoint,
            read.and_then(|read| read.authorization_endpoint.as_ref()),
        )?;
        let token = required(
            "token_endpoint",
            &settings.token_endpoint,
            read.and_then(|read| read.token_endpoint.as_ref()),
        )?;
        let userinfo = optional(
            "userinfo_endpoint",
            &settings.userinfo_endpoint,
            read.and_then(|read| read.userinfo_endpoint.as_ref()),
        )?;
        let jwks = optional(
            "jwks_uri",
            &settings.jwks_uri,
            read.and_then(|read| read.jwks_uri.as_ref()),
        )?;
        let sign_out = SignOutEndpoints::new(settings, (call_settings, credentials), read)?;
        let emails = &settings.identity.emails_endpoint;
        let group_list = |list: &GroupsEndpoint| {
            let url = endpoint(GROUPS, base, &list.endpoint)?;
            let endpoint = call_settings.endpoint(GROUPS, &url)?;
            Ok(GroupList::new(endpoint, url, list))
        };
        let group_lists = settings.identity.groups_endpoints.iter().map(group_list);
        let supported = read.and_then(|read| read.token_endpoint_auth_methods_supported.as_deref());
        Ok(Self {
            authorization: AuthorizationEndpoint::new(settings, &authorization)?,
            token: call_settings.endpoint("token_endpoint", &token)?,
            userinfo,
            emails: optional("identity.emails_endpoint", emails, None)?,
            group_lists: group_lists.collect::<Result<_, SetupError>>()?,
            jwks,
            end_session: sign_out.end_session,
            revocation: sign_out.revocation,
            sign_out_page: locate("sign_out.page", base, settings.sign_out.page.as_ref(), None)?,
            client_auth: ClientAuth::new(settings, supported, credentials)?,
            promises_iss: read
                .is_some_and(|read| read.authorization_response_iss_parameter_supported),
            metadata,
        })
    }
}

/// Where and how a sign-out revokes a token.
#[derive(Debug)]
pub(super) struct Revocation {
    pub(super) endpoint: Endpoint,
    /// The client authentication of the provider's own request
    /// ([`SignOutSettings::own_revocation`](super::settings::SignOutSettings)). `None` for a
    /// revocation endpoint of RFC 7009.
    pub(super) own_authorization: Option<HeaderValue>,
}

impl Revocation {
    /// The setting that contains the URL.
    pub(super) fn key(&self) -> &'static str {
        if self.own_authorization.is_some() {
            REVOCATION_URL
        } else {
            "revocation_endpoint"
        }
    }

    /// Prepares the provider's own request, if the settings contain one.
    fn own(
        settings: &Settings,
        call_settings: &CallSettings,
        credentials: &Credentials,
    ) -> Result<Option<Self>, SetupError> {
        let Some(request) = settings.sign_out.own_revocation() else {
            return Ok(None);
        };
        let key = REVOCATION_URL;
        // The form-encoding writes a space as `+`, and the path of a URL writes a space as `%20`.
        let client_id: String = byte_serialize(settings.client_id.as_bytes()).collect();
        let client_id = client_id.replace('+', "%20");
        let text = request.url.replace("{client_id}", &client_id);
        if text.contains(['{', '}']) {
            let problem = "contains a placeholder other than {client_id}";
            return Err(SetupError::Setting { key, problem });
        }
        let url = endpoint(key, settings.url.as_deref(), &text)?;
        let key_of_request = "sign_out.revocation_request";
        let authorization = basic_authorization(key_of_request, settings, credentials)?;
        Ok(Some(Self {
            endpoint: call_settings.endpoint(key, &url)?,
            own_authorization: Some(authorization),
        }))
    }

    /// Prepares the revocation endpoint of RFC 7009.
    fn standard(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            own_authorization: None,
        }
    }
}

/// The endpoints of the sign-out at the provider.
struct SignOutEndpoints {
    end_session: Option<Url>,
    revocation: Option<Revocation>,
}

impl SignOutEndpoints {
    /// Returns the endpoints that the settings do not switch off. No login needs these endpoints, so
    /// an endpoint in the metadata that cannot be used counts as absent.
    fn new(
        settings: &Settings,
        (call_settings, credentials): (&CallSettings, &Credentials),
        metadata: Option<&Metadata>,
    ) -> Result<Self, SetupError> {
        let base = settings.url.as_deref();
        let own = Revocation::own(settings, call_settings, credentials)?;
        let wanted = |wanted: Option<bool>| wanted != Some(false);
        let published = metadata.and_then(|read| read.end_session_endpoint.as_ref());
        let published = published.filter(|_url| wanted(settings.sign_out.end_session));
        let key = "end_session_endpoint";
        let end_session = locate(key, base, settings.end_session_endpoint.as_ref(), published)?;
        let key = "revocation_endpoint";
        let configured = settings.revocation_endpoint.as_ref();
        let configured = locate(key, base, configured, None)?;
        let configured = configured.map(|url| call_settings.endpoint(key, &url));
        let published = metadata.and_then(|read| read.revocation_endpoint.as_ref());
        let published = published.filter(|_url| wanted(settings.sign_out.revoke));
        let published = || {
            let url = locate(key, base, None, published).ok()??;
            call_settings.endpoint(key, &url).ok()
        };
        let standard = configured.transpose()?.or_else(published);
        let standard = standard.map(Revocation::standard);
        let endpoints = Self {
            end_session,
            revocation: own.or(standard),
        };
        if metadata.is_some() {
            endpoints.warn_about_missing(settings);
        }
        Ok(endpoints)
    }

    /// Logs a warning for each endpoint that the settings require and the metadata do not contain.
    fn warn_about_missing(&self, settings: &Settings) {
        let sign_out = &settings.sign_out;
        for (setting, is_wanted, is_there) in [
            (
                "sign_out.end_session",
                sign_out.end_session,
                self.end_session.is_some(),
            ),
            (
                "sign_out.revoke",
                sign_out.revoke,
                self.revocation.is_some(),
            ),
        ] {
            if is_wanted == Some(true) && !is_there {
                tracing::warn!(
                    setting,
                    "The setting has no effect, because the metadata contains no usable endpoint"
                );
            }
        }
    }
}

/// Returns the configured endpoint. If no endpoint is configured, the function returns the endpoint
/// from the metadata.
fn locate(
    key: &'static str,
    base: Option<&str>,
    configured: Option<&String>,
    published: Option<&String>,
) -> Result<Option<Url>, SetupError> {
    match (configured, published) {
        (Some(text), _) => endpoint(key, base, text).map(Some),
        // A URL in the metadata has to be absolute.
        (None, Some(text)) => endpoint(key, None, text).map(Some),
        (None, None) => Ok(None),
    }
}
