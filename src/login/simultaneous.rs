//! Logins of one browser that end at the same time.
//!
//! If a browser restores its tabs, two tabs can receive the answers of the provider at the same
//! moment. Neither of the two requests has the cookie of the session that the other request opens.
//! But both requests have the cookies of both pending logins, because a browser sends these cookies
//! with every request. The later login therefore waits for the earlier login, and uses its session.
//!
//! Only the logins of one process are compared.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tokio::sync::watch;

use super::authorization::VerifiedResponse;
use super::pending::{LoginDetails, ReturnedState, Tab};
use super::ticket::sha256;
use super::{Callback, Completion, Login};
use crate::clock::Timestamp;
use crate::fields::cookie as cookies;
use crate::provider::CodeTurn;
use crate::session::{SessionId, SessionKey, SessionRef, cookie};

/// The time for which the result of a login is kept. A request that the browser has sent before it
/// received the result arrives within this time.
const KEPT_FOR: Duration = Duration::from_mins(1);

/// A hash of the cookie of a pending login.
type CookieHash = [u8; 32];

/// The session that another tab of the browser has just opened.
#[derive(Clone, Debug)]
pub(super) struct OpenedSession {
    pub(super) session: SessionRef,
    /// The configured name of the provider.
    pub(super) provider: Box<str>,
    /// The `Set-Cookie` value of the session.
    pub(super) cookie: HeaderValue,
}

/// The logins whose codes are being exchanged, and the sessions that logins have just opened.
#[derive(Debug, Default)]
pub(super) struct SimultaneousLogins(
    #[expect(
        clippy::disallowed_types,
        reason = "locked only during a login, for a few look-ups"
    )]
    std::sync::Mutex<Logins>,
);

#[derive(Debug, Default)]
struct Logins {
    /// `None` as long as the login has no result.
    results: HashMap<CookieHash, watch::Receiver<Option<OpenedSession>>>,
    /// The results, and the times at which they are deleted, in this order.
    kept: VecDeque<(Timestamp, CookieHash)>,
}

/// One login whose answer has been verified. If the value is dropped without a session, the waiting
/// logins continue.
#[derive(Debug)]
pub(super) struct RunningLogin<'a> {
    logins: &'a SimultaneousLogins,
    /// `None` if the request has no cookie of the login.
    own: Option<CookieHash>,
    result: watch::Sender<Option<OpenedSession>>,
    /// The earlier logins of the same browser.
    earlier: Vec<watch::Receiver<Option<OpenedSession>>>,
    /// The session of an earlier login that this login cannot use.
    replaced: Option<SessionKey>,
}

impl SimultaneousLogins {
    /// Enters the verified login of `tab` into the list. `headers` are the fields of the request to
    /// the redirection endpoint.
    fn enter(&self, tab: &Tab, headers: &HeaderMap, now: Timestamp) -> RunningLogin<'_> {
        let (mut own, mut others) = (None, Vec::new());
        for (name, value) in cookies::matching(headers, cookie::is_own) {
            match Tab::of_cookie(name) {
                Some(found) if found == *tab => own = Some(sha256(value)),
                Some(_) => others.push(sha256(value)),
                None => {}
            }
        }
        let (result, receiver) = watch::channel(None);
        let mut logins = self.lock();
        logins.forget_until(now);
        let earlier = others.iter().filter_map(|hash| logins.results.get(hash));
        let earlier = earlier.cloned().collect();
        if let Some(own) = own {
            logins.results.insert(own, receiver);
        }
        drop(logins);
        RunningLogin {
            logins: self,
            own,
            result,
            earlier,
            replaced: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Logins> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Logins {
    fn forget_until(&mut self, now: Timestamp) {
        while let Some((_, hash)) = self.kept.pop_front_if(|(until, _)| *until <= now) {
            self.results.remove(&hash);
        }
    }
}

impl RunningLogin<'_> {
    /// Waits for the earlier logins of the browser. Returns the session of the first earlier login
    /// that has opened a session.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, no session is lost.
    async fn earlier(&mut self) -> Option<OpenedSession> {
        for earlier in &mut self.earlier {
            // An error means that the login has ended without a session.
            if let Ok(opened) = earlier.wait_for(Option::is_some).await {
                return opened.clone();
            }
        }
        None
    }

    /// Returns the session that the session of this login replaces.
    pub(super) fn replaced(&self) -> Option<SessionKey> {
        self.replaced
    }

    /// Gives the session of this login to the waiting logins.
    fn opened(self, session: OpenedSession, now: Timestamp) {
        self.result.send_replace(Some(session));
        if let Some(own) = self.own {
            let kept = (now.plus(KEPT_FOR), own);
            self.logins.lock().kept.push_back(kept);
        }
    }
}

impl Drop for RunningLogin<'_> {
    fn drop(&mut self) {
        if self.result.borrow().is_some() {
            return;
        }
        let mut logins = self.logins.lock();
        // A repetition of the request may have entered itself meanwhile.
        if let Some(own) = self.own
            && let Some(entered) = logins.results.get(&own)
            && entered.same_channel(&self.result.subscribe())
        {
            logins.results.remove(&own);
        }
    }
}

