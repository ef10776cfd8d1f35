//! Handles requests, from the parsed head to the answer, in the order of the steps in the crate
//! documentation.
//!
//! The module `gateway` checks framing, target, host and scheme, and removes unsafe fields. The
//! module `gateway` answers requests to the gateway's own endpoints. [`crate::access`] decides
//! about every request to an app. A request reaches an upstream only with a permit of
//! [`crate::access`]. The module `gateway` creates the pages for users, but makes no decision about
//! users.
//!
//! A [`Site`] contains everything that is made from the settings. A [`Worker`] handles the requests
//! of one worker thread, with its own copy of the site and its own connections to upstreams.

mod app_sign_out;
mod asked_page;
mod auth_check;
mod body;
mod body_buffer;
mod buffers;
mod challenge;
mod endpoints;
mod error;
mod events;
mod explain;
mod explanation;
mod form_content;
mod form_endpoint;
mod forward;
mod grpc;
mod hosts;
mod kept_form;
mod login_failure;
mod logout;
mod navigation;
mod oauth2_auth;
mod own_sessions;
mod page;
mod probe;
mod record;
mod refusals;
mod request_body;
mod request_buffer;
mod request_context;
mod request_log;
mod retry_copy;
mod rewriting;
mod script;
mod serving;
mod sign_in;
mod sign_out;
mod signed_in;
mod silent;
mod site;
mod spill;
mod static_answer;
mod streams;
mod tab_page;
mod tunnel;
mod unusual_path;
mod userinfo;

use std::cell::RefCell;
use std::future::{pending, ready};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{self, Context, Poll};

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::Body as _;
use tokio::sync::watch;

use self::auth_check::{Asked, AuthCheck, passed};
pub(crate) use self::auth_check::{AskingProxies, ProxyKind};
pub(crate) use self::body::Body;
pub(crate) use self::buffers::Budgets;
use self::buffers::Reservation;
pub use self::error::Error;
pub(crate) use self::explanation::explain_request;
pub use self::explanation::{Explanation, Question, QuestionError};
use self::forward::InFlight;
use self::navigation::{is_prefetch, refuse_embedded, refuse_prefetch};
use self::page::add_security_fields;
pub(crate) use self::probe::Probes;
use self::record::Record;
pub(crate) use self::refusals::RefusalWarnings;
use self::request_body::ForwardedBody;
use self::request_context::RequestContext;
pub use self::site::ProcessState;
use self::site::{CurrentSite, WorkerSite};
pub(crate) use self::site::{Parts as SiteParts, Site};
pub(crate) use self::spill::SpillSettings;
pub use self::streams::Cut;
pub(crate) use self::streams::StreamCounts;
use self::streams::Streams;
use crate::access::{Decision, Permit, Recent, Wait};
use crate::clock::Timestamp;
use crate::fields::UpgradeRequest;
use crate::fields::forwarded::{Peer, TrustedPeers};
use crate::fields::request_id::{self, RequestIds, X_REQUEST_ID};
use crate::login::PublicUrls;
use crate::server::{Connection, RequestBody};
use crate::target::{self, RecentHost};
use crate::telemetry::{DecisionLabel, UserInLog};
use crate::upstream::Pools;

/// The referrer policy of answers whose URL can contain a code. With the policy `no-referrer`, the
/// browser does not send the URL to any site.
const NO_REFERRER: HeaderValue = HeaderValue::from_static("no-referrer");

