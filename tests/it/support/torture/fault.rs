//! The possible faults of a refresh, and the schedule of faults.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use super::ledger::RefreshCall;
use crate::support::upstream::Answer;

/// One fault. A correct client can continue after each fault, except [`Fault::Lost`].
/// [`Fault::ClientRefused`] needs an operator.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// The server is slow.
    Slow,
    /// The connection is closed before the server has processed the request.
    Closed,
    /// The connection is reset before the server has processed the request.
    Reset,
    /// The server has processed the request and the answer is lost. A second try is refused.
    Lost,
    /// The server has processed the request and the answer is lost. A second try succeeds.
    LostWithGrace,
    /// The server has processed the request, and only half of the answer arrives.
    CutShort,
    InternalError,
    /// 500 with the text `invalid_grant`.
    InternalErrorWithWords,
    /// 500 in the format of an OAuth error.
    ServerError,
    BadGateway,
    Unavailable,
    TooManyRequests,
    RequestTimeout,
    TooEarly,
    /// 200 with an HTML page.
    Page,
    /// 200 with truncated JSON.
    BrokenJson,
    /// 200 with JSON that contains no token.
    NoToken,
    /// The gateway's own secret is refused once.
    ClientRefused,
}

/// The outcome of one call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CallOutcome {
    Normal,
    Faulty(Fault),
}

impl Fault {
    pub(crate) const ALL: [Self; 18] = [
        Self::Slow,
        Self::Closed,
        Self::Reset,
        Self::Lost,
        Self::LostWithGrace,
        Self::CutShort,
        Self::InternalError,
        Self::InternalErrorWithWords,
        Self::ServerError,
        Self::BadGateway,
        Self::Unavailable,
        Self::TooManyRequests,
        Self::RequestTimeout,
        Self::TooEarly,
        Self::Page,
        Self::BrokenJson,
        Self::NoToken,
        Self::ClientRefused,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow to act",
            Self::Closed => "closed before acting",
            Self::Reset => "reset before acting",
            Self::Lost => "answer lost, no grace",
            Self::LostWithGrace => "answer lost, with grace",
            Self::CutShort => "answer cut short, with grace",
            Self::InternalError => "500 with a page",
            Self::InternalErrorWithWords => "500 with the words invalid_grant",
            Self::ServerError => "500 in JSON",
            Self::BadGateway => "502",
            Self::Unavailable => "503",
            Self::TooManyRequests => "429 with Retry-After",
            Self::RequestTimeout => "408",
            Self::TooEarly => "425",
            Self::Page => "200 with a page",
            Self::BrokenJson => "200 with broken JSON",
            Self::NoToken => "200 without a token",
            Self::ClientRefused => "401 invalid_client",
        }
    }

    /// Whether the server uses up the refresh token although no complete answer arrives.
    pub(super) fn uses_up(self) -> bool {
        matches!(self, Self::Lost | Self::LostWithGrace | Self::CutShort)
    }

    /// The answer for this fault. `honest` is the correct answer, which some faults lose.
    pub(super) fn answer(self, honest: &str) -> Answer {
        let page = [("Content-Type", "text/html")];
        let json = [("Content-Type", "application/json")];
        match self {
            Self::Closed | Self::Lost | Self::LostWithGrace => Answer::silence().then_close(),
            Self::Reset => Answer::silence().then_reset(),
            Self::CutShort => {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
                let text = format!("{head}Content-Length: {}\r\n\r\n", honest.len());
                let half = &honest.as_bytes()[..honest.len() / 2];
                Answer::raw(&[text.as_bytes(), half].concat()).then_close()
            }
            Self::InternalError => Answer::with(500, &page, "<h1>Whoops</h1>"),
            Self::InternalErrorWithWords => {
                Answer::with(500, &json, "{\"error\":\"invalid_grant\"}")
            }
            Self::ServerError => {
                let text = "{\"error\":\"internal_server_error\",\"error_description\":\
                            \"(sqlite3.IntegrityError) UNIQUE constraint failed\"}";
                Answer::with(500, &json, text)
            }
            Self::BadGateway => Answer::with(502, &page, "<h1>502 Bad Gateway</h1>"),
            Self::Unavailable => Answer::with(503, &page, "<h1>Be right back</h1>"),
            Self::TooManyRequests => {
                let fields = [("Retry-After", "1"), ("Content-Type", "text/html")];
                Answer::with(429, &fields, "Too Many Attempts.")
            }
            Self::RequestTimeout => Answer::with(408, &[], "").then_close(),
            Self::TooEarly => Answer::with(425, &[], ""),
            Self::Page => Answer::with(200, &page, "<h1>Welcome to the Wi-Fi</h1>"),
            Self::BrokenJson => Answer::with(200, &json, "{\"access_token\":\"e"),
            Self::NoToken => Answer::with(200, &json, "{\"token_type\":\"Bearer\"}"),
            Self::ClientRefused => Answer::with(401, &json, "{\"error\":\"invalid_client\"}"),
            Self::Slow => unreachable!("a slow call gets the correct answer"),
        }
    }
}

