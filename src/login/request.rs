//! What a browser asks of the flow.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;

use super::{PublicUrl, ReturnTo};
use crate::provider::{Prompt, ResponseMode};
use crate::session::{Session, SessionId};

/// A wish to sign in.
#[derive(Debug)]
pub struct Start<'a> {
    /// The configured name of the provider.
    pub provider: &'a str,
    /// Whether the person has to sign in anew.
    pub prompt: Prompt,
    /// Who wants to sign in, as somebody told us.
    pub login_hint: Option<&'a str>,
    /// Where to come back to.
    pub return_to: ReturnTo,
    /// The origin that was asked.
    pub public_url: &'a PublicUrl,
    /// The request's fields, for its cookies.
    pub headers: &'a HeaderMap,
}

/// What came to the redirection endpoint of a provider.
#[derive(Debug)]
pub struct Callback<'a> {
    /// The query, without `?`, or the form that was posted.
    pub parameters: &'a [u8],
    /// Which of the two it is.
    pub mode: ResponseMode,
    /// The request's fields, for its cookies.
    pub headers: &'a HeaderMap,
    /// The origin that was asked.
    pub public_url: &'a PublicUrl,
    /// The provider whose endpoint was asked.
    pub provider: &'a str,
    /// Where the request comes from, after the trust rule.
    pub client: IpAddr,
    /// The session that the browser has.
    pub previous_session: PreviousSession,
}

/// The session that a browser brings to a login.
#[derive(Debug)]
pub enum PreviousSession {
    /// A live one.
    Live(SessionId, Arc<Session>),
    /// None.
    Nothing,
    /// One that is good for nothing any more, or for nothing here.
    Stale(SessionId),
}
