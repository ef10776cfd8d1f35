//! What an operator and a profile say about one authorization server.
//!
//! Every key may come from the profile or from the operator's file; whoever reads settings lays
//! one over the other before they arrive here. Checks that need more than one key, and everything
//! that reads files, are in [`Provider::new`](super::Provider::new).

mod identity;
mod request;
mod token_checks;
mod token_response;

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

pub use self::identity::{
    ClaimNames, EmailsVerified, IdentitySettings, IdentitySource, UserinfoBearer,
};
pub use self::request::{
    AuthorizationParameters, BasicEncoding, BodyFormat, ClientAssertion, ClientAuthentication,
    ResponseMode, TokenRequest,
};
pub use self::token_checks::{AccessTokenSettings, Algorithm, IdTokenSettings};
pub use self::token_response::{ErrorMeaning, ErrorPattern, GrantType, Refresh, SignedOutPattern};

/// Our registration at one authorization server and that server's habits.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct Settings {
    /// The profile that lies beneath these values. Informational here: it is merged already.
    pub profile: Option<String>,
    /// What people call the server, where they choose between several. Default: its name here.
    pub display_name: Option<String>,
    /// The issuer identifier, byte for byte (OpenID Connect Core 1.0 section 2); `{tenantid}` in it
    /// stands for any of `tenants`.
    pub issuer: Option<String>,
    /// The tenants whose people are taken, where one server has many.
    #[serde(default)]
    pub tenants: Vec<String>,
    /// Whether the server's metadata is read, and from where. Default: it is not.
    #[serde(default)]
    pub discovery: Discovery,
    /// Where the metadata is, when not where `discovery` says.
    pub metadata_url: Option<String>,
    /// How often metadata and keys are read again, in seconds. Default: 3600.
    #[serde(default = "metadata_refresh_secs")]
    pub metadata_refresh_secs: NonZeroU32,
    /// Where the server is (`https://id.example`); endpoints that begin with `/` are appended to
    /// it.
    pub url: Option<String>,
    /// The authorization endpoint (RFC 6749 section 3.1): a URL, or a path below `url`. Default:
    /// what the metadata says.
    pub authorization_endpoint: Option<String>,
    /// The token endpoint (RFC 6749 section 3.2): a URL, or a path below `url`. Default: what the
    /// metadata says.
    pub token_endpoint: Option<String>,
    /// Where the user's claims are fetched with the access token: a URL, or a path below `url`.
    /// Default: what the metadata says.
    pub userinfo_endpoint: Option<String>,
    /// Where the server's keys are (RFC 7517): a URL, or a path below `url`. Default: what the
    /// metadata says.
    pub jwks_uri: Option<String>,
    /// Whether an answer of the authorization endpoint has to say who it is from (RFC 9207).
    /// Default: when the metadata promises it.
    #[serde(default)]
    pub require_response_iss: bool,
    /// Whether the server may be called without TLS where it is not on this machine: whoever is on
    /// the way reads secrets, tokens and people's data, and can change keys. Default: no.
    #[serde(default)]
    pub plain_http: bool,
    /// Whether anybody at all can get an account there; profiles say so. Default: no.
    #[serde(default)]
    pub open_registration: bool,
    /// Whether routes for whoever is signed in are meant for anybody at all, where anybody can get
    /// an account. Default: no, and such a configuration is refused.
    #[serde(default)]
    pub anyone: bool,
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
    /// How we say who we are at the token endpoint. Default: `auto`.
    #[serde(default)]
    pub client_authentication: ClientAuthentication,
    /// The JWT by which we say who we are, where that is the way.
    #[serde(default)]
    pub client_assertion: ClientAssertion,
    /// How identifier and secret are encoded for Basic. Default: `form`.
    #[serde(default)]
    pub basic_encoding: BasicEncoding,
    /// What the authorization request asks for (RFC 6749 section 4.1.1, OpenID Connect Core 1.0
    /// section 3.1.2.1).
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
    /// How an ID token is checked.
    #[serde(default)]
    pub id_token: IdTokenSettings,
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
    pub errors: Vec<ErrorPattern>,
    /// How apps behind refuse an access token of this server, besides answering 401. Default: in no
    /// other way.
    #[serde(default)]
    pub signed_out_answers: Vec<SignedOutPattern>,
    /// How many token requests are made in any minute at most, all at once if need be; a fifth of
    /// them is kept for logins. Default: 600.
    #[serde(default = "calls_per_minute")]
    pub token_calls_per_minute: NonZeroU32,
    /// How many calls of the server may be under way at once, of which a fifth is kept for logins.
    /// Default: 64.
    #[serde(default = "concurrent_calls")]
    pub concurrent_calls: NonZeroU32,
    /// How long one call may take from connecting to the last byte, in seconds. Default: 15.
    #[serde(default = "deadline_secs")]
    pub deadline_secs: NonZeroU32,
    /// A PEM file of the authorities believed for this server. Default: the system's.
    pub ca_file: Option<PathBuf>,
}

impl Settings {
    /// Whether metadata and keys are read from the same places by the same authorities.
    pub(super) fn reads_the_same_as(&self, other: &Self) -> bool {
        let places = |settings: &Self| {
            [
                settings.issuer.clone(),
                settings.url.clone(),
                settings.metadata_url.clone(),
                settings.jwks_uri.clone(),
            ]
        };
        self.discovery == other.discovery
            && self.ca_file == other.ca_file
            && places(self) == places(other)
    }
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

fn concurrent_calls() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(63)
}

fn metadata_refresh_secs() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(3599)
}

/// Whether the server's metadata is read, and from where.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Discovery {
    /// It is not: all endpoints are set by hand.
    #[default]
    None,
    /// From `/.well-known/oauth-authorization-server` (RFC 8414 section 3).
    Oauth2,
    /// From `/.well-known/openid-configuration` (OpenID Connect Discovery 1.0 section 4).
    Openid,
}
