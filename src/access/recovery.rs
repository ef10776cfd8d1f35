//! Handles an app's refusal of an access token.
//!
//! The token may have been revoked, or may have expired during the request. A refresh during the
//! request may also have made the token invalid. A request is sent again only once, only after the
//! app has refused the request, and only with a different token.

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use super::backoff::SessionFailure;
use super::outcome::Outcome;
use super::route_settings::OnRefusal;
use super::{Access, Cause, Challenge, Decision, Permit, Route, Unavailable};
use crate::clock::Timestamp;
use crate::session::{EndReason, EndedVersion, Session, SessionState};
use crate::telemetry::chain;

/// A request that was sent to an app with a user's token. In its answer, the app can refuse the
/// token.
#[derive(Debug)]
pub(crate) struct SentRequest {
    pub(super) route: Rc<Route>,
    pub(super) session: Arc<Session>,
}

/// An answer that refuses the token of its request.
#[derive(Debug)]
#[must_use]
pub(crate) struct TokenRefusal {
    access: Rc<Access>,
    sent: SentRequest,
}

/// Whether the gateway has the complete body of a request before the gateway sends the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Content {
    /// The gateway has the complete body, in this number of pieces. A request without a body has no
    /// pieces.
    Complete(usize),
    /// A part of the body has not arrived, or is in a file.
    Incomplete,
}

/// States whether a request can be sent again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Replayable {
    /// The gateway has the complete request, and can send the request again.
    Yes,
    /// The gateway has no copy of the body, because the gateway did not keep the body or the body
    /// was too large.
    No,
}

/// States what the gateway does after an app has refused a token.
#[derive(Debug)]
#[must_use]
pub(crate) enum Recovery {
    /// The app's answer is forwarded.
    Pass,
    /// The request is sent again with this permit.
    Retry(Permit),
    /// The user signs in again.
    SignIn(Challenge),
    /// The token has expired, and no newer token can be obtained now. The client tries again later.
    Unavailable(Unavailable),
}

impl Access {
    /// Whether the gateway must keep a request until the app answers. If the app refuses the token,
    /// the gateway sends the kept request again or lets the user sign in again.
    ///
    /// On a route that forwards refusals to the browser, the gateway sends a request again only if
    /// the session was refreshed or the token has expired during the request. If a route of the site
    /// uses `refresh_and_retry`, a refresh can start at any time. If no route uses
    /// `refresh_and_retry`, a refresh starts only when the refresh is due. A client can send an
    /// incomplete body slowly, so a refresh can become due during the request. The deadline for the
    /// answer begins again when the app accepts a piece of the body.
    pub(crate) fn must_keep(&self, sent: &SentRequest, content: Content, now: Timestamp) -> bool {
        if sent.route.on_refusal != OnRefusal::Pass || self.refreshes_on_refusal {
            return true;
        }
        let Content::Complete(pieces) = content else {
            return true;
        };
        let wait = sent.route.upstream().map(|app| app.longest_wait());
        let waits = u32::try_from(pieces).unwrap_or(u32::MAX).saturating_add(1);
        let answered = now.plus(wait.unwrap_or_default().saturating_mul(waits));
        sent.session.is_due(answered)
    }

