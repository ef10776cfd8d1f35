//! Maps verified claims to an [`Identity`].

use std::time::Duration;

use serde_json::Value;

use super::group_lists::ListedGroups;
use super::json::Object;
use super::settings::{ClaimNames, EmailsVerified, IdentitySettings};
use super::{GrantError, SetupError};
use crate::clock::Timestamp;
use crate::identity::{Claim, Email, Identity};
use crate::telemetry::EventLimiter;

/// The maximum length of a subject, in characters.
const MAX_SUBJECT: usize = 255;

/// The names of the claims at one provider.
#[derive(Debug)]
pub(super) struct ClaimMapping {
    provider: Box<str>,
    names: ClaimNames,
    emails_verified: EmailsVerified,
    /// True if the settings contain an endpoint that lists email addresses.
    asks_for_emails: bool,
    /// The paths of the additional claims that an app gets.
    additional: Vec<Box<str>>,
    /// The warnings that were logged in the last 24 hours.
    hints: EventLimiter,
}

impl ClaimMapping {
    pub(super) fn new(provider: &str, settings: &IdentitySettings) -> Result<Self, SetupError> {
        let names = &settings.claims;
        let single = [
            &names.subject,
            &names.email,
            &names.email_verified,
            &names.preferred_username,
            &names.name,
        ];
        if single.into_iter().any(|name| name.contains("[]")) {
            let (key, problem) = ("identity.claims", "may lead into a list only for `groups`");
            return Err(SetupError::Setting { key, problem });
        }
        Ok(Self {
            provider: provider.into(),
            names: names.clone(),
            emails_verified: settings.emails_verified,
            asks_for_emails: settings.emails_endpoint.is_some(),
            additional: settings.kept.claims.clone(),
            hints: EventLimiter::new(Duration::from_hours(24)),
        })
    }

    /// Combines the claims of several sources into the identity at `issuer`. Returns `None` if
    /// there is no usable subject. If several sources contain the same claim, the gateway uses the
    /// claim from the first of these sources. In `sources`, the ID token comes before the userinfo.
    /// The caller has checked that all sources have the same subject. A claim is ignored if it has
    /// an unexpected type, or characters that are not allowed in a field.
    pub(super) fn identity(
        &self,
        sources: &[&Object],
        issuer: &str,
        now: Timestamp,
    ) -> Option<Identity> {
        let names = &self.names;
        if self.groups_are_elsewhere(sources) && self.is_due("groups_elsewhere", now) {
            // Because the gateway knows no group of the user, a rule that requires a group refuses
            // the user. The warning tells the operator why the groups are unknown.
            tracing::warn!(
                provider = &*self.provider,
                setting = "identity.claims.groups",
                "The user has too many groups for a token, so no group is known"
            );
        }
        let text = |key, name: &str| self.text(sources, (key, name), now);
        let identity = Identity {
            subject: Some(subject(first(sources, &names.subject)?)?),
            email: self.email(sources, now),
            preferred_username: text(
                "identity.claims.preferred_username",
                &names.preferred_username,
            ),
            name: text("identity.claims.name", &names.name),
            ..Identity::nameless(issuer)
        };
        let identity = identity.with_claims(self.additional(sources, now));
        Some(identity.with_groups(self.groups(sources, now)))
    }

    /// Returns the additional claims that an app gets, each with its path. An integer is sent as
    /// decimal digits, and a boolean is sent as `true` or `false`.
    fn additional(&self, sources: &[&Object], now: Timestamp) -> Vec<(Box<str>, Claim)> {
        let claim = |path: &str| {
            let value = first(sources, path)?;
            let claim = match value {
                Value::String(text) => Claim::new(text),
                // The JSON parser may round a number that has a fraction or is very large.
                Value::Number(number) if !number.is_f64() => Claim::new(&number.to_string()),
                Value::Bool(truth) => Claim::new(if *truth { "true" } else { "false" }),
                Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
            };
            if claim.is_none() && value.as_str() != Some("") {
                // The hint names the claim in the same form as the settings of an app, so that the
                // operator can find the claim in the settings.
                self.log_form_hint(&format!("claim = \"{path}\""), now);
            }
            Some((path.into(), claim?))
        };
        self.additional
            .iter()
            .filter_map(|path| claim(path))
            .collect()
    }

    /// Creates the error for claims without a usable subject.
    pub(super) fn no_subject(&self) -> GrantError {
        GrantError::NoSubject {
            claim: self.names.subject.as_str().into(),
        }
    }

