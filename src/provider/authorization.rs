//! The authorization request (RFC 6749 section 4.1.1, OpenID Connect Core 1.0 section 3.1.2.1). The
//! browser sends the authorization request to the provider.

use std::collections::HashSet;
use std::time::Duration;

use url::Url;

use super::settings::{
    AuthorizationParameters, IdentitySource, PassedParameters, ResponseMode, Settings,
};
use super::{Provider, SetupError};

/// The reserved parameters. The endpoint's query and `authorization_request.parameters` must not
/// contain a reserved parameter. `response_mode` and `nonce` are reserved, because both parameters
/// change the authorization response. `request` and `request_uri` are reserved, because each of the
/// two parameters replaces all other parameters. `acr_values` and `max_age` have their own
/// settings, because the gateway checks in the ID token whether the provider applied both
/// parameters.
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

/// The parameters that the gateway itself reads from a sign-in URL. `pass_parameters` must not
/// contain one of the parameters that the gateway itself reads.
const OF_THE_SIGN_IN_ENDPOINT: [&str; 6] =
    ["prompt", "provider", "rd", "remember", "return_to", "to"];

/// The maximum length of a name in `pass_parameters`, in bytes.
const MAX_NAME: usize = 64;

/// The values that are different in each authorization request.
#[derive(Clone, Copy, Debug)]
pub struct AuthorizationRequest<'a> {
    /// The absolute URL of the callback, as registered at the provider.
    pub redirect_uri: &'a str,
    /// The opaque value that binds the authorization response to the browser.
    pub state: &'a str,
    /// The PKCE challenge with S256: 43 characters of base64url (RFC 7636 section 4.2).
    pub code_challenge: &'a str,
    /// The value that binds an ID token to the authorization request (OpenID Connect Core 1.0
    /// section 3.1.2.1). The gateway sends the nonce only if the authorization request asks for an
    /// ID token.
    pub nonce: &'a str,
    /// Parameters from an untrusted link to the sign-in endpoint. Of these parameters, the gateway
    /// sends only the parameters that `pass_parameters` allows.
    pub passed: &'a [(String, String)],
    /// The parameter `prompt`, which tells the provider whether the user has to authenticate again.
    pub prompt: Prompt,
}

/// The parameter `prompt` of the authorization request (OpenID Connect Core section 3.1.2.1). A
/// provider that does not know `prompt` ignores `prompt`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Prompt {
    /// Sends the configured `prompt`. If no `prompt` is configured, the provider decides whether
    /// the user has to authenticate.
    AsNeeded,
    /// Sends `max_age` with this number of seconds, and the configured `prompt`. The user has to
    /// authenticate if the user has authenticated longer ago. The ID token must prove the time.
    MaxAge(u32),
    /// Sends `prompt=login`, and `max_age` with this number of seconds. The ID token must prove the
    /// time of the authentication.
    LoginWithMaxAge(u32),
    /// Sends `prompt=login`. The user has to authenticate even if the user already has a session at
    /// the provider.
    Login,
    /// Sends `prompt=select_account`. The user has to choose an account even if the user already has
    /// a session at the provider.
    SelectAccount,
    /// Sends `prompt=none`. The provider shows no page, and answers with an error if the user has to
    /// do something.
    Silent,
}

