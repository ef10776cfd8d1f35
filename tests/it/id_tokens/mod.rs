//! Hundreds of ID tokens that an attacker or a defective server could send, each in its own login
//! (`tests/data/id_tokens.txt`).

mod publish;
mod row;
mod shape;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::json;

use self::row::{Expected, Row, Words};
use sidegate::clock::Clock;

use crate::support::openid::OpenIdScene;
use crate::support::provider::{Draft, Endpoint, Keys, StandIn, left_half};
use crate::support::scene::{SESSION, url};
use crate::support::upstream::RecordingUpstream;

/// Runs the rows with these numbers. Each row is a login in a new browser.
async fn run(numbers: RangeInclusive<u32>, keys: &[(&str, &str)]) {
    let attacker = RecordingUpstream::start().await;
    let words = Words {
        attacker: attacker.url(),
    };
    let rows = Row::all();
    let rows: Vec<&Row> = rows
        .iter()
        .filter(|row| numbers.contains(&row.number))
        .collect();
    assert!(!rows.is_empty(), "{numbers:?}");
    let shared = OpenIdScene::with(keys).await;
    for row in rows {
        if row.needs_its_own_gateway() {
            let order = |provider: &_| row.order(provider, &words);
            check_row(&OpenIdScene::prepared(keys, order).await, row).await;
        } else {
            shared.provider.behave();
            row.order(&shared.provider, &words);
            check_row(&shared, row).await;
        }
    }
    assert_eq!(
        attacker.connections(),
        0,
        "a token caused a call to its own URL"
    );
    // After all these tokens, the gateway still lets users sign in.
    shared.provider.behave();
    shared.signed_in("alice").await;
}

async fn check_row(scene: &OpenIdScene, row: &Row) {
    let context = row.describe();
    let attempt = scene.attempt().await;
    match &row.expected {
        Expected::SignedIn(fields) => {
            attempt.assert_signed_in(&context).await;
            for (field, value) in fields {
                let arrived = scene.asserted(field);
                let arrived = arrived.as_deref().unwrap_or("-");
                assert_eq!(arrived, value, "{context}: {field}");
            }
        }
        Expected::Refused(reason) => {
            let shown = attempt.reason().unwrap_or_default();
            attempt.assert_refused(&format!("502 {shown} or 503 {shown}"), &context);
            // The gateway fetches keys for unknown keys only once a minute.
            let limited = reason == "_unknown_key" && shown == "keys_unavailable";
            assert!(
                limited || shown.ends_with(reason),
                "{context}: {shown:?}, not {reason:?}"
            );
            // Only the rows about the userinfo reach the userinfo endpoint.
            let asked = attempt.calls(Endpoint::Userinfo);
            assert_eq!(asked, usize::from(row.number == 77), "{context}");
        }
    }
}

const WITHOUT_USERINFO: (&str, &str) = ("identity.userinfo", "false");

#[test]
fn the_corpus_has_three_hundred_rows_of_every_id() {
    let rows = Row::all();
    assert!(rows.len() >= 300, "{}", rows.len());
    let ids: BTreeSet<u32> = rows.iter().map(|row| row.number).collect();
    // The tests of refreshes contain the row J-80.
    assert_eq!(ids, (1..=79).collect());
}

#[tokio::test]
async fn every_row_can_be_carried_out() {
    let clock = Clock::manual(Clock::system().now());
    let provider = StandIn::at_time_of(&clock).await;
    let words = Words {
        attacker: "http://attacker.example".to_owned(),
    };
    let honest = Draft {
        header: json!({ "alg": "RS256", "kid": Keys::first().kid("RS256") }),
        claims: json!({
            "iss": provider.url(), "sub": "alice", "aud": "3", "nonce": "a-nonce",
            "iat": 1_800_000_000, "exp": 1_800_003_600, "auth_time": 1_800_000_000,
            "at_hash": left_half("RS256", "alice.1"),
        }),
        keys: Keys::first(),
        access_token: "alice.1".to_owned(),
        code: "a-code".to_owned(),
    };
    let mut seen = BTreeSet::new();
    for row in Row::all() {
        provider.behave();
        row.order(&provider, &words);
        let token = row.forge(&honest, &words);
        let context = row.describe();
        // A refused token must differ from a valid token.
        let refused = matches!(row.expected, Expected::Refused(_));
        if refused && row.changes_the_token() {
            assert_ne!(token, honest.signed(), "{context}");
        }
        assert!(
            seen.insert(row.steps_as_written()),
            "{context} is there twice"
        );
    }
}

#[tokio::test]
async fn j_01_j_13_the_token_does_not_choose_how_it_is_checked() {
    run(1..=13, &[]).await;
}

