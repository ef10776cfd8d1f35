//! The messages by which replicas report changes of sessions to each other.
//!
//! A message is one letter, the eight bytes that identify the sender, and the data of the message.
//! The scripts write most messages. A replica ignores messages that it does not know, so a newer
//! version of the gateway can send other messages.

use crate::clock::Timestamp;
use crate::session::cache::Event;
use crate::session::{EndReason, SessionKey};

/// The length of the bytes that identify a replica.
pub(super) const ORIGIN: usize = 8;

/// Identifies a replica: random bytes.
pub(super) type Origin = [u8; ORIGIN];

/// A message of another replica.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) origin: Origin,
    pub(super) events: Vec<Event>,
    /// The version of the session, if the session was replaced.
    pub(super) version: Option<u64>,
}

impl Message {
    /// Reads a message. Returns `None` for a message that this version does not know.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (origin, data) = rest.split_first_chunk::<ORIGIN>()?;
        let mut version = None;
        let events = match kind {
            b'E' => {
                let (key, rest) = key(data)?;
                vec![Event::Ended(key, reason(*rest.first()?))]
            }
            b'R' => {
                let (key, rest) = key(data)?;
                version = rest.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
                vec![Event::Replaced(key)]
            }
            b'L' => vec![Event::Released(key(data)?.0)],
            b'U' => uses(data),
            _ => return None,
        };
        Some(Self {
            origin: *origin,
            events,
            version,
        })
    }
}

fn key(data: &[u8]) -> Option<(SessionKey, &[u8])> {
    let (key, rest) = data.split_first_chunk()?;
    Some((SessionKey::from_bytes(*key), rest))
}

fn uses(mut data: &[u8]) -> Vec<Event> {
    let mut uses = Vec::new();
    while let Some((key, rest)) = key(data)
        && let Some((at, rest)) = rest.split_first_chunk()
    {
        let at = Timestamp::from_millis(u64::from_be_bytes(*at));
        uses.push(Event::Used(key, at));
        data = rest;
    }
    uses
}

/// Returns the data of a message about uses of sessions.
pub(super) fn uses_bytes(uses: &[(SessionKey, Timestamp)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(uses.len().saturating_mul(24));
    for (key, at) in uses {
        bytes.extend(key.as_bytes());
        bytes.extend(at.as_millis().to_be_bytes());
    }
    bytes
}

/// The reasons and their letters in messages.
const REASONS: [(u8, EndReason); 10] = [
    (b'a', EndReason::Absolute),
    (b'g', EndReason::GrantEnded),
    (b'i', EndReason::Idle),
    (b'p', EndReason::ProviderRemoved),
    (b'e', EndReason::Evicted),
    (b'f', EndReason::RefusedByApp),
    (b'r', EndReason::Replaced),
    (b'k', EndReason::Revoked),
    (b's', EndReason::SignedOut),
    (b'o', EndReason::SignedOutAtProvider),
];

/// Returns the letter of a reason.
pub(super) fn letter(why: EndReason) -> u8 {
    let found = REASONS.iter().find(|(_, reason)| *reason == why);
    found.map_or(b'x', |(letter, _)| *letter)
}

fn reason(letter: u8) -> EndReason {
    let found = REASONS.iter().find(|(of_reason, _)| *of_reason == letter);
    found.map_or(EndReason::Elsewhere, |(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 16] = [7; 16];

    fn message(kind: u8, data: &[u8]) -> Vec<u8> {
        [&[kind], [1; ORIGIN].as_slice(), &KEY, data].concat()
    }

    #[test]
    fn every_reason_has_its_own_letter() {
        for (letter, why) in REASONS {
            assert_eq!((super::letter(why), reason(letter)), (letter, why));
        }
        assert_eq!(reason(letter(EndReason::Unconfirmed)), EndReason::Elsewhere);
        let read = Message::read(&message(b'E', b"s")).unwrap();
        let key = SessionKey::from_bytes(KEY);
        assert!(matches!(
            read.events[..],
            [Event::Ended(ended, EndReason::SignedOut)] if ended == key
        ));
        assert_eq!(read.origin, [1; ORIGIN]);
    }

    #[test]
    fn a_message_that_is_unknown_or_cut_is_ignored() {
        let whole = message(b'E', b"s");
        for length in 0..whole.len() {
            assert!(Message::read(&whole[..length]).is_none(), "{length}");
        }
        assert!(Message::read(&message(b'?', b"s")).is_none());
        let replaced = Message::read(&message(b'R', &3_u64.to_be_bytes())).unwrap();
        assert_eq!(replaced.version, Some(3));
        let key = SessionKey::from_bytes(KEY);
        let used = [(key, Timestamp::from_millis(5)); 2];
        let bytes = [b"U".as_slice(), &[1; ORIGIN], &uses_bytes(&used)].concat();
        let read = Message::read(&bytes).unwrap();
        assert_eq!(read.events.len(), 2);
        assert!(matches!(read.events[1], Event::Used(of, at) if (of, at) == used[1]));
    }
}
