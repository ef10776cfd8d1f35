//! A browser without a screen: one request at a time, a cookie jar per host, no redirect followed.
//!
//! It reaches only the hosts that it was given addresses for, whatever a page or redirect says.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, COOKIE, HOST, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::Url;

use crate::clock::{Clock, Timestamp};

/// How long an answer may take: longer than the gateway waits for its provider.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The longest body that is read, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The body broke or is too long.
    #[error("no complete body")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No connection.
    #[error("no connection to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    /// The answer is not HTTP, or there is none.
    #[error("no answer")]
    Http(#[source] hyper::Error),
    /// The request cannot be written.
    #[error("a request that cannot be sent")]
    Request(#[source] http::Error),
    /// It took too long.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// The URL leads somewhere else.
    #[error("a way to a host that takes no part: {0}")]
    UnknownHost(Box<str>),
}

/// A request to be sent.
#[derive(Debug)]
pub(crate) struct BrowserRequest {
    method: Method,
    url: Url,
    fields: Vec<(&'static str, String)>,
    body: String,
}

impl BrowserRequest {
    /// A click on a link or an address typed: a navigation by GET.
    pub(crate) fn navigation(url: &Url) -> Self {
        let request = Self::bare(Method::GET, url)
            .field("accept", "text/html,application/xhtml+xml,*/*;q=0.8")
            .field("sec-fetch-site", "none")
            .field("sec-fetch-user", "?1");
        request.mode("navigate", "document")
    }

    /// A form posted by a page of the same origin.
    pub(crate) fn form(url: &Url, fields: &[(&str, &str)]) -> Self {
        let mut request = Self::bare(Method::POST, url)
            .field("accept", "text/html,application/xhtml+xml,*/*;q=0.8")
            .field("content-type", "application/x-www-form-urlencoded")
            .field("origin", &url.origin().ascii_serialization())
            .field("sec-fetch-site", "same-origin")
            .mode("navigate", "document");
        request.body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        request
    }

    /// A call of `fetch` by a script of the same origin.
    pub(crate) fn fetch(url: &Url) -> Self {
        Self::bare(Method::GET, url)
            .field("accept", "application/json")
            .field("sec-fetch-site", "same-origin")
            .mode("cors", "empty")
    }

    /// With one more field.
    pub(crate) fn field(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((name, value.to_owned()));
        self
    }

    fn bare(method: Method, url: &Url) -> Self {
        Self {
            method,
            url: url.clone(),
            fields: Vec::new(),
            body: String::new(),
        }
    }

    fn mode(self, mode: &str, destination: &str) -> Self {
        self.field("sec-fetch-mode", mode)
            .field("sec-fetch-dest", destination)
    }
}

/// An answer, with the URL that gave it.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) url: Url,
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
    pub(crate) body: String,
}

impl Page {
    /// Where it redirects to, made absolute.
    pub(crate) fn location(&self) -> Option<Url> {
        let location = self.fields.get(http::header::LOCATION)?.to_str().ok()?;
        self.url.join(location).ok()
    }

    /// The cookies that it sets or clears.
    pub(crate) fn cookies(&self) -> Vec<SetCookie> {
        let fields = self.fields.get_all(SET_COOKIE).into_iter();
        fields
            .filter_map(|field| SetCookie::parse(field.to_str().ok()?))
            .collect()
    }
}

/// One `Set-Cookie` field.
pub(crate) struct SetCookie {
    pub(crate) name: String,
    pub(crate) value: String,
    /// Names in lower case.
    attributes: Vec<(String, String)>,
}

impl SetCookie {
    fn parse(field: &str) -> Option<Self> {
        let mut parts = field.split(';').map(str::trim);
        let (name, value) = parts.next()?.split_once('=')?;
        let attributes = parts.map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (name.to_ascii_lowercase(), value.to_owned())
        });
        Some(Self {
            name: name.to_owned(),
            value: value.to_owned(),
            attributes: attributes.collect(),
        })
    }

    /// The value of an attribute; empty for one without a value.
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        let mut attributes = self.attributes.iter();
        let found = attributes.find(|(known, _value)| known == name)?;
        Some(&found.1)
    }

    /// Whether it tells the browser to drop the cookie (RFC 6265 section 5.3).
    pub(crate) fn clears(&self, now: Timestamp) -> bool {
        if let Some(age) = self.attribute("max-age") {
            return age.parse().is_ok_and(|age: i64| age <= 0);
        }
        let expires = self.attribute("expires");
        let expires = expires.and_then(|date| httpdate::parse_http_date(date).ok());
        expires.is_some_and(|expires| {
            let expires = expires.duration_since(std::time::SystemTime::UNIX_EPOCH);
            expires.is_ok_and(|since| Timestamp::default().plus(since) <= now)
        })
    }

    /// Whether a browser keeps it at all: what the prefix `__Host-` promises must hold.
    fn is_kept(&self) -> bool {
        !self.name.starts_with("__Host-")
            || (self.attribute("secure").is_some()
                && self.attribute("path") == Some("/")
                && self.attribute("domain").is_none())
    }
}

