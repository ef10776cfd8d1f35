//! A compact encoding of tokens.
//!
//! Most tokens are bytes that were encoded as text. Dots separate the parts of a token (a JWT has
//! three parts), and each part is base64url or lower-case hexadecimal. A part is decoded and stored
//! as bytes only if the encoding of these bytes is exactly the text of the part.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

/// The length of the head of one part of a packed token, in bytes. The head contains the encoding
/// of the part and the number of bytes in the part.
const HEAD: usize = 3;

/// The encoding of a part of a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Encoding {
    Text = 0,
    Hex = 1,
    Base64Url = 2,
}

/// Packs a token. Returns `None` if the token is longer than 65,535 bytes.
pub(super) fn pack(token: &str) -> Option<Zeroizing<Vec<u8>>> {
    let whole = token.len().checked_add(HEAD)?;
    let parts = token.split('.');
    // The buffer has its full capacity from the start, because a growing buffer leaves copies of
    // the token in memory.
    let heads = parts.clone().count().checked_mul(HEAD)?;
    let mut packed = Zeroizing::new(Vec::with_capacity(whole.checked_add(heads)?));
    for part in parts {
        let (encoding, bytes) = part_bytes(part);
        push(&mut packed, encoding, &bytes)?;
    }
    // Each encoded part begins with a head. If a token has many short parts, the heads of the
    // encoded parts can make the encoding longer than the token.
    if packed.len() > whole {
        packed.clear();
        push(&mut packed, Encoding::Text, token.as_bytes())?;
    }
    Some(packed)
}

fn push(packed: &mut Vec<u8>, encoding: Encoding, bytes: &[u8]) -> Option<()> {
    let [high, low] = u16::try_from(bytes.len()).ok()?.to_be_bytes();
    #[expect(clippy::as_conversions, reason = "the number of the encoding")]
    packed.extend_from_slice(&[encoding as u8, high, low]);
    packed.extend_from_slice(bytes);
    Some(())
}

fn part_bytes(part: &str) -> (Encoding, Zeroizing<Vec<u8>>) {
    if let Some(bytes) = from_hex(part) {
        return (Encoding::Hex, bytes);
    }
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(part.len())]);
    // The decoder accepts only the canonical form, without padding and without unused bits.
    match URL_SAFE_NO_PAD.decode_slice(part, &mut bytes) {
        Ok(length) if length > 0 => {
            bytes.truncate(length);
            (Encoding::Base64Url, bytes)
        }
        Ok(_) | Err(_) => (Encoding::Text, Zeroizing::new(part.as_bytes().to_vec())),
    }
}

fn from_hex(part: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (pairs, rest) = part.as_bytes().as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte.wrapping_sub(b'0')),
        b'a'..=b'f' => Some(byte.wrapping_sub(b'a').wrapping_add(10)),
        _ => None,
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(pairs.len()));
    for [high, low] in pairs {
        bytes.push(digit(*high)? << 4 | digit(*low)?);
    }
    Some(bytes)
}

/// Unpacks a token. Returns `None` if [`pack`] did not create the bytes.
pub(super) fn unpack(mut packed: &[u8]) -> Option<Zeroizing<String>> {
    let most = packed.len().checked_mul(2)?;
    let mut token = Zeroizing::new(String::with_capacity(most));
    let mut is_first = true;
    while let Some(([encoding, high, low], rest)) = packed.split_first_chunk::<HEAD>() {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (bytes, after) = rest.split_at_checked(length)?;
        if !is_first {
            token.push('.');
        }
        match encoding {
            0 => token.push_str(std::str::from_utf8(bytes).ok()?),
            1 => push_hex(&mut token, bytes),
            2 => URL_SAFE_NO_PAD.encode_string(bytes, &mut token),
            _ => return None,
        }
        (is_first, packed) = (false, after);
    }
    (packed.is_empty() && !is_first).then_some(token)
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for nibble in [byte >> 4, byte & 0xf] {
            text.extend(char::from_digit(nibble.into(), 16));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(token: &str) -> usize {
        let packed = pack(token).unwrap();
        assert_eq!(*unpack(&packed).unwrap(), token);
        packed.len()
    }

    /// Generates parts of a token: parts in every encoding, and parts that are almost valid in an
    /// encoding.
    fn part() -> impl Strategy<Value = String> {
        prop_oneof![
            "[0-9a-f]{0,40}",
            "[A-Za-z0-9_-]{0,40}",
            "[!-~]{0,10}",
            "[A-F0-9]{1,8}",
            prop::collection::vec(any::<u8>(), 0..60)
                .prop_map(|bytes| URL_SAFE_NO_PAD.encode(bytes)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_token_unpacks_to_itself(parts in prop::collection::vec(part(), 1..6)) {
            let token = parts.join(".");
            prop_assert!(round_trip(&token).saturating_sub(HEAD) <= token.len());
        }

        #[test]
        fn any_text_unpacks_to_itself(token in any::<String>()) {
            prop_assert!(round_trip(&token).saturating_sub(HEAD) <= token.len());
        }

        #[test]
        fn other_bytes_are_refused_or_are_text(bytes in prop::collection::vec(0..5_u8, 0..40)) {
            drop(unpack(&bytes));
        }
    }

    #[test]
    fn encoded_bytes_take_less_space_than_their_text() {
        let jwt = ["e30", &"QUJD".repeat(250), &"QUJD".repeat(30)].join(".");
        assert!(round_trip(&jwt) < 860);
        assert_eq!(round_trip(&"0a".repeat(450)), 450 + HEAD);
        assert_eq!(round_trip("1//0abc-+"), 9 + HEAD);
        // Packing and unpacking must give the same text, even if a part has unused bits, padding,
        // capital digits or an odd number of digits.
        for other in ["QUJ", "QUJDRB", "QQ==", "0A", "0a0"] {
            round_trip(other);
        }
    }

    #[test]
    fn a_truncated_token_is_refused() {
        let packed = pack("e30.0a0b").unwrap();
        for length in 0..packed.len() {
            // If the packed token is cut after its first part, the first part alone is also a valid
            // packed token.
            let whole = length == HEAD + 2;
            assert_eq!(unpack(&packed[..length]).is_some(), whole, "{length}");
        }
        assert!(pack(&"!".repeat(65_536)).is_none());
    }
}
