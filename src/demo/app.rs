//! The legacy app behind the gateway. Like a real legacy app, the demo app does not use OAuth. The
//! demo app trusts the fields of a request and shows these fields. The demo app verifies the access
//! token only as a demonstration.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::Error;
use super::live;
use super::pages::{APP, escape, not_found, page, table};
use super::serve::{HandlerResult, ReplyBody, Server, answer, plain, serve};
use super::token_checker::{ParsedToken, TokenChecker};
use crate::clock::Clock;

/// The text that the app shows for a request without the field `Authorization`.
const NO_TOKEN: &str = "no token arrived";

/// The longest delay of `/slow`.
const MAX_WAIT: Duration = Duration::from_mins(1);

/// The settings of the app.
#[derive(Clone, Debug)]
pub struct AppSettings {
    /// The loopback address to listen on. With port 0, the system chooses a free port.
    pub address: SocketAddr,
    /// The public key of the provider, as PEM. Access tokens must be signed with the private key
    /// that belongs to this public key.
    pub public_key_pem: String,
    /// The required `aud` of access tokens: the client id of the gateway.
    pub audience: String,
    /// The clock, for the dates in tokens.
    pub clock: Clock,
}

impl AppSettings {
    /// Returns settings with a free port on `127.0.0.1` and the system clock.
    pub fn new(public_key_pem: impl Into<String>, audience: impl Into<String>) -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            public_key_pem: public_key_pem.into(),
            audience: audience.into(),
            clock: Clock::system(),
        }
    }
}

/// A running app. When the `App` is dropped, the app stops.
#[derive(Debug)]
pub struct App {
    server: Server,
    state: Arc<AppState>,
}

#[derive(Debug)]
struct AppState {
    checker: TokenChecker,
    audience: String,
    clock: Clock,
    requests: AtomicU64,
}

impl App {
    /// Listens on the address and serves until the returned value is dropped.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotLoopback`] if the address is not a loopback address, [`Error::Bind`] if
    /// the app cannot listen on the address, and [`Error::PublicKey`] if the key is not PEM.
    pub async fn start(settings: AppSettings) -> Result<Self, Error> {
        let state = Arc::new(AppState {
            checker: TokenChecker::from_pem(&settings.public_key_pem)?,
            audience: settings.audience,
            clock: settings.clock,
            requests: AtomicU64::new(0),
        });
        let shared = Arc::clone(&state);
        let server = serve(settings.address, move |request| {
            let state = Arc::clone(&shared);
            async move { handle(&state, request).await }
        })
        .await?;
        Ok(Self { server, state })
    }

    /// The address that the app listens on.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The number of requests that reached the app.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }
}

async fn handle(state: &AppState, request: Request<Bytes>) -> HandlerResult {
    state.requests.fetch_add(1, Ordering::Relaxed);
    let received = ReceivedRequest::new(state, request.headers());
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    let query = request.uri().query().unwrap_or_default();
    Ok(match request.uri().path() {
        "/" if read => front_page(&received),
        "/whoami" => whoami(state, &received),
        "/notes" if *request.method() == Method::POST => notes(&received, request.body()),
        "/public/hello" => plain(StatusCode::OK, "Hello, whoever you are.\n"),
        "/stream" => stream(),
        "/live" if read => live::page(),
        "/live/socket" if read => live::socket(request, &state.clock),
        "/live/events" if read => live::events(&state.clock),
        "/slow" => {
            let requested = url::form_urlencoded::parse(query.as_bytes())
                .find(|(name, _value)| name == "ms")
                .and_then(|(_name, value)| value.parse().ok());
            let delay = Duration::from_millis(requested.unwrap_or(1000));
            tokio::time::sleep(delay.min(MAX_WAIT)).await;
            plain(StatusCode::OK, "Sorry for the wait.\n")
        }
        "/" | "/notes" | "/live" | "/live/socket" | "/live/events" => {
            plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n")
        }
        _ => not_found(APP),
    })
}

/// The fields of one request, and the result of the check of its access token.
struct ReceivedRequest {
    /// All fields except `Authorization`, without the values of the gateway's cookies.
    fields: BTreeMap<String, String>,
    token: Option<ParsedToken>,
    /// The subject, or the reason why no user is signed in.
    subject: Result<String, &'static str>,
}

