//! The auth check: another proxy asks whether it may forward a request.
//!
//! The other proxy sends a request to the endpoint of the auth check. Fields of this request contain
//! the method, the target and the host of the request that the other proxy has received from its
//! client. The gateway makes the same decision as for a forwarded request, but does not forward the
//! request. If the request is permitted, the answer contains the fields that the app needs.
//!
//! The settings name the kind of proxy for each network. The gateway reads only the fields that this
//! kind of proxy writes, and each field must occur exactly one time. If the gateway read other
//! fields, a client could choose the target of the check with a field that its proxy forwards
//! unchanged (GHSA-7x63-xv5r-3p2x).

use std::net::IpAddr;

use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, COOKIE, HOST, SEC_WEBSOCKET_KEY};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, Version};
use serde::Deserialize;

use super::page::{Page, add_security_fields};
use super::request_buffer::is_refused_cross_site;
use super::tunnel::check_switch;
use super::{Body, Error, RequestContext, WorkerSite};
use crate::access::Permit;
use crate::fields::REPLACING;
use crate::fields::forwarded::{Scheme, TrustedPeers};
use crate::login::PublicUrl;

/// Marks the answer to a permitted request. An answer without this mark never has a status that the
/// other proxy understands as a permission.
#[derive(Clone, Copy)]
struct Permitted;

const X_ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
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
    /// nginx with `auth_request`.
    Nginx,
    /// Traefik with `forwardAuth`.
    Traefik,
}

/// The networks whose proxies may ask for auth checks, each with the kind of its proxies. By
/// default, no proxy may ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct AskingProxies {
    /// The path of the auth check.
    path: Box<str>,
    /// The path at which a proxy asks for the answer to a request that was not permitted.
    answer_path: Box<str>,
    proxies: Vec<(TrustedPeers, ProxyKind)>,
}

/// The form of the answer that the other proxy needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum AnswerForm {
    /// The answer for the client. The other proxy forwards this answer if the request is not
    /// permitted.
    Whole,
    /// Only a status code. nginx understands only 2xx, 401 and 403. Other status codes become the
    /// status 500.
    StatusOnly,
}

/// An auth check. The gateway has read the original request from the fields of the other proxy.
#[derive(Clone, Copy, Debug)]
pub(super) struct AuthCheck {
    /// The scheme that the client of the other proxy used. nginx does not report the scheme.
    scheme: Option<Scheme>,
    form: AnswerForm,
    /// Whether the other proxy asks for the answer to a request that was not permitted.
    is_refused: bool,
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
    fn field_names(self) -> FieldNames {
        match self {
            Self::Nginx => FieldNames {
                method: X_ORIGINAL_METHOD,
                target: X_ORIGINAL_URI,
                host: None,
                scheme: None,
            },
            Self::Caddy | Self::Traefik => FieldNames {
                method: X_FORWARDED_METHOD,
                target: X_FORWARDED_URI,
                host: Some(X_FORWARDED_HOST),
                scheme: Some(X_FORWARDED_PROTO),
            },
        }
    }
}

impl AskingProxies {
    /// Creates the list of proxies. `path` is the path of the auth check.
    pub(crate) fn new(path: &str, proxies: Vec<(TrustedPeers, ProxyKind)>) -> Self {
        Self {
            path: path.into(),
            answer_path: format!("{path}/answer").into(),
            proxies,
        }
    }

    /// Returns the path of the auth check.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Returns true if at least one proxy may ask for auth checks.
    pub(crate) fn may_ask(&self) -> bool {
        !self.proxies.is_empty()
    }

    /// Returns the kind of the proxy at this address. The first network that contains the address
    /// decides. Returns `None` if the proxy must not ask for auth checks.
    fn kind_of(&self, address: IpAddr) -> Option<ProxyKind> {
        let mut proxies = self.proxies.iter();
        let found = proxies.find(|(networks, _kind)| networks.contains(address));
        found.map(|(_networks, kind)| *kind)
    }
}

