//! The end-session endpoint (OpenID Connect RP-Initiated Logout 1.0).

use std::collections::HashMap;

use bytes::Bytes;
use http::header::LOCATION;
use http::{HeaderValue, Request, Response, StatusCode};
use serde_json::Value;
use url::Url;

use super::authorization_server::ServerState;
use super::logout;
use super::serve::{ReplyBody, plain};

/// Handles `GET /oauth/end_session`. If the request has an ID token of this server, the function
/// ends the login session of the ID token, even if the ID token has expired. If the client has also
/// registered the URL in `post_logout_redirect_uri`, the function sends the browser there.
/// Otherwise, the browser gets to the start page, where the user can sign out with a button.
pub(crate) async fn end_session(
    server: &ServerState,
    request: &Request<Bytes>,
) -> Response<ReplyBody> {
    let query = request.uri().query().unwrap_or_default();
    let query: HashMap<String, String> = url::form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    let id_token = query.get("id_token_hint");
    let id_token = id_token.and_then(|token| server.checker.read(token));
    let claim = |name: &str| {
        let claims = &id_token.as_ref()?.claims;
        claims.get(name).and_then(Value::as_str)
    };
    let (mut back, mut ended) = (None, None);
    if let (Some(client), Some(sid)) = (claim("aud"), claim("sid")) {
        let mut records = server.records.lock().await;
        ended = records.log_out_by_sid(sid);
        let registered = records
            .client(client)
            .map_or(&[][..], |client| &client.post_logout_redirect_uris);
        let wanted = query.get("post_logout_redirect_uri");
        back = wanted
            .filter(|wanted| registered.contains(wanted))
            .and_then(|wanted| Url::parse(wanted).ok());
    }
    if let Some(ended) = &ended {
        logout::tell_clients(server, ended).await;
    }
    if let (Some(back), Some(state)) = (&mut back, query.get("state")) {
        back.query_pairs_mut().append_pair("state", state);
    }
    let location = back.map_or_else(|| "/".to_owned(), String::from);
    let mut response = plain(StatusCode::SEE_OTHER, "signed out\n");
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}
