//! The settings for the authorization request, the token request and the client authentication.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::Algorithm;

/// The client authentication at the token endpoint (RFC 6749 section 2.3).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthentication {
    /// The gateway chooses the first method that the metadata lists and that the configured
    /// credentials allow. For a private key, the method is `private_key_jwt`. For a client secret,
    /// the gateway prefers `client_secret_basic`, then `client_secret_post`, then
    /// `client_secret_jwt`. If the metadata has no list, the method is `private_key_jwt` for a
    /// private key and `client_secret_basic` for a secret. The gateway does not try several methods
    /// at the provider.
    #[default]
    Auto,
    /// The gateway sends the client identifier and the client secret with the authentication scheme
    /// Basic.
    ClientSecretBasic,
    /// A JWT that is signed with the client secret (OpenID Connect Core 1.0 section 9).
    ClientSecretJwt,
    /// The gateway sends the client identifier and the client secret in the request body.
    ClientSecretPost,
    /// A JWT that is signed with the gateway's private key (RFC 7523 section 2.2).
    PrivateKeyJwt,
    /// A public client, which sends its identifier in the body and no secret.
    None,
}

/// The client assertion (RFC 7523 section 3).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct ClientAssertion {
    /// The gateway's private key in PEM (PKCS#8), for `private_key_jwt`.
    pub private_key_file: Option<PathBuf>,
    /// The name of the environment variable that contains the gateway's private key.
    pub private_key_env: Option<String>,
    /// The id (`kid`) of the key at the provider. By default, no `kid` is sent.
    pub key_id: Option<String>,
    /// The algorithm of the signature. By default, the type of the key determines the algorithm:
    /// RS256, ES256, ES384 or `EdDSA`.
    pub algorithm: Option<Algorithm>,
    /// The audience of the client assertion. By default, the audience is the configured issuer, and
    /// never a value from the metadata.
    pub audience: Option<String>,
}

/// The encoding of the client identifier and the secret in the Basic scheme.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum BasicEncoding {
    /// The client identifier and the secret are form-encoded, as RFC 6749 section 2.3.1 requires.
    #[default]
    Form,
    /// The client identifier and the secret are not form-encoded. This variant is for providers
    /// that do not decode the client identifier and the secret.
    Raw,
}

/// The parameters of the authorization request, except the scopes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct AuthorizationParameters {
    /// The response mode that the gateway requests for the authorization response. Default:
    /// `query`.
    pub response_mode: ResponseMode,
    /// The parameter `prompt` (`login`, `consent`, `select_account`). Default: the provider
    /// decides.
    pub prompt: Option<String>,
    /// The maximum time since the user authenticated at the provider, in seconds. The ID token must
    /// contain the time of the authentication.
    pub max_age_secs: Option<u32>,
    /// The requested authentication contexts. The ID token must contain one of the requested
    /// authentication contexts.
    pub acr_values: Vec<String>,
    /// The resources for which the gateway requests the access token (RFC 8707). The gateway also
    /// sends the resources in the token request.
    pub resource: Vec<String>,
    /// Names and values of additional parameters, such as `audience` and `domain_hint`. An
    /// additional parameter cannot replace a reserved parameter.
    pub parameters: BTreeMap<String, String>,
    /// The parameters that the gateway copies from a sign-in URL to the authorization request.
    pub pass_parameters: PassedParameters,
}

/// The names of the parameters that the gateway copies from a sign-in URL to the authorization
/// request. Default: `login_hint`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(transparent)]
pub struct PassedParameters(Vec<String>);

impl PassedParameters {
    /// The maximum number of parameter names.
    pub const MAX: usize = 16;

    /// The maximum length of the value of a parameter, in characters.
    const MAX_VALUE: usize = 256;

    /// Returns the names.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Returns true if the gateway may send the parameter `name` with the value `value` to the
    /// provider. Anybody can write a link to the sign-in endpoint, so this function limits the
    /// length and the characters of `value`.
    pub fn accept(&self, name: &str, value: &str) -> bool {
        let length = value
            .chars()
            .take(Self::MAX_VALUE.saturating_add(1))
            .count();
        self.0.iter().any(|listed| listed == name)
            && (1..=Self::MAX_VALUE).contains(&length)
            && !value.chars().any(char::is_control)
    }
}

impl Default for PassedParameters {
    fn default() -> Self {
        Self(vec!["login_hint".to_owned()])
    }
}

/// The response mode: the method by which the provider sends the authorization response.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum ResponseMode {
    /// The provider lets the browser post a form to the callback (OAuth 2.0 Form Post Response
    /// Mode).
    FormPost,
    /// The provider redirects the browser to the callback with the response in the query.
    #[default]
    Query,
}

/// The format of the token request.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct TokenRequest {
    /// The format of the body of a token request.
    pub body: BodyFormat,
    /// Names and values of additional parameters. An additional parameter cannot replace a reserved
    /// parameter.
    pub parameters: BTreeMap<String, String>,
    /// New names for parameters. For example, `redirect_uri = "redirect_url"` sends the redirection
    /// URI as `redirect_url`.
    pub rename: BTreeMap<String, String>,
}

/// The format of the body of a token request.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum BodyFormat {
    /// The body is a form, with the media type `application/x-www-form-urlencoded` (RFC 6749
    /// section 4.1.3).
    #[default]
    Form,
    /// The body is one JSON object with strings as values. A repeated parameter becomes an array of
    /// strings.
    Json,
}
