//! The error responses. The error responses of a Passport server are equal, word for word, to the
//! responses of the real server of the same version. The error responses of an OpenID Provider
//! follow the standards.

use std::borrow::Cow;

use http::header::{LOCATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::provider_kind::ProviderKind;
use super::serve::{ReplyBody, answer, plain};

const INVALID_REQUEST: &str = "The request is missing a required parameter, includes an invalid \
     parameter value, includes a parameter more than once, or is otherwise malformed.";
const INVALID_GRANT: &str = "The provided authorization grant (e.g., authorization code, resource \
     owner credentials) or refresh token is invalid, expired, revoked, does not match the \
     redirection URI used in the authorization request, or was issued to another client.";

/// An OAuth error (RFC 6749 sections 4.1.2.1 and 5.2) with the `hint` of league/oauth2-server.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    error: &'static str,
    description: &'static str,
    hint: Option<Cow<'static, str>>,
    /// The value of `WWW-Authenticate`, if the response has a `WWW-Authenticate` field.
    challenge: Option<&'static str>,
}

/// The redirection URI to which the server sends an error, and the parameters `state` and `iss` of
/// this error response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Destination<'a> {
    pub(crate) redirect_uri: &'a str,
    pub(crate) state: Option<&'a str>,
    /// The issuer (RFC 9207). A Passport server does not send the issuer.
    pub(crate) iss: Option<&'a str>,
}

/// The error body. The members of the error have the same order as in the body of the real server.
/// Only Passport 12 sends `message`, which repeats the description. OAuth defines no member `hint`,
/// so an OpenID Provider appends the hint to the description.
#[derive(Serialize)]
struct Payload<'a> {
    error: &'a str,
    error_description: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

impl Refusal {
    const fn new(status: StatusCode, error: &'static str, description: &'static str) -> Self {
        Self {
            status,
            error,
            description,
            hint: None,
            challenge: None,
        }
    }

    fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns `invalid_request` for a parameter that is missing or is not text.
    pub(crate) fn parameter(name: &str) -> Self {
        Self::invalid_request(format!("Check the `{name}` parameter"))
    }

    /// Returns the OAuth error `invalid_request` with the given hint.
    pub(crate) fn invalid_request(hint: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", INVALID_REQUEST).hint(hint)
    }

    /// Returns the OAuth error `invalid_grant` with the given hint.
    pub(crate) fn invalid_grant(hint: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_grant", INVALID_GRANT).hint(hint)
    }

    /// Returns the error for an invalid code. Passport 12 answers `invalid_request` instead of
    /// `invalid_grant`.
    pub(crate) fn code(kind: ProviderKind, hint: &'static str) -> Self {
        match kind {
            ProviderKind::Passport12 => Self::invalid_request(hint),
            ProviderKind::OpenId | ProviderKind::Passport13 => Self::invalid_grant(hint),
        }
    }

    /// Returns the error for a valid code that does not belong to the client, the redirection URI
    /// or the verifier of the token request.
    pub(crate) fn stray_code(kind: ProviderKind, hint: &'static str) -> Self {
        match kind {
            ProviderKind::Passport12 | ProviderKind::Passport13 => Self::invalid_request(hint),
            ProviderKind::OpenId => Self::invalid_grant(hint),
        }
    }

    /// Returns the error for an invalid refresh token. Passport 12 answers `invalid_request` with
    /// status 401.
    pub(crate) fn refresh_token(kind: ProviderKind, hint: &'static str) -> Self {
        let (status, error) = match kind {
            ProviderKind::Passport12 => (StatusCode::UNAUTHORIZED, "invalid_request"),
            ProviderKind::OpenId | ProviderKind::Passport13 => {
                (StatusCode::BAD_REQUEST, "invalid_grant")
            }
        };
        Self::new(status, error, "The refresh token is invalid.").hint(hint)
    }

    /// Returns the error for an unknown client or a failed client authentication. `challenge` is
    /// the value of `WWW-Authenticate`.
    pub(crate) fn invalid_client(challenge: Option<&'static str>) -> Self {
        Self {
            challenge,
            ..Self::new(
                StatusCode::UNAUTHORIZED,
                "invalid_client",
                "Client authentication failed",
            )
        }
    }

