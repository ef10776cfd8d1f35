//! The unusual forms of a path, which the settings of a route can allow.

use std::fmt;

use serde::Deserialize;

/// An unusual form of a path. Apps may read a path with an unusual form in different ways, so the
/// gateway refuses the path unless the route allows the form.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Form {
    /// The path has a backslash, plain or percent-encoded.
    Backslash,
    /// The path has an empty segment that is not the last segment.
    EmptySegment,
    /// The path has a percent-encoded slash.
    EncodedSlash,
    /// The decoded path is not UTF-8.
    NonUtf8,
}

impl Form {
    const ALL: [Self; 4] = [
        Self::Backslash,
        Self::EmptySegment,
        Self::EncodedSlash,
        Self::NonUtf8,
    ];

    /// The name of the form in the settings.
    const fn name(self) -> &'static str {
        match self {
            Self::Backslash => "backslash",
            Self::EmptySegment => "empty_segment",
            Self::EncodedSlash => "encoded_slash",
            Self::NonUtf8 => "non_utf8",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Backslash => 1,
            Self::EmptySegment => 2,
            Self::EncodedSlash => 4,
            Self::NonUtf8 => 8,
        }
    }
}

/// A set of unusual forms. The empty set is the default.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(try_from = "Vec<Form>")]
pub(crate) struct Forms(u8);

impl Forms {
    /// The set of all forms.
    pub(crate) const ALL: Self = Self(15);

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn has(self, form: Form) -> bool {
        self.0 & form.bit() != 0
    }

    /// Returns true if `self` has every form of `other`.
    pub(crate) const fn include(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// Returns the forms of both sets.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the forms of `self` that are not in `other`.
    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Returns the set with `form`, if `present` is true.
    pub(super) const fn with(self, form: Form, present: bool) -> Self {
        if present {
            Self(self.0 | form.bit())
        } else {
            self
        }
    }
}

impl TryFrom<Vec<Form>> for Forms {
    type Error = String;

    fn try_from(list: Vec<Form>) -> Result<Self, String> {
        let mut forms = Self::default();
        for form in list {
            if forms.has(form) {
                return Err(format!("names `{}` twice", form.name()));
            }
            forms = forms.with(form, true);
        }
        Ok(forms)
    }
}

/// The names of the forms, with commas between the names.
impl fmt::Display for Forms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let present = Form::ALL.into_iter().filter(|form| self.has(*form));
        let names: Vec<&str> = present.map(Form::name).collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(list: &serde_json::Value) -> Result<Forms, String> {
        serde_json::from_value(list.clone()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_list_of_names_is_a_set_of_forms() {
        let all = json!(["non_utf8", "encoded_slash", "empty_segment", "backslash"]);
        assert_eq!(read(&all), Ok(Forms::ALL));
        assert_eq!(read(&json!([])), Ok(Forms::default()));
        let names = "backslash, empty_segment, encoded_slash, non_utf8";
        assert_eq!(Forms::ALL.to_string(), names);
        let some = read(&json!(["empty_segment", "non_utf8"])).unwrap();
        assert_eq!(some.to_string(), "empty_segment, non_utf8");
        assert!(Forms::ALL.include(some) && !some.include(Forms::ALL));
        assert!(some.include(Forms::default()) && some.has(Form::NonUtf8));
        assert!(!some.has(Form::Backslash));
        assert_eq!(
            some.and(read(&json!(["backslash", "encoded_slash"])).unwrap()),
            Forms::ALL
        );
    }

    #[test]
    fn an_unknown_or_a_repeated_name_is_refused() {
        let unknown = read(&json!(["slash"])).unwrap_err();
        let names = "`backslash`, `empty_segment`, `encoded_slash`, `non_utf8`";
        assert!(unknown.contains(names), "{unknown}");
        let twice = read(&json!(["backslash", "backslash"])).unwrap_err();
        assert!(twice.contains("names `backslash` twice"), "{twice}");
    }
}
