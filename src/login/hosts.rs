//! One sign-in for several hosts.
//!
//! Only the login host has a redirect URI. A login that begins at another host becomes a ticket
//! request to the login host. The login host signs the user in, or finds the user's session, and
//! sends the browser back with a ticket. The host exchanges the ticket for an id of the session.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use url::form_urlencoded;

use super::pending::LoginDetails;
use super::ticket::{Opening, TICKET_LIFETIME, Ticket, TicketRequest, WaitingTab};
use super::{
    Error, FailedLogin, Login, PublicUrl, PublicUrls, ReturnTo, Start, Started, StateError, browser,
};
use crate::fields::cookie::{self as cookies, Found};
use crate::session::{EndReason, MarkKind, Once, SessionIds, SessionKey, SessionRef, cookie};

/// The login host, and the hosts that share its sessions.
#[derive(Clone, Debug)]
pub(crate) struct LoginHost {
    /// The origin of the login host.
    pub(crate) url: PublicUrl,
    /// All origins of the gateway.
    pub(crate) served: PublicUrls,
}

/// A redeemed ticket: the host has a session now.
#[derive(Debug)]
pub(crate) struct Redeemed {
    /// The page that the user asked for, as an absolute URL.
    pub(crate) location: String,
    /// The `Set-Cookie` values of the response.
    pub(crate) cookies: Vec<HeaderValue>,
}

impl Redeemed {
    fn new(ticket: &Ticket, cookies: impl IntoIterator<Item = HeaderValue>) -> Self {
        let others = [
            browser::remember_rounds(ticket.waiting.round.saturating_add(1)),
            cookie::clear(&ticket.waiting.tab.cookie()),
        ];
        Self {
            location: ticket.return_to.absolute(ticket.waiting.host.origin()),
            cookies: cookies.into_iter().chain(others).collect(),
        }
    }
}

impl Login {
    /// Reads the session cookies of requests.
    pub(crate) fn session_ids(&self) -> &Arc<SessionIds> {
        &self.session_ids
    }

    /// Returns the login host, if `public_url` is another host.
    pub(super) fn login_host_for(&self, public_url: &PublicUrl) -> Option<&LoginHost> {
        let host = self.settings.host.as_ref();
        host.filter(|host| host.url != *public_url)
    }

    /// Returns true if `public_url` is the login host.
    pub(crate) fn is_login_host(&self, public_url: &PublicUrl) -> bool {
        let host = self.settings.host.as_ref();
        host.is_some_and(|host| host.url == *public_url)
    }

    /// Returns true if `public_url` gets its sessions from the login host.
    pub(crate) fn redeems_tickets(&self, public_url: &PublicUrl) -> bool {
        self.login_host_for(public_url).is_some()
    }

    /// Begins a login at a host that is not the login host: returns the redirect that sends the
    /// browser to the login host with a ticket request.
    ///
    /// # Errors
    ///
    /// [`Error::NoRandomness`].
    pub(super) fn request_ticket(
        &self,
        start: Start<'_>,
        host: &LoginHost,
        round: u8,
    ) -> Result<Started, Error> {
        let now = self.process.clock.now();
        let session = self.key_to_end((start.public_url, start.headers));
        let (waiting, secret) = WaitingTab::new(start.public_url, (round, session), now)?;
        let own = cookie::set(
            &waiting.tab.cookie(),
            secret.expose(),
            self.settings.timeout,
        );
        let request = TicketRequest {
            waiting,
            return_to: start.return_to,
            providers: std::iter::once(start.provider)
                .chain(start.alternatives.iter().copied())
                .map(Box::from)
                .collect(),
            prompt: start.prompt,
            remember: start.remember,
            passed: start.passed.to_vec(),
            issued_at: now,
        };
        let sealed = request.seal(&self.keys, &host.url)?;
        let (origin, path) = (host.url.origin(), self.own().ticket_request());
        Ok(Started {
            location: format!("{origin}{path}?request={sealed}"),
            cookies: self.login_cookies(own, (start.public_url, start.headers)),
        })
    }

    /// Returns a link of the login host that answers `request` with a login at `provider`.
    ///
    /// # Errors
    ///
    /// [`Error::NoRandomness`].
    pub(crate) fn choose(
        &self,
        request: &TicketRequest,
        provider: &str,
        public_url: &PublicUrl,
    ) -> Result<String, Error> {
        let sealed = request.at(provider).seal(&self.keys, public_url)?;
        Ok(format!("{}?request={sealed}", self.own().ticket_request()))
    }

