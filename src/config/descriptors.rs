//! Compares the descriptors that the settings need with the descriptors that the process may open.

use super::Config;
use crate::server::OPERATIONS_CONNECTIONS;

/// The descriptors for standard input and output, the runtimes, the listeners, the session store,
/// the log, the admin socket, and files that are read again.
const BASE: usize = 64;
/// The descriptors of the runtime of one worker.
const WORKER: usize = 8;
/// The descriptors for calls to one provider.
const PROVIDER: usize = 32;
/// If the limit is too low, at least this fraction (one quarter) of the limit is for clients.
const LEAST: usize = 4;

/// The descriptors that the settings need.
#[derive(Clone, Copy, Debug)]
struct Needs {
    /// The value of `server.connections`.
    connections: usize,
    /// True if bodies can be in files, which need as many descriptors as the connections.
    files: bool,
    /// The sum of `upstreams.X.connections`.
    apps: usize,
    /// Everything else.
    others: usize,
}

impl Config {
    /// Limits the descriptors for connections of clients, so that the other parts of the gateway
    /// get the descriptors that they need. `limit` is the number of descriptors that the process may
    /// open, or `None` without a limit. Adds a warning if the limit is too low for the settings.
    pub(super) fn fitted(mut self, limit: Option<u64>) -> Self {
        let (fit, warning) = Needs::of(&self).compare(limit);
        self.server.limits.descriptors = fit.clients;
        if let Some(spill) = &mut self.site.gateway.spill {
            spill.files = fit.files;
        }
        self.warnings.extend(warning);
        self
    }
}

/// The descriptors that clients may use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Fit {
    /// The descriptors for connections.
    clients: usize,
    /// The descriptors for files with bodies. A connection can need several files, because several
    /// HTTP/2 requests can use it at the same time.
    files: usize,
}

impl Needs {
    fn of(config: &Config) -> Self {
        let apps = config.site.upstreams.values();
        let apps = apps.map(|app| app.settings().connections.get());
        let providers = config.site.providers.len();
        Self {
            connections: config.server.limits.connections,
            files: config.site.gateway.spill.is_some(),
            apps: apps.fold(0, usize::saturating_add),
            others: BASE
                .saturating_add(OPERATIONS_CONNECTIONS)
                .saturating_add(WORKER.saturating_mul(config.workers.get()))
                .saturating_add(PROVIDER.saturating_mul(providers)),
        }
    }

    /// Returns the descriptors that clients may use if the process may open `limit` descriptors. Also
    /// returns a warning if too few of them are for connections.
    fn compare(self, limit: Option<u64>) -> (Fit, Option<String>) {
        let limit = limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        let reserved = self.apps.saturating_add(self.others);
        let least = limit.checked_div(LEAST).unwrap_or_default();
        let free = limit.saturating_sub(reserved).max(least).max(1);
        let for_each = if self.files { 2 } else { 1 };
        let clients = free.checked_div(for_each).unwrap_or(free).max(1);
        let fit = Fit {
            clients,
            files: free.saturating_sub(clients).max(1),
        };
        if self.connections <= clients {
            return (fit, None);
        }
        let needed = self
            .connections
            .saturating_mul(for_each)
            .saturating_add(reserved);
        let files = if self.files {
            " (with as many files of server.spill_dir)"
        } else {
            ""
        };
        let warning = format!(
            "server.connections: {} connections{files}, {} connections to apps \
             (upstreams.X.connections) and {} other descriptors need {needed} descriptors, but the \
             process may open only {limit}, so Sidegate accepts {clients} connections at the same \
             time; raise the limit of the process (LimitNOFILE in a systemd unit, ulimit -n in a \
             shell), or lower server.connections",
            self.connections, self.apps, self.others
        );
        (fit, Some(warning))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs = Needs {
        connections: 10_000,
        files: false,
        apps: 256,
        others: 200,
    };

    #[test]
    fn f_22_descriptors_for_apps_and_providers_are_not_given_to_clients() {
        for (limit, expected) in [
            (None, usize::MAX - 456),
            (Some(u64::MAX), usize::MAX - 456),
            (Some(524_288), 523_832),
            (Some(10_456), 10_000),
        ] {
            let (fit, warning) = NEEDS.compare(limit);
            assert_eq!((fit.clients, warning), (expected, None), "{limit:?}");
        }
        for (limit, expected) in [(10_455, 9_999), (1024, 568), (500, 125), (3, 1), (0, 1)] {
            let (Fit { clients, .. }, warning) = NEEDS.compare(Some(limit));
            assert_eq!(clients, expected, "{limit}");
            let warning = warning.unwrap();
            for part in [
                "server.connections: 10000",
                "10456 descriptors",
                "LimitNOFILE",
            ] {
                assert!(warning.contains(part), "{warning}");
            }
            assert!(warning.contains(&format!("only {limit}")), "{warning}");
            assert!(warning.contains(&format!("accepts {clients}")), "{warning}");
        }
    }

    #[test]
    fn f_22_files_with_bodies_get_as_many_descriptors_as_connections() {
        let needs = Needs {
            files: true,
            ..NEEDS
        };
        let fit = |clients, files| Fit { clients, files };
        assert_eq!(needs.compare(Some(20_456)), (fit(10_000, 10_000), None));
        assert_eq!(needs.compare(Some(20_457)), (fit(10_000, 10_001), None));
        let (few, warning) = needs.compare(Some(20_454));
        assert_eq!(few, fit(9_999, 9_999));
        assert_eq!(needs.compare(Some(3)).0, fit(1, 1));
        assert!(warning.unwrap().contains("server.spill_dir"));
    }
}
