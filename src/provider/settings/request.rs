//! The settings of requests: the authorization request, the token request and the client
//! authentication.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::Algorithm;

/// The client authentication at the token endpoint (RFC 6749 section 2.3).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthentication {
    /// The first method that the metadata lists and that our credentials allow: `private_key_jwt`
    /// with a private key, then `client_secret_basic`, `client_secret_post` and `client_secret_jwt`
    /// with a secret. Without a list in the metadata it is `private_key_jwt` with a key, otherwise
    /// Basic. No method is tried at the provider.
    #[default]
    Auto,
    /// Identifier and secret in the Basic scheme.
    ClientSecretBasic,
    /// A JWT that is authenticated with the secret (OpenID Connect Core 1.0 section 9).
    ClientSecretJwt,
    /// Identifier and secret in the body.
    ClientSecretPost,
    /// A JWT that is signed with our private key (RFC 7523 section 2.2).
    PrivateKeyJwt,
    /// A public client: the identifier in the body and no secret.
    None,
}

/// The client assertion (RFC 7523 section 3).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct ClientAssertion {
    /// Our private key in PEM (PKCS#8), for `private_key_jwt`.
    pub private_key_file: Option<PathBuf>,
    /// The id (`kid`) of the key at the provider. Default: none is sent.
    pub key_id: Option<String>,
    /// The algorithm of the signature. Default: RS256, ES256, ES384 or `EdDSA`, depending on the
    /// key.
    pub algorithm: Option<Algorithm>,
    /// The audience of the assertion. Default: the configured issuer, never a value of the
    /// metadata.
    pub audience: Option<String>,
}

/// The encoding of identifier and secret before they are joined in the Basic scheme.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum BasicEncoding {
    /// Identifier and secret are form-encoded, as RFC 6749 section 2.3.1 requires.
    #[default]
    Form,
    /// Identifier and secret are unchanged, for providers that do not decode them.
    Raw,
}

/// Parameters of the authorization request besides the scopes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct AuthorizationParameters {
    /// How the provider sends the authorization response. Default: `query`.
    pub response_mode: ResponseMode,
    /// The parameter `prompt` (`login`, `consent`, `select_account`). Default: the provider
    /// decides.
    pub prompt: Option<String>,
    /// The maximum time since the user authenticated at the provider, in seconds. The ID token has
    /// to prove this time.
    pub max_age_secs: Option<u32>,
    /// Authentication contexts. The ID token has to contain one of these contexts.
    pub acr_values: Vec<String>,
    /// The resources that the access token is for (RFC 8707). The resources are repeated at the
    /// token endpoint.
    pub resource: Vec<String>,
    /// Names and values of further parameters (`audience`, `domain_hint` ...). Further parameters
    /// cannot replace reserved parameters.
    pub parameters: BTreeMap<String, String>,
}

/// How the provider sends the authorization response.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum ResponseMode {
    /// In a form that the browser posts (OAuth 2.0 Form Post Response Mode).
    FormPost,
    /// In the query of a redirect.
    #[default]
    Query,
}

/// The format of the token request.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct TokenRequest {
    /// The format of the body.
    pub body: BodyFormat,
    /// Names and values of further parameters. Further parameters cannot replace reserved
    /// parameters.
    pub parameters: BTreeMap<String, String>,
    /// Other names for parameters: `redirect_uri = "redirect_url"`.
    pub rename: BTreeMap<String, String>,
}

/// The format of the body of a token request.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum BodyFormat {
    /// `application/x-www-form-urlencoded` (RFC 6749 section 4.1.3).
    #[default]
    Form,
    /// `application/json`: one object with strings as values. A repeated parameter becomes an array
    /// of strings.
    Json,
}
