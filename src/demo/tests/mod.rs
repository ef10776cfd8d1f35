//! Tests of the parts of the demo over real sockets.

mod app;
mod breakages;
mod fake_gateway;
mod flow;
mod openid;
mod openid_errors;
mod rows;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use serde_json::Value;
use url::Url;

use super::browser::exchange;
use super::{AuthorizationServer, AuthorizationServerSettings, Client, ProviderKind};
use crate::clock::{Clock, Timestamp};
use crate::secret::Secret;

const REDIRECT_URI: &str = "https://app.example/auth/callback";
const SECRET: &str = "i0p6Sah1joLy8P1gwkP6ldBQiQZKbcewi9nPEUMp";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
/// The S256 challenge of [`VERIFIER`]. The verifier and the challenge are from RFC 7636 appendix B.
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// The lifetime of an access token.
const HOUR: Duration = Duration::from_hours(1);
/// A time that is longer than the lifetime of an access token and shorter than the lifetime of a
/// refresh token.
const OVER_AN_HOUR: Duration = Duration::from_secs(3601);
/// A time that is longer than the lifetime of a refresh token.
const OVER_TWO_HOURS: Duration = Duration::from_secs(7201);

/// An authorization server with the confidential client `3`, the public client `4` and a manual
/// clock.
struct Fixture {
    server: AuthorizationServer,
    clock: Clock,
}

impl Fixture {
    async fn start(kind: ProviderKind) -> Self {
        let clock = Clock::manual(Timestamp::from_millis(1_795_384_938_372));
        let client = |id: &str, secret: Option<&str>| Client {
            id: id.into(),
            secret: secret.map(|secret| Secret::new(secret.into())),
            redirect_uris: vec![REDIRECT_URI.into()],
            post_logout_redirect_uris: Vec::new(),
            logout: None,
        };
        let server = AuthorizationServer::start(AuthorizationServerSettings {
            kind,
            clients: vec![client("3", Some(SECRET)), client("4", None)],
            access_token_lifetime: HOUR,
            refresh_token_lifetime: Duration::from_hours(2),
            clock: clock.clone(),
            ..AuthorizationServerSettings::default()
        });
        Self {
            server: server.await.unwrap(),
            clock,
        }
    }

    /// Sends one request with the additional header fields `fields`.
    async fn send(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Response<Bytes> {
        send(self.server.address(), method, target, fields, body).await
    }

    /// Returns the target of an authorization request of client `id` with additional `parameters`.
    fn target(id: &str, parameters: &[(&str, &str)]) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs([
            ("response_type", "code"),
            ("client_id", id),
            ("redirect_uri", REDIRECT_URI),
            ("state", "xyz"),
        ]);
        format!(
            "/oauth/authorize?{}",
            query.extend_pairs(parameters).finish()
        )
    }

    /// Requests the login form at `target`, and posts `fields` with the CSRF token of the form.
    async fn submit(&self, target: &str, fields: &[(&str, &str)]) -> Response<Bytes> {
        let form = self.send("GET", target, &[], "").await;
        assert_eq!(form.status(), 200, "{:?}", form.body());
        let cookie = cookie(&form);
        let page = String::from_utf8(form.into_body().to_vec()).unwrap();
        let token = page.split_once("name=\"_token\" value=\"").unwrap().1;
        let token = token.split_once('"').unwrap().0;
        let mut body = url::form_urlencoded::Serializer::new(String::new());
        body.append_pair("_token", token).extend_pairs(fields);
        let fields = [("cookie", cookie.as_str())];
        self.send("POST", target, &fields, &body.finish()).await
    }

    /// Signs in as the user alice with the login form at `target`. Returns the answer to the login
    /// form.
    async fn sign_in(&self, target: &str) -> Response<Bytes> {
        let fields = [("user", "alice"), ("password", "password")];
        self.submit(target, &fields).await
    }

    /// Returns a new code for client `id`.
    async fn code(&self, id: &str, parameters: &[(&str, &str)]) -> String {
        let answer = self.sign_in(&Self::target(id, parameters)).await;
        query(&answer)["code"].clone()
    }

    /// Sends a token request with a form body.
    async fn token(&self, parameters: &[(&str, &str)]) -> Response<Bytes> {
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(parameters)
            .finish();
        let form = [("content-type", "application/x-www-form-urlencoded")];
        self.send("POST", "/oauth/token", &form, &body).await
    }

    /// Sends a code exchange of the confidential client with `code`.
    async fn redeem(&self, code: &str) -> Response<Bytes> {
        self.token(&[
            ("grant_type", "authorization_code"),
            ("client_id", "3"),
            ("client_secret", SECRET),
            ("redirect_uri", REDIRECT_URI),
            ("code", code),
        ])
        .await
    }

    /// Sends a refresh request with the credentials of the confidential client.
    async fn refresh(&self, refresh_token: &str) -> Response<Bytes> {
        self.token(&[
            ("grant_type", "refresh_token"),
            ("client_id", "3"),
            ("client_secret", SECRET),
            ("refresh_token", refresh_token),
        ])
        .await
    }

    /// Signs in, and returns a new access token and a new refresh token with the scope `read`.
    async fn grant(&self) -> (String, String) {
        let code = self.code("3", &[("scope", "read")]).await;
        tokens(&self.redeem(&code).await)
    }

    async fn user(&self, access_token: &str) -> Response<Bytes> {
        let bearer = format!("Bearer {access_token}");
        let fields = [("authorization", bearer.as_str())];
        self.send("GET", "/api/user", &fields, "").await
    }
}

async fn send(
    address: SocketAddr,
    method: &str,
    target: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> Response<Bytes> {
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .header("host", address.to_string());
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::from(body.to_owned())).unwrap();
    exchange(address, request).await.unwrap()
}

/// Returns the first cookie of an answer as `name=value`, as a browser sends a cookie.
fn cookie(answer: &Response<Bytes>) -> String {
    let field = answer.headers()["set-cookie"].to_str().unwrap();
    field.split(';').next().unwrap().to_owned()
}

/// Returns the parameters in the query of a redirect target.
fn query(answer: &Response<Bytes>) -> BTreeMap<String, String> {
    let location = answer.headers()["location"].to_str().unwrap();
    let location = Url::parse(location).unwrap();
    location.query_pairs().into_owned().collect()
}

fn json(answer: &Response<Bytes>) -> Value {
    serde_json::from_slice(answer.body()).unwrap_or_else(|_| panic!("{:?}", answer.body()))
}

/// Returns the access token and the refresh token of a token response.
fn tokens(answer: &Response<Bytes>) -> (String, String) {
    let answer = json(answer);
    let token = |name: &str| {
        let token = answer[name].as_str();
        token.unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    (token("access_token"), token("refresh_token"))
}

/// Returns `token` with a different last character, so that the token decodes to different bytes.
fn tampered(token: &str) -> String {
    let mut token = token.to_owned();
    // The provider decodes only the upper bits of the last base64url character, and ignores the
    // lower bits. The base64url characters `A` and `Q` differ in the upper bits.
    let last = token.pop().unwrap();
    token.push(match last {
        '0'..='9' => 'a',
        'a'..='f' => '0',
        'A' => 'Q',
        _ => 'A',
    });
    token
}