    /// Returns the error for a scope that does not exist or was not granted.
    pub(crate) fn invalid_scope(scope: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_scope",
            "The requested scope is invalid, unknown, or malformed",
        )
        .hint(format!("Check the `{scope}` scope"))
    }

    /// Returns the error for an unsupported grant type.
    pub(crate) fn unsupported_grant_type() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "unsupported_grant_type",
            "The authorization grant type is not supported by the authorization server.",
        )
        .hint("Check that all required parameters have been provided")
    }

    /// Returns the error for an authorization request without a client.
    pub(crate) fn no_client(kind: ProviderKind) -> Self {
        match kind {
            ProviderKind::Passport12 | ProviderKind::Passport13 => Self::unsupported_grant_type(),
            ProviderKind::OpenId => Self::parameter("client_id"),
        }
    }

    /// Returns the error for a response type other than `code`. Only an OpenID Provider sends the
    /// error about the response type to the client.
    pub(crate) fn unsupported_response_type() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "unsupported_response_type",
            "The authorization server supports only the response type `code`.",
        )
    }

    /// Returns the error for an authorization request with an unknown client or an unregistered
    /// redirection URI. The server shows the error to the user, because a redirect to an unverified
    /// URI would be an open redirect.
    pub(crate) fn unknown_client(kind: ProviderKind) -> Self {
        match kind {
            ProviderKind::Passport12 | ProviderKind::Passport13 => Self::invalid_client(None),
            ProviderKind::OpenId => {
                Self::invalid_request("Check the `client_id` and `redirect_uri` parameters")
            }
        }
    }

    /// Returns the error for a missing or invalid access token (RFC 6750 section 3.1).
    pub(crate) fn access_token(kind: ProviderKind, hint: &'static str) -> Self {
        match kind {
            ProviderKind::Passport12 | ProviderKind::Passport13 => Self::access_denied(hint),
            ProviderKind::OpenId => Self {
                challenge: Some("Bearer error=\"invalid_token\""),
                ..Self::new(
                    StatusCode::UNAUTHORIZED,
                    "invalid_token",
                    "The access token is missing, expired, revoked or malformed.",
                )
            },
        }
    }

    /// Returns the error for an access token without permission for userinfo (RFC 6750 section
    /// 3.1).
    pub(crate) fn insufficient_scope() -> Self {
        Self {
            challenge: Some("Bearer error=\"insufficient_scope\", scope=\"openid\""),
            ..Self::new(
                StatusCode::FORBIDDEN,
                "insufficient_scope",
                "The access token lacks the scope `openid`.",
            )
        }
    }

    /// Returns the error for a user who has refused the request, or for a token that the server
    /// refuses.
    pub(crate) fn access_denied(hint: &'static str) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "access_denied",
            "The resource owner or authorization server denied the request.",
        )
        .hint(hint)
    }

    /// Returns the error for a request with `prompt=none` when no user is signed in.
    pub(crate) fn login_required(kind: ProviderKind) -> Self {
        match kind {
            ProviderKind::Passport12 => Self::access_denied("Unauthenticated"),
            ProviderKind::OpenId | ProviderKind::Passport13 => Self::new(
                StatusCode::UNAUTHORIZED,
                "login_required",
                "The authorization server requires end-user authentication.",
            ),
        }
    }

    /// Returns the error for a failure of the server itself.
    pub(crate) fn server_error() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            "The authorization server encountered an unexpected condition which prevented it \
             from fulfilling the request.",
        )
    }

    fn payload(&self, kind: ProviderKind) -> Payload<'_> {
        let described = Payload {
            error: self.error,
            error_description: self.description.into(),
            hint: self.hint.as_deref(),
            message: None,
        };
        match (kind, described.hint) {
            (ProviderKind::Passport12, _) => Payload {
                message: Some(self.description),
                ..described
            },
            (ProviderKind::OpenId, Some(hint)) => Payload {
                error_description: format!("{} {hint}", self.description).into(),
                hint: None,
                ..described
            },
            (ProviderKind::Passport13 | ProviderKind::OpenId, _) => described,
        }
    }

    /// Returns the refusal as a JSON response. Adds no caching fields to the response, because the
    /// real server adds none.
    pub(crate) fn response(&self, kind: ProviderKind) -> Response<ReplyBody> {
        let body = serde_json::to_vec(&self.payload(kind)).unwrap_or_default();
        let mut response = answer(self.status, "application/json", body);
        if let Some(scheme) = self.challenge {
            let value = HeaderValue::from_static(scheme);
            response.headers_mut().insert(WWW_AUTHENTICATE, value);
        }
        response
    }

    /// Returns the refusal as a redirect.
    pub(crate) fn redirect(&self, kind: ProviderKind, to: Destination<'_>) -> Response<ReplyBody> {
        let payload = self.payload(kind);
        let fields = [
            ("state", to.state),
            ("error", Some(payload.error)),
            ("error_description", Some(&*payload.error_description)),
            ("hint", payload.hint),
            ("message", payload.message),
            ("iss", to.iss),
        ];
        redirect(to.redirect_uri, &fields)
    }
}

/// Returns a 302 redirect to `uri`. Appends the parameters that have a value to the query.
pub(crate) fn redirect(uri: &str, fields: &[(&str, Option<&str>)]) -> Response<ReplyBody> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in fields {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    // A redirection URI can already have a query (RFC 6749 section 3.1.2).
    let separator = if uri.contains('?') { '&' } else { '?' };
    let location = format!("{uri}{separator}{}", query.finish());
    match HeaderValue::from_str(&location) {
        Ok(location) => {
            let mut response = answer(StatusCode::FOUND, "text/html; charset=utf-8", "");
            response.headers_mut().insert(LOCATION, location);
            response
        }
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "no redirect\n"),
    }
}
