//! The records of the authorization server: clients, login sessions, used codes and valid tokens.

use std::collections::{HashMap, VecDeque};

use super::authorization_server::{Client, Fault, TokenRequest, is_registered};
use crate::clock::Timestamp;

/// When a map reaches this number of entries, its expired entries are removed for the first time.
const TIDY_AT: usize = 1024;

/// A session of a user at this authorization server.
#[derive(Clone, Debug)]
pub(crate) struct LoginSession {
    /// The id of the user.
    pub(crate) user: u64,
    /// The time at which the user signed in.
    pub(crate) at: Timestamp,
    /// The `sid` claim, which identifies the session to clients.
    pub(crate) sid: String,
}

/// All data that changes while the server runs.
#[derive(Debug, Default)]
pub(crate) struct Records {
    clients: Vec<Client>,
    /// The login sessions. Each key is the value of the cookie of the login session.
    logins: HashMap<String, LoginSession>,
    /// The codes that were used, with their expiry. An expired entry can be removed, because an
    /// expired code is refused even without an entry.
    spent_codes: HashMap<String, Timestamp>,
    /// Valid access tokens, with their expiry. An access token without an entry counts as revoked.
    access_tokens: HashMap<String, Timestamp>,
    /// Valid refresh tokens, with their expiry.
    refresh_tokens: HashMap<String, Timestamp>,
    /// The faults for the next requests to the token endpoint.
    pub(crate) faults: VecDeque<Fault>,
    /// The latest request to the token endpoint.
    pub(crate) last_request: Option<TokenRequest>,
}

impl Records {
    pub(crate) fn new(clients: Vec<Client>) -> Self {
        Self {
            clients,
            ..Self::default()
        }
    }

    pub(crate) fn register(&mut self, client: Client) {
        self.clients.retain(|registered| registered.id != client.id);
        self.clients.push(client);
    }

    pub(crate) fn clients(&self) -> &[Client] {
        &self.clients
    }

    pub(crate) fn client(&self, id: &str) -> Option<&Client> {
        self.clients.iter().find(|client| client.id == id)
    }

    pub(crate) fn log_in(&mut self, session: String, login: LoginSession) {
        self.logins.insert(session, login);
    }

    /// Ends a login session, and returns it.
    pub(crate) fn log_out(&mut self, session: &str) -> Option<LoginSession> {
        self.logins.remove(session)
    }

    /// Ends the login session with this `sid` claim, and returns it.
    pub(crate) fn log_out_by_sid(&mut self, sid: &str) -> Option<LoginSession> {
        let mut logins = self.logins.iter();
        let (session, _) = logins.find(|(_cookie, login)| login.sid == sid)?;
        let session = session.clone();
        self.logins.remove(&session)
    }

    pub(crate) fn logged_in(&self, session: &str) -> Option<LoginSession> {
        self.logins.get(session).cloned()
    }

    pub(crate) fn forget_logins(&mut self) {
        self.logins.clear();
    }

    /// Returns true if the code was already used.
    pub(crate) fn is_spent(&self, code: &str) -> bool {
        self.spent_codes.contains_key(code)
    }

    /// Marks a code as used. `until` is the expiry of the code.
    pub(crate) fn spend(&mut self, code: String, until: Timestamp, now: Timestamp) {
        insert(&mut self.spent_codes, code, until, now);
    }

    /// Stores the access token and the refresh token of a grant as valid until their expiry.
    pub(crate) fn issue(
        &mut self,
        access: (String, Timestamp),
        refresh: (String, Timestamp),
        now: Timestamp,
    ) {
        insert(&mut self.access_tokens, access.0, access.1, now);
        insert(&mut self.refresh_tokens, refresh.0, refresh.1, now);
    }

    /// Returns true if the access token was not revoked. The caller has already checked the expiry
    /// in the token.
    pub(crate) fn is_access_token_live(&self, id: &str) -> bool {
        self.access_tokens.contains_key(id)
    }

    /// Returns true if the refresh token was not revoked. The caller has already checked the expiry
    /// in the token.
    pub(crate) fn is_refresh_token_live(&self, id: &str) -> bool {
        self.refresh_tokens.contains_key(id)
    }

    /// Revokes a refresh token and the access token of the same token response.
    pub(crate) fn revoke(&mut self, access: &str, refresh: &str) {
        self.access_tokens.remove(access);
        self.refresh_tokens.remove(refresh);
    }

    pub(crate) fn revoke_all(&mut self) {
        self.access_tokens.clear();
        self.refresh_tokens.clear();
    }
}

impl Client {
    /// Returns true if `uri` matches one of the registered redirection URIs.
    pub(crate) fn may_redirect_to(&self, uri: &str) -> bool {
        let mut registered = self.redirect_uris.iter();
        registered.any(|registered| is_registered(registered, uri))
    }
}

fn insert(map: &mut HashMap<String, Timestamp>, id: String, until: Timestamp, now: Timestamp) {
    // Expired entries are removed only when the number of entries is a power of two, so the average
    // cost of an insertion stays small.
    if map.len() >= TIDY_AT && map.len().is_power_of_two() {
        map.retain(|_id, until| *until > now);
    }
    map.insert(id, until);
}
