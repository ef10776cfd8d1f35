//! Reads the settings of the providers, and creates the providers.

use std::collections::BTreeMap;
use std::sync::Arc;

use figment::Figment;
use figment::value::Value;

use super::app_fields::kept_values;
use super::section::Reader;
use super::{deadlines, entries};
use crate::access::KnownClaims;
use crate::provider::settings::{EmailsVerified, IdentitySource};
use crate::provider::{self, Provider, Providers, profile};
use crate::secret::Environment;
use crate::session::LimitsOfProviders;
use crate::telemetry::chain;

/// The providers that the settings define.
pub(super) struct ParsedProviders {
    /// The providers that were created from the settings without a problem.
    pub(super) opened: Providers,
    /// The names of all providers, including providers with a problem. If the settings of a
    /// provider have a problem, a route that names this provider does not cause a second error
    /// message.
    pub(super) names: Vec<String>,
    /// The names of the providers with `open_registration` and without `anyone`.
    pub(super) open: Vec<String>,
    /// The claims that each provider can give. The map does not contain the providers whose
    /// settings have a problem.
    pub(super) known: BTreeMap<String, KnownClaims>,
    /// The limits of the providers that have limits for their sessions.
    pub(super) limits: LimitsOfProviders,
}

/// Creates each provider whose settings have no problem.
pub(super) fn providers(
    settings: &Figment,
    (opened, environment): (&Providers, &Environment),
    reader: &mut Reader<'_>,
) -> ParsedProviders {
    let entries = entries(settings, reader, "providers", Some("provider"));
    let names = entries.keys().cloned().collect();
    let (mut providers, mut open) = (Providers::new(), Vec::new());
    let (mut known, mut limits) = (BTreeMap::new(), LimitsOfProviders::new());
    let kept = kept_values(settings);
    for (name, value) in entries {
        let key = format!("providers.{name}");
        if !names_known_profile(&key, &value, reader) || !is_allowed_name(&key, &name, reader) {
            continue;
        }
        let noted = reader.problems.len();
        let Some(mut settings) = reader.read_value::<provider::Settings>(&key, value) else {
            continue;
        };
        settings.identity.kept = kept.clone();
        if settings.open_registration && !settings.anyone {
            open.push(name.clone());
        }
        report_unreadable_files(&settings, &key, reader);
        // If the settings of a provider have a problem, the provider is not created, because the
        // creation could report the same problem a second time.
        if reader.problems.len() > noted {
            continue;
        }
        match Provider::new(&name, &settings, environment) {
            Ok(provider) => {
                let mut others = providers.values();
                if let Some(other) = others.find(|other| other.shares_webhook_key(&provider)) {
                    let reason = format!(
                        "names a file with a key of the provider `{}`; each provider needs its own \
                         key",
                        other.name()
                    );
                    reader.note(&format!("{key}.sign_out.webhook_key_files"), reason);
                }
                known.insert(name.clone(), known_claims(&settings));
                let own = deadlines::limits(settings.session);
                limits.extend(own.map(|own| (name.as_str().into(), own)));
                let provider = match opened.get(&*name) {
                    Some(before) => provider.replacing(before),
                    None => Arc::new(provider),
                };
                providers.insert(name.into(), provider);
            }
            Err(error) => {
                let reason = error.problem().map_or_else(|| chain(&error), str::to_owned);
                reader.note(&format!("{key}.{}", error.key()), reason);
            }
        }
    }
    ParsedProviders {
        opened: providers,
        names,
        open,
        known,
        limits,
    }
}

/// Returns true if the section of a provider names a known profile. Reports a problem if the
/// profile is missing or unknown.
fn names_known_profile(key: &str, section: &Value, reader: &mut Reader<'_>) -> bool {
    let named = section.find_ref("profile").and_then(Value::as_str);
    let Some(named) = named else {
        let reason = format!("`profile` is missing; use one of {}", known_profiles());
        reader.note(key, reason);
        return false;
    };
    let is_known = profile::find(named).is_some();
    if !is_known {
        let reason = format!(
            "`{named}` is not a profile; use one of {}",
            known_profiles()
        );
        reader.note(&format!("{key}.profile"), reason);
    }
    is_known
}

/// Returns true if `name` is allowed as the name of a provider. Reports a problem if `name` is not
/// allowed.
fn is_allowed_name(key: &str, name: &str, reader: &mut Reader<'_>) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_allowed_name = name.bytes().all(allowed);
    if !is_allowed_name {
        let reason = "the name of a provider may contain only letters, digits, `-` and `_`";
        reader.note(key, reason);
    }
    is_allowed_name
}

/// Checks the files that the settings of a provider name, and reports each file that cannot be
/// opened.
fn report_unreadable_files(settings: &provider::Settings, key: &str, reader: &mut Reader<'_>) {
    let single = [
        ("client_secret_file", settings.client_secret_file.as_ref()),
        ("ca_file", settings.ca_file.as_ref()),
        (
            "client_assertion.private_key_file",
            settings.client_assertion.private_key_file.as_ref(),
        ),
        ("id_token.jwks_file", settings.id_token.jwks_file.as_ref()),
    ];
    let single = single
        .into_iter()
        .filter_map(|(below, path)| Some((below, path?)));
    let keys = settings.access_token.public_key_files.iter();
    let keys = keys.map(|path| ("access_token.public_key_files", path));
    let more = settings.id_token.public_key_files.iter();
    let more = more.map(|path| ("id_token.public_key_files", path));
    let webhook = settings.sign_out.webhook_key_files.iter();
    let webhook = webhook.map(|path| ("sign_out.webhook_key_files", path));
    for (below, path) in single.chain(keys).chain(more).chain(webhook) {
        if let Err(error) = std::fs::File::open(path) {
            let reason = format!("{} cannot be read: {error}", path.display());
            reader.note(&format!("{key}.{below}"), reason);
        }
    }
}

fn known_profiles() -> String {
    profile::names().collect::<Vec<_>>().join(", ")
}

/// Returns the claims that a provider with these settings can give.
fn known_claims(settings: &provider::Settings) -> KnownClaims {
    let identity = &settings.identity;
    let some = identity.source != IdentitySource::None;
    let claims = &identity.claims;
    let verifies = match identity.emails_verified {
        EmailsVerified::Always => true,
        EmailsVerified::Claim | EmailsVerified::Timestamp => {
            !claims.email_verified.is_empty() || identity.emails_endpoint.is_some()
        }
    };
    let address = !claims.email.is_empty() || identity.emails_endpoint.is_some();
    KnownClaims {
        subject: some,
        groups: some && (!claims.groups.is_empty() || !identity.groups_endpoints.is_empty()),
        verified_email: some && verifies && address,
        id_token: identity.source == IdentitySource::IdToken,
    }
}
