//! Tests which settings are refused.

use http::{HeaderMap, StatusCode};
use rcgen::PublicKeyData as _;

use super::*;

/// Returns the reason why the gateway refuses settings with the additional keys `further`.
fn refused(files: &Files, further: &str) -> String {
    let settings = settings(
        "laravel-passport-13",
        &files.operator("https://id.example", further),
    );
    let error = Provider::new("op", &settings, &Environment::default()).expect_err(further);
    assert_eq!(
        (error.reason(), error.class().actor),
        ("provider_settings", Actor::Operator)
    );
    chain(&error)
}

/// Asserts that the settings of each case are refused, and that the error names the key.
fn are_refused(cases: &[(&str, &str)]) {
    let files = Files::new();
    for (further, key) in cases {
        let text = refused(&files, further);
        assert!(text.contains(&format!("`{key}`")), "{further}: {text}");
    }
}

#[test]
fn t_10_a_provider_on_another_machine_needs_tls() {
    let metadata = "issuer = \"https://id.example\"\ndiscovery = \"openid\"\n";
    let clear = "\"http://id.example/x\"";
    are_refused(&[
        ("issuer = \"http://id.example\"", "issuer"),
        (&format!("token_endpoint = {clear}"), "token_endpoint"),
        (&format!("userinfo_endpoint = {clear}"), "userinfo_endpoint"),
        (&format!("jwks_uri = {clear}"), "jwks_uri"),
        (
            &format!("authorization_endpoint = {clear}"),
            "authorization_endpoint",
        ),
        (
            &format!("identity.emails_endpoint = {clear}"),
            "identity.emails_endpoint",
        ),
        (
            &format!("identity.groups_endpoints = [{{ endpoint = {clear}, name = [\"x\"] }}]"),
            "identity.groups_endpoints",
        ),
        (&format!("{metadata}metadata_url = {clear}"), "metadata_url"),
        // If the issuer is an https URL, the gateway must not fetch keys without TLS, even with
        // `plain_http = true`.
        (
            &format!("plain_http = true\n{metadata}metadata_url = {clear}"),
            "metadata_url",
        ),
        (
            &format!("plain_http = true\n{metadata}jwks_uri = {clear}"),
            "jwks_uri",
        ),
    ]);
    let files = Files::new();
    let refused = settings(
        "laravel-passport-13",
        &files.operator("http://id.example", ""),
    );
    let text = Provider::new("op", &refused, &Environment::default())
        .unwrap_err()
        .to_string();
    assert!(text.contains("plain_http = true"), "{text}");
    let profile = "laravel-passport-13";
    files.provider(profile, "http://id.example", "plain_http = true");
    files.provider(profile, "http://localhost:8000", "");
    let issuer = "issuer = \"http://id.example\"\nplain_http = true";
    files.provider(profile, "https://id.example", issuer);
}

#[test]
fn an_authorization_request_that_cannot_work_is_named() {
    let parameters = "authorization_request.parameters";
    let resource = "authorization_request.resource";
    let acr_values = "authorization_request.acr_values";
    let passed = "authorization_request.pass_parameters";
    let own = "authorization_request = { prompt = \"login\", parameters = { prompt = \"none\" } }";
    are_refused(&[
        (own, parameters),
        (&format!("{parameters}.prompt = \"none\""), parameters),
        (&format!("{parameters}.redirect_uri = \"x\""), parameters),
        (
            &format!("{parameters}.response_mode = \"fragment\""),
            parameters,
        ),
        (&format!("{parameters}.max_age = \"0\""), parameters),
        (
            &format!("{parameters}.resource = \"https://a.example\""),
            parameters,
        ),
        (&format!("{resource} = [\"/api\"]"), resource),
        (
            &format!("{resource} = [\"https://a.example/#x\"]"),
            resource,
        ),
        (&format!("{acr_values} = [\"gold\"]"), acr_values),
        (&format!("{acr_values} = [\"gold silver\"]"), acr_values),
        (
            "authorization_request.max_age_secs = 60",
            "authorization_request.max_age_secs",
        ),
        (
            "authorization_request.prompt = \"\"",
            "authorization_request.prompt",
        ),
        (
            "authorization_request.prompt = \"none\"",
            "authorization_request.prompt",
        ),
        (
            "authorization_request.prompt = \"login none\"",
            "authorization_request.prompt",
        ),
        (&format!("{passed} = [\"state\"]"), passed),
        (&format!("{passed} = [\"to\"]"), passed),
        (&format!("{passed} = [\"\"]"), passed),
        (&format!("{passed} = [\"{}\"]", "x".repeat(65)), passed),
        ("scopes = [\"read write\"]", "scopes"),
        ("scopes = [\"\"]", "scopes"),
        ("identity.source = \"id_token\"", "scopes"),
    ]);
    for place in [
        "authorization_endpoint = \"oauth/authorize\"",
        "authorization_endpoint = \"/a?state=x\"",
        "authorization_endpoint = \"/a?prompt=none\"",
        "authorization_endpoint = \"/a?login_hint=alice\"",
        "authorization_endpoint = \"/a?x=1\"\nauthorization_request.parameters.x = \"2\"",
    ] {
        are_refused(&[(place, "authorization_endpoint")]);
    }
}

