//! What is known of a server: its endpoints and how it wants to be asked, from the settings and,
//! where it publishes them, from its metadata. What is set by hand wins.

use url::Url;

use super::authorization::AuthorizationEndpoint;
use super::client_auth::{ClientAuth, Credentials};
use super::endpoint::{Endpoint, Tls, endpoint};
use super::metadata::Metadata;
use super::settings::Settings;
use super::token::RequestFormat;
use super::Error;

/// What is needed to send people to a server and to ask it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) authorization: AuthorizationEndpoint,
    pub(super) token: Endpoint,
    pub(super) userinfo: Option<Endpoint>,
    pub(super) jwks: Option<Endpoint>,
    pub(super) format: RequestFormat,
    /// Whether the server names itself in every answer (RFC 9207 section 3).
    pub(super) promises_iss: bool,
    /// What this was made from, if anything was read.
    pub(super) metadata: Option<Metadata>,
}

impl Known {
    /// Lays the settings over the metadata.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`]: an endpoint is missing in both, or cannot be used.
    pub(super) fn new(
        settings: &Settings,
        credentials: &Credentials,
        tls: &Tls,
        metadata: Option<Metadata>,
    ) -> Result<Self, Error> {
        let read = metadata.as_ref();
        let find = |key, by_hand: &Option<String>, published: Option<&String>| {
            locate(key, settings.url.as_deref(), by_hand.as_ref(), published)
        };
        let authorization = find(
            "authorization_endpoint",
            &settings.authorization_endpoint,
            read.and_then(|read| read.authorization_endpoint.as_ref()),
        )?;
        let token = find(
            "token_endpoint",
            &settings.token_endpoint,
            read.and_then(|read| read.token_endpoint.as_ref()),
        )?;
        let userinfo = find(
            "userinfo_endpoint",
            &settings.userinfo_endpoint,
            read.and_then(|read| read.userinfo_endpoint.as_ref()),
        )?;
        let jwks = find(
            "jwks_uri",
            &settings.jwks_uri,
            read.and_then(|read| read.jwks_uri.as_ref()),
        )?;
        let missing = |key| Error::Setting { key, problem: "is missing" };
        let authorization = authorization.ok_or(missing("authorization_endpoint"))?;
        let token = token.ok_or(missing("token_endpoint"))?;
        let call = |key, url: Option<Url>| url.map(|url| Endpoint::new(key, &url, tls)).transpose();
        let supported = read.and_then(|read| read.token_endpoint_auth_methods.as_deref());
        let client_auth = ClientAuth::new(settings, supported, credentials)?;
        Ok(Self {
            authorization: AuthorizationEndpoint::new(settings, &authorization)?,
            token: Endpoint::new("token_endpoint", &token, tls)?,
            userinfo: call("userinfo_endpoint", userinfo)?,
            jwks: call("jwks_uri", jwks)?,
            format: RequestFormat::new(settings, client_auth)?,
            promises_iss: read.is_some_and(|read| read.promises_iss),
            metadata,
        })
    }
}

/// An endpoint that was set by hand, or else the published one.
fn locate(
    key: &'static str,
    base: Option<&str>,
    by_hand: Option<&String>,
    published: Option<&String>,
) -> Result<Option<Url>, Error> {
    match (by_hand, published) {
        (Some(text), _) => endpoint(key, base, text).map(Some),
        (None, Some(text)) => endpoint(key, None, text).map(Some),
        (None, None) => Ok(None),
    }
}
