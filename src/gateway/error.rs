//! The errors of requests. Each error has a responsible party and a status code.

use std::io;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};

use super::page::Page;
use super::streams::{Cut, CutCause};
use super::{Body, no_content, sign_in};
use crate::fields;
use crate::origin;
use crate::server::{BodyFailure, Refusal};
use crate::target;
use crate::telemetry::chain;
use crate::upstream;

/// The reason code if the file with a buffered body cannot be read.
pub(super) const FILE_LOST: &str = "buffer_file_lost";

/// The pause before a retry if the app is busy, or if no buffer is free.
const BUSY_RETRY: Duration = Duration::from_secs(5);

/// The reason why the gateway answers a request with an error page.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// In an auth check, a field with a part of the original request is missing, repeated or
    /// malformed. Responsible: the operator, who configures the proxy that asks for the auth check.
    #[error(
        "the field `{0}` of the auth check is missing, repeated or malformed; check `kind` in \
         auth_check.proxies, and the settings of the proxy"
    )]
    AuthCheckField(HeaderName),
    /// The route needs the whole body of a request, but the buffers of the gateway have no room for
    /// the body. Responsible: the operator, because the operator sets the sizes of the buffers. A
    /// disk error can also be the cause. The log contains the disk error.
    #[error("there is no buffer for the request body")]
    BuffersFull,
    /// A page of another site sends an unsafe request with the user's session. Responsible: the
    /// client. If the page may send such requests, the operator has to add the origin of the page to
    /// the key `cross_site` of the route.
    #[error("a page of another site may not send this request")]
    CrossSite,
    /// While a request waited for its app, the gateway ended the request for the reason in the
    /// `Cut`. Responsible: the client.
    #[error("the request was cut while it waited for its app")]
    Cut(Cut),
    /// The request of an auth check has a field that the app could read instead of a field of the
    /// gateway. Responsible: the client.
    #[error("the request has the field `{0}`, which only the gateway may write")]
    ForgedField(HeaderName),
    /// A page of another site tries to open a WebSocket with the user's session. Responsible: the
    /// client. The key `origins` in the route's `streams` lists the other sites that may open
    /// a WebSocket.
    #[error("a page of another site may not open a WebSocket here")]
    ForeignOrigin,
    /// The file with the buffered body of the request cannot be read. Responsible: the gateway.
    #[error("the file with the request body cannot be read")]
    FileLost(#[source] io::Error),
    /// The request's framing is ambiguous. Responsible: the client.
    #[error("the request's framing is invalid")]
    Framing(#[from] fields::FramingError),
    /// The head of the request is larger than `server.head_kib`, or has more fields than
    /// `server.fields`. Responsible: the client, or the operator, who sets the limits.
    #[error("the head of the request is too large")]
    HeadTooLarge,
    /// The request uses HTTP without TLS, and its peer is not a trusted proxy. Responsible: the
    /// client. If the peer is a proxy whose network is missing in `trusted_proxies`, the operator
    /// is responsible.
    #[error("plain HTTP from a peer that is not a trusted proxy")]
    InsecureTransport,
    /// The request has passed this gateway too often. Responsible: the operator. The upstream of a
    /// route leads back to the gateway.
    #[error("the request is in a forwarding loop")]
    Loop(#[from] fields::Loop),
    /// The endpoint does not accept this method. The string in this variant lists the methods that
    /// the endpoint accepts. Responsible: the client.
    #[error("the endpoint does not accept this method")]
    MethodNotAllowed(&'static str),
    /// The data that was posted to the redirection endpoint is not a form. Responsible: the client.
    #[error("the posted answer is not a form")]
    NoForm,
    /// No route matches the target. Responsible: the client.
    #[error("no route matches the target")]
    NoRoute,
    /// The request body is too large, too slow or incomplete. Responsible: the client.
    #[error("the request body is rejected")]
    RequestBody(BodyFailure),
    /// The target has no canonical form. Responsible: the client.
    #[error("the request's target is invalid")]
    Target(#[source] target::Error),
    /// The request asks for a switch to another protocol, which the route does not allow.
    /// Responsible: the client. If the app needs the protocol, the operator has to change the key
    /// `upgrades` in the route's `streams`.
    #[error("the route does not allow a switch of protocols")]
    UpgradeForbidden,
    /// The request asks for a switch to another protocol, but the app speaks HTTP/2. An app that
    /// speaks HTTP/2 cannot switch to another protocol. Responsible: the client. If the app needs
    /// the protocol, the operator has to set the upstream's `protocol` to `http1`.
    #[error("an app that speaks HTTP/2 does not switch to another protocol")]
    UpgradeOverHttp2,
    /// The client has as many open tunnels as the route allows. Responsible: the client. If the
    /// limit is too low, the operator has to increase the value of `per_client` in the route's
    /// `streams`.
    #[error("the client has too many open streams")]
    TooManyStreams,
    /// A proxy has passed the request on without TLS, but the network of the proxy is missing in
    /// `server.trusted_proxies`. The client may have used TLS. Responsible: the operator. But every
    /// client can send the fields of a proxy, so the gateway treats the request like a wrong request
    /// of the client.
    #[error("plain HTTP from a proxy that is missing in server.trusted_proxies")]
    UnlistedProxy,
    /// The gateway does not serve this host. Responsible: the client. If the settings do not list
    /// the host, the operator is responsible for the error.
    #[error("the host is not one of the configured origins")]
    UnknownHost,
    /// The upstream gave no answer. Responsible: the upstream.
    #[error("the upstream gave no answer")]
    Upstream(#[source] upstream::Error),
}

/// The party that is responsible for an error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Responsible {
    /// The client, which sent the request, caused the error.
    Client,
    /// The gateway process or its settings caused the error.
    Gateway,
    /// The app.
    Upstream,
}

impl Error {
    /// Returns the party that is responsible for the error.
    pub(crate) fn responsible(&self) -> Responsible {
        match self {
            Self::CrossSite
            | Self::Cut(_)
            | Self::ForeignOrigin
            | Self::ForgedField(_)
            | Self::Framing(_)
            | Self::HeadTooLarge
            | Self::InsecureTransport
            | Self::MethodNotAllowed(_)
            | Self::NoForm
            | Self::NoRoute
            | Self::RequestBody(_)
            | Self::Target(_)
            | Self::UnknownHost
            | Self::UnlistedProxy
            | Self::UpgradeForbidden
            | Self::UpgradeOverHttp2
            | Self::TooManyStreams
            | Self::Upstream(upstream::Error::Evicted(_) | upstream::Error::RequestBody(_)) => {
                Responsible::Client
            }
            Self::AuthCheckField(_)
            | Self::BuffersFull
            | Self::FileLost(_)
            | Self::Loop(_)
            | Self::Upstream(upstream::Error::NoApp) => Responsible::Gateway,
            Self::Upstream(_) => Responsible::Upstream,
        }
    }

    /// The status code of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Cut(cut) => match cut.cause {
                CutCause::Limit => StatusCode::SERVICE_UNAVAILABLE,
                CutCause::Rule => StatusCode::FORBIDDEN,
                CutCause::Session => StatusCode::UNAUTHORIZED,
            },
            Self::BuffersFull => StatusCode::SERVICE_UNAVAILABLE,
            Self::FileLost(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Framing(error) => error.status(),
            Self::AuthCheckField(_)
            | Self::CrossSite
            | Self::ForeignOrigin
            | Self::ForgedField(_)
            | Self::InsecureTransport
            | Self::UnlistedProxy
            | Self::UpgradeForbidden => StatusCode::FORBIDDEN,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Loop(error) => error.status(),
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoForm => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::RequestBody(BodyFailure::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RequestBody(BodyFailure::TooSlow) => StatusCode::REQUEST_TIMEOUT,
            Self::RequestBody(BodyFailure::Broken) => StatusCode::BAD_REQUEST,
            Self::Target(error) => error.status(),
            Self::TooManyStreams => StatusCode::TOO_MANY_REQUESTS,
            Self::UpgradeOverHttp2 => StatusCode::NOT_IMPLEMENTED,
            Self::UnknownHost => StatusCode::MISDIRECTED_REQUEST,
            Self::Upstream(error) => match error {
                upstream::Error::Busy | upstream::Error::TooManyTunnels => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
                upstream::Error::ConnectTimeout | upstream::Error::HeadTimeout => {
                    StatusCode::GATEWAY_TIMEOUT
                }
                upstream::Error::Evicted(_) => StatusCode::REQUEST_TIMEOUT,
                upstream::Error::NoApp => StatusCode::NOT_FOUND,
                upstream::Error::RequestBody(_) => StatusCode::BAD_REQUEST,
                upstream::Error::Broken(_)
                | upstream::Error::Connect(_)
                | upstream::Error::ServerName(_)
                | upstream::Error::Tls(_)
                | upstream::Error::Trust(_)
                | upstream::Error::TrustUnused(_) => StatusCode::BAD_GATEWAY,
            },
        }
    }

    /// A stable code for logs and metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::AuthCheckField(_) => "auth_check_field",
            Self::BuffersFull => "buffers_full",
            Self::CrossSite => "cross_site",
            Self::Cut(cut) => cut.reason,
            Self::FileLost(_) => FILE_LOST,
            Self::ForeignOrigin => "foreign_origin",
            Self::ForgedField(_) => "forged_field",
            Self::Framing(error) => error.reason(),
            Self::HeadTooLarge => Refusal::HeadTooLarge.reason(),
            Self::InsecureTransport => "insecure_transport",
            Self::Loop(error) => error.reason(),
            Self::MethodNotAllowed(_) => "method_not_allowed",
            Self::NoForm => "no_form",
            Self::NoRoute => "no_route",
            Self::RequestBody(BodyFailure::TooLarge) => "body_too_large",
            Self::RequestBody(BodyFailure::TooSlow) => "body_too_slow",
            Self::RequestBody(BodyFailure::Broken) => "body_broken",
            Self::Target(error) => error.reason(),
            Self::UnknownHost => "unknown_host",
            Self::UnlistedProxy => "unlisted_proxy",
            Self::TooManyStreams => "too_many_streams",
            Self::UpgradeForbidden => "upgrade_forbidden",
            Self::UpgradeOverHttp2 => "upgrade_over_http2",
            Self::Upstream(error) => error.reason(),
        }
    }

    /// Logs an error that an operator can fix. An error that a client caused is only in the access
    /// log.
    pub(super) fn log(&self, request_id: &str) {
        match self.responsible() {
            Responsible::Client => {}
            Responsible::Gateway | Responsible::Upstream => {
                tracing::warn!(
                    request.id = request_id,
                    reason = self.reason(),
                    error = chain(self),
                    "Request not served"
                );
            }
        }
    }

    /// Returns the answer. The fields of the request (`headers`) decide whether the answer is a
    /// page, problem details or a gRPC status.
    pub(super) fn respond(&self, method: &Method, headers: &HeaderMap) -> Response<Body> {
        if let Self::Target(target::Error::Asterisk) = self {
            return no_content();
        }
        let (title, text) = self.wording();
        let mut page = Page::new(self.status(), title, text).with_reason(self.reason());
        if let Self::BuffersFull
        | Self::Upstream(upstream::Error::Busy | upstream::Error::TooManyTunnels) = self
        {
            page.retry_after = Some(BUSY_RETRY);
        }
        let mut response = page.respond_to(method, headers);
        let headers = response.headers_mut();
        if let Self::MethodNotAllowed(allowed) = self {
            headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
        }
        if self.status() == StatusCode::UNAUTHORIZED {
            sign_in::request_session(headers);
        }
        if matches!(self.responsible(), Responsible::Client) && !matches!(self, Self::NoRoute) {
            // The gateway closes the connection, because the gateway may misread the bytes that
            // follow a rejected request.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn wording(&self) -> (&'static str, &'static str) {
        match self {
            Self::AuthCheckField(_) => (
                "This site is not set up correctly",
                "The proxy of this site does not pass on the whole request. The administrator of \
                 this site finds details in the log.",
            ),
            Self::BuffersFull => NO_BUFFER,
            Self::CrossSite => CROSS_SITE,
            Self::Cut(cut) => cut_wording(cut.cause),
            Self::FileLost(_) => LOST_FILE,
            Self::ForgedField(_) | Self::Framing(_) | Self::Target(_) => MALFORMED,
            Self::ForeignOrigin => (
                "Not from another site",
                "A page of another site tried to open a connection to this app with your session. \
                 The app does not accept that.",
            ),
            Self::HeadTooLarge => TOO_LARGE_HEAD,
            Self::InsecureTransport => NO_TLS,
            Self::Loop(_) => (
                "This request came back to the gateway",
                "A route of the gateway leads to the gateway itself. The administrator of this \
                 site has to check the routes.",
            ),
            Self::MethodNotAllowed(_) => (
                "This kind of request is not accepted here",
                "Go back and use the buttons of the page.",
            ),
            Self::NoForm => (
                "This sign-in cannot be finished",
                "The answer of the sign-in server is not a form. Go back to the app and start \
                 again.",
            ),
            Self::NoRoute => ("Page not found", "There is no page at this address."),
            Self::RequestBody(BodyFailure::TooLarge) => (
                "You sent too much data",
                "This site does not accept so much data. Send less.",
            ),
            Self::RequestBody(BodyFailure::TooSlow | BodyFailure::Broken) => LOST_DATA,
            Self::UnknownHost => UNKNOWN_HOST,
            Self::UnlistedProxy => UNLISTED_PROXY,
            Self::TooManyStreams => (
                "Too many open connections",
                "This app is open in too many windows. Close some of them, and try again.",
            ),
            Self::UpgradeForbidden | Self::UpgradeOverHttp2 => (
                "WebSockets are turned off here",
                "This address is served over HTTP only.",
            ),
            Self::Upstream(error) => upstream_wording(error),
        }
    }
}

/// Returns the title and the text of the page for a request that the gateway ended before the app
/// answered.
fn cut_wording(cause: CutCause) -> (&'static str, &'static str) {
    match cause {
        CutCause::Limit => (
            "Your session cannot be read",
            "Try again in a moment. The app may or may not have processed what you sent.",
        ),
        CutCause::Rule => (
            "You may not use this page",
            "You have lost the permission while the app was working. The app may or may not have \
             processed what you sent.",
        ),
        CutCause::Session => (
            "Your session has ended",
            "It ended while the app was working. The app may or may not have processed what you \
             sent. Sign in, and open the page again.",
        ),
    }
}

/// The title and the text of the page if a page of another site caused the request.
const CROSS_SITE: (&str, &str) = (
    "Not from another site",
    "A page of another site sent this request with your session. The app did not get \
     it. To do this, open the app and use its own pages. If the other site should be \
     allowed to do this, the administrator of this site has to list it.",
);

/// The title and the text of the page for a request whose head is too large.
const TOO_LARGE_HEAD: (&str, &str) = (
    "Your browser sent too much data",
    "The cookies of this site, or the address of the page, are too long. Delete the cookies of this \
     site in your browser, and open the page again.",
);

/// The title and the text of the page for a request over plain HTTP. A proxy that sends no forwarding
/// fields looks like a client, so the user may already use https.
const NO_TLS: (&str, &str) = (
    "A secure connection is needed",
    "This site is served over https only. If the address begins with http://, replace this with \
     https://. If it already begins with https://, you cannot change anything: the administrator of \
     this site has to list the proxy of the site in server.trusted_proxies.",
);

/// The title and the text of the page for a request from a proxy that is not listed.
const UNLISTED_PROXY: (&str, &str) = (
    "This site is not set up correctly",
    "Your request came through a proxy that this server does not trust. You cannot change anything. \
     The administrator of this site has to list the proxy in server.trusted_proxies, and finds its \
     address in the log.",
);

/// The title and the text of the page for an unknown host.
const UNKNOWN_HOST: (&str, &str) = (
    "This site is not served here",
    "This server does not know the host in the address. Check the address. If it is right, the \
     administrator has to add it as a public URL.",
);

/// The title and the text of the page for a request that two programs could read in two ways.
const MALFORMED: (&str, &str) = (
    "This request cannot be served",
    "It is malformed or ambiguous, so the app did not get it. If you followed a link, \
     the link is broken. If you typed the address, check it.",
);

/// The title and the text of the page if no buffer is free for a request body.
const NO_BUFFER: (&str, &str) = (
    "Your data cannot be accepted now",
    "This site receives too much data at the moment. The app did not get your data. Try again in a \
     moment.",
);

/// The title and the text of the page that the user gets if a buffered request body was lost.
const LOST_FILE: (&str, &str) = (
    "Your data was lost",
    "This site could not pass all your data on to the app. Try again.",
);

/// The title and the text of the page for a request body that ended too early.
const LOST_DATA: (&str, &str) = (
    "Your data did not arrive",
    "The connection was too slow or was interrupted. Try again.",
);

/// Returns the title and the text of the page for an upstream that gave no answer.
fn upstream_wording(error: &upstream::Error) -> (&'static str, &'static str) {
    match error {
        upstream::Error::Evicted(_) | upstream::Error::RequestBody(_) => LOST_DATA,
        upstream::Error::Busy | upstream::Error::TooManyTunnels => (
            "The app is busy",
            "It has too many requests at the moment. Your sign-in is not affected. Try again in a \
             moment.",
        ),
        upstream::Error::ConnectTimeout | upstream::Error::HeadTimeout => (
            "The app did not answer in time",
            "Your sign-in is not affected. Try again in a moment. The app may or may not have \
             processed what you sent.",
        ),
        upstream::Error::NoApp => (
            "There is no app at this address",
            "This server only checks the requests for an app, and does not forward them. The \
             administrator of this site finds details in the log.",
        ),
        upstream::Error::Broken(
            origin::Error::HeadTooLarge(_) | origin::Error::TooManyFields(_),
        ) => (
            "The answer of the app is too large",
            "The head of the answer is longer than this server accepts. Your sign-in is not \
             affected. The administrator of this site finds details in the log.",
        ),
        upstream::Error::Broken(_)
        | upstream::Error::Connect(_)
        | upstream::Error::ServerName(_)
        | upstream::Error::Tls(_)
        | upstream::Error::Trust(_)
        | upstream::Error::TrustUnused(_) => (
            "The app cannot be reached",
            "It is down, or its answer is not valid HTTP. Your sign-in is not affected. Try again \
             in a moment.",
        ),
    }
}
