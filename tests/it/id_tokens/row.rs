//! The language of `tests/data/id_tokens.txt`. The first lines of `tests/data/id_tokens.txt`
//! explain the language.

use serde_json::{Value, json};

use super::publish;
use super::shape::{self, Shape};
use crate::support::provider::{Draft, Endpoint, StandIn, left_half};

/// One row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) line: usize,
    /// The number in the id of the row.
    pub(super) number: u32,
    pub(super) expected: Expected,
    steps: Vec<Step>,
}

/// The expected result of a login.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Expected {
    /// The login succeeds, and these fields reach the app; `-` means that the field is absent.
    SignedIn(Vec<(String, String)>),
    /// The login is refused with a reason code that ends with this text.
    Refused(String),
}

/// One change: its kind, the name of the member, and the new value.
#[derive(Clone, Debug)]
struct Step {
    verb: String,
    rest: String,
}

/// The values of placeholders that only the login itself knows.
#[derive(Clone, Debug)]
pub(super) struct Words {
    pub(super) attacker: String,
}

impl Row {
    fn parse(line: usize, text: &str) -> Self {
        let fields: Vec<&str> = text.split('\t').collect();
        let [id, expected, steps] = fields[..] else {
            panic!("line {line}: {} fields", fields.len());
        };
        let number = id.strip_prefix("J-").and_then(|number| number.parse().ok());
        let steps = steps.split("; ").map(|step| {
            let (verb, rest) = step.split_once(' ').unwrap_or((step, ""));
            let (verb, rest) = (verb.to_owned(), rest.to_owned());
            Step { verb, rest }
        });
        Self {
            line,
            number: number.unwrap_or_else(|| panic!("line {line}: {id}")),
            expected: Expected::parse(expected),
            steps: steps.collect(),
        }
    }

    /// All rows of the file.
    pub(super) fn all() -> Vec<Self> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/id_tokens.txt");
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().enumerate();
        let rows = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        rows.map(|(index, line)| Self::parse(index + 1, line))
            .collect()
    }

    /// Whether the row changes published data, which a gateway caches. A row that changes published
    /// data needs its own gateway.
    pub(super) fn needs_its_own_gateway(&self) -> bool {
        self.steps.iter().any(|step| step.verb == "publish")
    }

    /// Whether the row changes the token itself, and not only other answers.
    pub(super) fn changes_the_token(&self) -> bool {
        let around = ["publish", "response", "userinfo"];
        self.steps.iter().any(|step| !around.contains(&&*step.verb))
    }

    pub(super) fn steps_as_written(&self) -> String {
        let steps = self.steps.iter();
        let steps: Vec<String> = steps
            .map(|step| format!("{} {}", step.verb, step.rest))
            .collect();
        format!("{} {}", self.number, steps.join("; "))
    }

    /// A description for the message of a failure.
    pub(super) fn describe(&self) -> String {
        let shown: String = self.steps_as_written().chars().take(120).collect();
        format!("line {}: J-{shown}", self.line)
    }

    /// Makes the provider behave as the row describes.
    pub(super) fn order(&self, provider: &StandIn, words: &Words) {
        let of = |verb: &str| -> Vec<Step> {
            let wanted = self.steps.iter().filter(|step| step.verb == verb);
            wanted.cloned().collect()
        };
        for step in of("publish") {
            publish::order(provider, &step.rest);
        }
        for step in of("response") {
            provider.tamper_token_response(move |body| set(body, &step.rest, &[]));
        }
        for step in of("userinfo") {
            order_userinfo(provider, &step.rest);
        }
        let row = self.clone();
        let words = words.clone();
        provider.id_token_by(move |draft| Some(row.forge(draft, &words)));
    }

    pub(super) fn forge(&self, draft: &Draft, words: &Words) -> String {
        let text = |name: &str| draft.claims[name].as_str().unwrap_or_default().to_owned();
        let known = [
            ("$issuer", text("iss")),
            ("$client", text("aud")),
            ("$nonce", text("nonce")),
            ("$attacker", words.attacker.clone()),
            ("$c_hash", left_half(draft.alg(), &draft.code)),
            ("$now", draft.claims["iat"].to_string()),
        ];
        let mut shape = Shape::new(draft);
        for step in &self.steps {
            let rest = &step.rest;
            match step.verb.as_str() {
                "claim" => set(&mut shape.claims, rest, &known),
                "header" => set(&mut shape.header, rest, &known),
                "claims" => shape.payload = Some(shape::bytes(&filled(rest, &known))),
                "claims+" => shape.more_claims = shape::bytes(&filled(rest, &known)),
                "headers+" => shape.more_header = shape::bytes(&filled(rest, &known)),
                "headers" => shape.raw_header = Some(shape::bytes(&filled(rest, &known))),
                "sign" => shape.sign(rest),
                "signature" => shape.signature(rest),
                "token" => rest.clone_into(&mut shape.form),
                "publish" | "response" | "userinfo" => {}
                verb => panic!("{}: {verb:?}", self.describe()),
            }
        }
        shape.finish()
    }
}

