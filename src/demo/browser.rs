//! A minimal browser, which sends one request at a time, stores cookies per host, and follows no
//! redirect.
//!
//! The browser connects only to the addresses that its creator has set. A page or a redirect cannot
//! make the browser connect to any other address.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, COOKIE, HOST, SET_COOKIE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::Url;

use crate::clock::{Clock, Timestamp};

/// The longest time for which the browser waits for an answer. The browser waits longer than the
/// gateway waits for its provider.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The longest accepted body, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// The reason why a request has no usable answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The body ended early or is too long.
    #[error("the body is not complete")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The browser cannot connect.
    #[error("no connection to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    /// The answer is not valid HTTP, or there is no answer.
    #[error("no answer")]
    Http(#[source] hyper::Error),
    /// The request is not valid HTTP.
    #[error("the request cannot be sent")]
    Request(#[source] http::Error),
    /// The answer took too long.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// The host of the URL is not one of the hosts that this browser may open.
    #[error("the URL leads to another host: {0}")]
    UnknownHost(Box<str>),
}

/// A request of the browser.
#[derive(Debug)]
pub(crate) struct BrowserRequest {
    method: Method,
    url: Url,
    connection: &'static str,
    fields: Vec<(&'static str, String)>,
    body: String,
}

impl BrowserRequest {
    /// Returns a GET request for a page, like the request after a user enters a URL.
    pub(crate) fn navigation(url: &Url) -> Self {
        let request = Self::bare(Method::GET, url)
            .field("accept", "text/html,application/xhtml+xml,*/*;q=0.8")
            .field("sec-fetch-site", "none")
            .field("sec-fetch-user", "?1");
        request.mode("navigate", "document")
    }

    /// Returns a form post from a page of the same origin.
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

    /// Returns a call of `fetch` by a script of the same origin.
    pub(crate) fn fetch(url: &Url) -> Self {
        Self::bare(Method::GET, url)
            .field("accept", "application/json")
            .field("sec-fetch-site", "same-origin")
            .mode("cors", "empty")
    }

    /// Returns the handshake of a WebSocket that a script of the same origin opens.
    pub(crate) fn socket(url: &Url) -> Self {
        let mut request = Self::bare(Method::GET, url)
            .field("upgrade", "websocket")
            .field("sec-websocket-version", "13")
            // The example of a `Sec-WebSocket-Key` in RFC 6455 section 1.3.
            .field("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .field("origin", &url.origin().ascii_serialization())
            .field("sec-fetch-site", "same-origin")
            .mode("websocket", "websocket");
        request.connection = "Upgrade";
        request
    }

    /// Returns the request for an event stream that a script of the same origin opens.
    pub(crate) fn events(url: &Url) -> Self {
        Self::bare(Method::GET, url)
            .field("accept", "text/event-stream")
            .field("sec-fetch-site", "same-origin")
            .mode("cors", "empty")
    }

    /// Adds a header field.
    pub(crate) fn field(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((name, value.to_owned()));
        self
    }

    fn bare(method: Method, url: &Url) -> Self {
        Self {
            method,
            url: url.clone(),
            // Each request has its own connection, so the server does not need to keep the
            // connection open.
            connection: "close",
            fields: Vec::new(),
            body: String::new(),
        }
    }

    fn mode(self, mode: &str, destination: &str) -> Self {
        self.field("sec-fetch-mode", mode)
            .field("sec-fetch-dest", destination)
    }
}

/// An answer to a request, and the URL of the request.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) url: Url,
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
    pub(crate) body: String,
}

impl Page {
    /// Returns the target of a redirect as an absolute URL.
    pub(crate) fn location(&self) -> Option<Url> {
        let location = self.fields.get(http::header::LOCATION)?.to_str().ok()?;
        self.url.join(location).ok()
    }

    /// Returns the cookies that the answer sets or deletes.
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
    /// The attributes of the cookie, with their names in lower case.
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

    /// Returns the value of an attribute, or an empty text if the attribute has no value.
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        let mut attributes = self.attributes.iter();
        let found = attributes.find(|(attribute, _value)| attribute == name)?;
        Some(&found.1)
    }

    /// Returns true if the field deletes the cookie (RFC 6265 section 5.3).
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

    /// Returns true if a browser accepts the cookie. The prefix `__Host-` requires `Secure`,
    /// `Path=/` and no `Domain`.
    fn is_kept(&self) -> bool {
        !self.name.starts_with("__Host-")
            || (self.attribute("secure").is_some()
                && self.attribute("path") == Some("/")
                && self.attribute("domain").is_none())
    }
}

/// A browser with the cookies of each host. As in real browsers, a cookie belongs to a host name
/// and not to a port, and loopback hosts may set `Secure` cookies over plain HTTP.
pub(crate) struct Browser {
    hosts: Vec<(String, SocketAddr)>,
    jar: BTreeMap<(String, String), String>,
    clock: Clock,
}

impl Browser {
    /// Creates a browser without cookies, which can connect to the origins of the given URLs.
    pub(crate) fn new(hosts: [(&Url, SocketAddr); 2], clock: Clock) -> Self {
        let hosts = hosts.map(|(url, address)| (url.origin().ascii_serialization(), address));
        Self {
            hosts: hosts.into(),
            jar: BTreeMap::new(),
            clock,
        }
    }

    /// Returns the value of the cookie `name` for the host of `url`.
    pub(crate) fn cookie(&self, url: &Url, name: &str) -> Option<&str> {
        let key = (url.host_str()?.to_owned(), name.to_owned());
        self.jar.get(&key).map(String::as_str)
    }

    /// Sends `request` with the cookies of its host, on a new connection. Stores the cookies of the
    /// answer.
    pub(crate) async fn send(&mut self, request: BrowserRequest) -> Result<Page, Error> {
        let url = request.url.clone();
        let address = self.address(&url)?;
        let request = self.to_http(request).map_err(Error::Request)?;
        let exchange = exchange(address, request);
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

    /// Sends `request` with the cookies of its host, on a new connection. The stream of the answer
    /// stays open.
    pub(crate) async fn open(&self, request: BrowserRequest) -> Result<Response<Incoming>, Error> {
        let address = self.address(&request.url)?;
        let request = self.to_http(request).map_err(Error::Request)?;
        let answered = tokio::time::timeout(TIMEOUT, open(address, request)).await;
        answered.map_err(|_elapsed| Error::Timeout)?
    }

    fn address(&self, url: &Url) -> Result<SocketAddr, Error> {
        let origin = url.origin().ascii_serialization();
        let mut hosts = self.hosts.iter();
        let found = hosts.find(|(host, _address)| *host == origin);
        let (_host, address) = found.ok_or_else(|| Error::UnknownHost(origin.into()))?;
        Ok(*address)
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
            .header(CONNECTION, page_request.connection);
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

/// Sends one request on a new connection and reads the complete answer.
pub(crate) async fn exchange(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, Error> {
    let (parts, body) = open(address, request).await?.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body.map_err(Error::Body)?.to_bytes();
    Ok(Response::from_parts(parts, body))
}

/// Sends one request on a new connection and reads the head of the answer. After this function
/// returns, the body of the answer or the switched connection is still open.
pub(crate) async fn open(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Error> {
    let stream = TcpStream::connect(address).await;
    let stream = stream.map_err(|source| Error::Connect { address, source })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(Error::Http)?;
    // The task of the connection ends after the answer, because `sender` is dropped after one
    // request.
    drop(tokio::spawn(connection.with_upgrades()));
    sender.send_request(request).await.map_err(Error::Http)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_or_date_delete_a_cookie_and_an_invalid_host_prefix_is_refused() {
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