    /// Adds the groups that the gateway read from the groups endpoints to the groups of `identity`.
    pub(super) fn with_listed(
        &self,
        identity: Identity,
        listed: ListedGroups,
        now: Timestamp,
    ) -> Identity {
        let setting = "identity.groups_endpoints";
        if listed.others > 0 {
            self.log_form_hint(setting, now);
        }
        if listed.cut && self.is_due("groups_cut", now) {
            tracing::warn!(
                provider = &*self.provider,
                setting,
                "A list of groups has more than 10 pages, so the other groups are not known"
            );
        }
        let known: Vec<Claim> = identity.groups.iter().cloned().collect();
        identity.with_groups(known.into_iter().chain(listed.groups))
    }

    /// Returns true if the warning `hint` was not logged in the last 24 hours.
    pub(super) fn is_due(&self, hint: &str, now: Timestamp) -> bool {
        self.hints
            .is_due(hint, Duration::from_millis(now.as_millis()))
    }

    /// Logs a warning that a claim is present but cannot be used.
    fn log_form_hint(&self, setting: &str, now: Timestamp) {
        if self.is_due(setting, now) {
            tracing::warn!(
                provider = &*self.provider,
                setting,
                "A claim has an unexpected form, so it is not used"
            );
        }
    }

    /// Returns the text of a claim.
    fn text(
        &self,
        sources: &[&Object],
        (key, name): (&str, &str),
        now: Timestamp,
    ) -> Option<Claim> {
        let value = first(sources, name)?;
        let claim = text(Some(value));
        // Some providers send an empty text instead of omitting a claim.
        if claim.is_none() && value.as_str() != Some("") {
            self.log_form_hint(key, now);
        }
        claim
    }

    fn email(&self, sources: &[&Object], now: Timestamp) -> Option<Email> {
        let address = self.text(sources, ("identity.claims.email", &self.names.email), now)?;
        let value = first(sources, &self.names.email)?;
        // If a source states that an address is verified, the statement applies only to the address
        // in the same source.
        let naming = sources
            .iter()
            .filter(|members| find(members, &self.names.email) == Some(value));
        let verified = naming.clone().any(|members| self.is_verified(members));
        if !verified && !self.asks_for_emails {
            let mut claims = naming.filter_map(|members| find(members, &self.names.email_verified));
            self.log_unverified_hint(
                claims.any(|claim| claim.is_string() || claim.is_number()),
                now,
            );
        }
        Some(Email { address, verified })
    }

    /// Logs a warning: rules and apps do not get the email address. `odd` is true if the claim
    /// `email_verified` is a string or a number.
    fn log_unverified_hint(&self, odd: bool, now: Timestamp) {
        let setting = "identity.emails_verified";
        let provider = &*self.provider;
        if odd && self.is_due("email_verified_form", now) {
            tracing::warn!(
                provider,
                setting,
                "The claim email_verified is not true or false, so no address counts as verified"
            );
        } else if !odd && self.is_due("email_unverified", now) {
            tracing::warn!(
                provider,
                setting,
                "An email address is not verified, so neither rules nor apps get it"
            );
        }
    }

    fn is_verified(&self, members: &Object) -> bool {
        let claim = find(members, &self.names.email_verified);
        match self.emails_verified {
            EmailsVerified::Always => true,
            EmailsVerified::Claim => claim == Some(&Value::Bool(true)),
            EmailsVerified::Timestamp => claim.is_some_and(is_time),
        }
    }

    /// Returns all groups from the first source that contains the groups claim. The function logs a
    /// warning if the groups claim also contains values that are not groups.
    fn groups(&self, sources: &[&Object], now: Timestamp) -> Vec<Claim> {
        let path = &*self.names.groups;
        let mut lists = sources.iter().filter_map(|members| find_all(members, path));
        let found = if let Some(value) = first(sources, path) {
            groups(value)
        } else if let Some(list) = lists.next() {
            claims(list.into_iter().map(Value::as_str))
        } else {
            return Vec::new();
        };
        if found.others > 0 {
            self.log_form_hint("identity.claims.groups", now);
        }
        found.groups
    }

    /// Returns true if the token contains no groups, but names a URL for the groups (OpenID Connect
    /// Core 1.0 section 5.6.2). A provider sends a URL instead of the groups if a user has too many
    /// groups for a token. The gateway never calls a URL that a token names.
    fn groups_are_elsewhere(&self, sources: &[&Object]) -> bool {
        let claim = &*self.names.groups;
        let top = claim.split('.').next().unwrap_or_default();
        let elsewhere = sources.iter().any(|members| {
            let names = members.get("_claim_names").and_then(Value::as_object);
            names.is_some_and(|names| names.contains_key(claim) || names.contains_key(top))
        });
        elsewhere && first(sources, claim).is_none()
    }
}