    /// Returns a link of the login host that answers `request` with a page on which the user chooses
    /// a provider, but with another value of `remember`.
    ///
    /// # Errors
    ///
    /// [`Error::NoRandomness`].
    pub(crate) fn choose_to_remember(
        &self,
        request: &TicketRequest,
        public_url: &PublicUrl,
    ) -> Result<String, Error> {
        let other = TicketRequest {
            providers: request.providers.clone(),
            remember: !request.remember,
            ..request.at("")
        };
        let sealed = other.seal(&self.keys, public_url)?;
        Ok(format!("{}?request={sealed}", self.own().ticket_request()))
    }

    /// Reads a ticket request at the login host. `query` is the query of the request.
    ///
    /// # Errors
    ///
    /// [`Error::Ticket`].
    pub(crate) fn read_ticket_request(
        &self,
        query: &str,
        public_url: &PublicUrl,
    ) -> Result<TicketRequest, Box<FailedLogin>> {
        let opened = self.opening(public_url).and_then(|opening| {
            let text = parameter(query, "request");
            TicketRequest::open(&text, opening).map_err(Error::Ticket)
        });
        let request = opened.map_err(|error| Box::new(FailedLogin::new(error, None)))?;
        match request.check_age(self.process.clock.now(), self.settings.timeout) {
            Ok(()) => Ok(request),
            Err(error) => {
                let error = Error::Ticket(error);
                Err(Box::new(FailedLogin::of_ticket_request(error, &request)))
            }
        }
    }

    /// Returns the URL that sends the browser back to its host, with a ticket for `session`.
    ///
    /// # Errors
    ///
    /// [`Error::NoRandomness`].
    pub(crate) fn answer(
        &self,
        request: &TicketRequest,
        session: SessionRef,
    ) -> Result<String, Error> {
        self.ticket_url((&request.waiting, &request.return_to), session)
    }

    fn ticket_url(
        &self,
        tab: (&WaitingTab, &ReturnTo),
        session: SessionRef,
    ) -> Result<String, Error> {
        let ticket = Ticket::seal(tab, session, &self.keys, self.process.clock.now())?;
        let (origin, path) = (tab.0.host.origin(), self.own().ticket());
        Ok(format!("{origin}{path}?ticket={ticket}"))
    }

    /// Returns the URL to which the browser goes after the login `details` has created `session`.
    pub(super) fn destination(
        &self,
        details: &LoginDetails,
        session: SessionRef,
        public_url: &PublicUrl,
    ) -> String {
        let page = &details.return_to;
        match &details.waiting {
            None => page.absolute(public_url.origin()),
            // Without random bytes for a ticket, the page itself asks for a ticket again.
            Some(waiting) => self
                .ticket_url((waiting, page), session)
                .unwrap_or_else(|_error| page.absolute(waiting.host.origin())),
        }
    }

    /// Reads the ticket in a request to this host, and checks the cookie of the tab. A ticket that
    /// arrives without its cookie is used up. If an attacker has lured a user to the ticket, the
    /// attacker can then not use the ticket in the tab of the attacker.
    ///
    /// # Errors
    ///
    /// [`Error::Ticket`], [`Error::TicketUsed`], [`Error::NotStored`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the ticket may be used up.
    pub(crate) async fn read_ticket(
        &self,
        query: &str,
        headers: &HeaderMap,
        public_url: &PublicUrl,
    ) -> Result<Ticket, Box<FailedLogin>> {
        let opened = self.opening(public_url).and_then(|opening| {
            Ticket::open(&parameter(query, "ticket"), opening).map_err(Error::Ticket)
        });
        let ticket = opened.map_err(|error| Box::new(FailedLogin::new(error, None)))?;
        let name = ticket.waiting.tab.cookie();
        let secret = match cookies::find(headers, name.as_bytes()) {
            Found::One(value) => Some(value),
            Found::Absent | Found::Conflicting => None,
        };
        let error = match ticket.verify(secret, self.process.clock.now()) {
            Ok(()) => return Ok(ticket),
            Err(error @ (StateError::NoCookie | StateError::OtherBrowser)) => {
                let used = self.use_up(&ticket).await;
                used.err().unwrap_or(Error::Ticket(error))
            }
            Err(error) => Error::Ticket(error),
        };
        Err(Box::new(FailedLogin::of_ticket(error, ticket)))
    }

