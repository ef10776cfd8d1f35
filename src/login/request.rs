//! The requests of a browser to the login flow.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;

use super::{PublicUrl, ReturnTo};
use crate::provider::{Prompt, ResponseMode};
use crate::session::{Session, SessionId};

/// A request to begin a login.
#[derive(Debug)]
pub struct Start<'a> {
    /// The configured name of the provider.
    pub provider: &'a str,
    /// Whether the provider must ask the user to sign in again.
    pub prompt: Prompt,
    /// The `login_hint` for the provider. It is not trusted.
    pub login_hint: Option<&'a str>,
    /// The page to return to after the login.
    pub return_to: ReturnTo,
    /// The origin of the request.
    pub public_url: &'a PublicUrl,
    /// The fields of the request, for its cookies.
    pub headers: &'a HeaderMap,
}

/// A request to the redirection endpoint of a provider.
#[derive(Debug)]
pub struct Callback<'a> {
    /// The query without `?`, or the body of the form post.
    pub parameters: &'a [u8],
    /// The mode in which the parameters came.
    pub mode: ResponseMode,
    /// The fields of the request, for its cookies.
    pub headers: &'a HeaderMap,
    /// The origin of the request.
    pub public_url: &'a PublicUrl,
    /// The provider of this endpoint.
    pub provider: &'a str,
    /// The address of the client. Forwarding fields are used only from trusted proxies.
    pub client: IpAddr,
    /// The session that the browser had before this login.
    pub previous_session: PreviousSession,
}

/// The session that a browser had before a login.
#[derive(Debug)]
pub enum PreviousSession {
    /// A live session.
    Live(SessionId, Arc<Session>),
    /// The browser sent no session cookie.
    Nothing,
    /// A session that has ended, or that is not valid on this site.
    Stale(SessionId),
}
