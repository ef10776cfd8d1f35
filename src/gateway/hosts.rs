//! The endpoints with which several hosts share one sign-in: the endpoint of the login host that
//! answers ticket requests, and the endpoint of every other host that receives tickets.

use http::Response;

use super::{Body, Error, Record, RequestContext, WorkerSite, explain, refuse_embedded, see_other};
use crate::login::{self, FailedLogin, Redeemed, Start};

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
        let session = session.await;
        let answered = match &session {
            Ok(session) if request.accepts(session) => {
                let named = self.sessions().reference(session);
                login.answer(&request, named).map(|url| see_other(&url, []))
            }
            Ok(_) | Err(_) => {
                let started = login.begin(Start::for_ticket(&request, context.login_origin()));
                let started = started.await;
                started.map(|started| see_other(&started.location, started.cookies))
            }
        };
        Ok(answered.unwrap_or_else(|error| {
            self.metrics().login("failed", error.reason());
            let failed = (&*request.provider, &error);
            explain::login_not_started(context, failed, session.err(), &request.page())
        }))
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
        if let Some((_, Some(_live))) = self.previous_session(context).await {
            record.reason = Some("already_signed_in");
            let location = failure.retry_url(&context.public_url);
            return Ok(see_other(&location, failure.cookies));
        }
        Ok(self.login_failed(context, *failure))
    }

    async fn redeem(
        &self,
        context: &RequestContext,
        record: &mut Record,
    ) -> Result<Redeemed, Box<FailedLogin>> {
        let query = context.target.query().unwrap_or_default();
        let (public_url, headers) = context.login_origin();
        let ticket = self.login().read_ticket(query, headers, public_url)?;
        let now = self.clock().now();
        let session = match self.access.live_session(ticket.session, now).await {
            Ok(session) => session,
            Err(_cause) => {
                let failure = FailedLogin::of_ticket(login::Error::TicketSession, ticket);
                return Err(Box::new(failure));
            }
        };
        let previous = self.previous_session(context).await;
        let previous = previous.map(|(key, _session)| key);
        let redeemed = self.login().redeem_ticket(ticket, previous).await?;
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
