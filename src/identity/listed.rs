//! The claims of a user that the settings list, as members of a JSON object.

use serde::{Deserialize, Serialize};

use super::{Claim, Identity};

/// A claim that the settings can list for a signed assertion or for the userinfo endpoint of the
/// gateway.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ListedClaim {
    /// The email address.
    Email,
    /// The groups.
    Groups,
    /// The display name.
    Name,
    /// The user name at the provider.
    PreferredUsername,
}

/// The values of the listed claims. A claim that the user does not have has no value, except that the
/// list of groups can be empty.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ListedClaims<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email_verified: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) preferred_username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    /// The names of the groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) groups: Option<Vec<&'a str>>,
}

impl<'a> ListedClaims<'a> {
    /// Returns the claims of `identity` that `listed` contains.
    pub(crate) fn of(identity: &'a Identity, listed: &[ListedClaim]) -> Self {
        let lists = |claim| listed.contains(&claim);
        let text = |claim, value: &'a Option<Claim>| {
            let value = value.as_ref().filter(|_| lists(claim));
            value.map(Claim::as_str)
        };
        let email = identity.email.as_ref();
        let email = email.filter(|_| lists(ListedClaim::Email));
        let names = || identity.groups.iter().map(Claim::as_str).collect();
        Self {
            email: email.map(|email| email.address.as_str()),
            email_verified: email.map(|email| email.verified),
            preferred_username: text(ListedClaim::PreferredUsername, &identity.preferred_username),
            name: text(ListedClaim::Name, &identity.name),
            groups: lists(ListedClaim::Groups).then(names),
        }
    }

    /// Removes the email address, unless the provider has verified it.
    pub(crate) fn with_verified_email_only(mut self) -> Self {
        if self.email_verified != Some(true) {
            self.email = None;
            self.email_verified = None;
        }
        self
    }
}
