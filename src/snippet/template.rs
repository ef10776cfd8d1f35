//! Fills the placeholders of a template. A placeholder is a name in double braces.
//!
//! A line with `{{field}}`, `{{field_name}}`, `{{variable}}`, `{{own_path}}`, `{{each_host}}` or
//! `{{each_name}}` is repeated: one line for each field, each path, or each public host. If a part
//! has the name of a placeholder that is alone in its line, the lines of the part replace the line,
//! with the same indentation.

use std::net::SocketAddr;

use http::HeaderName;

/// The values of the placeholders.
pub(super) struct Values<'a> {
    /// The address of the gateway.
    pub(super) gateway: SocketAddr,
    /// The host and the port of the app.
    pub(super) app: (String, u16),
    /// The hosts of all public URLs, with their ports.
    pub(super) hosts: &'a [String],
    /// The path of the endpoint that begins a login.
    pub(super) start: &'a str,
    /// The path of the auth check.
    pub(super) check_path: &'a str,
    /// The prefixes of the gateway's own paths.
    pub(super) own_paths: &'a [&'a str],
    /// The expression that matches the gateway's own paths.
    pub(super) matcher: String,
    /// The names of the fields that the proxy replaces.
    pub(super) fields: &'a [HeaderName],
}

impl Values<'_> {
    /// Returns the template with the values.
    pub(super) fn fill(&self, template: &str, parts: &[(&str, &str)]) -> String {
        let mut filled = String::new();
        for line in template.lines() {
            let text = line.trim_start();
            let indentation = line.strip_suffix(text).unwrap_or_default();
            let named = |(name, _lines): &&(&str, &str)| text == placeholder(name);
            match parts.iter().find(named) {
                Some((_name, lines)) => {
                    for line in lines.lines() {
                        self.add(&mut filled, &format!("{indentation}{line}"));
                    }
                }
                None => self.add(&mut filled, line),
            }
        }
        filled
    }

    /// Adds a line with its values, one time or several times.
    fn add(&self, filled: &mut String, line: &str) {
        let mut push = |line: &str| filled.extend([&*self.replaced(line), "\n"]);
        if line.contains("{{field") && !line.contains("{{fields") || line.contains("{{variable}}") {
            for field in self.fields {
                let name = field.as_str();
                let line = line.replace("{{field}}", &standard_spelling(name));
                let line = line.replace("{{field_name}}", name);
                push(&line.replace("{{variable}}", &name.replace('-', "_")));
            }
        } else if line.contains("{{own_path}}") {
            for path in self.own_paths {
                push(&line.replace("{{own_path}}", path));
            }
        } else if line.contains("{{each_host}}") {
            for host in self.hosts {
                push(&line.replace("{{each_host}}", host));
            }
        } else if line.contains("{{each_name}}") {
            for host in self.hosts {
                push(&line.replace("{{each_name}}", split_port(host).0));
            }
        } else {
            push(line);
        }
    }

    fn replaced(&self, line: &str) -> String {
        let (host, port) = &self.app;
        // An IPv6 address needs brackets before a port.
        let authority = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let fields = self
            .fields
            .iter()
            .map(|name| standard_spelling(name.as_str()));
        let public_host = self.hosts.first().map_or("", String::as_str);
        let (public_name, port_of_name) = split_port(public_host);
        // The variable `$host` contains the host that has chosen the server block, without the port.
        let nginx_host = ["$host", port_of_name].concat();
        let values = [
            ("app", authority),
            ("app_host", host.clone()),
            ("app_port", port.to_string()),
            ("check", self.check_path.to_owned()),
            ("fields", fields.clone().collect::<Vec<_>>().join(" ")),
            ("fields_list", fields.collect::<Vec<_>>().join(",")),
            ("gateway", self.gateway.to_string()),
            ("gateway_host", self.gateway.ip().to_string()),
            ("gateway_port", self.gateway.port().to_string()),
            ("own_paths", self.matcher.clone()),
            ("nginx_host", nginx_host),
            ("public_name", public_name.to_owned()),
            ("start", self.start.to_owned()),
        ];
        values.iter().fold(line.to_owned(), |line, (name, value)| {
            line.replace(&placeholder(name), value)
        })
    }
}

/// Splits a host from its port. The port begins with a colon, or is empty.
fn split_port(host: &str) -> (&str, &str) {
    match host.rfind(':') {
        // The last part of an IPv6 address is not a port.
        Some(at) if !host.ends_with(']') => host.split_at(at),
        _ => (host, ""),
    }
}

fn placeholder(name: &str) -> String {
    ["{{", name, "}}"].concat()
}

/// Returns the name of a field with a capital letter at the beginning of each word.
fn standard_spelling(name: &str) -> String {
    let words = name.split('-').map(|word| {
        let mut letters = word.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    });
    words.collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str, parts: &[(&str, &str)]) -> String {
        let values = Values {
            gateway: SocketAddr::from(([127, 0, 0, 1], 4180)),
            app: ("::1".to_owned(), 8080),
            hosts: &["app.test:8443".to_owned(), "*.b.test".to_owned()],
            start: "/a/start",
            check_path: "/check",
            own_paths: &["/a/", "/b"],
            matcher: "/a/|/b".to_owned(),
            fields: &[
                HeaderName::from_static("cookie"),
                HeaderName::from_static("x-user"),
            ],
        };
        values.fill(template, parts)
    }

    #[test]
    fn lines_are_repeated_for_each_field_and_for_each_path() {
        for (template, expected) in [
            (
                "{{gateway}}{{check}} {{own_paths}}\n",
                "127.0.0.1:4180/check /a/|/b\n",
            ),
            (
                "{{app}} {{app_host}} {{{app_port}}}\n",
                "[::1]:8080 ::1 {8080}\n",
            ),
            (
                "  {{field}} ${{variable}};\n",
                "  Cookie $cookie;\n  X-User $x_user;\n",
            ),
            ("{{field_name}}\nend\n", "cookie\nx-user\nend\n"),
            ("{{fields}}\n", "Cookie X-User\n"),
            ("- {{own_path}}\n", "- /a/\n- /b\n"),
            ("{{each_host}}\n", "app.test:8443\n*.b.test\n"),
            ("{{each_name}}\n", "app.test\n*.b.test\n"),
            ("{{public_name}} {{nginx_host}}\n", "app.test $host:8443\n"),
        ] {
            assert_eq!(filled(template, &[]), expected, "{template}");
        }
    }

    #[test]
    fn the_lines_of_a_part_have_the_indentation_of_its_placeholder() {
        let parts = [("part", "x: {{check}}\n  - {{field}}\n"), ("none", "")];
        let template = "a:\n  {{part}}\n  {{none}}\nb\n";
        let expected = "a:\n  x: /check\n    - Cookie\n    - X-User\nb\n";
        assert_eq!(filled(template, &parts), expected);
    }
}
