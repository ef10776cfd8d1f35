//! What an operator and a profile say about one authorization server.
//!
//! Every key may come from the profile or from the operator's file; whoever reads settings lays
//! one over the other before they arrive here. Checks that need more than one key, and everything
//! that reads files, are in [`Provider::new`](super::Provider::new).

use std::collections::BTreeMap;
use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

/// Our registration at one authorization server and that server's habits.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The profile that lies beneath these values. Informational here: it is merged already.
    pub profile: Option<String>,
    /// Where the server is (`https://id.example`); endpoints that begin with `/` are appended to
    /// it.
    pub url: Option<String>,
    /// The authorization endpoint (RFC 6749 section 3.1): a URL, or a path below `url`.
    pub authorization_endpoint: String,
    /// The token endpoint (RFC 6749 section 3.2): a URL, or a path below `url`.
    pub token_endpoint: String,
    /// Where the user's claims are fetched with the access token: a URL, or a path below `url`.
    pub userinfo_endpoint: Option<String>,
    /// The client identifier that the server gave us; a number is as good as its text.
    #[serde(deserialize_with = "text_or_number")]
    pub client_id: String,
    /// The file that holds the client secret; one newline at its end is not part of it.
    pub client_secret_file: Option<PathBuf>,
    /// The scopes asked for, in this order.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Whether PKCE with S256 (RFC 7636) is used. Default: yes.
    #[serde(default = "yes")]
    pub pkce: bool,
    /// How we say who we are at the token endpoint. Default: `client_secret_post`.
    #[serde(default)]
    pub client_authentication: ClientAuthentication,
    /// How identifier and secret are encoded for Basic. Default: `form`.
    #[serde(default)]
    pub basic_encoding: BasicEncoding,
    /// Further parameters of the authorization request (RFC 6749 section 4.1.1).
    #[serde(default)]
    pub authorization_request: AuthorizationParameters,
    /// The shape of the token request.
    #[serde(default)]
    pub token_request: TokenRequest,
    /// How long a token lives when the answer has no `expires_in`, in seconds. Default: unknown,
    /// the session's own deadlines alone count.
    pub default_expires_in_secs: Option<NonZeroU64>,
    /// Where the identity comes from.
    #[serde(default)]
    pub identity: IdentitySettings,
    /// How a JWT access token is checked. It is checked whenever keys are given, whatever the
    /// source of the identity.
    #[serde(default)]
    pub access_token: AccessTokenSettings,
    /// What a refresh does at this server.
    #[serde(default)]
    pub refresh: Refresh,
    /// Error answers of the token endpoint that mean something else here than in RFC 6749; the
    /// first row that matches decides.
    #[serde(default)]
    pub errors: Vec<ErrorShape>,
    /// How many token requests are made in a minute at most; as many may come at once. Default:
    /// 600.
    #[serde(default = "calls_per_minute")]
    pub token_calls_per_minute: NonZeroU32,
    /// How long one call may take from connecting to the last byte, in seconds. Default: 15.
    #[serde(default = "deadline_secs")]
    pub deadline_secs: NonZeroU32,
    /// A PEM file of the authorities believed for this server. Default: the system's.
    pub ca_file: Option<PathBuf>,
}

/// Older servers number their clients, and a variable that looks like a number arrives as one.
fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct TextOrNumber;
    impl Visitor<'_> for TextOrNumber {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_u64<E>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }

        fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }
    }
    deserializer.deserialize_any(TextOrNumber)
}

fn yes() -> bool {
    true
}

fn calls_per_minute() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(599)
}

fn deadline_secs() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(14)
}

/// How a client says who it is at the token endpoint (RFC 6749 section 2.3).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthentication {
    /// Identifier and secret in the Basic scheme.
    ClientSecretBasic,
    /// Identifier and secret in the body.
    #[default]
    ClientSecretPost,
    /// A public client: the identifier in the body and no secret.
    None,
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

/// Further parameters of the authorization request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthorizationParameters {
    /// Name and value of each (`prompt`, `audience`, `resource` ...). Our own cannot be replaced.
    pub parameters: BTreeMap<String, String>,
}

/// The shape of the token request.
#[derive(Clone, Debug, Default, Deserialize)]
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
    /// `application/json`: one object, every value a string.
    Json,
}

