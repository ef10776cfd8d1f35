//! The metadata that a provider publishes (OpenID Connect Discovery 1.0, RFC 8414).
//!
//! The gateway derives the URL of the metadata from the configured issuer, unless `metadata_url` is
//! set. The issuer in the metadata must be equal to the configured issuer, byte for byte.
//! [`Metadata::read`] lists the URLs that metadata must not contain. If the settings contain an
//! endpoint, the gateway does not read the endpoint from the metadata.

use std::net::Ipv6Addr;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use serde_json::Value;
use url::{Host, Url};

use super::SetupError;
use super::endpoint::{Endpoint, endpoint};
use super::internal_url::InternalUrl;
use super::issuer::Issuer;
use super::json::{self, JsonError, Object};
use super::printable;
use super::settings::{Discovery, Settings};
use super::token::{ResponseFormatError, media_type};
use crate::origin;

/// The maximum length of a text from the provider in an error, in characters.
const MAX_SHOWN: usize = 200;

/// An error shows at most this many characters from the beginning of a response body.
const MAX_BEGINNING: usize = 60;

/// The reason why metadata cannot be used. Either the metadata or the configured issuer is wrong.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The provider could not be reached, did not respond in time, or sent a response that is too
    /// large.
    #[error("the call failed")]
    Call(#[source] origin::Error),
    /// An endpoint has a URL that is not allowed for the issuer.
    #[error("the endpoint `{name}` {problem}")]
    Endpoint {
        /// The member.
        name: &'static str,
        /// The problem with the URL.
        problem: &'static str,
    },
    /// The issuer in the metadata differs from the configured issuer.
    #[error("it names the issuer {published:?}, but {configured:?} is configured")]
    Issuer {
        /// The configured issuer.
        configured: Box<str>,
        /// The issuer in the metadata. A very long issuer is shortened.
        published: Box<str>,
    },
    /// The response is compressed.
    #[error("the response cannot be used")]
    Format(#[source] ResponseFormatError),
    /// The body is not a JSON object. In most cases, the body is an HTML page for people.
    #[error(
        "the body has the content type {media_type:?} and begins with {beginning:?}, so it is not \
         metadata"
    )]
    NotJson {
        /// The media type of the response, or an empty text.
        media_type: Box<str>,
        /// The first characters of the body, without characters that are not printable.
        beginning: Box<str>,
        /// The reason why the body is not a JSON object. `source` is `None` if the media type of
        /// the body is HTML.
        #[source]
        source: Option<JsonError>,
    },
    /// A member is missing or has a wrong type.
    #[error("the member `{0}` is missing or has the wrong type")]
    Member(&'static str),
    /// The provider answered with a redirect, which the gateway does not follow. The configured URL
    /// is probably wrong.
    #[error("the provider answered with status {status}, a redirect to {target:?}")]
    Redirect {
        /// The status code.
        status: u16,
        /// The target of the redirect, without its query.
        target: Box<str>,
    },
    /// The status code of the response is not 200.
    #[error("the provider answered with status {0}")]
    Status(u16),
}

impl MetadataError {
    /// Returns the reason code of this error: a stable code for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Call(_) => "metadata_unreachable",
            Self::Endpoint { .. } => "metadata_endpoint",
            Self::Issuer { .. } => "metadata_issuer",
            Self::Format(_) | Self::NotJson { .. } | Self::Member(_) => "metadata_malformed",
            Self::Redirect { .. } | Self::Status(_) => "metadata_status",
        }
    }
}

/// The settings that decide which metadata is accepted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    pub(super) issuer: &'a Issuer,
    pub(super) internal_url: Option<&'a InternalUrl>,
    pub(super) settings: &'a Settings,
}

/// The members of the metadata that the gateway uses. If the settings contain the URL of an
/// endpoint, the member for this endpoint is `None`. The URLs are copied from the metadata, but a
/// configured internal URL can replace the issuer in a URL.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Metadata {
    pub(super) authorization_endpoint: Option<String>,
    pub(super) token_endpoint: Option<String>,
    pub(super) userinfo_endpoint: Option<String>,
    pub(super) jwks_uri: Option<String>,
    pub(super) token_endpoint_auth_methods_supported: Option<Vec<String>>,
    /// The grant types that the provider lists. Only `check --online` reads the grant types.
    pub(super) grant_types_supported: Option<Vec<String>>,
    /// The end-session endpoint, to which browsers are sent.
    pub(super) end_session_endpoint: Option<String>,
    pub(super) revocation_endpoint: Option<String>,
    /// True if every authorization response contains the issuer (RFC 9207 section 3).
    pub(super) authorization_response_iss_parameter_supported: bool,
}

