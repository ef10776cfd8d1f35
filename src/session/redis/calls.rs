//! The changes and reads of sessions.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::event::{letter, uses_bytes};
use super::scripts::{END, END_ALL, LIST, OPEN, REPLACE, SWEEP, TOUCH};
use super::value::{self, Place, Unusable};
use super::{Shared, identity};
use crate::clock::Timestamp;
use crate::session::cache::Event;
use crate::session::ending::End;
use crate::session::groups::{EndAll, EndedAll, Group, ProviderSessionHash, REMEMBERED};
use crate::session::registration::provider_hash;
use crate::session::store::{Opened, Opening, Replacement, Which};
use crate::session::stored::Stored;
use crate::session::{EndReason, Maintained, SessionKey, StoreError, record};

/// The maximum number of sessions that one script ends. Other commands wait for a running script.
pub(super) const AT_ONCE: usize = 1000;
/// The maximum number of sessions that one sweep ends.
const MAX_REMOVED: usize = 100;
/// The time for which the server keeps a session longer than its lifetime, so that the clocks of the
/// replicas may differ.
const BEYOND_LIFETIME: Duration = Duration::from_mins(1);
/// The largest number that the server stores exactly as a score.
const LARGEST_SCORE: u64 = 1 << 53;

/// Returns the time for which the server keeps a session, in milliseconds.
pub(super) fn lifetime(session: &Stored, now: Timestamp) -> u64 {
    let left = session.ends_at().since(now);
    millis(left.saturating_add(BEYOND_LIFETIME))
}

