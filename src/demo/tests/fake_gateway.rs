//! A minimal gateway that passes the check. A test can break one part of the minimal gateway
//! ([`Breakage`]). Do not use the code as an example for a real gateway.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "each function handles only the breakages that concern it"
)]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Mutex, mpsc, watch};
use url::Url;

use super::{CHALLENGE, SECRET, VERIFIER, json};
use crate::clock::{Clock, Timestamp};
use crate::demo::browser::{exchange, open};
use crate::demo::serve::{HandlerResult, ReplyBody, Server, answer, serve};
use crate::secret;

/// The part of the gateway that is broken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Breakage {
    Nothing,
    AnyoneIsForwarded,
    ApiIsRedirected,
    ApiWithoutLoginUrl,
    CallbackForgetsThePage,
    CallbackIsRefused,
    ClientFieldsPass,
    CookieForeverAlive,
    CookieForTheDomain,
    CookieIsDropped,
    CookieWithoutHttpOnly,
    CookieWithoutSameSite,
    CookieWithoutSecure,
    EventsOutliveTheSession,
    ExchangeForEachRequest,
    ExchangeTwice,
    ExpiredTokenPasses,
    LogoutIsIgnored,
    NoBearer,
    NoPkce,
    NoState,
    OwnCookiePasses,
    PlainPkce,
    PostIsDropped,
    RefreshForEachRequest,
    SignOutIsDead,
    SignOutLeavesTheCookie,
    SocketsOutliveTheSession,
    TemporaryRedirect,
    WrongRedirectUri,
}

pub(super) struct FakeGateway {
    pub(super) breakage: Breakage,
    pub(super) provider: SocketAddr,
    pub(super) app: SocketAddr,
    pub(super) public_url: Url,
    /// The page that the user requested, for each pending login. The key of the map is the `state`
    /// parameter of the login.
    logins: Mutex<HashMap<String, String>>,
    /// The sessions, by the value of the session cookie.
    sessions: Mutex<HashMap<String, Session>>,
    clock: Clock,
}

struct Session {
    tokens: Tokens,
    /// When the session ends, the sender `ends` is dropped.
    ends: watch::Sender<()>,
}

#[derive(Clone)]
struct Tokens {
    access_token: String,
    refresh_token: String,
    expires_at: Timestamp,
}

impl FakeGateway {
    pub(super) fn new(
        breakage: Breakage,
        (provider, app): (SocketAddr, SocketAddr),
        clock: Clock,
    ) -> Self {
        Self {
            breakage,
            provider,
            app,
            public_url: Url::parse("http://localhost").unwrap(),
            logins: Mutex::default(),
            sessions: Mutex::default(),
            clock,
        }
    }

    pub(super) async fn start(self) -> Server {
        let fake = Arc::new(self);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let handler = move |request| {
            let fake = Arc::clone(&fake);
            async move { fake.handle(request).await }
        };
        serve(address, handler).await.unwrap()
    }

    fn is(&self, breakage: Breakage) -> bool {
        self.breakage == breakage
    }

    async fn handle(&self, request: Request<Bytes>) -> HandlerResult {
        let cookie = request.headers().get("cookie");
        let cookie = cookie.and_then(|value| value.to_str().unwrap().split_once('='));
        let session = cookie.map(|(_name, value)| value.to_owned());
        match request.uri().path() {
            "/oauth2/callback" => return Ok(self.callback(&request).await),
            "/oauth2/sign_out" => {
                if !self.is(Breakage::SignOutIsDead) && !self.is(Breakage::CookieForeverAlive) {
                    let mut sessions = self.sessions.lock().await;
                    sessions.remove(&session.unwrap_or_default());
                }
                let cleared = "__Host-sidegate=; Path=/; Secure; HttpOnly; Max-Age=0";
                let dead = [Breakage::SignOutIsDead, Breakage::SignOutLeavesTheCookie];
                let cookie = (!dead.contains(&self.breakage)).then_some(cleared);
                return Ok(redirect("/", cookie));
            }
            "/oauth2/revoke" => {
                if !self.is(Breakage::LogoutIsIgnored) {
                    self.sessions.lock().await.clear();
                }
                return Ok(answer(StatusCode::OK, "text/plain", ""));
            }
            _ => {}
        }
        let token = match &session {
            Some(session) => self.fresh(session).await,
            None => None,
        };
        let open = self.is(Breakage::AnyoneIsForwarded) && session.is_some();
        match token {
            Some(_) if request.uri().path() == "/live/socket" => {
                Ok(self.socket(request, &session.unwrap()).await)
            }
            Some(_) if request.uri().path() == "/live/events" => {
                Ok(self.events(&request, &session.unwrap()).await)
            }
            Some(token) => Ok(self.forward(request, &token).await),
            None if open => Ok(self.forward(request, "none").await),
            None => Ok(self.challenge(&request).await),
        }
    }