impl WorkerSite {
    /// Replaces the method, the target and the host of an auth check with the values of the original
    /// request. Returns `None` if the request is not an auth check, or if the peer must not ask for
    /// auth checks.
    ///
    /// # Errors
    ///
    /// [`Error::AuthCheckField`].
    pub(super) fn auth_check(
        &self,
        peer: IpAddr,
        parts: &mut Parts,
    ) -> Option<Result<AuthCheck, Error>> {
        let proxies = &self.settings().asking_proxies;
        if !proxies.may_ask() {
            return None;
        }
        let path = parts.uri.path();
        let is_refused = path == &*proxies.answer_path;
        if !is_refused && path != &*proxies.path {
            return None;
        }
        let kind = proxies.kind_of(peer)?;
        let read = read_original(kind, parts).and_then(|scheme| {
            self.check_names(&parts.headers)?;
            Ok(scheme)
        });
        let is_trusted = self.settings().trusted.contains(peer);
        let check = read.map(|scheme| AuthCheck {
            // If TLS ends at a proxy before the asking proxy, the asking proxy reports `http`.
            scheme: scheme.filter(|_scheme| !is_trusted),
            form: match kind {
                ProxyKind::Nginx if !is_refused => AnswerForm::StatusOnly,
                ProxyKind::Caddy | ProxyKind::Nginx | ProxyKind::Traefik => AnswerForm::Whole,
            },
            is_refused,
        });
        Some(check)
    }

    /// Refuses a field that the app could read instead of a field of the gateway: another spelling
    /// of a field that only the gateway may write, or a field that replaces the method, the path or
    /// the user. A forwarded request never contains such a field, but the other proxy would forward
    /// the field.
    fn check_names(&self, headers: &HeaderMap) -> Result<(), Error> {
        let is_alias = |name: &str| {
            !name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let is_refused = |name: &&HeaderName| {
            let name = name.as_str();
            // An app reads the removed prefix of the path from `X-Forwarded-Prefix`.
            (is_alias(name) && self.owned().contains(name))
                || REPLACING.contains(&name)
                || name == "x-forwarded-prefix"
        };
        match headers.keys().find(is_refused) {
            Some(name) => Err(Error::ForgedField(name.clone())),
            None => Ok(()),
        }
    }
}

impl AuthCheck {
    /// Returns true if the other proxy only reads the status of the answer.
    pub(super) fn wants_only_status(self) -> bool {
        self.form == AnswerForm::StatusOnly
    }

    /// Returns the scheme of the original request.
    ///
    /// # Errors
    ///
    /// [`Error::InsecureTransport`] if the client used plain HTTP for an `https` site.
    pub(super) fn scheme(self, public_url: &PublicUrl) -> Result<Scheme, Error> {
        match (self.scheme, public_url.scheme()) {
            (Some(Scheme::Http), "https") => Err(Error::InsecureTransport),
            (_, "https") => Ok(Scheme::Https),
            (_, _) => Ok(Scheme::Http),
        }
    }

    /// Returns the answer to a permitted request. The answer contains the fields for the app, and the
    /// cookies of the request without the gateway's own cookies.
    ///
    /// # Errors
    ///
    /// [`Error::UpgradeForbidden`] or [`Error::ForeignOrigin`] if the request asks for a switch to
    /// another protocol, and [`Error::CrossSite`], as for a forwarded request.
    pub(super) fn permitted(
        self,
        permit: &mut Permit,
        context: &RequestContext,
    ) -> Result<Response<Body>, Error> {
        let asked = &context.parts.headers;
        // Some proxies remove `Upgrade` from the request of the auth check.
        let is_websocket = asked.contains_key(SEC_WEBSOCKET_KEY);
        if is_websocket || context.upgrade.is_some() {
            check_switch(context, permit, is_websocket)?;
        }
        if !is_websocket && is_refused_cross_site(context, permit) {
            return Err(Error::CrossSite);
        }
        if self.is_refused {
            // The first check of the other proxy did not permit the request. Meanwhile, the session
            // was renewed or the settings were changed.
            let mut page = Page::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "Try again",
                "Your session has just been renewed.",
            )
            .with_reason("auth_check_outdated");
            page.retry_after = Some(RETRY);
            return Ok(page.respond(asked));
        }
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        add_security_fields(headers);
        let request = (&context.parts.method, context.target.authority_value());
        for (name, value) in permit.fields(request) {
            headers.append(name, value);
        }
        // The field is present even if no cookie is left, so that the other proxy replaces the
        // cookies of the request.
        headers.insert(COOKIE, permit.cookies_for_app(asked));
        if let Some(value) = asked
            .get(AUTHORIZATION)
            .filter(|_| permit.passes_authorization())
        {
            headers.insert(AUTHORIZATION, value.clone());
        }
        response.extensions_mut().insert(Permitted);
        Ok(response)
    }

