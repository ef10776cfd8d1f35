//! A record of issued tokens, used tokens and lost answers.
//!
//! One login is a family of token pairs (RFC 9700 section 4.14.2): each refresh uses up the newest
//! pair and issues the next pair. Each token contains its user, so that every recipient can check
//! the user of the token.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sidegate::clock::Timestamp;
use tokio::sync::watch;

use super::fault::Fault;
use crate::support::oauth::CANARY;

/// The behaviour of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProviderBehavior {
    /// The server's name.
    pub(crate) server: &'static str,
    /// Whether a refresh revokes the old access token.
    pub(crate) kills_access_tokens: bool,
    /// The time for which a used refresh token is still accepted for a second try.
    pub(crate) grace: Duration,
}

/// An access token and a refresh token that were issued together.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    /// The number of earlier refreshes, without repeated refreshes.
    pub(crate) generation: usize,
    /// The time at which the call arrived that this pair answers.
    pub(crate) asked_at: Timestamp,
    pub(crate) issued_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    /// The time at which the access token was revoked.
    pub(crate) killed_at: Option<Timestamp>,
    /// The answer with this pair never arrived.
    pub(crate) lost: bool,
    /// The time at which the refresh token of this pair was used up.
    pub(crate) used_at: Option<Timestamp>,
    grace_until: Timestamp,
    /// The times at which calls with the refresh token of this pair arrived.
    pub(crate) calls: Vec<Timestamp>,
    /// The faults of the calls with this refresh token.
    pub(crate) faults: Vec<Fault>,
    /// The calls with this refresh token that got no answer, because the server was stopped or the
    /// gateway process was killed: their places in `calls`.
    pub(crate) abandoned: BTreeSet<usize>,
    /// The number of the gateway process that got this pair, if each process has its own secret.
    pub(super) issued_to: Option<usize>,
    /// The call that got this pair: its place in the `calls` of the used pair.
    pub(super) issued_by: usize,
    /// A request with the access token of this pair has reached the app.
    pub(super) reached_app: bool,
}

/// Why a family ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// An old refresh token was used again, because the answer that replaced it was lost and there
    /// was no grace period. No client can avoid this reuse.
    LostAnswer,
    /// An old refresh token was used again although its successor had arrived, or after the grace
    /// period.
    Reuse,
}

/// One login with all its token pairs.
#[derive(Clone, Debug)]
pub(crate) struct Family {
    pub(crate) user: String,
    /// The number of this login for this user, from 0.
    pub(crate) login: usize,
    pub(crate) pairs: Vec<Pair>,
    pub(crate) ended: Option<End>,
    /// The time at which an access token of this login was last used.
    pub(crate) last_used_at: Timestamp,
    /// The number of calls that arrived while another call was in progress.
    pub(crate) overlaps: usize,
    pub(crate) behavior: ProviderBehavior,
    /// The calls in progress: the pair whose refresh token is being used, the place of the call in the
    /// `calls` of this pair, and the gateway process that made the call.
    pub(super) under_way: Vec<(usize, usize, Option<usize>)>,
}

/// Identifies a pair by its family and its position.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PairId {
    pub(crate) family: usize,
    pub(crate) pair: usize,
}

/// A refresh request that has arrived.
#[derive(Clone, Debug)]
pub(crate) struct RefreshCall {
    pub(crate) pair_id: PairId,
    pub(crate) user: String,
    pub(crate) login: usize,
    pub(crate) generation: usize,
    /// The number of earlier calls with the same token.
    pub(crate) attempt: usize,
    /// The number of the gateway process that made the call, if each process has its own secret.
    pub(super) process: Option<usize>,
    pub(super) begun_at: Timestamp,
}

/// The refresh token is invalid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct InvalidGrant;

/// The status of an access token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TokenStatus {
    Valid,
    Expired,
    Killed,
}

/// The owner and the status of an access token.
#[derive(Clone, Debug)]
pub(crate) struct Bearer {
    pub(crate) user: String,
    pub(crate) pair_id: PairId,
    pub(crate) status: TokenStatus,
}

/// A record that several servers share.
pub(crate) type SharedLedger = Arc<watch::Sender<Ledger>>;

/// All families.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    pub(super) families: Vec<Family>,
    /// The gateway processes that were killed, and the times.
    pub(super) killed: Vec<(usize, Timestamp)>,
}

impl Pair {
    fn new(generation: usize, now: Timestamp, life: Duration) -> Self {
        Self {
            generation,
            asked_at: now,
            issued_at: now,
            expires_at: now.plus(life),
            killed_at: None,
            lost: false,
            used_at: None,
            grace_until: now,
            calls: Vec::new(),
            faults: Vec::new(),
            abandoned: BTreeSet::new(),
            issued_to: None,
            issued_by: 0,
            reached_app: false,
        }
    }

