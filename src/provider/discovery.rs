//! Keeping what is known of a server up to date: its metadata, its keys, and our files.
//!
//! Whatever cannot be read, or is not believed, changes nothing: the last good copy stays, and an
//! operator is told.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::credentials::Credentials;
use super::endpoint::Endpoint;
use super::issuer::Issuer;
use super::known::Known;
use super::metadata::{self, Metadata};
use super::settings::{Discovery, Settings};
use super::{Error, Provider};
use crate::clock::Clock;
use crate::telemetry::chain;

/// How often our files are looked at.
const FILES: Duration = Duration::from_secs(10);

/// The longest wait between two attempts to reach a server.
const LONGEST_BACK_OFF: Duration = Duration::from_mins(1);

impl Provider {
    /// Keeps metadata, keys and the files with secrets up to date, and tells once when the server
    /// cannot be reached and when it can be again. Never returns.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was being read is given up.
    pub async fn maintain(&self, clock: &Clock) {
        tokio::join!(self.stay_in_touch(clock), self.watch_files());
    }

    async fn stay_in_touch(&self, clock: &Clock) {
        let every = Duration::from_secs(self.settings.metadata_refresh_secs.get().into());
        let mut back_off = Duration::from_secs(1);
        let mut failed = false;
        loop {
            if let Err(error) = self.renew(clock).await {
                tracing::warn!(
                    provider = self.name(),
                    reason = error.reason(),
                    error = chain(&error),
                    retry_secs = back_off.as_secs(),
                    "Provider cannot be reached or not be believed; what is known of it stays"
                );
                failed = true;
                sleep(back_off).await;
                back_off = back_off.saturating_mul(2).min(LONGEST_BACK_OFF);
                continue;
            }
            if std::mem::take(&mut failed) {
                tracing::info!(provider = self.name(), "Provider can be reached");
            }
            back_off = Duration::from_secs(1);
            sleep(every).await;
        }
    }

    /// Reads metadata and keys, or at least sees whether the server is there.
    async fn renew(&self, clock: &Clock) -> Result<(), Error> {
        match (self.known.load_full(), self.settings.discovery) {
            // Together with logins that wait for the same.
            (None, _) | (Some(_), Discovery::None) => self.ready(clock).await?,
            (Some(_), Discovery::Oauth2 | Discovery::Openid) => self.discover().await?,
        }
        match &self.known()?.jwks {
            Some(endpoint) => self.judge.renew_keys(endpoint, clock.now()).await,
            None => Ok(()),
        }
    }

    /// Reads the metadata and takes what it says.
    pub(super) async fn discover(&self) -> Result<(), Error> {
        let issuer = required(self.issuer.as_ref())?;
        let url = metadata::location(&self.settings, issuer)?;
        let endpoint = Endpoint::new("metadata_url", &url, &self.line)?;
        let response = endpoint.get("application/json").await;
        let response = response.map_err(Error::MetadataCall)?;
        let metadata = Metadata::read(&response, issuer).map_err(Error::Metadata)?;
        let before = self.known.load_full();
        if before.is_some_and(|before| before.metadata.as_ref() == Some(&metadata)) {
            return Ok(());
        }
        self.know(Some(metadata))
    }

    /// Takes what the settings, the credentials and the metadata say together.
    fn know(&self, metadata: Option<Metadata>) -> Result<(), Error> {
        let credentials = self.credentials.load();
        let known = Known::new(&self.settings, &credentials, &self.line, metadata)?;
        self.known.store(Some(Arc::new(known)));
        Ok(())
    }

    /// Reads the files again when they change; bad ones are reported and the old ones kept.
    async fn watch_files(&self) {
        let mut told = false;
        loop {
            sleep(FILES).await;
            let settings = self.settings.clone();
            let read = tokio::task::spawn_blocking(move || Credentials::read(&settings)).await;
            let Ok(read) = read else { return };
            match read.and_then(|read| self.take(read)) {
                Ok(()) => told = false,
                Err(_) if told => {}
                Err(error) => {
                    told = true;
                    tracing::error!(
                        provider = self.name(),
                        error = chain(&error),
                        "Client credentials not replaced, the old ones stay"
                    );
                }
            }
        }
    }

    /// Takes credentials that have changed.
    fn take(&self, credentials: Credentials) -> Result<(), Error> {
        if !credentials.differs(&self.credentials.load()) {
            return Ok(());
        }
        if let Some(known) = self.known.load_full() {
            let metadata = known.metadata.clone();
            let known = Known::new(&self.settings, &credentials, &self.line, metadata)?;
            self.known.store(Some(Arc::new(known)));
        }
        self.credentials.store(Arc::new(credentials));
        tracing::info!(provider = self.name(), "Client credentials replaced");
        Ok(())
    }
}

/// Metadata to try the settings with, before any was read: whatever else is wrong with them is
/// found at once.
pub(super) fn rehearsal(settings: &Settings, issuer: Option<&Issuer>) -> Result<Metadata, Error> {
    let url = metadata::location(settings, required(issuer)?)?;
    Ok(Metadata::rehearsal(url.as_str()))
}

fn required(issuer: Option<&Issuer>) -> Result<&Issuer, Error> {
    let (key, problem) = ("issuer", "is missing, but discovery is on");
    issuer.ok_or(Error::Setting { key, problem })
}
