//! The session that a connection used last.

use std::cell::RefCell;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::secret::Secret;
use crate::session::{Session, Sessions};

/// Lets the requests of one connection go without looking their session up each time.
///
/// What a session holds is unpacked when it is looked up; here it stays so. None is used that was
/// replaced, ended or pushed out: what is remembered is asked whether it still stands, at every
/// request.
#[derive(Debug, Default)]
pub struct Recent(RefCell<Option<Known>>);

#[derive(Debug)]
struct Known {
    cookie: Secret<Box<[u8]>>,
    session: Arc<Session>,
    found_at: Timestamp,
}

impl Recent {
    /// The session of this very cookie, if it was the last one and still stands.
    pub(super) fn session(
        &self,
        cookie: &[u8],
        sessions: &Sessions,
        now: Timestamp,
    ) -> Option<Arc<Session>> {
        let known = self.0.borrow();
        let known = known
            .as_ref()
            .filter(|known| known.cookie.matches(cookie))?;
        sessions
            .still(&known.session, known.found_at, now)
            .then(|| Arc::clone(&known.session))
    }

    /// Notes the session that was found for a cookie.
    pub(super) fn note(&self, cookie: &[u8], session: &Arc<Session>, now: Timestamp) {
        *self.0.borrow_mut() = Some(Known {
            cookie: Secret::new(cookie.into()),
            session: Arc::clone(session),
            found_at: now,
        });
    }
}
