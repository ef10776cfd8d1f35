//! The inputs of the login flow: a request to begin a login, and a request to the callback.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, header};

use super::ticket::{TicketRequest, WaitingTab};
use super::{Login, PublicUrl, ReturnTo};
use crate::provider::{Prompt, ResponseMode};
use crate::session::{Device, Session, SessionKey};

/// A request to begin a login.
#[derive(Debug)]
pub struct Start<'a> {
    /// The configured name of the provider.
    pub provider: &'a str,
    /// States whether the provider must ask the user to sign in again.
    pub prompt: Prompt,
    /// Whether the user wants the browser to keep the session cookie.
    pub remember: bool,
    /// Parameters for the provider, from a link that the gateway does not trust.
    pub passed: &'a [(String, String)],
    /// The page to which the browser returns after the login.
    pub return_to: ReturnTo,
    /// The origin of the gateway to which the browser sent the request.
    pub public_url: &'a PublicUrl,
    /// The fields of the request, from which the login flow reads the cookies.
    pub headers: &'a HeaderMap,
    /// Other providers that the page accepts. Only a ticket request contains alternatives, because
    /// the login host may have a session of one of them.
    pub(crate) alternatives: &'a [&'a str],
    /// The tab at another host that waits for a ticket.
    pub(crate) waiting: Option<WaitingTab>,
}

impl<'a> Start<'a> {
    /// Creates a request to begin a login for a page of `public_url`.
    pub fn new(
        provider: &'a str,
        return_to: ReturnTo,
        (public_url, headers): (&'a PublicUrl, &'a HeaderMap),
    ) -> Self {
        Self {
            provider,
            prompt: Prompt::AsNeeded,
            remember: false,
            passed: &[],
            return_to,
            public_url,
            headers,
            alternatives: &[],
            waiting: None,
        }
    }

    /// Creates a request to begin the login for which another host has sent `request`.
    pub(crate) fn for_ticket(
        request: &'a TicketRequest,
        provider: &'a str,
        (public_url, headers): (&'a PublicUrl, &'a HeaderMap),
    ) -> Self {
        Self {
            prompt: request.prompt,
            remember: request.remember,
            passed: &request.passed,
            waiting: Some(request.waiting.clone()),
            ..Self::new(provider, request.return_to.clone(), (public_url, headers))
        }
    }
}

impl Login {
    /// Returns true if a sign-in URL may pass the parameter `name` with the value `value` to at
    /// least one provider.
    pub(crate) fn passes(&self, name: &str, value: &str) -> bool {
        let mut providers = self.providers.values();
        providers.any(|provider| provider.passes(name, value))
    }
}

/// A request to the redirection endpoint of a provider.
#[derive(Debug)]
pub struct Callback<'a> {
    /// The query without `?`, or the form that a page has posted.
    pub parameters: &'a [u8],
    /// The response mode in which the parameters arrived.
    pub mode: ResponseMode,
    /// The fields of the request, from which the login flow reads the cookies.
    pub headers: &'a HeaderMap,
    /// The origin of the gateway to which the browser sent the request.
    pub public_url: &'a PublicUrl,
    /// The provider to which the redirection endpoint belongs.
    pub provider: &'a str,
    /// The address of the client. The gateway takes the address from forwarding fields only if the
    /// peer is a trusted proxy.
    pub client: IpAddr,
    /// The session that the browser had before this login.
    pub previous_session: PreviousSession,
}

impl Callback<'_> {
    /// Describes the device of the client.
    pub(super) fn device(&self) -> Device {
        let user_agent = self.headers.get(header::USER_AGENT);
        let user_agent = user_agent.and_then(|value| value.to_str().ok());
        Device::new(user_agent.unwrap_or_default(), self.client)
    }
}

/// The session that a browser had before a login.
#[derive(Debug)]
pub enum PreviousSession {
    /// A live session.
    Live(Arc<Session>),
    /// The browser sent no session cookie.
    Nothing,
    /// The session has ended, or the session is not valid on this site.
    Stale(SessionKey),
}
