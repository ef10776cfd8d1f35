//! HTTP proxies between the gateway and an origin.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::PROXY_AUTHORIZATION;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::{Host, Url};
use zeroize::Zeroizing;

use super::error::Error;
use super::name::Origin;
use crate::secret::Environment;

/// The maximum size of the head of a proxy's answer to `CONNECT`, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// An HTTP proxy (RFC 9110 section 3.7), with the credentials in its URL. The password is never
/// printed.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    origin: Origin,
    /// The value of `Proxy-Authorization`. The value is marked as sensitive, so `Debug` does not
    /// print the value.
    credentials: Option<HeaderValue>,
}

/// The reason why a text is not the URL of a proxy. The operator has to correct the URL of the
/// proxy.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("is not the URL of a proxy; write http://HOST:PORT")]
pub(crate) struct ParseProxyError;

/// The reason why a proxy opened no tunnel to an origin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    /// The connection to the proxy broke.
    #[error("the connection to the proxy broke")]
    Broken(#[source] std::io::Error),
    /// The answer of the proxy is not HTTP, or is too long.
    #[error("its answer is not HTTP")]
    Malformed,
    /// The proxy requires a user name and a password, or refuses the configured user name and
    /// password.
    #[error(
        "it answered with status 407; write its user name and password into the URL in the variable \
         https_proxy or http_proxy"
    )]
    Credentials,
    /// The proxy refuses to connect to the origin.
    #[error("it answered with status {0}")]
    Status(u16),
}

impl FromStr for Proxy {
    type Err = ParseProxyError;

    /// Reads `http://[USER:PASSWORD@]HOST[:PORT]`. The prefix `http://` can be omitted.
    fn from_str(text: &str) -> Result<Self, ParseProxyError> {
        let text = Zeroizing::new(if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        });
        let url = Url::parse(&text).map_err(|_may_quote_the_password| ParseProxyError)?;
        let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if url.scheme() != "http" || !is_bare {
            return Err(ParseProxyError);
        }
        let origin = url.origin().ascii_serialization().parse();
        Ok(Self {
            origin: origin.map_err(|_invalid| ParseProxyError)?,
            credentials: credentials(&url)?,
        })
    }
}

/// Returns the value of `Proxy-Authorization` for the user name and the password in `url` (RFC 7617
/// section 2).
fn credentials(url: &Url) -> Result<Option<HeaderValue>, ParseProxyError> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let mut pair: Zeroizing<Vec<u8>> = Zeroizing::new(percent_decode_str(url.username()).collect());
    pair.push(b':');
    pair.extend(percent_decode_str(url.password().unwrap_or_default()));
    let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(&*pair)));
    let value = HeaderValue::from_str(&value);
    let mut value = value.map_err(|_never_for_base64| ParseProxyError)?;
    value.set_sensitive(true);
    Ok(Some(value))
}

impl Proxy {
    /// The address to which the gateway connects.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Whether the URL of the proxy contains a user name or a password.
    pub(crate) fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }

    /// If the gateway could not connect to the proxy, this function adds the name of the proxy to
    /// the error. A failed TLS handshake is an error of the origin, so this function does not
    /// change such an error.
    pub(super) fn explain(&self, error: Error) -> Error {
        let is_about_proxy = matches!(
            error,
            Error::Resolve(_) | Error::Connect(_) | Error::ConnectTimeout
        );
        if is_about_proxy {
            self.failed(error)
        } else {
            error
        }
    }

    fn failed(&self, problem: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Proxy {
            proxy: self.to_string().into(),
            problem: problem.into(),
        }
    }

    /// Asks the proxy to forward all later bytes of `stream` to `origin` (RFC 9110 section 9.3.6).
    pub(super) async fn open_tunnel(
        &self,
        stream: &mut TcpStream,
        origin: &Origin,
    ) -> Result<(), Error> {
        let opened = self.connect(stream, origin).await;
        opened.map_err(|problem| self.failed(problem))
    }

    async fn connect(&self, stream: &mut TcpStream, origin: &Origin) -> Result<(), TunnelError> {
        let host = origin.host();
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host
        };
        let target = format!("{host}:{}", origin.port());
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        let mut request = Zeroizing::new(request.into_bytes());
        if let Some(credentials) = &self.credentials {
            request.extend_from_slice(b"Proxy-Authorization: ");
            request.extend_from_slice(credentials.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let sent = stream.write_all(&request).await;
        sent.map_err(TunnelError::Broken)?;
        let mut head = Vec::new();
        // The gateway reads the head of the proxy's answer byte by byte, because the bytes after
        // the head belong to TLS.
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= MAX_HEAD {
                return Err(TunnelError::Malformed);
            }
            head.push(stream.read_u8().await.map_err(TunnelError::Broken)?);
        }
        match status_of(&head).ok_or(TunnelError::Malformed)? {
            200..=299 => Ok(()),
            407 => Err(TunnelError::Credentials),
            status => Err(TunnelError::Status(status)),
        }
    }

    /// Returns the absolute form of a target (RFC 9112 section 3.2.2), and adds the credentials to
    /// `headers`.
    pub(super) fn address(&self, origin: &Origin, target: Uri, headers: &mut HeaderMap) -> Uri {
        if let Some(credentials) = &self.credentials {
            headers.insert(PROXY_AUTHORIZATION, credentials.clone());
        }
        let path = target.path_and_query().map_or("/", |path| path.as_str());
        // The origin and the path are valid parts of a URL, so the parser accepts the URL that is
        // made from these parts.
        format!("{origin}{path}").parse().unwrap_or(target)
    }

    /// Returns an error if `status` is 407, with which a proxy refuses the credentials of the
    /// gateway.
    pub(super) fn check(&self, status: StatusCode) -> Result<(), Error> {
        if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            return Err(self.failed(TunnelError::Credentials));
        }
        Ok(())
    }
}

