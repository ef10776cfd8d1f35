//! The auth check: another proxy asks whether it may forward a request.
//!
//! The other proxy sends a request to the endpoint of the auth check. This request contains the
//! method, the target and the host of the request that the other proxy has received from its client.
//! The gateway makes the same decision as for a forwarded request, but does not forward the
//! request. If the request is permitted, the answer contains the fields that the app needs.
//!
//! The settings name the kind of proxy for each network. The gateway reads only the fields that this
//! kind of proxy writes, and each field must occur exactly one time. Envoy writes no fields, but
//! sends the original method, and the original path after the path of the auth check. If the gateway
//! read other fields, a client could choose the target of the check with a field that its proxy
//! forwards unchanged (GHSA-7x63-xv5r-3p2x).

mod call;
mod messages;
mod original;

use std::net::IpAddr;
use std::rc::Rc;

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, COOKIE, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use ipnet::IpNet;

pub(crate) use self::original::ProxyKind;
use self::original::read_original;
use super::grpc::Protocol;
use super::page::{Page, add_security_fields};
use super::record::Record;
use super::request_buffer::is_refused_cross_site;
use super::tunnel::check_switch;
use super::{Body, ClientConnection, Error, RequestContext, Settings, Worker, WorkerSite};
use crate::access::Permit;
use crate::fields::forwarded::{Scheme, TrustedPeers};
use crate::fields::request_id::X_REQUEST_ID;
use crate::fields::{DESCRIBING, REPLACING};
use crate::login::PublicUrl;
use crate::server::{Connection, RequestBody};
use crate::telemetry::DecisionLabel;

/// Marks the answer to a permitted request. An answer without this mark never has a status that the
/// other proxy understands as a permission.
#[derive(Clone, Copy)]
struct Permitted;

/// The names of the fields that Envoy removes from the request of the client. Envoy keeps a field of
/// the client if the answer of the auth check neither replaces the field nor lists its name here.
const X_ENVOY_AUTH_HEADERS_TO_REMOVE: HeaderName =
    HeaderName::from_static("x-envoy-auth-headers-to-remove");

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

/// What a request asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// The request is not an auth check, or the peer must not ask for auth checks.
    Nothing,
    /// The request is an auth check. The gateway has read the original request.
    Check(AuthCheck),
    /// The request is an auth check over gRPC. The original request is in the message of the call.
    Call,
}

/// An auth check. The gateway has read the original request from the request of the other proxy.
#[derive(Clone, Copy, Debug)]
pub(super) struct AuthCheck {
    kind: ProxyKind,
    /// The scheme that the client of the other proxy used. Only Caddy and Traefik report the scheme.
    scheme: Option<Scheme>,
    form: AnswerForm,
    /// Whether the other proxy asks for the answer to a request that was not permitted.
    is_refused: bool,
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

    /// Returns the first network whose proxies may ask, although their forwarding fields are not
    /// trusted.
    pub(crate) fn first_untrusted(&self, trusted: &TrustedPeers) -> Option<IpNet> {
        let mut proxies = self.proxies.iter();
        proxies.find_map(|(networks, _kind)| networks.first_outside(trusted))
    }

    /// Returns true if at least one proxy of this kind may ask for auth checks.
    pub(crate) fn has_kind(&self, kind: ProxyKind) -> bool {
        self.proxies.iter().any(|(_networks, other)| *other == kind)
    }

    /// Returns true if the proxy at this address may ask over gRPC.
    pub(crate) fn may_call(&self, address: IpAddr) -> bool {
        self.kind_of(address) == Some(ProxyKind::Envoy)
    }

    /// Returns the kind of the proxy at this address. The first network that contains the address
    /// decides. Returns `None` if the proxy must not ask for auth checks.
    fn kind_of(&self, address: IpAddr) -> Option<ProxyKind> {
        let mut proxies = self.proxies.iter();
        let found = proxies.find(|(networks, _kind)| networks.contains(address));
        found.map(|(_networks, kind)| *kind)
    }
}