/// The outcomes of all calls, and the lifetimes of tokens.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    seed: u64,
    /// The percentage of first calls with a fault.
    percent: u64,
    lifetimes: Vec<u64>,
    faults: Vec<Fault>,
    slowest: Duration,
}

impl Schedule {
    /// `lifetimes` are the possible lifetimes of an access token, in seconds.
    pub(crate) fn new(seed: u64, percent: u64, lifetimes: &[u64]) -> Self {
        Self {
            seed,
            percent,
            lifetimes: lifetimes.to_vec(),
            faults: Fault::ALL.to_vec(),
            slowest: Duration::from_millis(1500),
        }
    }

    /// Removes this fault from the schedule.
    pub(crate) fn without(mut self, fault: Fault) -> Self {
        self.faults.retain(|known| *known != fault);
        self
    }

    /// The faults in the schedule.
    pub(crate) fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// A number that depends only on the seed and on `what`.
    pub(crate) fn number(&self, what: &str) -> u64 {
        let hash = digest(&SHA256, format!("{} {what}", self.seed).as_bytes());
        let bytes = hash.as_ref().first_chunk().unwrap();
        u64::from_be_bytes(*bytes)
    }

    fn pick<T: Copy>(&self, what: &str, among: &[T]) -> T {
        let count = u64::try_from(among.len()).unwrap();
        among[usize::try_from(self.number(what) % count).unwrap()]
    }

    /// The outcome of a call. At most two calls in a row have a fault.
    pub(super) fn outcome(&self, call: &RefreshCall) -> CallOutcome {
        let what = format!("{} {} {}", call.user, call.login, call.generation);
        let attempt = format!("{what} {}", call.attempt);
        if call.attempt > 1 || self.number(&format!("whether {attempt}")) % 100 >= self.percent {
            return CallOutcome::Normal;
        }
        let fault = self.pick(&format!("which {attempt}"), &self.faults);
        // A second try shows the server that the first answer was lost. A second try therefore
        // always has a grace period.
        if call.attempt > 0 && fault == Fault::Lost {
            return CallOutcome::Normal;
        }
        CallOutcome::Faulty(fault)
    }

    /// The lifetime of the access token of a generation.
    pub(super) fn life(&self, user: &str, login: usize, generation: usize) -> Duration {
        let what = format!("life {user} {login} {generation}");
        Duration::from_secs(self.pick(&what, &self.lifetimes))
    }

    /// The duration of a slow call.
    pub(super) fn delay(&self, call: &RefreshCall) -> Duration {
        let what = format!("delay {} {} {}", call.user, call.generation, call.attempt);
        let millis = u64::try_from(self.slowest.as_millis()).unwrap();
        Duration::from_millis(self.number(&what) % millis)
    }

    /// The frequency of each fault at first calls, in percent.
    pub(crate) fn rate(&self) -> f64 {
        let percent = u32::try_from(self.percent).unwrap();
        f64::from(percent) / f64::from(u32::try_from(self.faults.len()).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use sidegate::clock::Timestamp;

    use super::*;
    use crate::support::torture::ledger::PairId;

    fn call(user: &str, generation: usize, attempt: usize) -> RefreshCall {
        RefreshCall {
            pair_id: PairId { family: 0, pair: 0 },
            user: user.to_owned(),
            login: 0,
            generation,
            attempt,
            process: None,
            begun_at: Timestamp::from_millis(0),
        }
    }

    fn outcomes(seed: u64) -> Vec<CallOutcome> {
        let schedule = Schedule::new(seed, 40, &[4]);
        let calls = (0..2000).map(|generation| call("alice", generation, 0));
        calls.map(|call| schedule.outcome(&call)).collect()
    }

    #[test]
    fn a_seed_gives_the_same_faults_again_and_each_kind_its_share() {
        let one = outcomes(1);
        assert_eq!(one, outcomes(1));
        assert_ne!(one, outcomes(2));
        for fault in Fault::ALL {
            let count = one
                .iter()
                .filter(|outcome| **outcome == CallOutcome::Faulty(fault));
            let count = count.count();
            assert!((20..80).contains(&count), "{fault:?} {count} times");
        }
        let fault_free = one
            .iter()
            .filter(|outcome| **outcome == CallOutcome::Normal)
            .count();
        assert!((1100..1300).contains(&fault_free), "{fault_free}");
    }

    #[test]
    fn nothing_goes_wrong_three_times_in_a_row() {
        let schedule = Schedule::new(7, 100, &[4, 6]);
        for generation in 0..200 {
            let outcomes = [0, 1, 2].map(|n| schedule.outcome(&call("bob", generation, n)));
            assert_ne!(outcomes[0], CallOutcome::Normal);
            assert_ne!(outcomes[1], CallOutcome::Faulty(Fault::Lost));
            assert_eq!(outcomes[2], CallOutcome::Normal);
        }
        let lives: Vec<_> = (0..50)
            .map(|n| schedule.life("bob", 0, n).as_secs())
            .collect();
        assert!(lives.contains(&4) && lives.contains(&6), "{lives:?}");
    }
}
