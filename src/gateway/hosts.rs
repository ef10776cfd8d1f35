//! The endpoints with which several hosts share one sign-in: the endpoint of the login host that
//! answers ticket requests, and the endpoint of every other host that receives tickets.

use http::Response;

use super::sign_in::{SignInRequest, remember_label};
use super::{
    Body, Error, Record, RequestContext, WorkerSite, login_failure, refuse_embedded, see_other,
};
use crate::access::Cause;
use crate::login::{
    self, FailedLogin, Login, LostSession, Redeemed, Start, StateError, TicketRequest,
};
use crate::provider::Prompt;

impl WorkerSite {
    /// Answers a ticket request at the login host: sends the browser back with a ticket, or begins
    /// a login.
    pub(super) async fn ticket_request(
        &self,
        context: &RequestContext,
    ) -> Result<Response<Body>, Error> {
        let (login, public_url) = (self.login(), &context.public_url);
        if !login.is_login_host(public_url) {
            return Err(Error::NoRoute);
        }
        if let Some(refusal) = refuse_embedded(&context.parts.headers) {
            return Ok(refusal);
        }
        let query = context.target.query().unwrap_or_default();
        let request = match login.read_ticket_request(query, public_url) {
            Ok(request) => request,
            Err(failure) => return Ok(self.login_failed(context, *failure)),
        };
        let now = self.clock().now();
        let session = self.access.live_session_of(context.session_origin(), now);
        let cause = match session.await {
            Ok(session) if request.accepts(&session, now) => {
                let named = self.sessions().reference(&session);
                return Ok(match login.answer(&request, named) {
                    Ok(url) => see_other(&url, []),
                    Err(error) => self.not_answered(context, error, &request),
                });
            }
            // A new login would end the session, which may still be live.
            Err(Cause::Unreachable) => {
                let error = login::Error::SessionUnreachable;
                return Ok(self.not_answered(context, error, &request));
            }
            Ok(_other) => None,
            Err(cause) => Some(cause),
        };
        let Some(provider) = request.only_provider() else {
            return Ok(self.choose_provider(context, &request));
        };
        let headers = &context.parts.headers;
        if request.prompt == Prompt::Silent && !login.may_sign_in_silently(headers, None) {
            return Ok(self.send_back(&request));
        }
        let start = Start::for_ticket(&request, provider, context.login_origin());
        Ok(match login.begin(start).await {
            Ok(started) => see_other(&started.location, started.cookies),
            Err(error) if request.prompt == Prompt::Silent => {
                self.metrics().login("silent", error.reason());
                self.send_back(&request)
            }
            Err(error) => {
                self.metrics().login("failed", error.reason());
                let failed = (provider, &error);
                let retry_url = self.ticket_request_again(&request);
                login_failure::not_started(context, failed, cause, &retry_url, None)
            }
        })
    }

    /// Sends the browser back to the host of a silent ticket request, without a ticket.
    fn send_back(&self, request: &TicketRequest) -> Response<Body> {
        let url = (self.login()).after_silent_sign_in(&request.return_to, request.host());
        see_other(&url, [])
    }

    /// Returns the page on which the user chooses one of the providers of a ticket request.
    fn choose_provider(&self, context: &RequestContext, request: &TicketRequest) -> Response<Body> {
        let login = self.login();
        let known = login.providers();
        let named = known.filter(|name| request.providers.iter().any(|other| **other == **name));
        let links = named.map(|name| {
            let link = login.choose(request, name, &context.public_url);
            link.map(|link| (name, link))
        });
        match links.collect::<Result<Vec<_>, login::Error>>() {
            Ok(links) => {
                let mut page = self.choices(links.into_iter());
                if login.asks_to_remember()
                    && let Ok(href) = login.choose_to_remember(request, &context.public_url)
                {
                    page = page.link(remember_label(request.remember), href);
                }
                page.respond(&context.parts.headers)
            }
            Err(error) => self.not_answered(context, error, request),
        }
    }

    fn not_answered(
        &self,
        context: &RequestContext,
        error: login::Error,
        request: &TicketRequest,
    ) -> Response<Body> {
        self.login_failed(context, FailedLogin::of_ticket_request(error, request))
    }

