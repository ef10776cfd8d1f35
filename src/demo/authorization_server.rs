//! The embedded authorization server: its settings, its handle, and the table of its endpoints.

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

use super::logout::LogoutEndpoints;
use super::provider_kind::ProviderKind;
use super::records::Records;
use super::serve::{
    BoundListener, CloseConnection, HandlerResult, ReplyBody, Server, answer, plain,
};
use super::token_checker::TokenChecker;
use super::tokens::Keys;
use super::{Error, authorize, end_session, grants, openid, pages, profile};
use crate::clock::Clock;
use crate::secret::Secret;

/// A registered client.
#[derive(Clone, Debug)]
pub struct Client {
    /// The client id.
    pub id: String,
    /// The client secret. A public client has no secret and must use PKCE.
    pub secret: Option<Secret<String>>,
    /// The redirection URIs, which are compared byte by byte. A URI with the host `127.0.0.1` or
    /// `[::1]` matches with any port (RFC 8252 section 7.3).
    pub redirect_uris: Vec<String>,
    /// The URLs to which a sign-out may send the browser, which are compared byte by byte.
    pub post_logout_redirect_uris: Vec<String>,
    /// The endpoints that the server tells about the end of a login session.
    pub logout: Option<LogoutEndpoints>,
}

/// A user who can sign in.
#[derive(Clone, Debug)]
pub struct User {
    /// The id of the user. The `sub` of the user's tokens is the id as text.
    pub id: u64,
    /// The user name for the login form. The login form also accepts the email address.
    pub username: String,
    /// The password.
    pub password: Secret<String>,
    /// The display name.
    pub name: String,
    /// The email address.
    pub email: String,
    /// The time at which the email address was verified, in Laravel's format, or `None` for an
    /// unverified address.
    pub email_verified_at: Option<String>,
    /// The groups. Only an OpenID Provider reports groups.
    pub groups: Vec<String>,
}

impl User {
    /// Returns the user of the demo: `alice`, with the password `password`, a verified email
    /// address and two groups.
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

    /// Returns a second user: `bob`, with the password `password`, an unverified email address and
    /// one group.
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

/// The settings of the embedded authorization server.
#[derive(Clone, Debug)]
pub struct AuthorizationServerSettings {
    /// The loopback address to listen on. With port 0, the system chooses a free port.
    pub address: SocketAddr,
    /// The kind of server to imitate.
    pub kind: ProviderKind,
    /// The clients that are registered when the server starts. [`AuthorizationServer::register`]
    /// adds more clients.
    pub clients: Vec<Client>,
    /// The users.
    pub users: Vec<User>,
    /// The scopes that a client can request. An OpenID Provider also has the scopes `openid`,
    /// `profile` and `email`.
    pub scopes: Vec<String>,
    /// The lifetime of an access token, which is also the value of `expires_in`.
    pub access_token_lifetime: Duration,
    /// The lifetime of a refresh token.
    pub refresh_token_lifetime: Duration,
    /// The clock.
    pub clock: Clock,
}

impl Default for AuthorizationServerSettings {
    /// Returns the default settings: a Passport 13 server on a free port of `127.0.0.1`, with the
    /// users alice and bob and the scopes `read` and `write`. Tokens have a lifetime of 731 days.
    /// The default settings contain no client, and use the system clock.
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

/// A fault of the token endpoint, for one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Sends the given answer and does not process the request.
    Answer {
        /// The status code.
        status: StatusCode,
        /// The fields of the answer, such as `Content-Type` and `Retry-After`.
        fields: HeaderMap,
        /// The body.
        body: Bytes,
    },
    /// Waits for the given duration, and then processes the request.
    Delay(Duration),
    /// Closes the connection without an answer and does not process the request.
    Drop,
    /// Processes the request, then closes the connection without an answer.
    LoseAnswer,
    /// Redirects to the given URI with status 307.
    Redirect(HeaderValue),
}

/// A request to the token endpoint, as the server has received it. The request contains secrets, so
/// the `Debug` output shows only names.
#[derive(Clone)]
pub struct TokenRequest {
    /// The method.
    pub method: Method,
    /// The request target.
    pub target: Uri,
    /// The fields.
    pub headers: HeaderMap,
    /// The parameters of the form or JSON body. A JSON value that is not a string is stored as JSON
    /// text.
    pub parameters: BTreeMap<String, String>,
    /// The unchanged body.
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

/// A running authorization server. When the `AuthorizationServer` is dropped, the server stops.
#[derive(Debug)]
pub struct AuthorizationServer {
    server: Server,
    state: Arc<ServerState>,
}

/// The state that all endpoints share.
pub(crate) struct ServerState {
    pub(crate) settings: AuthorizationServerSettings,
    /// The issuer identifier, which is also the base URL of the endpoints.
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
    /// Returns the user with the id `id`.
    pub(crate) fn user(&self, id: u64) -> Option<&User> {
        self.settings.users.iter().find(|user| user.id == id)
    }