/// Returns the status of an HTTP/1 response head.
fn status_of(head: &[u8]) -> Option<u16> {
    let line = head.strip_prefix(b"HTTP/1.")?.get(1..)?;
    let digits = line.strip_prefix(b" ")?.get(..3)?;
    str::from_utf8(digits).ok()?.parse().ok()
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.origin.fmt(f)
    }
}

/// Decides which proxy is used for a URL.
#[derive(Clone, Debug)]
pub(crate) enum Proxies {
    /// The proxy that is used for every URL. `None` if no proxy is used.
    Fixed(Option<Proxy>),
    /// The proxies that are set in environment variables.
    Variables(ProxyVariables),
}

/// The environment variables `https_proxy`, `http_proxy` and `no_proxy`.
#[derive(Clone, Debug)]
pub(crate) struct ProxyVariables {
    https: Option<Result<Proxy, ParseProxyError>>,
    http: Option<Result<Proxy, ParseProxyError>>,
    exceptions: Vec<Exception>,
}

/// An entry of `no_proxy`.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Exception {
    /// Every host.
    All,
    /// A domain and all its subdomains, at one port or at all ports.
    Domain(String, Option<u16>),
    /// All addresses of an IP network, at one port (`Some`) or at all ports (`None`). A network can
    /// consist of one address.
    Network(IpNet, Option<u16>),
}

impl Proxies {
    /// Reads the variables. If a variable is set both in small letters and in capital letters, the
    /// value of the variable in small letters is used.
    pub(crate) fn from_variables(environment: &Environment) -> Self {
        let read = |name: &str| {
            let value = environment.get(name);
            value.or_else(|| environment.get(&name.to_ascii_uppercase()))
        };
        let proxy = |name| read(name).map(|text| text.expose().trim().parse());
        let exceptions = read("no_proxy").map_or_else(Vec::new, |list| {
            let entries = list.expose().split([',', ' ']).map(str::trim);
            entries.filter_map(Exception::read).collect()
        });
        Self::Variables(ProxyVariables {
            https: proxy("https_proxy"),
            http: proxy("http_proxy"),
            exceptions,
        })
    }

    /// Returns the proxy for connections to `url`. If the host of `url` is this machine, the
    /// function ignores the proxies in the environment variables.
    ///
    /// # Errors
    ///
    /// [`ParseProxyError`] if the environment variable for the scheme of `url` does not contain the
    /// URL of a proxy.
    pub(crate) fn for_url(&self, url: &Url) -> Result<Option<Proxy>, ParseProxyError> {
        let variables = match self {
            Self::Fixed(proxy) => return Ok(proxy.clone()),
            Self::Variables(variables) => variables,
        };
        let variable = match url.scheme() {
            "https" => &variables.https,
            _ => &variables.http,
        };
        let (Some(proxy), Some(host)) = (variable, url.host()) else {
            return Ok(None);
        };
        let port = url.port_or_known_default();
        let direct = is_this_machine(&host)
            || variables
                .exceptions
                .iter()
                .any(|exception| exception.matches(&host, port));
        if direct {
            return Ok(None);
        }
        proxy.clone().map(Some)
    }
}