#[tokio::test]
async fn j_14_an_algorithm_outside_the_list_is_refused_whatever_the_key() {
    run(14..=14, &[("id_token.algorithms", "[\"RS256\"]")]).await;
}

#[tokio::test]
async fn j_15_j_22_only_published_keys_are_used() {
    run(15..=22, &[]).await;
}

#[tokio::test]
async fn j_23_j_27_header_members_that_change_the_processing_are_refused() {
    run(23..=27, &[]).await;
}

#[tokio::test]
async fn j_28_a_signature_is_valid_only_for_its_own_header_and_claims() {
    run(28..=28, &[]).await;
}

#[tokio::test]
async fn j_28_a_token_with_one_changed_character_is_refused_at_every_position() {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let scene = OpenIdScene::new().await;
    let short = |draft: &Draft| {
        let mut draft = draft.clone();
        draft.header = json!({ "alg": "EdDSA" });
        draft.claims.as_object_mut().unwrap().remove("at_hash");
        draft.signed()
    };
    let flipped = move |draft: &Draft, at: usize| {
        let mut token = short(draft).into_bytes();
        let known = ALPHABET.iter().position(|byte| *byte == token[at]);
        // The next character of the base64url alphabet differs in the lowest bit.
        token[at] = known.map_or(b'A', |index| ALPHABET[index ^ 1]);
        String::from_utf8(token).unwrap()
    };
    scene.provider.id_token_by(move |draft| Some(short(draft)));
    scene.signed_in("alice").await;
    let length = {
        let (sender, receiver) = std::sync::mpsc::channel();
        scene.provider.id_token_by(move |draft| {
            sender.send(short(draft).len()).unwrap();
            Some(short(draft))
        });
        scene.signed_in("alice").await;
        receiver.recv().unwrap()
    };
    assert!(length > 300, "{length}");
    for at in 0..length {
        scene
            .provider
            .id_token_by(move |draft| Some(flipped(draft, at)));
        let attempt = scene.attempt().await;
        attempt.assert_not_believed(&format!("character {at} of {length}"), "");
    }
}

#[tokio::test]
async fn j_28_parts_of_two_valid_tokens_do_not_mix() {
    let scene = OpenIdScene::new().await;
    let earlier = std::sync::Arc::new(tokio::sync::watch::Sender::new(String::new()));
    let keep = std::sync::Arc::clone(&earlier);
    scene.provider.id_token_by(move |draft| {
        keep.send_replace(draft.signed());
        Some(draft.signed())
    });
    scene.signed_in("alice").await;
    let earlier = earlier.borrow().clone();
    // A complete token of an earlier login has another nonce.
    for (mask, reason) in [
        ([true, true, true], "_nonce"),
        ([false, false, true], "_signature"),
        ([false, true, false], "_signature"),
        ([false, true, true], "_nonce"),
        ([true, true, false], "_signature"),
    ] {
        let earlier = earlier.clone();
        scene.provider.id_token_by(move |draft| {
            let own = draft.signed();
            let parts = own.split('.').zip(earlier.split('.')).zip(mask);
            let parts: Vec<&str> = parts
                .map(|((own, old), is_old)| if is_old { old } else { own })
                .collect();
            Some(parts.join("."))
        });
        let attempt = scene.attempt().await;
        attempt.assert_not_believed(&format!("{mask:?}"), reason);
    }
}

#[tokio::test]
async fn j_29_keys_not_meant_for_signatures_verify_nothing() {
    run(29..=29, &[]).await;
}

#[tokio::test]
async fn j_30_j_40_the_issuer_is_exactly_ours() {
    run(30..=40, &[WITHOUT_USERINFO]).await;
}

#[tokio::test]
async fn j_41_j_50_j_52_j_53_the_audience_must_be_our_client_alone() {
    run(41..=50, &[WITHOUT_USERINFO]).await;
    run(52..=53, &[WITHOUT_USERINFO]).await;
}

#[tokio::test]
async fn j_51_another_audience_is_accepted_when_it_is_trusted_and_we_are_the_authorized_party() {
    run(
        51..=51,
        &[WITHOUT_USERINFO, ("id_token.audiences", "[\"other\"]")],
    )
    .await;
}

#[tokio::test]
async fn j_54_j_63_a_token_must_have_an_expiry_in_the_future() {
    run(54..=63, &[WITHOUT_USERINFO]).await;
}

