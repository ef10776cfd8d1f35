//! The authorization request (RFC 6749 section 4.1.1, OpenID Connect Core 1.0 section 3.1.2.1),
//! which the browser carries.

use std::collections::HashSet;

use url::Url;

use super::SetupError;
use super::settings::{AuthorizationParameters, IdentitySource, ResponseMode, Settings};

/// The parameters that are ours: neither the endpoint's query nor the operator may set them freely.
/// `response_mode` and `nonce` would change what comes back; `request` and `request_uri` would
/// replace all others; what `acr_values` and `max_age` ask for is looked for in the answer, and so
/// has keys of its own.
const RESERVED: [&str; 15] = [
    "acr_values",
    "client_id",
    "client_secret",
    "code_challenge",
    "code_challenge_method",
    "max_age",
    "nonce",
    "redirect_uri",
    "request",
    "request_uri",
    "resource",
    "response_mode",
    "response_type",
    "scope",
    "state",
];

/// The longest hint that is passed on, in characters.
const LONGEST_HINT: usize = 256;

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
    /// The endpoint with its own query.
    url: Url,
    /// `response_type`, `client_id` and what the settings ask for.
    prepared: Vec<(Box<str>, Box<str>)>,
    pkce: bool,
    nonce: bool,
}

impl AuthorizationEndpoint {
    /// For the endpoint at `url`, which the settings or the metadata name.
    pub(super) fn new(settings: &Settings, url: &Url) -> Result<Self, SetupError> {
        check(settings)?;
        let configured = parameters(settings);
        let extra = &settings.authorization_request.parameters;
        let mut names: HashSet<&str> = RESERVED.into();
        names.extend(configured.iter().map(|(name, _value)| *name));
        if extra.keys().any(|name| names.contains(&**name)) {
            return Err(SetupError::Setting {
                key: "authorization_request.parameters",
                problem: "sets a parameter that is ours or has a key of its own",
            });
        }
        names.extend(extra.keys().map(String::as_str));
        // What a request may bring.
        names.extend(["login_hint", "prompt"]);
        if url
            .query_pairs()
            .any(|(name, _value)| names.contains(&*name))
        {
            let key = "authorization_endpoint";
            let problem = "has a parameter in its query that is set elsewhere";
            return Err(SetupError::Setting { key, problem });
        }
        let own = [
            ("response_type", "code"),
            ("client_id", &settings.client_id),
        ];
        let own = own.into_iter();
        let configured = configured.iter().map(|(name, value)| (*name, &**value));
        let extra = extra.iter().map(|(name, value)| (&**name, &**value));
        let prepared = own.chain(configured).chain(extra);
        Ok(Self {
            url: url.clone(),
            prepared: prepared
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            pkce: settings.pkce,
            nonce: asks_for_an_id_token(settings),
        })
    }

    pub(super) fn url(&self, request: &AuthorizationRequest<'_>) -> String {
        let mut url = self.url.clone();
        let mut query = url.query_pairs_mut();
        let prompt = match request.prompt {
            Prompt::AsNeeded => None,
            Prompt::Login => Some(("prompt", "login")),
        };
        let hint = request.login_hint.filter(|hint| is_hint(hint));
        let per_request = [prompt, hint.map(|hint| ("login_hint", hint))];
        // They come in the place of those that are configured.
        let replaced = |name: &str| {
            per_request
                .iter()
                .flatten()
                .any(|(other, _)| name == *other)
        };
        let kept = self.prepared.iter().filter(|(name, _)| !replaced(name));
        query.extend_pairs(kept);
        query.extend_pairs(per_request.iter().flatten());
        query.append_pair("redirect_uri", request.redirect_uri);
        query.append_pair("state", request.state);
        if self.nonce {
            query.append_pair("nonce", request.nonce);
        }
        if self.pkce {
            query.append_pair("code_challenge", request.code_challenge);
            query.append_pair("code_challenge_method", "S256");
        }
        drop(query);
        url.into()
    }
}

/// Whether the server is to answer with an ID token (OpenID Connect Core 1.0 section 3.1.2.1).
fn asks_for_an_id_token(settings: &Settings) -> bool {
    settings.scopes.iter().any(|scope| scope == "openid")
}

/// The parameters that settings of their own ask for; what is not asked for is not there.
fn parameters(settings: &Settings) -> Vec<(&'static str, String)> {
    let AuthorizationParameters {
        response_mode,
        prompt,
        max_age_secs,
        acr_values,
        resource,
        parameters: _,
    } = &settings.authorization_request;
    let joined = |list: &[String]| (!list.is_empty()).then(|| list.join(" "));
    // The query is where the answer to a code request comes anyway.
    let form_post = (*response_mode == ResponseMode::FormPost).then(|| "form_post".to_owned());
    let single = [
        ("scope", joined(&settings.scopes)),
        ("response_mode", form_post),
        ("prompt", prompt.clone()),
        ("max_age", max_age_secs.map(|seconds| seconds.to_string())),
        ("acr_values", joined(acr_values)),
    ];
    let single = single
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    let resources = resource.iter().map(|uri| ("resource", uri.clone()));
    single.chain(resources).collect()
}

/// Checks what the settings ask for.
fn check(settings: &Settings) -> Result<(), SetupError> {
    let refuse = |key, problem| Err(SetupError::Setting { key, problem });
    let configured = &settings.authorization_request;
    // RFC 6749 section 3.3: visible ASCII without quotation mark and backslash.
    let is_scope = |byte: u8| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~');
    let is_token = |text: &String| !text.is_empty() && text.bytes().all(is_scope);
    if !settings.scopes.iter().all(is_token) {
        return refuse("scopes", "has an entry that is no scope");
    }
    let proven = settings.identity.source == IdentitySource::IdToken;
    if proven && !asks_for_an_id_token(settings) {
        let problem = "does not have \"openid\", but identity.source is \"id_token\"";
        return refuse("scopes", problem);
    }
    let (max_age, acr_values) = (
        "authorization_request.max_age_secs",
        "authorization_request.acr_values",
    );
    if !configured.acr_values.iter().all(is_token) {
        return refuse(acr_values, "has an entry that is no single word");
    }
    // A request that is not checked in the answer is a lock that looks shut.
    let problem = "needs identity.source = \"id_token\": nothing else proves it";
    if configured.max_age_secs.is_some() && !proven {
        return refuse(max_age, problem);
    }
    if !configured.acr_values.is_empty() && !proven {
        return refuse(acr_values, problem);
    }
    let prompt = configured.prompt.as_deref();
    if prompt == Some("") {
        return refuse("authorization_request.prompt", "is empty");
    }
    if prompt.is_some_and(|prompt| prompt.split(' ').any(|word| word == "none")) {
        let problem = "has \"none\", with which nobody could sign in who is not signed in there";
        return refuse("authorization_request.prompt", problem);
    }
    // RFC 8707 section 2.
    let is_resource = |uri: &String| !uri.contains('#') && Url::parse(uri).is_ok();
    if !configured.resource.iter().all(is_resource) {
        let problem = "has an entry that is no absolute URI without fragment";
        return refuse("authorization_request.resource", problem);
    }
    Ok(())
}

/// Whether somebody's hint is one: it comes from a link that anybody can write.
fn is_hint(text: &str) -> bool {
    let length = text.chars().take(LONGEST_HINT.saturating_add(1)).count();
    (1..=LONGEST_HINT).contains(&length) && !text.chars().any(char::is_control)
}