    /// The number of calls with the correct answer.
    pub(crate) fn normal_calls(&self) -> usize {
        let faults = self.faults.iter().filter(|fault| **fault != Fault::Slow);
        self.calls.len() - faults.count() - self.abandoned.len()
    }
}

impl Ledger {
    /// An empty record.
    pub(crate) fn shared_ledger() -> SharedLedger {
        Arc::new(watch::Sender::new(Self::default()))
    }

    pub(crate) fn families(&self) -> &[Family] {
        &self.families
    }

    /// Opens a family for a new login.
    pub(crate) fn open(
        &mut self,
        user: &str,
        behavior: ProviderBehavior,
        life: Duration,
        now: Timestamp,
    ) -> PairId {
        let login = self.logins(user);
        self.families.push(Family {
            user: user.to_owned(),
            login,
            pairs: vec![Pair::new(0, now, life)],
            ended: None,
            last_used_at: now,
            overlaps: 0,
            behavior,
            under_way: Vec::new(),
        });
        PairId {
            family: self.families.len() - 1,
            pair: 0,
        }
    }

    /// The number of logins of a user.
    pub(crate) fn logins(&self, user: &str) -> usize {
        let theirs = self.families.iter().filter(|family| family.user == user);
        theirs.count()
    }

    /// The access token of a pair.
    pub(crate) fn access_token(&self, pair_id: PairId) -> String {
        let user = &self.families[pair_id.family].user;
        format!("{user}.{CANARY}.{}.{}", pair_id.family, pair_id.pair)
    }

    /// The refresh token of a pair.
    pub(crate) fn refresh_token(pair_id: PairId) -> String {
        format!("def502{CANARY}.{}.{}", pair_id.family, pair_id.pair)
    }

    pub(crate) fn pair(&mut self, pair_id: PairId) -> &mut Pair {
        &mut self.families[pair_id.family].pairs[pair_id.pair]
    }

    /// Records that a call with a refresh token has begun; `None` if the token was never issued.
    pub(crate) fn begin_call(
        &mut self,
        refresh_token: &str,
        process: Option<usize>,
        now: Timestamp,
    ) -> Option<RefreshCall> {
        let pair_id = pair_id(refresh_token)?;
        let family = self.families.get_mut(pair_id.family)?;
        if refresh_token != Self::refresh_token(pair_id) {
            return None;
        }
        let pair = family.pairs.get_mut(pair_id.pair)?;
        if !family.under_way.is_empty() {
            family.overlaps += 1;
        }
        let attempt = pair.calls.len();
        family.under_way.push((pair_id.pair, attempt, process));
        pair.calls.push(now);
        Some(RefreshCall {
            pair_id,
            user: family.user.clone(),
            login: family.login,
            generation: pair.generation,
            attempt,
            process,
            begun_at: now,
        })
    }

    /// Records the end of a call.
    pub(crate) fn end_call(&mut self, pair_id: PairId) {
        let under_way = &mut self.families[pair_id.family].under_way;
        if let Some(at) = under_way
            .iter()
            .position(|(pair, ..)| *pair == pair_id.pair)
        {
            under_way.remove(at);
        }
    }

    /// Uses up a refresh token (RFC 6749 section 6) and issues the next pair. The token is accepted
    /// for a second try during the longer of `grace` and the server's grace period.
    pub(crate) fn refresh(
        &mut self,
        pair_id: PairId,
        life: Duration,
        grace: Duration,
        now: Timestamp,
    ) -> Result<PairId, InvalidGrant> {
        let family = &mut self.families[pair_id.family];
        if family.ended.is_some() {
            return Err(InvalidGrant);
        }
        let newest = family.pairs.len() - 1;
        let newest_generation = family.pairs[newest].generation;
        let asked = &mut family.pairs[pair_id.pair];
        let generation = asked.generation + 1;
        let asked_at = asked.calls.last().copied().unwrap_or(now);
        if pair_id.pair == newest {
            asked.used_at = Some(now);
            asked.grace_until = now.plus(family.behavior.grace.max(grace));
            if family.behavior.kills_access_tokens {
                asked.killed_at = Some(now);
            }
        } else if now < asked.grace_until && generation == newest_generation {
            family.pairs[newest].killed_at = Some(now);
        } else {
            let unrecoverable = family.is_unrecoverable() && pair_id.pair + 1 == newest;
            family.end(
                if unrecoverable {
                    End::LostAnswer
                } else {
                    End::Reuse
                },
                now,
            );
            return Err(InvalidGrant);
        }
        let issued = Pair {
            asked_at,
            ..Pair::new(generation, now, life)
        };
        family.pairs.push(issued);
        Ok(PairId {
            pair: newest + 1,
            ..pair_id
        })
    }