/// The operator's settings for requests.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The origins that the gateway serves.
    pub(crate) public_urls: PublicUrls,
    /// The proxies in front of the gateway whose forwarding fields are trusted.
    pub(crate) trusted: TrustedPeers,
    /// The proxies that may ask whether they may forward a request.
    pub(crate) asking_proxies: AskingProxies,
    /// The proxies that may ask for auth checks in the form of oauth2-proxy.
    pub(crate) oauth2_proxies: TrustedPeers,
    /// The paths of health checks. `None` if there are no health checks at the public listener.
    pub(crate) probes: Option<Box<Probes>>,
    /// The names of all fields that the gateway writes for an app: assertion fields, and fields
    /// with a token.
    pub(crate) written_fields: Vec<HeaderName>,
    /// The public keys of signed assertions, as JSON. `None` if no app gets a signed assertion.
    pub(crate) key_set: Option<Arc<str>>,
    /// The size limit of a request body, in bytes.
    pub(crate) body_bytes: u64,
    /// The budget of all buffers for slow clients, in bytes.
    pub(crate) buffer_bytes: usize,
    /// The settings for the files that contain buffered bodies. `None` means that bodies are
    /// buffered only in memory.
    pub(crate) spill: Option<SpillSettings>,
    /// The way in which the log names the user who signs in.
    pub(crate) log_user: UserInLog,
}

/// The request handler of one worker thread, with its own copy of the site and its own connections
/// to upstreams.
#[derive(Debug)]
pub(crate) struct Worker {
    site: Rc<CurrentSite>,
    pools: Pools,
    streams: Rc<Streams>,
    request_ids: RequestIds,
}

/// The data of one connection: its peer, and the host and the session of its last request.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    connection: Connection,
    peer: Peer,
    recent_host: RecentHost,
    recent: Recent,
    /// The memory for the receive window, if this is an HTTP/2 connection.
    window: RefCell<Option<Reservation>>,
}

impl ClientConnection {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            peer: Peer::new(connection.peer.ip()),
            recent_host: RecentHost::default(),
            recent: Recent::default(),
            window: RefCell::default(),
        }
    }
}

impl WorkerSite {
    /// Waits until there is a decision for the request, but not longer than the maximum waiting
    /// time for a session.
    async fn wait(&self, wait: Wait, record: &mut Record) -> Decision {
        // The route is recorded before the call of `wait.decide`, because the client may disconnect
        // while the gateway waits.
        record.route(wait.route(), DecisionLabel::Unavailable);
        let waiting = self.metrics().waiting();
        let since = self.clock().instant();
        let decision = wait.decide().await;
        drop(waiting);
        record.waited(self.clock().instant().saturating_duration_since(since));
        decision
    }
}

impl Worker {
    /// Creates a worker without connections. The worker handles each new request with the latest
    /// site from `sites`. Panics if no local task can be started.
    pub(crate) fn new(sites: watch::Receiver<Arc<Site>>) -> Self {
        let site = CurrentSite::follow(sites);
        let pools = Pools::new(site.get().clock().clone());
        Self {
            streams: Streams::new(&site),
            site,
            pools,
            request_ids: RequestIds::new(),
        }
    }

    /// Returns the id of a request: the id that a trusted proxy has written, or a new id.
    fn request_id(&self, site: &WorkerSite, peer: IpAddr, headers: &HeaderMap) -> HeaderValue {
        let is_trusted = site.settings().trusted.contains(peer);
        let written = is_trusted.then(|| request_id::from_proxy(headers));
        written.flatten().unwrap_or_else(|| self.request_ids.next())
    }

