//! The settings of one provider, from the operator and the profile.
//!
//! Every key may come from the profile or from the operator's file. The `config` module has already
//! merged the profile and the operator's file. [`Provider::new`](super::Provider::new) makes the
//! checks that need more than one setting, and reads the files.

mod identity;
mod request;
mod session;
mod sign_out;
mod signed_out;
mod token_checks;
mod token_response;

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

pub use self::identity::{
    ClaimNames, EmailsVerified, GroupsEndpoint, IdentitySettings, IdentitySource, KeptValues,
    UserinfoBearer,
};
pub use self::request::{
    AuthorizationParameters, BasicEncoding, BodyFormat, ClientAssertion, ClientAuthentication,
    PassedParameters, ResponseMode, TokenRequest,
};
pub use self::session::SessionSettings;
pub use self::sign_out::{
    AnotherAccount, RevocationMethod, RevocationRequest, RevokedToken, SignOutSettings,
};
pub use self::signed_out::{FieldName, FieldPattern, SignedOutPattern};
pub(super) use self::token_checks::advice;
pub use self::token_checks::{AccessTokenSettings, Algorithm, IdTokenSettings};
pub use self::token_response::{ErrorMeaning, ErrorPattern, GrantType, Refresh};

/// The gateway's client settings for one provider, and the provider's differences from the
/// standards.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a separate key")]
pub struct Settings {
    /// The name of the profile that contains the default settings. The name of the profile has no
    /// effect in this module, because the `config` module has already merged the profile.
    pub profile: Option<String>,
    /// The name of the provider on the page where the user chooses a provider. By default, the page
    /// shows the configured name of the provider.
    pub display_name: Option<String>,
    /// The issuer identifier, byte for byte (OpenID Connect Core 1.0 section 2). The text
    /// `{tenantid}` in the issuer identifier is a placeholder for each of `tenants`.
    pub issuer: Option<String>,
    /// The tenants whose users are accepted, if the provider has several tenants.
    #[serde(default)]
    pub tenants: Vec<String>,
    /// The source of the metadata. By default, the gateway reads no metadata.
    #[serde(default)]
    pub discovery: Discovery,
    /// The URL that replaces the issuer when the gateway calls the provider. Browsers still use the
    /// host name of the issuer. By default, the gateway uses the same URLs as browsers.
    pub internal_url: Option<String>,
    /// The URL of the metadata, if the metadata is not at the standard location.
    pub metadata_url: Option<String>,
    /// The interval between two reads of metadata and keys, in seconds. Default: 3600.
    #[serde(default = "metadata_refresh_secs")]
    pub metadata_refresh_secs: NonZeroU32,
    /// The URL of the provider (`https://id.example`). An endpoint that begins with `/` is appended
    /// to the setting `url`.
    pub url: Option<String>,
    /// The authorization endpoint (RFC 6749 section 3.1): a URL, or a path below `url`. Default:
    /// from the metadata.
    pub authorization_endpoint: Option<String>,
    /// The token endpoint (RFC 6749 section 3.2): a URL, or a path below `url`. Default: from the
    /// metadata.
    pub token_endpoint: Option<String>,
    /// The endpoint that returns the user's claims for the access token: a URL, or a path below
    /// `url`. Default: from the metadata.
    pub userinfo_endpoint: Option<String>,
    /// The URL of the provider's keys (RFC 7517), or a path below `url`. Default: from the
    /// metadata.
    pub jwks_uri: Option<String>,
    /// The end-session endpoint, to which a sign-out sends the browser (OpenID Connect
    /// RP-Initiated Logout 1.0): a URL, or a path below `url`. Default: from the metadata.
    pub end_session_endpoint: Option<String>,
    /// The revocation endpoint (RFC 7009): a URL, or a path below `url`. Default: from the
    /// metadata.
    pub revocation_endpoint: Option<String>,
    /// What a sign-out does at the provider.
    #[serde(default)]
    pub sign_out: SignOutSettings,
    /// The limits for the sessions of the users of the provider.
    #[serde(default)]
    pub session: SessionSettings,
    /// True if an authorization response must contain the issuer (RFC 9207). By default, the
    /// metadata decides whether the issuer is required.
    #[serde(default)]
    pub require_response_iss: bool,
    /// True if the gateway may use plain HTTP (without TLS) to call a provider on another machine.
    /// Without TLS, an attacker on the network can read secrets, tokens and personal data, and can
    /// change keys. Default: no.
    #[serde(default)]
    pub plain_http: bool,
    /// True if anybody can create an account at the provider. Some profiles set
    /// `open_registration`. Default: no.
    #[serde(default)]
    pub open_registration: bool,
    /// True if every account at the provider may use routes with the access "signed-in", although
    /// anybody can create an account. If `anyone` is false and `open_registration` is true, no
    /// route may admit every signed-in user of the provider. Default: no.
    #[serde(default)]
    pub anyone: bool,
    /// The client identifier that the provider gave to the gateway. The settings may also contain a
    /// number as the client identifier.
    #[serde(deserialize_with = "text_or_number")]
    pub client_id: String,
    /// The file that contains the client secret. The line breaks at the end of the file are not
    /// part of the secret.
    pub client_secret_file: Option<PathBuf>,
    /// The name of the environment variable that contains the client secret.
    pub client_secret_env: Option<String>,
    /// The requested scopes, in the order of the request.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// True if the gateway uses PKCE with S256 (RFC 7636). Default: yes.
    #[serde(default = "yes")]
    pub pkce: bool,
    /// The client authentication at the token endpoint. Default: `auto`.
    #[serde(default)]
    pub client_authentication: ClientAuthentication,
    /// The client assertion, for authentication by JWT.
    #[serde(default)]
    pub client_assertion: ClientAssertion,
    /// The encoding of the client identifier and the secret in the Basic scheme. Default: `form`.
    #[serde(default)]
    pub basic_encoding: BasicEncoding,
    /// Parameters of the authorization request (RFC 6749 section 4.1.1, OpenID Connect Core 1.0
    /// section 3.1.2.1).
    #[serde(default)]
    pub authorization_request: AuthorizationParameters,
    /// The format of the token request.
    #[serde(default)]
    pub token_request: TokenRequest,
    /// The lifetime of an access token if the response has no `expires_in`, in seconds. By default,
    /// the lifetime is unknown, and only the deadlines of the session apply.
    pub default_expires_in_secs: Option<NonZeroU64>,
    /// The source of the identity.
    #[serde(default)]
    pub identity: IdentitySettings,
    /// The settings for the verification of an ID token.
    #[serde(default)]
    pub id_token: IdTokenSettings,
    /// The checks of a JWT access token. If keys are configured, the gateway checks every access
    /// token, even if the identity comes from another source.
    #[serde(default)]
    pub access_token: AccessTokenSettings,
    /// The settings of refreshes.
    #[serde(default)]
    pub refresh: Refresh,
    /// Error responses of the token endpoint whose meaning differs from RFC 6749. The first pattern
    /// that matches a response decides the meaning of the response.
    #[serde(default)]
    pub errors: Vec<ErrorPattern>,
    /// Patterns for responses by which apps refuse an access token. A refusal with the status 401
    /// needs no pattern. Default: none.
    #[serde(default)]
    pub signed_out_answers: Vec<SignedOutPattern>,
    /// The maximum number of token requests in any minute. The gateway does not spread the token
    /// requests evenly over the minute. A fifth of these token requests is reserved for logins.
    /// Replicas that share a session store divide the number. Default: 600.
    #[serde(default = "calls_per_minute")]
    pub token_calls_per_minute: NonZeroU32,
    /// The maximum number of concurrent calls to the provider. A fifth of the calls is reserved for
    /// logins. Replicas that share a session store divide the number. Default: 64.
    #[serde(default = "concurrent_calls")]
    pub concurrent_calls: NonZeroU32,
    /// The time limit of one call in seconds, from the connection attempt to the last byte.
    /// Default: 15.
    #[serde(default = "deadline_secs")]
    pub deadline_secs: NonZeroU32,
    /// A PEM file with the certificates that are trusted for this provider: certificate
    /// authorities, or the certificate of the provider itself. By default, the gateway trusts the
    /// certificate authorities of the system.
    pub ca_file: Option<PathBuf>,
    /// The HTTP proxy for all calls to the provider: `http://HOST:PORT`, or `none`. By default, the
    /// gateway uses the proxies in the environment variables `https_proxy` and `http_proxy`.
    pub proxy: Option<String>,
    /// The name for which the certificate of the provider must be valid in every call. By default,
    /// the certificate must be valid for the host of the called URL.
    pub server_name: Option<String>,
}

