//! The canonical request target.
//!
//! [`Target::from_request`] converts the target of a parsed request to one canonical form, or
//! rejects the target. The rules, the log and the forwarded request all use the canonical form of
//! the target. No later code parses a host or a path again, so all parts of the gateway and the app
//! understand a request in the same way. An [`Error`] states why a target is rejected.
//!
//! The module implements the syntax of RFC 9110 section 4, RFC 9112 section 3 and RFC 3986. The
//! module does not use routes, users or upstreams. A [`Prefix`] is a path prefix. A route uses a
//! prefix to select requests by their paths.
//!
//! The settings of a route can allow unusual [`Forms`] of a path, such as encoded slashes. If
//! [`Target::from_request`] has rejected a target, [`Target::with_unusual_path`] accepts the target
//! if its path has only allowed forms. An app may read such a path in several ways, so the routes
//! judge every [`Reading`] of the path.

mod byte_set;
mod fold;
mod forms;
mod host;
mod path;
mod prefix;
mod reading;
mod replace;
#[cfg(test)]
mod spelling_tests;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bytes::Bytes;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode, Uri, Version};

use host::Host;

pub(crate) use fold::FoldedPath;
pub(crate) use forms::{Form, Forms};
pub(crate) use host::{RecentHost, canonical_authority};
pub use prefix::Prefix;
pub(crate) use reading::Reading;

/// The maximum length of an accepted path, in received bytes. A longer path gets the status 414.
pub(crate) const MAX_PATH: usize = 8192;

/// The reason why a request's target is rejected.
///
/// Responsible: the client. [`Error::status`] is the status code of the answer, and
/// [`Error::reason`] is the code for the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The request is `OPTIONS *`, which asks about the whole server (RFC 9110 section 9.3.7).
    /// `OPTIONS *` is valid, and the gateway answers it with 204.
    #[error("the request is `OPTIONS *`, which is about the whole server")]
    Asterisk,
    /// `Host` names a different host than the absolute target or `:authority`.
    #[error("the target and the Host field name different hosts")]
    AuthorityConflict,
    /// The path has a control character, plain or percent-encoded.
    #[error("the path has a control character")]
    ControlCharacter,
    /// The path has `.` or `..` as a segment, plain or percent-encoded.
    #[error("the path has a dot segment")]
    DotSegment,
    /// The path is percent-encoded two times. A second decoding would produce a dot, a slash, a
    /// backslash, a semicolon, a percent sign or a control character.
    #[error("the path is percent-encoded twice")]
    DoublyEncoded,
    /// A segment of the path is empty and is not the last segment.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// The path has a backslash, or a percent-encoded slash or backslash.
    #[error("the path has a backslash or an encoded slash")]
    HiddenSeparator,
    /// The request has more than one `Host` field (RFC 9112 section 3.2).
    #[error("the request has several Host fields")]
    HostDuplicated,
    /// The authority is not `host [ ":" port ]` with an ASCII name or an IP address.
    #[error("the host is malformed")]
    HostMalformed,
    /// The request has neither `Host` nor `:authority`.
    #[error("the request has no host")]
    HostMissing,
    /// A percent sign is not followed by two hexadecimal digits.
    #[error("the path has a malformed percent-encoding")]
    MalformedPercent,
    /// The method has a lower-case letter. Methods are case-sensitive (RFC 9110 section 9.1), and
    /// the rules check the method as the client wrote it. An app that ignores case would treat
    /// `get` as `GET`, but the rules have not checked `GET`.
    #[error("the method has a lower-case letter")]
    MethodMalformed,
    /// The method is CONNECT, TRACE or TRACK.
    #[error("the method is not supported")]
    MethodNotAllowed,
    /// The decoded path is not UTF-8. Overlong encodings are also not valid UTF-8.
    #[error("the path is not UTF-8")]
    NotUtf8,
    /// The path is longer than [`MAX_PATH`].
    #[error("the path is longer than {MAX_PATH} bytes")]
    PathTooLong,
    /// The scheme of an absolute target is neither `http` nor `https`.
    #[error("the scheme is not http or https")]
    SchemeUnknown,
    /// The target is neither a path nor an absolute URI.
    #[error("the target is neither a path nor an absolute URI")]
    WrongForm,
}

