//! One step of the demo broken on purpose, to see that the check can fail.
//!
//! Three steps break by what a person could get wrong in real settings: a redirection URI that is
//! not registered, another password, another key. The others break at a small middlebox, a proxy
//! before the gateway that alters one thing and forwards all else. The check knows of neither: it
//! is given an address.

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

/// The authorization server's settings: for [`Step::Code`] it knows other passwords.
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

/// The redirection URI to register: for [`Step::LoginForm`] not the gateway's.
pub(crate) fn redirect_uri(broken: Option<Step>, public_url: &str) -> String {
    match broken {
        Some(Step::LoginForm) => format!("{public_url}/elsewhere"),
        Some(_) | None => format!("{public_url}/oauth2/callback"),
    }
}

/// The key that the app checks tokens with: for [`Step::Bearer`] one that signed none.
///
/// # Errors
///
/// [`Error::Key`] and [`Error::Randomness`].
pub(crate) fn public_key(
    broken: Option<Step>,
    provider: &AuthorizationServer,
) -> Result<String, Error> {
    Ok(match broken {
        Some(Step::Bearer) => Keys::generate()?.public_pem().to_owned(),
        Some(_) | None => provider.public_key_pem().to_owned(),
    })
}

/// A proxy on a free loopback port that breaks one step and is otherwise faithful.
#[derive(Clone, Copy)]
pub(crate) struct Middlebox {
    pub(crate) broken: Step,
    pub(crate) gateway: SocketAddr,
    pub(crate) provider: SocketAddr,
}

impl Middlebox {
    /// Serves until the handle drops.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`].
    pub(crate) async fn start(self) -> Result<Server, Error> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        serve(address, move |request| self.handle(request)).await
    }

    async fn handle(self, mut request: Request<Bytes>) -> HandlerResult {
        let uri = request.uri().clone();
        match (self.broken, uri.path()) {
            (Step::Post, "/notes") => {
                request.headers_mut().remove(CONTENT_LENGTH);
                *request.body_mut() = Bytes::new();
            }
            // The gateway never hears of it, whatever the browser is told.
            (Step::SignOut, "/oauth2/sign_out") => return Ok(see_other()),
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
            // What many a proxy does to scripts: a redirect that they cannot follow.
            (Step::Api, _) if response.status() == StatusCode::UNAUTHORIZED => {
                response = see_other();
            }
            _ => {}
        }
        Ok(response)
    }

    /// One more refresh at the authorization server, whatever comes of it.
    async fn refresh_too(self) -> Result<(), CloseConnection> {
        self.call_token_endpoint("grant_type=refresh_token").await
    }

    /// One more code exchange at the authorization server, with the code of `query` if it has one.
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

/// Sends `request` on as it is, and gives back the answer as it came.
async fn forward(to: SocketAddr, request: Request<Bytes>) -> HandlerResult {
    let answered = exchange(to, request.map(Full::from)).await;
    let mut response = answered.map_err(|_unanswered| CloseConnection)?;
    // The body was collected and has a length now.
    response.headers_mut().remove(TRANSFER_ENCODING);
    Ok(response.map(ReplyBody::whole))
}

/// Takes the digest out of PKCE (RFC 7636 section 4.2), as an attacker on the way would.
fn weaken(response: &mut Response<ReplyBody>) {
    if let Some(location) = response.headers_mut().get_mut(LOCATION) {
        let weak = location.to_str().unwrap_or_default();
        let weak = weak.replace("code_challenge_method=S256", "code_challenge_method=plain");
        // What was text stays text.
        *location = HeaderValue::try_from(weak).unwrap_or_else(|_| HeaderValue::from_static("/"));
    }
}

fn see_other() -> Response<ReplyBody> {
    let mut response = plain(StatusCode::SEE_OTHER, "");
    let fields = response.headers_mut();
    fields.insert(LOCATION, HeaderValue::from_static("/"));
    response
}
