//! Checks of a provider over the network, for the command `sidegate check --online`.

use std::sync::Arc;

use http::Uri;

use super::endpoint::Endpoint;
use super::info::{GROUPS, ProviderInfo};
use super::metadata::{self, Metadata, MetadataError, Rules};
use super::{Provider, SetupError};
use crate::clock::Clock;
use crate::origin::{Findings, Reached};
use crate::telemetry::chain;

impl Provider {
    /// Asks the provider for everything that a login needs, except for tokens, and reports what
    /// would fail. The check opens a connection to the token endpoint, but sends no request to the
    /// token endpoint.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. If the future is dropped, `findings` contains the findings of the completed
    /// steps.
    pub(crate) async fn probe(&self, clock: &Clock, findings: &mut Findings) {
        let mut connected = Vec::new();
        let found = match metadata::location(
            &self.settings,
            self.issuer.as_ref(),
            self.internal_url.as_ref(),
        ) {
            Ok(Some(url)) => {
                let key = match self.settings.metadata_url {
                    Some(_) => "metadata_url",
                    None => "issuer",
                };
                let endpoint = self.call_settings.endpoint(key, &url);
                match endpoint {
                    Ok(endpoint) => {
                        connected.push(place(endpoint.uri()));
                        self.probe_metadata(key, &endpoint, clock, findings).await
                    }
                    Err(error) => return refused(&error, findings),
                }
            }
            Ok(None) => self.info.load_full(),
            Err(error) => return refused(&error, findings),
        };
        let Some(info) = found else { return };
        probe_endpoints(&info, connected, clock, findings).await;
        self.probe_keys(&info, clock, findings).await;
        check_client_authentication(&info, findings);
        if let Some(metadata) = &info.metadata {
            check_offers(metadata, &self.settings, findings);
        }
    }

    /// Reads the metadata and combines the metadata with the settings.
    async fn probe_metadata(
        &self,
        key: &'static str,
        endpoint: &Endpoint,
        clock: &Clock,
        findings: &mut Findings,
    ) -> Option<Arc<ProviderInfo>> {
        if endpoint.probe(key, clock.now(), findings).await == Reached::No {
            return None;
        }
        let (url, issuer) = (endpoint.uri(), self.issuer.as_ref()?);
        findings.begin(key, format!("the answer with the metadata at {url}"));
        let rules = Rules {
            issuer,
            internal_url: self.internal_url.as_ref(),
            settings: &self.settings,
        };
        let metadata = match metadata::fetch(endpoint, rules).await {
            Ok(metadata) => metadata,
            Err(error) => {
                let names_other_issuer = matches!(error, MetadataError::Issuer { .. });
                let key = if names_other_issuer { "issuer" } else { key };
                let text = format!("the metadata at {url} cannot be used: {}", chain(&error));
                findings.problem(key, text);
                return None;
            }
        };
        let issuer = issuer.as_str();
        findings.good(
            "issuer",
            format!("the metadata at {url} names the issuer {issuer}"),
        );
        let credentials = self.credentials.lock().await;
        let info = ProviderInfo::new(
            &self.settings,
            &credentials,
            &self.call_settings,
            Some(metadata),
        );
        let info = info.and_then(|info| self.grant_verifier.check(&info).map(|()| info));
        match info {
            Ok(info) => Some(Arc::new(info)),
            Err(error) => {
                refused(&error, findings);
                None
            }
        }
    }

    /// Fetches the published keys, if the settings use published keys.
    async fn probe_keys(&self, info: &ProviderInfo, clock: &Clock, findings: &mut Findings) {
        let Some((_, endpoint)) = self.grant_verifier.published(info) else {
            return;
        };
        let url = endpoint.uri();
        findings.begin("jwks_uri", format!("the answer with the keys at {url}"));
        match self.grant_verifier.refetch_keys(info, clock).await {
            Ok(()) => findings.good("jwks_uri", format!("the keys at {url} can be used")),
            Err(error) => {
                let text = format!("the keys at {url} cannot be used: {}", chain(&error));
                findings.problem("jwks_uri", text);
            }
        }
    }
}