/// Where the identity comes from and what its claims are called there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentitySettings {
    /// Where the claims are read.
    pub source: IdentitySource,
    /// What they are called.
    pub claims: ClaimNames,
    /// When an email address counts as verified.
    pub emails_verified: EmailsVerified,
}

/// Where the identity is read.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum IdentitySource {
    /// The claims of the verified JWT access token.
    AccessToken,
    /// Nowhere: whoever the server lets in is signed in, nameless.
    #[default]
    None,
    /// The object at the userinfo endpoint.
    Userinfo,
}

/// What claims are called. A name is looked for as it stands, then as a path with dots
/// (`data.user.id`). An empty name is never found.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClaimNames {
    /// Who it is; text or a whole number. Default: `sub`.
    pub subject: String,
    /// The email address. Default: `email`.
    pub email: String,
    /// Whether, or when, the address was verified. Default: `email_verified`.
    pub email_verified: String,
    /// The user name. Default: `preferred_username`.
    pub preferred_username: String,
    /// The display name. Default: `name`.
    pub name: String,
    /// The groups: an array of texts, or one text as the only group. Default: `groups`.
    pub groups: String,
}

impl Default for ClaimNames {
    fn default() -> Self {
        Self {
            subject: "sub".to_owned(),
            email: "email".to_owned(),
            email_verified: "email_verified".to_owned(),
            preferred_username: "preferred_username".to_owned(),
            name: "name".to_owned(),
            groups: "groups".to_owned(),
        }
    }
}

/// When an email address counts as verified.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum EmailsVerified {
    /// Always: the server lets nobody in with an address that it has not checked.
    Always,
    /// When the claim is `true`; the text `"true"` and the number 1 are not.
    #[default]
    Claim,
    /// When the claim is a time (Laravel's `email_verified_at`); null and absent are not.
    Timestamp,
}

/// How a JWT access token is checked.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessTokenSettings {
    /// PEM files with one public key each. Any of them may have signed.
    pub public_key_files: Vec<PathBuf>,
    /// The algorithms that are believed, whatever a token says. Default: RS256.
    pub algorithms: Vec<Algorithm>,
    /// Who the token must be for. Default: the client identifier.
    pub audience: Option<String>,
    /// Who must have issued it. Default: not looked at.
    pub issuer: Option<String>,
    /// How far the server's clock may differ from ours, in seconds. Default: 2.
    pub leeway_secs: u32,
    /// Whether `exp`, `nbf` and `iat` may be numbers in quotes. Default: no.
    pub quoted_dates: bool,
}

impl Default for AccessTokenSettings {
    fn default() -> Self {
        Self {
            public_key_files: Vec::new(),
            algorithms: vec![Algorithm::RS256],
            audience: None,
            issuer: None,
            leeway_secs: 2,
            quoted_dates: false,
        }
    }
}

/// A signature algorithm with a public key (RFC 7518 section 3.1, RFC 8037). There is none with a
/// shared secret and no `none`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
    /// RSA PSS with SHA-256.
    PS256,
    /// RSA PSS with SHA-384.
    PS384,
    /// RSA PSS with SHA-512.
    PS512,
    /// RSA PKCS#1 v1.5 with SHA-256.
    RS256,
    /// RSA PKCS#1 v1.5 with SHA-384.
    RS384,
    /// RSA PKCS#1 v1.5 with SHA-512.
    RS512,
}

/// What a refresh does at this server (RFC 6749 section 6).
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Refresh {
    /// The answer brings a new refresh token and the old one is dead. Default: yes.
    pub rotates: bool,
    /// The old access token is dead as soon as the refresh succeeds. Default: yes.
    pub revokes_access_token: bool,
}

impl Default for Refresh {
    fn default() -> Self {
        Self {
            rotates: true,
            revokes_access_token: true,
        }
    }
}

/// A row that gives an error answer of the token endpoint its meaning. What is given must be
/// equal; what is absent matches anything.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorShape {
    /// The status code.
    pub status: Option<u16>,
    /// The member `error`.
    pub error: Option<String>,
    /// The member `error_description`.
    pub description: Option<String>,
    /// The member `hint`.
    pub hint: Option<String>,
    /// What it means.
    pub meaning: Meaning,
}

/// What an error answer of the token endpoint means for the one who asked.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    /// This code or refresh token is no good, and will not become good.
    Fatal,
    /// It says nothing about the code or the token: try again later.
    Later,
    /// Our registration or our request is at fault: an operator has to act.
    Ours,
}