    async fn challenge(&self, request: &Request<Bytes>) -> Response<ReplyBody> {
        let navigation = request.headers()["sec-fetch-mode"] == "navigate";
        if !navigation && !self.is(Breakage::ApiIsRedirected) {
            let body = if self.is(Breakage::ApiWithoutLoginUrl) {
                json!({ "status": 401 })
            } else {
                json!({ "status": 401, "login_url": "/oauth2/sign_in" })
            };
            let status = StatusCode::UNAUTHORIZED;
            return answer(status, "application/problem+json", body.to_string());
        }
        let state =
            format!("{:x?}", secret::random::<8>().unwrap()).replace([' ', ',', '[', ']'], "");
        let page = request.uri().path_and_query().unwrap().to_string();
        self.logins.lock().await.insert(state.clone(), page);
        let redirect_uri = match self.breakage {
            Breakage::WrongRedirectUri => "http://localhost/callback",
            _ => "http://localhost/oauth2/callback",
        };
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs([
            ("response_type", "code"),
            ("client_id", "3"),
            ("redirect_uri", redirect_uri),
        ]);
        if !self.is(Breakage::NoState) {
            query.append_pair("state", &state);
        }
        match self.breakage {
            Breakage::NoPkce => {}
            Breakage::PlainPkce => {
                // If the request names no method, the provider compares the challenge with the
                // unhashed verifier (RFC 7636 section 4.3).
                query.append_pair("code_challenge", VERIFIER);
            }
            _ => {
                query.append_pair("code_challenge", CHALLENGE);
                query.append_pair("code_challenge_method", "S256");
            }
        }
        let target = format!(
            "http://{}/oauth/authorize?{}",
            self.provider,
            query.finish()
        );
        let mut response = redirect(&target, None);
        if self.is(Breakage::TemporaryRedirect) {
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        }
        response
    }

    async fn callback(&self, request: &Request<Bytes>) -> Response<ReplyBody> {
        let query = request.uri().query().unwrap();
        let query: HashMap<String, String> = url::form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        let page = self.logins.lock().await.remove(&query["state"]);
        if self.is(Breakage::CallbackIsRefused) {
            return answer(StatusCode::BAD_GATEWAY, "text/plain", "no");
        }
        let token = self.redeem(&query["code"]).await;
        if self.is(Breakage::ExchangeTwice) {
            self.redeem(&query["code"]).await;
        }
        let session = secret::random::<32>().unwrap();
        let session = format!("{session:x?}").replace([' ', ',', '[', ']'], "");
        let opened = Session {
            tokens: token.unwrap(),
            ends: watch::Sender::new(()),
        };
        self.sessions.lock().await.insert(session.clone(), opened);
        let cookie = format!("__Host-sidegate={session}; Path=/; Secure; HttpOnly; SameSite=Lax");
        let cookie = match self.breakage {
            Breakage::CookieIsDropped => None,
            Breakage::CookieWithoutHttpOnly => Some(cookie.replace("; HttpOnly", "")),
            Breakage::CookieWithoutSameSite => Some(cookie.replace("; SameSite=Lax", "")),
            Breakage::CookieWithoutSecure => Some(cookie.replace("; Secure", "")),
            Breakage::CookieForTheDomain => Some(format!("{cookie}; Domain=localhost")),
            _ => Some(cookie),
        };
        let page = match self.breakage {
            Breakage::CallbackForgetsThePage => "/".to_owned(),
            _ => page.unwrap(),
        };
        redirect(&page, cookie.as_deref())
    }

    /// Returns the access token of a session. If the access token has expired, sends a refresh and
    /// returns the new access token.
    async fn fresh(&self, session: &str) -> Option<String> {
        // This function holds the lock of the sessions during the refresh, so that two requests
        // never send the same refresh token.
        let mut sessions = self.sessions.lock().await;
        let tokens = &mut sessions.get_mut(session)?.tokens;
        let expired = tokens.expires_at <= self.clock.now();
        if expired && !self.is(Breakage::ExpiredTokenPasses) {
            let refresh_token = tokens.refresh_token.clone();
            if self.is(Breakage::RefreshForEachRequest) {
                // The provider refuses the invalid refresh token `def50200`, but counts the call as
                // a refresh request.
                self.refresh("def50200").await;
            }
            *tokens = self.refresh(&refresh_token).await.unwrap();
        }
        Some(tokens.access_token.clone())
    }

    async fn refresh(&self, refresh_token: &str) -> Option<Tokens> {
        let body = json!({
            "grant_type": "refresh_token",
            "client_id": "3",
            "client_secret": SECRET,
            "refresh_token": refresh_token,
        });
        self.call(&body).await
    }

    /// Exchanges a code. Returns `None` if the provider refuses the code.
    async fn redeem(&self, code: &str) -> Option<Tokens> {
        let body = json!({
            "grant_type": "authorization_code",
            "client_id": "3",
            "client_secret": SECRET,
            "redirect_uri": "http://localhost/oauth2/callback",
            "code": code,
            "code_verifier": VERIFIER,
        });
        self.call(&body).await
    }

