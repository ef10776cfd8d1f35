//! Tests the classification of errors. The tables have one row for each variant, and for each case
//! within a variant.

#[path = "class_refresh_tests.rs"]
mod refresh;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::provider::error_response::Refusal;
use crate::provider::jwt::signer::{SigningError, SigningKeyProblem};
use crate::provider::jwt::{KeyProblem, TokenError};
use crate::provider::keys::{KeySetError, SkippedKeys};
use crate::provider::metadata::MetadataError;
use crate::provider::token::ResponseFormatError;
use crate::provider::userinfo::UserinfoError;
use crate::provider::{JsonError, Verdict};
use crate::{origin, tls, token};

/// The classification of an error, in five columns. The first column is the party that is
/// responsible for the error. The second column is the text `passes` if the problem is temporary,
/// and otherwise the text `stays`. The third column states whether the provider may have seen the
/// code or the token. The fourth column is the number of seconds until the next attempt. The fifth
/// column is the consequence for the session if the error occurs in a refresh.
type Row = (Actor, &'static str, Sent, Option<u64>, Verdict);

fn row(class: Classification) -> Row {
    let passes = if class.passes { "passes" } else { "stays" };
    let again = class.retry_after.map(|after| after.as_secs());
    (class.actor, passes, class.sent, again, Verdict::of(class))
}

/// Reads the names of the variants of an enum from the source code of the enum.
fn variants(source: &'static str, name: &str) -> BTreeSet<&'static str> {
    let (_, after) = source.split_once(&format!("pub enum {name} {{\n")).unwrap();
    let (body, _) = after.split_once("\n}").unwrap();
    body.lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|line| line.split([' ', '(', ',']).next().unwrap())
        .collect()
}

/// Checks the classification and the reason code of each error in `rows`, and checks that `rows`
/// contains every variant of the enum.
fn check<E: std::fmt::Debug>(
    (source, name): (&'static str, &str),
    reason: fn(&E) -> &'static str,
    class: fn(&E) -> Classification,
    rows: Vec<(E, &str, Row)>,
) {
    let mut seen = BTreeSet::new();
    for (error, code, expected) in rows {
        assert_eq!(row(class(&error)), expected, "{error:?}");
        assert_eq!(reason(&error), code, "{error:?}");
        let shown = format!("{error:?}");
        seen.insert(shown.split([' ', '(']).next().unwrap().to_owned());
    }
    let seen: BTreeSet<&str> = seen.iter().map(|name| &**name).collect();
    assert_eq!(seen, variants(source, name), "{name}");
}

/// `UNDELIVERED` is the error of a call that never reached the provider. `LOST` is the error of a
/// call that the provider may have processed.
const UNDELIVERED: fn() -> origin::Error = || origin::Error::ConnectTimeout;
const LOST: fn() -> origin::Error = || origin::Error::CallTimeout;

fn refusal() -> Refusal {
    Refusal {
        status: 400,
        code: None,
        description: None,
        hint: None,
    }
}

#[test]
fn setup_errors_are_for_the_operator() {
    let (key, path) = ("key", std::path::PathBuf::from("/file"));
    let expected = (
        Actor::Operator,
        "stays",
        Sent::Nothing,
        None,
        Verdict::OperatorMustAct,
    );
    let errors = vec![
        SetupError::EmptyFile {
            key,
            path: path.clone(),
        },
        SetupError::KeySet {
            key,
            path: path.clone(),
            source: KeySetError::Keys,
        },
        SetupError::Variable {
            key,
            name: "SECRET".into(),
            problem: "is not set",
        },
        SetupError::PrivateKey {
            key,
            place: "key.pem".into(),
            source: SigningKeyProblem::Weak,
        },
        SetupError::PublicKey {
            key,
            path: path.clone(),
            source: KeyProblem::Weak,
        },
        SetupError::Read {
            key,
            path,
            source: io::ErrorKind::NotFound.into(),
        },
        SetupError::Setting {
            key,
            problem: "is wrong",
        },
        SetupError::Trust(tls::Error::NoSystemAuthorities),
    ];
    let rows = errors.into_iter();
    let rows = rows.map(|error| (error, "provider_settings", expected));
    check(
        (include_str!("setup.rs"), "SetupError"),
        SetupError::reason,
        SetupError::class,
        rows.collect(),
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "the table of all errors")]
fn a_provider_that_is_down_is_temporary_and_wrong_metadata_is_not() {
    let passes = (
        Actor::Provider,
        "passes",
        Sent::Nothing,
        None,
        Verdict::Temporary,
    );
    let stays = (
        Actor::Provider,
        "stays",
        Sent::Nothing,
        None,
        Verdict::OperatorMustAct,
    );
    let operators = (
        Actor::Operator,
        "stays",
        Sent::Nothing,
        None,
        Verdict::OperatorMustAct,
    );
    let unavailable = "keys_unavailable";
    let mut rows = vec![
        (KeysError::Call(UNDELIVERED()), unavailable, passes),
        (KeysError::Call(LOST()), unavailable, passes),
        (KeysError::FetchFailedRecently, unavailable, passes),
        (
            KeysError::FetchedRecently {
                retry_after: Duration::from_secs(7),
            },
            unavailable,
            (
                Actor::Provider,
                "passes",
                Sent::Nothing,
                Some(7),
                Verdict::Temporary,
            ),
        ),
        (
            KeysError::Unusable(KeySetError::Keys),
            "keys_malformed",
            stays,
        ),
        (
            KeysError::Unusable(KeySetError::NoUsableKey(SkippedKeys::default())),
            "keys_unusable",
            stays,
        ),
    ];
    for status in [408, 425, 429, 500, 503, 599] {
        rows.push((KeysError::Status(status), unavailable, passes));
    }
    for status in [204, 301, 401, 404, 407, 426] {
        rows.push((KeysError::Status(status), unavailable, stays));
    }
    let source = include_str!("reach.rs");
    let reason = KeysError::reason;
    check((source, "KeysError"), reason, KeysError::class, rows);

    let metadata = |source| ReachError::Metadata {
        url: "https://id.example".into(),
        source,
    };
    let (key, problem) = ("token_endpoint", "is missing");
    let setting = || SetupError::Setting { key, problem };
    let (configured, published) = ("a".into(), "b".into());
    let (name, endpoint) = ("token_endpoint", "metadata_endpoint");
    let rows = vec![
        (
            ReachError::Connect(UNDELIVERED()),
            "provider_unreachable",
            passes,
        ),
        (ReachError::Connect(LOST()), "provider_call_failed", passes),
        (KeysError::FetchFailedRecently.into(), unavailable, passes),
        (KeysError::Status(404).into(), unavailable, stays),
        (
            metadata(MetadataError::Call(UNDELIVERED())),
            "metadata_unreachable",
            passes,
        ),
        (
            metadata(MetadataError::NotJson {
                media_type: "application/json".into(),
                beginning: "[]".into(),
                source: Some(JsonError::NotAnObject),
            }),
            "metadata_malformed",
            passes,
        ),
        (
            metadata(MetadataError::Format(ResponseFormatError::Compressed)),
            "metadata_malformed",
            passes,
        ),
        (
            metadata(MetadataError::Redirect {
                status: 302,
                target: "https://id.example/login".into(),
            }),
            "metadata_status",
            stays,
        ),
        (
            metadata(MetadataError::Status(503)),
            "metadata_status",
            passes,
        ),
        (
            metadata(MetadataError::Status(404)),
            "metadata_status",
            stays,
        ),
        (
            metadata(MetadataError::Endpoint { name, problem }),
            endpoint,
            stays,
        ),
        (
            metadata(MetadataError::Issuer {
                configured,
                published,
            }),
            "metadata_issuer",
            stays,
        ),
        (
            metadata(MetadataError::Member("issuer")),
            "metadata_malformed",
            stays,
        ),
        (NotReady.into(), "metadata_missing", passes),
        (setting().into(), "provider_settings", operators),
    ];
    let reason = ReachError::reason;
    check((source, "ReachError"), reason, ReachError::class, rows);
}

#[test]
fn an_unreachable_provider_has_the_class_of_its_cause_and_a_retry_time() {
    let out_of_reach = |cause: Option<ReachError>| Unreachable {
        retry_after: Duration::from_secs(3),
        cause: cause.map(Arc::new),
    };
    let (key, problem) = ("token_endpoint", "is missing");
    for (cause, reason, actor, passes) in [
        (None, "provider_unreachable", Actor::Provider, "passes"),
        (
            Some(ReachError::Connect(LOST())),
            "provider_call_failed",
            Actor::Provider,
            "passes",
        ),
        (
            Some(KeysError::Status(404).into()),
            "keys_unavailable",
            Actor::Provider,
            "stays",
        ),
        (
            Some(SetupError::Setting { key, problem }.into()),
            "provider_settings",
            Actor::Operator,
            "stays",
        ),
    ] {
        let error = Error::from(out_of_reach(cause));
        let (who, whether, sent, again, _verdict) = row(error.class());
        assert_eq!((error.reason(), who, whether), (reason, actor, passes));
        assert_eq!((sent, again), (Sent::Nothing, Some(3)), "{error:?}");
    }
    let silent = Unreachable::silent(Duration::from_secs(5)).class();
    assert_eq!(silent.retry_after, Some(Duration::from_secs(5)));
}

#[test]
fn a_response_from_another_issuer_is_an_error_of_the_provider() {
    let rows = vec![
        (
            ResponseError::Issuer,
            "response_issuer",
            (
                Actor::Provider,
                "stays",
                Sent::Nothing,
                None,
                Verdict::OperatorMustAct,
            ),
        ),
        (
            NotReady.into(),
            "metadata_missing",
            (
                Actor::Provider,
                "passes",
                Sent::Nothing,
                None,
                Verdict::Temporary,
            ),
        ),
    ];
    let source = (include_str!("mod.rs"), "ResponseError");
    check(source, ResponseError::reason, ResponseError::class, rows);
}
