//! The session that a connection used last.

use std::cell::RefCell;
use std::sync::Arc;

use http::HeaderValue;
use http::header::COOKIE;

use crate::clock::Timestamp;
use crate::fields::cookie::{self as cookies, Others};
use crate::secret::Secret;
use crate::session::{Session, Sessions, cookie};

/// Lets the requests of one connection go without looking their session up each time.
///
/// What a session holds is unpacked when it is looked up; here it stays so. None is used that was
/// replaced, ended or pushed out: what is remembered is asked whether it still stands, at every
/// request.
#[derive(Debug, Default)]
pub(crate) struct Recent(RefCell<Option<LastUsed>>);

#[derive(Debug)]
struct LastUsed {
    cookie: Secret<Box<[u8]>>,
    line: Option<CookieLine>,
    session: Arc<Session>,
    found_at: Timestamp,
}

/// The only `Cookie` line of the request, if it had one only.
#[derive(Debug)]
struct CookieLine {
    whole: Secret<Box<[u8]>>,
    /// What remains without our cookies.
    others: Option<HeaderValue>,
}

impl Recent {
    /// The session of a request with this very `Cookie` line and no other, as [`Recent::by_cookie`],
    /// and what the app gets of the line.
    pub(super) fn by_line(
        &self,
        line: &[u8],
        sessions: &Sessions,
        now: Timestamp,
    ) -> Option<(Arc<Session>, Option<HeaderValue>)> {
        let last = self.0.borrow();
        let last = last.as_ref()?;
        let same = last.line.as_ref();
        let same = same.filter(|same| same.whole.matches(line))?;
        sessions
            .still(&last.session, last.found_at, now)
            .then(|| (Arc::clone(&last.session), same.others.clone()))
    }

    /// The session of this very cookie, if it was the last one and still stands.
    pub(super) fn by_cookie(
        &self,
        cookie: &[u8],
        sessions: &Sessions,
        now: Timestamp,
    ) -> Option<Arc<Session>> {
        let last = self.0.borrow();
        let last = last.as_ref().filter(|last| last.cookie.matches(cookie))?;
        sessions
            .still(&last.session, last.found_at, now)
            .then(|| Arc::clone(&last.session))
    }

    /// Notes the session that was found for a cookie, which came in `line` or in several.
    pub(super) fn note(
        &self,
        (cookie, line): (&[u8], Option<&[u8]>),
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
            session: Arc::clone(session),
            found_at: now,
        });
    }
}

/// A `Cookie` line without our cookies, nothing if there are no others.
fn others(line: &[u8]) -> Option<HeaderValue> {
    match cookies::others(&[(COOKIE.as_str(), line)][..], cookie::is_own) {
        Others::Unchanged => {
            let mut line = HeaderValue::from_bytes(line).ok()?;
            line.set_sensitive(true);
            Some(line)
        }
        Others::Line(line) => Some(line),
        Others::None => None,
    }
}
