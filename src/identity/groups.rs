//! The groups of a user, and the field that sends the groups to an app.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write as _;
use std::sync::OnceLock;

use http::HeaderValue;
use serde::Deserialize;

use super::Claim;

/// The form of the groups field.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum GroupsFormat {
    /// The groups field is one value: all names, joined with commas. A name that contains a comma
    /// is left out, because the app would read the name as two names.
    #[default]
    Comma,
    /// The groups field is one value: a JSON array of strings. The JSON array escapes all
    /// characters outside ASCII.
    Json,
    /// The request has one groups field for each group name.
    Repeated,
}

/// The form and the maximum length of the groups field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct GroupsForm {
    pub(crate) format: GroupsFormat,
    /// The maximum length of all values of the groups field together, in bytes. The length of the
    /// groups field is limited, because many app servers refuse a request with long fields.
    pub(crate) bytes: usize,
}

impl Default for GroupsForm {
    fn default() -> Self {
        Self {
            format: GroupsFormat::default(),
            bytes: 4096,
        }
    }
}

/// The groups of a user, in the order of the groups claim. Rules use all groups of the user and
/// compare whole group names. The groups field in a request to an app may contain only some of the
/// groups.
#[derive(Clone, Default)]
pub struct Groups {
    names: Box<[Claim]>,
    /// The groups field that the first call of [`Groups::field`] created, in the form that the
    /// settings required at that time. All requests of the session use this stored groups field.
    /// After a reload has changed the form of the groups field, each request creates its own groups
    /// field. After the session has been decoded again, all requests of the session share a new
    /// groups field.
    field: OnceLock<(GroupsForm, GroupsField)>,
}

/// The values of the groups field.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct GroupsField {
    values: Box<[HeaderValue]>,
    left_out: usize,
}

impl Groups {
    /// Returns the names of the groups.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Claim> {
        self.names.iter()
    }

    /// Returns true if the user has no group.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Returns the values of the groups field. The first call of this function stores the values,
    /// and calls `report` with the number of groups that the field leaves out.
    pub(crate) fn field(
        &self,
        form: GroupsForm,
        report: impl FnOnce(usize),
    ) -> Cow<'_, [HeaderValue]> {
        if self.names.is_empty() {
            return Cow::Borrowed(&[]);
        }
        let mut made = None;
        let (known, field) = self.field.get_or_init(|| {
            let field = GroupsField::new(&self.names, form);
            made = Some(field.left_out);
            (form, field)
        });
        if let Some(left_out) = made {
            report(left_out);
        }
        if *known == form {
            Cow::Borrowed(&field.values)
        } else {
            Cow::Owned(GroupsField::new(&self.names, form).values.into_vec())
        }
    }
}

impl GroupsField {
    fn new(names: &[Claim], form: GroupsForm) -> Self {
        let mut left = form.bytes;
        let mut left_out = 0_usize;
        // A name that does not fit into the remaining space of the groups field is left out. A
        // shorter name later in the list can still fit.
        let mut fits = |length: usize| {
            if let Some(rest) = left.checked_sub(length) {
                left = rest;
                true
            } else {
                left_out = left_out.saturating_add(1);
                false
            }
        };
        let values = match form.format {
            GroupsFormat::Repeated => {
                let names = names.iter().filter(|name| fits(name.as_str().len()));
                names.map(|name| name.as_value().clone()).collect()
            }
            GroupsFormat::Comma => {
                // A name that contains a comma is always left out. Every name except the first name
                // needs one more byte, for the comma before the name.
                let length = |name: &str| {
                    let comma = name.contains(',');
                    if comma {
                        usize::MAX
                    } else {
                        name.len().saturating_add(1)
                    }
                };
                let names = names.iter().map(Claim::as_str);
                let names: Vec<&str> = names.filter(|name| fits(length(name))).collect();
                value(&names.join(","), !names.is_empty())
            }
            GroupsFormat::Json => {
                let names = names.iter().map(|name| json_string(name.as_str()));
                let names: Vec<String> = names
                    .filter(|name| fits(name.len().saturating_add(1)))
                    .collect();
                value(&format!("[{}]", names.join(",")), !names.is_empty())
            }
        };
        Self { values, left_out }
    }
}

