//! The event stream, which tells the scripts of an app about their session (server-sent events, as
//! the HTML standard defines them).
//!
//! The stream begins with the times at which the session ends. Later events report other times, a
//! refresh of the tokens, and the end of the session. No event contains a token, and the stream is
//! not a use of the session.

use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body::Frame;
use serde_json::{Value, json};

use super::endpoints::check_method;
use super::page::{Page, add_security_fields};
use super::request_log::{CLIENT_GONE, DRAIN};
use super::site::{CurrentSite, Reloads};
use super::streams::{Drain, StreamSlot};
use super::userinfo::Ends;
use super::{Body, Error, RequestContext, Worker, WorkerSite};
use crate::access::Cause;
use crate::clock::Clock;
use crate::login::{PublicUrl, SameOrigin, same_origin_get};
use crate::session::{EndReason, EndWatch, Session, SessionEvent, WatchError};
use crate::telemetry::OpenStream;
use crate::upstream::Owner;

/// The maximum number of event streams of one session. Each browser tab needs one stream.
const PER_SESSION: usize = 32;

/// The longest time between two events. Many proxies close a connection that carries no data for a
/// minute.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The beginning of the stream: the time after which a browser opens the stream again if the stream
/// ends, in milliseconds.
const BEGINNING: &str = "retry: 3000\n";

/// Tells nginx not to buffer the answer.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The end code of a stream whose host a reload has removed.
const HOST_REMOVED: &str = "host_removed";

impl Worker {
    /// Answers a request for the event stream.
    ///
    /// # Errors
    ///
    /// [`Error::MethodNotAllowed`], and [`Error::TooManyStreams`] if the session has
    /// [`PER_SESSION`] event streams.
    pub(super) async fn events(
        &self,
        context: &RequestContext,
        site: &Rc<WorkerSite>,
    ) -> Result<Response<Body>, Error> {
        let headers = &context.parts.headers;
        check_method(&context.parts.method, &[Method::GET], "GET")?;
        if same_origin_get(headers, &context.public_url) == SameOrigin::No {
            let text = "Only a script of this site can open the event stream.";
            let page = Page::new(StatusCode::FORBIDDEN, "No page", text);
            return Ok(page.with_reason("cross_origin").respond_as_data(headers));
        }
        let now = site.clock().now();
        let found = site
            .access
            .observed_session_of(context.session_origin(), now);
        let mut session = match found.await {
            Ok(session) => session,
            Err(cause) => return Ok(site.nobody(context, cause)),
        };
        let owner = Owner::new(Some(session.key().as_bytes()), context.client.address());
        let slot = site.event_counts().open(owner, PER_SESSION);
        let slot = slot.ok_or(Error::TooManyStreams)?;
        let watch = match self.streams.ends().follow(&mut session).await {
            Ok(watch) => watch,
            Err(WatchError::Ended) => return Ok(site.nobody(context, Cause::Unknown)),
            Err(WatchError::Unavailable(_)) => {
                return Ok(site.nobody(context, Cause::Unreachable));
            }
        };
        let stream = EventStream::new(Events {
            session,
            watch,
            announced: None,
            end: Rc::default(),
            site: Rc::clone(&self.site),
            reloads: self.site.reloads(),
            drain: Rc::clone(self.streams.drain()),
            clock: site.clock().clone(),
            public_url: Rc::clone(&context.public_url),
            open: site.metrics().stream("", "events"),
            _slot: slot,
        });
        let mut response = Response::new(Body::events(stream));
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("text/event-stream");
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
        add_security_fields(headers);
        Ok(response)
    }
}

/// The body of an event stream. The connection of the client polls the body, so a client that does
/// not read costs no memory for further events.
pub(super) struct EventStream {
    next: NextEvent,
    end: Rc<Cell<Option<&'static str>>>,
}

/// Yields the next part of the stream, and the events after this part.
type NextEvent = Pin<Box<dyn Future<Output = (Option<String>, Box<Events>)>>>;

impl EventStream {
    fn new(events: Events) -> Self {
        Self {
            end: Rc::clone(&events.end),
            next: next(Box::new(events)),
        }
    }

    /// The end code of the stream, or `None` if the stream continues.
    pub(super) fn end(&self) -> Option<&'static str> {
        self.end.get()
    }

    /// Yields the next part of the stream.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        self.next.as_mut().poll(cx).map(|(text, events)| {
            self.next = next(events);
            text.map(|text| Frame::data(text.into()))
        })
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream")
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

