//! The table of the options of oauth2-proxy.

/// The text of the table.
const TABLE: &str = include_str!("options.txt");

/// The lists whose key in a settings file is the name of the flag.
const SAME_NAMES: [&str; 2] = ["extra-jwt-issuers", "skip-auth-regex"];

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

    /// Returns the key of the option in a settings file, which is also the name of its variable in
    /// lower case and without the prefix. Most keys of lists are in the plural.
    pub(super) fn key(&self) -> String {
        let plural = self.kind == Kind::List && !SAME_NAMES.contains(&self.name);
        let end = if plural { "s" } else { "" };
        format!("{}{end}", self.name.replace('-', "_"))
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
    rows().find(|row| row.key().eq_ignore_ascii_case(key))
}

/// Returns the row of a list whose key is written in the singular. oauth2-proxy does not read such a
/// key.
pub(super) fn by_singular(key: &str) -> Option<Row> {
    by_flag(&key.to_ascii_lowercase().replace('_', "-"))
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
    fn a_key_is_found_only_under_the_name_that_oauth2_proxy_reads() {
        for (key, name) in [
            ("client_id", Some("client-id")),
            ("CLIENT_ID", Some("client-id")),
            ("upstreams", Some("upstream")),
            ("OIDC_EXTRA_AUDIENCES", Some("oidc-extra-audience")),
            ("skip_auth_regex", Some("skip-auth-regex")),
            ("extra_jwt_issuers", Some("extra-jwt-issuers")),
            (
                "redis_sentinel_connection_urls",
                Some("redis-sentinel-connection-urls"),
            ),
            ("upstream", None),
            ("allowed_group", None),
            ("client_ids", None),
            ("client-id", None),
            ("reverse_proxys", None),
            ("ss", None),
        ] {
            assert_eq!(by_key(key).map(|row| row.name), name, "{key}");
        }
        let singular = by_singular("ALLOWED_GROUP").map(|row| row.key());
        assert_eq!(singular.as_deref(), Some("allowed_groups"));
    }
}
