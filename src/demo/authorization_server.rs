//! The embedded authorization server: settings, handle, and which endpoint answers what.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, HeaderMap};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use serde_json::Value;
use tokio::sync::Mutex;
use url::Url;

use super::provider_kind::ProviderKind;
use super::records::Records;
use super::serve::{
    BoundListener, CloseConnection, HandlerResult, ReplyBody, Server, answer, plain,
};
use super::token_checker::TokenChecker;
use super::tokens::Keys;
use super::{Error, authorize, grants, openid, pages, profile};
use crate::clock::Clock;
use crate::secret::Secret;

/// A registered client.
#[derive(Clone, Debug)]
pub struct Client {
    /// The client id.
    pub id: String,
    /// The client secret; `None` for a public client, which must use PKCE.
    pub secret: Option<Secret<String>>,
    /// The redirection URIs, compared byte for byte; one with the host `127.0.0.1` or `[::1]`
    /// also matches every other port (RFC 8252 section 7.3).
    pub redirect_uris: Vec<String>,
}

/// Somebody who can sign in.
#[derive(Clone, Debug)]
pub struct User {
    /// The key of the user's record, and as text the `sub` of their tokens.
    pub id: u64,
    /// What the user types, besides the password. The email address works as well.
    pub username: String,
    /// The password.
    pub password: Secret<String>,
    /// The display name.
    pub name: String,
    /// The email address.
    pub email: String,
    /// When the address was verified, as Laravel prints it; `None` when it was not.
    pub email_verified_at: Option<String>,
    /// The groups; only an OpenID Provider tells.
    pub groups: Vec<String>,
}

impl User {
    /// The user of the demo: `alice`, password `password`, verified address, in two groups.
    pub fn alice() -> Self {
        Self {
            id: 17,
            username: "alice".into(),
            password: Secret::new("password".into()),
            name: "Alice Liddell".into(),
            email: "alice@example.com".into(),
            email_verified_at: Some("2024-05-04T09:30:00.000000Z".into()),
            groups: vec!["staff".into(), "admins".into()],
        }
    }

    /// Another user: `bob`, password `password`, address never verified, in one group.
    pub fn bob() -> Self {
        Self {
            id: 18,
            username: "bob".into(),
            password: Secret::new("password".into()),
            name: "Bob Cratchit".into(),
            email: "bob@example.com".into(),
            email_verified_at: None,
            groups: vec!["staff".into()],
        }
    }
}

/// How the embedded authorization server is to be.
#[derive(Clone, Debug)]
pub struct AuthorizationServerSettings {
    /// The loopback address to bind; port 0 lets the system choose.
    pub address: SocketAddr,
    /// What it answers as.
    pub kind: ProviderKind,
    /// The clients known from the start; [`AuthorizationServer::register`] adds more.
    pub clients: Vec<Client>,
    /// The users.
    pub users: Vec<User>,
    /// The scopes that exist. An OpenID Provider knows `openid`, `profile` and `email` besides.
    pub scopes: Vec<String>,
    /// The life of an access token, and `expires_in`.
    pub access_token_lifetime: Duration,
    /// The life of a refresh token.
    pub refresh_token_lifetime: Duration,
    /// The time.
    pub clock: Clock,
}

impl Default for AuthorizationServerSettings {
    /// `127.0.0.1` with a free port, the newer Passport, alice and bob, the scopes `read` and
    /// `write`, tokens that live 731 days, no client, the system's clock.
    fn default() -> Self {
        let two_years = Duration::from_hours(731 * 24);
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            kind: ProviderKind::default(),
            clients: Vec::new(),
            users: vec![User::alice(), User::bob()],
            scopes: vec!["read".into(), "write".into()],
            access_token_lifetime: two_years,
            refresh_token_lifetime: two_years,
            clock: Clock::system(),
        }
    }
}

/// One misdeed of the token endpoint.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers this instead, and does nothing.
    Answer {
        /// The status.
        status: StatusCode,
        /// Fields, such as `Content-Type` and `Retry-After`.
        fields: HeaderMap,
        /// The body, whatever it is.
        body: Bytes,
    },
    /// Waits, then does its work.
    Delay(Duration),
    /// Closes the connection without an answer, and does nothing.
    Drop,
    /// Does its work, then closes the connection without an answer.
    LoseAnswer,
    /// Answers 307 to this URI.
    Redirect(HeaderValue),
}

/// A request to the token endpoint as it arrived. Its `Debug` shows names only: it holds secrets.
#[derive(Clone)]
pub struct TokenRequest {
    /// The method.
    pub method: Method,
    /// The request target.
    pub target: Uri,
    /// The fields.
    pub headers: HeaderMap,
    /// The parameters of the body, form or JSON; a JSON value that is not text is its JSON.
    pub parameters: BTreeMap<String, String>,
    /// The body as it came.
    pub body: Bytes,
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRequest")
            .field("method", &self.method)
            .field("headers", &self.headers.keys())
            .field("parameters", &self.parameters.keys())
            .finish_non_exhaustive()
    }
}

