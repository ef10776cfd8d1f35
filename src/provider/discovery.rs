//! Keeps the data of a provider up to date: the metadata, the keys, and the data from the files
//! that the settings name.
//!
//! If new data cannot be read or is not valid, the gateway logs the problem and continues to use
//! the last valid data.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};

use super::client_auth::Credentials;
use super::grant::{GrantVerifier, KeyFiles};
use super::info::ProviderInfo;
use super::internal_url::InternalUrl;
use super::issuer::Issuer;
use super::metadata::{self, Metadata, Rules};
use super::settings::{Discovery, Settings};
use super::webhook::WebhookKeys;
use super::{Provider, ReachError, SetupError, Unreachable};
use crate::clock::{Clock, Timestamp};
use crate::telemetry::chain;
use crate::tls;

/// The interval between two reads of the files that the settings name.
const FILES_INTERVAL: Duration = Duration::from_secs(10);

/// The interval between two checks that decide whether the gateway must read the metadata and the
/// keys again.
const TICK: Duration = Duration::from_secs(1);

/// The time between the first failed attempt to reach a provider and the next attempt. After each
/// further failed attempt, the gateway doubles the time until the next attempt.
const MIN_BACK_OFF: Duration = Duration::from_secs(1);

/// The maximum wait between two attempts to reach a provider.
const MAX_BACK_OFF: Duration = Duration::from_mins(1);

impl Provider {
    /// Keeps the metadata, the keys, the certificate authorities and the secrets up to date. If an
    /// attempt to reach the provider fails, the function logs the reason, unless the previous
    /// attempt failed for the same reason. The log also shows when the provider can be reached
    /// again. The returned future has only a weak reference to the provider. The future ends
    /// shortly after the provider is dropped.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. If a read of the metadata or of the keys is cancelled, the metadata and the
    /// keys do not change.
    pub fn maintain(self: &Arc<Self>, clock: Clock) -> impl Future<Output = ()> + Send + use<> {
        let provider = Arc::downgrade(self);
        async move {
            // The loops in `follow_provider` and `watch_files` end when the provider is dropped.
            tokio::select! {
                () = Self::follow_provider(&provider, &clock) => {}
                () = Self::watch_files(&provider) => {}
            }
        }
    }

    async fn follow_provider(provider: &Weak<Self>, clock: &Clock) {
        let mut back_off = MIN_BACK_OFF;
        let mut reported_reason = None;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The time of the last attempt to reach the provider, and the duration until the next
        // attempt.
        let mut last: Option<(Timestamp, Duration)> = None;
        loop {
            ticks.tick().await;
            let Some(provider) = provider.upgrade() else {
                return;
            };
            let now = clock.now();
            // If the last attempt is later than `now`, the clock was set back, so the gateway makes
            // a new attempt immediately.
            if last.is_some_and(|(at, valid_for)| at <= now && now.since(at) < valid_for) {
                continue;
            }
            if let Err(error) = provider.refetch(clock).await {
                let wait = error.retry_after.max(back_off);
                last = Some((clock.now(), wait));
                // The gateway logs each new reason of an error, because a new reason can mean a new
                // problem.
                if reported_reason.replace(error.reason()) != Some(error.reason()) {
                    tracing::warn!(
                        provider = provider.name(),
                        reason = error.reason(),
                        error = chain(&error),
                        "Provider cannot be reached, or its metadata or keys are not valid; \
                         the last valid ones stay in use"
                    );
                }
                back_off = back_off.saturating_mul(2).min(MAX_BACK_OFF);
                continue;
            }
            let every = provider.settings.metadata_refresh_secs.get();
            last = Some((clock.now(), Duration::from_secs(every.into())));
            back_off = MIN_BACK_OFF;
            if reported_reason.take().is_some() {
                tracing::info!(provider = provider.name(), "Provider can be reached");
            }
        }
    }

