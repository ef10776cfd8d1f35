//! The table of the options of oauth2-proxy.

/// The text of the table.
const TABLE: &str = include_str!("options.txt");

/// The form of the value of an option.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// True or false.
    Flag,
    /// A text.
    Text,
    /// A list of texts.
    List,
    /// A text that can contain a secret. The value is never kept.
    Secret,
}

/// What the import does with the value of an option.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Handling {
    /// The code of this module decides.
    Code,
    /// A key of Sidegate gets the value.
    Set(Form, &'static str),
    /// Sidegate does the same without a key.
    Covered,
    /// Sidegate has no equivalent.
    Lost,
    /// The option is dangerous, so Sidegate does the safe thing.
    Safe,
}

/// The form in which a key of Sidegate gets the value of an option.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    /// The same form as the option.
    Same,
    /// A list with the text as its only entry.
    List,
    /// The only entry of the list.
    One,
    /// The words of the text, as a list.
    Words,
    /// The duration in seconds.
    Seconds,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// The name of the flag, without the hyphens before the name.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// The path in the alpha configuration, or an empty text.
    pub(super) alpha: &'static str,
    harmless: &'static str,
    pub(super) handling: Handling,
    /// The remark about a value that Sidegate does not take over.
    pub(super) remark: &'static str,
}

impl Row {
    fn parse(line: &'static str) -> Option<Self> {
        let mut columns = line.split('\t');
        let mut next = || {
            columns
                .next()
                .map(|text| if text == "-" { "" } else { text })
        };
        let (name, kind, alpha) = (next()?, next()?, next()?);
        let (harmless, handling, remark) = (next()?, next()?, next()?);
        let kind = match kind {
            "flag" => Kind::Flag,
            "text" => Kind::Text,
            "list" => Kind::List,
            "secret" => Kind::Secret,
            _ => return None,
        };
        let handling = match handling.split_once(' ') {
            None => match handling {
                "code" => Handling::Code,
                "covered" => Handling::Covered,
                "lost" => Handling::Lost,
                "safe" => Handling::Safe,
                _ => return None,
            },
            Some(("set", key)) => Handling::Set(Form::Same, key),
            Some(("list", key)) => Handling::Set(Form::List, key),
            Some(("one", key)) => Handling::Set(Form::One, key),
            Some(("words", key)) => Handling::Set(Form::Words, key),
            Some(("seconds", key)) => Handling::Set(Form::Seconds, key),
            Some(_) => return None,
        };
        Some(Self {
            name,
            kind,
            alpha,
            harmless,
            handling,
            remark,
        })
    }

    /// Returns true if the value needs no key and no remark, because Sidegate does the same.
    pub(super) fn is_harmless(&self, values: &[String]) -> bool {
        let value = values.join(",");
        let value = if value.is_empty() { "empty" } else { &value };
        let mut harmless = self.harmless.split(',').filter(|word| !word.is_empty());
        harmless.any(|word| word.eq_ignore_ascii_case(value))
    }

    /// Returns true if `key` is the name of the option in a settings file or in a variable, in
    /// lower case with hyphens. Most names of lists are in the plural there.
    fn is_named(&self, key: &str) -> bool {
        let singular = key.strip_suffix('s').unwrap_or(key);
        self.name == key || (self.kind != Kind::Flag && self.name == singular)
    }
}

/// Returns all rows of the table.
pub(super) fn rows() -> impl Iterator<Item = Row> {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(Row::parse)
}

/// Returns the row of a flag.
pub(super) fn by_flag(name: &str) -> Option<Row> {
    rows().find(|row| row.name == name)
}

/// Returns the row of a key of a settings file, or of the name of a variable without its prefix.
pub(super) fn by_key(key: &str) -> Option<Row> {
    let key = key.to_ascii_lowercase().replace('_', "-");
    by_flag(&key).or_else(|| rows().find(|row| row.is_named(&key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_a_row() {
        let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
        for line in lines {
            assert!(Row::parse(line).is_some(), "{line}");
            assert_eq!(line.split('\t').count(), 6, "{line}");
        }
        assert_eq!(rows().count(), 172);
        let mut names: Vec<_> = rows().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 172, "a name is repeated");
    }

    #[test]
    fn a_row_without_an_equivalent_has_a_remark() {
        for row in rows() {
            let is_silent = matches!(row.handling, Handling::Code | Handling::Set(..));
            assert!(is_silent || row.remark.ends_with('.'), "{}", row.name);
        }
    }

    #[test]
    fn keys_of_files_and_variables_are_found_in_the_singular_and_in_the_plural() {
        for (key, name) in [
            ("client_id", "client-id"),
            ("CLIENT_ID", "client-id"),
            ("upstreams", "upstream"),
            ("OIDC_EXTRA_AUDIENCES", "oidc-extra-audience"),
            ("skip_auth_regex", "skip-auth-regex"),
            (
                "redis_sentinel_connection_urls",
                "redis-sentinel-connection-urls",
            ),
        ] {
            assert_eq!(by_key(key).map(|row| row.name), Some(name), "{key}");
        }
        assert!(by_key("reverse_proxys").is_none() && by_key("ss").is_none());
    }
}
