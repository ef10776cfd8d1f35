//! The right to pass.

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Request, header};

use super::{Access, OnRefusal, Route, SentRequest};
use crate::fields::View;
use crate::fields::cookie::{self as cookies, Others};
use crate::session::{Session, cookie};
use crate::upload::Upload;
use crate::upstream::{Pools, ResponseFuture, assertions};

/// The right to send one request to one upstream, as one person or as nobody. Only
/// [`Access::decide`] makes one.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    pub(super) access: Rc<Access>,
    pub(super) route: Rc<Route>,
    pub(super) session: Option<Arc<Session>>,
    pub(super) cookies: Cookies,
}

/// Whether it is known what the app gets of the cookies that came.
#[derive(Debug)]
pub(super) enum Cookies {
    /// The connection has seen this very line before: without our cookies this is left of it.
    Read(Option<HeaderValue>),
    /// Our cookies are still to be looked for.
    Unread,
}

impl Permit {
    /// The route it is for.
    pub fn route(&self) -> &Rc<Route> {
        &self.route
    }

    /// What to remember of a request that may have to be sent once more, or whose person may have
    /// to sign in again, because of the app's answer. `None` where neither can happen.
    pub(crate) fn sent_request(&self) -> Option<SentRequest> {
        let session = self.session.as_ref()?;
        let wanted =
            self.route.on_refusal != OnRefusal::Pass || session.tokens().refresh_token().is_some();
        wanted.then(|| SentRequest {
            route: Rc::clone(&self.route),
            session: Arc::clone(session),
        })
    }

    /// What the app is told: each field that has a value, the bearer token among them.
    pub fn fields(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let fields = self.assertions();
        fields.filter_map(|(name, value)| value.map(|value| (name, value)))
    }

    /// Uses up the permit: writes what the app is told into the request, whose fields were stripped
    /// before, removes our cookies, and sends the request on.
    ///
    /// # Errors
    ///
    /// [`crate::upstream::Error`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the upstream connection; the app may have acted, even if the
    /// future was never polled.
    pub(crate) fn exchange(
        mut self,
        mut request: Request<Upload>,
        pools: &Pools,
    ) -> ResponseFuture {
        self.write(request.headers_mut());
        pools.send(&self.route.upstream, request)
    }

    pub(super) fn write(&mut self, headers: &mut HeaderMap) {
        match self.cookies_left(headers) {
            Others::Unchanged => {}
            Others::Line(line) => write_or_remove(headers, &header::COOKIE, Some(line)),
            Others::None => write_or_remove(headers, &header::COOKIE, None),
        }
        // Not a loop: a chain of iterators is faster when it drives itself.
        self.assertions()
            .for_each(|(name, value)| write_or_remove(headers, name, value.cloned()));
    }

    /// What is left of the cookies without ours.
    pub(super) fn cookies_left(&mut self, fields: &(impl View + ?Sized)) -> Others {
        match std::mem::replace(&mut self.cookies, Cookies::Unread) {
            Cookies::Read(Some(line)) => Others::Line(line),
            Cookies::Read(None) => Others::None,
            Cookies::Unread => cookies::others(fields, cookie::is_own),
        }
    }

    /// Every field that we assert, with its value or, where it must not be there, without.
    pub(super) fn assertions(&self) -> impl Iterator<Item = (&HeaderName, Option<&HeaderValue>)> {
        let (session, names) = (self.session.as_deref(), &self.access.names);
        let identity = session.map(Session::identity);
        let bearer = session.map(|session| session.tokens().bearer());
        // Looked for only where an app is told.
        let told = session.filter(|_session| names.provider.is_some());
        let provider = told.and_then(|session| self.route.provider(session.provider()));
        assertions(names, identity, provider, bearer)
    }
}

fn write_or_remove(headers: &mut HeaderMap, name: &HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => drop(headers.insert(name, value)),
        None => drop(headers.remove(name)),
    }
}
