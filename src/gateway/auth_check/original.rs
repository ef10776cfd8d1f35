//! Reads the original request of an auth check: the request that the other proxy has received from
//! its client.

use http::header::{CONTENT_TYPE, HOST};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use serde::Deserialize;

use crate::fields::forwarded::Scheme;
use crate::gateway::Error;

/// The names of parts of an auth check of Envoy that are not fields, for log lines.
pub(super) const HOST_MEMBER: HeaderName = HeaderName::from_static("host");
pub(super) const METHOD_MEMBER: HeaderName = HeaderName::from_static("method");
pub(super) const PATH_MEMBER: HeaderName = HeaderName::from_static("path");
const X_ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
const X_ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// A proxy that asks for auth checks.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProxyKind {
    /// Caddy with `forward_auth`.
    Caddy,
    /// Envoy with `ext_authz`.
    Envoy,
    /// HAProxy with the Lua action that `sidegate snippet` prints.
    Haproxy,
    /// The ingress controller of Kubernetes "ingress-nginx", with the annotation `auth-url`.
    IngressNginx,
    /// nginx with `auth_request`.
    Nginx,
    /// Traefik with `forwardAuth`.
    Traefik,
}

/// The parts of an auth check in which a kind of proxy reports the original request.
enum Report {
    /// The proxy sends the original method and the original `Host`. The path is the path of the
    /// auth check, followed by the original path.
    Request,
    /// The proxy reports the request in these fields.
    Fields(FieldNames),
    /// The proxy reports the method in `X-Original-Method`, and the scheme, the host and the target
    /// in `X-Original-URL`.
    Url,
}

/// The names of the fields in which a kind of proxy reports the original request.
struct FieldNames {
    method: HeaderName,
    target: HeaderName,
    /// `None` if the proxy reports the host in `Host`.
    host: Option<HeaderName>,
    scheme: Option<HeaderName>,
}

impl ProxyKind {
    /// The name of the kind in the settings and in the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Caddy => "caddy",
            Self::Envoy => "envoy",
            Self::Haproxy => "haproxy",
            Self::IngressNginx => "ingress_nginx",
            Self::Nginx => "nginx",
            Self::Traefik => "traefik",
        }
    }

    fn report(self) -> Report {
        match self {
            Self::Envoy => Report::Request,
            Self::Haproxy | Self::Nginx => Report::Fields(FieldNames {
                method: X_ORIGINAL_METHOD,
                target: X_ORIGINAL_URI,
                host: None,
                scheme: None,
            }),
            Self::IngressNginx => Report::Url,
            Self::Caddy | Self::Traefik => Report::Fields(FieldNames {
                method: X_FORWARDED_METHOD,
                target: X_FORWARDED_URI,
                host: Some(X_FORWARDED_HOST),
                scheme: Some(X_FORWARDED_PROTO),
            }),
        }
    }
}

/// Writes the original request into `parts`. `path` is the path of the auth check. Returns the
/// scheme of the original request, if the proxy reports the scheme.
pub(super) fn read_original(
    kind: ProxyKind,
    path: &str,
    parts: &mut Parts,
) -> Result<Option<Scheme>, Error> {
    let names = match kind.report() {
        Report::Fields(names) => names,
        Report::Url => return read_url(parts).map(Some),
        Report::Request => {
            let whole = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
            let target = whole.strip_prefix(path).and_then(original_target);
            write_target(parts, target.ok_or_else(|| refuse(&PATH_MEMBER))?);
            return Ok(None);
        }
    };
    let method = original_method(&parts.headers, &names.method)?;
    let target = only(&parts.headers, &names.target)?.to_str().ok();
    let target = target.and_then(original_target);
    let target = target.ok_or_else(|| refuse(&names.target))?;
    if let Some(name) = &names.host {
        let host = only(&parts.headers, name)?.clone();
        parts.headers.insert(HOST, host);
    }
    let scheme = names.scheme.map(|name| {
        let scheme = Scheme::parse(only(&parts.headers, &name)?.as_bytes());
        scheme.ok_or_else(|| refuse(&name))
    });
    let scheme = scheme.transpose()?;
    parts.method = method;
    write_target(parts, target);
    Ok(scheme)
}