    /// Reads the metadata and the keys. If the settings use no metadata, the function only reads
    /// the keys and checks that the provider can be reached.
    async fn refetch(&self, clock: &Clock) -> Result<(), Unreachable> {
        let failed = |error: ReachError| Unreachable {
            retry_after: Duration::ZERO,
            cause: Some(Arc::new(error)),
        };
        let read = match (self.info.load_full(), self.settings.discovery) {
            // The method `ready` makes one attempt to reach the provider, for this task and for all
            // logins that wait for the provider.
            (None, _) | (Some(_), Discovery::None) => self.ready(clock).await,
            (Some(_), Discovery::Oauth2 | Discovery::Openid) => {
                self.discover().await.map_err(failed)
            }
        };
        // The keys are read even if the metadata cannot be read, because the provider may have
        // revoked a key.
        let keys_read = match self.info.load_full() {
            Some(info) => {
                let keys_read = self.grant_verifier.refetch_keys(&info, clock).await;
                keys_read.map_err(|error| failed(error.into()))
            }
            None => Ok(()),
        };
        read.and(keys_read)
    }

    /// Reads the metadata and applies the new metadata.
    pub(super) async fn discover(&self) -> Result<(), ReachError> {
        let internal_url = self.internal_url.as_ref();
        let url = metadata::location(&self.settings, self.issuer.as_ref(), internal_url)?;
        let (Some(url), Some(issuer)) = (url, &self.issuer) else {
            return Ok(());
        };
        let url = self.call_settings.endpoint("metadata_url", &url)?;
        let rules = Rules {
            issuer,
            internal_url,
            settings: &self.settings,
        };
        let metadata = metadata::fetch(&url, rules).await;
        let metadata = metadata.map_err(|source| ReachError::Metadata {
            url: url.uri().to_string().into(),
            source,
        })?;
        // A task needs the lock on `credentials` to replace the credentials or `info`.
        let credentials = self.credentials.lock().await;
        let before = self.info.load_full();
        // If the metadata has not changed, the prepared endpoints and their open connections stay
        // in use.
        if before.is_some_and(|before| before.metadata.as_ref() == Some(&metadata)) {
            return Ok(());
        }
        Ok(self.apply(&credentials, Some(metadata))?)
    }

    /// Combines the settings, the credentials and the metadata into a new `ProviderInfo`. All later
    /// requests use the new `ProviderInfo`.
    fn apply(
        &self,
        credentials: &Credentials,
        metadata: Option<Metadata>,
    ) -> Result<(), SetupError> {
        let info = ProviderInfo::new(&self.settings, credentials, &self.call_settings, metadata)?;
        self.grant_verifier.check(&info)?;
        self.info.store(Some(Arc::new(info)));
        Ok(())
    }

    /// Periodically reads the files that the settings name. If the contents of a file cannot be
    /// used, the log shows the problem, and the last valid contents stay in use.
    async fn watch_files(provider: &Weak<Self>) {
        let mut secrets = ReportOnce::default();
        let mut authorities = ReportOnce::default();
        loop {
            sleep(FILES_INTERVAL).await;
            let Some(provider) = provider.upgrade() else {
                return;
            };
            let reader = Arc::clone(&provider);
            // A slow file system must not block the threads of the runtime.
            let read = tokio::task::spawn_blocking(move || reader.read_files());
            let Ok((read, trusted)) = read.await else {
                return;
            };
            let taken = match read {
                Ok(files) => provider.use_files(files).await,
                Err(error) => Err(error),
            };
            if let Some(error) = secrets.error(taken) {
                tracing::error!(
                    provider = provider.name(),
                    error = chain(&error),
                    "Secrets and keys not replaced, the old ones stay in use"
                );
            }
            let replaced = trusted.map(|trusted| match trusted {
                tls::Refreshed::Unchanged => {}
                tls::Refreshed::Replaced => {
                    tracing::info!(
                        provider = provider.name(),
                        "Certificate authorities replaced"
                    );
                }
            });
            if let Some(error) = authorities.error(replaced) {
                tracing::error!(
                    provider = provider.name(),
                    error = chain(&error),
                    "Certificate authorities not replaced, the old ones stay in use"
                );
            }
        }
    }