impl ReceivedRequest {
    fn new(state: &AppState, headers: &HeaderMap) -> Self {
        let mut fields = BTreeMap::new();
        for name in headers.keys().filter(|name| **name != AUTHORIZATION) {
            let values = headers.get_all(name).into_iter();
            let values: Vec<_> = values
                .map(|value| String::from_utf8_lossy(value.as_bytes()))
                .collect();
            let value = values.join(", ");
            // The gateway must not send its own cookies to the app. If the app receives a cookie of
            // the gateway by mistake, the page must not show the secret value.
            let value = if *name == COOKIE {
                redact_gateway_cookies(&value)
            } else {
                value
            };
            fields.insert(name.as_str().to_owned(), value);
        }
        let mut sent = headers.get_all(AUTHORIZATION).into_iter();
        let (token, subject) = match (sent.next(), sent.next()) {
            (None, _) => (None, Err(NO_TOKEN)),
            (Some(_), Some(_)) => (None, Err("more than one Authorization field arrived")),
            (Some(field), None) => {
                let token = field.to_str().ok();
                let token = token.and_then(|field| field.strip_prefix("Bearer "));
                let token = token.and_then(|token| state.checker.read(token));
                let subject = match &token {
                    Some(token) => token
                        .subject(&state.audience, state.clock.now())
                        .map(str::to_owned),
                    None => Err("the token cannot be read"),
                };
                (token, subject)
            }
        };
        Self {
            fields,
            token,
            subject,
        }
    }

    /// Returns the user name that the pages of the app show.
    fn label(&self, subject: &str) -> String {
        let labels = ["x-forwarded-preferred-username", "x-forwarded-email"];
        let named = labels.iter().find_map(|name| self.fields.get(*name));
        named.map_or_else(|| format!("user {subject}"), String::clone)
    }
}

/// Returns a `Cookie` field without the values of the gateway's cookies.
fn redact_gateway_cookies(cookies: &str) -> String {
    let pairs = cookies.split("; ").map(|pair| match pair.split_once('=') {
        Some((name, _value)) if name.starts_with("__Host-sidegate") => {
            format!("{name}=[redacted]")
        }
        Some(_) | None => pair.to_owned(),
    });
    pairs.collect::<Vec<_>>().join("; ")
}

fn front_page(received: &ReceivedRequest) -> Response<ReplyBody> {
    let body = format!(
        "{}\n<p><a href=\"/live\">Live clocks</a>: a WebSocket and an event stream through the \
         gateway.</p>\n<h2>Access token</h2>\n{}\n{}\n\
         <h2>Write a note</h2>\n<form method=\"post\" action=\"/notes\" class=\"stack\">\n\
         <label>Title<input name=\"title\"></label>\n\
         <label>Text<textarea name=\"text\"></textarea></label>\n\
         <div class=\"buttons\"><button>Post it</button></div>\n</form>",
        greeting(received),
        token_section(received),
        fields_section(received),
    );
    page(StatusCode::OK, APP, "Who you are", &body)
}

fn greeting(received: &ReceivedRequest) -> String {
    match &received.subject {
        Ok(subject) => format!(
            "<h1>Hello, {}</h1>\n<p>The gateway says that you are subject <code>{}</code>. This \
             app only reads the fields of your request.</p>\n\
             <form method=\"post\" action=\"/oauth2/sign_out\"><button class=\"second\">Sign out\
             </button></form>",
            escape(&received.label(subject)),
            escape(subject)
        ),
        Err(_) => {
            "<h1>Hello, stranger</h1>\n<p>Your request does not show who you are.</p>".to_owned()
        }
    }
}

