//! The page with a user's own sessions.

use std::cmp::Reverse;
use std::sync::Arc;

use http::{Response, StatusCode};

use super::page::{Action, Item, Page};
use super::sign_out::log_failure;
use super::{Body, RequestContext, WorkerSite, see_other};
use crate::clock::{Timestamp, in_words};
use crate::login::{Error, SameOrigin, parameter, same_origin};
use crate::session::{Session, SessionKey, SessionsOf};

/// The value of the parameter `end` that selects all sessions except the session of the browser.
const OTHERS: &str = "others";

impl WorkerSite {
    /// Shows the sessions of the user of the browser.
    pub(super) async fn own_sessions(&self, context: &RequestContext) -> Response<Body> {
        let now = self.clock().now();
        let origin = context.session_origin();
        let headers = &context.parts.headers;
        let own = match self.access.live_session_of(origin, now).await {
            Ok(own) => own,
            Err(cause) => {
                let text = "You are not signed in, or your session has ended.";
                return Page::new(StatusCode::UNAUTHORIZED, "Sign in first", text)
                    .with_reason(cause.reason())
                    .link("Sign in", self.own().sign_in())
                    .respond(headers);
            }
        };
        match self.sessions_of_user(&own, now).await {
            Ok(others) => self.page_of(&own, &others, now).respond(headers),
            Err(error) => self.not_listed(context, &error),
        }
    }

    /// Ends the sessions that the query names, and shows the other sessions. A session of another
    /// user is never among these sessions.
    pub(super) async fn end_own_sessions(&self, context: &RequestContext) -> Response<Body> {
        let headers = &context.parts.headers;
        if same_origin(headers, &context.public_url) == SameOrigin::No {
            let text = "Another site tried to end your sessions, so the request was ignored.";
            return Page::new(StatusCode::FORBIDDEN, "Your sessions continue", text)
                .with_reason("cross_origin")
                .link("Your sessions", self.own().sessions())
                .respond(headers);
        }
        let now = self.clock().now();
        let origin = context.session_origin();
        let page = [context.public_url.origin(), self.own().sessions()].concat();
        // Without a session, the page says that the user must sign in.
        let Ok(own) = self.access.live_session_of(origin, now).await else {
            return see_other(&page, []);
        };
        let named = parameter(context.target.query().unwrap_or_default(), "end");
        let ended = match self.sessions_of_user(&own, now).await {
            Ok(others) => {
                let keys = others.iter().map(|session| *session.key());
                let keys = keys.filter(|key| named == OTHERS || named == name_of(key));
                self.login().end_own_sessions(keys.collect()).await
            }
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => see_other(&page, []),
            Err(error) => self.not_listed(context, &error),
        }
    }

    /// Returns the other live sessions of the user of `own`. The session that was used last is the
    /// first session of the list.
    async fn sessions_of_user(
        &self,
        own: &Session,
        now: Timestamp,
    ) -> Result<Vec<Arc<Session>>, Error> {
        let identity = own.identity();
        // Users without a subject cannot be distinguished.
        let Some(subject) = &identity.subject else {
            return Ok(Vec::new());
        };
        let user = SessionsOf::User {
            issuer: &identity.issuer,
            subject: subject.as_str(),
        };
        let mut sessions = self.sessions().list(user).await?;
        sessions.retain(|session| {
            session.key() != own.key() && self.sessions().deadlines(session).idle > now
        });
        sessions.sort_by_key(|session| Reverse(session.last_used()));
        Ok(sessions)
    }

    fn page_of(&self, own: &Session, others: &[Arc<Session>], now: Timestamp) -> Page {
        let who = own.identity().label().unwrap_or("your account");
        let provider = self.login().display_name(own.provider());
        let text = if own.identity().subject.is_none() {
            format!(
                "You are signed in as {who}. This site cannot find your sessions in other browsers, \
                 because {provider} does not tell this site who you are."
            )
        } else if others.is_empty() {
            format!("This site knows no other session of {who} at {provider}.")
        } else {
            format!(
                "You are signed in as {who} in these browsers. If you do not know one of them, end \
                 its session and change your password at {provider}."
            )
        };
        let mut page = Page::new(StatusCode::OK, "Your sessions", text);
        if !others.is_empty() {
            page = page.paragraph(format!(
                "A browser can sign in again without a password as long as the browser is signed in \
                 at {provider}. To prevent this, also end its session at {provider}."
            ));
        }
        if self.login().providers().nth(1).is_some() {
            page = page.paragraph(format!(
                "This list contains only sessions that began with a sign-in at {provider}."
            ));
        }
        page.items.push(Item {
            mark: Some("This browser"),
            action: Some(Action::Post {
                action: self.own().sign_out().to_owned(),
                label: "Sign out",
            }),
            ..self.item(own, now)
        });
        page.items
            .extend(others.iter().map(|session| self.item(session, now)));
        if !others.is_empty() {
            page = page.post(
                "End all other sessions",
                format!("{}?end={OTHERS}", self.own().sessions()),
            );
        }
        page.link("Go to the start page", "/")
    }

    fn item(&self, session: &Session, now: Timestamp) -> Item {
        let device = session.device();
        let used = format!("Last used {}", ago(now, session.last_used()));
        let signed_in = format!("Signed in {}", ago(now, session.opened_at()));
        let from = device.map(|device| format!("{signed_in} from {}", device.network()));
        Item {
            title: device
                .map_or("Unknown device", |device| device.name())
                .to_owned(),
            mark: None,
            details: vec![used, from.unwrap_or(signed_in)],
            action: Some(Action::Post {
                action: format!("{}?end={}", self.own().sessions(), name_of(session.key())),
                label: "End session",
            }),
        }
    }

    fn not_listed(&self, context: &RequestContext, error: &Error) -> Response<Body> {
        let headers = &context.parts.headers;
        log_failure(headers, error);
        Page::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Your sessions cannot be changed right now",
            "This site cannot read or write its stored sessions. Try again in a moment.",
        )
        .with_reason(error.reason())
        .link("Try again", self.own().sessions())
        .respond(headers)
    }
}

/// Describes how long before `now` the time `at` was.
pub(super) fn ago(now: Timestamp, at: Timestamp) -> String {
    match now.since(at) {
        recent if recent.as_secs() < 60 => "just now".to_owned(),
        earlier => format!("{} ago", in_words(earlier)),
    }
}

/// Returns the name of a session in the links of the page. The name does not help to guess the
/// session id, and selects only among the sessions of the same user.
fn name_of(key: &SessionKey) -> String {
    key.log_prefix()
}
