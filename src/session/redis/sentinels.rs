//! The questions to the Sentinels.
//!
//! A master that is cut off from the Sentinels and from its replicas does not learn that it has a successor, and
//! accepts changes that are lost later. A replica of the gateway that still reaches this master must leave it.
//!
//! The gateway asks all Sentinels in the settings at the same time. The Sentinels number the failovers. The answer with
//! the highest number counts. If several answers have the highest number, the master in most of these answers counts.
//!
//! The answer is reliable if more than half of the Sentinels have answered, because a failover needs more than half of
//! them. If fewer have answered, the gateway asks the master for its replicas: a master with a replica in sync is not
//! cut off. If several questions in a row confirm the master in neither way, the master counts as a server that does
//! not answer.

use std::sync::Arc;
use std::time::Duration;

use redis::{InfoDict, RedisError, Value};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use url::Host;

use super::Shared;
use super::commands::Commands;
use super::connect::{Access, Open, ask_sentinel, sentinel_access};
use super::error::RedisConnectError;
use super::heartbeats::Signal;
use super::settings::{Address, RedisSettings};

/// The time between two questions.
const BETWEEN: Duration = Duration::from_secs(2);
/// The number of questions in a row without a confirmation after which the server counts as lost.
const WITHOUT: u32 = 3;
/// The time for which the replica waits for the other Sentinels after more than half have answered.
const FOR_OTHERS: Duration = Duration::from_millis(200);
/// The longest time since the last sign of a replica that is in sync, in seconds.
const IN_SYNC: u64 = 2;

/// What the Sentinels say about the master.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Found {
    pub(super) master: Address,
    /// True if more than half of the Sentinels have answered.
    pub(super) is_confirmed: bool,
    /// The number of the last failover. Zero if no answer contains a number.
    pub(super) epoch: u64,
}

/// The server of a connection, as the Sentinels know it.
#[derive(Clone, Copy, Debug)]
struct Current<'a> {
    server: &'a str,
    /// The number of the last failover at the time of the connection.
    epoch: u64,
}

impl Found {
    /// Returns true if the server has a successor. Without the answers of the others, a Sentinel that was cut off may
    /// name the master before the last failover.
    fn replaces(&self, current: Current<'_>) -> bool {
        let is_reliable = self.is_confirmed || self.epoch > current.epoch;
        is_reliable && self.master.to_string() != current.server
    }

    /// Returns true if the Sentinels confirm the server.
    fn confirms(&self, current: Current<'_>) -> bool {
        self.is_confirmed && self.master.to_string() == current.server
    }
}

/// The answer of one Sentinel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct SentinelAnswer {
    pub(super) master: Address,
    /// The number of the last failover.
    pub(super) epoch: u64,
}

/// Asks all Sentinels for the address of the master. `current` is the server of the connection, if there is one.
///
/// # Errors
///
/// [`RedisConnectError`].
///
/// # Cancel safety
///
/// If the future is dropped, the connections to the Sentinels are closed.
pub(super) async fn master_of(
    settings: &RedisSettings,
    (master, access): (&str, Access),
    current: Option<&str>,
) -> Result<Found, RedisConnectError> {
    let shared = Arc::new((settings.clone(), master.to_owned(), access));
    let mut asking = JoinSet::new();
    for sentinel in settings.servers.clone() {
        let shared = Arc::clone(&shared);
        asking.spawn(async move {
            let (settings, master, access) = &*shared;
            ask_sentinel(settings, &sentinel, (master, access)).await
        });
    }
    let (mut answers, mut failed) = (Vec::new(), None);
    loop {
        let next = if is_majority(answers.len(), settings.servers.len()) {
            let others = timeout(FOR_OTHERS, asking.join_next()).await;
            others.ok().flatten()
        } else {
            asking.join_next().await
        };
        match next {
            Some(Ok(Ok(Some(answer)))) => answers.push(answer),
            Some(Ok(Err(error))) => failed = Some(error),
            Some(Ok(Ok(None)) | Err(_)) => {}
            None => break,
        }
    }
    let is_confirmed = is_majority(answers.len(), settings.servers.len());
    match newest(answers, current) {
        Some(SentinelAnswer { master, epoch }) => Ok(Found {
            master,
            is_confirmed,
            epoch,
        }),
        None => Err(failed.unwrap_or_else(|| RedisConnectError::NoMaster(master.into()))),
    }
}

fn is_majority(some: usize, all: usize) -> bool {
    some.saturating_mul(2) > all
}

