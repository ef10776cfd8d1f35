//! Other settings for a gateway that goes on serving.

use std::sync::Arc;

use super::follow::{Changed, Follower};
use super::{Instance, announce};
use crate::clock::Clock;
use crate::config::{Config, Fixed, Opened, Problems, Source, registrations};
use crate::provider::Providers;
use crate::session::{Reconfiguration, ReconfigureError, Reconfigured};
use crate::telemetry::{Reload, chain};

/// Why a reload changed nothing. Side: gateway; the operator acts.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The thread that read the settings panicked, or the process ends.
    #[error("the settings were not read to their end")]
    Interrupted(#[source] tokio::task::JoinError),
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
    /// What asks for the next reload without a signal.
    follower: Follower,
}

impl InForce {
    pub(super) fn of(config: &Config, clock: &Clock) -> Self {
        let settings = config.watch.then_some(&*config.source.path);
        Self {
            source: config.source.clone(),
            fixed: config.fixed.clone(),
            opened: config.opened(),
            follower: Follower::new(clock.clone(), settings, config.key_file.as_deref()),
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
        self.in_force.follower.changed().await
    }

    /// Reads what has changed again, checks all settings as `sidegate check` does, and puts them in
    /// force as a whole or not at all. Connections, sessions and refreshes go on. A request that began before
    /// ends by the settings before; each later request, on open connections too, is decided by the
    /// new ones. Events say what happened.
    ///
    /// # Errors
    ///
    /// [`ReloadError`]; the settings before stay in force.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: sessions may have ended that the new settings leave no provider to, while the
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
                let error = chain(error);
                tracing::error!(error, "Settings not reloaded, the old ones stay in force");
            }
        }
        reloaded
    }

    async fn put_in_force(&mut self, changed: Changed) -> Result<Reloaded, ReloadError> {
        let mut source = self.in_force.source.clone();
        match changed {
            Changed::Keys => {}
            Changed::Settings => source.text = None,
        }
        let opened = self.in_force.opened.clone();
        let clock = self.lasting.site.clock.clone();
        let now = clock.now();
        let load = move || Config::load(&source, &opened, &clock);
        let loaded = tokio::task::spawn_blocking(load).await;
        let config = loaded.map_err(ReloadError::Interrupted)??;
        let need_restart = self.in_force.fixed.differences(&config.fixed);
        let next = InForce {
            fixed: self.in_force.fixed.clone(),
            ..InForce::of(&config, &self.lasting.site.clock)
        };
        announce(&config);
        let (settings, keys) = config.session;
        let reconfiguration = Reconfiguration {
            idle: settings.idle,
            absolute: settings.absolute,
            per_person: settings.per_person,
            keys,
            registrations: registrations(&next.opened.providers),
        };
        let sessions = &self.lasting.site.sessions;
        let sessions = sessions.reconfigure(reconfiguration, now).await?;
        // Nothing fails from here on.
        if let (Some(current), Some(next)) = (&self.acceptor, &config.tls) {
            current.adopt(next);
        }
        self.maintain(&next.opened.providers);
        let refresher = &self.lasting.site.refresher;
        refresher.refresh_at(Arc::clone(&next.opened.providers));
        self.upstreams.send_replace(next.opened.upstreams.clone());
        self.sites.send_replace(self.lasting.site(config.site));
        self.in_force = next;
        Ok(Reloaded {
            need_restart,
            sessions,
        })
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
        for (provider, count) in &self.sessions.ended {
            tracing::warn!(
                provider = &**provider,
                count,
                "Sessions ended, since their provider is gone or is another one"
            );
        }
        if !self.need_restart.is_empty() {
            let keys = self.need_restart.join(", ");
            tracing::warn!(keys, "Some settings change only with a restart");
        }
    }
}
