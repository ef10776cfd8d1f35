//! The messages of the admin socket. The client sends one request, and the gateway sends replies.
//! Each message is one line of JSON. The last reply is [`Reply::Done`], [`Reply::Explained`] or
//! [`Reply::Failed`].

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::identity::{Claim, Identity};

/// A request of the client.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub(super) enum Request {
    Explain(ExplainRequest),
    Sessions(SessionsRequest),
}

/// A request that lists or ends sessions.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionsRequest {
    pub(super) command: Command,
    pub(super) of: Selection,
}

/// A request for an explanation.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainRequest {
    pub(super) explain: AskedExplanation,
}

/// A request that nobody has sent, and its user.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AskedExplanation {
    /// The method.
    pub method: String,
    /// The URL, or only a path for the first public URL.
    pub url: String,
    /// The claims of the user. `None` for a request without a session.
    pub claims: Option<Map<String, Value>>,
    /// The provider of the user.
    pub provider: Option<String>,
}

/// An explanation of a decision.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Explained {
    /// The explanation for people.
    pub text: String,
    /// The explanation for programs.
    pub data: Value,
    /// Whether the request is permitted.
    pub is_permitted: bool,
}

/// What happens to the selected sessions.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// The sessions end.
    End,
    /// The reply describes the sessions.
    List,
}

/// The sessions to which a command applies.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// All sessions.
    All,
    /// The sessions of the users whose subject, user name or email address is this text.
    Person(String),
}

impl Selection {
    /// Returns true if the selection contains the sessions of this user. Upper and lower case of an
    /// email address are equal.
    pub(super) fn contains(&self, identity: &Identity) -> bool {
        let Self::Person(wanted) = self else {
            return true;
        };
        let is = |claim: &Option<Claim>| claim.as_ref().is_some_and(|it| it.as_str() == wanted);
        let email = identity.email.as_ref();
        is(&identity.subject)
            || is(&identity.preferred_username)
            || email.is_some_and(|email| email.address.as_str().eq_ignore_ascii_case(wanted))
    }
}

/// A reply of the gateway.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Session(SessionLine),
    /// The command has succeeded. `sessions` is the number of sessions that the command has listed
    /// or ended.
    Done {
        sessions: u64,
    },
    /// The explanation of a decision.
    Explained(Box<Explained>),
    /// The command has failed, for this reason.
    Failed(String),
}

/// The description of a session. The description contains no token and no session id.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct SessionLine {
    /// The part of the session key that the log also contains.
    pub(super) key: String,
    pub(super) provider: String,
    pub(super) subject: Option<String>,
    pub(super) user_name: Option<String>,
    pub(super) email: Option<String>,
    /// The browser, the system and the network at the login.
    pub(super) device: Option<String>,
    /// The number of seconds since the login.
    pub(super) opened_ago: u64,
    /// The number of seconds since the last use.
    pub(super) used_ago: u64,
    /// The number of seconds until the session ends, if no request uses the session.
    pub(super) ends_in: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Email;

    #[test]
    fn a_person_is_selected_by_subject_user_name_or_address() {
        let alice = Identity {
            subject: Claim::new("42"),
            preferred_username: Claim::new("alice"),
            email: Claim::new("Alice@example.org").map(|address| Email {
                address,
                verified: false,
            }),
            name: Claim::new("Alice A"),
            ..Identity::nameless("op")
        };
        let selects = |text: &str| Selection::Person(text.to_owned()).contains(&alice);
        for text in ["42", "alice", "alice@EXAMPLE.org"] {
            assert!(selects(text), "{text}");
        }
        for text in ["", "4", "Alice", "Alice A", "alice@example", "op"] {
            assert!(!selects(text), "{text}");
        }
        let nameless = Identity::nameless("op");
        assert!(Selection::All.contains(&nameless));
        assert!(!Selection::Person("op".to_owned()).contains(&nameless));
    }
}