impl Prompt {
    /// Returns the value of the parameter `prompt`. `None` means that the configured value is sent.
    pub(crate) fn value(self) -> Option<&'static str> {
        match self {
            Self::AsNeeded | Self::MaxAge(_) => None,
            Self::Login | Self::LoginWithMaxAge(_) => Some("login"),
            Self::SelectAccount => Some("select_account"),
            Self::Silent => Some("none"),
        }
    }

    /// Returns true if a user who already has a session needs no new login. A session that began
    /// longer ago than `max_age` does not count.
    pub(crate) fn accepts_session(self) -> bool {
        match self {
            Self::AsNeeded | Self::MaxAge(_) | Self::Silent => true,
            Self::Login | Self::LoginWithMaxAge(_) | Self::SelectAccount => false,
        }
    }

    /// Returns the parameter `max_age`, in seconds. `None` means that the configured value is sent.
    pub(crate) fn max_age_secs(self) -> Option<u32> {
        match self {
            Self::MaxAge(seconds) | Self::LoginWithMaxAge(seconds) => Some(seconds),
            Self::AsNeeded | Self::Login | Self::SelectAccount | Self::Silent => None,
        }
    }

    /// Returns the parameter `max_age`. `None` means that the configured value is sent.
    pub(crate) fn max_age(self) -> Option<Duration> {
        let seconds = self.max_age_secs()?;
        Some(Duration::from_secs(seconds.into()))
    }

    /// Returns a prompt that also sends `max_age`.
    #[must_use]
    pub(crate) fn with_max_age(self, seconds: Option<u32>) -> Self {
        match (self, seconds) {
            (Self::AsNeeded, Some(seconds)) => Self::MaxAge(seconds),
            (Self::Login, Some(seconds)) => Self::LoginWithMaxAge(seconds),
            (other, _) => other,
        }
    }

    /// Reads the parameter `prompt` of a link. A value that a link must not choose counts as absent.
    pub(crate) fn in_link(value: &str) -> Self {
        let mut known = [Self::Login, Self::SelectAccount].into_iter();
        let known = known.find(|prompt| prompt.value() == Some(value));
        known.unwrap_or(Self::AsNeeded)
    }
}

impl Provider {
    /// Returns true if a sign-in URL may pass the parameter `name` with the value `value` to this
    /// provider.
    pub fn passes(&self, name: &str, value: &str) -> bool {
        let passed = &self.settings.authorization_request.pass_parameters;
        passed.accept(name, value)
    }
}

/// The authorization endpoint, and the parameters that are the same in every authorization request.
#[derive(Debug)]
pub(super) struct AuthorizationEndpoint {
    /// The URL of the authorization endpoint, including the query.
    url: Url,
    /// The parameters that are the same in every authorization request: `response_type`,
    /// `client_id` and the configured parameters.
    prepared: Vec<(Box<str>, Box<str>)>,
    passed: PassedParameters,
    /// The configured `max_age`, in seconds.
    max_age_secs: Option<u32>,
    pkce: bool,
    nonce: bool,
}

