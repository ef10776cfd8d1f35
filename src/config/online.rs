//! The command `sidegate check --online`, which connects to all providers, all apps and the session
//! store to check the settings.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Config;
use crate::clock::Clock;
use crate::login::PublicUrl;
use crate::origin::{Finding, Findings};
use crate::session::StoreSettings;

/// The time limit for all checks of one provider, of one app, or of the session store.
const LIMIT: Duration = Duration::from_secs(5);

impl Config {
    /// Asks all providers, all apps and the session store at the same time, and reports each
    /// setting that would cause a failure. Sends no request to a token endpoint. Each of them must
    /// answer within five seconds. Panics if the caller is not in a runtime that can spawn local
    /// tasks.
    pub async fn check_online(&self, clock: &Clock) -> Vec<Finding> {
        let mut tasks = JoinSet::new();
        for (name, provider) in self.site.providers.iter() {
            let mut findings = Findings::new(format!("providers.{name}"));
            let (provider, clock, order) = (Arc::clone(provider), clock.clone(), tasks.len());
            tasks.spawn_local(async move {
                let probe = provider.probe(&clock, &mut findings);
                if timeout(LIMIT, probe).await.is_err() {
                    findings.time_out(LIMIT);
                }
                (order, findings)
            });
        }
        let host = self.site.gateway.public_urls.listed().next();
        let host = host.map(PublicUrl::authority).unwrap_or_default();
        for (name, upstream) in &self.site.upstreams {
            let mut findings = Findings::new(format!("upstreams.{name}"));
            let (upstream, clock, order) = (Arc::clone(upstream), clock.clone(), tasks.len());
            let host = HeaderValue::from_str(host);
            tasks.spawn_local(async move {
                let host = host.unwrap_or_else(|_invalid| upstream.origin().host_value().clone());
                let probe = upstream.probe(host, &clock, &mut findings);
                if timeout(LIMIT, probe).await.is_err() {
                    findings.time_out(LIMIT);
                }
                (order, findings)
            });
        }
        if let StoreSettings::Redis(redis) = &self.session.0.store {
            let mut findings = Findings::new("session.store.redis".to_owned());
            let (redis, order) = (redis.clone(), tasks.len());
            tasks.spawn_local(async move {
                if timeout(LIMIT, redis.probe(&mut findings)).await.is_err() {
                    findings.time_out(LIMIT);
                }
                (order, findings)
            });
        }
        let mut all = tasks.join_all().await;
        all.sort_by_key(|(order, _)| *order);
        let lists = all.into_iter().map(|(_, findings)| findings.into_list());
        lists.flatten().collect()
    }
}