impl Login {
    /// Exchanges the code, or uses the session that another tab of the browser opens at the same
    /// time.
    pub(super) async fn redeem_or_join(
        self: &Arc<Self>,
        verified: (VerifiedResponse, CodeTurn),
        returned: &ReturnedState,
        callback: Callback<'_>,
    ) -> Completion {
        let details = returned.details();
        let now = self.process.clock.now();
        let entered = &self.process.simultaneous;
        let mut running = entered.enter(returned.tab(), callback.headers, now);
        let Some(opened) = running.earlier().await else {
            return self.redeem((verified, running), returned, callback).await;
        };
        // The session may have ended since the earlier login.
        let session = self.process.sessions.fetch(opened.session.key()).await;
        if !matches!(session, Ok(Some(_))) {
            return self.redeem((verified, running), returned, callback).await;
        }
        if !details.prompt.accepts_session() || opened.provider != details.provider {
            running.replaced = Some(*opened.session.key());
            return self.redeem((verified, running), returned, callback).await;
        }
        let forget = cookie::clear(&returned.tab().cookie());
        let completion = Completion::AlreadySignedIn {
            location: self.destination(details, opened.session, callback.public_url),
            cookies: vec![opened.cookie.clone(), forget],
        };
        running.opened(opened, now);
        completion
    }

    /// Gives the session `id` to the waiting logins of the browser.
    pub(super) fn share(
        &self,
        (details, id): (&LoginDetails, &SessionId),
        running: RunningLogin<'_>,
    ) -> OpenedSession {
        let opened = OpenedSession {
            session: SessionRef::from(id),
            provider: details.provider.clone(),
            cookie: cookie::session(&id.to_text(), self.cookie_lifetime(details.remember)),
        };
        running.opened(opened.clone(), self.process.clock.now());
        opened
    }
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;

    use super::*;
    use crate::session::StoreTag;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn tab(number: u8) -> Tab {
        Tab::parse(&format!("{number:016x}")).unwrap()
    }

    /// The fields of a request with the cookies of these pending logins.
    fn with_tabs(numbers: &[u8]) -> HeaderMap {
        let pairs = numbers
            .iter()
            .map(|number| format!("{}=secret-{number}", tab(*number).cookie()));
        let line = pairs.collect::<Vec<_>>().join("; ");
        [(COOKIE, HeaderValue::try_from(line).unwrap())]
            .into_iter()
            .collect()
    }

    fn session() -> OpenedSession {
        let id = SessionId::random(StoreTag::random().unwrap()).unwrap();
        OpenedSession {
            session: SessionRef::from(&id),
            provider: "main".into(),
            cookie: HeaderValue::from_static("x"),
        }
    }

    #[tokio::test]
    async fn the_later_login_gets_the_session_of_the_earlier_login() {
        let logins = SimultaneousLogins::default();
        let headers = with_tabs(&[1, 2]);
        let mut first = logins.enter(&tab(1), &headers, NOW);
        assert!(first.earlier().await.is_none());
        let mut second = logins.enter(&tab(2), &headers, NOW);
        let opened = session();
        let (found, ()) = tokio::join!(second.earlier(), async {
            first.opened(opened.clone(), NOW);
        });
        assert_eq!(found.unwrap().session, opened.session);
        // A request that arrives later also gets the session, but only for a minute.
        let mut third = logins.enter(&tab(3), &with_tabs(&[1, 3]), NOW);
        assert!(third.earlier().await.is_some());
        let mut fourth = logins.enter(&tab(4), &with_tabs(&[1, 4]), NOW.plus(KEPT_FOR));
        assert!(fourth.earlier().await.is_none());
    }

    #[tokio::test]
    async fn a_login_that_opens_no_session_lets_the_others_continue() {
        let logins = SimultaneousLogins::default();
        let headers = with_tabs(&[1, 2]);
        let first = logins.enter(&tab(1), &headers, NOW);
        let mut second = logins.enter(&tab(2), &headers, NOW);
        drop(first);
        assert!(second.earlier().await.is_none());
        drop(second);
        assert!(logins.lock().results.is_empty());
    }

    #[tokio::test]
    async fn another_browser_gets_no_session() {
        let logins = SimultaneousLogins::default();
        let first = logins.enter(&tab(1), &with_tabs(&[1]), NOW);
        first.opened(session(), NOW);
        let mut other = logins.enter(&tab(2), &with_tabs(&[2]), NOW);
        assert!(other.earlier().await.is_none());
        // The name of the tab alone is not enough.
        let line = format!("{}=guess; {}=y", tab(1).cookie(), tab(3).cookie());
        let headers = [(COOKIE, HeaderValue::try_from(line).unwrap())];
        let mut forged = logins.enter(&tab(3), &headers.into_iter().collect(), NOW);
        assert!(forged.earlier().await.is_none());
    }
}
