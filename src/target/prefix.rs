//! Path prefixes, which routes and the gateway's own endpoints use.

use std::fmt;

use super::Error;
use super::fold::FoldedPath;
use super::path::{canonical, decoded, is_unreserved};

/// A path prefix that consists of whole segments. For example, `/admin` stands for `/admin` and all
/// paths below `/admin`, but not for `/administrator`.
///
/// There are two comparisons. A rule that **gives access** to paths must not match too many paths,
/// so the rule uses [`Prefix::matches`], which compares exactly. A rule that **protects** paths
/// must not match too few paths, so the rule uses [`Prefix::covers`]. [`Prefix::covers`] also
/// accepts spellings that some app may read as the same path. [`Prefix::matches`] and
/// [`Prefix::covers`] ignore the query.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Prefix {
    text: Box<str>,
    /// The normal form ([`FoldedPath`]) of the text. It has as many segments as the text. The normal
    /// form of `/` is an empty text.
    folded: Box<str>,
}

impl Prefix {
    /// Converts a path from the settings to its canonical form. If the path is `/admin/`, the
    /// prefix stands for the paths below `/admin`, but not for `/admin`.
    ///
    /// # Errors
    ///
    /// Returns an [`Error`] if `text` is not a valid path for a request, if a segment has a
    /// character that some apps read as a slash, such as `／`, or if some apps read a segment as an
    /// empty segment, such as the last segment of `/a/;x`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let prefix = Self::new(canonical(text)?.into());
        if prefix.depth() != prefix.segments().count() {
            Err(Error::HiddenSeparator)
        } else if prefix.folded_segments().any(str::is_empty) {
            Err(Error::EmptySegment)
        } else {
            Ok(prefix)
        }
    }

    fn new(text: Box<str>) -> Self {
        let (folded, _segments) = FoldedPath::of(&text, usize::MAX).into_text();
        Self {
            text,
            folded: folded.into(),
        }
    }

    /// Returns the canonical text of the prefix.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns true if the canonical `path` is this prefix or a path below this prefix.
    /// Percent-encodings are decoded before the comparison. The comparison distinguishes upper and
    /// lower case.
    pub(crate) fn matches(&self, path: &str) -> bool {
        // Nearly all paths have the spelling of the prefix.
        let below = path.strip_prefix(&*self.text);
        let is_boundary =
            |below: &str| self.text.ends_with('/') || below.is_empty() || below.starts_with('/');
        if below.is_some_and(is_boundary) {
            return true;
        }
        let mut path = decoded(path.as_bytes());
        let begins = decoded(self.text.as_bytes()).all(|wanted| path.next() == Some(wanted));
        begins && (self.text.ends_with('/') || matches!(path.next(), None | Some(b'/')))
    }

    /// Returns true if an app may read the canonical `path` as this prefix or as a path below this
    /// prefix. The comparison is that of the normal form of a path ([`FoldedPath`]), and ignores a
    /// slash at the end of the prefix. If [`Prefix::matches`] returns true for a path, the function
    /// `covers` also returns true.
    pub(crate) fn covers(&self, path: &str) -> bool {
        self.covers_plainly(path)
            .unwrap_or_else(|| self.covers_folded(&FoldedPath::of(path, usize::MAX)))
    }

    #[cold]
    fn covers_folded(&self, path: &FoldedPath) -> bool {
        path.prefixes().any(|start| *start == *self.folded)
    }

    /// Compares the path with the prefix byte by byte. Returns `None` if the normal form of the path
    /// is necessary for the comparison.
    fn covers_plainly(&self, path: &str) -> Option<bool> {
        let mut path = path.bytes();
        for wanted in self.folded.bytes() {
            match path.next() {
                // The byte begins a percent-encoding.
                Some(b'%') => return None,
                Some(byte) if byte.to_ascii_lowercase() == wanted => {}
                Some(byte) if is_certain(byte) => return Some(false),
                Some(_) => return None,
                None => return Some(false),
            }
        }
        match path.next() {
            None | Some(b'/') => Some(true),
            Some(byte) if is_certain(byte) => Some(false),
            Some(_) => None,
        }
    }

    /// Returns how specific the prefix is: the number of its segments, and whether it stands only for
    /// the paths below. Of two prefixes that cover one path, the prefix with the larger value stands
    /// for fewer paths. The length of the text does not count, because one segment can have spellings
    /// of any length.
    pub(crate) fn specificity(&self) -> (usize, bool) {
        (self.depth(), self.text.ends_with('/'))
    }

    /// Returns the number of segments.
    fn depth(&self) -> usize {
        self.folded.matches('/').count()
    }

    /// Returns true if some paths that begin with `below` begin with this prefix only in another
    /// spelling. For example, `/Admin/x` begins with `/admin` only in another spelling.
    pub(crate) fn begins_in_another_spelling(&self, below: &Self) -> bool {
        let matches = || Self::new(self.without_slash().into()).matches(&below.text);
        self.covers(&below.text) && !matches()
    }

    /// Returns true if both prefixes stand for the same paths, in the same or in different
    /// spellings.
    pub(crate) fn is_spelling_of(&self, other: &Self) -> bool {
        self.folded == other.folded && self.text.ends_with('/') == other.text.ends_with('/')
    }

    /// Returns the normal form of each segment.
    pub(super) fn folded_segments(&self) -> impl Iterator<Item = &str> {
        self.folded.split('/').skip(1)
    }
}

