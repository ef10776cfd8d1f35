//! The id of a request, by which an operator finds the request in the logs of the gateway, of the
//! app and of the proxies.

use std::cell::Cell;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The field that contains the id, in requests and in responses.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The maximum length of an id that a trusted proxy has written.
const MAX_LENGTH: usize = 128;

/// Creates the ids of requests: 32 hexadecimal digits. The first half of an id is a random number,
/// which is the same for all ids of one worker. One worker never creates the same second half two
/// times. An id is unique, but it is not a secret.
#[derive(Debug)]
pub(crate) struct RequestIds {
    worker: [u8; 16],
    count: Cell<u64>,
}

impl RequestIds {
    /// Creates a generator. Each worker has its own generator.
    pub(crate) fn new() -> Self {
        // The keys of a `RandomState` come from the operating system.
        let random = || RandomState::new().build_hasher().finish();
        Self {
            worker: hex(random()),
            count: Cell::new(random()),
        }
    }

    /// Returns the id of a new request.
    pub(crate) fn next(&self) -> HeaderValue {
        let count = self.count.get().wrapping_add(STEP);
        self.count.set(count);
        let mut text = [0; 32];
        let (first, second) = text.split_at_mut(16);
        first.copy_from_slice(&self.worker);
        second.copy_from_slice(&hex(mixed(count)));
        // Cloning this value only increments a reference count. Hexadecimal digits are always a
        // valid field value, so the default is never used.
        let value = HeaderValue::from_maybe_shared(Bytes::from_owner(text));
        value.unwrap_or(HeaderValue::from_static("invalid"))
    }
}

/// The step: the number that the generator `SplitMix64` adds to its state for each output. `STEP`
/// is odd, so `count` takes every value of a `u64` before a value occurs again.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns the output of the generator `SplitMix64` for the state `count`. Two different states
/// always give two different outputs.
fn mixed(count: u64) -> u64 {
    let mixed = (count ^ (count >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Returns the hexadecimal digits of a number. This function computes eight digits at the same
/// time, which is faster than a loop over the digits.
fn hex(number: u64) -> [u8; 16] {
    /// Returns a number in which each byte is `byte`.
    const fn every(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let digits = |half: u64| {
        // The following lines store one hexadecimal digit in each byte of `spread`, as a number
        // from 0 to 15.
        let spread = (half | half << 16) & 0x0000_ffff_0000_ffff;
        let spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
        let spread = (spread | spread << 4) & every(0x0f);
        // If a digit is a letter, the byte of this digit in `letters` is 1. Each sum fits into one
        // byte, so no carry changes the next byte.
        let letters = (spread.wrapping_add(every(6)) >> 4) & every(1);
        let letters = letters.wrapping_mul(u64::from(b'a' - b'9' - 1));
        spread
            .wrapping_add(every(b'0'))
            .wrapping_add(letters)
            .to_be_bytes()
    };
    let mut text = [0; 16];
    let (halves, _rest) = text.as_chunks_mut::<8>();
    for (half, number) in halves.iter_mut().zip([number >> 32, number & 0xffff_ffff]) {
        *half = digits(number);
    }
    text
}

/// Returns the id that the gateway has written into a request.
pub(crate) fn of(headers: &HeaderMap) -> Option<&str> {
    headers.get(&X_REQUEST_ID)?.to_str().ok()
}

/// Returns the id that a trusted proxy has written. Returns `None` if the request has no id or
/// several ids, or if the id is too long or contains other characters than letters, digits and
/// `-._~+/=:`.
pub(crate) fn from_proxy(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(&X_REQUEST_ID).iter();
    let id = values
        .next()
        .filter(|_| values.next().is_none())?
        .as_bytes();
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=:".contains(byte);
    let is_valid = !id.is_empty() && id.len() <= MAX_LENGTH && id.iter().all(is_allowed);
    // The value is copied, because a clone of the value could keep all fields of the request in
    // memory.
    is_valid.then(|| HeaderValue::from_bytes(id).ok())?
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_id_has_32_hexadecimal_digits_and_is_unique() {
        for number in [0, 1, 0x9a9f_a0af_0123_4567, 0x89ab_cdef_f0f9_0fa0, u64::MAX] {
            let expected = format!("{number:016x}");
            assert_eq!(hex(number), expected.as_bytes());
        }
        let workers = [RequestIds::new(), RequestIds::new()];
        let mut seen = HashSet::new();
        for ids in workers.iter().cycle().take(2000) {
            let id = ids.next();
            let text = id.to_str().unwrap().to_owned();
            assert!(text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()));
            assert!(seen.insert(text));
        }
    }

    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        // The expected numbers are the first outputs of the reference implementation with the seed
        // 1234567.
        let mut count: u64 = 1_234_567;
        for expected in [6_457_827_717_110_365_317, 3_203_168_211_198_807_973] {
            count = count.wrapping_add(STEP);
            assert_eq!(mixed(count), expected);
        }
    }

    #[test]
    fn only_one_short_id_of_harmless_characters_is_accepted_from_a_proxy() {
        let read = |ids: &[&str]| {
            let id = |id: &&str| (X_REQUEST_ID, HeaderValue::from_str(id).unwrap());
            from_proxy(&ids.iter().map(id).collect())
        };
        let long = "a".repeat(128);
        for good in [
            "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "Root=1-67/+~_.:",
            &long,
        ] {
            assert_eq!(read(&[good]).unwrap(), good);
        }
        let too_long = "a".repeat(129);
        for bad in [
            "", "a b", "a\tb", "<b>", "a\"", "a,b", "a;b", "ä", &too_long,
        ] {
            assert_eq!(read(&[bad]), None, "{bad}");
        }
        assert_eq!(read(&[]), None);
        assert_eq!(read(&["a", "b"]), None);
    }
}
