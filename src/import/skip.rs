//! Converts the regular expressions of `--skip-auth-route` and `--skip-auth-regex` to path prefixes.

/// The paths that a regular expression matches, as prefixes of routes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Prefixes {
    pub(super) prefixes: Vec<String>,
    /// How the prefixes differ from the regular expression.
    pub(super) difference: Option<Difference>,
}

/// A difference between a prefix and a regular expression.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Difference {
    /// The expression matches only paths without the paths below, and the prefix also matches the
    /// paths below. An expression without the anchor `^` can also match paths that the prefix does
    /// not match.
    Wider,
    /// The expression also matches other paths, such as `/apidocs` for `^/api`, or `/x/api` without
    /// the anchor `^`.
    Narrower,
}

impl Difference {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Wider => {
                "A route has a path prefix, so the public route also matches the paths below."
            }
            Self::Narrower => {
                "A route has a path prefix of whole segments, so the public route matches fewer \
                 paths than the regular expression."
            }
        }
    }
}

/// The reason why a regular expression has no equivalent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NoPrefix {
    /// The expression has a method or a negation.
    Method,
    /// The expression matches the path `/` or every path.
    Everything,
    /// The expression is no list of literal prefixes.
    Pattern,
}

impl NoPrefix {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Method => {
                "A route of Sidegate is for all methods and has no negation. These paths need a \
                 sign-in."
            }
            Self::Everything => {
                "The regular expression matches the start page, or every path of an app. Sidegate \
                 does not make a whole app public. Write a route with access = \"public\" for each \
                 public path."
            }
            Self::Pattern => {
                "A route has a literal path prefix and no regular expression. These paths need a \
                 sign-in. Write a route with access = \"public\" for each public path."
            }
        }
    }
}

/// The end of a regular expression.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// Only the path itself.
    Exact,
    /// The path itself, and all paths below.
    Segments,
    /// Every path that begins with the text.
    Open,
}

/// Converts an entry of `--skip-auth-route`, which can begin with a method.
pub(super) fn route(entry: &str) -> Result<Prefixes, NoPrefix> {
    let (method, expression) = match entry.split_once('=') {
        Some((before, after)) if !before.starts_with(['^', '/', '(']) => (before, after),
        _ => ("", entry),
    };
    if method.is_empty() {
        expression_to_prefixes(expression)
    } else {
        Err(NoPrefix::Method)
    }
}

/// Converts a regular expression.
pub(super) fn expression_to_prefixes(expression: &str) -> Result<Prefixes, NoPrefix> {
    let anchored = expression.strip_prefix('^');
    let (body, end) = end_of(anchored.unwrap_or(expression));
    let texts = alternatives(body).ok_or(NoPrefix::Pattern)?;
    let mut difference = anchored.is_none().then_some(Difference::Narrower);
    let mut prefixes = Vec::new();
    for text in texts {
        let is_start_page = text.trim_matches('/').is_empty();
        if is_start_page {
            return Err(NoPrefix::Everything);
        }
        if !text.starts_with('/') {
            return Err(NoPrefix::Pattern);
        }
        match end {
            End::Exact => difference = Some(Difference::Wider),
            End::Open if !text.ends_with('/') => difference = Some(Difference::Narrower),
            End::Open | End::Segments => {}
        }
        prefixes.push(text);
    }
    Ok(Prefixes {
        prefixes,
        difference,
    })
}

/// Splits the end from a regular expression.
fn end_of(expression: &str) -> (&str, End) {
    let ends = [
        ("(/.*)?$", End::Segments),
        ("(?:/.*)?$", End::Segments),
        ("(/|$)", End::Segments),
        ("(?:/|$)", End::Segments),
        ("($|/)", End::Segments),
        ("/?$", End::Exact),
        (".*$", End::Open),
        (".*", End::Open),
        ("$", End::Exact),
    ];
    let found = ends.into_iter();
    let mut found = found.filter_map(|(text, end)| Some((expression.strip_suffix(text)?, end)));
    // A backslash before the end makes its first character literal.
    let found = found.find(|(body, _)| !body.ends_with('\\'));
    found.unwrap_or((expression, End::Open))
}

