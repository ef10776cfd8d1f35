//! Tests which access tokens are accepted and which are refused.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{RSA_PKCS1_SHA512, RSA_PSS_SHA256};

use super::*;
use crate::provider::access_token::refuse_unused;

pub(super) fn verifier(further: &str) -> AccessTokenVerifier {
    let files = Files::new();
    let operator = files.operator("https://id.example", further);
    let verifier = AccessTokenVerifier::new(&settings("laravel-passport-12", &operator));
    verifier.unwrap().unwrap()
}

pub(super) fn reason(verifier: &AccessTokenVerifier, token: &str) -> &'static str {
    verifier
        .verify(token, NOW)
        .map_or_else(|error| error.reason(TokenKind::AccessToken), |_claims| "ok")
}

fn under(header: &str) -> &'static str {
    let payload = reference_payload().to_string();
    let token = signed_by(&KEY, &RSA_PKCS1_SHA256, header, payload.as_bytes());
    reason(&verifier(""), &token)
}

#[test]
fn the_payload_of_the_reference_is_accepted() {
    let token = signed(&reference_payload().to_string());
    let claims = verifier("").verify(&token, NOW).unwrap();
    assert_eq!(
        claims.members["sub"],
        "612e7ed8-da26-4c9f-8247-5559b82de328"
    );
    assert_eq!(claims.expires_at.as_millis(), 1_752_871_693_216);
}

#[test]
fn the_token_of_the_reference_is_refused_because_its_key_is_not_ours() {
    let token = json(&data("reference-response.json"))["access_token"].take();
    assert_eq!(
        reason(&verifier(""), token.as_str().unwrap()),
        "access_token_signature"
    );
}