fn is_this_machine(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

impl Exception {
    fn read(text: &str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        if text == "*" {
            return Some(Self::All);
        }
        let network = |text: &str| -> Option<IpNet> {
            let text = text.trim_start_matches('[').trim_end_matches(']');
            let address = text.parse::<IpAddr>().map(IpNet::from);
            address.ok().or_else(|| text.parse().ok())
        };
        if let Some(network) = network(text) {
            return Some(Self::Network(network, None));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (text, None),
        };
        if let Some(network) = network(host) {
            return Some(Self::Network(network, port));
        }
        let domain = host.strip_prefix('*').unwrap_or(host);
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        (!domain.is_empty()).then_some(Self::Domain(domain, port))
    }

    fn matches(&self, host: &Host<&str>, port: Option<u16>) -> bool {
        let (is_host, only) = match (self, host) {
            (Self::All, _) => return true,
            (Self::Domain(domain, only), Host::Domain(name)) => {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                let parent = name.strip_suffix(&**domain);
                let below = parent.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                (below, only)
            }
            (Self::Network(network, only), Host::Ipv4(address)) => {
                (network.contains(&IpAddr::from(*address)), only)
            }
            (Self::Network(network, only), Host::Ipv6(address)) => {
                (network.contains(&IpAddr::from(*address)), only)
            }
            (Self::Domain(..), Host::Ipv4(_) | Host::Ipv6(_))
            | (Self::Network(..), Host::Domain(_)) => return false,
        };
        is_host && (only.is_none() || *only == port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy_for(variables: &[(&str, &str)], url: &str) -> Option<String> {
        let set = variables.iter().map(|(name, value)| (*name, *value));
        let proxies = Proxies::from_variables(&set.collect());
        let found = proxies.for_url(&url.parse().unwrap()).unwrap();
        found.map(|proxy| proxy.to_string())
    }

    #[test]
    fn the_scheme_of_the_url_selects_the_variable() {
        let both = [
            ("https_proxy", "http://one:1"),
            ("HTTP_PROXY", "http://two:2/"),
        ];
        let found = |url| proxy_for(&both, url);
        assert_eq!(found("https://id.example").as_deref(), Some("http://one:1"));
        assert_eq!(found("http://id.example").as_deref(), Some("http://two:2"));
        let small = [("https_proxy", "small:1"), ("HTTPS_PROXY", "capital:1")];
        let found = proxy_for(&small, "https://id.example");
        assert_eq!(found.as_deref(), Some("http://small:1"));
        for none in [&[][..], &[("https_proxy", "")], &[("all_proxy", "x:1")]] {
            assert_eq!(proxy_for(none, "https://id.example"), None);
        }
    }

    #[test]
    fn no_proxy_names_the_hosts_that_are_reached_directly() {
        for (list, url, direct) in [
            ("*", "https://id.example", true),
            ("id.example", "https://id.example", true),
            ("id.example", "https://a.id.example", true),
            (".example", "https://id.example", true),
            ("*.example", "https://id.example", true),
            (".id.example", "https://id.example", true),
            ("ID.Example.", "https://id.example.", true),
            ("d.example", "https://id.example", false),
            ("a.id.example", "https://id.example", false),
            ("x, id.example ,y", "https://id.example", true),
            ("x id.example", "https://id.example", true),
            ("id.example:443", "https://id.example", true),
            ("id.example:8443", "https://id.example", false),
            ("10.0.0.1", "https://10.0.0.1", true),
            ("10.0.0.1", "https://10.0.0.2", false),
            ("10.0.0.0/8", "https://10.1.2.3:8443", true),
            ("10.0.0.0/8", "https://11.1.2.3", false),
            ("10.0.0.1:8443", "https://10.0.0.1", false),
            ("2001:db8::1", "https://[2001:db8::1]", true),
            ("[2001:db8::1]", "https://[2001:db8::1]", true),
            ("[2001:db8::1]:443", "https://[2001:db8::1]", true),
            ("2001:db8::/32", "https://[2001:db8::1]", true),
            ("", "https://id.example", false),
            ("a:b", "https://a", false),
            ("", "https://localhost:8443", true),
            ("", "https://id.localhost", true),
            ("", "https://127.0.0.2", true),
            ("", "https://[::1]", true),
        ] {
            for name in ["no_proxy", "NO_PROXY"] {
                let set = [("https_proxy", "http://proxy:3128"), (name, list)];
                let found = proxy_for(&set, url);
                assert_eq!(found.is_none(), direct, "{list} {url}");
            }
        }
    }

    #[test]
    fn only_http_urls_are_proxies() {
        for bad in [
            "https://proxy",
            "socks5://proxy",
            "http://proxy/path",
            "http://proxy?query",
            "http://",
            "http://proxy:0",
        ] {
            assert_eq!(bad.parse::<Proxy>().unwrap_err(), ParseProxyError, "{bad}");
        }
        let set = [("https_proxy", "socks5://proxy")].into_iter().collect();
        let url = "https://id.example".parse().unwrap();
        assert!(Proxies::from_variables(&set).for_url(&url).is_err());
    }

    #[test]
    fn the_password_of_a_proxy_is_never_printed() {
        let proxy: Proxy = "http://us%65r:p%40ss-canary@proxy:3128".parse().unwrap();
        let sent = proxy.credentials.clone().unwrap();
        let pair = STANDARD.encode("user:p@ss-canary");
        assert_eq!(sent.to_str().unwrap(), format!("Basic {pair}"));
        let shown = format!("{proxy} {proxy:?}");
        assert!(!shown.contains("canary"), "{shown}");
        assert!(!shown.contains(&pair), "{shown}");
    }

    #[test]
    fn the_status_is_read_from_the_first_line() {
        assert_eq!(
            status_of(b"HTTP/1.1 200 Connection established\r\n\r\n"),
            Some(200)
        );
        assert_eq!(status_of(b"HTTP/1.0 407\r\n\r\n"), Some(407));
        for bad in [
            &b"HTTP/2 200\r\n"[..],
            b"HTTP/1.1 2\r\n\r\n",
            b"",
            b"200 OK",
        ] {
            assert_eq!(status_of(bad), None);
        }
    }
}
