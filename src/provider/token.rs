//! The token request (RFC 6749 section 4.1.3) and the token response (section 5.1).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use serde::Serializer as _;
use serde::ser::SerializeMap as _;
use serde_json::Value;
use url::form_urlencoded;
use zeroize::{Zeroize as _, Zeroizing};

use super::client_auth::ClientAuth;
use super::error_response::{self, ErrorResponse};
use super::json::{self, JsonError, Object, quoted_number};
use super::settings::{
    BodyFormat, ErrorPattern, GrantType, RevocationMethod, RevocationRequest, RevokedToken,
    Settings,
};
use super::{SetupError, TokenCallError};
use crate::clock::Timestamp;
use crate::secret::Secret;

/// The reserved parameters. The settings must not contain these parameters.
const RESERVED: [&str; 10] = [
    "grant_type",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "redirect_uri",
    "code",
    "code_verifier",
    "refresh_token",
    "resource",
];

/// The longest accepted lifetime of a token: a hundred years, in seconds.
const MAX_LIFETIME: f64 = 3_155_760_000.0;

/// The reason why a token response is not valid. Responsible: the provider.
#[derive(Debug, thiserror::Error)]
pub enum ResponseFormatError {
    /// The response is compressed, although the request did not allow compression.
    #[error("the response is compressed")]
    Compressed,
    /// `expires_in` is not a number of seconds between zero and a hundred years.
    #[error("`expires_in` is not a number of seconds")]
    ExpiresIn,
    /// The body is not a JSON object, although the media type is JSON.
    #[error("it is not a JSON object")]
    Json(#[source] JsonError),
    /// The media type is not JSON.
    #[error("the media type is not JSON")]
    MediaType,
    /// A required member is missing or not a string.
    #[error("the member `{0}` is missing or not a string")]
    Member(&'static str),
    /// The token type is not `Bearer`, which is the only type that the gateway supports.
    #[error("the token type is not `Bearer`")]
    TokenType,
}

/// A successful token response.
#[derive(Debug)]
pub(super) struct TokenResponse {
    pub(super) access_token: Secret<String>,
    pub(super) refresh_token: Option<Secret<String>>,
    pub(super) expires_in: Option<Duration>,
    /// The ID token, which has not been verified yet.
    pub(super) id_token: Option<Secret<String>>,
}

/// A code, and the values of the authorization request that led to the code.
#[derive(Debug)]
pub(super) struct CodeGrant<'a> {
    pub(super) code: &'a Secret<String>,
    pub(super) code_verifier: Option<&'a Secret<String>>,
    pub(super) redirect_uri: &'a str,
}

/// The format of token requests to one provider.
#[derive(Debug)]
pub(super) struct RequestFormat {
    body: BodyFormat,
    /// The resources for which the gateway requests the access token (RFC 8707 section 2.2).
    resources: Vec<String>,
    /// The additional parameters from the profile and the operator, under the names that the
    /// request uses.
    extra: BTreeMap<String, String>,
    rename: BTreeMap<String, String>,
}

impl RequestFormat {
    /// Checks that the settings repeat no parameter and replace no reserved parameter.
    pub(super) fn new(settings: &Settings) -> Result<Self, SetupError> {
        let request = &settings.token_request;
        let refuse = |key, problem| Err(SetupError::Setting { key, problem });
        if request
            .rename
            .keys()
            .any(|name| !RESERVED.contains(&&**name))
        {
            let problem = "names a parameter that a token request does not have";
            return refuse("token_request.rename", problem);
        }
        let format = Self {
            body: request.body,
            resources: settings.authorization_request.resource.clone(),
            extra: request.parameters.clone(),
            rename: request.rename.clone(),
        };
        let mut names: Vec<&str> = RESERVED.iter().map(|name| format.name(name)).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair.first() == pair.last()) {
            return refuse("token_request.rename", "gives two parameters the same name");
        }
        if names.iter().any(|name| name.is_empty()) {
            return refuse("token_request.rename", "gives a parameter an empty name");
        }
        let mut extra = format.extra.keys();
        if extra.any(|name| RESERVED.contains(&&**name) || names.contains(&&**name)) {
            return refuse("token_request.parameters", "sets a reserved parameter");
        }
        Ok(format)
    }