#[test]
fn j_01_to_08_the_token_does_not_choose_its_algorithm() {
    for alg in [
        "\"none\"",
        "\"None\"",
        "\"nOnE\"",
        "\"\"",
        "null",
        "[\"RS256\"]",
        "\"rs256\"",
        "\"RS256 \"",
    ] {
        assert_eq!(
            under(&format!("{{\"alg\":{alg}}}")),
            "access_token_algorithm",
            "{alg}"
        );
    }
    assert_eq!(under(r#"{"typ":"JWT"}"#), "access_token_algorithm");
}

#[test]
fn j_10_to_13_a_public_key_is_not_used_as_a_shared_secret() {
    let public = public_pem(&KEY);
    let der: PublicKeyX509Der<'_> = KEY.public_key().as_der().unwrap();
    let pkcs1 = KEY.public_key().as_ref();
    let secret = b"i0p6Sah1joLy8P1gwkP6ldBQiQZKbcewi9nPEUMp";
    for (alg, expected) in [
        ("HS256", "access_token_algorithm"),
        ("RS256", "access_token_signature"),
    ] {
        for key in [public.as_bytes(), der.as_ref(), pkcs1, secret] {
            let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            let header = format!(r#"{{"typ":"JWT","alg":"{alg}"}}"#);
            let payload = reference_payload().to_string();
            let message = format!(
                "{}.{}",
                encode(header.as_bytes()),
                encode(payload.as_bytes())
            );
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes());
            let token = format!("{message}.{}", encode(tag.as_ref()));
            assert_eq!(reason(&verifier(""), &token), expected);
        }
    }
}

#[test]
fn j_14_a_valid_key_with_an_algorithm_that_is_not_allowed_is_refused() {
    let payload = reference_payload().to_string();
    let token = |how, alg: &str| {
        signed_by(
            &KEY,
            how,
            &format!(r#"{{"alg":"{alg}"}}"#),
            payload.as_bytes(),
        )
    };
    let pss = token(&RSA_PSS_SHA256, "PS256");
    assert_eq!(
        reason(&verifier(""), &token(&RSA_PKCS1_SHA512, "RS512")),
        "access_token_algorithm"
    );
    assert_eq!(reason(&verifier(""), &pss), "access_token_algorithm");
    assert_eq!(
        reason(&verifier(""), &token(&RSA_PSS_SHA256, "RS256")),
        "access_token_signature"
    );
    let lenient = verifier("access_token.algorithms = [\"RS256\", \"PS256\"]");
    assert_eq!(reason(&lenient, &pss), "ok");
}

#[test]
fn j_16_to_22_keys_in_the_token_are_not_looked_at() {
    let payload = reference_payload().to_string();
    for member in [
        r#""jwk":{"kty":"RSA","n":"x","e":"AQAB"}"#,
        r#""jku":"http://127.0.0.1:9/jwks""#,
        r#""x5u":"http://127.0.0.1:9/cert""#,
        r#""x5c":["MII="]"#,
        r#""kid":"../../dev/null""#,
    ] {
        let header = format!(r#"{{"typ":"JWT","alg":"RS256",{member}}}"#);
        let token = signed_by(&OTHER_KEY, &RSA_PKCS1_SHA256, &header, payload.as_bytes());
        assert_eq!(
            reason(&verifier(""), &token),
            "access_token_signature",
            "{member}"
        );
    }
    let header = r#"{"typ":"JWT","alg":"RS256","kid":5}"#;
    assert_eq!(under(header), "access_token_header");
}

#[test]
fn any_of_several_keys_may_have_signed() {
    let files = Files::new();
    files.write("new.pem", &public_pem(&OTHER_KEY));
    let mut settings = settings(
        "laravel-passport-13",
        &files.operator("https://id.example", ""),
    );
    let folder = files.0.path();
    settings.access_token.public_key_files =
        vec![folder.join("new.pem"), folder.join("public.pem")];
    let verifier = AccessTokenVerifier::new(&settings).unwrap().unwrap();
    let payload = reference_payload().to_string();
    for key in [&KEY, &OTHER_KEY] {
        let token = signed_by(key, &RSA_PKCS1_SHA256, HEADER, payload.as_bytes());
        assert_eq!(reason(&verifier, &token), "ok");
    }
}

#[test]
fn j_23_to_27_header_members_that_change_the_meaning_are_refused() {
    for member in [
        r#""crit":["exp"]"#,
        r#""crit":["b64"],"b64":false"#,
        r#""crit":[]"#,
        r#""b64":false"#,
        r#""b64":true"#,
        r#""zip":"DEF""#,
        r#""enc":"A256GCM""#,
        r#""cty":"JWT""#,
    ] {
        let outcome = under(&format!(r#"{{"alg":"RS256",{member}}}"#));
        assert_eq!(outcome, "access_token_header", "{member}");
    }
    for (typ, expected) in [
        (r#""JWT""#, "ok"),
        (r#""jwt""#, "ok"),
        (r#""at+jwt""#, "ok"),
        (r#""application/at+jwt""#, "ok"),
        (r#""logout+jwt""#, "access_token_type"),
        (r#""secevent+jwt""#, "access_token_type"),
        (r#""""#, "access_token_type"),
        ("null", "access_token_type"),
        ("5", "access_token_type"),
    ] {
        assert_eq!(
            under(&format!(r#"{{"alg":"RS256","typ":{typ}}}"#)),
            expected,
            "{typ}"
        );
    }
    assert_eq!(under(r#"{"alg":"RS256"}"#), "ok");
}

#[test]
fn j_28_no_byte_of_a_token_can_be_changed() {
    let verifier = verifier("");
    let token = signed(&reference_payload().to_string());
    assert_eq!(reason(&verifier, &token), "ok");
    for position in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert_ne!(reason(&verifier, &changed), "ok", "at {position}");
    }
    let (message, signature) = token.rsplit_once('.').unwrap();
    let other = signed(r#"{"sub":"1"}"#);
    let (_message, of_other) = other.rsplit_once('.').unwrap();
    for signature in [
        "",
        of_other,
        signature.strip_prefix(|_: char| true).unwrap(),
        signature.strip_suffix(|_: char| true).unwrap(),
    ] {
        assert_ne!(reason(&verifier, &format!("{message}.{signature}")), "ok");
    }
}

#[test]
fn j_69_repeated_members_are_refused() {
    let verifier = verifier("");
    let payload = reference_payload().to_string();
    let inner = payload.strip_prefix('{').unwrap();
    for claim in [
        r#""aud":"x""#,
        r#""sub":"17""#,
        r#""exp":9999999999"#,
        r#""\u0073ub":"17""#,
        r#""scopes":[]"#,
    ] {
        let token = signed(&format!("{{{claim},{inner}"));
        assert_eq!(
            reason(&verifier, &token),
            "access_token_malformed",
            "{claim}"
        );
    }
    assert_eq!(
        under(r#"{"alg":"none","alg":"RS256"}"#),
        "access_token_malformed"
    );
    assert_eq!(
        under(r#"{"\u0061lg":"none","alg":"RS256"}"#),
        "access_token_malformed"
    );
}

#[test]
fn j_70_payloads_that_are_not_an_object_are_refused() {
    let verifier = verifier("");
    let payload = reference_payload().to_string();
    let (aud, deep) = (
        "99adb0aa-17fc-4578-8226-e45e4d3e9156",
        "[".repeat(200) + &"]".repeat(200),
    );
    let cases = [
        format!("[1752871693,1689713293,\"17\",\"x\",\"{aud}\"]").into_bytes(),
        b"\"a\"".to_vec(),
        b"5".to_vec(),
        b"".to_vec(),
        format!("{payload}x").into_bytes(),
        format!("\u{feff}{payload}").into_bytes(),
        payload.replace("612e", "\\ud800").into_bytes(),
        [payload.replace('}', ",\"x\":\"").as_bytes(), b"\xff\"}"].concat(),
        payload
            .replace('}', &format!(",\"x\":{deep}}}"))
            .into_bytes(),
    ];
    for payload in cases {
        let token = signed_by(&KEY, &RSA_PKCS1_SHA256, HEADER, &payload);
        let shown = String::from_utf8_lossy(&payload);
        assert_eq!(
            reason(&verifier, &token),
            "access_token_malformed",
            "{shown}"
        );
    }
    assert_eq!(reason(&verifier, &signed("{}")), "access_token_claim");
}

#[test]
fn j_71_a_token_has_exactly_three_parts() {
    let verifier = verifier("");
    let token = signed(&reference_payload().to_string());
    for bad in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        ".".repeat(1_000_000),
        "a".repeat(8_000_000),
        token.rsplit_once('.').unwrap().0.to_owned(),
        format!("{token}."),
        format!("{token}.{token}"),
        format!(".{token}"),
        format!("{{\"payload\":\"{token}\"}}"),
    ] {
        let shown: String = bad.chars().take(20).collect();
        assert_eq!(reason(&verifier, &bad), "access_token_malformed", "{shown}");
    }
}

#[test]
fn j_72_only_canonical_base64url_is_accepted() {
    let verifier = verifier("");
    let token = signed(&reference_payload().to_string());
    for part in 0..3 {
        for change in [
            |part: &str| format!("{part}="),
            |part: &str| format!("{part}=="),
            |part: &str| format!(" {part}"),
            |part: &str| format!("{part}\n"),
            |part: &str| format!("%41{part}"),
            |part: &str| format!("+/{part}"),
        ] {
            let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
            parts[part] = change(&parts[part]);
            assert_eq!(
                reason(&verifier, &parts.join(".")),
                "access_token_malformed"
            );
        }
    }
    // The base64url form of 256 bytes ends with a character that has four unused bits.
    let mut bytes = token.into_bytes();
    let last = bytes.last_mut().unwrap();
    *last = match *last {
        b'A' => b'B',
        b'Q' => b'R',
        b'g' => b'h',
        _ => b'x',
    };
    let changed = String::from_utf8(bytes).unwrap();
    assert_eq!(reason(&verifier, &changed), "access_token_malformed");
}

#[test]
fn an_identity_from_access_tokens_needs_a_public_key() {
    let files = Files::new();
    let mut settings = settings(
        "laravel-passport-13",
        &files.operator("https://id.example", ""),
    );
    settings.access_token.public_key_files.clear();
    let error = Provider::new("op", &settings, &Environment::default()).unwrap_err();
    assert!(
        error.to_string().contains("access_token.public_key_files"),
        "{error}"
    );
}

#[test]
fn checks_of_access_tokens_without_a_key_are_refused() {
    use IdentitySource::{IdToken, Userinfo};
    let files = Files::new();
    let audience = "access_token.audience = \"api\"";
    let issuer = "access_token.issuer = \"https://id.example\"";
    for (source, further, refused) in [
        (Userinfo, "", None),
        (Userinfo, audience, Some("`access_token.audience`")),
        // The issuer of the access token names the issuer of the identity.
        (Userinfo, issuer, None),
        (IdToken, audience, Some("`access_token.audience`")),
        (IdToken, issuer, Some("`access_token.issuer`")),
    ] {
        let text = files.operator("https://id.example", further);
        let mut settings = settings("laravel-passport-13", &text);
        settings.access_token.public_key_files.clear();
        settings.identity.source = source;
        let result = refuse_unused(&settings);
        match (result, refused) {
            (Ok(()), None) => {}
            (Err(error), Some(key)) => assert!(error.to_string().contains(key), "{error}"),
            (result, _) => panic!("{source:?} {further}: {result:?}"),
        }
    }
    // The set-up of a provider refuses the settings, too.
    let mut settings = settings(
        "laravel-passport-13",
        &files.operator("https://id.example", audience),
    );
    settings.access_token.public_key_files.clear();
    settings.identity.source = Userinfo;
    let error = Provider::new("op", &settings, &Environment::default()).unwrap_err();
    assert!(
        error.to_string().contains("access_token.audience"),
        "{error}"
    );
}