/// Reads the original request from `X-Original-Method` and `X-Original-URL`.
fn read_url(parts: &mut Parts) -> Result<Scheme, Error> {
    let method = original_method(&parts.headers, &X_ORIGINAL_METHOD)?;
    let url = only(&parts.headers, &X_ORIGINAL_URL)?.to_str().ok();
    let (scheme, host, target) = url
        .and_then(split_url)
        .ok_or_else(|| refuse(&X_ORIGINAL_URL))?;
    // The controller has replaced the value of the client, so the field is not a forged field.
    parts.headers.remove(X_ORIGINAL_URL);
    parts.headers.insert(HOST, host);
    parts.method = method;
    write_target(parts, target);
    Ok(scheme)
}

/// Returns the scheme, the host and the target of a URL.
fn split_url(url: &str) -> Option<(Scheme, HeaderValue, PathAndQuery)> {
    let (scheme, rest) = url.split_once("://")?;
    let (host, target) = rest.split_at_checked(rest.find('/')?)?;
    // An authority ends before a query.
    let host: Authority = host.parse().ok()?;
    let host = HeaderValue::from_str(host.as_str()).ok()?;
    Some((
        Scheme::parse(scheme.as_bytes())?,
        host,
        original_target(target)?,
    ))
}

/// Returns the method in the field `name`.
fn original_method(headers: &HeaderMap, name: &HeaderName) -> Result<Method, Error> {
    let method = only(headers, name)?;
    Method::from_bytes(method.as_bytes()).map_err(|_invalid| refuse(name))
}

/// Replaces the target of the auth check with the original target.
fn write_target(parts: &mut Parts, target: PathAndQuery) {
    // Over HTTP/2, the host of the request is a part of the target.
    if parts.version == Version::HTTP_2
        && let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(HOST, host);
    }
    // The gateway does not forward the request, so the request is never a gRPC call. The answer to a
    // gRPC call has the status 200 even if the call is refused.
    parts.headers.remove(CONTENT_TYPE);
    parts.uri = Uri::from(target);
    // The host of the original request is in `Host`, as in HTTP/1.1.
    parts.version = Version::HTTP_11;
}

/// Returns the target of the original request: a path with an optional query.
pub(super) fn original_target(text: &str) -> Option<PathAndQuery> {
    // The parser of `PathAndQuery` would silently remove a fragment.
    let is_path = text.starts_with('/') && !text.contains('#');
    text.parse().ok().filter(|_target| is_path)
}

/// Returns the only value of a field.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a HeaderValue, Error> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        (None, _) | (Some(_), Some(_)) => Err(refuse(name)),
    }
}

