//! Read access to the fields of a message head.

use http::{HeaderMap, HeaderName};

/// The fields of a message head, borrowed from a map or from a parser.
///
/// The code that decides about a request reads fields only through `View`. A parser can leave the
/// fields in its buffer, because `View` does not require a map of the fields. The comparison of
/// names ignores case.
pub trait View {
    /// Returns the values of all lines with this name, in their order.
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]>;

    /// Returns the value of a field that a client sends at most one time.
    fn only_value<'a>(&'a self, name: &'a HeaderName) -> OnlyValue<'a> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (None, _) => OnlyValue::Absent,
            (Some(value), None) => OnlyValue::One(value),
            (Some(_), Some(_)) => OnlyValue::Several,
        }
    }

    /// Returns true if at least one line has this name.
    fn has(&self, name: &HeaderName) -> bool {
        self.values(name).next().is_some()
    }
}

/// The value of a field that a client sends at most one time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OnlyValue<'a> {
    /// The message does not have the field.
    Absent,
    /// The message has the field one time.
    One(&'a [u8]),
    /// The message has the field several times, so its meaning is not clear.
    Several,
}

impl View for HeaderMap {
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).iter().map(AsRef::as_ref)
    }
}

/// Implements `View` for a slice of names and values, such as the buffer of a parser.
impl View for [(&str, &[u8])] {
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let called = |other: &str| other.eq_ignore_ascii_case(name.as_str());
        let lines = self.iter().filter(move |(other, _)| called(other));
        lines.map(|(_, value)| *value)
    }
}
