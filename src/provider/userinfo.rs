//! Claims from an endpoint that is asked with the access token (such as Laravel's `GET /api/user`).

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;

use super::endpoint::Endpoint;
use super::json::{self, JsonError, Object};
use super::token::{AnswerError, says_json};
use crate::origin;
use crate::token::TokenSet;

/// Why there are no claims.
///
/// Side: provider.
#[derive(Debug, thiserror::Error)]
pub enum UserinfoError {
    /// The endpoint could not be reached, did not answer in time, or answered more than is taken.
    #[error("the call failed")]
    Call(#[source] origin::Error),
    /// The body is not a JSON object.
    #[error("the answer is not a JSON object")]
    Json(#[source] JsonError),
    /// The answer does not say that it is JSON, or is compressed. A signed answer
    /// (`application/jwt`) is not understood.
    #[error("the answer is not usable")]
    MediaType(#[source] AnswerError),
    /// Another status than 200; redirects are not followed.
    #[error("the endpoint answered with status {0}")]
    Status(u16),
}

/// Fetches the claims of the user whose tokens these are.
pub(super) async fn fetch(endpoint: &Endpoint, tokens: &TokenSet) -> Result<Object, UserinfoError> {
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.method_mut() = Method::GET;
    request.uri_mut().clone_from(endpoint.uri());
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(AUTHORIZATION, tokens.bearer().clone());
    let response = endpoint.call(request).await.map_err(UserinfoError::Call)?;
    read(&response)
}

fn read(response: &Response<Bytes>) -> Result<Object, UserinfoError> {
    if response.status() != StatusCode::OK {
        return Err(UserinfoError::Status(response.status().as_u16()));
    }
    says_json(response.headers()).map_err(UserinfoError::MediaType)?;
    json::object(response.body()).map_err(UserinfoError::Json)
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