#[tokio::test]
async fn j_64_a_token_with_a_very_late_expiry_opens_a_session_that_still_ends() {
    run(64..=64, &[WITHOUT_USERINFO]).await;
    let scene = OpenIdScene::with(&[WITHOUT_USERINFO]).await;
    // 1 January 9999.
    scene
        .provider
        .tamper_claims(|claims| claims["exp"] = 253_370_764_800_u64.into());
    scene.provider.tamper_token_response(|body| {
        body.as_object_mut().unwrap().remove("expires_in");
    });
    let browser = scene.signed_in("alice").await;
    // The session is used regularly, so that the idle deadline does not end the session.
    for _ in 0..3 {
        scene.gateway.advance(Duration::from_hours(7));
        assert_eq!(browser.fetch(&url("/")).await.text(), "seen");
    }
    scene.gateway.advance(Duration::from_hours(4));
    assert_eq!(browser.fetch(&url("/")).await.status, 401);
}

#[tokio::test]
async fn j_65_j_67_a_token_from_the_future_is_refused() {
    run(65..=67, &[WITHOUT_USERINFO]).await;
}

#[tokio::test]
async fn j_68_j_69_the_subject_is_valid_and_no_claim_is_repeated() {
    run(68..=69, &[WITHOUT_USERINFO]).await;
}

#[tokio::test]
async fn j_70_j_73_anything_but_a_compact_jws_is_refused() {
    run(70..=73, &[]).await;
}

#[tokio::test]
async fn j_74_hashes_in_the_token_must_match() {
    run(74..=74, &[WITHOUT_USERINFO]).await;
}

#[tokio::test]
async fn j_75_j_76_claims_reach_the_app_unchanged_or_not_at_all() {
    run(75..=76, &[WITHOUT_USERINFO]).await;
}

#[tokio::test]
async fn j_75_an_unverified_address_opens_no_route_of_its_domain() {
    for (verified, status) in [
        (json!(true), 200),
        (json!(false), 403),
        (json!("true"), 403),
        (json!(1), 403),
        (json!(null), 403),
    ] {
        let scene = OpenIdScene::with(&[WITHOUT_USERINFO]).await;
        let value = verified.clone();
        scene.provider.tamper_claims(move |claims| {
            claims["email"] = "alice@example.com".into();
            claims["email_verified"] = value.clone();
        });
        let browser = scene.signed_in("alice").await;
        let page = browser.fetch(&url("/team")).await;
        assert_eq!(page.status, status, "{verified}");
    }
}

#[tokio::test]
async fn j_77_userinfo_must_name_the_same_subject_and_is_verified_like_a_token() {
    run(77..=77, &[]).await;
}

#[tokio::test]
async fn j_78_tokens_of_another_type_sign_nobody_in() {
    run(78..=78, &[]).await;
}

#[tokio::test]
async fn j_79_key_sets_are_read_key_by_key_and_within_bounds() {
    run(79..=79, &[]).await;
}

#[tokio::test]
async fn j_79_f_06_the_last_good_keys_outlive_an_outage_and_bad_ones_do_not_replace_them() {
    let scene = OpenIdScene::new().await;
    scene.signed_in("alice").await;
    let (keys, nothing) = (Keys::first().jwks(), json!({ "keys": [] }));
    for (status, kind, body) in [
        (500, "text/plain", String::new()),
        (404, "text/html", "<h1>not here</h1>".to_owned()),
        (200, "text/html", "<h1>maintenance</h1>".to_owned()),
        (200, "application/json", nothing.to_string()),
        (200, "application/json", format!("{keys}{keys}")),
    ] {
        scene.provider.raw(Endpoint::Jwks, status, kind, &body);
        // The time after which the gateway reads metadata and keys again.
        scene.gateway.advance(Duration::from_hours(2));
        scene.signed_in("alice").await;
    }
}

#[tokio::test]
async fn j_79_d_24_an_unknown_key_id_causes_one_key_fetch_a_minute() {
    let scene = OpenIdScene::new().await;
    scene.signed_in("alice").await;
    assert_eq!(scene.provider.calls(Endpoint::Jwks), 1);
    scene
        .provider
        .tamper_header(|header| header["kid"] = "unheard-of".into());
    for minute in 1..=3 {
        let attempt = scene.attempt().await;
        attempt.assert_not_believed("an unknown key", "_unknown_key");
        for _ in 1..30 {
            let attempt = scene.attempt().await;
            attempt.assert_refused("503 keys_unavailable", "a second unknown key");
        }
        let fetched = scene.provider.calls(Endpoint::Jwks);
        assert_eq!(fetched, 1 + minute, "minute {minute}");
        scene.gateway.advance(Duration::from_secs(61));
    }
    // A login with a known key does not wait for the other logins.
    scene.provider.behave();
    let browser = scene.signed_in("alice").await;
    assert!(browser.cookie(&url("/"), SESSION).is_some());
}
