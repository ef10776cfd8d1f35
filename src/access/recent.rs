//! Keeps the session that the last request of a connection used.

use std::cell::RefCell;
use std::sync::Arc;

use http::HeaderValue;
use http::header::COOKIE;

use crate::clock::Timestamp;
use crate::fields::cookie::{self as cookies, Others};
use crate::secret::Secret;
use crate::session::{Session, Sessions, cookie};

/// Keeps the session that the last request of a connection used, so that the next request of the
/// connection needs no look-up.
///
/// A look-up in the cache has to decode the session. [`Recent`] keeps the decoded session. Before
/// each use, [`Recent`] checks that the session has not been replaced, ended or evicted.
#[derive(Debug, Default)]
pub(crate) struct Recent(RefCell<Option<LastUsed>>);

#[derive(Debug)]
struct LastUsed {
    cookie: Secret<Box<[u8]>>,
    line: Option<CookieLine>,
    /// The host of the request, if a session cookie is valid only at one host.
    host: Option<Box<str>>,
    session: Arc<Session>,
    found_at: Timestamp,
}

/// The only `Cookie` line of a request.
#[derive(Debug)]
struct CookieLine {
    whole: Secret<Box<[u8]>>,
    /// The value of the `Cookie` field, without the gateway's own cookies.
    others: Option<HeaderValue>,
}

impl Recent {
    /// Returns the session of a request whose only `Cookie` line is `line`, and returns `line`
    /// without the gateway's own cookies. `host` is the host of the request, if a session cookie is
    /// valid only at one host. Returns `None` if the previous request on the connection had a
    /// different `Cookie` line or `host`, or if the session is no longer valid.
    pub(super) fn by_line(
        &self,
        (line, host): (&[u8], Option<&str>),
        sessions: &Sessions,
        now: Timestamp,
    ) -> Option<(Arc<Session>, Option<HeaderValue>)> {
        let last = self.0.borrow();
        let last = last.as_ref().filter(|last| last.host.as_deref() == host)?;
        let same = last.line.as_ref();
        let same = same.filter(|same| same.whole.matches(line))?;
        sessions
            .still(&last.session, last.found_at, now)
            .then(|| (Arc::clone(&last.session), same.others.clone()))
    }

    /// Returns the session of the session cookie `cookie`. `host` is the host of the request, if a
    /// session cookie is valid only at one host. Returns `None` if the previous request on the
    /// connection had a different session cookie or `host`, or if the session is no longer valid.
    pub(super) fn by_cookie(
        &self,
        (cookie, host): (&[u8], Option<&str>),
        sessions: &Sessions,
        now: Timestamp,
    ) -> Option<Arc<Session>> {
        let last = self.0.borrow();
        let last = last.as_ref().filter(|last| last.host.as_deref() == host)?;
        if !last.cookie.matches(cookie) {
            return None;
        }
        sessions
            .still(&last.session, last.found_at, now)
            .then(|| Arc::clone(&last.session))
    }

    /// Stores `session`, which belongs to the session cookie `cookie`. If the request has exactly
    /// one `Cookie` line, `line` contains this `Cookie` line. `host` is the host of the request, if
    /// a session cookie is valid only at one host.
    pub(super) fn note(
        &self,
        (cookie, line, host): (&[u8], Option<&[u8]>, Option<&str>),
        session: &Arc<Session>,
        now: Timestamp,
    ) {
        let line = line.map(|line| CookieLine {
            whole: Secret::new(line.into()),
            others: others(line),
        });
        *self.0.borrow_mut() = Some(LastUsed {
            cookie: Secret::new(cookie.into()),
            line,
            host: host.map(Into::into),
            session: Arc::clone(session),
            found_at: now,
        });
    }
}

/// Returns the `Cookie` line without the gateway's own cookies. Returns `None` if `line` contains
/// only the gateway's own cookies.
fn others(line: &[u8]) -> Option<HeaderValue> {
    match cookies::others(&[(COOKIE.as_str(), line)][..], cookie::is_own) {
        Others::Unchanged => {
            let mut line = HeaderValue::from_bytes(line).ok()?;
            // The app's cookies may be secrets, so they must not appear in debug output.
            line.set_sensitive(true);
            Some(line)
        }
        Others::Line(line) => Some(line),
        Others::None => None,
    }
}