    async fn call(&self, body: &serde_json::Value) -> Option<Tokens> {
        let request = Request::post("/oauth/token")
            .header("host", self.provider.to_string())
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()));
        let answer = exchange(self.provider, request.unwrap()).await.unwrap();
        let answer = json(&answer);
        let lifetime = Duration::from_secs(answer["expires_in"].as_u64()?);
        Some(Tokens {
            access_token: answer["access_token"].as_str()?.to_owned(),
            refresh_token: answer["refresh_token"].as_str()?.to_owned(),
            expires_at: self.clock.now().plus(lifetime),
        })
    }

    /// Opens a stream of the app. Returns the answer of the app, and a future that completes when
    /// the session ends. If the gateway has the breakage `breakage`, the stream continues after the
    /// end of the session, and the future never completes.
    async fn open_stream(
        &self,
        request: &Request<Bytes>,
        session: &str,
        breakage: Breakage,
    ) -> (Response<Incoming>, impl Future<Output = ()> + use<>) {
        let mut ended = self.sessions.lock().await[session].ends.subscribe();
        let survives = self.is(breakage);
        let ending = async move {
            ended.changed().await.unwrap_err();
            if survives {
                std::future::pending::<()>().await;
            }
        };
        let mut to_app = Request::new(Full::default());
        *to_app.uri_mut() = request.uri().clone();
        *to_app.headers_mut() = request.headers().clone();
        (open(self.app, to_app).await.unwrap(), ending)
    }

    /// Forwards a WebSocket until its session ends.
    async fn socket(&self, request: Request<Bytes>, session: &str) -> Response<ReplyBody> {
        let breakage = Breakage::SocketsOutliveTheSession;
        let (mut from_app, ending) = self.open_stream(&request, session, breakage).await;
        let mut response = Response::new(ReplyBody::whole(""));
        *response.status_mut() = from_app.status();
        *response.headers_mut() = from_app.headers().clone();
        tokio::spawn(async move {
            let app = hyper::upgrade::on(&mut from_app).await.unwrap();
            let client = hyper::upgrade::on(request).await.unwrap();
            let (mut app, mut client) = (TokioIo::new(app), TokioIo::new(client));
            tokio::select! {
                _closed = tokio::io::copy_bidirectional(&mut app, &mut client) => {}
                () = ending => client.write_all(&[0x88, 2, 0x03, 0xf0]).await.unwrap(),
            }
        });
        response
    }

    /// Forwards an event stream until its session ends.
    async fn events(&self, request: &Request<Bytes>, session: &str) -> Response<ReplyBody> {
        let breakage = Breakage::EventsOutliveTheSession;
        let (from_app, ending) = self.open_stream(request, session, breakage).await;
        let (sender, parts) = mpsc::channel(1);
        let mut body = from_app.into_body();
        tokio::spawn(async move {
            let forwarding = async {
                while let Some(Ok(frame)) = body.frame().await {
                    drop(sender.send(frame.into_data().unwrap()).await);
                }
            };
            tokio::select! {
                () = forwarding => {}
                () = ending => {}
            }
        });
        Response::new(ReplyBody::Live(parts))
    }

    async fn forward(&self, request: Request<Bytes>, token: &str) -> Response<ReplyBody> {
        if self.is(Breakage::ExchangeForEachRequest) && request.uri().path() == "/whoami" {
            self.redeem("def50200").await;
        }
        let (mut parts, mut body) = request.into_parts();
        let ours = ["authorization", "x-forwarded-user", "x-forwarded-email"];
        if !self.is(Breakage::ClientFieldsPass) {
            for name in ours {
                parts.headers.remove(name);
            }
        }
        if !self.is(Breakage::OwnCookiePasses) {
            parts.headers.remove("cookie");
        }
        if !self.is(Breakage::NoBearer) {
            let bearer = format!("Bearer {token}").parse().unwrap();
            parts.headers.insert("authorization", bearer);
        }
        if self.is(Breakage::PostIsDropped) {
            body = Bytes::new();
            parts.headers.remove("content-length");
        }
        let request = Request::from_parts(parts, Full::from(body));
        let answered = exchange(self.app, request).await.unwrap();
        let (mut parts, body) = answered.into_parts();
        parts.headers.remove("transfer-encoding");
        Response::from_parts(parts, ReplyBody::whole(body))
    }
}

fn redirect(location: &str, cookie: Option<&str>) -> Response<ReplyBody> {
    let mut response = answer(StatusCode::SEE_OTHER, "text/plain", "");
    let fields = response.headers_mut();
    fields.insert("location", location.parse().unwrap());
    if let Some(cookie) = cookie {
        fields.insert("set-cookie", cookie.parse().unwrap());
    }
    response
}
