//! Changes the settings of a running gateway.

use std::net::SocketAddr;
use std::sync::Arc;

use super::reload_trigger::ReloadCause;
use super::{Instance, announce};
use crate::config::{Config, FileContent, Problems, RestartOnly, Reusable, Source, registrations};
use crate::provider::Providers;
use crate::session::{Reconfiguration, ReconfigureError, Reconfigured};
use crate::telemetry::{Reload, chain};

/// The reason why a reload failed and changed nothing. Responsible: the operator.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The thread that read the settings panicked, or the process is about to end.
    #[error("the reading of the settings was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
    /// The listener accepts plain HTTP until a restart, but the new settings contain no trusted
    /// proxy. With these settings, the listener would reject every request.
    #[error(
        "server.trusted_proxies is empty, but {0} accepts plain HTTP until a restart, so every \
         request would be rejected"
    )]
    Plain(SocketAddr),
    /// The sessions cannot be used with the new settings.
    #[error("the sessions cannot be used with these settings")]
    Sessions(#[from] ReconfigureError),
    /// The new settings are invalid.
    #[error(transparent)]
    Settings(#[from] Problems),
}

/// The result of a reload.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reloaded {
    /// The settings keys whose new values take effect only after a restart, in alphabetical order.
    pub need_restart: Vec<String>,
    /// The sessions that ended because the new settings remove or replace their provider.
    pub sessions: Reconfigured,
}

/// The current settings, the values that were created from the current settings, and the settings
/// at the start.
#[derive(Debug)]
pub(super) struct CurrentSettings {
    /// The source of the settings, with the text of the current settings.
    source: Source,
    /// The settings that only a restart can change, with their values at the start of the process.
    restart_only: RestartOnly,
    reusable: Reusable,
    /// The text of the settings that a failed reload could not apply. The gateway will retry this
    /// reload.
    failed: Option<FileContent>,
}

impl CurrentSettings {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            source: config.source.clone(),
            restart_only: config.restart_only.clone(),
            reusable: config.reusable(),
            failed: None,
        }
    }
}

