//! Replaces the prefix of a request's path.

use bytes::Bytes;
use http::uri::PathAndQuery;

use super::{Error, MAX_PATH, Prefix, Target, canonical, reading};

impl Target {
    /// Returns the path and the query in which `new` replaces the prefix `old`. The function
    /// replaces whole segments, so the spelling of the prefix in the path does not matter. The query
    /// stays unchanged, byte for byte.
    ///
    /// # Errors
    ///
    /// [`Error::HiddenSeparator`] if the path does not begin with `old`. The new path is checked
    /// in the same way as the path of a request, so any other [`Error`] about a path is possible.
    /// For example, the new path can be too long. The new path may have the unusual forms that the
    /// target has.
    pub(crate) fn with_prefix(&self, old: &Prefix, new: &Prefix) -> Result<PathAndQuery, Error> {
        // Only a reading of the path may be below the prefix, or a segment of the path has a
        // full-width slash, so that the number of segments of the prefix differs from that in the
        // path.
        let rest = old.strip_from(self.path()).ok_or(Error::HiddenSeparator)?;
        let path = new.join(rest);
        let unusual = reading::unusual(&path, self.forms).map(|(path, ..)| path);
        let is_usual = unusual.is_none();
        let mut text = unusual.unwrap_or(path);
        if let Some(query) = self.query() {
            text.push('?');
            text.push_str(query);
        }
        let text = PathAndQuery::from_maybe_shared(Bytes::from(text));
        let text = text.map_err(|_too_long| Error::PathTooLong)?;
        if is_usual {
            canonical(&text)
        } else if text.path().len() > MAX_PATH {
            Err(Error::PathTooLong)
        } else {
            Ok(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::target::Forms;

    fn prefix(text: &str) -> Prefix {
        Prefix::parse(text).unwrap()
    }

    fn target(path: &str) -> Target {
        let request = Request::get(path).header("host", "gw.test").body(());
        Target::from_request(&request.unwrap().into_parts().0).unwrap()
    }

    fn unusual(path: &str) -> Target {
        let request = Request::get(path).header("host", "gw.test").body(());
        let parts = request.unwrap().into_parts().0;
        Target::with_unusual_path(&parts, Forms::ALL).unwrap().0
    }

    #[test]
    fn e_01_e_02_every_row_of_the_table_of_replaced_prefixes_holds() {
        let table = include_str!("../../tests/data/replaced_prefixes.txt");
        let mut count = 0;
        for row in table.lines().filter(|line| !line.starts_with('#')) {
            let [old, new, path, wanted] = row.split('\t').collect::<Vec<_>>()[..] else {
                panic!("four columns: {row}");
            };
            let (old, new, target) = (prefix(old), prefix(new), target(path));
            assert!(old.covers(target.path()), "{row}");
            let replaced = target.with_prefix(&old, &new).unwrap();
            assert_eq!(replaced.as_str(), wanted, "{row}");
            count += 1;
        }
        assert!(count >= 30, "{count}");
    }

    #[test]
    fn e_01_a_path_that_is_too_long_with_its_new_prefix_is_refused() {
        let (old, new) = (prefix("/a"), prefix("/long/name"));
        let path = |length| format!("/a/{}", "x".repeat(length));
        let most = MAX_PATH - "/long/name/".len();
        let replace = |target: Target| target.with_prefix(&old, &new);
        assert!(replace(target(&path(most))).is_ok());
        assert_eq!(replace(target(&path(most + 1))), Err(Error::PathTooLong));
        // The path has an unusual form.
        let path = |length| format!("{}%2F", path(length - "%2F".len()));
        assert!(replace(unusual(&path(most))).is_ok());
        assert_eq!(replace(unusual(&path(most + 1))), Err(Error::PathTooLong));
    }

    #[test]
    fn e_01_p_48_only_a_path_below_the_prefix_gets_the_new_prefix() {
        let replace = |path, old, new| {
            let replaced = unusual(path).with_prefix(&prefix(old), &prefix(new));
            replaced.map(|replaced| replaced.to_string())
        };
        let kept = Ok("/@scope%2Fname?x=%2f".to_owned());
        assert_eq!(replace("/npm/@scope%2fname?x=%2f", "/npm", "/"), kept);
        for (path, old) in [("/g%2Fx/admin/users", "/g"), ("/a//b/admin", "/a/b")] {
            let refused = replace(path, old, "/");
            assert_eq!(refused, Err(Error::HiddenSeparator), "{path}");
        }
        // The new path would begin with two slashes.
        assert!(replace("/npm//evil.test", "/npm", "/").is_err());
        assert!(replace("/npm/%2Fevil.test", "/npm", "/").is_err());
    }

    #[test]
    fn p_61_a_segment_that_may_be_several_segments_gets_no_new_prefix() {
        let replace = |path: &str, old: &str| {
            let replaced = target(path).with_prefix(&prefix(old), &prefix("/new"));
            replaced.map(|replaced| replaced.to_string())
        };
        for (path, old, wanted) in [
            ("/wiki/a", "/wiki", Ok("/new/a")),
            ("/WI%E2%84%AAI;x/a?b", "/wiki", Ok("/new/a?b")),
            ("/%20wiki%C2%A0/", "/wiki", Ok("/new/")),
            ("/wiki/a%EF%BC%8Fb", "/wiki", Ok("/new/a%EF%BC%8Fb")),
            ("/wiki%EF%BC%8Fa/b", "/wiki", Err(Error::HiddenSeparator)),
            ("/a%EF%BC%8Fb/c/d", "/a/b", Err(Error::HiddenSeparator)),
            ("/a%EF%BC%8Fb", "/a/b", Ok("/new")),
            ("/other/a", "/wiki", Err(Error::HiddenSeparator)),
        ] {
            let wanted = wanted.map(str::to_owned);
            assert_eq!(replace(path, old), wanted, "{path}");
        }
    }

    #[test]
    fn e_01_a_target_that_was_never_judged_is_judged_after_the_replacement() {
        // No request has such a target. The target shows that the new path is checked again.
        let unjudged = |path: &'static str| Target {
            path_and_query: PathAndQuery::from_static(path),
            ..target("/")
        };
        for (path, wanted) in [
            ("/a//evil.test", Error::EmptySegment),
            ("/a/..", Error::DotSegment),
            ("/a/%2fevil.test", Error::HiddenSeparator),
        ] {
            let replaced = unjudged(path).with_prefix(&prefix("/a"), &prefix("/"));
            assert_eq!(replaced, Err(wanted), "{path}");
        }
    }
}
