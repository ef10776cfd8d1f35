//! Path prefixes, which routes and the gateway's own endpoints use.

use std::fmt;

use super::Error;
use super::path::{canonical, decoded};

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
pub struct Prefix(Box<str>);

impl Prefix {
    /// Converts a path from the settings to its canonical form. If the path is `/admin/`, the
    /// prefix stands for the paths below `/admin`, but not for `/admin`.
    ///
    /// # Errors
    ///
    /// Returns an [`Error`] if `text` is not a valid path for a request.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        Ok(Self(canonical(text)?.into()))
    }

    /// Returns the canonical text of the prefix.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns true if the canonical `path` is this prefix or a path below this prefix.
    /// Percent-encodings are decoded before the comparison. The comparison distinguishes upper and
    /// lower case.
    pub(crate) fn matches(&self, path: &str) -> bool {
        let mut path = decoded(path.as_bytes());
        let begins = decoded(self.0.as_bytes()).all(|wanted| path.next() == Some(wanted));
        begins && (self.0.ends_with('/') || matches!(path.next(), None | Some(b'/')))
    }

    /// Returns true if an app may read the canonical `path` as this prefix or as a path below this
    /// prefix. The comparison ignores ASCII case, parameters after `;`, dots and spaces at the end
    /// of a segment, and a slash at the end of the prefix. If [`Prefix::matches`] returns true for
    /// a path, the function `covers` also returns true. Letters outside ASCII are compared exactly.
    pub(crate) fn covers(&self, path: &str) -> bool {
        let is_slash = |byte: &u8| *byte == b'/';
        let wanted = self.0.strip_suffix('/').unwrap_or(&self.0);
        // After `strip_suffix`, the prefix `/` is an empty text. Every prefix other than `/`, and
        // every path, begins with a slash.
        let Some(wanted) = wanted.strip_prefix('/') else {
            return true;
        };
        let path = path.strip_prefix('/').unwrap_or_default();
        if begin_differently(path.as_bytes(), wanted.as_bytes()) {
            return false;
        }
        let mut segments = path.as_bytes().split(is_slash);
        wanted.as_bytes().split(is_slash).all(|wanted| {
            segments
                .next()
                .is_some_and(|segment| may_be_the_same(segment, wanted))
        })
    }
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
        Self(self.join(below.as_str()).into())
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

/// A normalized path: in ASCII lower case, percent-decoded, without parameters, and without dots
/// and spaces at the end of each segment. [`Prefix::covers`] ignores these differences. If a prefix
/// covers a path, the normalized path begins with the normalized prefix.
#[derive(Debug)]
pub(crate) struct FoldedPath {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl FoldedPath {
    /// Normalizes the first `depth` segments of a canonical path. If `depth` is 0, the function
    /// allocates nothing.
    pub(crate) fn of(path: &str, depth: usize) -> Self {
        let mut folded = Self {
            text: Vec::new(),
            ends: Vec::new(),
        };
        let path = path.strip_suffix('/').unwrap_or(path).as_bytes();
        // A path begins with a slash, so the text before the first slash is empty.
        let segments = path.split(|byte| *byte == b'/').skip(1);
        for segment in segments.take(depth) {
            folded.text.push(b'/');
            let start = folded.text.len();
            let bytes = name(segment).map(|byte| byte.to_ascii_lowercase());
            folded.text.extend(bytes);
            while folded.text.len() > start && matches!(folded.text.last(), Some(b'.' | b' ')) {
                folded.text.pop();
            }
            folded.ends.push(folded.text.len());
        }
        folded
    }

    /// Returns the normalized text of every prefix, from the empty prefix to the whole text. Each
    /// prefix is one segment longer than the previous prefix.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = &[u8]> {
        let ends = std::iter::once(&0).chain(&self.ends);
        ends.filter_map(|end| self.text.get(..*end))
    }
}

/// The default prefix is `/`, which stands for all paths.
impl Default for Prefix {
    fn default() -> Self {
        Self("/".into())
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
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Returns true if the first characters show that no app reads the two texts as the same. Letters
/// and digits are never encoded in a canonical path, so this check decides about most paths.
fn begin_differently(path: &[u8], wanted: &[u8]) -> bool {
    let (Some(a), Some(b)) = (path.first(), wanted.first()) else {
        return false;
    };
    let plain = a.is_ascii_alphanumeric() && b.is_ascii_alphanumeric();
    plain && !a.eq_ignore_ascii_case(b)
}

fn may_be_the_same(segment: &[u8], wanted: &[u8]) -> bool {
    if begin_differently(segment, wanted) {
        return false;
    }
    let mut rest = name(segment);
    let begins = name(wanted).all(|wanted| {
        rest.next()
            .is_some_and(|byte| byte.eq_ignore_ascii_case(&wanted))
    });
    begins && rest.all(|byte| matches!(byte, b'.' | b' '))
}

/// Returns the decoded bytes of a segment without its parameters.
fn name(segment: &[u8]) -> impl Iterator<Item = u8> {
    decoded(segment).take_while(|byte| *byte != b';')
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

    #[test]
    fn the_default_prefix_is_the_whole_path_space() {
        assert_eq!(Prefix::default(), Prefix::parse("/").unwrap());
    }

    #[test]
    fn a_folded_path_keeps_the_names_of_segments_in_lower_case() {
        for (path, depth, wanted) in [
            ("/Admin/users", 0, &[""][..]),
            ("/Admin/users", 1, &["", "/admin"]),
            ("/Admin/users", 9, &["", "/admin", "/admin/users"]),
            (
                "/Admin%20;x=1/v1.2.%20./",
                2,
                &["", "/admin", "/admin/v1.2"],
            ),
            ("/;x/.../a", 3, &["", "/", "//", "///a"]),
            ("/", 2, &[""]),
        ] {
            let folded = FoldedPath::of(path, depth);
            let wanted = wanted.iter().map(|prefix| prefix.as_bytes());
            assert!(folded.prefixes().eq(wanted), "{path} {folded:?}");
        }
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
