//! Where the identity comes from.

use serde::Deserialize;

/// Where the identity comes from and what its claims are called there.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct IdentitySettings {
    /// Where the claims are read.
    pub source: IdentitySource,
    /// Whether the claims of the userinfo endpoint are added to those of the ID token, where the
    /// server has one. Default: no.
    pub userinfo: bool,
    /// How the access token is sent to the userinfo endpoint. Default: `header`.
    pub userinfo_bearer: UserinfoBearer,
    /// Where the user's email addresses are listed when the userinfo has none that is verified: a
    /// JSON array of objects with `email`, `primary` and `verified`, as GitHub has it.
    pub emails_endpoint: Option<String>,
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
    /// The claims of the ID token (OpenID Connect Core 1.0 section 2), which has to be there.
    IdToken,
    /// Nowhere: whoever the server lets in is signed in, nameless.
    #[default]
    None,
    /// The object at the userinfo endpoint.
    Userinfo,
}

/// How the access token is sent to the userinfo endpoint (RFC 6750 section 2).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum UserinfoBearer {
    /// As a parameter of a form.
    Body,
    /// In the `Authorization` field.
    #[default]
    Header,
}

/// What claims are called. A name is looked for as it stands, then as a path with dots
/// (`data.user.id`). An empty name is never found.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
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
    /// The groups: an array of texts, one text as the only group, or an object with an object for
    /// each group, under its name. Default: `groups`.
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