/// Returns true if the byte is a character of a path by itself, whatever characters follow. Only a
/// dot at the end of a segment is left out, so a dot is not certain.
fn is_certain(byte: u8) -> bool {
    byte == b'/' || (byte != b'.' && is_unreserved(byte))
}

impl Prefix {
    /// Returns the part of `path` after the segments of this prefix. The returned text is empty, or
    /// begins with a slash. The caller has checked that this prefix covers the path.
    pub(crate) fn rest<'p>(&self, path: &'p str) -> &'p str {
        let mut slashes = path.match_indices('/');
        let start = slashes.nth(self.segments().count());
        start
            .and_then(|(start, _)| path.get(start..))
            .unwrap_or_default()
    }

    /// Returns the part of `path` after the segments of this prefix, like [`Prefix::rest`]. Returns
    /// `None` if these segments of the path are not this prefix, or if they may be more segments than
    /// the prefix has.
    pub(crate) fn strip_from<'p>(&self, path: &'p str) -> Option<&'p str> {
        let rest = self.rest(path);
        let start = path.strip_suffix(rest)?;
        let is_prefix = self.covers_plainly(start).unwrap_or_else(|| {
            let (start, _segments) = FoldedPath::of(start, usize::MAX).into_text();
            *start == *self.folded
        });
        is_prefix.then_some(rest)
    }

    /// Returns the prefix, followed by `rest`. The argument `rest` is empty, or begins with a
    /// slash.
    pub(crate) fn join(&self, rest: &str) -> String {
        if rest.is_empty() {
            return self.as_str().to_owned();
        }
        format!("{}{rest}", self.without_slash())
    }

    /// Returns the prefix of the paths that begin with this prefix, followed by `below`.
    pub(crate) fn append(&self, below: &Self) -> Self {
        Self::new(self.join(below.as_str()).into())
    }

    /// Returns the text of the prefix without the slash at its end. The text of the prefix `/` is
    /// empty.
    pub(crate) fn without_slash(&self) -> &str {
        self.as_str().strip_suffix('/').unwrap_or(self.as_str())
    }

    fn segments(&self) -> impl Iterator<Item = &str> {
        self.without_slash().split('/').skip(1)
    }

    /// Removes the segments of `end` from the end of this prefix. Returns `None` if this prefix does
    /// not end with these segments.
    pub(crate) fn before<'p>(&'p self, end: &Self) -> Option<&'p str> {
        self.without_slash().strip_suffix(end.without_slash())
    }
}

/// The default prefix is `/`, which stands for all paths.
impl Default for Prefix {
    fn default() -> Self {
        Self::new("/".into())
    }
}

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let why = match Self::parse(&text) {
            _ if text.contains("://") => "write only the path".to_owned(),
            _ if is_pattern(&text) => instead_of_pattern(&text),
            Ok(prefix) => return Ok(prefix),
            Err(_) if !text.starts_with('/') => "it does not begin with `/`".to_owned(),
            Err(Error::HiddenSeparator) if canonical(&text).is_ok() => {
                "some apps read a character of it as a slash".to_owned()
            }
            Err(Error::EmptySegment) if canonical(&text).is_ok() => {
                "some apps read a segment of it as an empty segment".to_owned()
            }
            Err(Error::WrongForm) => "write it without a query and without a fragment".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(format!("`{text}` is not a path: {why}"))
    }
}

/// Characters that have a meaning in the patterns of other gateways. RFC 3986 section 3.3 allows
/// only one of these characters in a path: `*`.
const PATTERN: [char; 10] = ['*', '^', '|', '[', ']', '{', '}', '<', '>', '\\'];