    /// Handles a request up to the point at which the request has to wait. In most cases, the
    /// request already has a connection to its app when this function returns.
    fn process<'a>(
        &'a self,
        client_connection: &ClientConnection,
        mut parts: Parts,
        body: RequestBody,
        mut record: Record,
    ) -> Step<'a> {
        let site = Rc::clone(record.site());
        let upgrade = UpgradeRequest::take(&mut parts.extensions);
        let auth_check = match site.auth_check(client_connection.peer.address(), &mut parts) {
            Ok(Asked::Nothing) => None,
            Ok(Asked::Check(check)) => Some(check),
            Ok(Asked::Call) => {
                let connection = client_connection.connection;
                return Step::boxed(self.answer_call(connection, (parts, body), record));
            }
            Err(error) => return Step::answered(record.refused(&error, &parts.headers)),
        };
        self.decide(
            client_connection,
            (parts, body),
            (upgrade, auth_check),
            record,
        )
    }

    /// Checks a request, or the original request of an auth check, and handles the request up to the
    /// point at which the request has to wait.
    fn decide<'a>(
        &'a self,
        client_connection: &ClientConnection,
        (mut parts, body): (Parts, RequestBody),
        (upgrade, auth_check): (Option<Box<UpgradeRequest>>, Option<AuthCheck>),
        mut record: Record,
    ) -> Step<'a> {
        let site = Rc::clone(record.site());
        if let Some(check) = auth_check {
            record.auth_check(check, &parts);
        }
        let kind = (auth_check, !body.is_end_stream());
        let received = site.receive(client_connection, &mut parts, kind, &mut record);
        // The app must get the id that the log contains, and not an id that the client has sent.
        let id = record.request_id().clone();
        parts.headers.insert(X_REQUEST_ID, id);
        let (target, public_url, client, trailers) = match received {
            Ok(received) => received,
            Err(error) => return Step::answered(record.refused(&error, &parts.headers)),
        };
        let context = RequestContext {
            parts,
            target,
            public_url,
            client,
            trailers,
            upgrade,
            auth_check,
        };
        // The gateway's own endpoints are checked before the routes, so that no route can replace
        // them.
        if site.is_own(context.target.path()) {
            if auth_check.is_some() {
                return Step::answered(record.refused(&Error::NoRoute, &context.parts.headers));
            }
            record.decided = DecisionLabel::Own;
            let peer = client_connection.peer.address();
            return Step::boxed(async move {
                let answer = if context.target.path() == site.own().events() {
                    self.events(&context, &site).await
                } else {
                    site.own_answer(&context, (peer, body), &mut record).await
                };
                match answer {
                    Ok(response) => record.answered(response),
                    Err(error) => record.refused(&error, &context.parts.headers),
                }
            });
        }
        let body = ForwardedBody::new(body);
        let now = site.clock().now();
        let head = (&context.parts.method, &context.parts.headers);
        let (target, recent) = (&context.target, &client_connection.recent);
        match site.access.decide(head, target, recent, now) {
            Decision::Permit(permit) if auth_check.is_some() => {
                Step::answered(passed(&context, permit, record))
            }
            Decision::Permit(permit) => self.begin(context, (permit, now), body, record),
            Decision::Answer(answer) => Step::answered(record.static_answer(&context, &answer)),
            other @ (Decision::Challenge(_)
            | Decision::Forbid(_)
            | Decision::NoRoute
            | Decision::SignInFirst(_)
            | Decision::Unavailable(_)
            | Decision::Wait(_)) => Step::boxed(self.answer(context, other, body, record)),
        }
    }

    /// Begins to forward a permitted request. Most requests have no body, and need no preparation.
    #[inline]
    fn begin(
        &self,
        context: RequestContext,
        permit: (Permit, Timestamp),
        body: ForwardedBody,
        record: Record,
    ) -> Step<'_> {
        if permit.0.route().app_sign_out() == Some(context.target.path()) {
            return Step::boxed(self.with_app_sign_out(context, permit, body, record));
        }
        if body.is_ready() && context.parts.method.is_safe() {
            return self.forward(context, permit, body, record);
        }
        self.permitted(context, permit, body, record)
    }

    /// Performs steps 6 to 8 of the list in the crate documentation, for a request that has to wait
    /// or is not forwarded.
    async fn answer(
        &self,
        context: RequestContext,
        mut decision: Decision,
        body: ForwardedBody,
        mut record: Record,
    ) -> Response<Body> {
        let site = Rc::clone(record.site());
        let response = loop {
            decision = match decision {
                Decision::Wait(wait) => site.wait(wait, &mut record).await,
                Decision::Answer(answer) => return record.static_answer(&context, &answer),
                Decision::NoRoute => {
                    record.decided = DecisionLabel::NoRoute;
                    return record.refused(&Error::NoRoute, &context.parts.headers);
                }
                Decision::Challenge(challenge) => {
                    record.route(&challenge.route, DecisionLabel::Challenge);
                    record.reason(challenge.cause.reason());
                    match site.challenge_or_keep(&context, &challenge, body).await {
                        Ok(response) => break response,
                        Err(error) => return record.refused(&error, &context.parts.headers),
                    }
                }
                Decision::Forbid(forbid) => {
                    record.route(&forbid.route, DecisionLabel::Forbid);
                    record.user(Some(forbid.session.identity()));
                    break explain::forbidden((&context, site.own()), forbid.session.identity());
                }
                Decision::Permit(permit) if context.auth_check.is_some() => {
                    return passed(&context, permit, record);
                }
                Decision::Permit(permit) => {
                    let permit = (permit, site.clock().now());
                    return self.with_app_sign_out(context, permit, body, record).await;
                }
                Decision::SignInFirst(first) => {
                    match site.sign_in_first(&context, &first, &mut record).await {
                        Some(redirect) => break redirect,
                        None => Decision::Permit(first.permit),
                    }
                }
                Decision::Unavailable(unavailable) => {
                    record.route(&unavailable.route, DecisionLabel::Unavailable);
                    break explain::unavailable((&context, site.own()), &unavailable);
                }
            };
        };
        record.answered(response)
    }
}

