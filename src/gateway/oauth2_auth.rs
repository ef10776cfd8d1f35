//! The auth check in the form of oauth2-proxy, at the own endpoint `auth`.
//!
//! A proxy that is configured for oauth2-proxy asks whether the user of a request is signed in, but
//! does not report the path and the method of the request. So the gateway decides as for the start
//! page of the host, and only a request with a session is permitted, even if the start page is
//! public.
//!
//! Such a proxy usually forwards all paths of the gateway's own endpoints, so a client can also open
//! this endpoint. Therefore the answer contains the identity of the user, which the user knows, and
//! never a token or a password.

use std::net::IpAddr;

use http::header::CACHE_CONTROL;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use url::form_urlencoded;

use super::page::add_security_fields;
use super::{Body, Error, Record, RequestContext, WorkerSite, explain};
use crate::access::{Decision, Recent, email_domain};
use crate::identity::{Claim, Identity};
use crate::target::Target;
use crate::telemetry::DecisionLabel;

const USER: HeaderName = HeaderName::from_static("x-auth-request-user");
const EMAIL: HeaderName = HeaderName::from_static("x-auth-request-email");
const PREFERRED_USERNAME: HeaderName = HeaderName::from_static("x-auth-request-preferred-username");
const GROUPS: HeaderName = HeaderName::from_static("x-auth-request-groups");
/// The field with the email address, or with the subject of a user without a verified address.
const GAP_AUTH: HeaderName = HeaderName::from_static("gap-auth");

impl WorkerSite {
    /// Answers an auth check of a listed proxy. The answer to all other clients is 404.
    pub(super) async fn oauth2_auth(
        &self,
        context: &RequestContext,
        peer: IpAddr,
        record: &mut Record,
    ) -> Result<Response<Body>, Error> {
        if !self.settings().oauth2_proxies.contains(peer) {
            return Err(Error::NoRoute);
        }
        let target = start_page(context)?;
        let now = self.clock().now();
        let head = (&Method::GET, &context.parts.headers);
        let mut decision = self.access.decide(head, &target, &Recent::default(), now);
        if let Decision::Wait(wait) = decision {
            decision = self.wait(wait, record).await;
        }
        let status = match decision {
            Decision::Permit(permit) => {
                record.route(permit.route(), permit.label());
                match permit.identity() {
                    Some(identity) => {
                        record.user(Some(identity));
                        let query = context.target.query().unwrap_or_default();
                        if is_named(identity, query) {
                            return Ok(permitted(identity, &permit.formed_groups()));
                        }
                        StatusCode::FORBIDDEN
                    }
                    None => StatusCode::UNAUTHORIZED,
                }
            }
            Decision::Challenge(challenge) => {
                record.route(&challenge.route, DecisionLabel::Challenge);
                record.reason(challenge.cause.reason());
                StatusCode::UNAUTHORIZED
            }
            Decision::Forbid(forbid) => {
                record.route(&forbid.route, DecisionLabel::Forbid);
                record.user(Some(forbid.session.identity()));
                StatusCode::FORBIDDEN
            }
            Decision::Unavailable(unavailable) => {
                record.route(&unavailable.route, DecisionLabel::Unavailable);
                return Ok(explain::unavailable((context, self.own()), &unavailable));
            }
            Decision::SignInFirst(_) => StatusCode::UNAUTHORIZED,
            Decision::Answer(_) | Decision::NoRoute | Decision::Wait(_) => StatusCode::FORBIDDEN,
        };
        Ok(answer(status))
    }
}

/// Returns the target of the start page at the host of the request.
fn start_page(context: &RequestContext) -> Result<Target, Error> {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    let host = context.target.authority_value().clone();
    parts.headers.insert(http::header::HOST, host);
    Ok(Target::from_request(&parts)?)
}

/// Returns an answer without content. No cache may keep the answer.
fn answer(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    add_security_fields(headers);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Returns the answer to a permitted request, with the identity of the user. `groups` are the values of
/// the field with the groups.
fn permitted(identity: &Identity, groups: &[HeaderValue]) -> Response<Body> {
    let mut response = answer(StatusCode::ACCEPTED);
    let headers = response.headers_mut();
    let (subject, email) = (identity.subject.as_ref(), identity.verified_email());
    for (name, claim) in [
        (GAP_AUTH, email.or(subject)),
        (USER, subject),
        (EMAIL, email),
        (PREFERRED_USERNAME, identity.preferred_username.as_ref()),
    ] {
        if let Some(claim) = claim {
            headers.insert(name, claim.as_value().clone());
        }
    }
    for groups in groups {
        headers.append(GROUPS, groups.clone());
    }
    response
}

/// Compares the user with the lists in the query: `allowed_groups`, `allowed_emails` and
/// `allowed_email_domains`. The user must be on every list that the query contains.
fn is_named(identity: &Identity, query: &str) -> bool {
    // An address that cannot be compared safely is on no list.
    let email = identity.verified_email().map(Claim::as_str);
    let email = email.filter(|email| email_domain(email).is_some());
    let email = email.map(str::to_ascii_lowercase).unwrap_or_default();
    let is_group = |entry: &str| identity.groups.iter().any(|group| group.as_str() == entry);
    let is_email = |entry: &str| entry.eq_ignore_ascii_case(&email);
    let is_domain = |entry: &str| {
        let domain = email_domain(&email).unwrap_or_default();
        let entry = entry.to_ascii_lowercase();
        let parent = entry.strip_prefix('*').unwrap_or(&entry);
        if parent.starts_with('.') {
            domain
                .strip_suffix(parent)
                .is_some_and(|rest| !rest.is_empty())
        } else {
            !domain.is_empty() && domain == entry
        }
    };
    let is_on = |list: &str, matches: &dyn Fn(&str) -> bool| {
        let parameters = form_urlencoded::parse(query.as_bytes());
        let values: Vec<_> = parameters.filter(|(name, _)| name == list).collect();
        let entries = values.iter().flat_map(|(_, value)| value.split(','));
        let mut entries = entries.filter(|entry| !entry.is_empty()).peekable();
        entries.peek().is_none() || entries.any(matches)
    };
    is_on("allowed_groups", &is_group)
        && is_on("allowed_emails", &is_email)
        && is_on("allowed_email_domains", &is_domain)
}