impl Instance {
    /// Waits until a change of a settings file requires a reload.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn reload_due(&mut self) -> ReloadCause {
        self.trigger.reload_due().await
    }

    /// Reads the changed settings, makes the same checks as `sidegate check`, and applies either
    /// all new settings or none of them. Connections, sessions and running refreshes continue
    /// during a reload. A request that has already begun uses the previous settings. All later
    /// requests use the new settings, even on open connections. Events in the log report the
    /// result. If a changed file caused the reload and the reload fails, [`Instance::reload_due`]
    /// returns again after a pause, so that the caller can retry the reload.
    ///
    /// # Errors
    ///
    /// Returns [`ReloadError`] if the reload fails. After a failed reload, the previous settings
    /// stay in use.
    ///
    /// # Cancel safety
    ///
    /// [`Instance::reload`] is not cancel safe. If a reload is cancelled, sessions of removed
    /// providers may have ended although the previous settings are still in use. The next reload
    /// after a cancelled reload applies all new settings.
    pub async fn reload(&mut self, cause: ReloadCause) -> Result<Reloaded, ReloadError> {
        let reloaded = self.apply(cause).await;
        let metrics = &self.process.site.metrics;
        match &reloaded {
            Ok(reloaded) => {
                metrics.reload(Reload::Applied);
                reloaded.log();
            }
            Err(error) => {
                metrics.reload(Reload::Refused);
                self.trigger.failed(cause);
                let error = chain(error);
                tracing::error!(
                    error,
                    "Settings not reloaded; the previous ones stay in use"
                );
            }
        }
        reloaded
    }

    async fn apply(&mut self, cause: ReloadCause) -> Result<Reloaded, ReloadError> {
        let config = self.load(cause).await?;
        self.check_transport(&config)?;
        let failed = self.current.failed.clone();
        let next = CurrentSettings {
            restart_only: self.current.restart_only.clone(),
            // A reload with the cause `KeyFile` uses the current settings and does not read changed
            // settings. An earlier, failed reload of changed settings still has to be retried.
            failed: failed.filter(|_failed| cause == ReloadCause::KeyFile),
            ..CurrentSettings::of(&config)
        };
        let need_restart = self.current.restart_only.differences(&config.restart_only);
        let same_store = !need_restart
            .iter()
            .any(|key| key.starts_with("session.store"));
        let (settings, keys) = &config.session;
        let reconfiguration = Reconfiguration {
            idle: settings.idle,
            absolute: settings.absolute,
            of_providers: settings.of_providers.clone(),
            per_person: settings.per_person,
            // The new settings may use another store, which may need no keys. Until the restart,
            // the gateway uses the current store with its current keys.
            keys: same_store.then(|| Arc::clone(keys)),
            registrations: registrations(&next.reusable.providers),
        };
        let site = &self.process.site;
        let sessions = site.sessions.reconfigure(reconfiguration, site.clock.now());
        let sessions = sessions.await?;
        // After this line, no step of the reload can fail.
        announce(&config);
        if let (Some(current), Some(next)) = (&self.acceptor, &config.tls) {
            current.adopt(next);
        }
        self.maintain(&next.reusable.providers);
        let refresher = &self.process.site.refresher;
        refresher.refresh_at(Arc::clone(&next.reusable.providers));
        self.upstreams.send_replace(next.reusable.upstreams.clone());
        self.trigger.succeeded(cause, &config);
        // The site is replaced last, because requests to the new site need the new providers.
        self.sites.send_replace(self.process.site(config.site));
        self.current = next;
        Ok(Reloaded {
            need_restart,
            sessions,
        })
    }

    /// Loads the settings for a reload. If only keys have changed, `load` uses the current text of
    /// the settings. A retry uses the settings text that the failed reload has read. If the failed
    /// reload could not read the settings file, the retry reads the file. After a signal or a
    /// change of the settings file, `load` reads the settings file.
    async fn load(&mut self, cause: ReloadCause) -> Result<Config, ReloadError> {
        let mut source = self.current.source.clone();
        match cause {
            ReloadCause::Retry => source.content = self.current.failed.clone(),
            ReloadCause::KeyFile => {}
            ReloadCause::Signal | ReloadCause::SettingsFile => source.content = None,
        }
        let reusable = self.current.reusable.clone();
        let clock = self.process.site.clock.clone();
        // A blocking thread loads the settings, because loading reads files and certificates.
        let load = move || {
            let read = source.read();
            let read = read.inspect(|read| source.content = Some(read.clone()));
            let loaded = read.and_then(|_read| Config::load(&source, &reusable, &clock));
            (source.content, loaded)
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        let (read, loaded) = loaded.map_err(ReloadError::Interrupted)?;
        match cause {
            ReloadCause::Retry | ReloadCause::SettingsFile => self.current.failed = read,
            ReloadCause::Signal => self.current.failed = None,
            ReloadCause::KeyFile => {}
        }
        Ok(loaded?)
    }

    /// Checks that the open listener can serve requests with the new settings.
    fn check_transport(&self, config: &Config) -> Result<(), ReloadError> {
        let plain = self.acceptor.is_none() && !self.address.ip().is_loopback();
        if plain && config.site.gateway.trusted.is_empty() {
            return Err(ReloadError::Plain(self.address));
        }
        Ok(())
    }

    /// Starts the maintenance tasks of new providers. The maintenance task of a provider ends when
    /// the provider is no longer used.
    fn maintain(&self, providers: &Providers) {
        let before = &self.current.reusable.providers;
        let clock = &self.process.site.clock;
        for (name, provider) in providers {
            let kept = before.get(name);
            if !kept.is_some_and(|kept| Arc::ptr_eq(kept, provider)) {
                self.handle.spawn(provider.maintain(clock.clone()));
            }
        }
    }
}

impl Reloaded {
    fn log(&self) {
        tracing::info!("Settings reloaded");
        if !self.need_restart.is_empty() {
            let keys = self.need_restart.join(", ");
            tracing::warn!(keys, "Some settings change only with a restart");
        }
    }
}
