//! A part of the path space, as a rule names it.

use std::fmt;

use super::Error;
use super::path::{canonical, decoded};

/// A path prefix that ends at a segment's boundary: `/admin` is `/admin` and all below it, never
/// `/administrator`.
///
/// It answers two questions, because a mistake costs differently in each. A rule that **opens**
/// asks [`Prefix::matches`], which is exact. A rule that **protects** asks [`Prefix::covers`],
/// which also says yes to spellings that some backend takes for the same place. The query is
/// never looked at.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Prefix(Box<str>);

impl Prefix {
    /// Takes a path from configuration and makes it canonical. With a slash at its end it means
    /// only what is below.
    ///
    /// # Errors
    ///
    /// What a request's path is refused for, a prefix is refused for.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        Ok(Self(canonical(text)?.into()))
    }

    /// The canonical text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `path`, a canonical one, is this prefix or below it. Percent-encodings are
    /// compared decoded, case counts.
    pub(crate) fn matches(&self, path: &str) -> bool {
        let mut path = decoded(path.as_bytes());
        let begins = decoded(self.0.as_bytes()).all(|wanted| path.next() == Some(wanted));
        begins && (self.0.ends_with('/') || matches!(path.next(), None | Some(b'/')))
    }

    /// Whether a backend might take `path`, a canonical one, for this prefix or something below
    /// it: ASCII case, parameters behind `;` and dots and spaces at the end of a segment are not
    /// looked at, nor is a slash at the end of the prefix. It is true wherever
    /// [`Prefix::matches`] is. Letters outside ASCII are never folded.
    pub(crate) fn covers(&self, path: &str) -> bool {
        let is_slash = |byte: &u8| *byte == b'/';
        let wanted = self.0.strip_suffix('/').unwrap_or(&self.0);
        // Both begin with a slash, but for the prefix that is nothing else.
        let Some(wanted) = wanted.strip_prefix('/') else {
            return true;
        };
        let path = path.strip_prefix('/').unwrap_or_default();
        let mut segments = path.as_bytes().split(is_slash);
        wanted.as_bytes().split(is_slash).all(|wanted| {
            segments
                .next()
                .is_some_and(|segment| may_be_the_same(segment, wanted))
        })
    }
}

/// A path as [`Prefix::covers`] compares, segment by segment: a prefix can cover a path only if
/// its outline is among the beginnings of the path's.
#[derive(Debug)]
pub(crate) struct Outline {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Outline {
    /// The outline of a canonical path's first `depth` segments. Without any, nothing is allocated.
    pub(crate) fn of(path: &str, depth: usize) -> Self {
        let mut outline = Self {
            text: Vec::new(),
            ends: Vec::new(),
        };
        let path = path.strip_suffix('/').unwrap_or(path).as_bytes();
        // The first one is what stands before the first slash: nothing.
        let segments = path.split(|byte| *byte == b'/').skip(1);
        for segment in segments.take(depth) {
            outline.text.push(b'/');
            let start = outline.text.len();
            let folded = name(segment).map(|byte| byte.to_ascii_lowercase());
            outline.text.extend(folded);
            while outline.text.len() > start && matches!(outline.text.last(), Some(b'.' | b' ')) {
                outline.text.pop();
            }
            outline.ends.push(outline.text.len());
        }
        outline
    }

    /// The outline of nothing, of the first segment, of the first two, and so on.
    pub(crate) fn beginnings(&self) -> impl Iterator<Item = &[u8]> {
        let ends = std::iter::once(&0).chain(&self.ends);
        ends.filter_map(|end| self.text.get(..*end))
    }
}

/// The whole path space.
impl Default for Prefix {
    fn default() -> Self {
        Self("/".into())
    }
}

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).map_err(|error| format!("`{text}` is not a path prefix: {error}"))
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

fn may_be_the_same(segment: &[u8], wanted: &[u8]) -> bool {
    // A letter or a digit stands for itself, and for most paths the first one decides.
    if let (Some(a), Some(b)) = (segment.first(), wanted.first()) {
        let plain = a.is_ascii_alphanumeric() && b.is_ascii_alphanumeric();
        if plain && !a.eq_ignore_ascii_case(b) {
            return false;
        }
    }
    let mut rest = name(segment);
    let begins = name(wanted).all(|wanted| {
        rest.next()
            .is_some_and(|byte| byte.eq_ignore_ascii_case(&wanted))
    });
    begins && rest.all(|byte| matches!(byte, b'.' | b' '))
}

/// The decoded bytes of a segment without its parameters.
fn name(segment: &[u8]) -> impl Iterator<Item = u8> {
    decoded(segment).take_while(|byte| *byte != b';')
}