/// The result of [`Worker::process`] for a request. Every variant contains only a box, because the
/// step of a request is moved several times.
enum Step<'a> {
    /// The request was sent on a connection, or waits for a free connection.
    Sent(Box<InFlight<'a>>),
    /// The remaining work for the request.
    Boxed(Pin<Box<dyn Future<Output = Response<Body>> + 'a>>),
    /// The request waits for its body. The future yields the next step of the request.
    Later(Pin<Box<dyn Future<Output = Self> + 'a>>),
}

impl<'a> Step<'a> {
    fn answered(response: Response<Body>) -> Self {
        Self::boxed(ready(response))
    }

    fn boxed(rest: impl Future<Output = Response<Body>> + 'a) -> Self {
        Self::Boxed(Box::pin(rest))
    }

    /// Waits for the answer to the request.
    fn finish(self, worker: &'a Worker) -> Finish<'a> {
        Finish { step: self, worker }
    }
}

/// The future of [`Step::finish`]. It is not an `async` block, because each `async` block moves the
/// answer one more time.
struct Finish<'a> {
    step: Step<'a>,
    worker: &'a Worker,
}

impl Future for Finish<'_> {
    type Output = Response<Body>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let worker = self.worker;
        loop {
            let unfinished = match &mut self.step {
                Step::Sent(in_flight) => match in_flight.poll_answer(worker, cx) {
                    Poll::Ready(Ok(response)) => return Poll::Ready(response),
                    Poll::Ready(Err(unfinished)) => unfinished,
                    Poll::Pending => return Poll::Pending,
                },
                Step::Boxed(rest) => return rest.as_mut().poll(cx),
                Step::Later(next) => {
                    self.step = task::ready!(next.as_mut().poll(cx));
                    continue;
                }
            };
            let step = std::mem::replace(&mut self.step, Step::boxed(pending()));
            if let Step::Sent(in_flight) = step {
                self.step = Step::Boxed(in_flight.continue_after(unfinished, worker));
            }
        }
    }
}

/// Returns a redirect that the browser follows with GET, so that the browser never sends a body or
/// a code again (RFC 9700 section 4.12).
fn see_other(location: &str, cookies: impl IntoIterator<Item = HeaderValue>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let Ok(location) = HeaderValue::from_str(location) else {
        // The gateway builds every `Location` value from visible ASCII characters, so this branch
        // runs only if the gateway has a bug.
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        return response;
    };
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location);
    add_security_fields(headers);
    headers.insert(header::REFERRER_POLICY, NO_REFERRER);
    set_cookies(headers, cookies);
    response
}

fn set_cookies(headers: &mut HeaderMap, cookies: impl IntoIterator<Item = HeaderValue>) {
    headers.extend(
        cookies
            .into_iter()
            .map(|cookie| (header::SET_COOKIE, cookie)),
    );
}

fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

impl From<target::Error> for Error {
    fn from(error: target::Error) -> Self {
        Self::Target(error)
    }
}

#[cfg(test)]
mod tests;
