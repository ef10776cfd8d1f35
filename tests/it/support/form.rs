//! The forms and links of a page, as far as a login needs them.

/// A form: its target, its method and its fields.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Form {
    /// The target, as in the page, with decoded entities. The target is empty if the form is sent
    /// to its own page.
    pub(crate) action: String,
    /// In upper case.
    pub(crate) method: String,
    /// Names, types and values in order. Fields without a name are left out.
    pub(crate) fields: Vec<Field>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) value: String,
}

impl Form {
    /// The name of the first password field.
    pub(crate) fn password_field(&self) -> Option<&str> {
        self.fields
            .iter()
            .find(|field| field.kind == "password")
            .map(|field| field.name.as_str())
    }

    /// The first field for a name or an email address.
    pub(crate) fn user_field(&self) -> Option<&str> {
        let typed = |field: &&Field| matches!(field.kind.as_str(), "text" | "email");
        self.fields
            .iter()
            .find(typed)
            .map(|field| field.name.as_str())
    }

    /// The values to send, including the values that replace others.
    pub(crate) fn filled(&self, replaced: &[(&str, &str)]) -> Vec<(String, String)> {
        let sent = self.fields.iter().filter(|field| field.kind != "submit");
        sent.map(|field| {
            let new = replaced.iter().find(|(name, _)| *name == field.name);
            let value = new.map_or(field.value.as_str(), |(_, value)| *value);
            (field.name.clone(), value.to_owned())
        })
        .collect()
    }
}

/// All forms of a page.
pub(crate) fn forms(html: &str) -> Vec<Form> {
    let mut forms: Vec<Form> = Vec::new();
    let mut inside = false;
    for (tag, attributes) in tags(html) {
        let get = |name: &str| {
            let found = attributes.iter().find(|(n, _)| n == name);
            found.map(|(_, value)| value.clone())
        };
        match tag.as_str() {
            "form" => {
                inside = true;
                forms.push(Form {
                    action: get("action").unwrap_or_default(),
                    method: get("method")
                        .unwrap_or_else(|| "get".into())
                        .to_ascii_uppercase(),
                    fields: Vec::new(),
                });
            }
            "/form" => inside = false,
            "input" | "button" | "textarea" if inside => {
                let default = if tag == "button" { "submit" } else { "text" };
                let kind = get("type")
                    .unwrap_or_else(|| default.into())
                    .to_ascii_lowercase();
                if let (Some(form), Some(name)) = (forms.last_mut(), get("name")) {
                    form.fields.push(Field {
                        name,
                        kind,
                        value: get("value").unwrap_or_default(),
                    });
                }
            }
            _ => {}
        }
    }
    forms
}

/// A link of a page.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Link {
    /// The target of the link, with decoded entities.
    pub(crate) href: String,
    /// The text of the link, with decoded entities.
    pub(crate) label: String,
}

/// All links of a page whose text contains no markup.
pub(crate) fn links(html: &str) -> Vec<Link> {
    let mut links = Vec::new();
    let mut rest = html;
    while let Some((_, after)) = rest.split_once("<a ") {
        let (attributes, after) = attributes(after);
        let (label, after) = after.split_once("</a>").unwrap_or((after, ""));
        let href = attributes.into_iter().find(|(name, _)| name == "href");
        links.extend(href.map(|(_, href)| Link {
            href,
            label: decode(label),
        }));
        rest = after;
    }
    links
}

type Attributes = Vec<(String, String)>;

fn tags(html: &str) -> Vec<(String, Attributes)> {
    let mut tags = Vec::new();
    let mut rest = html;
    while let Some((_, after)) = rest.split_once('<') {
        if let Some(comment) = after.strip_prefix("!--") {
            rest = comment.split_once("-->").map_or("", |(_, after)| after);
            continue;
        }
        let end = after
            .find(|c: char| c.is_whitespace() || c == '>')
            .unwrap_or(after.len());
        let (name, after) = after.split_at(end);
        let (attributes, after) = attributes(after);
        tags.push((name.trim_end_matches('/').to_ascii_lowercase(), attributes));
        rest = after;
    }
    tags
}

