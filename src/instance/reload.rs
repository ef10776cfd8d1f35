//! Other settings for a gateway that goes on serving.

use std::net::SocketAddr;
use std::sync::Arc;

use super::follow::Changed;
use super::{Instance, announce};
use crate::config::{Config, Fixed, Opened, Problems, Read, Source, registrations};
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
pub(super) struct InForce {
    /// The settings, with the text that is in force.
    source: Source,
    /// What the process started with.
    fixed: Fixed,
    opened: Opened,
    /// The text of a reload that failed and is tried again.
    failed: Option<Read>,
}

impl InForce {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            source: config.source.clone(),
            fixed: config.fixed.clone(),
            opened: config.opened(),
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
    pub async fn changed(&mut self) -> Changed {
        self.follower.changed().await
    }

    /// Reads again what has changed, checks all settings as `sidegate check` does, and puts them in
    /// force as a whole or not at all. Connections, sessions and refreshes go on. A request that
    /// began before ends by the settings before. Each later request, on open connections too, is
    /// decided by the new ones. Events say what happened. What files asked for and what failed is
    /// asked for again by [`Instance::changed`].
    ///
    /// # Errors
    ///
    /// [`ReloadError`]; the settings before stay in force.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: the sessions of providers that are gone may have ended already, while the
    /// settings before are still in force. The next reload mends that.
    pub async fn reload(&mut self, changed: Changed) -> Result<Reloaded, ReloadError> {
        let reloaded = self.put_in_force(changed).await;
        let metrics = &self.lasting.site.metrics;
        match &reloaded {
            Ok(reloaded) => {
                metrics.reload(Reload::Applied);
                reloaded.log();
            }
            Err(error) => {
                metrics.reload(Reload::Refused);
                self.follower.failed(changed);
                let error = chain(error);
                tracing::error!(error, "Settings not reloaded, the old ones stay in force");
            }
        }
        reloaded
    }

    async fn put_in_force(&mut self, changed: Changed) -> Result<Reloaded, ReloadError> {
        let config = self.load(changed).await?;
        self.check_transport(&config)?;
        let failed = self.in_force.failed.clone();
        let next = InForce {
            fixed: self.in_force.fixed.clone(),
            // Other keys put no other settings in force, so those that failed are still wanted.
            failed: failed.filter(|_failed| changed == Changed::Keys),
            ..InForce::of(&config)
        };
        let need_restart = self.in_force.fixed.differences(&config.fixed);
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
            registrations: registrations(&next.opened.providers),
        };
        let site = &self.lasting.site;
        let sessions = site.sessions.reconfigure(reconfiguration, site.clock.now());
        let sessions = sessions.await?;
        // Nothing fails from here on.
        announce(&config);
        if let (Some(current), Some(next)) = (&self.acceptor, &config.tls) {
            current.adopt(next);
        }
        self.maintain(&next.opened.providers);
        let refresher = &self.lasting.site.refresher;
        refresher.refresh_at(Arc::clone(&next.opened.providers));
        self.upstreams.send_replace(next.opened.upstreams.clone());
        self.follower.succeeded(changed, &config);
        self.sites.send_replace(self.lasting.site(config.site));
        self.in_force = next;
        Ok(Reloaded {
            need_restart,
            sessions,
        })
    }

    /// Reads the settings that are wanted: those in force for other keys, the text that failed for
    /// another try, and else the file. The file is read again, too, where it could not be read.
    async fn load(&mut self, changed: Changed) -> Result<Config, ReloadError> {
        let mut source = self.in_force.source.clone();
        match changed {
            Changed::Again => source.read = self.in_force.failed.clone(),
            Changed::Keys => {}
            Changed::Asked | Changed::Settings => source.read = None,
        }
        let opened = self.in_force.opened.clone();
        let clock = self.lasting.site.clock.clone();
        let load = move || {
            let read = source.read();
            let read = read.inspect(|read| source.read = Some(read.clone()));
            let loaded = read.and_then(|_read| Config::load(&source, &opened, &clock));
            (source.read, loaded)
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        let (read, loaded) = loaded.map_err(ReloadError::Interrupted)?;
        match changed {
            Changed::Again | Changed::Settings => self.in_force.failed = read,
            Changed::Asked => self.in_force.failed = None,
            Changed::Keys => {}
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
        let before = &self.in_force.opened.providers;
        let clock = &self.lasting.site.clock;
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
