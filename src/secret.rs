//! Values that never print.
//!
//! Everything a thief could use travels as a [`Secret`]: client secrets, session ids, codes,
//! verifiers, tokens and keys. A `Secret` shows `[redacted]` when formatted, compares in constant
//! time and is wiped when dropped. [`Secret::expose`] is the one way in, so a reviewer can find
//! every use with one search.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroize;

/// A value that never prints, compares in constant time and is wiped on drop.
///
/// ```
/// use sidegate::secret::Secret;
///
/// let password = Secret::new(String::from("hunter2"));
/// assert_eq!(format!("{password:?}"), "[redacted]");
/// assert!(password.matches(b"hunter2"));
/// ```
///
/// It has no `Display`:
///
/// ```compile_fail
/// use sidegate::secret::Secret;
///
/// println!("{}", Secret::new(String::from("hunter2")));
/// ```
#[derive(Clone)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Wraps `value`.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// Lends the value itself: every call site is a place where a secret is used.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize + AsRef<[u8]>> Secret<T> {
    /// Compares with `other` in constant time; only the lengths may be learned.
    #[must_use]
    pub fn matches(&self, other: &[u8]) -> bool {
        verify_slices_are_equal(self.0.as_ref(), other).is_ok()
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The operating system gave no random bytes.
///
/// Side: gateway. Nothing that needs randomness goes on without it.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoRandomness;

/// Fills an array with bytes from the operating system's generator.
///
/// # Errors
///
/// [`NoRandomness`] when the generator fails; there is no weaker fallback.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    // The generator's error carries nothing worth keeping: it is a unit.
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_unspecified| NoRandomness)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_a_structure_does_not_print() {
        #[derive(Debug)]
        #[expect(dead_code, reason = "only its Debug output is looked at")]
        struct Holder {
            key: Secret<Vec<u8>>,
        }
        let shown = format!(
            "{:?}",
            Holder {
                key: Secret::new(b"canary".to_vec())
            }
        );
        assert!(
            !shown.contains("canary") && shown.contains("[redacted]"),
            "{shown}"
        );
    }

    #[test]
    fn comparison_needs_every_byte() {
        let secret = Secret::new(b"abcd".to_vec());
        assert!(secret.matches(b"abcd"));
        for other in [&b"abce"[..], b"abc", b"abcde", b"", b"ABCD"] {
            assert!(!secret.matches(other));
        }
    }

    #[test]
    fn random_bytes_differ() {
        assert_ne!(random::<32>().unwrap(), random::<32>().unwrap());
    }
}