/// Hosts, and the cookies kept for each. As in real browsers a cookie belongs to a host name and
/// not to a port, and `Secure` ones are kept for loopback hosts over plain HTTP.
pub(crate) struct Browser {
    hosts: Vec<(String, SocketAddr)>,
    jar: BTreeMap<(String, String), String>,
    clock: Clock,
}

impl Browser {
    /// A fresh browser that knows the way to the hosts of these URLs.
    pub(crate) fn new(hosts: [(&Url, SocketAddr); 2], clock: Clock) -> Self {
        let hosts = hosts.map(|(url, address)| (url.origin().ascii_serialization(), address));
        Self {
            hosts: hosts.into(),
            jar: BTreeMap::new(),
            clock,
        }
    }

    /// The value of the cookie `name` kept for the host of `url`.
    pub(crate) fn cookie(&self, url: &Url, name: &str) -> Option<&str> {
        let key = (url.host_str()?.to_owned(), name.to_owned());
        self.jar.get(&key).map(String::as_str)
    }

    /// Sends `request` with the cookies of its host on a connection of its own, and keeps the cookies
    /// of the answer.
    pub(crate) async fn send(&mut self, request: BrowserRequest) -> Result<Page, Error> {
        let url = request.url.clone();
        let origin = url.origin().ascii_serialization();
        let mut hosts = self.hosts.iter();
        let (_, address) = hosts
            .find(|(known, _)| *known == origin)
            .ok_or_else(|| Error::UnknownHost(origin.into()))?;
        let request = self.to_http(request).map_err(Error::Request)?;
        let exchange = exchange(*address, request);
        let answered = tokio::time::timeout(TIMEOUT, exchange).await;
        let response = answered.map_err(|_elapsed| Error::Timeout)??;
        let (parts, body) = response.into_parts();
        let page = Page {
            url,
            status: parts.status,
            fields: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        };
        self.keep(&page);
        Ok(page)
    }

    fn to_http(&self, page_request: BrowserRequest) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut target = page_request.url.path().to_owned();
        if let Some(query) = page_request.url.query() {
            target.push('?');
            target.push_str(query);
        }
        let host = page_request.url.host_str().unwrap_or_default();
        let authority = match page_request.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let kept = self.jar.iter().filter(|((at, _), _)| at == host);
        let cookies: Vec<String> = kept
            .map(|((_, name), value)| format!("{name}={value}"))
            .collect();
        let mut request = Request::builder()
            .method(page_request.method)
            .uri(target)
            .header(HOST, authority)
            .header(CONNECTION, HeaderValue::from_static("close"));
        if !cookies.is_empty() {
            request = request.header(COOKIE, cookies.join("; "));
        }
        for (name, value) in page_request.fields {
            request = request.header(name, value);
        }
        request.body(Full::from(page_request.body))
    }

    fn keep(&mut self, page: &Page) {
        let Some(host) = page.url.host_str() else {
            return;
        };
        let now = self.clock.now();
        for cookie in page.cookies() {
            let clears = cookie.clears(now);
            let kept = cookie.is_kept();
            let key = (host.to_owned(), cookie.name);
            if clears {
                self.jar.remove(&key);
            } else if kept {
                self.jar.insert(key, cookie.value);
            }
        }
    }
}

/// Sends one request on a connection of its own and reads the whole answer.
pub(crate) async fn exchange(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, Error> {
    let stream = TcpStream::connect(address).await;
    let stream = stream.map_err(|source| Error::Connect { address, source })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(Error::Http)?;
    // It ends with the answer: each connection carries one request.
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(Error::Http)?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body.map_err(Error::Body)?.to_bytes();
    driver.abort();
    Ok(Response::from_parts(parts, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_cleared_by_age_or_date_and_a_false_host_prefix_is_not_kept() {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let parse = |field: &str| SetCookie::parse(field).unwrap();
        assert!(parse("a=; Max-Age=0").clears(now));
        assert!(parse("a=; Expires=Thu, 01 Jan 1970 00:00:00 GMT").clears(now));
        assert!(!parse("a=b; Max-Age=5; Expires=Thu, 01 Jan 1970 00:00:00 GMT").clears(now));
        assert!(!parse("a=b").clears(now));
        assert!(parse("__Host-a=b; Secure; Path=/").is_kept());
        for bad in [
            "__Host-a=b; Path=/",
            "__Host-a=b; Secure; Path=/x",
            "__Host-a=b; Secure",
            "__Host-a=b; Secure; Path=/; Domain=localhost",
        ] {
            assert!(!parse(bad).is_kept(), "{bad}");
        }
    }
}
