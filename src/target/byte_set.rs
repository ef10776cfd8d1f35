//! A set of bytes with a fast look-up.

/// A set of bytes. The compiler computes the set, and a look-up is one read from a table.
pub(super) struct ByteSet([bool; 256]);

impl ByteSet {
    /// A set that contains ASCII letters, digits, and the bytes in `others`.
    #[expect(
        clippy::as_conversions,
        clippy::indexing_slicing,
        reason = "a constant function cannot call `get` or `from`, and a wrong index is a compile error"
    )]
    pub(super) const fn alphanumeric_and(others: &[u8]) -> Self {
        let mut table = [false; 256];
        let mut byte = 0_u8;
        while byte < u8::MAX {
            table[byte as usize] = byte.is_ascii_alphanumeric();
            byte = byte.wrapping_add(1);
        }
        let mut rest = others;
        while let [other, others @ ..] = rest {
            table[*other as usize] = true;
            rest = others;
        }
        Self(table)
    }

    /// A set without the upper-case letters of this set.
    #[expect(
        clippy::as_conversions,
        clippy::indexing_slicing,
        reason = "a constant function cannot call `get` or `from`, and a wrong index is a compile error"
    )]
    pub(super) const fn without_upper_case(mut self) -> Self {
        let mut byte = b'A';
        while byte <= b'Z' {
            self.0[byte as usize] = false;
            byte = byte.wrapping_add(1);
        }
        self
    }

    pub(super) fn contains(&self, byte: u8) -> bool {
        self.0.get(usize::from(byte)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_contains_letters_digits_and_the_listed_bytes() {
        static SET: ByteSet = ByteSet::alphanumeric_and(b"-\xff");
        static LOWER: ByteSet = ByteSet::alphanumeric_and(b"-\xff").without_upper_case();
        for byte in 0..=u8::MAX {
            let listed = matches!(byte, b'-' | b'\xff');
            let wanted = byte.is_ascii_alphanumeric() || listed;
            assert_eq!(SET.contains(byte), wanted, "{byte}");
            let lower = wanted && !byte.is_ascii_uppercase();
            assert_eq!(LOWER.contains(byte), lower, "{byte}");
        }
    }
}