    fn name<'a>(&'a self, name: &'a str) -> &'a str {
        self.rename.get(name).map_or(name, String::as_str)
    }

    /// Creates the request that exchanges a code. The credentials are the first parameters. The
    /// parameters after the credentials have the order of the examples in RFC 6749.
    pub(super) fn redemption(
        &self,
        uri: &Uri,
        client_auth: &ClientAuth,
        grant: &CodeGrant<'_>,
        now: Timestamp,
    ) -> Result<Request<Full<Bytes>>, TokenCallError> {
        let mut request = TokenRequest::new("authorization_code", client_auth, now)?;
        request.push("redirect_uri", grant.redirect_uri);
        request.push("code", grant.code.expose());
        if let Some(verifier) = grant.code_verifier {
            request.push("code_verifier", verifier.expose());
        }
        Ok(self.write(uri, &request))
    }

    /// Creates the request that exchanges a refresh token for new tokens (RFC 6749 section 6). The
    /// request contains no `scope`, so the scope stays the same.
    pub(super) fn refresh(
        &self,
        uri: &Uri,
        client_auth: &ClientAuth,
        refresh_token: &Secret<String>,
        now: Timestamp,
    ) -> Result<Request<Full<Bytes>>, TokenCallError> {
        let mut request = TokenRequest::new("refresh_token", client_auth, now)?;
        request.push("refresh_token", refresh_token.expose());
        Ok(self.write(uri, &request))
    }

    fn write(&self, uri: &Uri, request: &TokenRequest<'_>) -> Request<Full<Bytes>> {
        let ours = request
            .parameters()
            .map(|(name, value)| (self.name(name), value));
        let extra = self.extra.iter().map(|(name, value)| (&**name, &**value));
        let pairs = ours.chain(extra);
        let resource = self.name("resource");
        let resources = self.resources.iter().map(|value| (resource, &**value));
        let (media_type, body) = match self.body {
            BodyFormat::Form => (FORM, form(pairs.chain(resources))),
            BodyFormat::Json => ("application/json", object(pairs, resource, &self.resources)),
        };
        request.post(uri, media_type, body)
    }
}

/// The parts of a token request: its parameters in order, and its `Authorization` field.
pub(super) struct TokenRequest<'a> {
    pub(super) authorization: Option<HeaderValue>,
    parameters: Vec<(&'static str, ParameterValue<'a>)>,
}

/// The value of a parameter.
enum ParameterValue<'a> {
    /// A borrowed value. The owner of a secret value wipes the memory of the value.
    Borrowed(&'a str),
    /// An owned value. Dropping the value wipes its memory.
    Owned(Secret<String>),
}

impl<'a> TokenRequest<'a> {
    /// Creates a request with a grant type and with client authentication.
    pub(super) fn new(
        grant_type: &'static str,
        client_auth: &'a ClientAuth,
        now: Timestamp,
    ) -> Result<Self, TokenCallError> {
        Self::with(&[("grant_type", grant_type)], client_auth, now)
    }

    /// Creates a request that revokes a refresh token (RFC 7009 section 2.1).
    pub(super) fn revocation(
        uri: &Uri,
        client_auth: &'a ClientAuth,
        refresh_token: &'a Secret<String>,
        now: Timestamp,
    ) -> Result<Request<Full<Bytes>>, TokenCallError> {
        let parameters = [
            ("token", refresh_token.expose().as_str()),
            ("token_type_hint", "refresh_token"),
        ];
        let request = Self::with(&parameters, client_auth, now)?;
        Ok(request.post(uri, FORM, form(request.parameters())))
    }