fn refused(error: &SetupError, findings: &mut Findings) {
    findings.problem(error.key(), chain(error));
}

/// Scheme, host and port.
fn place(uri: &Uri) -> (Option<String>, Option<String>) {
    (
        uri.scheme_str().map(str::to_owned),
        uri.authority()
            .map(|authority| authority.as_str().to_owned()),
    )
}

/// Connects to each host that is not in `connected`.
async fn probe_endpoints(
    info: &ProviderInfo,
    mut connected: Vec<(Option<String>, Option<String>)>,
    clock: &Clock,
    findings: &mut Findings,
) {
    let endpoints = [
        ("token_endpoint", Some(&info.token)),
        ("userinfo_endpoint", info.userinfo.as_ref()),
        ("identity.emails_endpoint", info.emails.as_ref()),
    ];
    let endpoints = endpoints.into_iter();
    let endpoints = endpoints.filter_map(|(key, endpoint)| Some((key, endpoint?)));
    let revocation = info.revocation.as_ref();
    let endpoints = endpoints.chain(revocation.map(|found| (found.key(), &found.endpoint)));
    let lists = info.group_lists.iter();
    let lists = lists.map(|list| (GROUPS, list.endpoint()));
    for (key, endpoint) in endpoints.chain(lists) {
        let place = place(endpoint.uri());
        if !connected.contains(&place) {
            connected.push(place);
            // If `probe` fails, `probe` itself reports the failure, and the loop continues with the
            // next host.
            let _reached = endpoint.probe(key, clock.now(), findings).await;
        }
    }
}

/// Compares the method of client authentication with the methods in the metadata. An unlisted
/// method causes only a warning, because some providers do not list all methods.
fn check_client_authentication(info: &ProviderInfo, findings: &mut Findings) {
    let (key, name) = ("client_authentication", info.client_auth.name());
    let listed = info
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.token_endpoint_auth_methods_supported.as_ref());
    match listed {
        Some(listed) if listed.iter().any(|method| method == name) => {
            findings.good(key, format!("the provider offers {name}"));
        }
        Some(listed) => {
            let listed = listed.join(", ");
            let text = format!("Sidegate uses {name}, but the provider offers only {listed}");
            findings.warning(key, text);
        }
        None => findings.good(
            key,
            format!("Sidegate uses {name}, and the provider does not state what it offers"),
        ),
    }
}

/// Reports whether the provider offers refresh tokens and an end-session endpoint.
fn check_offers(metadata: &Metadata, settings: &super::Settings, findings: &mut Findings) {
    let refreshes = |types: &Vec<String>| types.iter().any(|name| name == "refresh_token");
    match metadata.grant_types_supported.as_ref().map(refreshes) {
        Some(true) => findings.good("scopes", "the provider offers refresh tokens"),
        Some(false) => findings.warning(
            "scopes",
            "the provider does not offer refresh tokens, so a session ends with its access token",
        ),
        None => findings.good(
            "scopes",
            "the provider does not state whether it offers refresh tokens",
        ),
    }
    let sign_out = &settings.sign_out;
    for (key, configured, published, is_wanted, effect) in [
        (
            "end_session_endpoint",
            &settings.end_session_endpoint,
            &metadata.end_session_endpoint,
            sign_out.end_session,
            "a sign-out does not end the session at the provider",
        ),
        (
            "revocation_endpoint",
            &settings.revocation_endpoint,
            &metadata.revocation_endpoint,
            sign_out.revoke,
            "a sign-out does not revoke the refresh token",
        ),
    ] {
        let missing = || format!("the metadata has no usable `{key}`, so {effect}");
        match published {
            _ if configured.is_some() => {}
            _ if key == "revocation_endpoint" && sign_out.own_revocation().is_some() => {}
            Some(url) => findings.good(key, format!("the provider has the endpoint {url:?}")),
            None if is_wanted == Some(true) => findings.warning(key, missing()),
            None => findings.good(key, missing()),
        }
    }
}