/// Returns the master of the last failover. If the Sentinels name several masters with the same number, or tell no
/// number, the master that most of them name counts, and then the current server.
fn newest(mut answers: Vec<SentinelAnswer>, current: Option<&str>) -> Option<SentinelAnswer> {
    let epoch = answers.iter().map(|answer| answer.epoch).max()?;
    answers.retain(|answer| answer.epoch == epoch);
    let rank = |answer: &SentinelAnswer| {
        let same = answers.iter().filter(|other| other.master == answer.master);
        let name = answer.master.to_string();
        // The name decides last, so that the order of the answers does not count.
        (same.count(), current == Some(&*name), name)
    };
    answers.iter().max_by_key(|answer| rank(answer)).cloned()
}

/// Reads the answers of a Sentinel to `SENTINEL get-master-addr-by-name` and `SENTINEL master`.
pub(super) fn read_answer(
    answers: Vec<Result<Value, RedisError>>,
) -> Result<Option<SentinelAnswer>, RedisError> {
    let mut answers = answers.into_iter();
    let address = answers.next().unwrap_or(Ok(Value::Nil))?;
    let address: Option<(String, u16)> = redis::from_redis_value(address)?;
    // The user at the Sentinels may not be allowed to use the second command.
    let state: Option<std::collections::HashMap<String, String>> = answers
        .next()
        .and_then(Result::ok)
        .and_then(|state| redis::from_redis_value(state).ok());
    let epoch = state.and_then(|state| state.get("config-epoch")?.parse().ok());
    Ok(address.and_then(|(host, port)| {
        Some(SentinelAnswer {
            master: Address::Tcp(host_of(&host)?, port),
            epoch: epoch.unwrap_or_default(),
        })
    }))
}

/// Reads the host in the answer of a Sentinel: a name, or an IP address without brackets.
fn host_of(text: &str) -> Option<Host<String>> {
    if let Ok(address) = text.parse() {
        return Some(Host::Ipv6(address));
    }
    Host::parse(text).ok()
}

/// Returns true if a master has a replica in sync.
pub(super) fn has_replica(info: &InfoDict) -> bool {
    (0..16).any(|number| {
        let replica: Option<String> = info.get(&format!("slave{number}"));
        replica.is_some_and(|replica| is_in_sync(&replica))
    })
}

/// Reads a line about a replica, such as `ip=10.0.0.1,port=6379,state=online,offset=1,lag=0`.
fn is_in_sync(replica: &str) -> bool {
    let value = |name: &str| {
        let mut values = replica.split(',').filter_map(|value| value.split_once('='));
        values.find_map(|(of, value)| (of == name).then_some(value))
    };
    let lag = value("lag").and_then(|lag| lag.parse::<u64>().ok());
    value("state") == Some("online") && lag.is_some_and(|lag| lag <= IN_SYNC)
}

/// Asks the server whether it has a replica in sync.
async fn server_has_replica(commands: &mut Commands) -> bool {
    let mut info = redis::cmd("INFO");
    let info: Result<InfoDict, _> = info.arg("replication").query_async(commands).await;
    info.is_ok_and(|info| has_replica(&info))
}

/// Whether the Sentinels confirm the server of a connection.
#[derive(Debug)]
pub(super) struct Confirmation {
    /// The number of heartbeats between two questions.
    interval: u32,
    heartbeats: u32,
    is_asking: bool,
    /// The number of questions since the last confirmation.
    without: u32,
}

impl Confirmation {
    /// `quarter` is the time between two heartbeats.
    pub(super) fn new(quarter: Duration) -> Self {
        let interval = BETWEEN.as_millis().checked_div(quarter.as_millis().max(1));
        let interval = u32::try_from(interval.unwrap_or(1)).unwrap_or(u32::MAX);
        Self {
            interval: interval.max(1),
            heartbeats: 0,
            is_asking: false,
            without: 0,
        }
    }

    /// Notes a heartbeat. Returns true if a question is due.
    pub(super) fn is_question_due(&mut self) -> bool {
        self.heartbeats = self.heartbeats.saturating_add(1);
        let is_due = !self.is_asking && self.heartbeats >= self.interval;
        if is_due {
            self.is_asking = true;
            self.heartbeats = 0;
        }
        is_due
    }

    /// Notes the result of a question. Returns false if the server counts as lost.
    pub(super) fn note(&mut self, is_confirmed: bool) -> bool {
        self.is_asking = false;
        self.without = if is_confirmed {
            0
        } else {
            self.without.saturating_add(1)
        };
        self.without < WITHOUT
    }
}