/// Returns the value of a claim from the first source that contains the claim. A claim with the
/// value null is ignored.
fn first<'a>(sources: &[&'a Object], name: &str) -> Option<&'a Value> {
    let mut found = sources.iter().filter_map(|members| find(members, name));
    found.find(|value| !value.is_null())
}

fn text(value: Option<&Value>) -> Option<Claim> {
    Claim::new(value?.as_str()?)
}

/// Finds a claim by its full name, or by a path with dots such as `data.user.id`.
pub(super) fn find<'a>(members: &'a Object, name: &str) -> Option<&'a Value> {
    if name.is_empty() {
        return None;
    }
    // A full name has priority over a path, because a full name such as
    // `https://example.com/groups` can contain dots.
    members.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        let first = members.get(first)?;
        rest.split('.')
            .try_fold(first, |value, part| value.as_object()?.get(part))
    })
}

/// Reads a subject from a string or a whole number. In many userinfo responses, the subject is a
/// numeric database key.
fn subject(value: &Value) -> Option<Claim> {
    match value {
        Value::String(text) => Claim::new(text),
        // The JSON parser may round a number that has a fraction or is very large. Two users could
        // have the same subject after the JSON parser has rounded both subjects.
        Value::Number(number) if !number.is_f64() => Claim::new(&number.to_string()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    }
    .filter(|subject| subject.as_str().chars().count() <= MAX_SUBJECT)
}

/// Finds the values to which a path with `[]` leads. For example, `groups[].name` leads to `name`
/// in each entry of the list `groups`. Returns `None` if the path has no `[]`. The function also
/// returns `None` if `members` has no list at the part of the path before the first `[]`.
fn find_all<'a>(members: &'a Object, path: &str) -> Option<Vec<&'a Value>> {
    let (list, rest) = path.split_once("[]")?;
    let entries = find(members, list)?.as_array()?;
    let rest = rest.strip_prefix('.').unwrap_or(rest);
    if rest.is_empty() {
        return Some(entries.iter().collect());
    }
    let below = entries.iter().flat_map(|entry| {
        let members = entry.as_object();
        let list = members.and_then(|members| find_all(members, rest));
        let single = members.and_then(|members| find(members, rest));
        // If an entry of the list does not have the member, the result contains null, so that the
        // gateway logs a warning about the entry.
        list.unwrap_or_else(|| vec![single.unwrap_or(&Value::Null)])
    });
    Some(below.collect())
}

/// The groups in a claim, and the number of other values in the claim.
#[derive(Default)]
struct FoundGroups {
    groups: Vec<Claim>,
    others: usize,
}

/// Reads the groups from an array of strings, from one string, or from the member names of an
/// object (Zitadel's roles). In an object, only a member whose value is also an object is a group.
/// For example, a member with the value `false` can name a group to which the user does not belong.
fn groups(value: &Value) -> FoundGroups {
    match value {
        Value::Array(groups) => claims(groups.iter().map(Value::as_str)),
        Value::String(group) => claims([Some(&**group)].into_iter()),
        Value::Object(groups) => {
            let meant = groups
                .iter()
                .filter(|(_name, value)| !value.is_null() && **value != Value::Bool(false));
            claims(meant.map(|(name, value)| value.is_object().then_some(&**name)))
        }
        Value::Null => FoundGroups::default(),
        Value::Bool(_) | Value::Number(_) => claims([None].into_iter()),
    }
}

fn claims<'a>(texts: impl Iterator<Item = Option<&'a str>>) -> FoundGroups {
    let mut found = FoundGroups::default();
    for text in texts {
        match text.and_then(Claim::new) {
            Some(group) => found.groups.push(group),
            None => found.others = found.others.saturating_add(1),
        }
    }
    found
}

/// Returns true if `value` can be a time. A time is a text that begins with a year, or a number of
/// seconds since the Unix epoch.
fn is_time(value: &Value) -> bool {
    match value {
        Value::String(text) => {
            let year = text.as_bytes().get(..4);
            year.is_some_and(|year| year.iter().all(u8::is_ascii_digit))
                // The year 0000 is excluded, because some databases store a missing date as year
                // 0000.
                && !text.starts_with("0000")
        }
        Value::Number(number) => number.as_f64().is_some_and(|seconds| seconds > 0.0),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests;