    /// Creates the provider's own request that revokes a token. `authorization` is the client
    /// authentication.
    pub(super) fn own_revocation(
        uri: &Uri,
        own: &RevocationRequest,
        authorization: &HeaderValue,
        token: &Secret<String>,
    ) -> Request<Full<Bytes>> {
        let name = match own.token {
            RevokedToken::AccessToken => "access_token",
            RevokedToken::RefreshToken => "refresh_token",
        };
        let parameters = vec![(name, ParameterValue::Borrowed(token.expose()))];
        let request = TokenRequest {
            authorization: Some(authorization.clone()),
            parameters,
        };
        let (media_type, body) = match own.body {
            BodyFormat::Form => (FORM, form(request.parameters())),
            BodyFormat::Json => {
                let body = object(request.parameters(), "", &[]);
                ("application/json", body)
            }
        };
        let mut written = request.post(uri, media_type, body);
        *written.method_mut() = match own.method {
            RevocationMethod::Delete => Method::DELETE,
            RevocationMethod::Post => Method::POST,
        };
        written
    }

    /// Creates a request with the parameters `first` and with client authentication. Only this
    /// function and `own_revocation` create a `TokenRequest`, so every request has client
    /// authentication.
    fn with(
        first: &[(&'static str, &'a str)],
        client_auth: &'a ClientAuth,
        now: Timestamp,
    ) -> Result<Self, TokenCallError> {
        let mut request = Self {
            authorization: None,
            parameters: Vec::new(),
        };
        for (name, value) in first {
            request.push(name, value);
        }
        client_auth.apply(&mut request, now)?;
        Ok(request)
    }

    /// Creates the HTTP request with the body `body`, which contains the parameters.
    fn post(
        &self,
        uri: &Uri,
        media_type: &'static str,
        body: Zeroizing<Vec<u8>>,
    ) -> Request<Full<Bytes>> {
        // The buffer is wiped after its last byte was written to the socket.
        let mut written = Request::new(Full::new(Bytes::from_owner(body)));
        *written.method_mut() = Method::POST;
        written.uri_mut().clone_from(uri);
        let headers = written.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        if let Some(value) = &self.authorization {
            headers.insert(AUTHORIZATION, value.clone());
        }
        written
    }

    pub(super) fn push(&mut self, name: &'static str, value: &'a str) {
        self.parameters
            .push((name, ParameterValue::Borrowed(value)));
    }

    /// Adds a parameter whose value was created only for this request.
    pub(super) fn push_owned(&mut self, name: &'static str, value: Secret<String>) {
        self.parameters.push((name, ParameterValue::Owned(value)));
    }

    /// Returns the parameters in the order in which they were added.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let parameters = self.parameters.iter();
        parameters.map(|(name, value)| match value {
            ParameterValue::Borrowed(value) => (*name, *value),
            ParameterValue::Owned(value) => (*name, value.expose().as_str()),
        })
    }
}

/// The media type of a form.
pub(super) const FORM: &str = "application/x-www-form-urlencoded";

/// The initial capacity of the buffer for a request. Even a token request with the longest
/// authorization code fits into the buffer. A buffer that grows would leave copies of secrets in
/// memory.
const BUFFER_CAPACITY: usize = 16 * 1024;

/// Writes a form. The memory of the form is wiped when the form is dropped.
pub(super) fn form<'a, 'b>(pairs: impl Iterator<Item = (&'a str, &'b str)>) -> Zeroizing<Vec<u8>> {
    let mut form = form_urlencoded::Serializer::new(String::with_capacity(BUFFER_CAPACITY));
    Zeroizing::new(form.extend_pairs(pairs).finish().into_bytes())
}

/// Writes a JSON object of strings. The memory of the object is wiped when the object is dropped.
/// If `values` contains several values, the member with the name `repeated` becomes a JSON array.
fn object<'a, 'b>(
    pairs: impl Iterator<Item = (&'a str, &'b str)>,
    repeated: &str,
    values: &[String],
) -> Zeroizing<Vec<u8>> {
    let mut buffer = Zeroizing::new(Vec::with_capacity(BUFFER_CAPACITY));
    let write = |buffer: &mut Vec<u8>| -> serde_json::Result<()> {
        let mut serializer = serde_json::Serializer::new(buffer);
        let mut object = serializer.serialize_map(None)?;
        for (name, value) in pairs {
            object.serialize_entry(name, value)?;
        }
        match values {
            [] => {}
            [value] => object.serialize_entry(repeated, value)?,
            values => object.serialize_entry(repeated, values)?,
        }
        object.end()
    };
    let written = write(&mut buffer);
    debug_assert!(written.is_ok(), "strings can always be written into memory");
    buffer
}

