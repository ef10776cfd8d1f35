//! Breaks one step of the demo on purpose, to show that the check can fail.
//!
//! To break one of five steps, the demo makes a mistake that also occurs in real settings: a
//! redirection URI that is not registered, a wrong password, a wrong key, a public route where a
//! session is needed, or an endpoint for logouts that is not registered. To break any other step,
//! the demo uses a middlebox: a proxy in front of the gateway that changes one thing and forwards
//! everything else. The check does not know which step is broken. If a middlebox breaks the step,
//! the check connects to the middlebox instead of the gateway.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, SET_COOKIE, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;

use super::browser::exchange;
use super::serve::{CloseConnection, HandlerResult, ReplyBody, Server, plain, serve};
use super::tokens::Keys;
use super::{AuthorizationServer, AuthorizationServerSettings, Error, ProviderKind, Step};
use crate::secret::Secret;

/// Returns the settings of the authorization server. To break [`Step::Code`], the demo gives its
/// users passwords that the check does not use.
pub(crate) fn provider(kind: ProviderKind, broken: Option<Step>) -> AuthorizationServerSettings {
    let mut settings = AuthorizationServerSettings {
        kind,
        ..AuthorizationServerSettings::default()
    };
    if broken == Some(Step::Code) {
        for user in &mut settings.users {
            user.password = Secret::new("another".to_owned());
        }
    }
    settings
}

/// Returns the redirection URI that the demo registers at the authorization server. To break
/// [`Step::LoginForm`], the demo registers a URI that is not the URI of the gateway.
pub(crate) fn redirect_uri(broken: Option<Step>, public_url: &str) -> String {
    match broken {
        Some(Step::LoginForm) => format!("{public_url}/elsewhere"),
        Some(_) | None => format!("{public_url}/oauth2/callback"),
    }
}

/// Returns the key with which the app verifies tokens. If `broken` is [`Step::Bearer`], the app
/// gets a new key that has signed no token.
///
/// # Errors
///
/// Returns [`Error::Key`] or [`Error::Randomness`] if no key can be generated.
pub(crate) fn public_key(
    broken: Option<Step>,
    provider: &AuthorizationServer,
) -> Result<String, Error> {
    Ok(match broken {
        Some(Step::Bearer) => Keys::generate()?.public_pem().to_owned(),
        Some(_) | None => provider.public_key_pem().to_owned(),
    })
}

/// Returns additional routes for the settings file of the gateway. To break [`Step::Streams`], the
/// demo makes the route `/live` public, so that a client without a session can open a stream.
pub(crate) fn routes(broken: Option<Step>) -> &'static str {
    match broken {
        Some(Step::Streams) => "\n[[routes]]\nprefix = \"/live\"\naccess = \"public\"\n",
        Some(_) | None => "",
    }
}

/// Returns true if the server tells the gateway about logouts. To break [`Step::Logout`], the demo
/// does not register the endpoints of the gateway.
pub(crate) fn tells_clients(broken: Option<Step>) -> bool {
    broken != Some(Step::Logout)
}

/// A proxy on a free loopback port, which breaks one step and forwards everything else unchanged.
#[derive(Clone, Copy)]
pub(crate) struct Middlebox {
    pub(crate) broken: Step,
    pub(crate) gateway: SocketAddr,
    pub(crate) provider: SocketAddr,
}

impl Middlebox {
    /// Starts the middlebox, which serves until the returned value is dropped.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Bind`] if the proxy cannot listen on a port.
    pub(crate) async fn start(self) -> Result<Server, Error> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        serve(address, move |request| self.handle(request)).await
    }

    async fn handle(self, mut request: Request<Bytes>) -> HandlerResult {
        let uri = request.uri().clone();
        match (self.broken, uri.path()) {
            (Step::Post, "/notes") => {
                // The middlebox forwards an empty body, so the old `Content-Length` would be wrong.
                request.headers_mut().remove(CONTENT_LENGTH);
                *request.body_mut() = Bytes::new();
            }
            // The browser gets a successful answer, but the gateway does not receive the sign-out.
            (Step::SignOut, "/oauth2/sign_out") => return Ok(see_other()),
            // The browser gets an answer that deletes its cookie, but the gateway does not end the
            // session.
            (Step::CookieDead, "/oauth2/sign_out") => {
                let cleared = "__Host-sidegate=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax";
                let mut response = see_other();
                let fields = response.headers_mut();
                fields.insert(SET_COOKIE, HeaderValue::from_static(cleared));
                return Ok(response);
            }
            _ => {}
        }
        let mut response = forward(self.gateway, request).await?;
        match (self.broken, uri.path()) {
            (Step::Redirect, _) => weaken(&mut response),
            (Step::Exchange, "/oauth2/callback") | (Step::Cache, "/whoami") => {
                self.exchange_again(uri.query().unwrap_or_default()).await?;
            }
            (Step::Refresh, "/whoami") => self.refresh_too().await?,
            (Step::SessionCookie, "/oauth2/callback") => {
                response.headers_mut().remove(SET_COOKIE);
            }
            // Many proxies answer a request of a script with a redirect to a login page, although
            // the script cannot use a login page.
            (Step::Api, _) if response.status() == StatusCode::UNAUTHORIZED => {
                response = see_other();
            }
            _ => {}
        }
        Ok(response)
    }

    /// Sends one more refresh request to the authorization server. The demo ignores the answer to
    /// this refresh request.
    async fn refresh_too(self) -> Result<(), CloseConnection> {
        self.call_token_endpoint("grant_type=refresh_token").await
    }

    /// Sends one more code exchange to the authorization server, with the parameters in `query`.
    async fn exchange_again(self, query: &str) -> Result<(), CloseConnection> {
        let form = format!("grant_type=authorization_code&{query}");
        self.call_token_endpoint(&form).await
    }

    async fn call_token_endpoint(self, form: &str) -> Result<(), CloseConnection> {
        let request = Request::post("/oauth/token")
            .header(HOST, self.provider.to_string())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Bytes::from(form.to_owned()));
        let request = request.map_err(|_invalid| CloseConnection)?;
        forward(self.provider, request).await.map(drop)
    }
}

/// Forwards `request` unchanged, and returns the unchanged answer.
async fn forward(to: SocketAddr, request: Request<Bytes>) -> HandlerResult {
    let answered = exchange(to, request.map(Full::from)).await;
    let mut response = answered.map_err(|_unanswered| CloseConnection)?;
    // The middlebox has read the whole body, so it sends the body with a `Content-Length` and not
    // in chunks.
    response.headers_mut().remove(TRANSFER_ENCODING);
    Ok(response.map(ReplyBody::whole))
}

/// Weakens PKCE from `S256` to `plain` (RFC 7636 section 4.2), as an attacker between browser and
/// provider could do.
fn weaken(response: &mut Response<ReplyBody>) {
    if let Some(location) = response.headers_mut().get_mut(LOCATION) {
        let weak = location.to_str().unwrap_or_default();
        let weak = weak.replace("code_challenge_method=S256", "code_challenge_method=plain");
        // The conversion to a field value does not fail, because the replacement contains only
        // ASCII characters.
        *location = HeaderValue::try_from(weak).unwrap_or_else(|_| HeaderValue::from_static("/"));
    }
}

fn see_other() -> Response<ReplyBody> {
    let mut response = plain(StatusCode::SEE_OTHER, "");
    let fields = response.headers_mut();
    fields.insert(LOCATION, HeaderValue::from_static("/"));
    response
}
