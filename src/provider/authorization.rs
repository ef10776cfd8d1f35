//! The authorization request (RFC 6749 section 4.1.1), which the browser carries.

use std::collections::HashSet;

use url::Url;

use super::Error;
use super::endpoint::endpoint;
use super::settings::Settings;

/// The parameters that are ours: neither the endpoint's query nor the operator may set them.
/// `response_mode` and `nonce` would change what comes back; `request` and `request_uri` would
/// replace all others.
const OURS: [&str; 12] = [
    "client_id",
    "client_secret",
    "code_challenge",
    "code_challenge_method",
    "nonce",
    "redirect_uri",
    "request",
    "request_uri",
    "response_mode",
    "response_type",
    "scope",
    "state",
];

/// What differs from one authorization request to the next.
#[derive(Clone, Copy, Debug)]
pub struct AuthorizationRequest<'a> {
    /// Where the response is to go; an absolute URL, as registered.
    pub redirect_uri: &'a str,
    /// The opaque value that binds the response to this browser.
    pub state: &'a str,
    /// The S256 challenge: 43 characters of base64url (RFC 7636 section 4.2).
    pub code_challenge: &'a str,
    /// The value that binds an ID token to this request (OpenID Connect Core 1.0 section 3.1.2.1);
    /// sent where an ID token is asked for.
    pub nonce: &'a str,
    /// Who wants to sign in, as somebody told us; a hint and no more.
    pub login_hint: Option<&'a str>,
    /// Whether the person has to sign in anew.
    pub prompt: Prompt,
}

/// What the server may do without asking (OpenID Connect Core section 3.1.2.1; plain OAuth 2
/// servers that do not know the parameter ignore it).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Prompt {
    /// It asks as it sees fit, and as the settings say.
    AsNeeded,
    /// It asks who it is, even if somebody is signed in there.
    Login,
}

/// The authorization endpoint with all that stays the same.
#[derive(Debug)]
pub(super) struct AuthorizationEndpoint {
    /// The endpoint with its own query, `response_type`, `client_id`, scope and further parameters.
    prepared: Url,
    pkce: bool,
}

impl AuthorizationEndpoint {
    pub(super) fn new(settings: &Settings) -> Result<Self, Error> {
        let key = "authorization_endpoint";
        let base = settings.url.as_deref();
        let problem = "is missing";
        let text = settings.authorization_endpoint.as_deref();
        let mut prepared = endpoint(key, base, text.ok_or(Error::Setting { key, problem })?)?;
        let further = &settings.authorization_request.parameters;
        let mut names: HashSet<&str> = OURS.into();
        for (name, _value) in prepared.query_pairs() {
            if names.contains(&*name) || further.contains_key(&*name) {
                let problem = "has a parameter in its query that is set elsewhere";
                return Err(Error::Setting { key, problem });
            }
        }
        if further.keys().any(|name| !names.insert(name)) {
            return Err(Error::Setting {
                key: "authorization_request.parameters",
                problem: "sets a parameter that is ours",
            });
        }
        let scope = settings.scopes.join(" ");
        // RFC 6749 section 3.3: visible ASCII without quotation mark and backslash.
        let is_scope = |byte: u8| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~');
        if !settings
            .scopes
            .iter()
            .all(|scope| !scope.is_empty() && scope.bytes().all(is_scope))
        {
            return Err(Error::Setting {
                key: "scopes",
                problem: "has an entry that is no scope",
            });
        }
        let mut query = prepared.query_pairs_mut();
        query.append_pair("response_type", "code");
        query.append_pair("client_id", &settings.client_id);
        if !scope.is_empty() {
            query.append_pair("scope", &scope);
        }
        query.extend_pairs(further);
        drop(query);
        Ok(Self {
            prepared,
            pkce: settings.pkce,
        })
    }

    pub(super) fn url(&self, request: &AuthorizationRequest<'_>) -> String {
        let mut url = match request.prompt {
            Prompt::AsNeeded => self.prepared.clone(),
            Prompt::Login => self.prompting(),
        };
        let mut query = url.query_pairs_mut();
        query.append_pair("redirect_uri", request.redirect_uri);
        query.append_pair("state", request.state);
        if let Some(hint) = request.login_hint {
            query.append_pair("login_hint", hint);
        }
        if self.pkce {
            query.append_pair("code_challenge", request.code_challenge);
            query.append_pair("code_challenge_method", "S256");
        }
        drop(query);
        url.into()
    }

    /// The prepared request with `prompt=login` instead of whatever prompt was configured.
    fn prompting(&self) -> Url {
        let mut url = self.prepared.clone();
        let kept = self
            .prepared
            .query_pairs()
            .filter(|(name, _)| name != "prompt");
        url.query_pairs_mut()
            .clear()
            .extend_pairs(kept)
            .append_pair("prompt", "login");
        url
    }
}