/// Returns a time as a score of a sorted set.
pub(super) fn score(at: Timestamp) -> u64 {
    at.as_millis().min(LARGEST_SCORE)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads the keys in an answer.
fn keys(answer: Vec<Vec<u8>>) -> Vec<SessionKey> {
    let keys = answer.into_iter();
    let keys = keys.filter_map(|key| key.try_into().ok());
    keys.map(SessionKey::from_bytes).collect()
}

/// Returns the form in which scripts know a group: its kind in one byte, and its hash or its keys.
pub(super) fn group_bytes(group: &Group) -> Vec<u8> {
    let of = |kind: u8, hash: [u8; 16]| [&[kind], hash.as_slice()].concat();
    match group {
        Group::All => vec![b'A'],
        Group::Keys(keys) => {
            let mut bytes = vec![b'K'];
            bytes.extend(keys.iter().flat_map(SessionKey::as_bytes));
            bytes
        }
        Group::Named(hash) => of(b'N', hash.to_bytes()),
        Group::ProviderSession(hash) => of(b'P', hash.to_bytes()),
        Group::User(hash) => of(b'U', hash.to_bytes()),
        Group::UserWithoutSid(hash) => of(b'W', hash.to_bytes()),
    }
}

impl Shared {
    pub(super) async fn get(
        self: Arc<Self>,
        key: SessionKey,
    ) -> Result<Option<Arc<Stored>>, StoreError> {
        if self.pending.is_ended(&key) {
            return Ok(None);
        }
        let mut commands = redis::pipe();
        commands
            .cmd("GET")
            .arg(self.names.session(key.as_bytes()))
            .cmd("ZSCORE")
            .arg(self.names.index())
            .arg(key.as_bytes().as_slice());
        let (stored, used): (Option<Vec<u8>>, Option<f64>) = self.send_all(&commands).await?;
        let Some(stored) = stored else {
            return Ok(None);
        };
        // A score has no fraction. The half prevents that a rounding error cuts off a millisecond.
        let used = (used.unwrap_or_default() + 0.5) / 1000.0;
        self.read_value(key, &stored, Timestamp::from_seconds(used))
    }

    /// Decrypts a session. A damaged session counts as absent, so its user can sign in again. A
    /// session whose provider is unknown to this replica also counts as absent: the settings of
    /// another replica may be newer or older.
    fn read_value(
        &self,
        key: SessionKey,
        stored: &[u8],
        used: Timestamp,
    ) -> Result<Option<Arc<Stored>>, StoreError> {
        let place = Place {
            store: &identity(&self.settings),
            keys: &self.keys.load(),
        };
        let (head, session) = match value::open(key, stored, used, place) {
            Ok(opened) => opened,
            Err(unusable) => {
                self.note_unreadable(&key, unusable);
                return match unusable {
                    Unusable::Newer => Err(StoreError::Newer),
                    Unusable::UnknownKey => Err(StoreError::UnknownKey),
                    Unusable::Damaged => Ok(None),
                };
            }
        };
        let registrations = self.registrations.load();
        let provider = record::provider(session.contents());
        let known = provider.and_then(|name| Some(provider_hash(name, registrations.get(name)?)));
        let is_known = known == Some(head.provider);
        Ok(is_known.then(|| Arc::new(session)))
    }

    fn note_unreadable(&self, key: &SessionKey, unusable: Unusable) {
        let (count, reason) = match unusable {
            Unusable::Damaged => (&self.unreadable.damaged, "session_damaged"),
            Unusable::Newer => (&self.unreadable.newer, "session_of_newer_version"),
            Unusable::UnknownKey => (&self.unreadable.unknown_key, "session_of_unknown_key"),
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.alarm.unreadable(reason, key, self.clock.since_epoch());
    }

    pub(super) async fn open(
        self: Arc<Self>,
        session: Arc<Stored>,
        opening: Opening,
    ) -> Result<Opened, StoreError> {
        let provider = record::provider(session.contents());
        let registrations = self.registrations.load_full();
        let known = provider.and_then(|name| Some((name, registrations.get(name)?)));
        let Some((name, _)) = known.filter(|(_, known)| **known == opening.registration) else {
            return Ok(Opened::NoProvider);
        };
        let provider = provider_hash(name, &opening.registration);
        let sealed = self.seal(&session, opening.provider_session, provider)?;
        let command = self.opening_command(&session, &opening, sealed);
        let read = self.cache.begin_read(*session.key());
        let (result, count, replaced, above): (String, i64, Vec<Vec<u8>>, Vec<Vec<u8>>) =
            self.send(&command).await?;
        if result == "ended" {
            return Ok(Opened::EndedMeanwhile);
        }
        self.note_count(count);
        self.note_ends(&keys(replaced), EndReason::Replaced);
        self.note_ends(&keys(above), EndReason::Evicted);
        read.put(&session);
        Ok(Opened::Stored)
    }

    fn opening_command(&self, session: &Stored, opening: &Opening, sealed: Vec<u8>) -> redis::Cmd {
        let (key, opened_at) = (session.key().as_bytes(), session.last_used());
        let groups = opening.groups(session);
        let groups: Vec<_> = groups.map(|group| group_bytes(&group)).collect();
        let replaced = opening.replaces.iter().map(SessionKey::as_bytes);
        let keys = [self.names.session(key)]
            .into_iter()
            .chain(self.names.indexes(session.user(), opening.provider_session))
            .chain(groups.iter().map(|group| self.names.ended_at(group)))
            .chain(replaced.map(|key| self.names.session(key)));
        let mut command = self.names.call(OPEN, keys);
        command
            .arg(key.as_slice())
            .arg(sealed)
            .arg(lifetime(session, opened_at))
            .arg(score(opened_at))
            .arg(score(session.ends_at()))
            .arg(opening.per_person)
            .arg(self.server_time(opening.begun_at))
            .arg(&[letter(EndReason::Replaced)])
            .arg(&[letter(EndReason::Evicted)])
            .arg(groups.len())
            .arg(groups);
        for replaced in &opening.replaces {
            command.arg(replaced.as_bytes().as_slice());
        }
        command
    }

    pub(super) fn seal(
        &self,
        session: &Stored,
        provider_session: Option<ProviderSessionHash>,
        provider: [u8; 16],
    ) -> Result<Vec<u8>, StoreError> {
        let place = Place {
            store: &identity(&self.settings),
            keys: &self.keys.load(),
        };
        let sealed = value::seal(session, provider_session, provider, place);
        let error = crate::secret::NoRandomness;
        sealed.ok_or_else(|| StoreError::Refused(Arc::new(error)))
    }

    /// Notes the sessions that this replica has ended at the server.
    fn note_ends(&self, keys: &[SessionKey], why: EndReason) {
        let now = self.clock.now();
        for key in keys {
            self.note_end(Which::Key(*key), why, now);
        }
    }

    fn note_end(&self, which: Which, why: EndReason, now: Timestamp) {
        self.journal.note_end(which, why, now);
        self.cache.apply(Event::Ended(*which.key(), why));
    }

    pub(super) async fn replace(
        self: Arc<Self>,
        version: u64,
        next: Arc<Stored>,
    ) -> Result<Replacement, StoreError> {
        let Some(command) = self.replacement(version, &next)? else {
            return Ok(Replacement::Ended);
        };
        let read = self.cache.begin_read(*next.key());
        let result: Result<String, _> = self.send(&command).await;
        match result.as_deref() {
            Ok("stored") => {
                self.journal.note_replacement(&next, self.clock.now());
                read.put(&next);
                Ok(Replacement::Stored)
            }
            Ok("ended") => {
                // The cache may still contain a session that the store has lost.
                self.cache.apply(Event::Replaced(*next.key()));
                Ok(Replacement::Ended)
            }
            Ok("newer") => Err(StoreError::Newer),
            Ok(_outdated) => {
                self.cache.apply(Event::Replaced(*next.key()));
                Ok(Replacement::Outdated)
            }
            Err(error) => {
                self.forget_unless_refused(*next.key(), error);
                Err(error.clone())
            }
        }
    }

    /// Returns the command that replaces a version of a session. `None` if the provider of the session does not
    /// exist any more.
    pub(super) fn replacement(
        &self,
        version: u64,
        next: &Stored,
    ) -> Result<Option<redis::Cmd>, StoreError> {
        let contents = record::decode(next.contents()).ok_or(StoreError::Damaged)?;
        let registrations = self.registrations.load_full();
        // If a reload has removed the provider, the reload has also ended the session.
        let Some(registration) = registrations.get(&contents.provider) else {
            return Ok(None);
        };
        let provider = provider_hash(&contents.provider, registration);
        let provider_session = ProviderSessionHash::of_contents(&contents);
        let key = next.key().as_bytes();
        let mut command = self.names.call(REPLACE, [self.names.session(key)]);
        command
            .arg(key.as_slice())
            .arg(value::version_bytes(version).as_slice())
            .arg(self.seal(next, provider_session, provider)?);
        Ok(Some(command))
    }

    /// Removes a session from the cache if the server may have changed the session although its
    /// answer is missing.
    fn forget_unless_refused(&self, key: SessionKey, error: &StoreError) {
        if let StoreError::Unavailable(_) = error {
            self.cache.apply(Event::Replaced(key));
        }
    }

    pub(super) async fn end(
        self: Arc<Self>,
        which: Which,
        why: EndReason,
    ) -> Result<Vec<End>, StoreError> {
        let key = *which.key();
        let command = self.end_command(&which, why);
        let ended: Result<(i64, i64), _> = self.send(&command).await;
        match (ended, which) {
            (Ok((ended, count)), which) => {
                self.note_count(count);
                if ended == 0 {
                    return Ok(Vec::new());
                }
                self.note_end(which, why, self.clock.now());
                Ok(vec![(key, why)])
            }
            (Err(StoreError::Unavailable(_) | StoreError::Refused(_)), Which::Key(_))
                if self.pending.end(key, why) =>
            {
                self.cache.apply(Event::Ended(key, why));
                Ok(vec![(key, why)])
            }
            (Err(error), _) => {
                self.forget_unless_refused(key, &error);
                Err(error)
            }
        }
    }

    /// Returns the command that ends a session, or one version of it.
    pub(super) fn end_command(&self, which: &Which, why: EndReason) -> redis::Cmd {
        let version = match which {
            Which::Key(_) => Vec::new(),
            Which::Version(_, version) => value::version_bytes(*version).to_vec(),
        };
        let key = which.key().as_bytes();
        let mut command = self.names.call(END, [self.names.session(key)]);
        command.arg(key.as_slice()).arg(&[letter(why)]).arg(version);
        command
    }

    pub(super) async fn end_all(self: Arc<Self>, order: EndAll) -> Result<EndedAll, StoreError> {
        let EndAll {
            groups,
            why,
            now,
            notice,
            uses_notice,
        } = order;
        let name = notice.map(|notice| self.names.mark(b'n', &notice.mark));
        let lifetime = notice.map(|notice| millis(notice.until.since(now)).max(1));
        let mut parts = in_parts(groups);
        let mut ended = Vec::new();
        while let Some(groups) = parts.last() {
            let completes = uses_notice && parts.len() == 1;
            let at = self.server_time(now);
            let groups: Vec<_> = groups.iter().map(group_bytes).collect();
            let of_groups = groups.iter().flat_map(|group| self.names.of_group(group));
            let mut command = self.names.call(END_ALL, of_groups.chain(name.clone()));
            command
                .arg(&[letter(why)])
                .arg(name.as_deref().unwrap_or_default())
                .arg(lifetime.unwrap_or_default())
                .arg(u8::from(completes))
                .arg(at)
                .arg(millis(REMEMBERED))
                .arg(AT_ONCE)
                .arg(&groups);
            let (result, count, some): (String, i64, Vec<Vec<u8>>) = self.send(&command).await?;
            if result == "repeated" {
                return Ok(EndedAll::Repeated);
            }
            self.note_count(count);
            self.journal.note_group_ends(&groups, at, self.clock.now());
            let some = keys(some);
            self.note_ends(&some, why);
            ended.extend(some);
            if result == "ended" {
                parts.pop();
            }
        }
        Ok(EndedAll::Ended(ended))
    }

    pub(super) async fn list(self: Arc<Self>, group: Group) -> Result<Vec<SessionKey>, StoreError> {
        if group == Group::All {
            return self.list_all().await;
        }
        let group = group_bytes(&group);
        let mut command = self.names.call(LIST, self.names.of_group(&group));
        command.arg(group);
        Ok(keys(self.send(&command).await?))
    }

    pub(super) async fn list_all(&self) -> Result<Vec<SessionKey>, StoreError> {
        let mut all = Vec::new();
        let mut cursor = 0_u64;
        loop {
            let mut command = redis::cmd("ZSCAN");
            command
                .arg(self.names.index())
                .arg(cursor)
                .arg("COUNT")
                .arg(AT_ONCE);
            let (next, some): (u64, Vec<Vec<u8>>) = self.send(&command).await?;
            // The answer contains each key and its score.
            all.extend(keys(some.into_iter().step_by(2).collect()));
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        // The server may return a key several times.
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    pub(super) async fn touch(
        self: Arc<Self>,
        uses: Vec<(SessionKey, Timestamp)>,
    ) -> Result<(), StoreError> {
        for some in uses.chunks(AT_ONCE) {
            let sessions = some
                .iter()
                .map(|(key, _)| self.names.session(key.as_bytes()));
            let mut command = self.names.call(TOUCH, sessions);
            for (key, at) in some {
                command.arg(key.as_bytes().as_slice()).arg(score(*at));
            }
            command.arg(uses_bytes(some));
            let (count, missing): (i64, Vec<Vec<u8>>) = self.send(&command).await?;
            self.note_count(count);
            for key in keys(missing) {
                self.cache.apply(Event::Ended(key, EndReason::Elsewhere));
            }
        }
        Ok(())
    }

    /// Ends sessions that nobody has used for the idle time. A replica reports only the first use in
    /// each interval, and cannot report uses during an outage, so the sweep waits longer than the
    /// idle time. The server itself removes sessions at the end of their lifetime.
    pub(super) async fn sweep(self: Arc<Self>, now: Timestamp) -> Result<Maintained, StoreError> {
        self.cache.run_pending_tasks();
        if self.clock_differs() {
            // A replica whose clock is fast would end sessions that are in use.
            return Ok(Maintained::Done);
        }
        let unused = self.limits.idle();
        let unused = millis(unused.saturating_add(self.settings.report_delay));
        let Some(before) = now.as_millis().checked_sub(unused) else {
            return Ok(Maintained::Done);
        };
        let why = EndReason::Idle;
        let mut command = self.names.call(SWEEP, []);
        command
            .arg(score(Timestamp::from_millis(before)))
            .arg(&[letter(why)])
            .arg(MAX_REMOVED);
        let (found, count, ended): (usize, i64, Vec<Vec<u8>>) = self.send(&command).await?;
        self.note_count(count);
        self.note_ends(&keys(ended), why);
        Ok(if found < MAX_REMOVED {
            Maintained::Done
        } else {
            Maintained::More
        })
    }
}

/// Splits a long list of keys, because other commands wait for a running script. Returns the groups of
/// each call, the last call first.
fn in_parts(groups: Vec<Group>) -> Vec<Vec<Group>> {
    match <[Group; 1]>::try_from(groups) {
        Ok([Group::Keys(mut keys)]) if !keys.is_empty() => {
            keys.sort_unstable();
            keys.dedup();
            let parts = keys.chunks(AT_ONCE);
            parts.map(|keys| vec![Group::Keys(keys.to_vec())]).collect()
        }
        Ok(one) => vec![one.into()],
        Err(several) => vec![several],
    }
}