impl Settings {
    /// Returns true if `self` and `other` name the same URLs for metadata and keys, and trust the
    /// same certificates.
    pub(super) fn has_same_sources_as(&self, other: &Self) -> bool {
        let places = |settings: &Self| {
            [
                settings.issuer.clone(),
                settings.internal_url.clone(),
                settings.url.clone(),
                settings.metadata_url.clone(),
                settings.jwks_uri.clone(),
                // If the settings contain the URL of an endpoint, the gateway does not read this
                // URL from the metadata.
                settings.authorization_endpoint.clone(),
                settings.token_endpoint.clone(),
                settings.userinfo_endpoint.clone(),
                settings.end_session_endpoint.clone(),
                settings.revocation_endpoint.clone(),
            ]
        };
        self.discovery == other.discovery
            && self.ca_file == other.ca_file
            && self.server_name == other.server_name
            && places(self) == places(other)
    }
}

/// Reads a text or a number, and returns a text. Older authorization servers use numbers as client
/// identifiers. If the value of an environment variable looks like a number, the `config` module
/// parses the value as a number.
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

/// The source of the metadata.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Discovery {
    /// No metadata. All endpoints are configured.
    #[default]
    None,
    /// The metadata is at `/.well-known/oauth-authorization-server` (RFC 8414 section 3).
    Oauth2,
    /// The metadata is at `/.well-known/openid-configuration` (OpenID Connect Discovery 1.0 section
    /// 4).
    Openid,
}