/// The attributes until the `>` that ends the tag, and the text after the tag.
fn attributes(text: &str) -> (Attributes, &str) {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
        if let Some(after) = rest.strip_prefix('>') {
            return (found, after);
        }
        if rest.is_empty() {
            return (found, rest);
        }
        let end = rest
            .find(|c: char| c.is_whitespace() || matches!(c, '=' | '>' | '/'))
            .unwrap_or(rest.len());
        let (name, after) = rest.split_at(end.max(1).min(rest.len()));
        let mut value = "";
        rest = after.trim_start();
        if let Some(after) = rest.strip_prefix('=') {
            let after = after.trim_start();
            (value, rest) = match after.chars().next() {
                Some(quote @ ('"' | '\'')) => after[1..]
                    .split_once(quote)
                    .unwrap_or_else(|| (&after[1..], "")),
                _ => after.split_at(
                    after
                        .find(|c: char| c.is_whitespace() || c == '>')
                        .unwrap_or(after.len()),
                ),
            };
        }
        found.push((name.to_ascii_lowercase(), decode(value)));
    }
}

/// Decodes the character references in attribute values: numbers, and the names that pages use.
pub(crate) fn decode(text: &str) -> String {
    let mut decoded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        decoded.push_str(before);
        let reference = after.split_once(';').and_then(|(name, after)| {
            let number =
                name.strip_prefix('#')
                    .map(|number| match number.strip_prefix(['x', 'X']) {
                        Some(hex) => u32::from_str_radix(hex, 16).ok(),
                        None => number.parse().ok(),
                    });
            let decoded = match (name, number) {
                ("amp", _) => Some('&'),
                ("lt", _) => Some('<'),
                ("gt", _) => Some('>'),
                ("quot", _) => Some('"'),
                ("apos", _) => Some('\''),
                (_, Some(Some(number))) => char::from_u32(number),
                _ => None,
            };
            decoded.map(|decoded| (decoded, after))
        });
        (rest, ()) = match reference {
            Some((character, after)) => (after, decoded.push(character)),
            None => (after, decoded.push('&')),
        };
    }
    decoded.push_str(rest);
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"<!doctype html><!-- <form action="/wrong"> --><title>a < b</title>
        <input name=outside><FORM class="a b" Action='/oauth/login?x=1&amp;y=&#50;' method=post>
        <input type=hidden name="_token" value="a&quot;b>c"/><input name='email' type="email" required>
        <input name="password" type="password"><input type="checkbox"><button name="go" value="1">Go</button>
        </form><form action="/logout"><input name=q value=plain></form>"#;

    #[test]
    fn forms_are_found_with_their_fields() {
        let forms = forms(PAGE);
        assert_eq!(forms.len(), 2);
        let login = &forms[0];
        assert_eq!(
            (login.action.as_str(), login.method.as_str()),
            ("/oauth/login?x=1&y=2", "POST")
        );
        assert_eq!(login.user_field(), Some("email"));
        assert_eq!(login.password_field(), Some("password"));
        let sent = login.filled(&[("email", "a@b"), ("password", "p")]);
        let expected = [("_token", "a\"b>c"), ("email", "a@b"), ("password", "p")];
        assert_eq!(sent, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(forms[1].filled(&[]), [("q".to_owned(), "plain".to_owned())]);
        assert_eq!(forms[1].method, "GET");
    }

    #[test]
    fn broken_markup_ends_somewhere() {
        for html in [
            "<",
            "<form",
            "<form a",
            "<form a=",
            "<form a=\"",
            "<!--",
            "<form =>",
            "a&b;&#x;&",
        ] {
            forms(html);
            decode(html);
        }
        assert_eq!(decode("a&amp;b &x; &#x41;"), "a&b &x; A");
    }
}
