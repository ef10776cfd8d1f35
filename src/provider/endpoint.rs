//! The endpoints of a provider.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use url::{Host, Url};

use super::SetupError;
use super::info::CallSettings;
use crate::clock::Timestamp;
use crate::origin::{self, CallLimits, Client, Connector, Findings, Origin, Reached};

/// The `User-Agent` of every call. Some providers refuse requests without `User-Agent`.
const USER_AGENT_NAME: &str = concat!("sidegate/", env!("CARGO_PKG_VERSION"));

/// An endpoint that the gateway calls.
#[derive(Debug)]
pub(super) struct Endpoint {
    uri: Uri,
    client: Client,
    limits: CallLimits,
}

impl Endpoint {
    /// Creates the endpoint with the URL `url`.
    pub(super) fn new(
        key: &'static str,
        url: &Url,
        call_settings: &CallSettings,
    ) -> Result<Self, SetupError> {
        let deadline = call_settings.deadline;
        let problem = "cannot be called";
        let refuse = SetupError::Setting { key, problem };
        let origin: Option<Origin> = url.origin().ascii_serialization().parse().ok();
        let (Some(origin), Ok(uri)) = (origin, url.as_str().parse()) else {
            return Err(refuse);
        };
        let proxy = call_settings.proxies.for_url(url);
        let proxy = proxy.map_err(|_invalid| SetupError::Setting {
            key: "proxy",
            problem: "is not set, and the variable https_proxy or http_proxy is not \
                      http://HOST:PORT; correct the variable, or write proxy = \"none\"",
        })?;
        let connector = Connector::new(origin, call_settings.trust.clone(), deadline);
        let connector = connector.map_err(|_unconfigured| refuse)?;
        Ok(Self {
            uri,
            client: Client::new(connector.with_proxy(proxy)),
            limits: CallLimits {
                deadline,
                ..CallLimits::default()
            },
        })
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Sends a GET request. `authorization` becomes the `Authorization` field of the request.
    pub(super) async fn get(
        &self,
        accept: &'static str,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Bytes>, origin::Error> {
        self.get_at(self.uri.clone(), accept, authorization).await
    }

    /// Sends a GET request for the path and the query of `uri` to the origin of this endpoint.
    pub(super) async fn get_at(
        &self,
        uri: Uri,
        accept: &'static str,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Bytes>, origin::Error> {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        self.call(request).await
    }

    /// Sends one request without a retry.
    pub(super) async fn call(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, origin::Error> {
        self.call_within(self.limits.deadline, request).await
    }

    /// Sends one request without a retry. `deadline` replaces the default deadline for the
    /// response. The separate time limit for opening a connection does not change.
    pub(super) async fn call_within(
        &self,
        deadline: Duration,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, origin::Error> {
        let name = HeaderValue::from_static(USER_AGENT_NAME);
        request.headers_mut().insert(USER_AGENT, name);
        let limits = CallLimits {
            deadline,
            ..self.limits
        };
        self.client.call(request, limits).await
    }

    /// Checks that a connection to the endpoint can be opened, including the TLS handshake.
    pub(super) async fn connect(&self) -> Result<(), origin::Error> {
        self.client.check_connection().await
    }

    /// Opens a connection to the endpoint, and reports each step. `key` is the setting that
    /// contains the URL.
    pub(super) async fn probe(
        &self,
        key: &'static str,
        now: Timestamp,
        findings: &mut Findings,
    ) -> Reached {
        self.client.probe(key, now, findings).await
    }
}

/// Reads the setting for an endpoint. The setting is an absolute `http` or `https` URL, or a path.
///
/// The function appends a path to `base`, and does not resolve the path as a relative reference
/// (RFC 3986 section 5). For example, `https://id.example/app` and `/oauth/token` give
/// `https://id.example/app/oauth/token`. If all endpoints of a provider move to another path, the
/// operator changes only the setting `url`.
pub(super) fn endpoint(
    key: &'static str,
    base: Option<&str>,
    text: &str,
) -> Result<Url, SetupError> {
    let refuse = |problem| SetupError::Setting { key, problem };
    let absolute = if text.starts_with('/') {
        let base =
            base.ok_or_else(|| refuse("is a path, but there is no `url` to append it to"))?;
        format!("{}{text}", base.trim_end_matches('/'))
    } else {
        text.to_owned()
    };
    // The text "is not a URL" is clearer than the error text of the parser.
    let url = Url::parse(&absolute).map_err(|_error| refuse("is not a URL"))?;
    let problem = if !matches!(url.scheme(), "http" | "https") {
        "is not an http or https URL"
    } else if !url.username().is_empty() || url.password().is_some() {
        "has a user name or password in it"
    } else if url.fragment().is_some() {
        "has a fragment (RFC 6749 section 3.1 forbids it)"
    } else if base.is_some_and(|base| base.contains(['?', '#'])) {
        "is appended to a `url` with a query or fragment"
    } else {
        return Ok(url);
    };
    Err(refuse(problem))
}

/// Returns true if a call to `url` would go to another machine without encryption.
pub(super) fn is_clear_text(url: &Url) -> bool {
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "http" && !loopback
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(base: Option<&str>, text: &str) -> Result<String, String> {
        endpoint("token_endpoint", base, text)
            .map(String::from)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_path_is_appended_to_the_base() {
        let expected = Ok("https://id.example/app/oauth/token".to_owned());
        for base in ["https://id.example/app", "https://id.example/app/"] {
            assert_eq!(read(Some(base), "/oauth/token"), expected);
        }
        assert_eq!(
            read(Some("https://id.example"), "http://localhost:1//api/token"),
            Ok("http://localhost:1//api/token".to_owned())
        );
    }

    #[test]
    fn x_01_only_plain_http_urls_are_endpoints() {
        for bad in [
            "file:///etc/passwd",
            "ftp://id.example/",
            "https://user:secret@id.example/",
            "https://id.example/#x",
            "//id.example/token",
            "id.example/token",
            "/oauth/token",
            "",
        ] {
            assert!(read(None, bad).is_err(), "{bad}");
        }
        assert!(read(Some("https://id.example?x=1"), "/token").is_err());
    }

    #[test]
    fn t_10_plain_http_is_clear_text_on_any_network() {
        let clear = |text: &str| is_clear_text(&Url::parse(text).unwrap());
        for text in [
            "http://id.example",
            "http://localhost.example/",
            "http://notlocalhost",
            "http://10.0.0.1",
            "http://[fe80::1]",
            "http://127.0.0.1.example",
        ] {
            assert!(clear(text), "{text}");
        }
        for text in [
            "https://id.example",
            "https://10.0.0.1",
            "http://localhost:1/x",
            "http://id.localhost",
            "http://127.1.2.3",
            "http://[::1]:80",
        ] {
            assert!(!clear(text), "{text}");
        }
    }

    #[test]
    fn the_refusal_names_the_key() {
        let text = read(None, "/oauth/token").unwrap_err();
        assert!(
            text.contains("token_endpoint") && text.contains("url"),
            "{text}"
        );
    }
}