/// Returns the URL at which the gateway reads the metadata. Returns `None` if the settings use no
/// metadata. If `metadata_url` is not set, this function returns the standard location for the
/// issuer. If an internal URL is configured, the internal URL replaces the issuer in this location.
///
/// `/.well-known/openid-configuration` is appended to the issuer (OpenID Connect Discovery 1.0
/// section 4). `/.well-known/oauth-authorization-server` is inserted between the host and the path
/// of the issuer (RFC 8414 section 3). If the issuer ends with a slash, the slash is removed first.
pub(super) fn location(
    settings: &Settings,
    issuer: Option<&Issuer>,
    internal_url: Option<&InternalUrl>,
) -> Result<Option<Url>, SetupError> {
    let refuse = |key, problem| Err(SetupError::Setting { key, problem });
    let configured = settings.metadata_url.as_deref();
    if settings.discovery == Discovery::None {
        if configured.is_some() {
            return refuse("metadata_url", "is given, but discovery is \"none\"");
        }
        return Ok(None);
    }
    let Some(issuer) = issuer else {
        return refuse(
            "issuer",
            "is missing; write the provider's issuer, which its metadata has to contain",
        );
    };
    if let Some(configured) = configured {
        return endpoint("metadata_url", settings.url.as_deref(), configured).map(Some);
    }
    if !settings.tenants.is_empty() {
        return refuse(
            "metadata_url",
            "is missing, and an issuer with {tenantid} has no metadata URL",
        );
    }
    let public = public_location(settings.discovery, issuer)?;
    let Some(internal_url) = internal_url else {
        return Ok(Some(public));
    };
    internal_url.of(&public).map(Some).map_or_else(
        || {
            refuse(
                "metadata_url",
                "is missing, because internal_url does not end with the path of the issuer",
            )
        },
        Ok,
    )
}

/// Returns the standard location of the metadata of `issuer`.
fn public_location(discovery: Discovery, issuer: &Issuer) -> Result<Url, SetupError> {
    let text = issuer.as_str();
    let text = text.strip_suffix('/').unwrap_or(text);
    let key = "issuer";
    if discovery == Discovery::Openid {
        let text = format!("{text}/.well-known/openid-configuration");
        return endpoint(key, None, &text);
    }
    let mut url = endpoint(key, None, text)?;
    let path = match url.path() {
        "/" => "",
        path => path,
    };
    let path = format!("/.well-known/oauth-authorization-server{path}");
    url.set_path(&path);
    Ok(url)
}

/// Fetches the metadata.
pub(super) async fn fetch(
    endpoint: &Endpoint,
    rules: Rules<'_>,
) -> Result<Metadata, MetadataError> {
    let response = endpoint.get("application/json", None).await;
    Metadata::read(&response.map_err(MetadataError::Call)?, rules)
}

impl Metadata {
    /// Placeholder metadata with the same URL for every endpoint.
    pub(super) fn placeholder(url: &str) -> Self {
        let url = Some(url.to_owned());
        Self {
            authorization_endpoint: url.clone(),
            token_endpoint: url.clone(),
            userinfo_endpoint: url.clone(),
            jwks_uri: url.clone(),
            token_endpoint_auth_methods_supported: None,
            grant_types_supported: None,
            end_session_endpoint: url.clone(),
            revocation_endpoint: url,
            authorization_response_iss_parameter_supported: false,
        }
    }

