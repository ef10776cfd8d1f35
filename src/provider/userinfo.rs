//! Fetches claims from the userinfo endpoint (OpenID Connect Core 1.0 section 5.3), or from a
//! similar resource such as Laravel's `GET /api/user`. The request contains the access token.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;

use super::SetupError;
use super::endpoint::Endpoint;
use super::json::{self, JsonError, Object};
use super::settings::{IdentitySettings, IdentitySource, UserinfoBearer};
use super::token::{FORM, ResponseFormatError, form, media_type, says_json};
use crate::identity::{Claim, Email};
use crate::origin;
use crate::secret::Secret;
use crate::token::TokenSet;

/// The accepted media types. A provider sends a signed response (`application/jwt`) only if the
/// gateway's client settings at the provider ask for a signed response.
const ACCEPTED: &str = "application/json, application/jwt";

/// The reason why the gateway got no claims. Responsible: the provider.
#[derive(Debug, thiserror::Error)]
pub enum UserinfoError {
    /// The endpoint could not be reached, did not respond in time, or sent a response that is too
    /// large.
    #[error("the call failed")]
    Call(#[source] origin::Error),
    /// The body is not the expected JSON object or array.
    #[error("the response is not the expected JSON")]
    Json(#[source] JsonError),
    /// The media type is neither JSON nor JWT, or the response is compressed.
    #[error("the response cannot be used")]
    MediaType(#[source] ResponseFormatError),
    /// The response is a JWT, but the settings do not state who may sign the JWT.
    #[error("the response is signed, but without ID tokens the settings do not say by whom")]
    Signed,
    /// The status code of the response is not 200. Redirects are not followed.
    #[error("the endpoint answered with status {0}")]
    Status(u16),
    /// The next page of a list is not at the same origin, or its URL is not valid.
    #[error("the next page of the list is not at the origin of the endpoint")]
    NextPage,
    /// The media type is JWT, but the body is not text.
    #[error("the response is not a JWT")]
    Text,
}

/// A userinfo response.
#[derive(Debug)]
pub(super) enum Userinfo {
    /// Claims without a signature. Only the TLS connection to the provider protects claims without
    /// a signature.
    Json(Object),
    /// A JWT with claims. The signature of the JWT has not been verified yet (OpenID Connect Core
    /// 1.0 section 5.3.2).
    Signed(Secret<String>),
}

/// Refuses `userinfo_bearer` if the gateway does not call the userinfo endpoint.
pub(super) fn check(settings: &IdentitySettings) -> Result<(), SetupError> {
    let is_called = settings.userinfo || settings.source == IdentitySource::Userinfo;
    if is_called || settings.userinfo_bearer == UserinfoBearer::default() {
        return Ok(());
    }
    let key = "identity.userinfo_bearer";
    let problem = "has no effect without identity.userinfo = true; leave it out";
    Err(SetupError::Setting { key, problem })
}

/// Fetches the claims of the user with the access token of `tokens`.
pub(super) async fn fetch(
    endpoint: &Endpoint,
    tokens: &TokenSet,
    bearer: UserinfoBearer,
) -> Result<Userinfo, UserinfoError> {
    let response = match bearer {
        UserinfoBearer::Header => endpoint.get(ACCEPTED, Some(tokens.bearer())).await,
        UserinfoBearer::Body => endpoint.call(form_request(endpoint, tokens)).await,
    };
    read(&response.map_err(UserinfoError::Call)?)
}

/// Creates a request with the access token as a parameter of the body (RFC 6750 section 2.2).
fn form_request(endpoint: &Endpoint, tokens: &TokenSet) -> Request<Full<Bytes>> {
    let token = ("access_token", tokens.access_token());
    let body = form([token].into_iter());
    // The buffer of the body is wiped after its last byte was written to the socket.
    let mut request = Request::new(Full::new(Bytes::from_owner(body)));
    *request.method_mut() = Method::POST;
    request.uri_mut().clone_from(endpoint.uri());
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(FORM));
    request
}

fn read(response: &Response<Bytes>) -> Result<Userinfo, UserinfoError> {
    check_status(response)?;
    let essence = media_type(response.headers()).map_err(UserinfoError::MediaType)?;
    if essence == "application/jwt" {
        let text = str::from_utf8(response.body()).map_err(|_where| UserinfoError::Text)?;
        return Ok(Userinfo::Signed(Secret::new(text.to_owned())));
    }
    says_json(response.headers()).map_err(UserinfoError::MediaType)?;
    let members = json::object(response.body()).map_err(UserinfoError::Json)?;
    Ok(Userinfo::Json(members))
}

fn check_status(response: &Response<Bytes>) -> Result<(), UserinfoError> {
    match response.status() {
        StatusCode::OK => Ok(()),
        other => Err(UserinfoError::Status(other.as_u16())),
    }
}

/// Fetches the user's email address from a list of all addresses, for providers whose userinfo has
/// no verified address. Returns `None` if no address is verified.
pub(super) async fn fetch_email(
    endpoint: &Endpoint,
    tokens: &TokenSet,
) -> Result<Option<Email>, UserinfoError> {
    let response = endpoint
        .get("application/json", Some(tokens.bearer()))
        .await;
    read_email(&response.map_err(UserinfoError::Call)?)
}

/// Returns the primary address if the primary address is verified. If the primary address is not
/// verified, the result is the first verified address. Entries without a verified address are
/// skipped.
fn read_email(response: &Response<Bytes>) -> Result<Option<Email>, UserinfoError> {
    let entries = read_list(response)?;
    let is = |entry: &Value, name: &str| entry.get(name) == Some(&Value::Bool(true));
    let address = |entry: &Value| Claim::new(entry.get("email")?.as_str()?);
    let verified = entries
        .iter()
        .filter(|entry| is(entry, "verified"))
        .filter_map(|entry| Some((is(entry, "primary"), address(entry)?)));
    let mut verified: Vec<(bool, Claim)> = verified.collect();
    // The sort is stable, so the addresses that are not primary keep their order.
    verified.sort_by_key(|(primary, _address)| !primary);
    let best = verified.into_iter().next();
    Ok(best.map(|(_primary, address)| Email {
        address,
        verified: true,
    }))
}

/// Reads a response whose body is a JSON array.
pub(super) fn read_list(response: &Response<Bytes>) -> Result<Vec<Value>, UserinfoError> {
    check_status(response)?;
    says_json(response.headers()).map_err(UserinfoError::MediaType)?;
    json::array(response.body()).map_err(UserinfoError::Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = "application/json; charset=utf-8";

    fn response(status: u16, media_type: &str, body: &[u8]) -> Response<Bytes> {
        Response::builder()
            .status(status)
            .header("content-type", media_type)
            .body(Bytes::copy_from_slice(body))
            .unwrap()
    }

    fn answered(status: u16, media_type: &str, body: &str) -> Result<Userinfo, UserinfoError> {
        read(&response(status, media_type, body.as_bytes()))
    }

    #[test]
    fn j_77_only_a_json_object_has_claims() {
        let read = answered(200, JSON, r#"{"id":17}"#).unwrap();
        assert!(matches!(read, Userinfo::Json(members) if members.len() == 1));
        for (status, media_type, body) in [
            (200, "text/html", r#"{"id":17}"#),
            (200, JSON, "<html>"),
            (200, JSON, r#"[{"id":17}]"#),
            (200, JSON, r#"{"id":17,"id":18}"#),
            (200, JSON, ""),
            (401, JSON, r#"{"message":"Unauthenticated."}"#),
            (302, JSON, r#"{"id":17}"#),
            (204, JSON, ""),
            (401, "application/jwt", "eyJhbGciOiJub25lIn0.e30."),
            (200, "application/jose", "eyJhbGciOiJub25lIn0.e30."),
            (200, "application/jwt+json", "eyJhbGciOiJub25lIn0.e30."),
        ] {
            assert!(
                answered(status, media_type, body).is_err(),
                "{status} {media_type} {body}"
            );
        }
    }

    #[test]
    fn j_77_a_signed_response_gives_no_claims_before_verification() {
        for media_type in ["application/jwt", "Application/JWT; charset=utf-8"] {
            let jwt = "eyJhbGciOiJub25lIn0.e30.";
            let Ok(Userinfo::Signed(text)) = answered(200, media_type, jwt) else {
                panic!("{media_type}");
            };
            assert_eq!(text.expose(), jwt);
            let shown = format!("{:?}", answered(200, media_type, jwt));
            assert!(!shown.contains("eyJ"), "{shown}");
            // The media type determines how the body is read. If the media type is JWT, the body is
            // read as a JWT, so an unsigned JSON object is refused.
            let read = answered(200, media_type, r#"{"sub":"1"}"#);
            assert!(matches!(read, Ok(Userinfo::Signed(_))));
        }
        let bytes = read(&response(200, "application/jwt", b"\xff.e30."));
        assert!(matches!(bytes, Err(UserinfoError::Text)));
    }

    fn email(body: &str) -> Option<String> {
        let email = read_email(&response(200, JSON, body.as_bytes())).unwrap()?;
        assert!(email.verified);
        Some(email.address.as_str().to_owned())
    }

    #[test]
    fn j_75_the_primary_verified_address_is_taken() {
        let entry = |email: &str, primary: &str, verified: &str| {
            format!(r#"{{"email":{email},"primary":{primary},"verified":{verified}}}"#)
        };
        let (a, b, c) = (r#""a@b""#, r#""b@b""#, r#""c@b""#);
        for (entries, expected) in [
            (
                vec![entry(a, "false", "true"), entry(b, "true", "true")],
                Some("b@b"),
            ),
            (
                vec![entry(a, "true", "false"), entry(b, "false", "true")],
                Some("b@b"),
            ),
            (
                vec![entry(a, "false", "true"), entry(b, "false", "true")],
                Some("a@b"),
            ),
            (
                vec![entry(a, "true", "true"), entry(b, "true", "true")],
                Some("a@b"),
            ),
            (
                vec![entry(a, "true", "false"), entry(b, "false", "false")],
                None,
            ),
            (
                vec![entry(a, "true", r#""true""#), entry(b, "true", "1")],
                None,
            ),
            (
                vec![entry(a, "true", "null"), entry(c, r#""true""#, "true")],
                Some("c@b"),
            ),
            (
                vec![entry("5", "true", "true"), entry(c, "false", "true")],
                Some("c@b"),
            ),
            (vec![entry(r#""x\r\ny""#, "true", "true")], None),
            (
                vec!["null".to_owned(), r#""a@b""#.to_owned(), "[]".to_owned()],
                None,
            ),
            (vec![], None),
        ] {
            let body = format!("[{}]", entries.join(","));
            assert_eq!(email(&body).as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn j_77_only_a_json_array_lists_addresses() {
        let list = r#"[{"email":"a@b","verified":true,"primary":true}]"#;
        for (status, media_type, body) in [
            (404, JSON, list),
            (301, JSON, list),
            (200, "text/html", list),
            (200, "application/jwt", list),
            (200, JSON, r#"{"email":"a@b","verified":true}"#),
            (
                200,
                JSON,
                r#"[{"email":"a@b","verified":false,"verified":true}]"#,
            ),
            (200, JSON, ""),
        ] {
            let read = read_email(&response(status, media_type, body.as_bytes()));
            assert!(read.is_err(), "{status} {media_type} {body}");
        }
    }
}
