//! What a server publishes about itself (OpenID Connect Discovery 1.0, RFC 8414).
//!
//! Metadata is believed for one reason: it was fetched from where the configured issuer is and
//! names that issuer, byte for byte. It may not send us to places that its issuer has no business
//! with: see [`Metadata::read`].

use std::net::Ipv6Addr;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;
use url::{Host, Url};

use super::SetupError;
use super::endpoint::{Endpoint, endpoint};
use super::issuer::Issuer;
use super::json::{self, JsonError, Object};
use super::settings::{Discovery, Settings};
use super::token::{ResponseFormatError, says_json};
use crate::origin;

/// How much of another issuer is shown, in characters.
const SHOWN: usize = 200;

/// Why metadata cannot be used.
///
/// Side: provider.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The server could not be reached, did not answer in time, or answered more than is taken.
    #[error("the call failed")]
    Call(#[source] origin::Error),
    /// An endpoint is nowhere that we would go for this issuer.
    #[error("the endpoint `{name}` {problem}")]
    Endpoint {
        /// The member.
        name: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It speaks of another issuer than the one that is configured.
    #[error("it is of the issuer {said:?}, and {configured:?} is configured")]
    Issuer {
        /// What is configured.
        configured: Box<str>,
        /// The beginning of what it says.
        said: Box<str>,
    },
    /// The body is not a JSON object.
    #[error("it is not a JSON object")]
    Json(#[source] JsonError),
    /// The answer does not say that it is JSON, or is compressed.
    #[error("the answer is not usable")]
    MediaType(#[source] ResponseFormatError),
    /// A member is missing or of another type.
    #[error("the member `{0}` is missing or of another type")]
    Member(&'static str),
    /// Another status than 200; redirects are not followed.
    #[error("the server answered with status {0}")]
    Status(u16),
}

impl MetadataError {
    /// A stable code for logs and counters.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Call(_) => "metadata_unreachable",
            Self::Endpoint { .. } => "metadata_endpoint",
            Self::Issuer { .. } => "metadata_issuer",
            Self::Json(_) | Self::MediaType(_) | Self::Member(_) => "metadata_malformed",
            Self::Status(_) => "metadata_status",
        }
    }
}

/// What metadata says, as far as it is used. Endpoints are kept as they are written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Metadata {
    pub(super) authorization_endpoint: Option<String>,
    pub(super) token_endpoint: Option<String>,
    pub(super) userinfo_endpoint: Option<String>,
    pub(super) jwks_uri: Option<String>,
    pub(super) token_endpoint_auth_methods_supported: Option<Vec<String>>,
    /// Whether every answer of the authorization endpoint says who it is from (RFC 9207 section 3).
    pub(super) authorization_response_iss_parameter_supported: bool,
}

/// Where the metadata is; `None` when it is not to be read.
///
/// `/.well-known/openid-configuration` is appended to the issuer (OpenID Connect Discovery 1.0
/// section 4), `/.well-known/oauth-authorization-server` goes between its host and its path (RFC
/// 8414 section 3); one slash at the issuer's end goes first.
pub(super) fn location(
    settings: &Settings,
    issuer: Option<&Issuer>,
) -> Result<Option<Url>, SetupError> {
    let refuse = |key, problem| Err(SetupError::Setting { key, problem });
    let given = settings.metadata_url.as_deref();
    if settings.discovery == Discovery::None {
        if given.is_some() {
            return refuse("metadata_url", "is given, but discovery is \"none\"");
        }
        return Ok(None);
    }
    let Some(issuer) = issuer else {
        return refuse("issuer", "is missing, but the metadata has to name it");
    };
    if let Some(given) = given {
        return endpoint("metadata_url", settings.url.as_deref(), given).map(Some);
    }
    if !settings.tenants.is_empty() {
        return refuse(
            "metadata_url",
            "is missing, and the issuer of many tenants is no place",
        );
    }
    let text = issuer.as_str();
    let text = text.strip_suffix('/').unwrap_or(text);
    let key = "issuer";
    if settings.discovery == Discovery::Openid {
        return endpoint(
            key,
            None,
            &format!("{text}/.well-known/openid-configuration"),
        )
        .map(Some);
    }
    let mut url = endpoint(key, None, text)?;
    let path = match url.path() {
        "/" => "",
        path => path,
    };
    let path = format!("/.well-known/oauth-authorization-server{path}");
    url.set_path(&path);
    Ok(Some(url))
}

/// Fetches the metadata of `issuer`.
pub(super) async fn fetch(place: &Endpoint, issuer: &Issuer) -> Result<Metadata, MetadataError> {
    let response = place.get("application/json", None).await;
    Metadata::read(&response.map_err(MetadataError::Call)?, issuer)
}

impl Metadata {
    /// Metadata of a server that has every endpoint at one place.
    pub(super) fn placeholder(place: &str) -> Self {
        let place = Some(place.to_owned());
        Self {
            authorization_endpoint: place.clone(),
            token_endpoint: place.clone(),
            userinfo_endpoint: place.clone(),
            jwks_uri: place,
            token_endpoint_auth_methods_supported: None,
            authorization_response_iss_parameter_supported: false,
        }
    }

    /// Reads an answer. Members that are not used are not looked at, and null is as good as absent.
    ///
    /// An endpoint has to be a plain `http` or `https` URL. With `http` it has the origin of the
    /// issuer; with `https` it may be anywhere (large servers have a host for each), but this
    /// machine and its link only if the issuer is at that very host: a name that somebody else
    /// controls would else let them call what only this machine can reach.
    pub(super) fn read(response: &Response<Bytes>, issuer: &Issuer) -> Result<Self, MetadataError> {
        if response.status() != StatusCode::OK {
            return Err(MetadataError::Status(response.status().as_u16()));
        }
        says_json(response.headers()).map_err(MetadataError::MediaType)?;
        let members = json::object(response.body()).map_err(MetadataError::Json)?;
        let said = text(&members, "issuer")?.ok_or(MetadataError::Member("issuer"))?;
        if said != issuer.as_str() {
            let said = said.chars().take(SHOWN).collect();
            let configured = issuer.as_str().into();
            return Err(MetadataError::Issuer { configured, said });
        }
        let home = Url::parse(said).ok();
        let endpoint = |name| {
            let given = text(&members, name)?;
            given
                .map(|text| match endpoint_problem(text, home.as_ref()) {
                    None => Ok(text.to_owned()),
                    Some(problem) => Err(MetadataError::Endpoint { name, problem }),
                })
                .transpose()
        };
        let promises_issuer = "authorization_response_iss_parameter_supported";
        Ok(Self {
            authorization_endpoint: endpoint("authorization_endpoint")?,
            token_endpoint: endpoint("token_endpoint")?,
            userinfo_endpoint: endpoint("userinfo_endpoint")?,
            jwks_uri: endpoint("jwks_uri")?,
            token_endpoint_auth_methods_supported: texts(
                &members,
                "token_endpoint_auth_methods_supported",
            )?,
            authorization_response_iss_parameter_supported: match member(&members, promises_issuer)
            {
                None => false,
                Some(Value::Bool(promises)) => *promises,
                Some(_) => return Err(MetadataError::Member(promises_issuer)),
            },
        })
    }
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

/// What is wrong with an endpoint, if the issuer is at `home`.
fn endpoint_problem(text: &str, home: Option<&Url>) -> Option<&'static str> {
    // The parser forgives what others read differently: backslashes, missing slashes, tabs.
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest else {
        return Some("is not an http or https URL");
    };
    let visible = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
    let Some(url) = Url::parse(text).ok().filter(|_| text.bytes().all(visible)) else {
        return Some("is not a URL");
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        Some("is not a URL")
    } else if authority.contains('@') {
        Some("has a user name or password in it")
    } else if text.contains('#') {
        Some("has a fragment")
    } else if url.scheme() == "http" {
        let at_home = home.is_some_and(|home| home.origin() == url.origin());
        (!at_home).then_some("has no TLS and is not at the issuer's own origin")
    } else {
        let at_home = home.is_some_and(|home| home.host() == url.host());
        (!at_home && is_local(&url)).then_some("is on this machine or its link, the issuer is not")
    }
}

/// Whether a host is this machine, or at the other end of a cable at most.
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