/// A running authorization server; it stops when this drops.
#[derive(Debug)]
pub struct AuthorizationServer {
    server: Server,
    state: Arc<ServerState>,
}

/// What the endpoints share.
pub(crate) struct ServerState {
    pub(crate) settings: AuthorizationServerSettings,
    /// The issuer identifier: the base of the endpoints.
    pub(crate) issuer: String,
    pub(crate) keys: Keys,
    pub(crate) checker: TokenChecker,
    pub(crate) records: Mutex<Records>,
    pub(crate) exchanges: AtomicU64,
    pub(crate) refreshes: AtomicU64,
}

impl fmt::Debug for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerState").finish_non_exhaustive()
    }
}

impl ServerState {
    /// The user with this key.
    pub(crate) fn user(&self, id: u64) -> Option<&User> {
        self.settings.users.iter().find(|user| user.id == id)
    }

    /// The issuer as the authorization endpoint names it (RFC 9207); a Passport does not.
    pub(crate) fn response_issuer(&self) -> Option<&str> {
        (self.settings.kind == ProviderKind::OpenId).then_some(&self.issuer)
    }
}

impl AuthorizationServer {
    /// Makes a key pair, binds the address and serves until the handle drops.
    ///
    /// # Errors
    ///
    /// [`Error::NotLoopback`], [`Error::Bind`], or [`Error::Key`] and [`Error::Randomness`] when
    /// no keys could be made.
    pub async fn start(settings: AuthorizationServerSettings) -> Result<Self, Error> {
        let bound = BoundListener::bind(settings.address).await?;
        let keys = Keys::generate()?;
        let state = Arc::new(ServerState {
            issuer: format!("http://{}", bound.address()),
            checker: TokenChecker::from_pem(keys.public_pem())?,
            records: Mutex::new(Records::new(settings.clients.clone())),
            settings,
            keys,
            exchanges: AtomicU64::new(0),
            refreshes: AtomicU64::new(0),
        });
        let shared = Arc::clone(&state);
        let server = bound.serve(move |request| {
            let state = Arc::clone(&shared);
            async move { handle(&state, request).await }
        });
        Ok(Self { server, state })
    }

    /// The address it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// `http://` and the address: the base of its endpoints, and an OpenID Provider's issuer
    /// identifier.
    pub fn base_url(&self) -> String {
        self.state.issuer.clone()
    }

    /// The authorization endpoint (RFC 6749 section 3.1).
    pub fn authorization_endpoint(&self) -> String {
        format!("{}/oauth/authorize", self.base_url())
    }

    /// The token endpoint (RFC 6749 section 3.2).
    pub fn token_endpoint(&self) -> String {
        format!("{}/oauth/token", self.base_url())
    }

    /// Where a bearer of a token learns whose it is: a Passport app's `GET /api/user`, or an OpenID
    /// Provider's userinfo endpoint.
    pub fn userinfo_endpoint(&self) -> String {
        let path = match self.state.settings.kind {
            ProviderKind::OpenId => "/oauth/userinfo",
            ProviderKind::Passport12 | ProviderKind::Passport13 => "/api/user",
        };
        format!("{}{path}", self.base_url())
    }

    /// The key that access tokens are signed with, as PEM.
    pub fn public_key_pem(&self) -> &str {
        self.state.keys.public_pem()
    }

    /// How many requests for a code exchange came, whatever became of them.
    pub fn exchanges(&self) -> u64 {
        self.state.exchanges.load(Ordering::Relaxed)
    }

    /// How many requests for a refresh came, whatever became of them.
    pub fn refreshes(&self) -> u64 {
        self.state.refreshes.load(Ordering::Relaxed)
    }

    /// Registers `client`, in place of one with the same id.
    pub async fn register(&self, client: Client) {
        self.state.records.lock().await.register(client);
    }

    /// Revokes every access token and refresh token, as an administrator would.
    pub async fn revoke_all(&self) {
        self.state.records.lock().await.revoke_all();
    }

    /// Ends every login session at this server, so that the next login asks for a password.
    pub async fn forget_logins(&self) {
        self.state.records.lock().await.forget_logins();
    }

    /// Lets the token endpoint misbehave once; several calls queue up.
    pub async fn fail_next(&self, fault: Fault) {
        self.state.records.lock().await.faults.push_back(fault);
    }

    /// The latest request to the token endpoint, if there was one.
    pub async fn last_token_request(&self) -> Option<TokenRequest> {
        self.state.records.lock().await.last_request.clone()
    }
}

async fn handle(state: &ServerState, request: Request<Bytes>) -> HandlerResult {
    let path = request.uri().path();
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    let post = *request.method() == Method::POST;
    match path {
        "/oauth/token" => token_endpoint(state, &request).await,
        "/oauth/authorize" if read => Ok(authorize::show(state, &request).await),
        "/oauth/authorize" if post => Ok(authorize::submit(state, &request).await),
        "/logout" if post => Ok(authorize::sign_out(state, &request).await),
        "/" if read => Ok(authorize::home(state, &request).await),
        "/oauth/authorize" | "/logout" | "/" => Ok(method_not_allowed("GET, POST")),
        _ => Ok(match state.settings.kind {
            ProviderKind::OpenId => openid_endpoint(state, &request).await,
            ProviderKind::Passport12 | ProviderKind::Passport13 => {
                passport_endpoint(state, &request).await
            }
        }),
    }
}