    /// Reads a metadata response. Unused members and members with the value null are ignored.
    ///
    /// An endpoint must be an `http` or `https` URL. An endpoint with `http` must have the origin
    /// of the issuer. An endpoint with `https` may be on any host, because large providers use
    /// several hosts. A loopback or link-local host is allowed only if the issuer has the same
    /// host. An attacker who controls the metadata must not be able to make the gateway call
    /// internal services on the gateway's own machine or link.
    ///
    /// An endpoint that the gateway calls may also have the origin of the internal URL. If the
    /// settings contain an endpoint, this function ignores the endpoint in the metadata.
    pub(super) fn read(
        response: &Response<Bytes>,
        rules: Rules<'_>,
    ) -> Result<Self, MetadataError> {
        let (issuer, settings) = (rules.issuer, rules.settings);
        check_status(response)?;
        let members = members(response)?;
        let published = text(&members, "issuer")?.ok_or(MetadataError::Member("issuer"))?;
        // Because the issuers are compared, a provider A cannot publish its own keys as the keys of
        // a provider B (RFC 8414 section 3.3).
        if published != issuer.as_str() {
            let published = published.chars().take(MAX_SHOWN).collect();
            let configured = issuer.as_str().into();
            return Err(MetadataError::Issuer {
                configured,
                published,
            });
        }
        let issuer_url = Url::parse(published).ok();
        let endpoint = |name, configured: &Option<String>| {
            if configured.is_some() {
                return Ok(None);
            }
            let Some(text) = text(&members, name)? else {
                return Ok(None);
            };
            let url = rules.url_of(name, text, issuer_url.as_ref());
            let refused = |problem| MetadataError::Endpoint { name, problem };
            url.map(Some).map_err(refused)
        };
        let promises_issuer = "authorization_response_iss_parameter_supported";
        Ok(Self {
            authorization_endpoint: endpoint(
                AUTHORIZATION_ENDPOINT,
                &settings.authorization_endpoint,
            )?,
            token_endpoint: endpoint("token_endpoint", &settings.token_endpoint)?,
            userinfo_endpoint: endpoint("userinfo_endpoint", &settings.userinfo_endpoint)?,
            jwks_uri: endpoint("jwks_uri", &settings.jwks_uri)?,
            token_endpoint_auth_methods_supported: texts(
                &members,
                "token_endpoint_auth_methods_supported",
            )?,
            // No login needs the following three members, so a value that is not valid is treated
            // as absent.
            grant_types_supported: texts(&members, "grant_types_supported").unwrap_or_default(),
            end_session_endpoint: endpoint(END_SESSION_ENDPOINT, &settings.end_session_endpoint)
                .unwrap_or_default(),
            revocation_endpoint: endpoint("revocation_endpoint", &settings.revocation_endpoint)
                .unwrap_or_default(),
            authorization_response_iss_parameter_supported: match member(&members, promises_issuer)
            {
                None => false,
                Some(Value::Bool(promises)) => *promises,
                // If the gateway treated a value of a wrong type as `false`, the gateway would
                // accept an authorization response without `iss`. An authorization response without
                // `iss` makes a mix-up attack possible.
                Some(_) => return Err(MetadataError::Member(promises_issuer)),
            },
        })
    }
}

impl Rules<'_> {
    /// Returns the URL of the endpoint `name`. `text` is the URL in the metadata. If an internal
    /// URL is configured, the internal URL can replace the issuer in the returned URL. Returns a
    /// text that describes the problem if the URL is not allowed.
    fn url_of(
        &self,
        name: &str,
        text: &str,
        issuer_url: Option<&Url>,
    ) -> Result<String, &'static str> {
        let url = parsed(text)?;
        let Some(internal_url) = self.internal_url else {
            return origin_problem(&url, issuer_url).map_or_else(|| Ok(text.to_owned()), Err);
        };
        let for_browsers = matches!(name, AUTHORIZATION_ENDPOINT | END_SESSION_ENDPOINT);
        if internal_url.is_at(&url) {
            return if for_browsers {
                Err(
                    "has the origin of internal_url, which browsers cannot reach; set \
                     authorization_endpoint",
                )
            } else {
                Ok(text.to_owned())
            };
        }
        if let Some(problem) = origin_problem(&url, issuer_url) {
            return Err(problem);
        }
        if for_browsers || !internal_url.replaces(&url) {
            return Ok(text.to_owned());
        }
        let called = internal_url.of(&url).map(String::from);
        called.ok_or(
            "is not below the issuer, and internal_url does not end with the path of the issuer; \
             set the endpoint of the provider",
        )
    }
}

/// The names of the two endpoints that browsers call.
const AUTHORIZATION_ENDPOINT: &str = "authorization_endpoint";
const END_SESSION_ENDPOINT: &str = "end_session_endpoint";

fn check_status(response: &Response<Bytes>) -> Result<(), MetadataError> {
    let status = response.status();
    match redirect_target(response.headers()) {
        _ if status == StatusCode::OK => Ok(()),
        Some(target) if status.is_redirection() => Err(MetadataError::Redirect {
            status: status.as_u16(),
            target,
        }),
        Some(_) | None => Err(MetadataError::Status(status.as_u16())),
    }
}

