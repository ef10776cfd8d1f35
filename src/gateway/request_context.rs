//! The checks of a request before the access decision, and their results.

use std::rc::Rc;

use http::request::Parts;
use http::{HeaderMap, Version, header};
use url::Url;

use super::asked_page::{NotKept, X_AUTH_REQUEST_REDIRECT};
use super::auth_check::AuthCheck;
use super::navigation::{self, is_navigation};
use super::{ClientConnection, Error, Record, WorkerSite, grpc};
use crate::fields::forwarded::{Client, Scheme};
use crate::fields::{self, TrailerSupport, UpgradeRequest, request_id};
use crate::login::{NoReturn, OwnPaths, PublicUrl, ReturnTo};
use crate::server::{Connection, Security};
use crate::target::Target;

/// A request that has passed the checks, with the results of the checks.
#[derive(Debug)]
pub(super) struct RequestContext {
    pub(super) parts: Parts,
    pub(super) target: Target,
    pub(super) public_url: Rc<PublicUrl>,
    pub(super) client: Client,
    /// States which trailers of the answer the client gets.
    pub(super) trailers: TrailerSupport,
    /// The protocol to which the request asks to switch.
    pub(super) upgrade: Option<Box<UpgradeRequest>>,
    /// The auth check, if another proxy asks whether it may forward the request.
    pub(super) auth_check: Option<AuthCheck>,
}

impl RequestContext {
    /// The id of the request.
    pub(super) fn request_id(&self) -> &str {
        request_id::of(&self.parts.headers).unwrap_or_default()
    }

    /// Whether the browser shows the answer as a page in a tab, and not as a part of another page.
    pub(super) fn is_navigation(&self) -> bool {
        self.upgrade.is_none()
            && is_navigation(&self.parts)
            && grpc::Protocol::of(&self.parts.method, &self.parts.headers).is_none()
    }

    /// Whether a browser loads a page into a frame of another page.
    pub(super) fn is_in_frame(&self) -> bool {
        navigation::is_in_frame(&self.parts)
    }

    /// Returns the origin and the fields of the request, as the login flow needs them.
    pub(super) fn login_origin(&self) -> (&PublicUrl, &HeaderMap) {
        (&self.public_url, &self.parts.headers)
    }

    /// Returns the fields and the host of the request, as the look-up of its session needs them.
    pub(super) fn session_origin(&self) -> (&HeaderMap, &str) {
        (&self.parts.headers, self.public_url.authority())
    }

    /// Returns true if `Referer` names a page of the same origin.
    pub(super) fn is_from_same_origin(&self) -> bool {
        self.own_referrer().is_some()
    }

    /// Returns the URL in `Referer`, if the URL belongs to the same origin.
    fn own_referrer(&self) -> Option<Url> {
        let referrer = self.parts.headers.get(header::REFERER)?.to_str().ok()?;
        let url = Url::parse(referrer).ok()?;
        (url.origin().ascii_serialization() == self.public_url.origin()).then_some(url)
    }

    /// Like [`RequestContext::referring_page`], but also `None` if no login can return to the page.
    pub(super) fn referrer(&self, own: &OwnPaths) -> Option<ReturnTo> {
        self.referring_page(own)?.ok()
    }

    /// Returns the page in `Referer`, if the page belongs to the same origin and is not an endpoint
    /// of the gateway. A page of another origin must not decide to which page the user returns.
    pub(super) fn referring_page(&self, own: &OwnPaths) -> Option<Result<ReturnTo, NotKept>> {
        let url = self.own_referrer()?;
        let query = url
            .query()
            .map(|query| format!("?{query}"))
            .unwrap_or_default();
        match ReturnTo::read(&format!("{}{query}", url.path()), own) {
            Ok(page) => Some(Ok(page)),
            Err(NoReturn::Unusable) => Some(Err(NotKept)),
            Err(NoReturn::OwnEndpoint) => None,
        }
    }
}

impl WorkerSite {
    /// Performs steps 1 to 3 of the list in the crate documentation: checks the request, and
    /// removes all fields that only the gateway may write.
    pub(super) fn receive(
        &self,
        client_connection: &ClientConnection,
        parts: &mut Parts,
        (auth_check, has_content): (Option<AuthCheck>, bool),
        record: &mut Record,
    ) -> Result<(Target, Rc<PublicUrl>, Client, TrailerSupport), Error> {
        fields::check_framing(parts)?;
        let target = self.target(parts, &client_connection.recent_host)?;
        record.target(&target);
        let public_url = self.public_url(target.authority());
        let peer = client_connection.peer.address();
        let public_url = public_url.ok_or_else(|| self.unknown_host(peer, target.authority()))?;
        let scheme = match auth_check {
            Some(check) => check.scheme(&public_url)?,
            None => self
                .scheme(client_connection.connection, &public_url)
                .map_err(|_plain| self.plain_http(peer, &parts.headers))?,
        };
        let trusted = &self.settings().trusted;
        // The forwarding fields are read here, before the gateway removes them from the request.
        let client = Client::read(&client_connection.peer, scheme, &parts.headers, trusted);
        record.client(client.address());
        if client.has_other_scheme() {
            self.warn_about_scheme(peer, &public_url);
        }
        let redirect = self.redirect_of_proxy((peer, &target), &parts.headers);
        let accepted = fields::inbound(&mut parts.headers, self.owned(), has_content);
        if let Some(redirect) = redirect {
            parts.headers.insert(X_AUTH_REQUEST_REDIRECT, redirect);
        }
        let trailers = match parts.version {
            Version::HTTP_2 => TrailerSupport::All,
            _ => accepted,
        };
        Ok((target, public_url, client, trailers))
    }

    /// Returns the scheme of the request. Plain HTTP to an `https` site is accepted only from this
    /// machine, or from a trusted proxy that terminates TLS.
    pub(super) fn scheme(
        &self,
        connection: Connection,
        public_url: &PublicUrl,
    ) -> Result<Scheme, Error> {
        if public_url.scheme() == "http" {
            return Ok(Scheme::Http);
        }
        // The PROXY header does not decide whether the connection is protected, because the bytes
        // come from the other end of the socket.
        let address = connection.socket_peer.ip();
        let protected = connection.security == Security::Tls
            || address.to_canonical().is_loopback()
            || self.settings().trusted.contains(address);
        if protected {
            Ok(Scheme::Https)
        } else {
            Err(Error::InsecureTransport)
        }
    }
}
