//! Why a request got no answer from its upstream: one responsible and one status for each cause.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::page::Page;
use super::{Body, no_content};
use crate::fields;
use crate::server::BodyFailure;
use crate::target;
use crate::telemetry::chain;
use crate::upstream;

/// Why a request was answered by an error page.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The message's framing is ambiguous. Responsible: client.
    #[error("the request's framing is refused")]
    Framing(#[from] fields::FramingError),
    /// Plain HTTP came from a peer that is not listed as a proxy. Responsible: client, or the operator
    /// did not list the proxy's network.
    #[error("plain HTTP from a peer that is not a trusted proxy")]
    InsecureTransport,
    /// The request has passed this gateway too often. Responsible: gateway; a route leads back here.
    #[error("the request goes in circles")]
    Loop(#[from] fields::Loop),
    /// A method that one of our own endpoints does not have. Responsible: client.
    #[error("the endpoint does not have this method")]
    MethodNotAllowed(&'static str),
    /// What was posted to the redirection endpoint is not a form. Responsible: client.
    #[error("the answer that was posted is not a form")]
    NoForm,
    /// No route takes the target. Responsible: client.
    #[error("no route takes the target")]
    NoRoute,
    /// The request body was too large or too slow. Responsible: client.
    #[error("the request body is refused")]
    RequestBody(BodyFailure),
    /// The target has no canonical form. Responsible: client.
    #[error("the request's target is refused")]
    Target(#[source] target::Error),
    /// The host is none of ours. Responsible: client, or the operator did not list an origin.
    #[error("the host is not one of the configured origins")]
    UnknownHost,
    /// The upstream gave no answer. Responsible: upstream.
    #[error("the upstream gave no answer")]
    Upstream(#[source] upstream::Error),
}

/// Whose doing an error is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Responsible {
    /// Whoever sent the request.
    Client,
    /// This process or its settings.
    Gateway,
    /// The app behind.
    Upstream,
}

impl Error {
    /// Whose doing it is.
    pub(crate) fn responsible(&self) -> Responsible {
        match self {
            Self::Framing(_)
            | Self::InsecureTransport
            | Self::MethodNotAllowed(_)
            | Self::NoForm
            | Self::NoRoute
            | Self::RequestBody(_)
            | Self::Target(_)
            | Self::UnknownHost
            | Self::Upstream(upstream::Error::RequestBody(_)) => Responsible::Client,
            Self::Loop(_) => Responsible::Gateway,
            Self::Upstream(_) => Responsible::Upstream,
        }
    }

    /// The status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Framing(error) => error.status(),
            Self::InsecureTransport => StatusCode::FORBIDDEN,
            Self::Loop(error) => error.status(),
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoForm => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::RequestBody(BodyFailure::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RequestBody(BodyFailure::TooSlow) => StatusCode::REQUEST_TIMEOUT,
            Self::RequestBody(BodyFailure::Broken) => StatusCode::BAD_REQUEST,
            Self::Target(error) => error.status(),
            Self::UnknownHost => StatusCode::MISDIRECTED_REQUEST,
            Self::Upstream(error) => match error {
                upstream::Error::Busy => StatusCode::SERVICE_UNAVAILABLE,
                upstream::Error::ConnectTimeout | upstream::Error::HeadTimeout => {
                    StatusCode::GATEWAY_TIMEOUT
                }
                upstream::Error::RequestBody(_) => StatusCode::BAD_REQUEST,
                upstream::Error::Broken(_)
                | upstream::Error::Connect(_)
                | upstream::Error::Tls(_)
                | upstream::Error::Trust(_)
                | upstream::Error::TrustUnused => StatusCode::BAD_GATEWAY,
            },
        }
    }

    /// A stable code for logs and metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Framing(error) => error.reason(),
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
            Self::Upstream(error) => error.reason(),
        }
    }

    /// Tells the operator where an operator can act; what clients do wrong is in the access log.
    pub(super) fn log(&self) {
        match self.responsible() {
            Responsible::Client => {}
            Responsible::Gateway | Responsible::Upstream => {
                tracing::warn!(
                    reason = self.reason(),
                    error = chain(self),
                    "Request not served"
                );
            }
        }
    }

    /// The answer, worded for a person or a program as `headers` ask.
    pub(super) fn respond(&self, headers: &HeaderMap) -> Response<Body> {
        if let Self::Target(target::Error::Asterisk) = self {
            return no_content();
        }
        let (title, text) = self.wording();
        let mut response = Page::new(self.status(), title, text)
            .with_reason(self.reason())
            .respond(headers);
        let headers = response.headers_mut();
        if let Self::MethodNotAllowed(allowed) = self {
            headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
        }
        if let Self::Upstream(upstream::Error::Busy) = self {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        if matches!(self.responsible(), Responsible::Client) && !matches!(self, Self::NoRoute) {
            // Whoever sends malformed messages does not get to send a second one behind them.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn wording(&self) -> (&'static str, &'static str) {
        match self {
            Self::Framing(_) | Self::Target(_) => (
                "This request cannot be served",
                "It is malformed or ambiguous, so it was not passed on. If you followed a link, \
                 the link is broken; if you typed the address, look at it again.",
            ),
            Self::InsecureTransport => (
                "A secure connection is needed",
                "This site is served over https only. Open it with https:// at the beginning of \
                 the address.",
            ),
            Self::Loop(_) => (
                "This request goes in circles",
                "The gateway was asked to pass it to itself. Whoever runs this site has to look \
                 at its routes.",
            ),
            Self::MethodNotAllowed(_) => (
                "That does not work here",
                "This address cannot be asked in this way. Go back and use the page's own buttons.",
            ),
            Self::NoForm => (
                "This sign-in cannot be finished",
                "What the sign-in server sent here is not a form. Go back to the app and start again.",
            ),
            Self::NoRoute => ("Nothing is here", "There is no page at this address."),
            Self::RequestBody(BodyFailure::TooLarge) => (
                "That is too large",
                "What you sent is larger than this site takes. Send something smaller.",
            ),
            Self::RequestBody(BodyFailure::TooSlow | BodyFailure::Broken)
            | Self::Upstream(upstream::Error::RequestBody(_)) => (
                "What you sent did not arrive",
                "The connection was too slow or broke off. Try again.",
            ),
            Self::UnknownHost => (
                "This site is not served here",
                "The address names a site that this server does not know. Look at the address \
                 again; if it is right, whoever runs the site has to add it as a public URL.",
            ),
            Self::Upstream(upstream::Error::Busy) => (
                "The app is busy",
                "It has more to do than it can. If you are signed in, you still are; try again in a \
                 moment.",
            ),
            Self::Upstream(upstream::Error::ConnectTimeout | upstream::Error::HeadTimeout) => (
                "The app did not answer in time",
                "If you are signed in, you still are. Try again in a moment; what you sent may or \
                 may not have been done.",
            ),
            Self::Upstream(_) => (
                "The app cannot be reached",
                "It is down, or it answered with something that is not HTTP. If you are signed in, \
                 you still are; try again in a moment.",
            ),
        }
    }
}