pub(super) fn refuse(name: &HeaderName) -> Error {
    Error::AuthCheckField(name.clone())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const CHECK: &str = "/_sidegate/auth";

    fn parts(uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri).header("host", "gw.test");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn read_at(uri: &str, kind: ProxyKind, fields: &[(&str, &str)]) -> Result<String, String> {
        let mut parts = parts(uri, fields);
        let scheme = read_original(kind, CHECK, &mut parts);
        let scheme = scheme.map_err(|error| error.to_string())?;
        let host = parts.headers[HOST].to_str().unwrap();
        let scheme = scheme.map_or("-", Scheme::as_str);
        Ok(format!("{} {scheme} {host} {}", parts.method, parts.uri))
    }

    fn read(kind: ProxyKind, fields: &[(&str, &str)]) -> Result<String, String> {
        read_at(CHECK, kind, fields)
    }

    const ORIGINAL: [(&str, &str); 2] = [
        ("x-original-method", "POST"),
        ("x-original-uri", "/a%2Fb?x=1"),
    ];
    const URL: [(&str, &str); 2] = [
        ("x-original-method", "POST"),
        ("x-original-url", "https://app.test/a?x=1"),
    ];
    const FORWARDED: [(&str, &str); 4] = [
        ("x-forwarded-method", "GET"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "app.test"),
        ("x-forwarded-uri", "/a?x=1"),
    ];

    #[test]
    fn each_kind_of_proxy_has_its_own_fields() {
        let all: Vec<_> = ORIGINAL.into_iter().chain(FORWARDED).collect();
        for kind in [ProxyKind::Haproxy, ProxyKind::Nginx] {
            let original = Ok("POST - gw.test /a%2Fb?x=1".to_owned());
            assert_eq!(read(kind, &ORIGINAL), original);
            assert_eq!(read(kind, &all), original);
        }
        for kind in [ProxyKind::Caddy, ProxyKind::Traefik] {
            let forwarded = Ok("GET https app.test /a?x=1".to_owned());
            assert_eq!(read(kind, &FORWARDED), forwarded);
            assert_eq!(read(kind, &all), forwarded);
        }
        let all: Vec<_> = all.into_iter().chain([URL[1]]).collect();
        let url = Ok("POST https app.test /a?x=1".to_owned());
        assert_eq!(read(ProxyKind::IngressNginx, &URL), url);
        assert_eq!(read(ProxyKind::IngressNginx, &all), url);
        let envoy = Ok("GET - gw.test /a%2Fb?x=1".to_owned());
        let uri = "/_sidegate/auth/a%2Fb?x=1";
        assert_eq!(read_at(uri, ProxyKind::Envoy, &[]), envoy);
        assert_eq!(read_at(uri, ProxyKind::Envoy, &all), envoy);
    }

    #[test]
    fn the_host_of_an_http2_request_of_envoy_is_read() {
        let mut parts = parts("http://app.test/_sidegate/auth/a", &[]);
        parts.version = Version::HTTP_2;
        assert!(read_original(ProxyKind::Envoy, CHECK, &mut parts).is_ok());
        assert_eq!(
            (&*parts.uri.to_string(), &parts.headers[HOST]),
            ("/a", &HeaderValue::from_static("app.test"))
        );
    }

    #[test]
    fn h_20_a_field_of_another_kind_of_proxy_is_never_read() {
        assert!(read(ProxyKind::Nginx, &FORWARDED).is_err());
        assert!(read(ProxyKind::Haproxy, &FORWARDED).is_err());
        assert!(read(ProxyKind::Traefik, &ORIGINAL).is_err());
        assert!(read(ProxyKind::IngressNginx, &ORIGINAL).is_err());
        assert!(read(ProxyKind::Envoy, &ORIGINAL).is_err());
        assert!(read(ProxyKind::Envoy, &FORWARDED).is_err());
    }

    #[test]
    fn p_44_a_missing_repeated_or_malformed_field_is_refused() {
        for (kind, fields) in [
            (ProxyKind::Haproxy, &ORIGINAL[..]),
            (ProxyKind::IngressNginx, &URL[..]),
            (ProxyKind::Nginx, &ORIGINAL[..]),
            (ProxyKind::Traefik, &FORWARDED[..]),
        ] {
            for (at, (name, _)) in fields.iter().enumerate() {
                let mut without = fields.to_vec();
                without.remove(at);
                let error = read(kind, &without).unwrap_err();
                assert!(error.contains(name), "{error}");
                let mut doubled = fields.to_vec();
                doubled.push(fields[at]);
                let error = read(kind, &doubled).unwrap_err();
                assert!(error.contains(name), "{error}");
            }
        }
        for target in ["", "*", "a", "http://evil.test/", "/a#b", "/a b", "/\u{e4}"] {
            let fields = [ORIGINAL[0], ("x-original-uri", target)];
            assert!(read(ProxyKind::Nginx, &fields).is_err(), "{target}");
        }
        for url in [
            "",
            "/a",
            "app.test/a",
            "https://app.test",
            "https://app.test?/a",
            "ftp://app.test/a",
            "https://app.test/a#b",
        ] {
            let fields = [URL[0], ("x-original-url", url)];
            assert!(read(ProxyKind::IngressNginx, &fields).is_err(), "{url}");
        }
        let wrong = [
            FORWARDED[0],
            ("x-forwarded-proto", "ftp"),
            FORWARDED[2],
            FORWARDED[3],
        ];
        assert!(read(ProxyKind::Caddy, &wrong).is_err());
        for uri in [
            "/_sidegate/auth",
            "/_sidegate/auth*",
            "/_sidegate/auth?/a",
            "/_sidegate/authx",
        ] {
            let error = read_at(uri, ProxyKind::Envoy, &[]).unwrap_err();
            assert!(error.contains("`path`"), "{uri}: {error}");
        }
    }
}