/// Reads the response to a token request. The function first checks whether the response is an
/// error response, and then checks the media type and the JSON.
///
/// `expires_in` may be missing, a number, a fraction or a number in quotes. An `expires_in` that is
/// null, zero, negative or more than a hundred years is refused, because such a value shows a fault
/// of the provider. A refresh token or an ID token that is null or empty is ignored.
pub(super) fn read(
    response: Response<Bytes>,
    grant: GrantType,
    patterns: &[ErrorPattern],
    now: Timestamp,
) -> Result<TokenResponse, TokenCallError> {
    let (parts, body) = response.into_parts();
    let members = json::object(&body);
    let empty = body.is_empty();
    // `members` contains copies of the tokens, so the body can be wiped.
    wipe(body);
    // Some providers send an error response with status 200.
    if parts.status != StatusCode::OK || members.as_ref().is_ok_and(error_response::is_error) {
        let response = ErrorResponse {
            grant,
            status: parts.status,
            headers: &parts.headers,
            members: members.as_ref().ok(),
            empty,
        };
        return Err(error_response::classify(&response, patterns, now));
    }
    let tokens = says_json(&parts.headers)
        .and_then(|()| members.map_err(ResponseFormatError::Json))
        .and_then(parse_tokens);
    tokens.map_err(TokenCallError::MalformedResponse)
}

fn parse_tokens(mut members: Object) -> Result<TokenResponse, ResponseFormatError> {
    // Each token becomes a `Secret` before the checks, so that its memory is wiped even if a check
    // fails.
    let access_token = match members.remove("access_token") {
        Some(Value::String(token)) => Ok(Secret::new(token)),
        _ => Err(ResponseFormatError::Member("access_token")),
    };
    let mut optional = |name| match members.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(token)) if token.is_empty() => Ok(None),
        Some(Value::String(token)) => Ok(Some(Secret::new(token))),
        Some(_) => Err(ResponseFormatError::Member(name)),
    };
    let (refresh_token, id_token) = (optional("refresh_token"), optional("id_token"));
    let access_token = access_token?;
    let (refresh_token, id_token) = (refresh_token?, id_token?);
    let token_type = members.get("token_type").and_then(Value::as_str);
    let token_type = token_type.ok_or(ResponseFormatError::Member("token_type"))?;
    // The token type is case-insensitive (RFC 6749 section 5.1).
    if !token_type.eq_ignore_ascii_case("bearer") {
        return Err(ResponseFormatError::TokenType);
    }
    Ok(TokenResponse {
        access_token,
        refresh_token,
        expires_in: members.get("expires_in").map(expires_in).transpose()?,
        id_token,
    })
}

fn expires_in(value: &Value) -> Result<Duration, ResponseFormatError> {
    let seconds = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => quoted_number(text),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    seconds
        .filter(|seconds| *seconds > 0.0 && *seconds <= MAX_LIFETIME)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or(ResponseFormatError::ExpiresIn)
}

/// Checks that the media type of the response is JSON and that the response is not compressed.
pub(super) fn says_json(headers: &HeaderMap) -> Result<(), ResponseFormatError> {
    let essence = media_type(headers)?;
    // Media types with the suffix `+json` are also JSON (RFC 6839 section 3.1).
    let json = essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    json.then_some(()).ok_or(ResponseFormatError::MediaType)
}

/// Returns the media type of a response, in lower case and without parameters. Returns an empty
/// text if the response states no media type. A compressed response is refused, because a small
/// compressed response can expand to any size.
pub(super) fn media_type(headers: &HeaderMap) -> Result<String, ResponseFormatError> {
    let plain = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(CONTENT_ENCODING).iter().all(plain) {
        return Err(ResponseFormatError::Compressed);
    }
    let media_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = media_type.unwrap_or_default().split(';').next();
    Ok(essence.unwrap_or_default().trim().to_ascii_lowercase())
}

/// Wipes the memory of a body with tokens, if there is no other reference to the memory.
fn wipe(body: Bytes) {
    if let Ok(mut body) = body.try_into_mut() {
        body.as_mut().zeroize();
    }
}