    /// Returns the `iss` parameter of authorization responses (RFC 9207). A Passport server does
    /// not send the parameter `iss`.
    pub(crate) fn response_issuer(&self) -> Option<&str> {
        (self.settings.kind == ProviderKind::OpenId).then_some(&self.issuer)
    }
}

impl AuthorizationServer {
    /// Generates keys, listens on the address and serves until the returned value is dropped.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotLoopback`] if the address is not a loopback address, [`Error::Bind`] if
    /// the server cannot listen on the address, and [`Error::Key`] or [`Error::Randomness`] if no
    /// keys can be generated.
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

    /// The address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Returns the base URL of the endpoints: `http://` and the address. The base URL is also the
    /// issuer identifier of an OpenID Provider.
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

    /// The endpoint that names the user of an access token: `/api/user` of a Passport server, or
    /// the userinfo endpoint of an OpenID Provider.
    pub fn userinfo_endpoint(&self) -> String {
        let path = match self.state.settings.kind {
            ProviderKind::OpenId => "/oauth/userinfo",
            ProviderKind::Passport12 | ProviderKind::Passport13 => "/api/user",
        };
        format!("{}{path}", self.base_url())
    }

    /// The public key for the signatures of access tokens, as PEM.
    pub fn public_key_pem(&self) -> &str {
        self.state.keys.public_pem()
    }

    /// The number of code exchange requests, including failed requests.
    pub fn exchanges(&self) -> u64 {
        self.state.exchanges.load(Ordering::Relaxed)
    }

    /// The number of refresh requests, including failed requests.
    pub fn refreshes(&self) -> u64 {
        self.state.refreshes.load(Ordering::Relaxed)
    }

    /// Registers `client`. If a client with the same id exists, `client` replaces the existing
    /// client.
    pub async fn register(&self, client: Client) {
        self.state.records.lock().await.register(client);
    }

    /// Revokes all access tokens and refresh tokens.
    pub async fn revoke_all(&self) {
        self.state.records.lock().await.revoke_all();
    }

    /// Ends all login sessions at this server, so that the next login asks for the password.
    pub async fn forget_logins(&self) {
        self.state.records.lock().await.forget_logins();
    }

    /// Makes the next request to the token endpoint fail. Each additional call of `fail_next` makes
    /// one more request fail.
    pub async fn fail_next(&self, fault: Fault) {
        self.state.records.lock().await.faults.push_back(fault);
    }

    /// Returns the latest request to the token endpoint, if the server has received a request.
    pub async fn last_token_request(&self) -> Option<TokenRequest> {
        self.state.records.lock().await.last_request.clone()
    }
}

async fn handle(state: &ServerState, request: Request<Bytes>) -> HandlerResult {
    let path = request.uri().path();
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    let post = *request.method() == Method::POST;
    match path {
        // A fault applies to a request with any method, so `token_endpoint` receives requests with
        // any method. `token_endpoint` checks the method only after the fault was applied.
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

/// Handles a request to an endpoint that only a Passport server has.
async fn passport_endpoint(state: &ServerState, request: &Request<Bytes>) -> Response<ReplyBody> {
    match (request.uri().path(), request.method()) {
        ("/api/user", &(Method::GET | Method::HEAD)) => profile::show(state, request).await,
        ("/api/user", _) => method_not_allowed("GET"),
        _ => pages::not_found(pages::PROVIDER),
    }
}

/// Handles a request to an endpoint that only an OpenID Provider has.
async fn openid_endpoint(state: &ServerState, request: &Request<Bytes>) -> Response<ReplyBody> {
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        "/.well-known/openid-configuration" if read => openid::metadata(state),
        "/oauth/jwks" if read => openid::key_set(state),
        "/oauth/userinfo" if read || *request.method() == Method::POST => {
            openid::userinfo(state, request).await
        }
        "/oauth/end_session" if read => end_session::end_session(state, request).await,
        "/oauth/revoke" if *request.method() == Method::POST => {
            let revoked = grants::revoke(state, request).await;
            revoked.unwrap_or_else(|refusal| refusal.response(state.settings.kind))
        }
        "/oauth/revoke" => method_not_allowed("POST"),
        "/oauth/userinfo" => method_not_allowed("GET, POST"),
        "/.well-known/openid-configuration" | "/oauth/jwks" | "/oauth/end_session" => {
            method_not_allowed("GET")
        }
        _ => pages::not_found(pages::PROVIDER),
    }
}

/// Handles a request to the token endpoint. If a test has set a fault, the server applies the fault
/// to the request.
async fn token_endpoint(state: &ServerState, request: &Request<Bytes>) -> HandlerResult {
    let fault = {
        // The server releases the lock of the records before a delay, because other requests must
        // not wait for a delayed request.
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

/// Returns true when the redirection URI `asked` matches `registered`. The two URIs must be equal,
/// except that the ports may differ if the host of `registered` is a loopback address (RFC 8252
/// section 7.3). The name `localhost` does not count as a loopback address.
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
    fn redirection_uris_match_exactly_except_for_the_port_of_a_loopback_address() {
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