    /// Changes the status of an answer to a status that the other proxy understands. Only the answer
    /// to a permitted request keeps a successful status.
    pub(super) fn word(self, response: &mut Response<Body>) {
        if response.extensions_mut().remove::<Permitted>().is_some() {
            return;
        }
        let status = match response.status() {
            status if status.is_success() => {
                // A cache must not keep the refusal of a page that caches may keep.
                let no_store = HeaderValue::from_static("no-store");
                response.headers_mut().insert(CACHE_CONTROL, no_store);
                StatusCode::FORBIDDEN
            }
            status if self.form == AnswerForm::Whole => status,
            StatusCode::SEE_OTHER | StatusCode::UNAUTHORIZED => StatusCode::UNAUTHORIZED,
            _ => StatusCode::FORBIDDEN,
        };
        *response.status_mut() = status;
    }
}

/// The pause before a retry of a request that is permitted after all.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// Writes the original request into `parts`. Returns the scheme of the original request, if the
/// proxy reports the scheme.
fn read_original(kind: ProxyKind, parts: &mut Parts) -> Result<Option<Scheme>, Error> {
    let names = kind.field_names();
    let method = only(&parts.headers, &names.method)?;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_invalid| refuse(&names.method))?;
    let target = original_target(only(&parts.headers, &names.target)?);
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
    // The gateway does not forward the request, so the request is never a gRPC call. The answer to a
    // gRPC call has the status 200 even if the call is refused.
    parts.headers.remove(CONTENT_TYPE);
    parts.method = method;
    parts.uri = Uri::from(target);
    // The host of the original request is in `Host`, as in HTTP/1.1.
    parts.version = Version::HTTP_11;
    Ok(scheme)
}

/// Returns the target of the original request: a path with an optional query.
fn original_target(value: &HeaderValue) -> Option<PathAndQuery> {
    let text = value.to_str().ok()?;
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

fn refuse(name: &HeaderName) -> Error {
    Error::AuthCheckField(name.clone())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder()
            .uri("/_sidegate/auth")
            .header("host", "gw.test");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn read(kind: ProxyKind, fields: &[(&str, &str)]) -> Result<String, String> {
        let mut parts = parts(fields);
        let scheme = read_original(kind, &mut parts);
        let scheme = scheme.map_err(|error| error.to_string())?;
        let host = parts.headers[HOST].to_str().unwrap();
        let scheme = scheme.map_or("-", Scheme::as_str);
        Ok(format!("{} {scheme} {host} {}", parts.method, parts.uri))
    }

    const NGINX: [(&str, &str); 2] = [
        ("x-original-method", "POST"),
        ("x-original-uri", "/a%2Fb?x=1"),
    ];
    const FORWARDED: [(&str, &str); 4] = [
        ("x-forwarded-method", "GET"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "app.test"),
        ("x-forwarded-uri", "/a?x=1"),
    ];

    #[test]
    fn each_kind_of_proxy_has_its_own_fields() {
        let all: Vec<_> = NGINX.into_iter().chain(FORWARDED).collect();
        let nginx = Ok("POST - gw.test /a%2Fb?x=1".to_owned());
        assert_eq!(read(ProxyKind::Nginx, &NGINX), nginx);
        assert_eq!(read(ProxyKind::Nginx, &all), nginx);
        for kind in [ProxyKind::Caddy, ProxyKind::Traefik] {
            let forwarded = Ok("GET https app.test /a?x=1".to_owned());
            assert_eq!(read(kind, &FORWARDED), forwarded);
            assert_eq!(read(kind, &all), forwarded);
        }
    }

    #[test]
    fn h_20_a_field_of_another_kind_of_proxy_is_never_read() {
        assert!(read(ProxyKind::Nginx, &FORWARDED).is_err());
        assert!(read(ProxyKind::Traefik, &NGINX).is_err());
    }

    #[test]
    fn p_44_a_missing_repeated_or_malformed_field_is_refused() {
        for (kind, fields) in [
            (ProxyKind::Nginx, &NGINX[..]),
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
            let fields = [NGINX[0], ("x-original-uri", target)];
            assert!(read(ProxyKind::Nginx, &fields).is_err(), "{target}");
        }
        let wrong = [
            FORWARDED[0],
            ("x-forwarded-proto", "ftp"),
            FORWARDED[2],
            FORWARDED[3],
        ];
        assert!(read(ProxyKind::Caddy, &wrong).is_err());
    }
}
