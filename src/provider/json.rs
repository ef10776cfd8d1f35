//! Reads strict JSON: one object or one array, without repeated members and without trailing data.
//!
//! If a member is repeated, the gateway and an app could read different values of the same claim.
//! `serde_json` limits the nesting depth to 128. The code that fetches the JSON text limits the
//! size of the JSON text.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The members of an object. Numbers keep 64-bit precision.
pub(super) type Object = Map<String, Value>;

/// The reason why a text is not the expected JSON object or array. Responsible: the provider.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The text is not JSON, repeats a member, or has trailing data. The cause contains the line
    /// and the column, but never the content of the text.
    #[error("the JSON is malformed")]
    Malformed(#[source] serde_json::Error),
    /// The text is JSON, but not an array.
    #[error("the JSON is not an array")]
    NotAnArray,
    /// The text is JSON, but not an object.
    #[error("the JSON is not an object")]
    NotAnObject,
}

/// Reads one object. No object, at any depth, may repeat a member. Escape sequences in member names
/// are decoded before the names are compared.
pub(super) fn object(bytes: &[u8]) -> Result<Object, JsonError> {
    match serde_json::from_slice(bytes).map_err(JsonError::Malformed)? {
        Strict(Value::Object(members)) => Ok(members),
        Strict(_) => Err(JsonError::NotAnObject),
    }
}

/// Reads one array, as strictly as [`object`].
pub(super) fn array(bytes: &[u8]) -> Result<Vec<Value>, JsonError> {
    match serde_json::from_slice(bytes).map_err(JsonError::Malformed)? {
        Strict(Value::Array(items)) => Ok(items),
        Strict(_) => Err(JsonError::NotAnArray),
    }
}

/// Reads a number from a string: digits, and optionally a decimal point and more digits. Signs,
/// exponents and white space are refused. `inf` and `nan` are also refused, although the parser of
/// Rust's standard library accepts `inf` and `nan`.
pub(super) fn quoted_number(text: &str) -> Option<f64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    // A date or a duration never needs more than 32 characters.
    (text.len() <= 32 && digits(whole) && digits(fraction)).then(|| text.parse().ok())?
}

/// A JSON value in which no object has two members with the same name.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated members")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(array.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Object::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(A::Error::custom("a member is repeated"));
            }
            let Strict(value) = members.next_value()?;
            object.insert(name, value);
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_27_repeated_members_and_trailing_bytes_are_refused() {
        for bad in [
            r#"{"a":1,"a":1}"#,
            r#"{"iss":1,"\u0069ss":1}"#,
            r#"{"a":[{"b":1,"b":2}]}"#,
            r#"{"a":1}x"#,
            r#"{"a":1}{}"#,
            "\u{feff}{}",
            r#"{"a":"\ud800"}"#,
            r#"{"a":1e400}"#,
            r#"{"a":1"#,
            "",
        ] {
            let refused = object(bad.as_bytes());
            assert!(matches!(refused, Err(JsonError::Malformed(_))), "{bad}");
        }
        let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(object(&utf16).is_err());
        assert!(object(b"{\"a\":\"\xff\"}").is_err());
        assert_eq!(object(br#" {"a":1,"b":{"a":2}} "#).unwrap().len(), 2);
    }

    #[test]
    fn only_an_object_is_an_object() {
        for other in ["[1]", "\"a\"", "1", "true", "null"] {
            let refused = object(other.as_bytes());
            assert!(matches!(refused, Err(JsonError::NotAnObject)), "{other}");
        }
    }

    #[test]
    fn an_array_is_read_as_strictly() {
        assert_eq!(array(br#" [1, {"a":1}] "#).unwrap().len(), 2);
        for other in ["{}", "\"a\"", "1", "true", "null"] {
            let refused = array(other.as_bytes());
            assert!(matches!(refused, Err(JsonError::NotAnArray)), "{other}");
        }
        for bad in [r#"[{"a":1,"a":1}]"#, "[1]x", "[1,]", "\u{feff}[]", "[", ""] {
            let refused = array(bad.as_bytes());
            assert!(matches!(refused, Err(JsonError::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn d_32_depth_and_width_are_bounded() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(object(deep.as_bytes()).is_err());
        let members: Vec<String> = (0..50_000).map(|n| format!("\"{n}\":{n}")).collect();
        let wide = format!("{{{}}}", members.join(","));
        assert_eq!(object(wide.as_bytes()).unwrap().len(), 50_000);
    }

    #[test]
    fn quoted_numbers_are_plain_digits() {
        assert_eq!(quoted_number("3600"), Some(3600.0));
        assert_eq!(
            quoted_number("1610383442.123882"),
            Some(1_610_383_442.123_882)
        );
        for bad in [
            "", "-1", "+1", "1e9", "inf", "NaN", " 1", "1.", ".5", "1.2.3", "0x1", "١",
        ] {
            assert_eq!(quoted_number(bad), None, "{bad}");
        }
    }
}