impl Shared {
    /// Asks the Sentinels whether the server of this connection is still the master.
    pub(super) fn ask_sentinels(
        self: &Arc<Self>,
        open: &Open,
        signals: mpsc::UnboundedSender<Signal>,
    ) {
        let Some(master) = self.settings.sentinel_master.clone() else {
            return;
        };
        let (shared, server, epoch) = (Arc::clone(self), open.server.clone(), open.epoch);
        let mut commands = open.commands.clone();
        tokio::spawn(async move {
            let current = Current {
                server: &server,
                epoch,
            };
            let found = async {
                let access = sentinel_access(&shared.settings).await?;
                master_of(&shared.settings, (&master, access), Some(&server)).await
            };
            let signal = match found.await {
                Ok(found) if found.replaces(current) => Signal::Closed,
                Ok(found) if found.confirms(current) => Signal::Confirmation(true),
                Ok(_) | Err(_) => Signal::Confirmation(server_has_replica(&mut commands).await),
            };
            // The receiver is closed if the connection was already replaced.
            drop(signals.send(signal));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(master: &str, epoch: u64) -> SentinelAnswer {
        SentinelAnswer {
            master: Address::Tcp(Host::parse(master).unwrap(), 6379),
            epoch,
        }
    }

    #[test]
    fn f_12_the_answer_after_the_last_failover_counts_and_not_the_first_answer() {
        let answers = vec![answer("old", 3), answer("new", 4), answer("old", 3)];
        assert_eq!(newest(answers, Some("old:6379")), Some(answer("new", 4)));
        assert_eq!(newest(Vec::new(), None), None);
        for (some, all, expected) in [(1, 1, true), (1, 2, false), (2, 3, true), (1, 3, false)] {
            assert_eq!(is_majority(some, all), expected, "{some} of {all}");
        }
    }

    #[test]
    fn f_12_without_numbers_the_master_of_most_answers_counts_in_every_order() {
        let (a, b) = (answer("a", 0), answer("b", 0));
        for order in [[&a, &b, &b], [&b, &a, &b], [&b, &b, &a]] {
            let answers = order.map(SentinelAnswer::clone).to_vec();
            assert_eq!(newest(answers, Some("a:6379")), Some(b.clone()));
        }
        for (current, expected) in [("a:6379", &a), ("b:6379", &b), ("c:6379", &b)] {
            for order in [[&a, &b], [&b, &a]] {
                let answers = order.map(SentinelAnswer::clone).to_vec();
                assert_eq!(newest(answers, Some(current)).as_ref(), Some(expected));
            }
        }
    }

    #[test]
    fn f_12_one_sentinel_that_was_cut_off_does_not_end_the_connection_to_the_master() {
        let current = Current {
            server: "new:6379",
            epoch: 4,
        };
        for (master, is_confirmed, epoch, expected) in [
            ("new", true, 4, (false, true)),
            ("new", false, 4, (false, false)),
            ("old", false, 3, (false, false)),
            ("old", false, 4, (false, false)),
            ("next", false, 5, (true, false)),
            ("next", true, 5, (true, false)),
            ("other", true, 0, (true, false)),
        ] {
            let found = Found {
                master: answer(master, epoch).master,
                is_confirmed,
                epoch,
            };
            let result = (found.replaces(current), found.confirms(current));
            assert_eq!(result, expected, "{found:?}");
        }
    }

    #[test]
    fn f_12_a_replica_that_is_late_or_loads_does_not_confirm_its_master() {
        for (state, lag, expected) in [
            ("online", "0", true),
            ("online", "2", true),
            ("online", "3", false),
            ("wait_bgsave", "0", false),
        ] {
            let line = format!("ip=10.0.0.1,port=6379,state={state},offset=1,lag={lag}");
            assert_eq!(is_in_sync(&line), expected, "{line}");
        }
        assert!(!is_in_sync("") && !is_in_sync("state=online"));
    }

    #[test]
    fn f_12_a_server_without_confirmations_is_left_after_three_questions() {
        let mut confirmation = Confirmation::new(Duration::from_millis(250));
        let due: Vec<_> = (1..=16)
            .filter(|_| confirmation.is_question_due())
            .collect();
        // No second question begins before the first has ended.
        assert_eq!(due, [8]);
        assert!(confirmation.note(false) && confirmation.is_question_due());
        assert!(confirmation.note(false) && confirmation.note(true));
        assert!(confirmation.note(false) && confirmation.note(false) && !confirmation.note(false));
        assert!(Confirmation::new(Duration::from_secs(15)).is_question_due());
    }
}