impl Error {
    /// Returns the status code of the answer.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Asterisk => StatusCode::NO_CONTENT,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::PathTooLong => StatusCode::URI_TOO_LONG,
            Self::AuthorityConflict
            | Self::ControlCharacter
            | Self::DotSegment
            | Self::DoublyEncoded
            | Self::EmptySegment
            | Self::HiddenSeparator
            | Self::HostDuplicated
            | Self::HostMalformed
            | Self::HostMissing
            | Self::MalformedPercent
            | Self::MethodMalformed
            | Self::NotUtf8
            | Self::SchemeUnknown
            | Self::WrongForm => StatusCode::BAD_REQUEST,
        }
    }

    /// Returns a stable code for logs and metrics.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Asterisk => "target_asterisk",
            Self::AuthorityConflict => "target_authority_conflict",
            Self::ControlCharacter => "target_control_character",
            Self::DotSegment => "target_dot_segment",
            Self::DoublyEncoded => "target_doubly_encoded",
            Self::EmptySegment => "target_empty_segment",
            Self::HiddenSeparator => "target_hidden_separator",
            Self::HostDuplicated => "target_host_duplicated",
            Self::HostMalformed => "target_host_malformed",
            Self::HostMissing => "target_host_missing",
            Self::MalformedPercent => "target_malformed_percent",
            Self::MethodMalformed => "target_method_malformed",
            Self::MethodNotAllowed => "target_method_not_allowed",
            Self::NotUtf8 => "target_not_utf8",
            Self::PathTooLong => "target_path_too_long",
            Self::SchemeUnknown => "target_scheme_unknown",
            Self::WrongForm => "target_wrong_form",
        }
    }
}

/// The canonical target of a request: a host, an optional port, a path and an optional query.
///
/// The host is in lower case and has no trailing dot. The path follows RFC 3986 section 6.2.2:
/// percent-encodings of unreserved characters are decoded, other percent-encodings have upper-case
/// digits, and characters that are not allowed in a path are encoded. The query stays unchanged,
/// byte for byte. A clone copies no text, but only increments two reference counts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    host: Host,
    /// Whether the field `Host` of the request contains exactly the canonical authority.
    is_host_field: bool,
    /// The unusual forms of the path.
    forms: Forms,
    path_and_query: PathAndQuery,
}

impl Target {
    /// Reads the target of a request that hyper has parsed, over HTTP/1.1 or HTTP/2.
    ///
    /// HTTP/1 requires exactly one `Host` field (RFC 9112 section 3.2), even with an absolute
    /// target. If the target is in absolute form, the authority of the target must be the same as
    /// the value of `Host`. HTTP/2 requires `:authority` or exactly one `host` field. If an HTTP/2
    /// request has both `:authority` and `host`, the two values must be the same (RFC 9113 section
    /// 8.3.1).
    ///
    /// # Errors
    ///
    /// Any [`Error`]. Each [`Error`] is a rejection, except [`Error::Asterisk`].
    pub fn from_request(parts: &http::request::Parts) -> Result<Self, Error> {
        Self::on_connection(parts, &RecentHost::default())
    }

    /// Does the same as [`Target::from_request`], for a request on a connection with the given last
    /// host. If the host is the last host and the path is already canonical, this function allocates
    /// nothing.
    ///
    /// # Errors
    ///
    /// Any [`Error`], like [`Target::from_request`].
    pub(crate) fn on_connection(
        parts: &http::request::Parts,
        recent: &RecentHost,
    ) -> Result<Self, Error> {
        check_method(&parts.method)?;
        check_scheme(&parts.uri)?;
        let (host, is_host_field) = find_host(parts, recent)?;
        let path_and_query = received(parts).ok_or(Error::WrongForm)?;
        if path_and_query.as_str() == "*" {
            let asked_about_all = parts.method == Method::OPTIONS;
            return Err(if asked_about_all {
                Error::Asterisk
            } else {
                Error::WrongForm
            });
        }
        Ok(Self {
            host,
            is_host_field,
            forms: Forms::default(),
            path_and_query: canonical(path_and_query)?,
        })
    }

    /// Reads the target of a request whose path has unusual forms, and returns all readings of the
    /// path. Returns `None` if the target has another fault, or if the path has a form that is not
    /// in `allowed`.
    ///
    /// The path of the target has its canonical spelling: an encoded slash is written as `%2F`, a
    /// backslash as `%5C`, and an octet outside ASCII is percent-encoded.
    pub(crate) fn with_unusual_path(
        parts: &http::request::Parts,
        allowed: Forms,
    ) -> Option<(Self, Vec<Reading>)> {
        check_method(&parts.method).ok()?;
        check_scheme(&parts.uri).ok()?;
        let received = received(parts)?;
        if received.path().len() > MAX_PATH {
            return None;
        }
        let (path, forms, readings) = reading::unusual(received.path(), allowed)?;
        let (host, is_host_field) = find_host(parts, &RecentHost::default()).ok()?;
        let target = Self {
            host,
            is_host_field,
            forms,
            path_and_query: with_query(path, received.query()).ok()?,
        };
        Some((target, readings))
    }

    /// The unusual forms of the path. The set is empty if the path is usual.
    pub(crate) fn forms(&self) -> Forms {
        self.forms
    }

    /// Returns all ways in which an app may read the path. A usual path has one reading.
    pub(crate) fn readings(&self) -> Vec<Reading> {
        reading::readings(self.path(), self.forms)
    }

    /// Returns the host and the port as one text. The host is a lower-case name without a trailing
    /// dot, an IPv4 address, or an IPv6 address in brackets. The text contains no port if the port
    /// is 80 or 443.
    pub(crate) fn authority(&self) -> &str {
        self.host.authority()
    }