impl Settings {
    /// Returns true if the host at `address` is a listed proxy, which sends the requests of many
    /// clients on one connection.
    pub(super) fn is_proxy(&self, address: IpAddr) -> bool {
        self.trusted.contains(address)
            || self.oauth2_proxies.contains(address)
            || self.asking_proxies.kind_of(address).is_some()
    }
}

impl WorkerSite {
    /// Replaces the method, the target and the host of an auth check with the values of the original
    /// request.
    ///
    /// # Errors
    ///
    /// [`Error::AuthCheckField`].
    pub(super) fn auth_check(&self, peer: IpAddr, parts: &mut Parts) -> Result<Asked, Error> {
        let proxies = &self.settings().asking_proxies;
        if !proxies.may_ask() {
            return Ok(Asked::Nothing);
        }
        let path = parts.uri.path();
        if path == call::PATH && proxies.may_call(peer) {
            let protocol = Protocol::of(&parts.method, &parts.headers);
            let is_call = protocol == Some(Protocol::Grpc);
            return Ok(if is_call { Asked::Call } else { Asked::Nothing });
        }
        let Some(kind) = proxies
            .kind_of(peer)
            .filter(|_| path.starts_with(&*proxies.path))
        else {
            return Ok(Asked::Nothing);
        };
        let has_original_path = kind == ProxyKind::Envoy;
        let is_refused = !has_original_path && path == &*proxies.answer_path;
        if !has_original_path && !is_refused && path != &*proxies.path {
            return Ok(Asked::Nothing);
        }
        let scheme = read_original(kind, &proxies.path, parts)?;
        self.check_names(&parts.headers)?;
        let is_trusted = self.settings().trusted.contains(peer);
        Ok(Asked::Check(AuthCheck {
            kind,
            // If TLS ends at a proxy before the asking proxy, the asking proxy reports `http`.
            scheme: scheme.filter(|_scheme| !is_trusted),
            form: match kind {
                ProxyKind::IngressNginx | ProxyKind::Nginx if !is_refused => AnswerForm::StatusOnly,
                ProxyKind::Caddy
                | ProxyKind::Envoy
                | ProxyKind::Haproxy
                | ProxyKind::IngressNginx
                | ProxyKind::Nginx
                | ProxyKind::Traefik => AnswerForm::Whole,
            },
            is_refused,
        }))
    }

    /// Returns the auth check of a call whose message contains the original request `parts`.
    fn check_of_call(&self, parts: &Parts) -> Result<AuthCheck, Error> {
        self.check_names(&parts.headers)?;
        Ok(AuthCheck {
            kind: ProxyKind::Envoy,
            scheme: None,
            form: AnswerForm::Whole,
            is_refused: false,
        })
    }

    /// Refuses a field that the app could read instead of a field of the gateway: another spelling
    /// of a field that only the gateway may write, or a field that replaces the method, the path or
    /// the user. A field that the gateway writes is permitted, because the other proxy replaces the
    /// field. A forwarded request never contains such a field, but the other proxy would forward
    /// the field.
    fn check_names(&self, headers: &HeaderMap) -> Result<(), Error> {
        let is_alias = |name: &str| {
            !name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let is_refused = |name: &&HeaderName| {
            let name = name.as_str();
            let is_written = || {
                let mut written = self.settings().written_fields.iter();
                written.any(|field| field.as_str() == name)
            };
            // An app reads the removed prefix of the path from `X-Forwarded-Prefix`.
            (is_alias(name) && self.owned().contains(name))
                || REPLACING.contains(&name)
                || name == "x-forwarded-prefix"
                || (names_user(name) && !is_written())
        };
        match headers.keys().find(is_refused) {
            Some(name) => Err(Error::ForgedField(name.clone())),
            None => Ok(()),
        }
    }
}

impl Worker {
    /// Answers an auth check over gRPC.
    pub(super) async fn answer_call(
        &self,
        connection: Connection,
        (parts, mut body): (Parts, RequestBody),
        mut record: Record,
    ) -> Response<Body> {
        let site = Rc::clone(record.site());
        let read = call::read(&mut body).await.and_then(|original| {
            let check = site.check_of_call(&original)?;
            Ok((original, check))
        });
        let (original, check) = match read {
            Ok(read) => read,
            // Envoy forwards no request if a call fails.
            Err(error) => return record.refused(&error, &parts.headers),
        };
        let client_connection = ClientConnection::new(connection);
        let asked = (None, Some(check));
        let step = self.decide(&client_connection, (original, body), asked, record);
        let answer = step.finish(self).await;
        call::response(answer, &site.settings().written_fields).await
    }
}

impl AuthCheck {
    /// Returns true if the other proxy only reads the status of the answer.
    pub(super) fn wants_only_status(self) -> bool {
        self.form == AnswerForm::StatusOnly
    }

