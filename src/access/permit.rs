//! Permits: the right of one request to be forwarded.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName, HeaderValue, Request, header};

use super::{Access, OnRefusal, Route, SentRequest};
use crate::fields::cookie::{self as cookies, Others};
use crate::fields::{UpgradeRequest, View};
use crate::session::{Session, cookie};
use crate::upload::Upload;
use crate::upstream::{self, Exchange, Pools, ResponseFuture, assertions};

/// The right to send one request to one upstream, with a user or without one. Only
/// [`Access::decide`] creates a permit.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    pub(super) access: Rc<Access>,
    pub(super) route: Rc<Route>,
    pub(super) session: Option<Arc<Session>>,
    pub(super) cookies: Cookies,
}

/// The state of the request's cookies.
#[derive(Debug)]
pub(super) enum Cookies {
    /// The connection has had the same `Cookie` line before. This is the line without our cookies.
    Read(Option<HeaderValue>),
    /// The request may have our cookies. They have not been removed yet.
    Unread,
}

impl Permit {
    /// The route of the request.
    pub fn route(&self) -> &Rc<Route> {
        &self.route
    }

    /// The data that is needed if the app refuses the token: to send the request again, or to let
    /// the user sign in again. `None` if neither can happen.
    pub(crate) fn sent_request(&self) -> Option<SentRequest> {
        let session = self.session.as_ref()?;
        let wanted =
            self.route.on_refusal != OnRefusal::Pass || session.tokens().refresh_token().is_some();
        wanted.then(|| SentRequest {
            route: Rc::clone(&self.route),
            session: Arc::clone(session),
        })
    }

    /// The assertion fields that have a value, with `Authorization` and the bearer token.
    pub fn fields(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let fields = self.assertions();
        fields.filter_map(|(name, value)| value.map(|value| (name, value)))
    }

    /// Sends the request to the upstream. Before that, writes the assertion fields and removes our
    /// cookies. The client's own assertion fields have been removed before. This uses up the
    /// permit.
    ///
    /// With `upgrade`, which the request's fields express, the app may switch to that protocol.
    /// Without it the result is a response.
    ///
    /// # Errors
    ///
    /// [`crate::upstream::Error`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the upstream connection. The app may have acted on the request,
    /// even if the future was never polled.
    pub(crate) fn exchange(
        mut self,
        mut request: Request<Upload>,
        upgrade: Option<Box<UpgradeRequest>>,
        pools: &Pools,
    ) -> Exchanging<'_> {
        self.write(request.headers_mut());
        match upgrade {
            None => Exchanging::Response(pools.send(&self.route.upstream, request)),
            Some(upgrade) => Exchanging::Switch(Box::pin(async move {
                let upstream = &self.route.upstream;
                pools.switch(upstream, request, upgrade).await
            })),
        }
    }

    pub(super) fn write(&mut self, headers: &mut HeaderMap) {
        match self.cookies_left(headers) {
            Others::Unchanged => {}
            Others::Line(line) => write_or_remove(headers, &header::COOKIE, Some(line)),
            Others::None => write_or_remove(headers, &header::COOKIE, None),
        }
        // `for_each` is faster than a loop for a chain of iterators.
        self.assertions()
            .for_each(|(name, value)| write_or_remove(headers, name, value.cloned()));
    }

    /// The cookies without ours.
    pub(super) fn cookies_left(&mut self, fields: &(impl View + ?Sized)) -> Others {
        match std::mem::replace(&mut self.cookies, Cookies::Unread) {
            Cookies::Read(Some(line)) => Others::Line(line),
            Cookies::Read(None) => Others::None,
            Cookies::Unread => cookies::others(fields, cookie::is_own),
        }
    }

    /// Every assertion field. A field without a value must not be in the request.
    pub(super) fn assertions(&self) -> impl Iterator<Item = (&HeaderName, Option<&HeaderValue>)> {
        let (session, names) = (self.session.as_deref(), &self.access.names);
        let identity = session.map(Session::identity);
        let bearer = session.map(|session| session.tokens().bearer());
        // The provider's name is needed only if a field for it is configured.
        let told = session.filter(|_session| names.provider.is_some());
        let provider = told.and_then(|session| self.route.provider(session.provider()));
        assertions(names, identity, provider, bearer)
    }
}

/// A request that was sent on, until the app has answered.
pub(crate) enum Exchanging<'p> {
    /// A request that can only lead to a response.
    Response(ResponseFuture),
    /// A request for another protocol.
    Switch(Pin<Box<dyn Future<Output = Result<Exchange, upstream::Error>> + 'p>>),
}

impl Future for Exchanging<'_> {
    type Output = Result<Exchange, upstream::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Response(response) => Pin::new(response).poll(cx).map_ok(Exchange::Response),
            Self::Switch(switching) => switching.as_mut().poll(cx),
        }
    }
}

fn write_or_remove(headers: &mut HeaderMap, name: &HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => drop(headers.insert(name, value)),
        None => drop(headers.remove(name)),
    }
}