    /// Returns a [`TokenRefusal`] if the app's answer refuses the token of the request.
    pub(crate) fn token_refusal(
        self: &Rc<Self>,
        sent: SentRequest,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Option<TokenRefusal> {
        // A successful answer refuses no token, so the provider's patterns for refusals are not
        // checked.
        if status.is_success() || status.is_informational() {
            return None;
        }
        let provider = self.provider(&sent.session)?;
        let refused = provider.is_signed_out_answer(status, headers);
        refused.then(|| TokenRefusal {
            access: Rc::clone(self),
            sent,
        })
    }
}

impl TokenRefusal {
    /// Decides what the gateway does after an app has refused an access token. Waits for a refresh
    /// if a new token can make the request succeed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, a refresh that has started continues.
    pub(crate) async fn recover(self, replayable: Replayable) -> Recovery {
        let Self { access, sent } = self;
        let recovery = access.recover(&sent, replayable).await;
        let outcome = match &recovery {
            Recovery::Pass => "passed",
            Recovery::Retry(_) => "retried",
            Recovery::SignIn(_) => "relogin",
            Recovery::Unavailable(_) => "unavailable",
        };
        let metrics = access.refresher.metrics();
        metrics.refused_token(sent.route.name(), outcome);
        tracing::debug!(
            route = sent.route.name(),
            session.key = sent.session.key().log_prefix(),
            outcome,
            "The app refuses the token"
        );
        recovery
    }
}

impl Access {
    async fn recover(self: &Rc<Self>, sent: &SentRequest, replayable: Replayable) -> Recovery {
        let (route, session) = (&sent.route, &sent.session);
        let now = self.refresher.clock().now();
        // The token may have become invalid during the request, by a refresh or because it has
        // expired. An app that refuses an invalid token has not decided whether the user may have
        // access.
        let replaced = session.state() == SessionState::Superseded;
        if replaced
            || self.refresher.under_way(session.key()).is_some()
            || session.tokens().can_replace_expired(now)
        {
            return self.retry_with_newer_token(sent, replayable).await;
        }
        // The app refuses even a new token, so another refresh would not help.
        let is_new = !session
            .tokens()
            .lifetime()
            .wait_before_refresh(now)
            .is_zero();
        match route.on_refusal {
            OnRefusal::Pass => Recovery::Pass,
            OnRefusal::RefreshAndRetry | OnRefusal::Relogin if is_new => Recovery::Pass,
            // A public route never requires a sign-in.
            OnRefusal::Relogin if route.is_public() => Recovery::Pass,
            OnRefusal::RefreshAndRetry if session.tokens().refresh_token().is_none() => {
                Recovery::Pass
            }
            OnRefusal::RefreshAndRetry => self.retry_with_newer_token(sent, replayable).await,
            OnRefusal::Relogin => self.sign_in_again(sent).await,
        }
    }

    /// Waits for a newer token of the session, and sends the request again with the newer token. If
    /// the request cannot be sent again, the app's answer is forwarded without a wait.
    async fn retry_with_newer_token(
        self: &Rc<Self>,
        sent: &SentRequest,
        replayable: Replayable,
    ) -> Recovery {
        let (route, session) = (&sent.route, &sent.session);
        let now = self.refresher.clock().now();
        // The refresh starts even if this request cannot be sent again, so that later requests have
        // a newer token.
        let joined = self.refresher.join(session, now, self.max_wait);
        let waiter = match (joined, replayable) {
            (Ok(waiter), Replayable::Yes) => waiter,
            (Err(failure), Replayable::Yes) => return self.not_refreshed(sent, failure),
            (_, Replayable::No) => return Recovery::Pass,
        };
        // A request is sent again only once, so its token must not expire on its way.
        let is_due = |session: &Session, now| session.is_due(now);
        match self.wait_for_refresh(waiter, self.deadline(), is_due).await {
            Outcome::Renewed(newest)
                if newest.version() != session.version()
                    && !(route.fields()).is_same_token(session.tokens(), newest.tokens()) =>
            {
                match self.apply_rule(route, newest) {
                    Decision::Permit(permit) => Recovery::Retry(permit),
                    Decision::Answer(_)
                    | Decision::Challenge(_)
                    | Decision::Forbid(_)
                    | Decision::NoRoute
                    | Decision::SignInFirst(_)
                    | Decision::Unavailable(_)
                    | Decision::Wait(_) => Recovery::Pass,
                }
            }
            Outcome::Ended if route.on_refusal != OnRefusal::Pass => {
                challenge(sent, Cause::GrantEnded)
            }
            Outcome::Renewed(_) | Outcome::Ended => Recovery::Pass,
            Outcome::Failed(failure) => self.not_refreshed(sent, failure),
        }
    }

    /// Decides what the gateway does after a refresh has failed for a temporary reason. If the token
    /// has expired, the app's answer says nothing about the user.
    fn not_refreshed(self: &Rc<Self>, sent: &SentRequest, failure: SessionFailure) -> Recovery {
        let now = self.refresher.clock().now();
        if !sent.session.tokens().can_replace_expired(now) {
            return Recovery::Pass;
        }
        match self.unavailable(&sent.route, failure) {
            Decision::Unavailable(unavailable) => Recovery::Unavailable(unavailable),
            // On a public route, the client gets the app's answer.
            Decision::Permit(_)
            | Decision::Answer(_)
            | Decision::Challenge(_)
            | Decision::Forbid(_)
            | Decision::NoRoute
            | Decision::SignInFirst(_)
            | Decision::Wait(_) => Recovery::Pass,
        }
    }