    /// The number of occurrences of each fault, by name.
    pub(crate) fn faults(&self) -> BTreeMap<&'static str, usize> {
        let mut count = BTreeMap::new();
        let pairs = self.families.iter().flat_map(|family| &family.pairs);
        for fault in pairs.flat_map(|pair| &pair.faults) {
            *count.entry(fault.name()).or_default() += 1;
        }
        count
    }

    /// The owner of an access token; `None` if the token was never issued.
    pub(crate) fn bearer(&self, access_token: &str, now: Timestamp) -> Option<Bearer> {
        let pair_id = pair_id(access_token)?;
        let family = self.families.get(pair_id.family)?;
        let pair = family.pairs.get(pair_id.pair)?;
        if access_token != self.access_token(pair_id) {
            return None;
        }
        let status = match (pair.killed_at, now < pair.expires_at) {
            (Some(_), _) => TokenStatus::Killed,
            (None, true) => TokenStatus::Valid,
            (None, false) => TokenStatus::Expired,
        };
        Some(Bearer {
            user: family.user.clone(),
            pair_id,
            status,
        })
    }

    /// Records that a user sent a request with the access token of this pair.
    pub(crate) fn note_use(&mut self, pair_id: PairId, now: Timestamp) {
        self.families[pair_id.family].last_used_at = now;
        self.reached_app(pair_id);
    }

    /// Removes the calls in progress of a server that was stopped.
    pub(crate) fn abandon(&mut self, server: &str) {
        let families = self.families.iter_mut();
        for family in families.filter(|family| family.behavior.server == server) {
            for (pair, call, _process) in std::mem::take(&mut family.under_way) {
                family.pairs[pair].abandoned.insert(call);
            }
        }
    }

    /// All data, for people to read.
    pub(crate) fn to_json(&self) -> Value {
        let pair = |pair: &Pair| {
            let faults: Vec<_> = pair.faults.iter().map(|fault| fault.name()).collect();
            json!({
                "generation": pair.generation, "issued_at": pair.issued_at.as_millis(),
                "expires_at": pair.expires_at.as_millis(), "lost": pair.lost,
                "killed_at": pair.killed_at.map(Timestamp::as_millis),
                "used_at": pair.used_at.map(Timestamp::as_millis),
                "calls": pair.calls.iter().map(|at| at.as_millis()).collect::<Vec<_>>(),
                "faults": faults,
            })
        };
        let families = self.families.iter().map(|family| {
            json!({
                "user": family.user, "login": family.login,
                "ended": family.ended.map(|end| format!("{end:?}")),
                "overlaps": family.overlaps,
                "pairs": family.pairs.iter().map(pair).collect::<Vec<_>>(),
            })
        });
        Value::Array(families.collect())
    }
}

impl Family {
    fn end(&mut self, why: End, now: Timestamp) {
        self.ended = Some(why);
        for pair in &mut self.pairs {
            pair.killed_at = pair.killed_at.or(Some(now));
        }
    }

    /// The newest pair is lost and cannot be requested again, so no client can continue.
    pub(crate) fn is_unrecoverable(&self) -> bool {
        let [.., asked, newest] = self.pairs.as_slice() else {
            return false;
        };
        newest.lost && asked.used_at == Some(asked.grace_until)
    }

    /// The number of used refresh tokens.
    pub(crate) fn refreshes(&self) -> usize {
        let used = self.pairs.iter().filter(|pair| pair.used_at.is_some());
        used.count()
    }
}

