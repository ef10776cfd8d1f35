//! Refuses credentials that the client authentication of a provider never uses.

use super::SetupError;
use super::client_auth::{PRIVATE_KEY_ENV, PRIVATE_KEY_FILE};
use super::settings::{ClientAuthentication, Settings};

/// Refuses a setting that the configured authentication method never uses. If the method is `auto`,
/// the provider's metadata decide later which method is used, so this function refuses no setting.
pub(super) fn refuse_unused(settings: &Settings) -> Result<(), SetupError> {
    use ClientAuthentication as By;
    let by = settings.client_authentication;
    if by == By::Auto {
        return Ok(());
    }
    let assertion = &settings.client_assertion;
    let uses_key = by == By::PrivateKeyJwt;
    let uses_assertion = uses_key || by == By::ClientSecretJwt;
    let has_own_revocation = settings.sign_out.own_revocation().is_some();
    let uses_secret = has_own_revocation || (!uses_key && by != By::None);
    for (key, is_set, is_used) in [
        (
            "client_secret_file",
            settings.client_secret_file.is_some(),
            uses_secret,
        ),
        (
            "client_secret_env",
            settings.client_secret_env.is_some(),
            uses_secret,
        ),
        (
            PRIVATE_KEY_FILE,
            assertion.private_key_file.is_some(),
            uses_key,
        ),
        (
            PRIVATE_KEY_ENV,
            assertion.private_key_env.is_some(),
            uses_key,
        ),
        (
            "client_assertion.key_id",
            assertion.key_id.is_some(),
            uses_key,
        ),
        (
            "client_assertion.algorithm",
            assertion.algorithm.is_some(),
            uses_key,
        ),
        (
            "client_assertion.audience",
            assertion.audience.is_some(),
            uses_assertion,
        ),
    ] {
        if is_set && !is_used {
            return Err(SetupError::Setting {
                key,
                problem: unused(by),
            });
        }
    }
    Ok(())
}

/// Returns the error text for a setting that the authentication method `by` does not use.
fn unused(by: ClientAuthentication) -> &'static str {
    match by {
        ClientAuthentication::Auto | ClientAuthentication::ClientSecretBasic => {
            "is given, but client_authentication is \"client_secret_basic\", which does not use it"
        }
        ClientAuthentication::ClientSecretPost => {
            "is given, but client_authentication is \"client_secret_post\", which does not use it"
        }
        ClientAuthentication::ClientSecretJwt => {
            "is given, but client_authentication is \"client_secret_jwt\", which does not use it"
        }
        ClientAuthentication::PrivateKeyJwt => {
            "is given, but client_authentication is \"private_key_jwt\", which does not use it"
        }
        ClientAuthentication::None => "is given, but client_authentication is \"none\"",
    }
}