    /// The name of the kind of the other proxy.
    pub(super) fn kind_name(self) -> &'static str {
        self.kind.name()
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
    /// cookies of the request without the gateway's own cookies. `written` are the names of all
    /// fields that the gateway writes for an app.
    ///
    /// # Errors
    ///
    /// [`Error::UpgradeForbidden`] or [`Error::ForeignOrigin`] if the request asks for a switch to
    /// another protocol, and [`Error::CrossSite`], as for a forwarded request.
    pub(super) fn permitted(
        self,
        permit: &mut Permit,
        context: &RequestContext,
        written: &[HeaderName],
    ) -> Result<Response<Body>, Error> {
        let asked = &context.parts.headers;
        // Some proxies remove `Upgrade` from the request of the auth check. Over HTTP/2, a handshake
        // has no `Sec-WebSocket-Key` (RFC 8441 section 5).
        let is_websocket =
            asked.contains_key(SEC_WEBSOCKET_KEY) || asked.contains_key(SEC_WEBSOCKET_VERSION);
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
        if self.kind == ProxyKind::Envoy {
            let left_out = left_out(written, headers);
            headers.insert(X_ENVOY_AUTH_HEADERS_TO_REMOVE, left_out);
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

/// Returns true if an app could read from a field with this name who the user is, and if no proxy
/// writes the field into an auth check.
fn names_user(name: &str) -> bool {
    // ingress-nginx writes the return address into `X-Auth-Request-Redirect`.
    (name.starts_with("x-auth-request-") && name != "x-auth-request-redirect")
        || ["client-cert", "client-cert-chain", "x-client-cert"].contains(&name)
}

/// The pause before a retry of a request that is permitted after all.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// Returns the names of the fields that Envoy removes, as a list: the fields for the app that have
/// no value in `answer`, and the fields that an app could take for fields of a proxy. `written` are
/// the names of all fields that the gateway writes for an app, except `Authorization`.
fn left_out(written: &[HeaderName], answer: &HeaderMap) -> HeaderValue {
    let names = written.iter().chain([&AUTHORIZATION]);
    // Envoy itself writes `X-Request-Id`.
    let of_proxies = DESCRIBING
        .iter()
        .filter(|name| **name != X_REQUEST_ID.as_str());
    let of_proxies = of_proxies.chain(&["x-forwarded-host", "x-forwarded-port"]);
    let names = names.map(HeaderName::as_str).chain(of_proxies.copied());
    let names: Vec<&str> = names.filter(|name| !answer.contains_key(*name)).collect();
    HeaderValue::try_from(names.join(",")).unwrap_or(HeaderValue::from_static(""))
}

/// Returns the answer to an auth check whose request is permitted.
pub(super) fn passed(
    context: &RequestContext,
    mut permit: Permit,
    mut record: Record,
) -> Response<Body> {
    let site = Rc::clone(record.site());
    let written = &site.settings().written_fields;
    let answer = context
        .auth_check
        .map(|check| check.permitted(&mut permit, context, written));
    let decision = if matches!(answer, Some(Err(Error::CrossSite))) {
        site.warn_about_cross_site(permit.route());
        DecisionLabel::Forbid
    } else {
        permit.label()
    };
    record.route(permit.route(), decision);
    record.user(permit.identity());
    match answer {
        Some(Ok(response)) => record.answered(response),
        Some(Err(error)) => record.refused(&error, &context.parts.headers),
        None => record.refused(&Error::NoRoute, &context.parts.headers),
    }
}
