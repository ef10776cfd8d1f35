//! The settings that define how the gateway determines the identity of a user.

use serde::Deserialize;

/// The source of the identity, and the names of its claims.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct IdentitySettings {
    /// The source from which the gateway reads the claims.
    pub source: IdentitySource,
    /// True if claims from the userinfo endpoint are added to the claims of the ID token. The
    /// setting has no effect if the provider has no userinfo endpoint. Default: no.
    pub userinfo: bool,
    /// The method by which the gateway sends the access token to the userinfo endpoint. Default:
    /// `header`.
    pub userinfo_bearer: UserinfoBearer,
    /// The endpoint that lists the user's email addresses. The gateway calls the endpoint for email
    /// addresses only if the userinfo has no verified address. The endpoint must return a JSON
    /// array of objects with `email`, `primary` and `verified`, like the endpoint of GitHub.
    pub emails_endpoint: Option<String>,
    /// The lists of the user's groups. At a login, the gateway reads all these lists, and adds the
    /// listed groups to the groups in the user's claims.
    pub groups_endpoints: Vec<GroupsEndpoint>,
    /// The names of the claims from which the gateway reads the identity.
    pub claims: ClaimNames,
    /// The rule that decides whether an email address is verified.
    pub emails_verified: EmailsVerified,
    /// The values that a session keeps only because the settings of an app need them.
    #[serde(skip)]
    pub(crate) kept: KeptValues,
}

/// The values that a session keeps only because the settings of an app need them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KeptValues {
    /// The paths of additional claims.
    pub(crate) claims: Vec<Box<str>>,
    /// True if the session keeps the ID token.
    pub(crate) id_token: bool,
}

/// The source from which the gateway reads the identity of a user.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum IdentitySource {
    /// The claims of the verified JWT access token.
    AccessToken,
    /// The claims of the ID token (OpenID Connect Core 1.0 section 2). The provider must send an ID
    /// token.
    IdToken,
    /// No source. There is no identity: every user whom the provider accepts is signed in.
    #[default]
    None,
    /// The JSON object from the userinfo endpoint.
    Userinfo,
}

/// A list of groups: a JSON array of objects, which can have several pages.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct GroupsEndpoint {
    /// The endpoint that returns the list: a URL, or a path below `url`.
    pub endpoint: String,
    /// The names of the JSON members that contain the parts of a group name. The parts of a group
    /// name are joined with `/`. A path with dots names a member of a nested object
    /// (`organization.login`).
    pub name: Vec<String>,
}

/// The method by which the gateway sends the access token to the userinfo endpoint (RFC 6750
/// section 2).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum UserinfoBearer {
    /// The access token is sent as a parameter of a form.
    Body,
    /// The access token is sent in the `Authorization` field.
    #[default]
    Header,
}

/// The names of the claims from which the gateway reads the identity. The gateway first looks for a
/// claim with exactly the configured name. If no claim has the configured name, the gateway reads
/// the name as a path with dots (`data.user.id`). An empty name matches no claim.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct ClaimNames {
    /// The claim that contains the subject, which is a string or a whole number. Default: `sub`.
    pub subject: String,
    /// The email address. Default: `email`.
    pub email: String,
    /// The claim that states whether the email address is verified, or when the email address was
    /// verified. Default: `email_verified`.
    pub email_verified: String,
    /// The user name. Default: `preferred_username`.
    pub preferred_username: String,
    /// The display name. Default: `name`.
    pub name: String,
    /// The claim that contains the groups, which are an array of strings, one string, or an object.
    /// If the claim is an object, the name of each member whose value is an object is the name of a
    /// group. A path with `[]` names a member in each object of an array (`groups[].name`).
    /// Default: `groups`.
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

/// The rule that decides whether an email address is verified.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum EmailsVerified {
    /// Every address is verified, because the provider accepts only users with a verified address.
    Always,
    /// The email address is verified if the claim `email_verified` is `true`. The gateway treats
    /// the email address as unverified if the claim `email_verified` is the string `"true"` or the
    /// number 1.
    #[default]
    Claim,
    /// The email address is verified if the claim `email_verified` contains a time, as in Laravel's
    /// `email_verified_at`. The email address is not verified if the claim `email_verified` is null
    /// or missing.
    Timestamp,
}