    /// Returns the URL that sends the browser to the login host with the same request again.
    fn ticket_request_again(&self, request: &TicketRequest) -> String {
        let again = SignInRequest::of_ticket_request(request);
        let host = request.host();
        [host.origin(), &again.address(self.login(), host)].concat()
    }

    /// Answers a request with a ticket: sets the session cookie of this host, and redirects the
    /// browser to the page that the user asked for.
    pub(super) async fn ticket(
        &self,
        context: &RequestContext,
        record: &mut Record,
    ) -> Result<Response<Body>, Error> {
        if !self.login().redeems_tickets(&context.public_url) {
            return Err(Error::NoRoute);
        }
        if let Some(refusal) = refuse_embedded(&context.parts.headers) {
            return Ok(refusal);
        }
        let failure = match self.redeem(context, record).await {
            Ok(redeemed) => {
                self.metrics().login("ok", "ticket");
                return Ok(see_other(&redeemed.location, redeemed.cookies));
            }
            Err(failure) => failure,
        };
        // A signed-in user who reloads the URL of a used ticket needs no new ticket.
        if self.has_session_of(&failure, context).await {
            record.reason("already_signed_in");
            let location = failure.retry_url(&context.public_url);
            let round = Login::count_round(&context.parts.headers);
            let cookies = failure.cookies.into_iter().chain([round]);
            return Ok(see_other(&location, cookies));
        }
        Ok(self.login_failed(context, *failure))
    }

    /// Returns true if the ticket of a failed request is used or old, and if the browser already has
    /// the session of the ticket, or a session of the same provider.
    async fn has_session_of(&self, failure: &FailedLogin, context: &RequestContext) -> bool {
        let is_stale = matches!(
            failure.error,
            login::Error::TicketUsed | login::Error::Ticket(StateError::Expired)
        );
        let (true, Some(named)) = (is_stale, failure.ticket_session) else {
            return false;
        };
        let Some((key, Some(live))) = self.previous_session(context).await else {
            return false;
        };
        let session = self.access.live_session(named, self.clock().now());
        key == *named.key()
            || session
                .await
                .is_ok_and(|session| session.provider() == live.provider())
    }

    async fn redeem(
        &self,
        context: &RequestContext,
        record: &mut Record,
    ) -> Result<Redeemed, Box<FailedLogin>> {
        let query = context.target.query().unwrap_or_default();
        let (public_url, headers) = context.login_origin();
        let ticket = self.login().read_ticket(query, headers, public_url);
        let ticket = ticket.await?;
        let now = self.clock().now();
        let session = match self.access.live_session(ticket.session, now).await {
            Ok(session) => session,
            Err(cause) => {
                let error = lost_session(cause);
                return Err(Box::new(FailedLogin::of_ticket(error, ticket)));
            }
        };
        let previous = self.previous_session(context).await;
        // The user has signed in again in another tab since the login host has created the ticket.
        if let Some((_, Some(live))) = &previous
            && live.provider() == session.provider()
            && live.opened_at() > session.opened_at()
        {
            record.reason("already_signed_in");
            return self.login().set_ticket_aside(ticket).await;
        }
        let previous = previous.map(|(key, _session)| key);
        let mut redeemed = self.login().redeem_ticket(ticket, previous).await?;
        let owner = self.form_owner_cookie(context, (session.key(), session.identity()));
        redeemed.cookies.extend(owner);
        record.user(Some(session.identity()));
        tracing::info!(
            request.id = context.request_id(),
            session.key = session.key().log_prefix(),
            url.origin = public_url.origin(),
            "Ticket redeemed"
        );
        Ok(redeemed)
    }
}

/// Returns the error of a ticket whose session is not live because of `cause`.
fn lost_session(cause: Cause) -> login::Error {
    match cause {
        Cause::Unreachable => login::Error::SessionUnreachable,
        Cause::OtherInstance => login::Error::TicketSession(LostSession::OtherInstance),
        Cause::TokenExpired => login::Error::TicketSession(LostSession::TokenExpired),
        Cause::Conflicting
        | Cause::Expired
        | Cause::GrantEnded
        | Cause::Malformed
        | Cause::NoCookie
        | Cause::OtherProvider
        | Cause::Paused
        | Cause::RefusedByApp
        | Cause::SignInTooOld
        | Cause::Unknown => login::Error::TicketSession(LostSession::Ended),
    }
}
