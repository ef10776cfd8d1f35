//! Tests which errors of a refresh end a session.

use super::*;

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
            Call::TooManyCodes,
            "too_many_codes",
            passing(Sent::Nothing, Some(1)),
        ),
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
