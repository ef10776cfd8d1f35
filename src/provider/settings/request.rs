//! How we ask: the authorization request, the token request, and who we say we are.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::Algorithm;

/// How a client says who it is at the token endpoint (RFC 6749 section 2.3).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthentication {
    /// The first that the server's metadata lists and our credentials are good for:
    /// `private_key_jwt` with a private key; `client_secret_basic`, `client_secret_post`,
    /// `client_secret_jwt` with a secret. Without metadata, or where it lists nothing,
    /// `private_key_jwt` with a key and else Basic. Nothing is tried out.
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

/// The JWT by which we say who we are (RFC 7523 section 3).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct ClientAssertion {
    /// Our private key in PEM (PKCS#8), for `private_key_jwt`.
    pub private_key_file: Option<PathBuf>,
    /// The name under which the server knows the key. Default: none is sent.
    pub key_id: Option<String>,
    /// The algorithm of the signature. Default: RS256, ES256, ES384 or `EdDSA`, as the key is.
    pub algorithm: Option<Algorithm>,
    /// Who it is for. Default: the issuer as configured; never what a server's metadata says.
    pub audience: Option<String>,
}

/// How identifier and secret are encoded before they are joined for Basic.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum BasicEncoding {
    /// Form-encoded each, as RFC 6749 section 2.3.1 asks.
    #[default]
    Form,
    /// As they are, for servers that do not decode them.
    Raw,
}

/// What the authorization request asks for besides the scopes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct AuthorizationParameters {
    /// How the answer comes back. Default: `query`.
    pub response_mode: ResponseMode,
    /// What the server asks the person (`login`, `consent`, `select_account`, `none`). Default: what
    /// it sees fit.
    pub prompt: Option<String>,
    /// How long ago the person may have given their credentials to the server, in seconds; the ID
    /// token has to prove it.
    pub max_age_secs: Option<u32>,
    /// Authentication contexts, of which the ID token has to name one.
    pub acr_values: Vec<String>,
    /// The resources that the access token is for (RFC 8707), repeated at the token endpoint.
    pub resource: Vec<String>,
    /// Name and value of more of them (`audience`, `domain_hint` ...). Our own cannot be replaced.
    pub parameters: BTreeMap<String, String>,
}

/// How the answer of the authorization endpoint comes back.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum ResponseMode {
    /// In a form that the browser posts (OAuth 2.0 Form Post Response Mode).
    FormPost,
    /// In the query of a redirect.
    #[default]
    Query,
}

/// The shape of the token request.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct TokenRequest {
    /// The format of its body.
    pub body: BodyFormat,
    /// Further parameters, name and value. Our own cannot be replaced.
    pub parameters: BTreeMap<String, String>,
    /// Parameters sent under another name: `redirect_uri = "redirect_url"`.
    pub rename: BTreeMap<String, String>,
}

/// The format of the token request's body.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum BodyFormat {
    /// `application/x-www-form-urlencoded` (RFC 6749 section 4.1.3).
    #[default]
    Form,
    /// `application/json`: one object, every value a string; an array of them where a parameter is
    /// there several times.
    Json,
}
