//! The check of the store over the network, for `sidegate check --online`.

use redis::{FromRedisValue, RedisError};

use super::commands::Commands;
use super::connect::connect;
use super::scripts::{Names, TOUCH};
use super::settings::RedisSettings;
use crate::origin::Findings;
use crate::telemetry::chain;

/// The first version of Redis that has all commands of the scripts.
const OLDEST: (u32, u32) = (6, 2);

impl RedisSettings {
    /// Connects to the store, and checks its version, the rights of its user, its memory policy and
    /// its persistence. The check stores nothing that lasts longer than a second.
    pub(crate) async fn probe(&self, findings: &mut Findings) {
        findings.begin("urls", "the connection to the session store");
        let mut open = match connect(self, |_message| Ok(())).await {
            Ok(open) => open,
            Err(error) => return findings.problem("urls", chain(&error)),
        };
        findings.good("urls", format!("{} answers", open.server));
        findings.begin("urls", "the check of the session store");
        let mut info = redis::cmd("INFO");
        let info = ask::<String>(&mut open.commands, &mut info).await;
        match &info {
            Ok(info) => report(info, findings),
            Err(error) => findings.warning(
                "urls",
                format!(
                    "the version, the memory policy and the persistence are unknown ({})",
                    chain(error)
                ),
            ),
        }
        self.probe_rights(&mut open.commands, findings).await;
    }

    /// Tries every kind of command that the store uses.
    async fn probe_rights(&self, commands: &mut Commands, findings: &mut Findings) {
        let names = Names {
            prefix: self.prefix.clone(),
            origin: *b"checking",
        };
        let mut write = redis::cmd("SET");
        write.arg(names.presence()).arg("").arg("PX").arg(1000);
        let mut read = redis::cmd("GET");
        read.arg(names.presence());
        let mut index = redis::cmd("ZCARD");
        index.arg(names.index());
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(names.heartbeats()).arg("");
        let mut script = names.call(TOUCH);
        script.arg("");
        let time = redis::cmd("TIME");
        let steps = [
            ("prefix", "write keys", write),
            ("prefix", "read keys", read),
            ("prefix", "read indexes", index),
            ("prefix", "send messages", publish),
            ("username_file", "run scripts", script),
            ("username_file", "read the time of the server", time),
        ];
        let mut is_good = true;
        for (key, what, mut command) in steps {
            if let Err(error) = ask::<redis::Value>(commands, &mut command).await {
                is_good = false;
                findings.problem(
                    key,
                    format!("the user of the store cannot {what}: {}", chain(&error)),
                );
            }
        }
        let channels = [names.events(), names.heartbeats()];
        if let Err(error) = commands.subscribe(&channels[..]).await {
            is_good = false;
            findings.problem(
                "prefix",
                format!(
                    "the user of the store cannot receive messages: {}",
                    chain(&error)
                ),
            );
        }
        if is_good {
            findings.good("username_file", "the user has all rights that it needs");
        }
    }
}

async fn ask<T: FromRedisValue>(
    commands: &mut Commands,
    command: &mut redis::Cmd,
) -> Result<T, RedisError> {
    command.query_async(commands).await
}

/// Reports what the server says about itself.
fn report(info: &str, findings: &mut Findings) {
    let value = |name: &str| {
        let mut lines = info.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    };
    // Valkey reports a version of Redis for programs that compare versions.
    let version = value("redis_version").unwrap_or_default();
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let parts = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if parts < OLDEST {
        findings.problem(
            "urls",
            format!("the version {version} is too old; Sidegate needs Redis 6.2 or Valkey"),
        );
    }
    match value("maxmemory_policy") {
        Some("noeviction") => {
            findings.good(
                "urls",
                "a full server refuses logins and keeps all sessions",
            );
        }
        Some(policy) if value("maxmemory") != Some("0") => findings.problem(
            "urls",
            format!(
                "maxmemory-policy is {policy}, so a full server ends sessions without a sign-out; \
                 set it to noeviction"
            ),
        ),
        Some(policy) => findings.warning(
            "urls",
            format!("maxmemory-policy is {policy}; set it to noeviction before you set maxmemory"),
        ),
        None => {}
    }
    let has_append = value("aof_enabled") == Some("1");
    let saved = value("rdb_last_save_time").is_some_and(|time| time != "0");
    if has_append {
        findings.good(
            "urls",
            "the server writes every change to its append-only file",
        );
    } else if saved {
        findings.warning(
            "urls",
            "the server has no append-only file (appendonly no), so a restart of the server loses \
             the latest logins and sign-outs",
        );
    }
    if value("role") == Some("slave") {
        findings.problem("urls", "the server is a replica and accepts no writes");
    }
}
