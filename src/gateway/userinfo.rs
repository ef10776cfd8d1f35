//! The userinfo endpoint of the gateway, which tells a script of an app who is signed in.

use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::page::{Page, add_security_fields};
use super::{Body, RequestContext, WorkerSite, sign_in};
use crate::access::Cause;
use crate::clock::Timestamp;
use crate::identity::{Claim, ListedClaims};
use crate::session::{Session, Sessions};

/// The answer of the userinfo endpoint. The answer contains no token.
#[derive(Serialize)]
struct Userinfo<'a> {
    provider: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    #[serde(flatten)]
    claims: ListedClaims<'a>,
    /// The subject, under the name that the scripts of oauth2-proxy read.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    /// The claim `preferred_username`, under the name that the scripts of oauth2-proxy read.
    #[serde(rename = "preferredUsername", skip_serializing_if = "Option::is_none")]
    preferred_username: Option<&'a str>,
    /// The number of seconds after which the session ends if no request uses the session.
    idle_ends_in: u64,
    /// The number of seconds after which the session ends at the latest.
    ends_in: u64,
    /// Whether the gateway can refresh the access token.
    renewable: bool,
    login_url: String,
    logout_url: String,
}

/// The times at which a session ends for its user.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Ends {
    /// The session ends at this time if no request uses the session.
    pub(super) idle: Timestamp,
    /// The session ends at this time at the latest.
    pub(super) latest: Timestamp,
}

impl Ends {
    /// Returns the times at which `session` ends. Without a refresh token, the user has to sign in
    /// again when the access token has expired.
    pub(super) fn of(sessions: &Sessions, session: &Session) -> Self {
        let deadlines = sessions.deadlines(session);
        let tokens = session.tokens();
        let of_token = match tokens.refresh_token() {
            Some(_) => Timestamp::MAX,
            None => tokens.expires_at().unwrap_or(Timestamp::MAX),
        };
        Self {
            idle: deadlines.idle.min(of_token),
            latest: deadlines.latest.min(of_token),
        }
    }
}

impl WorkerSite {
    /// Answers a request to the userinfo endpoint. A script may ask often, so the request does not
    /// count as a use of the session.
    pub(super) async fn userinfo(&self, context: &RequestContext) -> Response<Body> {
        let now = self.clock().now();
        let found = self
            .access
            .observed_session_of(context.session_origin(), now);
        match found.await {
            Ok(session) => self.describe(context, &session, now),
            Err(cause) => self.nobody(context, cause),
        }
    }

    fn describe(
        &self,
        context: &RequestContext,
        session: &Session,
        now: Timestamp,
    ) -> Response<Body> {
        let identity = session.identity();
        let ends = Ends::of(self.sessions(), session);
        let origin = context.public_url.origin();
        let subject = identity.subject.as_ref().map(Claim::as_str);
        let claims = ListedClaims::of(identity, self.login().userinfo_claims());
        let answer = Userinfo {
            provider: session.provider(),
            sub: subject,
            user: subject,
            preferred_username: claims.preferred_username,
            claims,
            idle_ends_in: ends.idle.since(now).as_secs(),
            ends_in: ends.latest.since(now).as_secs(),
            renewable: session.tokens().refresh_token().is_some(),
            login_url: [origin, self.own().sign_in()].concat(),
            logout_url: [origin, self.own().sign_out()].concat(),
        };
        // Serialization does not fail, because all fields are texts, numbers and truth values.
        let body = serde_json::to_string(&answer).unwrap_or_default();
        let mut response = Response::new(Body::own(body));
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        add_security_fields(headers);
        response
    }

    /// Answers a request of a script without a session.
    pub(super) fn nobody(&self, context: &RequestContext, cause: Cause) -> Response<Body> {
        let origin = context.public_url.origin();
        let headers = &context.parts.headers;
        if cause == Cause::Unreachable {
            let title = "Your session cannot be read right now";
            let text = "You may still be signed in. Try again in a moment.";
            return Page::new(StatusCode::SERVICE_UNAVAILABLE, title, text)
                .with_reason(cause.reason())
                .respond_as_data(headers);
        }
        let text = "You are not signed in, or your session has ended.";
        let mut page =
            Page::new(StatusCode::UNAUTHORIZED, "Sign in first", text).with_reason(cause.reason());
        page.login_url = Some([origin, self.own().sign_in()].concat());
        let mut response = page.respond_as_data(headers);
        sign_in::request_session(response.headers_mut());
        response
    }
}