    /// Reads all files again. If the file with the certificate authorities has changed, new
    /// connections immediately use the new authorities. [`Provider::use_files`] applies the new
    /// secrets and keys. Reading the small files blocks the calling thread.
    fn read_files(
        &self,
    ) -> (
        Result<Files, SetupError>,
        Result<tls::Refreshed, SetupError>,
    ) {
        let files = Credentials::read(&self.settings, &self.environment).and_then(|credentials| {
            let keys = GrantVerifier::read_files(&self.settings)?;
            Ok(Files {
                credentials,
                keys,
                webhook_keys: WebhookKeys::from_files(&self.settings)?,
            })
        });
        let trusted = match &self.call_settings.trust {
            Some(trust) => trust.refresh().map_err(SetupError::Trust),
            None => Ok(tls::Refreshed::Unchanged),
        };
        (files, trusted)
    }

    async fn use_files(&self, files: Files) -> Result<(), SetupError> {
        self.grant_verifier.use_files(files.keys);
        self.webhook_keys.store(Arc::new(files.webhook_keys));
        self.replace_credentials(files.credentials).await
    }

    /// Replaces the credentials if the new credentials are valid and differ from the old
    /// credentials.
    async fn replace_credentials(&self, new: Credentials) -> Result<(), SetupError> {
        let mut credentials = self.credentials.lock().await;
        if !new.differs(&credentials) {
            return Ok(());
        }
        if let Some(info) = self.info.load_full() {
            self.apply(&new, info.metadata.clone())?;
        } else {
            // Before the metadata has been read, the new credentials are checked with placeholder
            // metadata.
            let (issuer, internal_url) = (self.issuer.as_ref(), self.internal_url.as_ref());
            let metadata = placeholder(&self.settings, issuer, internal_url)?;
            drop(ProviderInfo::new(
                &self.settings,
                &new,
                &self.call_settings,
                metadata,
            )?);
        }
        *credentials = new;
        tracing::info!(provider = self.name(), "Client credentials replaced");
        Ok(())
    }
}

/// The contents of the files with secrets and keys.
struct Files {
    credentials: Credentials,
    keys: KeyFiles,
    webhook_keys: WebhookKeys,
}

/// Reports an error of a periodic check only if the previous check had no error.
#[derive(Debug, Default)]
struct ReportOnce {
    reported: bool,
}

impl ReportOnce {
    /// Returns the error of a periodic check, but only if the previous check had no error.
    fn error(&mut self, outcome: Result<(), SetupError>) -> Option<SetupError> {
        let error = outcome.err();
        let reported = std::mem::replace(&mut self.reported, error.is_some());
        error.filter(|_| !reported)
    }
}

/// Returns placeholder metadata. With placeholder metadata, the gateway finds mistakes in the
/// settings when the gateway starts, before the real metadata has been read. Returns `None` if the
/// settings use no metadata.
pub(super) fn placeholder(
    settings: &Settings,
    issuer: Option<&Issuer>,
    internal_url: Option<&InternalUrl>,
) -> Result<Option<Metadata>, SetupError> {
    let url = metadata::location(settings, issuer, internal_url)?;
    Ok(url.map(|mut url| {
        url.set_query(None);
        Metadata::placeholder(url.as_str())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_error_is_reported_once() {
        let mut report = ReportOnce::default();
        let (key, problem) = ("ca_file", "is bad");
        let reported = [false, false, true, false].map(|succeeds| {
            let wrong = SetupError::Setting { key, problem };
            let outcome = if succeeds { Ok(()) } else { Err(wrong) };
            report.error(outcome).is_some()
        });
        assert_eq!(reported, [true, false, false, true]);
    }
}