/// Returns the target of a redirect, for use in an error text. The query is left out, because the
/// query of a login page can contain the state of a login.
fn redirect_target(headers: &HeaderMap) -> Option<Box<str>> {
    let target = headers.get(header::LOCATION)?;
    let target = String::from_utf8_lossy(target.as_bytes());
    let path = target.split(['?', '#']).next().unwrap_or_default();
    Some(path.chars().take(MAX_SHOWN).collect::<String>().into())
}

/// Reads the body as a JSON object. Any media type is accepted except HTML, because static file
/// servers send files without an extension as plain text or as binary data. HTML is refused,
/// because a page for people is never metadata.
fn members(response: &Response<Bytes>) -> Result<Object, MetadataError> {
    let (body, headers) = (response.body(), response.headers());
    let media_type = media_type(headers).map_err(MetadataError::Format)?;
    let read = if media_type == "text/html" {
        Err(None)
    } else {
        json::object(body).map_err(Some)
    };
    read.map_err(|source| {
        let text = String::from_utf8_lossy(body);
        let start: String = text.trim_start().chars().take(MAX_BEGINNING).collect();
        MetadataError::NotJson {
            media_type: media_type.chars().take(MAX_SHOWN).collect(),
            beginning: printable(&start),
            source,
        }
    })
}

fn member<'a>(members: &'a Object, name: &str) -> Option<&'a Value> {
    members.get(name).filter(|value| !value.is_null())
}

fn text<'a>(members: &'a Object, name: &'static str) -> Result<Option<&'a str>, MetadataError> {
    let value = member(members, name);
    value
        .map(|value| value.as_str().ok_or(MetadataError::Member(name)))
        .transpose()
}

fn texts(members: &Object, name: &'static str) -> Result<Option<Vec<String>>, MetadataError> {
    let text = |item: &Value| item.as_str().map(str::to_owned);
    let value = member(members, name);
    value
        .map(|value| {
            let texts = value.as_array()?.iter().map(text);
            texts.collect::<Option<Vec<_>>>()
        })
        .map(|texts| texts.ok_or(MetadataError::Member(name)))
        .transpose()
}

/// Parses the URL of an endpoint. Returns the problem if `text` is not the URL of an endpoint.
fn parsed(text: &str) -> Result<Url, &'static str> {
    // The URL parser also accepts URLs with backslashes, missing slashes or tabs, which other
    // parsers read differently.
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest else {
        return Err("is not an http or https URL");
    };
    let visible = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
    let Some(url) = Url::parse(text).ok().filter(|_| text.bytes().all(visible)) else {
        return Err("is not a URL");
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        Err("is not a URL")
    } else if authority.contains('@') {
        Err("has a user name or password in it")
    } else if text.contains('#') {
        Err("has a fragment")
    } else {
        Ok(url)
    }
}

/// Returns the problem if the origin of an endpoint is not allowed. `issuer_url` is the URL of the
/// issuer.
fn origin_problem(url: &Url, issuer_url: Option<&Url>) -> Option<&'static str> {
    if url.scheme() == "http" {
        let at_issuer = issuer_url.is_some_and(|issuer_url| issuer_url.origin() == url.origin());
        (!at_issuer).then_some(
            "has no TLS, and its origin is not the origin of the issuer; if the gateway reaches \
             the provider at another name than browsers, set internal_url",
        )
    } else {
        let at_issuer = issuer_url.is_some_and(|issuer_url| issuer_url.host() == url.host());
        (!at_issuer && is_local(url)).then_some(
            "has a loopback or link-local host, but the issuer does not; if the gateway reaches \
             the provider at another name than browsers, set internal_url",
        )
    }
}

/// Returns true if the host is the gateway's own machine (loopback) or is on the same link
/// (link-local).
fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => {
            address.is_loopback() || address.is_link_local() || address.is_unspecified()
        }
        Some(Host::Ipv6(address)) => {
            let inner = address.to_ipv4();
            address.is_loopback()
                || address.is_unspecified()
                || Ipv6Addr::is_unicast_link_local(&address)
                || inner.is_some_and(|inner| {
                    inner.is_loopback() || inner.is_link_local() || inner.is_unspecified()
                })
        }
        None => true,
    }
}