#[test]
fn a_setting_that_cannot_work_is_named() {
    are_refused(&[
        (
            "token_request.parameters.resource = \"https://a.example\"",
            "token_request.parameters",
        ),
        (
            "token_request.parameters.client_assertion = \"x\"",
            "token_request.parameters",
        ),
        (
            "token_request.parameters.client_assertion_type = \"x\"",
            "token_request.parameters",
        ),
        ("token_endpoint = \"file:///etc/passwd\"", "token_endpoint"),
        (
            "token_endpoint = \"https://u:p@id.example/t\"",
            "token_endpoint",
        ),
        (
            "token_request.parameters.client_id = \"x\"",
            "token_request.parameters",
        ),
        (
            "token_request.parameters.grant_type = \"x\"",
            "token_request.parameters",
        ),
        (
            "token_request.rename.audience = \"x\"",
            "token_request.rename",
        ),
        (
            "token_request.rename.code = \"client_id\"",
            "token_request.rename",
        ),
        ("token_request.rename.code = \"\"", "token_request.rename"),
        (
            "token_request.rename.code = \"c\"\ntoken_request.parameters.c = \"x\"",
            "token_request.parameters",
        ),
        ("client_authentication = \"none\"", "client_secret_file"),
        ("identity.source = \"userinfo\"", "userinfo_endpoint"),
        ("errors = [{ meaning = \"fatal\" }]", "errors"),
        ("ca_file = \"/nonexistent/ca.pem\"", "ca_file"),
    ]);
}

#[test]
fn a_missing_or_empty_secret_is_named_with_its_file() {
    let files = Files::new();
    for empty in ["", "\n", "\r\n"] {
        let path = files.write("secret", empty).display().to_string();
        let text = refused(&files, "");
        assert!(
            text.contains("client_secret_file") && text.contains(&path),
            "{text}"
        );
    }
    fs::remove_file(files.0.path().join("secret")).unwrap();
    let text = refused(&files, "");
    assert!(
        text.contains("client_secret_file") && text.contains("secret`)")
            || text.contains("/secret"),
        "{text}"
    );
    let nothing = "url = \"https://id.example\"\nclient_id = \"3\"";
    let error = Provider::new(
        "op",
        &settings("laravel-passport-13", nothing),
        &Environment::default(),
    )
    .unwrap_err();
    assert!(error.to_string().contains("client_secret_file"), "{error}");
}

#[test]
fn line_breaks_at_the_end_and_a_byte_order_mark_are_not_part_of_a_secret() {
    let files = Files::new();
    for (text, secret) in [
        ("s", "s"),
        ("s\n", "s"),
        ("s\r\n", "s"),
        ("s\n\n", "s"),
        ("\u{feff}s\n", "s"),
        ("s p", "s p"),
    ] {
        let path = files.write("x", text);
        assert_eq!(
            secret_file("k", &path).unwrap().expose(),
            secret,
            "{text:?}"
        );
    }
    for text in ["s \n", " s", "s\t", "s\nt\n", "NAME=s\nOTHER=t"] {
        let error = secret_file("k", &files.write("x", text)).unwrap_err();
        assert_eq!(error.key(), "k");
        let problem = error.problem().unwrap();
        assert!(problem.contains("write only the secret"), "{problem}");
    }
}

#[test]
fn a_public_client_without_pkce_is_refused() {
    let text = "url = \"https://id.example\"\nclient_id = \"3\"\nclient_authentication = \"none\"\n\
                pkce = false";
    let error = Provider::new(
        "op",
        &settings("laravel-passport-13", text),
        &Environment::default(),
    )
    .unwrap_err();
    assert!(error.to_string().contains("`pkce`"), "{error}");
}