    /// Uses up a ticket whose session is live, and creates an id of the session for this host. Ends
    /// `previous`, the session that the browser had at this host.
    ///
    /// # Errors
    ///
    /// [`Error::TicketUsed`], [`Error::NotStored`], [`Error::NoRandomness`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the ticket may be used up.
    pub(crate) async fn redeem_ticket(
        &self,
        ticket: Ticket,
        previous: Option<SessionKey>,
    ) -> Result<Redeemed, Box<FailedLogin>> {
        match self.host_id_cookie(&ticket, previous).await {
            Ok(session) => {
                let cookies = [session].into_iter().chain(self.allow_silent_sign_in());
                Ok(Redeemed::new(&ticket, cookies))
            }
            Err(error) => Err(Box::new(FailedLogin::of_ticket(error, ticket))),
        }
    }

    /// Uses up a ticket, but keeps the session that the browser has at this host.
    ///
    /// # Errors
    ///
    /// [`Error::TicketUsed`], [`Error::NotStored`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the ticket may be used up.
    pub(crate) async fn set_ticket_aside(
        &self,
        ticket: Ticket,
    ) -> Result<Redeemed, Box<FailedLogin>> {
        match self.use_up(&ticket).await {
            Ok(()) => Ok(Redeemed::new(&ticket, [])),
            Err(error) => Err(Box::new(FailedLogin::of_ticket(error, ticket))),
        }
    }

    /// Returns the `Set-Cookie` value that counts one more redirect of a signed-in user.
    pub(crate) fn count_round(headers: &HeaderMap) -> HeaderValue {
        browser::remember_rounds(browser::rounds(headers).saturating_add(1))
    }

    async fn use_up(&self, ticket: &Ticket) -> Result<(), Error> {
        let now = self.process.clock.now();
        // If the clock was set back, the ticket may come from the future.
        let until = now.max(ticket.issued_at).plus(TICKET_LIFETIME);
        let mark = (MarkKind::Ticket, ticket.fingerprint);
        match self.process.sessions.once(mark, now, until).await? {
            Once::First => Ok(()),
            Once::Repeated => Err(Error::TicketUsed),
        }
    }

    async fn host_id_cookie(
        &self,
        ticket: &Ticket,
        previous: Option<SessionKey>,
    ) -> Result<HeaderValue, Error> {
        self.use_up(ticket).await?;
        let sessions = &self.process.sessions;
        if let Some(previous) = previous.filter(|key| key != ticket.session.key()) {
            sessions.end(&previous, EndReason::Replaced).await?;
        }
        let authority = ticket.waiting.host.authority();
        let id = ticket.session.host_id(authority, &self.keys)?;
        // If the user decides, only the login host keeps its cookie. The other hosts get another
        // ticket from there.
        Ok(cookie::session(&id, self.cookie_lifetime(false)))
    }

    /// Returns true if the gateway still serves the host of `waiting`.
    pub(super) fn serves(&self, waiting: &WaitingTab) -> bool {
        let host = self.settings.host.as_ref();
        host.is_some_and(|host| waiting.is_served(&host.served))
    }

    /// Returns the host of the gateway with the origin `origin`, if all hosts share their sessions.
    pub(super) fn served_host(&self, origin: &str) -> Option<PublicUrl> {
        let served = &self.settings.host.as_ref()?.served;
        let url = PublicUrl::try_from(origin.to_owned()).ok()?;
        served.find(url.authority()).filter(|found| *found == url)
    }

    /// Returns the session that a session cookie names, for the end of the session.
    pub(super) fn session_to_end(
        &self,
        cookie: &[u8],
        public_url: &PublicUrl,
    ) -> Option<SessionRef> {
        SessionRef::to_end(cookie, public_url.authority(), &self.keys)
    }

    /// Returns the key of the session that the session cookie of a request names, for the end of
    /// the session. The session may have ended.
    pub(crate) fn key_to_end(
        &self,
        (public_url, headers): (&PublicUrl, &HeaderMap),
    ) -> Option<SessionKey> {
        match cookies::find(headers, cookie::SESSION.as_bytes()) {
            Found::One(value) => Some(*self.session_to_end(value, public_url)?.key()),
            Found::Absent | Found::Conflicting => None,
        }
    }

    fn opening<'a>(&'a self, public_url: &'a PublicUrl) -> Result<Opening<'a>, Error> {
        let host = self.settings.host.as_ref();
        let host = host.ok_or(Error::Ticket(StateError::Foreign))?;
        Ok(Opening {
            keys: &self.keys,
            own: self.own(),
            served: &host.served,
            public_url,
        })
    }
}

/// Returns the value of the parameter `name`, or an empty text if `query` does not contain the
/// parameter exactly one time.
pub(crate) fn parameter(query: &str, name: &str) -> String {
    let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(other, _)| other == name);
    match (values.next(), values.next()) {
        (Some((_, value)), None) => value.into_owned(),
        (None | Some(_), _) => String::new(),
    }
}