/// What only an app with a Passport has.
async fn passport_endpoint(state: &ServerState, request: &Request<Bytes>) -> Response<ReplyBody> {
    match (request.uri().path(), request.method()) {
        ("/api/user", &(Method::GET | Method::HEAD)) => profile::show(state, request).await,
        ("/api/user", _) => method_not_allowed("GET"),
        _ => pages::not_found(pages::PROVIDER),
    }
}

/// What only an OpenID Provider has.
async fn openid_endpoint(state: &ServerState, request: &Request<Bytes>) -> Response<ReplyBody> {
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        "/.well-known/openid-configuration" if read => openid::metadata(state),
        "/oauth/jwks" if read => openid::key_set(state),
        "/oauth/userinfo" if read || *request.method() == Method::POST => {
            openid::userinfo(state, request).await
        }
        "/oauth/userinfo" => method_not_allowed("GET, POST"),
        "/.well-known/openid-configuration" | "/oauth/jwks" => method_not_allowed("GET"),
        _ => pages::not_found(pages::PROVIDER),
    }
}

/// The token endpoint behind the faults that were asked for.
async fn token_endpoint(state: &ServerState, request: &Request<Bytes>) -> HandlerResult {
    let fault = {
        let mut records = state.records.lock().await;
        records.last_request = Some(received(request));
        records.faults.pop_front()
    };
    match fault {
        None => {}
        Some(Fault::Answer {
            status,
            fields,
            body,
        }) => {
            let mut response = answer(status, "text/html; charset=utf-8", body);
            response.headers_mut().extend(fields);
            return Ok(response);
        }
        Some(Fault::Delay(duration)) => tokio::time::sleep(duration).await,
        Some(Fault::Drop) => return Err(CloseConnection),
        Some(Fault::LoseAnswer) => {
            drop(grants::token(state, request).await);
            return Err(CloseConnection);
        }
        Some(Fault::Redirect(location)) => {
            let mut response = plain(StatusCode::TEMPORARY_REDIRECT, "elsewhere\n");
            let field = http::header::LOCATION;
            response.headers_mut().insert(field, location);
            return Ok(response);
        }
    }
    if *request.method() != Method::POST {
        return Ok(method_not_allowed("POST"));
    }
    let answered = grants::token(state, request).await;
    Ok(answered.unwrap_or_else(|refusal| refusal.response(state.settings.kind)))
}

fn received(request: &Request<Bytes>) -> TokenRequest {
    let text = |value: Value| match value {
        Value::String(text) => text,
        other @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::Array(_)
        | Value::Object(_)) => other.to_string(),
    };
    TokenRequest {
        method: request.method().clone(),
        target: request.uri().clone(),
        headers: request.headers().clone(),
        parameters: grants::parameters(request)
            .into_iter()
            .map(|(name, value)| (name, text(value)))
            .collect(),
        body: request.body().clone(),
    }
}

fn method_not_allowed(allow: &'static str) -> Response<ReplyBody> {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    let allow = HeaderValue::from_static(allow);
    response.headers_mut().insert(ALLOW, allow);
    response
}

/// Whether `asked` is `registered`: byte for byte, or but for the port when the registered one has
/// a loopback address as its host (RFC 8252 section 7.3; the name `localhost` does not count).
pub(crate) fn is_registered(registered: &str, asked: &str) -> bool {
    if registered == asked {
        return true;
    }
    let without_port = |text: &str| {
        let mut url = Url::parse(text).ok()?;
        let loopback = matches!(url.host_str(), Some("127.0.0.1" | "[::1]"));
        (url.scheme() == "http" && loopback && url.set_port(None).is_ok()).then_some(url)
    };
    without_port(registered).is_some_and(|url| without_port(asked) == Some(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirection_uris_are_exact_but_for_the_port_of_a_loopback_address() {
        let app = "https://app.example/cb";
        assert!(is_registered(app, app));
        for other in [
            "https://app.example/cb/",
            "https://app.example/cb?a=1",
            "https://app.example:444/cb",
            "https://APP.example/cb",
            "http://app.example/cb",
        ] {
            assert!(!is_registered(app, other), "{other}");
        }
        let loopback = "http://127.0.0.1:9999/cb";
        assert!(is_registered(loopback, "http://127.0.0.1:1234/cb"));
        assert!(!is_registered(loopback, "http://127.0.0.1:1234/other"));
        assert!(!is_registered(loopback, "http://localhost:9999/cb"));
        let name = "http://localhost:9999/cb";
        assert!(!is_registered(name, "http://localhost:1234/cb"));
    }
}
