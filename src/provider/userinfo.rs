//! Claims from an endpoint that is asked with the access token: the userinfo endpoint of OpenID
//! Connect Core 1.0 section 5.3, or a resource such as Laravel's `GET /api/user`.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;

use super::endpoint::Endpoint;
use super::json::{self, JsonError, Object};
use super::settings::UserinfoBearer;
use super::token::{AnswerError, FORM, form, media_type, says_json};
use crate::identity::{Claim, Email};
use crate::origin;
use crate::secret::Secret;
use crate::token::TokenSet;

/// What the endpoint may answer; the signed form only where we are registered for it.
const ACCEPTED: &str = "application/json, application/jwt";

/// Why there are no claims.
///
/// Side: provider.
#[derive(Debug, thiserror::Error)]
pub enum UserinfoError {
    /// The endpoint could not be reached, did not answer in time, or answered more than is taken.
    #[error("the call failed")]
    Call(#[source] origin::Error),
    /// The body is not the JSON object or array that it has to be.
    #[error("the answer is not the JSON that it has to be")]
    Json(#[source] JsonError),
    /// The answer does not say that it is JSON or a JWT, or is compressed.
    #[error("the answer is not usable")]
    MediaType(#[source] AnswerError),
    /// Another status than 200; redirects are not followed.
    #[error("the endpoint answered with status {0}")]
    Status(u16),
    /// The answer says that it is a JWT, but is no text.
    #[error("the answer is not a JWT")]
    Text,
}

/// An answer of the userinfo endpoint.
#[derive(Debug)]
pub(super) enum Userinfo {
    /// Claims, as good as the connection they came over.
    Json(Object),
    /// A JWT with claims, whose signature nobody has checked (OpenID Connect Core 1.0 section
    /// 5.3.2).
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "used when the parts are brought together")
    )]
    Signed(Secret<String>),
}

/// Fetches the claims of the user whose tokens these are.
pub(super) async fn fetch(
    endpoint: &Endpoint,
    tokens: &TokenSet,
    bearer: UserinfoBearer,
) -> Result<Userinfo, UserinfoError> {
    let response = match bearer {
        UserinfoBearer::Header => endpoint.get(ACCEPTED, Some(tokens.bearer())).await,
        UserinfoBearer::Body => endpoint.call(in_a_form(endpoint, tokens)).await,
    };
    read(&response.map_err(UserinfoError::Call)?)
}

/// A request with the access token as a parameter of its body (RFC 6750 section 2.2).
fn in_a_form(endpoint: &Endpoint, tokens: &TokenSet) -> Request<Full<Bytes>> {
    let token = ("access_token", tokens.access_token());
    let body = form([token].into_iter());
    // The buffer is wiped when the last byte was handed to the socket.
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

/// Fetches the email address of the user whose tokens these are from a list of all of them, for
/// servers whose userinfo has none that is verified. `None` when no address is verified.
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "used when the parts are brought together")
)]
pub(super) async fn fetch_email(
    endpoint: &Endpoint,
    tokens: &TokenSet,
) -> Result<Option<Email>, UserinfoError> {
    let response = endpoint
        .get("application/json", Some(tokens.bearer()))
        .await;
    read_email(&response.map_err(UserinfoError::Call)?)
}

/// The primary address if it is verified, else the first that is. Entries of another shape are
/// passed over.
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "used when the parts are brought together")
)]
fn read_email(response: &Response<Bytes>) -> Result<Option<Email>, UserinfoError> {
    check_status(response)?;
    says_json(response.headers()).map_err(UserinfoError::MediaType)?;
    let entries = json::array(response.body()).map_err(UserinfoError::Json)?;
    let is = |entry: &Value, name: &str| entry.get(name) == Some(&Value::Bool(true));
    let address = |entry: &Value| Claim::new(entry.get("email")?.as_str()?);
    let verified = entries
        .iter()
        .filter(|entry| is(entry, "verified"))
        .filter_map(|entry| Some((is(entry, "primary"), address(entry)?)));
    let mut verified: Vec<(bool, Claim)> = verified.collect();
    // Keeps the order of the others.
    verified.sort_by_key(|(primary, _address)| !primary);
    let best = verified.into_iter().next();
    Ok(best.map(|(_primary, address)| Email {
        address,
        verified: true,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, media_type: &str, body: &str) -> Result<Object, UserinfoError> {
        let response = Response::builder()
            .status(status)
            .header("content-type", media_type)
            .body(Bytes::copy_from_slice(body.as_bytes()));
        read(&response.unwrap())
    }

    #[test]
    fn j_77_only_a_json_object_has_claims() {
        let json = "application/json; charset=utf-8";
        assert_eq!(answered(200, json, r#"{"id":17}"#).unwrap().len(), 1);
        for (status, media_type, body) in [
            (200, "application/jwt", "eyJhbGciOiJub25lIn0.e30."),
            (200, "text/html", r#"{"id":17}"#),
            (200, json, "<html>"),
            (200, json, r#"[{"id":17}]"#),
            (200, json, r#"{"id":17,"id":18}"#),
            (200, json, ""),
            (401, json, r#"{"message":"Unauthenticated."}"#),
            (302, json, r#"{"id":17}"#),
            (204, json, ""),
        ] {
            assert!(
                answered(status, media_type, body).is_err(),
                "{status} {media_type} {body}"
            );
        }
    }
}
