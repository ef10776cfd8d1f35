//! The answer to a request that needs a sign-in.

use http::Response;

use super::auth_check::AuthCheck;
use super::sign_in::{self, SignInRequest};
use super::{Body, RequestContext, WorkerSite, explain, see_other};
use crate::access::Challenge;
use crate::login::{self, ReturnTo, Start};

impl WorkerSite {
    /// Performs step 6 of the list in the crate documentation, for a request without a session. A
    /// navigation is redirected to the provider, or gets a page on which the user chooses one of
    /// several providers. A request that is not a navigation gets the login URL.
    pub(super) async fn challenge(
        &self,
        context: &RequestContext,
        challenge: &Challenge,
    ) -> Response<Body> {
        // A proxy that only reads the status asks a second time for the whole answer, so the first
        // answer starts no login.
        let wants_only_status = context.auth_check.is_some_and(AuthCheck::wants_only_status);
        if !wants_only_status && context.is_in_frame() {
            return self.sign_in_on_top(context, challenge);
        }
        if wants_only_status || !context.is_navigation() {
            return explain::sign_in_first(
                (context, self.own()),
                challenge,
                self.login_url(context, challenge),
            );
        }
        let requested = context.target.path_and_query().as_str();
        let Ok(return_to) = ReturnTo::requested(requested, self.own()) else {
            let provider = sign_in::only_provider(&challenge.route);
            return self.page_not_kept(context, &SignInRequest::at_provider(provider));
        };
        let tab_page = self.tab_page(context, challenge, &return_to);
        let return_to = tab_page
            .as_ref()
            .map_or(return_to, |page| page.return_to.clone());
        let providers: Vec<&str> = challenge.route.providers().collect();
        // The login host may have a session of one of the providers.
        let asks_login_host =
            self.login().redeems_tickets(&context.public_url) && challenge.other.is_none();
        let (provider, alternatives) = match &*providers {
            [only] => (only, &[][..]),
            [first, others @ ..] if asks_login_host => (first, others),
            _ => return self.choice(context, challenge, (return_to, tab_page)),
        };
        let start = Start {
            alternatives,
            prompt: self.prompt(context, challenge),
            ..Start::new(provider, return_to, context.login_origin())
        };
        match self.login().begin(start).await {
            Ok(started) => match tab_page {
                Some(tab_page) => self.sign_in_from_tab(context, challenge, tab_page, started),
                None => see_other(&started.location, started.cookies),
            },
            Err(login::Error::PageNotKept) => {
                let provider = sign_in::only_provider(&challenge.route);
                self.page_not_kept(context, &SignInRequest::at_provider(provider))
            }
            Err(error) => {
                self.metrics().login("failed", error.reason());
                explain::login_not_started(
                    context,
                    (provider, &error),
                    Some(challenge.cause),
                    requested,
                )
            }
        }
    }
}