    /// Returns the text of [`Target::authority`] as a value for the fields `Host` and
    /// `X-Forwarded-Host` of the forwarded request. Cloning the returned value only increments a
    /// reference count.
    pub(crate) fn authority_value(&self) -> &HeaderValue {
        self.host.value()
    }

    /// Returns true if the field `Host` of the request contains exactly the text of
    /// [`Target::authority`].
    pub(crate) fn is_host_field(&self) -> bool {
        self.is_host_field
    }

    /// Returns the canonical path. The path starts with `/`.
    pub(crate) fn path(&self) -> &str {
        self.path_and_query.path()
    }

    /// Returns the query as received, without the `?`.
    pub(crate) fn query(&self) -> Option<&str> {
        self.path_and_query.query()
    }

    /// Returns the canonical path and the query. Rules and logs use only the path. The forwarded
    /// request contains the path and the query.
    pub(crate) fn path_and_query(&self) -> &PathAndQuery {
        &self.path_and_query
    }
}

fn check_method(method: &Method) -> Result<(), Error> {
    // The response to TRACE would contain the cookies of the request. CONNECT would open a tunnel
    // that no rule checks.
    if matches!(method.as_str(), "CONNECT" | "TRACE" | "TRACK") {
        return Err(Error::MethodNotAllowed);
    }
    if method
        .as_str()
        .bytes()
        .any(|byte| byte.is_ascii_lowercase())
    {
        return Err(Error::MethodMalformed);
    }
    Ok(())
}

fn check_scheme(uri: &Uri) -> Result<(), Error> {
    match uri.scheme_str() {
        None => Ok(()),
        Some(scheme) if scheme.eq_ignore_ascii_case("http") => Ok(()),
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => Ok(()),
        Some(_) => Err(Error::SchemeUnknown),
    }
}

/// Returns the received path and query. Only an absolute target of HTTP/1.1 may begin its query
/// directly after the authority. `:path` is never empty and begins with `/`, except in `OPTIONS *`
/// (RFC 9113 section 8.3.1).
fn received(parts: &http::request::Parts) -> Option<&PathAndQuery> {
    let received = parts.uri.path_and_query()?;
    let text = received.as_str();
    let is_absolute = parts.version < Version::HTTP_2 && parts.uri.authority().is_some();
    (text.starts_with('/') || text == "*" || is_absolute).then_some(received)
}

/// Returns the canonical authority, and whether the field `Host` contains exactly this text.
fn find_host(parts: &http::request::Parts, recent: &RecentHost) -> Result<(Host, bool), Error> {
    let mut fields = parts.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(Error::HostDuplicated);
    }
    let from_field = field.map(|field| recent.parse(field.as_bytes()));
    let from_field = from_field.transpose()?;
    let Some(authority) = parts.uri.authority() else {
        let host = from_field.ok_or(Error::HostMissing)?;
        let is_field = field == Some(host.value());
        return Ok((host, is_field));
    };
    let from_target = recent.parse(authority.as_str().as_bytes())?;
    match from_field {
        Some(from_field) if from_field != from_target => Err(Error::AuthorityConflict),
        None if parts.version < Version::HTTP_2 => Err(Error::HostMissing),
        Some(_) | None => Ok((from_target, false)),
    }
}

/// Returns the canonical spelling of a path from which unusual forms may come, and all readings of
/// the path. Returns `None` if the path is not safe.
pub(crate) fn readings_of(path: &str) -> Option<(String, Vec<Reading>)> {
    if let Ok(path) = path::canonical(path) {
        let readings = reading::readings(&path, Forms::default());
        return Some((path.into_owned(), readings));
    }
    let (path, _forms, readings) = reading::unusual(path, Forms::ALL)?;
    Some((path, readings))
}

fn canonical(received: &PathAndQuery) -> Result<PathAndQuery, Error> {
    let path = received.path();
    // The length of the path is checked first, so that the other checks do not have to read a very
    // long path.
    if path.len() > MAX_PATH {
        return Err(Error::PathTooLong);
    }
    let path = path::canonical(path)?;
    // If the query of an absolute target follows the authority directly, the path is `/`.
    let unchanged = matches!(path, Cow::Borrowed(_)) && received.as_str().starts_with('/');
    if unchanged {
        return Ok(received.clone());
    }
    with_query(path.into_owned(), received.query())
}

/// Joins a path in canonical spelling and a query.
fn with_query(path: String, query: Option<&str>) -> Result<PathAndQuery, Error> {
    let mut text = path;
    if let Some(query) = query {
        text.push('?');
        text.push_str(query);
    }
    // The conversion to a `PathAndQuery` fails only if the text is too long, because the text
    // contains only allowed bytes.
    PathAndQuery::from_maybe_shared(Bytes::from(text)).map_err(|_too_long| Error::PathTooLong)
}