/// Returns a groups field with the single value `text`. If the argument `carries` is false, this
/// function returns a groups field without a value.
fn value(text: &str, carries: bool) -> Box<[HeaderValue]> {
    // The type `Claim` allows no control characters, so the conversion of the names does not fail.
    let value = HeaderValue::from_bytes(text.as_bytes()).ok();
    value.filter(|_value| carries).into_iter().collect()
}

/// Returns a JSON string (RFC 8259 section 7) in ASCII, because apps decode bytes outside ASCII in
/// different ways.
fn json_string(text: &str) -> String {
    let mut json = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                json.push('\\');
                json.push(character);
            }
            ' '..='~' => json.push(character),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    // Writing to a string never fails.
                    write!(json, "\\u{unit:04x}").unwrap_or_default();
                }
            }
        }
    }
    json.push('"');
    json
}

impl FromIterator<Claim> for Groups {
    fn from_iter<T: IntoIterator<Item = Claim>>(names: T) -> Self {
        Self {
            names: names.into_iter().collect(),
            field: OnceLock::new(),
        }
    }
}

impl PartialEq for Groups {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names
    }
}

impl Eq for Groups {}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(names: &[&str]) -> Groups {
        names.iter().map(|name| Claim::new(name).unwrap()).collect()
    }

    fn form(format: GroupsFormat, bytes: usize) -> GroupsForm {
        GroupsForm { format, bytes }
    }

    /// Returns the values of the groups field. Also returns the number of left-out groups, if
    /// `Groups::field` reported a number.
    fn field(names: &[&str], form: GroupsForm) -> (Vec<String>, Option<usize>) {
        let groups = groups(names);
        let mut reported = None;
        let values = groups.field(form, |left_out| reported = Some(left_out));
        let text = |value: &HeaderValue| String::from_utf8(value.as_bytes().to_vec()).unwrap();
        (values.iter().map(text).collect(), reported)
    }

    const ADMINS: &str = "CN=Admins,OU=Groups,DC=example,DC=com";

    #[test]
    fn j_76_a_group_with_a_comma_does_not_become_two() {
        let comma = field(&["staff", "users,admin", "x"], GroupsForm::default());
        assert_eq!(comma, (vec!["staff,x".to_owned()], Some(1)));
        let only = field(&[ADMINS], GroupsForm::default());
        assert_eq!(only, (Vec::new(), Some(1)));
    }

    #[test]
    fn json_and_repeated_fields_carry_every_name() {
        let names = [ADMINS, "Zoë \"z\" \\ 🦀", "c"];
        let (json, left_out) = field(&names, form(GroupsFormat::Json, 4096));
        assert_eq!(left_out, Some(0));
        assert!(json[0].is_ascii(), "{json:?}");
        let read: Vec<String> = serde_json::from_str(&json[0]).unwrap();
        assert_eq!(read, names);
        let (repeated, left_out) = field(&names, form(GroupsFormat::Repeated, 4096));
        assert_eq!(repeated, names);
        assert_eq!(left_out, Some(0));
    }

    #[test]
    fn the_bound_leaves_out_whole_names() {
        for (format, bytes, expected, left_out) in [
            (GroupsFormat::Comma, 8, &["a,ccccc"][..], 1),
            (GroupsFormat::Comma, 1, &[], 3),
            (GroupsFormat::Json, 12, &["[\"a\",\"ccccc\"]"], 1),
            (GroupsFormat::Repeated, 6, &["a", "ccccc"], 1),
            (GroupsFormat::Repeated, 13, &["a", "bbbbbbb", "ccccc"], 0),
        ] {
            let (values, reported) = field(&["a", "bbbbbbb", "ccccc"], form(format, bytes));
            assert_eq!(values, expected, "{format:?} {bytes}");
            assert_eq!(reported, Some(left_out), "{format:?} {bytes}");
        }
    }

    #[test]
    fn the_field_is_made_once_for_each_form() {
        let groups = groups(&["a", "b,c"]);
        let mut reports = 0;
        for _ in 0..3 {
            groups.field(GroupsForm::default(), |_left_out| reports += 1);
        }
        assert_eq!(reports, 1);
        // A reload can change the form of the groups field during a session.
        let other = groups.field(form(GroupsFormat::Repeated, 99), |_left_out| reports += 1);
        assert_eq!(other.len(), 2);
        assert!(
            self::groups(&[])
                .field(GroupsForm::default(), |_| reports += 1)
                .is_empty()
        );
        assert_eq!(reports, 1);
    }
}
