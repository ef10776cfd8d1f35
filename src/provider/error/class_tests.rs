//! Tests the classification of errors. The tables have one row for each variant, and for each case
//! within a variant.

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

#[test]
#[expect(clippy::too_many_lines, reason = "the table of all errors")]
fn g_07_only_a_refused_refresh_token_ends_a_session() {
    use TokenCallError as Call;
    let passing = |sent, again| (Actor::Provider, "passes", sent, again, Verdict::Temporary);
    let operators = |sent| {
        (
            Actor::Operator,
            "stays",
            sent,
            None,
            Verdict::OperatorMustAct,
        )
    };
    let over = (
        Actor::Client,
        "stays",
        Sent::Possibly,
        None,
        Verdict::GrantEnded,
    );
    let seven = Duration::from_secs(7);
    let signing = SigningError::Signature;
    let rows = vec![
        (
            Call::MalformedResponse(ResponseFormatError::MediaType),
            "token_response_malformed",
            passing(Sent::Possibly, None),
        ),
        (
            Call::Assertion(signing),
            "client_assertion",
            operators(Sent::Nothing),
        ),
        (Call::Busy, "provider_busy", passing(Sent::Nothing, None)),
        (
            Call::Call(UNDELIVERED()),
            "provider_unreachable",
            passing(Sent::Undelivered, None),
        ),
        (
            Call::Call(LOST()),
            "provider_call_failed",
            passing(Sent::Possibly, None),
        ),
        (Call::CodeRefused(refusal()), "code_refused", over),
        (
            Call::BreakerOpen { retry_after: seven },
            "provider_left_alone",
            passing(Sent::Nothing, Some(7)),
        ),
        (
            Call::Misconfigured(refusal()),
            "client_refused",
            operators(Sent::Possibly),
        ),
        (
            Call::UnlistedRefusal(refusal()),
            "client_refused",
            operators(Sent::Possibly),
        ),
        (
            Call::ClientRefused {
                authentication: "client_secret_basic".into(),
                refusal: refusal(),
            },
            "client_refused",
            operators(Sent::Possibly),
        ),
        (
            Call::NoRefreshToken,
            "no_refresh_token",
            operators(Sent::Nothing),
        ),
        (
            NotReady.into(),
            "metadata_missing",
            passing(Sent::Nothing, None),
        ),
        (
            Call::RateLimited { retry_after: seven },
            "token_calls_limited",
            (
                Actor::Operator,
                "passes",
                Sent::Nothing,
                Some(7),
                Verdict::Temporary,
            ),
        ),
        (
            Call::Redirected { status: 302 },
            "token_endpoint_redirected",
            operators(Sent::Possibly),
        ),
        (Call::RefreshRefused(refusal()), "refresh_refused", over),
        (
            Call::Throttled { retry_after: None },
            "provider_throttled",
            passing(Sent::Possibly, None),
        ),
        (
            Call::Throttled {
                retry_after: Some(seven),
            },
            "provider_throttled",
            passing(Sent::Possibly, Some(7)),
        ),
        (
            Call::Unavailable {
                retry_after: Some(seven),
                refusal: refusal(),
            },
            "provider_unavailable",
            passing(Sent::Possibly, Some(7)),
        ),
    ];
    let source = (include_str!("token_call.rs"), "TokenCallError");
    check(source, Call::reason, Call::class, rows);
}

#[test]
#[expect(clippy::too_many_lines, reason = "the table of all errors")]
fn an_invalid_grant_response_ends_a_session_only_if_it_is_about_another_person() {
    let stays = (
        Actor::Provider,
        "stays",
        Sent::Possibly,
        None,
        Verdict::OperatorMustAct,
    );
    let passes = (
        Actor::Provider,
        "passes",
        Sent::Possibly,
        None,
        Verdict::Temporary,
    );
    let over = (
        Actor::Client,
        "stays",
        Sent::Possibly,
        None,
        Verdict::GrantEnded,
    );
    let failed = "userinfo_failed";
    let userinfo = |source| GrantError::Userinfo {
        url: "https://id.example/userinfo".into(),
        source,
    };
    let rows = vec![
        (
            GrantError::AccessToken(TokenError::Audience),
            "access_token_audience",
            stays,
        ),
        (
            GrantError::IdToken(TokenError::Nonce),
            "id_token_nonce",
            stays,
        ),
        (
            KeysError::FetchFailedRecently.into(),
            "keys_unavailable",
            passes,
        ),
        (KeysError::Status(404).into(), "keys_unavailable", stays),
        (
            KeysError::Unusable(KeySetError::Keys).into(),
            "keys_malformed",
            stays,
        ),
        (GrantError::NoIdToken, "no_id_token", stays),
        (
            GrantError::NoSubject {
                claim: "sub".into(),
            },
            "no_subject",
            stays,
        ),
        (NotReady.into(), "metadata_missing", passes),
        (GrantError::OtherUser, "refresh_of_other_person", over),
        (GrantError::OtherSubject, "userinfo_subject", stays),
        (
            GrantError::SignedUserinfo(TokenError::Audience),
            "userinfo_audience",
            stays,
        ),
        (
            GrantError::Token(token::Error::Malformed),
            "token_unusable",
            stays,
        ),
        (
            GrantError::Groups("https://id.test/orgs".into(), UserinfoError::Status(403)),
            "groups_failed",
            passes,
        ),
        (userinfo(UserinfoError::Call(LOST())), failed, passes),
        (userinfo(UserinfoError::Status(503)), failed, passes),
        (userinfo(UserinfoError::Status(401)), failed, stays),
        (
            userinfo(UserinfoError::Json(JsonError::NotAnObject)),
            failed,
            stays,
        ),
        (
            userinfo(UserinfoError::MediaType(ResponseFormatError::MediaType)),
            failed,
            stays,
        ),
        (userinfo(UserinfoError::NextPage), failed, stays),
        (userinfo(UserinfoError::Signed), failed, stays),
        (userinfo(UserinfoError::Text), failed, stays),
    ];
    let source = (include_str!("grant.rs"), "GrantError");
    check(source, GrantError::reason, GrantError::class, rows);
}
