//! Fields as whoever decides about them sees them.

use http::{HeaderMap, HeaderName};

/// The fields of a head, borrowed from whoever parsed it.
///
/// What is decided about a request, stripped from it and written over it asks for no more than
/// this: a parser that leaves fields where they lie in its buffer needs no map for it. The case of
/// names does not matter.
pub trait View {
    /// The values of all lines called `name`, in the order they came.
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]>;

    /// Whether there is a line called `name`.
    fn has(&self, name: &HeaderName) -> bool {
        self.values(name).next().is_some()
    }
}

impl View for HeaderMap {
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).iter().map(AsRef::as_ref)
    }
}

/// Names and values as they came.
impl View for [(&str, &[u8])] {
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let called = |other: &str| other.eq_ignore_ascii_case(name.as_str());
        let lines = self.iter().filter(move |(other, _)| called(other));
        lines.map(|(_, value)| *value)
    }
}