/// The pair whose family and position are at the end of a token.
fn pair_id(token: &str) -> Option<PairId> {
    let mut parts = token.rsplit('.');
    let pair = parts.next()?.parse().ok()?;
    let family = parts.next()?.parse().ok()?;
    Some(PairId { family, pair })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(4);
    const NO_GRACE: Duration = Duration::ZERO;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + seconds * 1000)
    }

    fn opened(kills_access_tokens: bool) -> (Ledger, PairId) {
        let mut ledger = Ledger::default();
        let behavior = ProviderBehavior {
            server: "server",
            kills_access_tokens,
            grace: NO_GRACE,
        };
        ledger.open("bob", behavior, LIFE, at(0));
        let pair_id = ledger.open("alice", behavior, LIFE, at(0));
        (ledger, pair_id)
    }

    fn status(ledger: &Ledger, pair_id: PairId, now: Timestamp) -> TokenStatus {
        let bearer = ledger.bearer(&ledger.access_token(pair_id), now).unwrap();
        assert_eq!((bearer.user.as_str(), bearer.pair_id), ("alice", pair_id));
        bearer.status
    }

    #[test]
    fn tokens_name_their_user_and_their_status() {
        let (mut ledger, first) = opened(false);
        assert_eq!(status(&ledger, first, at(3)), TokenStatus::Valid);
        assert_eq!(status(&ledger, first, at(4)), TokenStatus::Expired);
        let second = ledger.refresh(first, LIFE, NO_GRACE, at(3)).unwrap();
        assert_eq!(status(&ledger, first, at(3)), TokenStatus::Valid);
        assert_eq!(status(&ledger, second, at(6)), TokenStatus::Valid);
        let (mut ledger, first) = opened(true);
        ledger.refresh(first, LIFE, NO_GRACE, at(3)).unwrap();
        assert_eq!(status(&ledger, first, at(3)), TokenStatus::Killed);
        for forged in ["", "alice.canary.1", "bob.canary.1.0", "alice.canary.1.9"] {
            assert!(ledger.bearer(forged, at(0)).is_none(), "{forged}");
        }
        for forged in ["def502canary.9.0", "canary.1.0"] {
            assert!(ledger.begin_call(forged, None, at(0)).is_none(), "{forged}");
        }
    }

    #[test]
    fn an_old_refresh_token_ends_everything() {
        let (mut ledger, first) = opened(false);
        let second = ledger.refresh(first, LIFE, NO_GRACE, at(1)).unwrap();
        let third = ledger.refresh(second, LIFE, NO_GRACE, at(2)).unwrap();
        let again = ledger.refresh(first, LIFE, Duration::from_secs(9), at(3));
        assert_eq!(again, Err(InvalidGrant));
        assert_eq!(ledger.families()[1].ended, Some(End::Reuse));
        assert_eq!(status(&ledger, third, at(3)), TokenStatus::Killed);
        assert_eq!(
            ledger.refresh(third, LIFE, NO_GRACE, at(3)),
            Err(InvalidGrant)
        );
        assert_eq!(ledger.families()[1].refreshes(), 2);
        assert_eq!(ledger.families()[0].ended, None);
    }

    #[test]
    fn a_lost_answer_can_be_repeated_within_its_grace_and_ends_the_family_without() {
        let (mut ledger, first) = opened(true);
        let grace = Duration::from_secs(5);
        let lost = ledger.refresh(first, LIFE, grace, at(1)).unwrap();
        ledger.pair(lost).lost = true;
        let again = ledger.refresh(first, LIFE, NO_GRACE, at(5)).unwrap();
        assert_eq!(ledger.pair(again).generation, 1);
        assert_eq!(status(&ledger, lost, at(5)), TokenStatus::Killed);
        assert_eq!(status(&ledger, again, at(5)), TokenStatus::Valid);
        // Only one refresh token was used up.
        assert_eq!(ledger.families()[1].refreshes(), 1);
        let next = ledger.refresh(again, LIFE, NO_GRACE, at(7)).unwrap();
        assert!(!ledger.families()[1].is_unrecoverable());
        ledger.pair(next).lost = true;
        assert!(ledger.families()[1].is_unrecoverable());
        assert!(ledger.refresh(again, LIFE, NO_GRACE, at(8)).is_err());
        assert_eq!(ledger.families()[1].ended, Some(End::LostAnswer));
        // A client could have avoided the reuse after the grace period.
        let (mut ledger, first) = opened(true);
        let lost = ledger.refresh(first, LIFE, grace, at(1)).unwrap();
        ledger.pair(lost).lost = true;
        assert!(ledger.refresh(first, LIFE, NO_GRACE, at(7)).is_err());
        assert_eq!(ledger.families()[1].ended, Some(End::Reuse));
    }

    #[test]
    fn calls_at_once_are_noticed() {
        let (mut ledger, first) = opened(true);
        let token = Ledger::refresh_token(first);
        for attempt in 0..2 {
            let arrival = ledger.begin_call(&token, None, at(1)).unwrap();
            assert_eq!((arrival.attempt, arrival.pair_id), (attempt, first));
            ledger.end_call(first);
        }
        assert_eq!(ledger.families()[1].overlaps, 0);
        ledger.begin_call(&token, None, at(1)).unwrap();
        ledger.begin_call(&token, None, at(1)).unwrap();
        assert_eq!(ledger.families()[1].overlaps, 1);
        ledger.abandon("another");
        ledger.abandon("server");
        ledger.begin_call(&token, None, at(1)).unwrap();
        assert_eq!(ledger.families()[1].overlaps, 1);
        let pair = ledger.pair(first);
        assert_eq!((pair.calls.len(), pair.normal_calls()), (5, 3));
    }
}
