//! The imagined request of an explanation.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::header::HOST;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Uri};
use serde_json::{Map, Value};

use super::WorkerSite;
use crate::provider::Provider;
use crate::server::{Connection, Security};
use crate::session::Session;

/// A request that nobody has sent, and its user.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The method.
    pub method: &'a str,
    /// The URL, or only a path with an optional query for the first URL of `public_url`.
    pub url: &'a str,
    /// The claims of the user, as the provider sends them. `None` for a request without a session.
    pub claims: Option<&'a Map<String, Value>>,
    /// The provider of the user. The name can be omitted if there is only one provider.
    pub provider: Option<&'a str>,
}

/// The reason why there is no explanation.
///
/// Responsible: the operator, who asks for the explanation.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum QuestionError {
    /// The method is not a token (RFC 9110 section 9.1).
    #[error("the method is not valid")]
    Method,
    /// The claims contain no usable subject, so the sign-in of the user fails.
    #[error("the claims contain no subject, so the user could not sign in at the provider `{0}`")]
    NoSubject(String),
    /// The operating system returned no random bytes for the imagined session.
    #[error("the operating system returned no random bytes")]
    NoRandomness,
    /// There are several providers, and the question names none of them.
    #[error("there are several providers; name the provider of the user")]
    SeveralProviders,
    /// The settings define no provider with this name.
    #[error("there is no provider `{0}`")]
    UnknownProvider(String),
    /// The URL is neither an absolute `http` or `https` URL nor a path.
    #[error("the URL is not valid: write a URL with http or https, or a path that begins with `/`")]
    Url,
}

/// The address of the imagined client, which is reserved for documentation (RFC 5737).
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The head of an imagined request, with its connection and its session.
pub(super) struct ImaginedRequest {
    pub(super) parts: Parts,
    pub(super) connection: Connection,
    pub(super) session: Option<Arc<Session>>,
}

impl Question<'_> {
    /// Creates the imagined request.
    pub(super) fn imagine(&self, site: &WorkerSite) -> Result<ImaginedRequest, QuestionError> {
        let method = Method::from_bytes(self.method.as_bytes());
        let (security, host, target) = self.read_url(site).ok_or(QuestionError::Url)?;
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = method.map_err(|_invalid| QuestionError::Method)?;
        parts.uri = Uri::from(target);
        parts.headers.insert(HOST, host);
        let client = SocketAddr::from((CLIENT, 0));
        Ok(ImaginedRequest {
            parts,
            connection: Connection {
                peer: client,
                socket_peer: client,
                security,
            },
            session: self.session(site)?,
        })
    }

    /// Returns the security of the connection, the field `Host` and the target of the request. The
    /// URL is not normalized, because the gateway judges the path as the client sends it.
    fn read_url(&self, site: &WorkerSite) -> Option<(Security, HeaderValue, PathAndQuery)> {
        if self.url.starts_with('/') {
            let first = site.settings().public_urls.listed().next()?;
            let security = security(first.scheme())?;
            let host = HeaderValue::from_str(first.authority()).ok()?;
            return Some((security, host, self.url.parse().ok()?));
        }
        let uri: Uri = self.url.parse().ok()?;
        let security = security(uri.scheme_str()?)?;
        let host = HeaderValue::from_str(uri.authority()?.as_str()).ok()?;
        Some((security, host, uri.path_and_query()?.clone()))
    }

    fn session(&self, site: &WorkerSite) -> Result<Option<Arc<Session>>, QuestionError> {
        let Some(claims) = self.claims else {
            return Ok(None);
        };
        let provider = self.provider(site)?;
        let (name, now) = (provider.name(), site.clock().now());
        let identity = provider.imagined_identity(claims, now);
        let identity = identity.ok_or_else(|| QuestionError::NoSubject(name.to_owned()))?;
        let session = Session::imagined(name, identity, now);
        let session = session.ok_or(QuestionError::NoRandomness)?;
        Ok(Some(Arc::new(session)))
    }

    fn provider<'s>(&self, site: &'s WorkerSite) -> Result<&'s Provider, QuestionError> {
        let providers = site.all_providers();
        if let Some(name) = self.provider {
            let found = providers.get(name).map(Arc::as_ref);
            return found.ok_or_else(|| QuestionError::UnknownProvider(name.to_owned()));
        }
        let mut all = providers.values();
        match (all.next(), all.next()) {
            (Some(only), None) => Ok(only),
            (_, _) => Err(QuestionError::SeveralProviders),
        }
    }
}

fn security(scheme: &str) -> Option<Security> {
    match scheme {
        "http" => Some(Security::Plain),
        "https" => Some(Security::Tls),
        _ => None,
    }
}