/// Returns the literal texts that an expression stands for. The expression can contain one group of
/// alternatives, such as `(a|b)`. Returns `None` if the expression contains anything else.
fn alternatives(expression: &str) -> Option<Vec<String>> {
    let Some((before, group)) = expression.split_once('(') else {
        return Some(vec![literal(expression)?]);
    };
    let (group, after) = group.split_once(')')?;
    let group = group.strip_prefix("?:").unwrap_or(group);
    let (before, after) = (literal(before)?, literal(after)?);
    let choices = group.split('|').map(literal);
    let texts = choices.map(|choice| Some([&*before, &*choice?, &*after].concat()));
    texts.collect()
}

/// Returns the literal text of an expression without operators. A dot between two other characters
/// is a dot in the text, although a regular expression accepts any character there.
fn literal(expression: &str) -> Option<String> {
    let mut text = String::new();
    let mut characters = expression.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\\' => {
                let escaped = characters.next().filter(|c| ".-/_".contains(*c))?;
                text.push(escaped);
            }
            '.' => {
                let is_name = |c: &char| c.is_ascii_alphanumeric();
                characters.peek().filter(|next| is_name(next))?;
                text.push('.');
            }
            c if c.is_ascii_alphanumeric() || "/-_~@:".contains(c) => text.push(c),
            _ => return None,
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(entry: &str) -> String {
        match route(entry) {
            Ok(found) => {
                let difference = match found.difference {
                    None => "",
                    Some(Difference::Wider) => " wider",
                    Some(Difference::Narrower) => " narrower",
                };
                format!("{}{difference}", found.prefixes.join(" "))
            }
            Err(NoPrefix::Method) => "method".to_owned(),
            Err(NoPrefix::Everything) => "everything".to_owned(),
            Err(NoPrefix::Pattern) => "pattern".to_owned(),
        }
    }

    #[test]
    fn an_expression_becomes_prefixes_or_stays_behind_the_sign_in() {
        for (entry, expected) in [
            ("^/api/", "/api/"),
            ("^/api/.*", "/api/"),
            ("^/api/.*$", "/api/"),
            ("^/api(/.*)?$", "/api"),
            ("^/api(/|$)", "/api"),
            ("^/api", "/api narrower"),
            ("^/api.*", "/api narrower"),
            ("/api/", "/api/ narrower"),
            ("/healthz$", "/healthz wider"),
            ("^/healthz$", "/healthz wider"),
            ("^/favicon.ico$", "/favicon.ico wider"),
            ("^/favicon\\.ico$", "/favicon.ico wider"),
            ("^/(static|assets)/", "/static/ /assets/"),
            ("^/a/(?:b|c\\.d)/x/", "/a/b/x/ /a/c.d/x/"),
            ("GET=^/api/", "method"),
            ("POST!=^/api/", "method"),
            ("!=^/api/", "method"),
            ("^/", "everything"),
            ("^/$", "everything"),
            ("^/.*", "everything"),
            (".*", "everything"),
            ("", "everything"),
            ("^//", "everything"),
            ("^/.*\\.css$", "pattern"),
            ("^/a/[^/]+/b", "pattern"),
            ("^/a|^/b", "pattern"),
            ("^/a+", "pattern"),
            ("^/a./", "pattern"),
            ("^/(a|b)/(c|d)/", "pattern"),
            ("(?i)^/api/", "pattern"),
            ("api/", "pattern"),
            ("\\.css$", "pattern"),
            ("^/api\\$", "pattern"),
            ("^/a%2fb/", "pattern"),
        ] {
            assert_eq!(shown(entry), expected, "{entry}");
        }
    }
}
