//! The settings file that the import prints: TOML with a comment on each line that came from an
//! option.

use std::fmt;

/// A value in the form of TOML.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Value {
    Text(String),
    Flag(bool),
    Number(u64),
    List(Vec<String>),
    /// An inline table.
    Table(Vec<(&'static str, Self)>),
}

impl Value {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::List(list) => {
                let list: Vec<String> = list.iter().map(|text| quoted(text)).collect();
                write!(f, "[{}]", list.join(", "))
            }
            Self::Table(table) => {
                let entry = |(key, value): &(&str, Self)| format!("{key} = {value}");
                let entries: Vec<String> = table.iter().map(entry).collect();
                write!(f, "{{ {} }}", entries.join(", "))
            }
        }
    }
}

/// Returns a basic string of TOML. A string of JSON has the same form, except for the character
/// DEL, which JSON does not escape.
fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    json.replace('\u{7f}', "\\u007F")
}

/// Returns a key of TOML. A key with other characters than letters, digits, `-` and `_` is quoted.
pub(super) fn key(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if !name.is_empty() && name.bytes().all(is_bare) {
        name.to_owned()
    } else {
        quoted(name)
    }
}

/// Returns the text without control characters, so that the text stays on one line.
pub(super) fn printable(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// One line of a table.
#[derive(Clone, Debug)]
struct Line {
    key: String,
    value: Value,
    from: String,
}

/// A table of the settings file.
#[derive(Clone, Debug)]
struct Table {
    header: String,
    lines: Vec<Line>,
}

impl Table {
    fn new(header: impl Into<String>) -> Self {
        Self {
            header: header.into(),
            lines: Vec::new(),
        }
    }
}

/// The settings file.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// The first table has no header.
    tables: Vec<Table>,
}

/// The tables that the file can have, in the order in which the file has them.
const ORDER: [&str; 9] = [
    "",
    "server",
    "operations",
    "session",
    "login",
    "auth_check",
    "assertions",
    "log",
    "providers.main",
];

/// Returns the table of a key, and the key inside this table.
fn place(path: &str) -> (&'static str, &str) {
    let inside = |header: &&str| {
        let rest = path.strip_prefix(header)?;
        rest.strip_prefix('.')
    };
    let known = ORDER.into_iter().filter(|header| !header.is_empty());
    let mut places = known.filter_map(|header| Some((header, inside(&header)?)));
    places.next().unwrap_or(("", path))
}

impl Document {
    pub(super) fn new() -> Self {
        Self {
            tables: ORDER.into_iter().map(Table::new).collect(),
        }
    }

    /// Sets a key such as `server.listen`. The comment of the line names the option `from`. A key
    /// that is already set gets the new value.
    pub(super) fn set(&mut self, path: &str, value: Value, from: impl Into<String>) {
        let (header, key) = place(path);
        let (key, from) = (key.to_owned(), from.into());
        let Some(table) = self.tables.iter_mut().find(|table| table.header == header) else {
            return;
        };
        let line = Line { key, value, from };
        match table.lines.iter_mut().find(|known| known.key == line.key) {
            Some(known) => *known = line,
            None => table.lines.push(line),
        }
    }

    /// Returns true if a key is set.
    pub(super) fn has(&self, path: &str) -> bool {
        let (header, key) = place(path);
        let mut tables = self.tables.iter().filter(|table| table.header == header);
        tables.any(|table| table.lines.iter().any(|line| line.key == key))
    }

    /// Adds a table, such as `[upstreams.app]` or `[[routes]]`. `header` contains the brackets of a
    /// list of tables: `[routes]`.
    pub(super) fn add_table(&mut self, header: &str, lines: Vec<(String, Value, String)>) {
        let lines = lines.into_iter();
        let lines = lines.map(|(key, value, from)| Line { key, value, from });
        self.tables.push(Table {
            header: header.to_owned(),
            lines: lines.collect(),
        });
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in &self.tables {
            let is_list = table.header.starts_with('[');
            if table.lines.is_empty() && !is_list {
                continue;
            }
            if !table.header.is_empty() {
                writeln!(f, "\n[{}]", table.header)?;
            }
            for Line { key, value, from } in &table.lines {
                if from.is_empty() {
                    writeln!(f, "{key} = {value}")?;
                } else {
                    writeln!(f, "{key} = {value} # {}", printable(from))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use figment::Figment;
    use figment::providers::{Format as _, Toml};

    use super::*;

    #[test]
    fn tables_are_in_order_and_a_line_names_its_option() {
        let mut document = Document::new();
        document.set(
            "providers.main.issuer",
            Value::text("https://id"),
            "--oidc-issuer-url",
        );
        document.set(
            "providers.main.identity.claims.email",
            Value::text("mail"),
            "",
        );
        document.set("public_url", Value::text("https://app"), "--redirect\n-url");
        document.set("log.access", Value::Flag(true), "--request-logging");
        document.set("log.access", Value::Flag(false), "--request-logging");
        document.add_table(
            "upstreams.app",
            vec![(
                "url".to_owned(),
                Value::text("http://app"),
                "--upstream".to_owned(),
            )],
        );
        document.add_table("[routes]", Vec::new());
        assert_eq!(
            document.to_string(),
            "public_url = \"https://app\" # --redirect -url\n\n[log]\naccess = false # --request-logging\n\n\
             [providers.main]\nissuer = \"https://id\" # --oidc-issuer-url\n\
             identity.claims.email = \"mail\"\n\n[upstreams.app]\nurl = \"http://app\" # --upstream\n\n\
             [[routes]]\n"
        );
    }

    #[test]
    fn every_text_survives_a_toml_parser() {
        for text in [
            "",
            "a\"b\\c",
            "line\nend\r\t",
            "\u{7f}\u{1}",
            "ä😀",
            "'''",
            "# no comment",
        ] {
            let mut document = Document::new();
            document.set("public_url", Value::text(text), "");
            document.set("log.level", Value::List(vec![text.to_owned()]), "");
            let read = Figment::from(Toml::string(&document.to_string()));
            let read: serde_json::Value = read.extract().unwrap();
            assert_eq!(read["public_url"], text);
            assert_eq!(read["log"]["level"][0], text);
        }
        assert_eq!(key("X-Name_1"), "X-Name_1");
        assert_eq!(key("a.b"), "\"a.b\"");
    }
}