#[test]
fn a_way_to_send_the_token_to_an_endpoint_that_is_not_called_is_refused() {
    let bearer = "identity.userinfo_bearer = \"body\"";
    are_refused(&[(bearer, "identity.userinfo_bearer")]);
}

/// Returns a PKCS#1 key with the given modulus and exponent, without a check of the two numbers.
pub(super) fn rsa_pem(modulus: &[u8], exponent: &[u8]) -> String {
    let length = |length: usize| match u8::try_from(length) {
        Ok(short @ ..=127) => vec![short],
        _ => [&[0x82][..], &u16::try_from(length).unwrap().to_be_bytes()].concat(),
    };
    let tagged = |tag: u8, bytes: &[u8]| [&[tag][..], &length(bytes.len()), bytes].concat();
    // The leading zero makes the modulus a positive number.
    let modulus = tagged(0x02, &[&[0], modulus].concat());
    let content = [modulus, tagged(0x02, exponent)].concat();
    pem("RSA PUBLIC KEY", &tagged(0x30, &content))
}

#[test]
fn j_29_weak_and_mistaken_keys_are_refused_at_start() {
    let files = Files::new();
    let modulus = KEY
        .public_key()
        .modulus()
        .big_endian_without_leading_zero()
        .to_vec();
    let ec = rcgen::KeyPair::generate().unwrap();
    let mut off_the_curve = ec.subject_public_key_info();
    *off_the_curve.last_mut().unwrap() ^= 1;
    for (what, text, reason) in [
        ("1024 bits", rsa_pem(&[0xff; 128], &[1, 0, 1]), "too short"),
        ("2040 bits", rsa_pem(&[0xff; 255], &[1, 0, 1]), "too short"),
        (
            "exponent 1",
            rsa_pem(&modulus, &[1]),
            "too short or not a valid key",
        ),
        ("another family", ec.public_key_pem(), "does not fit any"),
        (
            "off the curve",
            pem("PUBLIC KEY", &off_the_curve),
            "not a valid key",
        ),
        ("a private key", ec.serialize_pem(), "private key"),
        ("two keys", public_pem(&KEY).repeat(2), "not one public key"),
        (
            "a certificate",
            pem("CERTIFICATE", b"x"),
            "not one public key",
        ),
        ("no PEM", "hunter2".to_owned(), "not one public key"),
        ("nothing", "\n".to_owned(), "is empty"),
    ] {
        let path = files.write("public.pem", &text).display().to_string();
        let text = refused(&files, "");
        assert!(
            text.contains(reason) && text.contains(&path),
            "{what}: {text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
    }
    files.write("public.pem", &rsa_pem(&modulus, &[1, 0, 1]));
    files.provider("laravel-passport-13", "https://id.example", "");
    files.write("public.pem", &ec.public_key_pem());
    files.provider(
        "laravel-passport-13",
        "https://id.example",
        "access_token.algorithms = [\"ES256\"]",
    );
}

#[test]
fn an_app_refuses_a_token_by_401_or_as_the_profile_says() {
    let files = Files::new();
    let passport = files.provider("laravel-passport-12", "https://id.example", "");
    let given = "authorization_endpoint = \"/a\"\ntoken_endpoint = \"/t\"";
    let other = files.provider("oauth2", "https://id.example", given);
    let mut to_login = HeaderMap::new();
    to_login.insert("location", "https://app.example/login".parse().unwrap());
    let mut basic = HeaderMap::new();
    basic.insert("www-authenticate", "Basic realm=\"app\"".parse().unwrap());
    let none = HeaderMap::new();
    for (status, headers, by_passport, by_others) in [
        (StatusCode::UNAUTHORIZED, &none, true, true),
        (StatusCode::UNAUTHORIZED, &basic, false, false),
        (StatusCode::FOUND, &to_login, true, false),
        (StatusCode::FOUND, &none, false, false),
        (StatusCode::OK, &to_login, false, false),
        (StatusCode::FORBIDDEN, &none, false, false),
        (StatusCode::INTERNAL_SERVER_ERROR, &none, false, false),
    ] {
        assert_eq!(passport.is_signed_out_answer(status, headers), by_passport);
        assert_eq!(other.is_signed_out_answer(status, headers), by_others);
    }
}

#[test]
fn the_fingerprint_depends_only_on_the_server_and_the_client() {
    let of = |text: &str| {
        let endpoints = "authorization_endpoint = \"/a\"\nidentity.source = \"none\"\n";
        let text = format!("client_authentication = \"none\"\n{endpoints}{text}");
        let provider = Provider::new("op", &settings("oauth2", &text), &Environment::default());
        provider.unwrap().fingerprint()
    };
    let written = [
        "url = \"https://a.example\"\ntoken_endpoint = \"/t\"\nclient_id = \"1\"",
        "url = \"https://b.example\"\ntoken_endpoint = \"/t\"\nclient_id = \"1\"",
        "url = \"https://a.example\"\ntoken_endpoint = \"/u\"\nclient_id = \"1\"",
        "url = \"https://a.example\"\ntoken_endpoint = \"/t\"\nclient_id = \"2\"",
        "url = \"https://a.example\"\ntoken_endpoint = \"/t\"\nclient_id = \"1\"\n\
         issuer = \"https://a.example\"",
    ];
    let distinct: std::collections::HashSet<_> = written.iter().map(|text| of(text)).collect();
    assert_eq!(distinct.len(), written.len());
    let again = format!("scopes = [\"more\"]\ndisplay_name = \"A\"\n{}", written[0]);
    assert_eq!(of(&again), of(written[0]));
    // If an issuer is configured, the endpoints do not change the fingerprint.
    let moved = written[4].replace("\"/t\"", "\"/elsewhere\"");
    assert_eq!(of(&moved), of(written[4]));
}

/// Returns a provider with the name `name` and the settings in `further`.
fn renewed(name: &str, further: &str) -> Provider {
    let text = format!(
        "client_authentication = \"none\"\nurl = \"http://127.0.0.1:1\"\ntoken_endpoint = \"/t\"\n\
         authorization_endpoint = \"/a\"\nidentity.source = \"none\"\n{further}"
    );
    Provider::new(name, &settings("oauth2", &text), &Environment::default()).unwrap()
}

#[test]
fn a_provider_with_the_same_settings_is_kept() {
    let before = Arc::new(renewed("op", "client_id = \"1\""));
    let again = renewed("op", "client_id = \"1\"");
    assert!(before.is_made_from("op", &again.settings));
    assert!(!before.is_made_from("other", &again.settings));
    assert!(Arc::ptr_eq(&again.replacing(&before), &before));
    for (name, further) in [
        ("other", "client_id = \"1\""),
        ("op", "client_id = \"2\""),
        ("op", "client_id = \"1\"\nscopes = [\"more\"]"),
        ("op", "client_id = \"1\"\nid_token.leeway_secs = 31"),
        (
            "op",
            "client_id = \"1\"\nauthorization_request.parameters = { a = \"b\" }",
        ),
        (
            "op",
            "client_id = \"1\"\n[[errors]]\nstatus = 400\nmeaning = \"later\"",
        ),
    ] {
        let other = renewed(name, further);
        assert!(!before.is_made_from(name, &other.settings), "{further}");
        assert!(
            !Arc::ptr_eq(&other.replacing(&before), &before),
            "{further}"
        );
    }
}

#[test]
fn d_26_a_reload_does_not_raise_the_call_rate() {
    let limited = "client_id = \"1\"\ntoken_calls_per_minute = 5";
    let before = Arc::new(renewed("op", limited));
    let code = GrantType::AuthorizationCode;
    for _ in 0..5 {
        before.check_rate((code, NonZeroU32::MIN), NOW).unwrap();
    }
    // One call fails, and the provider asks for a pause of nine seconds.
    let attempt = before.breaker.admit(NOW).unwrap();
    before
        .breaker
        .failed(attempt, NOW, Some(Duration::from_secs(9)), 0.0);
    let changed = format!("{limited}\ndisplay_name = \"A\"");
    let after = renewed("op", &changed).replacing(&before);
    let reason = |provider: &Provider| {
        provider
            .check_rate((code, NonZeroU32::MIN), NOW)
            .map_err(|error| error.reason())
    };
    assert_eq!(reason(&after), Err("token_calls_limited"));
    assert!(after.breaker.check(NOW).is_err());
    // If the client identifier or the name changes, the new provider does not share the limiter or
    // the breaker of the old provider.
    for other in [
        renewed("op", &changed.replace("\"1\"", "\"2\"")),
        renewed("other", &changed),
    ] {
        let other = other.replacing(&before);
        assert_eq!(reason(&other), Ok(()));
        assert!(other.breaker.check(NOW).is_ok());
    }
}