    /// Ends the session, so that the user must sign in again.
    async fn sign_in_again(&self, sent: &SentRequest) -> Recovery {
        let sessions = Arc::clone(&self.sessions);
        let session = Arc::clone(&sent.session);
        let ended = self.refresher.on_control_plane(async move {
            let why = EndReason::RefusedByApp;
            sessions.end_version(&session, why).await
        });
        match ended.await {
            Some(Ok(EndedVersion::Ended)) => challenge(sent, Cause::RefusedByApp),
            Some(Err(error)) => {
                let reason = error.reason();
                tracing::error!(
                    reason,
                    error = chain(&error),
                    "A session could not be ended"
                );
                Recovery::Pass
            }
            // The session has a newer version, and the app has not refused the token of this
            // version, so the session continues.
            Some(Ok(EndedVersion::Newer(_))) | None => Recovery::Pass,
        }
    }
}

fn challenge(sent: &SentRequest, cause: Cause) -> Recovery {
    if sent.route.is_public() {
        return Recovery::Pass;
    }
    Recovery::SignIn(Challenge {
        route: Rc::clone(&sent.route),
        cause,
        other: None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::access::refresh::tests::{Fixture, NOW};
    use crate::access::{RouteSettings, RouteTable};
    use crate::token::Lifetime;
    use crate::upstream::Upstream;

    fn access(fixture: &Fixture, settings: &[&str]) -> Rc<Access> {
        let app = serde_json::from_str(r#"{"url": "http://127.0.0.1:1"}"#).unwrap();
        let app = Arc::new(Upstream::new("app", &app).unwrap());
        let routes = settings.iter().enumerate().map(|(place, on_refusal)| {
            let route = serde_json::json!({
                "prefix": format!("/{place}"),
                "on_upstream_401": on_refusal,
            });
            let route: RouteSettings = serde_json::from_value(route).unwrap();
            (place, route)
        });
        let apps = [("app".into(), app)].into();
        let routes = RouteTable::new(routes.collect(), &apps, &["main"]).unwrap();
        fixture.access(&routes)
    }

    #[tokio::test]
    async fn a_request_is_kept_only_if_a_refresh_may_happen_before_its_answer() {
        let fixture = Fixture::new(tokio::runtime::Handle::current());
        let after = |seconds| NOW.plus(Duration::from_secs(seconds));
        let life = Lifetime {
            refresh_at: Some(after(3000)),
            expires_at: Some(after(3600)),
            ..Lifetime::default()
        };
        let session = fixture.open(life).await;
        let kept = |access: &Access, content, now| {
            let sent = SentRequest {
                route: Rc::new(access.routes().next().unwrap().clone()),
                session: Arc::clone(&session),
            };
            access.must_keep(&sent, content, now)
        };
        let passing = access(&fixture, &["pass", "relogin"]);
        let longest = passing
            .routes()
            .next()
            .unwrap()
            .upstream()
            .unwrap()
            .longest_wait();
        let last = 3000 - longest.as_secs();
        let without_body = Content::Complete(0);
        assert!(!kept(&passing, without_body, after(last - 1)));
        assert!(kept(&passing, without_body, after(last)));
        let with_a_piece = last - longest.as_secs();
        assert!(!kept(
            &passing,
            Content::Complete(1),
            after(with_a_piece - 1)
        ));
        assert!(kept(&passing, Content::Complete(1), after(with_a_piece)));
        assert!(kept(&passing, Content::Complete(usize::MAX), NOW));
        assert!(kept(&passing, Content::Incomplete, NOW));
        // `claim_refresh` delays the next refresh by a few seconds only. After this delay, a
        // refresh can still start before the app has answered the request.
        assert!(session.claim_refresh(after(3000), after(3005)));
        assert!(kept(&passing, without_body, after(3001)));
        for others in [&["pass", "refresh_and_retry"], &["relogin", "pass"]] {
            assert!(
                kept(&access(&fixture, others), without_body, NOW),
                "{others:?}"
            );
        }
    }
}
