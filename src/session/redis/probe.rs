//! The check of the store over the network, for `sidegate check --online`.

use redis::{Cmd, FromRedisValue, RedisError};

use super::commands::Commands;
use super::connect::connect;
use super::scripts::{END, LEASE, Names, RELEASE, REPLACE};
use super::server_clock::differs;
use super::settings::RedisSettings;
use crate::clock::Clock;
use crate::origin::Findings;
use crate::secret::random;
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
                    "the version, the memory policy and the persistence are unknown, and after a failover \
                     a refresh token can be used twice; give the user +info ({})",
                    chain(error)
                ),
            ),
        }
        let mut save = redis::cmd("CONFIG");
        save.arg("GET").arg("save");
        // The user of the store is usually not allowed to use this command.
        let answer = ask::<Vec<(String, String)>>(&mut open.commands, &mut save)
            .await
            .ok();
        let save = answer.as_deref().and_then(|found| found.first());
        let save = save.map(|(_name, value)| value.as_str());
        if let Ok(info) = &info {
            report_persistence(info, save, findings);
            if self.sentinel_master.is_some() {
                report_replicas(info, findings);
            }
        }
        probe_clock(&mut open.commands, findings).await;
        self.probe_rights(&mut open.commands, findings).await;
    }

    /// Tries every kind of command that the store uses.
    async fn probe_rights(&self, commands: &mut Commands, findings: &mut Findings) {
        let names = Names {
            prefix: self.prefix.clone(),
            database: self.database,
            origin: *b"checking",
        };
        let Ok(random) = random() else {
            return findings.problem("urls", "the system has no random numbers".to_owned());
        };
        let mut is_good = true;
        for (key, what, mut command) in steps(&names, random) {
            if let Err(error) = ask::<redis::Value>(commands, &mut command).await {
                is_good = false;
                findings.problem(
                    key,
                    format!("the user of the store cannot {what}: {}", chain(&error)),
                );
            }
        }
        // A subscription to the channel of the changes would count as a replica.
        if let Err(error) = commands.subscribe(&[names.heartbeats()]).await {
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

/// A command of the check: the setting to which a failure belongs, what the command does, and the
/// command.
type Step = (&'static str, &'static str, Cmd);

/// Returns the commands of the check. They use a session that does not exist, and a key that the last
/// command removes.
fn steps(names: &Names, random: [u8; 16]) -> Vec<Step> {
    let command = |name: &str, key: &[u8]| {
        let mut command = redis::cmd(name);
        command.arg(key);
        command
    };
    let (session, lease) = (names.session(&random), names.lease(&random));
    let (text, index) = (names.presence(), names.mark(b'c', &random));
    let mut write = command("SET", &text);
    write.arg("").arg("PX").arg(1000);
    let mut write_index = command("ZADD", &index);
    write_index.arg(0).arg("member");
    let mut expire = command("PEXPIRE", &index);
    expire.arg(1000);
    let mut scan = command("ZSCAN", &index);
    scan.arg(0);
    let mut publish = command("PUBLISH", names.heartbeats().as_bytes());
    publish.arg("");
    let mut count = command("PUBSUB", b"NUMSUB");
    count.arg(names.events());
    let mut replace = names.call(REPLACE, [session.clone()]);
    replace.arg(&random).arg("").arg("");
    let mut acquire = names.call(LEASE, [lease.clone(), names.time_to_repeat()]);
    acquire.arg("check").arg(1000).arg(0);
    let mut release = names.call(RELEASE, [lease]);
    release.arg("check").arg(&random);
    let mut end = names.call(END, [session]);
    end.arg(&random).arg("x").arg("");
    vec![
        ("prefix", "write keys", write),
        ("prefix", "read keys", command("GET", &text)),
        ("prefix", "write indexes", write_index),
        ("prefix", "limit the time of keys", expire),
        ("prefix", "read indexes", scan),
        ("prefix", "count sessions", command("ZCARD", &names.index())),
        ("prefix", "remove keys", command("DEL", &index)),
        ("prefix", "send messages", publish),
        ("username_file", "count the replicas", count),
        ("username_file", "replace sessions", replace),
        ("username_file", "acquire leases", acquire),
        ("username_file", "release leases", release),
        ("username_file", "end sessions", end),
    ]
}

/// Compares the clock of the server with the clock of this machine.
async fn probe_clock(commands: &mut Commands, findings: &mut Findings) {
    let clock = Clock::system();
    let now = clock.now();
    let time = ask::<(u64, u64)>(commands, &mut redis::cmd("TIME")).await;
    let seconds = match time {
        Ok((seconds, _micros)) => seconds,
        Err(error) => {
            return findings.problem(
                "username_file",
                format!(
                    "the user of the store cannot read the time of the server: {}",
                    chain(&error)
                ),
            );
        }
    };
    let here = i64::try_from(now.as_millis() / 1000).unwrap_or_default();
    let there = i64::try_from(seconds).unwrap_or_default();
    let ahead = there.saturating_sub(here);
    if differs(ahead.saturating_mul(1000)) {
        findings.warning("urls", clock_warning(ahead));
    }
}

fn clock_warning(ahead: i64) -> String {
    format!(
        "the clock of the server differs by {} s from the clock of this machine; synchronize both \
         clocks",
        ahead.unsigned_abs()
    )
}

async fn ask<T: FromRedisValue>(
    commands: &mut Commands,
    command: &mut Cmd,
) -> Result<T, RedisError> {
    command.query_async(commands).await
}

/// Returns a value of the answer to the command `INFO`.
fn value_of<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}

/// Reports which data a restart of the server loses. `save` is the value of the server's setting
/// `save`. `None` if the user of the store may not read the setting.
fn report_persistence(info: &str, save: Option<&str>, findings: &mut Findings) {
    if value_of(info, "aof_enabled") == Some("1") {
        return findings.good(
            "urls",
            "the server writes every change to its append-only file",
        );
    }
    let lost = match save {
        Some("") => "and makes no snapshots (save), so a restart of the server loses all sessions",
        Some(_) => "so a restart of the server loses the latest logins and sign-outs",
        None => {
            "so a restart of the server loses the latest logins and sign-outs, and all sessions if \
             the server makes no snapshots"
        }
    };
    findings.warning(
        "urls",
        format!("the server has no append-only file (appendonly no), {lost}"),
    );
}

/// Reports whether a server that is cut off from its replicas still accepts changes.
fn report_replicas(info: &str, findings: &mut Findings) {
    if value_of(info, "connected_slaves") == Some("0") {
        findings.warning(
            "sentinel_master",
            "the server has no replica, so no failover is possible",
        );
    }
    // The server reports this number only if the setting is not zero.
    if value_of(info, "min_slaves_good_slaves").is_some() {
        return findings.good(
            "sentinel_master",
            "a server that is cut off from its replicas refuses changes",
        );
    }
    findings.warning(
        "sentinel_master",
        "min-replicas-to-write is 0, so a server that is cut off from its replicas accepts changes that a \
         failover loses; set it to 1",
    );
}

/// Reports what the server says about itself.
fn report(info: &str, findings: &mut Findings) {
    let value = |name| value_of(info, name);
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
    if value("role") == Some("slave") {
        findings.problem("urls", "the server is a replica and accepts no writes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_says_what_a_restart_of_the_server_loses() {
        let found = |info: &str, save: Option<&str>| {
            let mut findings = Findings::new("store".to_owned());
            report_persistence(info, save, &mut findings);
            let list = findings.into_list();
            list.iter().map(ToString::to_string).collect::<String>()
        };
        let none = "aof_enabled:0\r\n";
        let all = found(none, Some(""));
        assert!(all.contains("loses all sessions"), "{all}");
        let latest = found(none, Some("3600 1"));
        assert!(
            latest.contains("the latest logins") && !latest.contains("all sessions"),
            "{latest}"
        );
        let unknown = found(none, None);
        assert!(
            unknown.contains("if the server makes no snapshots"),
            "{unknown}"
        );
        assert!(!found("aof_enabled:1\r\n", None).contains("loses"));
    }

    #[test]
    fn f_12_the_check_says_whether_a_failover_can_lose_changes() {
        let found = |info: &str| {
            let mut findings = Findings::new("store".to_owned());
            report_replicas(info, &mut findings);
            let list = findings.into_list();
            list.iter().map(ToString::to_string).collect::<String>()
        };
        let none = found("connected_slaves:0\r\n");
        assert!(none.contains("no failover is possible"), "{none}");
        let risky = found("connected_slaves:2\r\n");
        assert!(
            risky.contains("min-replicas-to-write is 0") && !risky.contains("no replica"),
            "{risky}"
        );
        let good = found("connected_slaves:2\r\nmin_slaves_good_slaves:2\r\n");
        assert!(good.contains("refuses changes"), "{good}");
    }

    #[test]
    fn clocks_that_differ_by_more_than_ten_seconds_are_reported() {
        assert!(!differs(10_000) && !differs(-10_000));
        assert!(differs(10_001) && differs(-10_001) && differs(i64::MIN));
        assert!(clock_warning(-15).contains("differs by 15 s"));
    }
}