impl Expected {
    fn parse(text: &str) -> Self {
        if let Some(reason) = text.strip_prefix('!') {
            return Self::Refused(reason.to_owned());
        }
        let mut words = text.split(' ');
        assert_eq!(words.next(), Some("ok"), "{text:?}");
        let pair = |word: &str| {
            let (name, value) = word.split_once('=').unwrap();
            (format!("x-forwarded-{name}"), value.to_owned())
        };
        Self::SignedIn(words.map(pair).collect())
    }
}

fn filled(text: &str, known: &[(&str, String)]) -> String {
    let fill = |text: String, (name, value): &(&str, String)| text.replace(name, value);
    known.iter().fold(text.to_owned(), fill)
}

/// Sets the member that `text` names to the value after the name. Removes the member if there is no
/// value.
fn set(object: &mut Value, text: &str, known: &[(&str, String)]) {
    let members = object.as_object_mut().unwrap();
    match text.split_once(' ') {
        None => drop(members.remove(text)),
        Some((name, value)) => drop(members.insert(name.to_owned(), read(value, known))),
    }
}

/// A value: JSON, or a placeholder for a long or dynamic value.
fn read(text: &str, known: &[(&str, String)]) -> Value {
    if let Some(rest) = text.strip_prefix("now") {
        let now = known.iter().find(|(name, _)| *name == "$now").unwrap();
        let now: i64 = now.1.parse().unwrap();
        if rest.contains('.') {
            // A double is exact enough for Unix time in tenths of a second.
            let by: f64 = rest.parse().unwrap();
            return json!(f64::from(u32::try_from(now).unwrap()) + by);
        }
        let by: i64 = if rest.is_empty() {
            0
        } else {
            rest.parse().unwrap()
        };
        return json!(now + by);
    }
    let word = text.split_once(' ').unwrap_or((text, ""));
    match word {
        ("repeat", rest) => {
            let (count, piece) = rest.split_once(' ').unwrap();
            json!(piece.repeat(count.parse().unwrap()))
        }
        ("list", rest) => {
            let (count, piece) = rest.split_once(' ').unwrap();
            let items = std::iter::repeat_n(piece, count.parse().unwrap());
            items.collect()
        }
        ("numbered", count) => {
            let count: u32 = count.parse().unwrap();
            let entry = |number| (format!("member{number}"), Value::from(number));
            Value::Object((0..count).map(entry).collect())
        }
        ("deep", count) => {
            let deeper = |inside: Value, _| json!([inside]);
            (0..count.parse().unwrap()).fold(Value::Null, deeper)
        }
        _ => serde_json::from_str(&filled(text, known))
            .unwrap_or_else(|error| panic!("{error} in {text:?}")),
    }
}

fn order_userinfo(provider: &StandIn, what: &str) {
    let (verb, rest) = what.split_once(' ').unwrap_or((what, ""));
    let rest = rest.to_owned();
    match verb {
        "signed" => provider.sign_userinfo(&rest),
        "forged" => provider.userinfo_by(move |draft| {
            let mut shape = Shape::new(draft);
            shape.sign(&rest);
            Some(shape.finish())
        }),
        "json" => provider.raw(Endpoint::Userinfo, 200, "application/json", &rest),
        "html" => provider.raw(Endpoint::Userinfo, 200, "text/html", &rest),
        "status" => {
            let status = rest.parse().unwrap();
            provider.raw(Endpoint::Userinfo, status, "application/json", "{}");
        }
        "set" => provider.userinfo(move |claims| set(claims, &rest, &[])),
        _ => panic!("{verb:?}"),
    }
}
