//! The answer to a request that needs a sign-in.

use http::Response;

use super::auth_check::AuthCheck;
use super::sign_in::{self, SignInRequest};
use super::tab_page::InTab;
use super::{Body, RequestContext, WorkerSite, explain, login_failure, see_other};
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
        let in_tab = self.tab_page(context, challenge, &return_to);
        self.begin_login(context, challenge, (return_to, in_tab))
            .await
    }

    /// Answers a request of a browser by the start of a login. The browser keeps `in_tab` during the
    /// login. Otherwise, the login ends at `return_to`.
    pub(super) async fn begin_login(
        &self,
        context: &RequestContext,
        challenge: &Challenge,
        (return_to, in_tab): (ReturnTo, Option<InTab>),
    ) -> Response<Body> {
        let return_to = (in_tab.as_ref()).map_or(return_to, |in_tab| in_tab.return_to().clone());
        let providers: Vec<&str> = challenge.route.providers().collect();
        // The login host may have a session of one of the providers.
        let asks_login_host =
            self.login().redeems_tickets(&context.public_url) && challenge.other.is_none();
        let (provider, alternatives) = match &*providers {
            [only] => (*only, &[][..]),
            [first, others @ ..] if asks_login_host => (*first, others),
            _ => return self.choice(context, challenge, (return_to, in_tab)),
        };
        let start = Start {
            alternatives,
            prompt: self.prompt(context, challenge),
            ..Start::new(provider, return_to, context.login_origin())
        };
        match self.login().begin(start).await {
            Ok(started) => match in_tab {
                Some(in_tab) => self.sign_in_from_tab(context, challenge, in_tab, started),
                None => see_other(&started.location, started.cookies),
            },
            Err(login::Error::PageNotKept) => {
                let provider = sign_in::only_provider(&challenge.route);
                self.page_not_kept(context, &SignInRequest::at_provider(provider))
            }
            Err(error) => {
                self.metrics().login("failed", error.reason());
                // A visit to the requested address would not restore what the browser has kept.
                let retry_url = match &in_tab {
                    Some(in_tab) => SignInRequest::to_return(in_tab.return_to().clone()).at(
                        Some(provider),
                        self.login(),
                        &context.public_url,
                    ),
                    None => context.target.path_and_query().as_str().to_owned(),
                };
                let (failed, cause) = ((provider, &error), Some(challenge.cause));
                login_failure::not_started(context, failed, cause, &retry_url, in_tab)
            }
        }
    }
}