impl AuthorizationEndpoint {
    /// Prepares the authorization endpoint at `url`, which comes from the settings or the metadata.
    pub(super) fn new(settings: &Settings, url: &Url) -> Result<Self, SetupError> {
        check(settings)?;
        let configured = parameters(settings);
        let extra = &settings.authorization_request.parameters;
        let mut names: HashSet<&str> = RESERVED.into();
        names.insert("prompt");
        names.extend(configured.iter().map(|(name, _value)| *name));
        if extra.keys().any(|name| names.contains(&**name)) {
            return Err(SetupError::Setting {
                key: "authorization_request.parameters",
                problem: "sets a parameter that is reserved or has its own setting",
            });
        }
        names.extend(extra.keys().map(String::as_str));
        // Each request can also contain the parameters that `pass_parameters` allows.
        let passed = &settings.authorization_request.pass_parameters;
        names.extend(passed.names().iter().map(String::as_str));
        // If the query of the endpoint repeated a parameter of the gateway, the gateway could not
        // know which of the two values the provider uses.
        if url
            .query_pairs()
            .any(|(name, _value)| names.contains(&*name))
        {
            let key = "authorization_endpoint";
            let problem = "has a parameter in its query that another setting sets";
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
            passed: passed.clone(),
            max_age_secs: settings.authorization_request.max_age_secs,
            pkce: settings.pkce,
            nonce: asks_for_an_id_token(settings),
        })
    }

    pub(super) fn url(&self, request: &AuthorizationRequest<'_>) -> String {
        let mut url = self.url.clone();
        let mut query = url.query_pairs_mut();
        let prompt = request.prompt.value().map(|value| ("prompt", value));
        let passed = request
            .passed
            .iter()
            .map(|(name, value)| (&**name, &**value));
        let passed = passed.filter(|(name, value)| self.passed.accept(name, value));
        // Only an ID token can prove that the provider has applied `max_age`.
        let max_age = request.prompt.max_age_secs().filter(|_| self.nonce);
        let max_age = max_age.map(|seconds| seconds.min(self.max_age_secs.unwrap_or(u32::MAX)));
        let max_age = max_age.map(|seconds| seconds.to_string());
        let max_age = max_age.as_deref().map(|seconds| ("max_age", seconds));
        let own = prompt.into_iter().chain(max_age);
        let per_request: Vec<(&str, &str)> = own.chain(passed).collect();
        // A parameter in `per_request` replaces the configured parameter with the same name.
        let replaced = |name: &str| per_request.iter().any(|(other, _)| name == *other);
        let kept = self.prepared.iter().filter(|(name, _)| !replaced(name));
        query.extend_pairs(kept);
        query.extend_pairs(&per_request);
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

/// Returns true if the authorization request asks for an ID token (OpenID Connect Core 1.0 section
/// 3.1.2.1).
fn asks_for_an_id_token(settings: &Settings) -> bool {
    settings.scopes.iter().any(|scope| scope == "openid")
}

/// Returns the parameters of the authorization request that have their own setting, such as
/// `prompt`. A parameter is omitted if its setting has no value.
fn parameters(settings: &Settings) -> Vec<(&'static str, String)> {
    let AuthorizationParameters {
        response_mode,
        prompt,
        max_age_secs,
        acr_values,
        resource,
        parameters: _,
        pass_parameters: _,
    } = &settings.authorization_request;
    let joined = |list: &[String]| (!list.is_empty()).then(|| list.join(" "));
    // The response mode `query` is not sent, because `query` is the default of the code flow.
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

/// Checks the settings of the authorization request.
fn check(settings: &Settings) -> Result<(), SetupError> {
    let refuse = |key, problem| Err(SetupError::Setting { key, problem });
    let configured = &settings.authorization_request;
    // A scope has only visible ASCII characters, except the quotation mark and the backslash (RFC
    // 6749 section 3.3).
    let is_scope = |byte: u8| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~');
    let is_token = |text: &String| !text.is_empty() && text.bytes().all(is_scope);
    if !settings.scopes.iter().all(is_token) {
        return refuse("scopes", "has an entry that is not a scope");
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
        let problem = "has an entry that is empty or has an invalid character";
        return refuse(acr_values, problem);
    }
    // Without an ID token, the gateway could not check whether the provider applied `max_age` and
    // `acr_values`.
    let problem = "needs identity.source = \"id_token\", because only an ID token can prove it";
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
        let problem =
            "has \"none\", with which only users with a session at the provider could sign in";
        return refuse("authorization_request.prompt", problem);
    }
    check_passed(&configured.pass_parameters)?;
    // A resource is an absolute URI without a fragment (RFC 8707 section 2).
    let is_resource = |uri: &String| !uri.contains('#') && Url::parse(uri).is_ok();
    if !configured.resource.iter().all(is_resource) {
        let problem = "has an entry that is not an absolute URI, or has a fragment";
        return refuse("authorization_request.resource", problem);
    }
    Ok(())
}

/// Checks the names in `pass_parameters`.
fn check_passed(passed: &PassedParameters) -> Result<(), SetupError> {
    let names = passed.names();
    let is_name = |name: &String| {
        (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let is_ours = |name: &String| {
        let mut ours = RESERVED.iter().chain(&OF_THE_SIGN_IN_ENDPOINT);
        ours.any(|known| known == name)
    };
    let problem = if names.len() > PassedParameters::MAX {
        "has more than 16 names"
    } else if !names.iter().all(is_name) {
        "has an entry that is empty, too long, or has an invalid character"
    } else if names.iter().any(is_ours) {
        "has a parameter that only the gateway may set"
    } else {
        return Ok(());
    };
    let key = "authorization_request.pass_parameters";
    Err(SetupError::Setting { key, problem })
}
