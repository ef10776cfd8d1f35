//! Keeping what is known of a server up to date: its metadata, its keys, and our files.
//!
//! Whatever cannot be read, or is not believed, changes nothing: the last good copy stays, and an
//! operator is told.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::client_auth::Credentials;
use super::issuer::Issuer;
use super::keys::KeySet;
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
        self.judge.renew_keys(&*self.known()?, clock.now()).await
    }

    /// Reads the metadata and takes what it says.
    pub(super) async fn discover(&self) -> Result<(), Error> {
        let place = metadata::location(&self.settings, self.issuer.as_ref())?;
        let (Some(place), Some(issuer)) = (place, &self.issuer) else {
            return Ok(());
        };
        let place = self.line.to("metadata_url", &place)?;
        let metadata = metadata::fetch(&place, issuer).await;
        let metadata = metadata.map_err(Error::Metadata)?;
        let before = self.known.load_full();
        if before.is_some_and(|before| before.metadata.as_ref() == Some(&metadata)) {
            return Ok(());
        }
        self.know(&self.credentials.load(), Some(metadata))
    }

    /// Takes what the settings, the credentials and the metadata say together.
    fn know(&self, credentials: &Credentials, metadata: Option<Metadata>) -> Result<(), Error> {
        let known = Known::new(&self.settings, credentials, &self.line, metadata)?;
        self.judge.check(&known)?;
        self.known.store(Some(Arc::new(known)));
        Ok(())
    }

    /// Reads the files again when they change; bad ones are reported and the old ones kept.
    async fn watch_files(&self) {
        let mut told = false;
        loop {
            sleep(FILES).await;
            let settings = self.settings.clone();
            let read = tokio::task::spawn_blocking(move || {
                Ok((
                    Credentials::read(&settings)?,
                    KeySet::from_files(&settings.id_token)?,
                ))
            });
            let Ok(read) = read.await else { return };
            match read.and_then(|(credentials, keys)| self.take(credentials, keys)) {
                Ok(()) => told = false,
                Err(_) if told => {}
                Err(error) => {
                    told = true;
                    tracing::error!(
                        provider = self.name(),
                        error = chain(&error),
                        "Secrets and keys not replaced, the old ones stay"
                    );
                }
            }
        }
    }

    /// Takes what the files say now.
    fn take(&self, credentials: Credentials, keys: Option<KeySet>) -> Result<(), Error> {
        if let Some(keys) = keys {
            self.judge.take_keys(keys);
        }
        if !credentials.differs(&self.credentials.load()) {
            return Ok(());
        }
        if let Some(known) = self.known.load_full() {
            self.know(&credentials, known.metadata.clone())?;
        }
        self.credentials.store(Arc::new(credentials));
        tracing::info!(provider = self.name(), "Client credentials replaced");
        Ok(())
    }
}

/// Metadata to try the settings with before any was read, so that whatever else is wrong with them
/// is found at once. `None` where none is to be read.
pub(super) fn rehearsal(
    settings: &Settings,
    issuer: Option<&Issuer>,
) -> Result<Option<Metadata>, Error> {
    let place = metadata::location(settings, issuer)?;
    Ok(place.map(|place| Metadata::rehearsal(place.as_str())))
}