/// Returns the decoded token as HTML. The encoded token is never shown.
fn token_section(received: &ReceivedRequest) -> String {
    let verdict = match (&received.subject, &received.token) {
        (Ok(_), _) => "<p class=\"good\">✓ signature checked</p>".to_owned(),
        (Err(reason), Some(token)) if token.signed => {
            format!("<p class=\"bad\">✗ signature checked, but {reason}</p>")
        }
        (Err(reason), _) if *reason == NO_TOKEN => format!("<p class=\"quiet\">{reason}</p>"),
        (Err(reason), _) => format!("<p class=\"bad\">✗ signature NOT valid: {reason}</p>"),
    };
    let Some(token) = &received.token else {
        return verdict;
    };
    format!(
        "{verdict}\n<h3>Header</h3>\n{}\n<h3>Claims</h3>\n{}",
        table(rows(&token.header)),
        table(rows(&token.claims))
    )
}

/// Returns two HTML tables with the fields of the received request. The first table contains the
/// fields that proxies add, because these fields are the most interesting fields for a user of the
/// demo.
fn fields_section(received: &ReceivedRequest) -> String {
    let about = |name: &str| name.starts_with("x-forwarded-") || name == "via";
    let rows = |wanted: bool| {
        let fields = received.fields.iter();
        let fields = fields.filter(move |(name, _value)| about(name) == wanted);
        table(fields.map(|(name, value)| (name.as_str(), value.clone())))
    };
    format!(
        "<h2>Fields that arrived</h2>\n<h3>About you and the proxies</h3>\n{}\n\
         <h3>Other fields</h3>\n{}",
        rows(true),
        rows(false)
    )
}

fn rows(object: &Map<String, Value>) -> impl Iterator<Item = (&str, String)> {
    object.iter().map(|(name, value)| {
        let date = matches!(name.as_str(), "exp" | "iat" | "nbf");
        let shown = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) if date => match http_date(number) {
                Some(date) => format!("{number} ({date})"),
                None => number.to_string(),
            },
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => value.to_string(),
        };
        (name.as_str(), shown)
    })
}

/// Formats seconds since the epoch as an HTTP date.
fn http_date(seconds: &serde_json::Number) -> Option<String> {
    let since = Duration::try_from_secs_f64(seconds.as_f64()?).ok()?;
    // An HTTP date cannot have a year after 9999, and `fmt_http_date` panics for such a date.
    if since > Duration::from_hours(8000 * 365 * 24) {
        return None;
    }
    let date = SystemTime::UNIX_EPOCH.checked_add(since)?;
    Some(httpdate::fmt_http_date(date))
}

/// Returns the data of [`front_page`] as JSON, for programs.
fn whoami(state: &AppState, received: &ReceivedRequest) -> Response<ReplyBody> {
    let token = match (&received.subject, &received.token) {
        (Ok(_), _) => "signature checked",
        (Err(_), Some(token)) if token.signed => "signature checked, but the token is not valid",
        (Err(reason), _) if *reason == NO_TOKEN => "none",
        (Err(_), _) => "signature NOT valid",
    };
    let body = json!({
        "authenticated": received.subject.is_ok(),
        "subject": received.subject.as_ref().ok(),
        "token": token,
        "reason": received.subject.as_ref().err(),
        "claims": received.token.as_ref().map(|token| &token.claims),
        "fields": received.fields,
        "requests": state.requests.load(Ordering::Relaxed),
    });
    let mut response = answer(StatusCode::OK, "application/json", body.to_string());
    let uncached = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, uncached);
    response
}

fn notes(received: &ReceivedRequest, body: &Bytes) -> Response<ReplyBody> {
    let by = match &received.subject {
        Ok(subject) => received.label(subject),
        Err(_) => "a stranger".to_owned(),
    };
    let fields: Vec<_> = url::form_urlencoded::parse(body).collect();
    let fields = table(
        fields
            .iter()
            .map(|(name, value)| (name.as_ref(), value.clone().into_owned())),
    );
    let body = format!(
        "<h1>Your note arrived</h1>\n<p>Posted by {}. The app does not store it.</p>\n{fields}\n\
         <p><a href=\"/\">Back</a></p>",
        escape(&by)
    );
    page(StatusCode::OK, APP, "Note", &body)
}

fn stream() -> Response<ReplyBody> {
    let parts = ["one\n", "two\n", "three\n"].map(|part| Bytes::from_static(part.as_bytes()));
    let mut response = plain(StatusCode::OK, "");
    *response.body_mut() = ReplyBody::paced(parts, Duration::from_millis(100));
    response
}
