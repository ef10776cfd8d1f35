//! Other settings for a gateway that goes on serving.

use std::net::SocketAddr;
use std::sync::Arc;

use super::reload_trigger::ReloadCause;
use super::{Instance, announce};
use crate::config::{Config, FileContent, Problems, RestartOnly, Reusable, Source, registrations};
use crate::provider::Providers;
use crate::session::{Reconfiguration, ReconfigureError, Reconfigured};
use crate::telemetry::{Reload, chain};

/// Why a reload changed nothing. Side: gateway; the operator acts.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The thread that read the settings panicked, or the process ends.
    #[error("the settings were not read to their end")]
    Interrupted(#[source] tokio::task::JoinError),
    /// Every request would be refused until the restart that the other settings need.
    #[error(
        "server.trusted_proxies is empty, but {0} takes plain HTTP until a restart: no request would be \
         served"
    )]
    Plain(SocketAddr),
    /// The sessions cannot go on with these settings.
    #[error("the sessions cannot go on with these settings")]
    Sessions(#[from] ReconfigureError),
    /// The settings are wrong.
    #[error(transparent)]
    Settings(#[from] Problems),
}

/// What a reload did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reloaded {
    /// The keys whose new values wait for a restart, in alphabetical order.
    pub need_restart: Vec<String>,
    /// The sessions that ended because their provider is gone or is another one.
    pub sessions: Reconfigured,
}

/// What the settings in force have open, and what the process started with.
#[derive(Debug)]
pub(super) struct CurrentSettings {
    /// The settings, with the text that is in force.
    source: Source,
    /// What the process started with.
    restart_only: RestartOnly,
    reusable: Reusable,
    /// The text of a reload that failed and is tried again.
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
    /// Waits until the files of the settings ask for a reload.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn reload_due(&mut self) -> ReloadCause {
        self.trigger.reload_due().await
    }

    /// Reads again what has changed, checks all settings as `sidegate check` does, and puts them in
    /// force as a whole or not at all. Connections, sessions and refreshes go on. A request that
    /// began before ends by the settings before. Each later request, on open connections too, is
    /// decided by the new ones. Events say what happened. What files asked for and what failed is
    /// asked for again by [`Instance::reload_due`].
    ///
    /// # Errors
    ///
    /// [`ReloadError`]; the settings before stay in force.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: the sessions of providers that are gone may have ended already, while the
    /// settings before are still in force. The next reload mends that.
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
                tracing::error!(error, "Settings not reloaded, the old ones stay in force");
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
            // Other keys put no other settings in force, so those that failed are still wanted.
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
            per_person: settings.per_person,
            // Another store may come without keys. The one that is open until the restart needs its own.
            keys: same_store.then(|| Arc::clone(keys)),
            registrations: registrations(&next.reusable.providers),
        };
        let site = &self.process.site;
        let sessions = site.sessions.reconfigure(reconfiguration, site.clock.now());
        let sessions = sessions.await?;
        // Nothing fails from here on.
        announce(&config);
        if let (Some(current), Some(next)) = (&self.acceptor, &config.tls) {
            current.adopt(next);
        }
        self.maintain(&next.reusable.providers);
        let refresher = &self.process.site.refresher;
        refresher.refresh_at(Arc::clone(&next.reusable.providers));
        self.upstreams.send_replace(next.reusable.upstreams.clone());
        self.trigger.succeeded(cause, &config);
        self.sites.send_replace(self.process.site(config.site));
        self.current = next;
        Ok(Reloaded {
            need_restart,
            sessions,
        })
    }

    /// Reads the settings that are wanted: those in force for other keys, the text that failed for
    /// another try, and else the file. The file is read again, too, where it could not be read.
    async fn load(&mut self, cause: ReloadCause) -> Result<Config, ReloadError> {
        let mut source = self.current.source.clone();
        match cause {
            ReloadCause::Retry => source.content = self.current.failed.clone(),
            ReloadCause::KeyFile => {}
            ReloadCause::Signal | ReloadCause::SettingsFile => source.content = None,
        }
        let reusable = self.current.reusable.clone();
        let clock = self.process.site.clock.clone();
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

    /// Whether requests can be served with these settings on the socket that is open.
    fn check_transport(&self, config: &Config) -> Result<(), ReloadError> {
        let plain = self.acceptor.is_none() && !self.address.ip().is_loopback();
        if plain && config.site.gateway.trusted.is_empty() {
            return Err(ReloadError::Plain(self.address));
        }
        Ok(())
    }

    /// Starts to look after providers that were not there before. Nobody looks after a provider any
    /// more once nobody uses it.
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