fn next(mut events: Box<Events>) -> NextEvent {
    Box::pin(async move { (events.next().await, events) })
}

/// The events about one session.
struct Events {
    session: Arc<Session>,
    watch: EndWatch,
    /// The times that the last event contained. `None` before the first event.
    announced: Option<Ends>,
    /// The end code of the stream. The body of the answer reads the code.
    end: Rc<Cell<Option<&'static str>>>,
    site: Rc<CurrentSite>,
    reloads: Reloads,
    drain: Rc<Drain>,
    clock: Clock,
    public_url: Rc<PublicUrl>,
    open: OpenStream,
    _slot: StreamSlot,
}

impl Events {
    /// Waits for the next event, and returns the event as text. Returns `None` at the end of the
    /// stream.
    async fn next(&mut self) -> Option<String> {
        if self.end.get().is_some() {
            return None;
        }
        if self.announced.is_none() {
            let event = self.announce("ends_in", self.ends());
            return Some(format!("{BEGINNING}{event}"));
        }
        if let Some(ended) = self.without_token() {
            return Some(ended);
        }
        let wait = self.wait();
        tokio::select! {
            event = self.watch.next() => Some(match event {
                // The session may continue, but no store can confirm the session now. The browser
                // opens the stream again.
                SessionEvent::Ended(EndReason::Unconfirmed) => {
                    return self.close(EndReason::Unconfirmed.reason());
                }
                SessionEvent::Ended(why) => self.ended(why.reason()),
                SessionEvent::Renewed(session) => {
                    self.session = session;
                    self.announce("renewed", self.ends())
                }
            }),
            // The browser opens the stream again, at another process.
            () = self.drain.begun() => self.close(DRAIN),
            () = self.reloads.changed() => {
                let site = self.site.get();
                if site.public_url(self.public_url.authority()).is_none() {
                    return self.close(HOST_REMOVED);
                }
                Some(self.changes())
            }
            () = self.clock.sleep(wait) => {
                let ended = self.without_token();
                Some(ended.unwrap_or_else(|| self.changes()))
            }
        }
    }

    /// Returns the time until the next check. A token that cannot be refreshed ends the session for
    /// the user, but the registry does not report this end.
    fn wait(&self) -> Duration {
        let tokens = self.session.tokens();
        match (tokens.refresh_token(), tokens.expires_at()) {
            (None, Some(at)) => HEARTBEAT.min(at.since(self.clock.now())),
            (Some(_), _) | (None, None) => HEARTBEAT,
        }
    }

    fn ends(&self) -> Ends {
        Ends::of(self.site.get().sessions(), &self.session)
    }

    /// Returns the event about the end of a session whose token has expired and cannot be
    /// refreshed.
    fn without_token(&self) -> Option<String> {
        let tokens = self.session.tokens();
        let is_over = tokens.is_expired(self.clock.now()) && tokens.refresh_token().is_none();
        is_over.then(|| self.ended(Cause::TokenExpired.reason()))
    }

    /// Returns an event with new times, or a comment if the times have not changed. The comment
    /// keeps the connection open.
    fn changes(&mut self) -> String {
        let ends = self.ends();
        if self.announced == Some(ends) {
            return ":\n\n".to_owned();
        }
        self.announce("ends_in", ends)
    }

    fn announce(&mut self, event: &str, ends: Ends) -> String {
        self.announced = Some(ends);
        let now = self.clock.now();
        let data = json!({
            "idle_ends_in": ends.idle.since(now).as_secs(),
            "ends_in": ends.latest.since(now).as_secs(),
            "renewable": self.session.tokens().refresh_token().is_some(),
        });
        written(event, &data)
    }

    /// Ends the stream with an event.
    fn ended(&self, reason: &'static str) -> String {
        self.end.set(Some(reason));
        let site = self.site.get();
        let login_url = [self.public_url.origin(), site.own().sign_in()].concat();
        written("ended", &json!({"reason": reason, "login_url": login_url}))
    }

    /// Ends the stream without an event.
    fn close(&self, end: &'static str) -> Option<String> {
        self.end.set(Some(end));
        None
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.open.count_end(self.end.get().unwrap_or(CLIENT_GONE));
    }
}

/// Returns an event as the stream contains it.
fn written(event: &str, data: &Value) -> String {
    format!("event: {event}\ndata: {data}\n\n")
}