/// Returns true if the operator has probably written a glob, a regular expression or a template. If
/// the gateway accepted a pattern as a literal path, the rule would match no request and would
/// protect nothing.
fn is_pattern(text: &str) -> bool {
    text.contains(PATTERN) || text.ends_with('$') || text.contains("/:") || text.contains(".+")
}

/// Returns the error text for a pattern, with the literal path that the operator probably means.
fn instead_of_pattern(text: &str) -> String {
    let start = text.find('/').and_then(|slash| text.get(slash..));
    let end = |text: &str| {
        let special = text.find(PATTERN);
        let others = [
            text.find('('),
            text.find("/:"),
            text.find('$'),
            text.find(".+"),
        ];
        others.into_iter().flatten().chain(special).min()
    };
    let literal = start.map(|path| end(path).and_then(|end| path.get(..end)).unwrap_or(path));
    let literal = literal.unwrap_or_default().trim_end_matches(['/', '.']);
    let advice = if literal.is_empty() {
        "write one route for each path".to_owned()
    } else {
        format!("write `{literal}`, which stands for {literal} and all paths below it")
    };
    format!(
        "patterns have no meaning here; {advice} (percent-encode a special character of a path)"
    )
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_from_configuration_keeps_its_canonical_text() {
        let prefix = Prefix::parse("/%7ealice").unwrap();
        assert_eq!(prefix.as_str(), "/~alice");
        assert_eq!(format!("{prefix:?}"), "\"/~alice\"");
        assert_eq!(Prefix::try_from("/%7ealice".to_owned()), Ok(prefix));
        let error = Prefix::try_from("/a/../b".to_owned()).unwrap_err();
        let wanted = "`/a/../b` is not a path: the path has a dot segment";
        assert_eq!(error, wanted);
    }

    #[test]
    fn a_pattern_is_refused_and_its_percent_encoded_text_is_accepted() {
        let refused = |text: &str| Prefix::try_from(text.to_owned()).unwrap_err();
        for (text, literal) in [
            ("/admin/*", "`/admin`"),
            ("/admin*", "`/admin`"),
            ("/admin/**", "`/admin`"),
            ("/admin/.*", "`/admin`"),
            ("/admin/.+", "`/admin`"),
            ("^/admin", "`/admin`"),
            ("~ ^/admin/", "`/admin`"),
            ("/admin$", "`/admin`"),
            ("/users/:id", "`/users`"),
            ("/users/{id}", "`/users`"),
            ("/users/<id>", "`/users`"),
            ("/v[12]", "`/v`"),
            ("/v\\d", "`/v`"),
            ("/(a|b)", "one route for each path"),
            ("*", "one route for each path"),
        ] {
            let error = refused(text);
            let advice = format!("patterns have no meaning here; write {literal}");
            assert!(error.contains(&advice), "{text}: {error}");
        }
        let star = Prefix::try_from("/a%2Ab".to_owned()).unwrap();
        assert!(star.matches("/a*b/c") && star.covers("/a*b/c"));
        // Paths with `$`, `(`, `+`, `:` or `.` are common, so the gateway accepts such paths.
        for path in [
            "/$metadata",
            "/Products(1)",
            "/a+b",
            "/v1/x:batch",
            "/a.b",
            "/@me",
            "/~me",
        ] {
            assert!(Prefix::try_from(path.to_owned()).is_ok(), "{path}");
        }
    }

    /// Some apps leave such a segment out.
    #[test]
    fn a_prefix_with_a_segment_without_a_name_is_refused() {
        for text in ["/;x", "/a/;x", "/a/%20", "/a/...", "/a/%3Bx", "/a/%C2%AD"] {
            assert_eq!(Prefix::parse(text), Err(Error::EmptySegment), "{text}");
        }
        for text in ["/a/", "/a;x", "/a/x;y", "/.a"] {
            assert!(Prefix::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn the_default_prefix_is_the_whole_path_space() {
        assert_eq!(Prefix::default(), Prefix::parse("/").unwrap());
    }

    #[test]
    fn a_rule_that_protects_covers_paths_that_nobody_made_canonical() {
        let admin = Prefix::parse("/admin").unwrap();
        for path in ["/%61dmin", "/%41dmin/x", "/a%64min"] {
            assert!(admin.covers(path), "{path}");
        }
        assert!(!admin.covers("/%62dmin"));
    }
}
