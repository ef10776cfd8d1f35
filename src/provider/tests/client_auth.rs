//! Tests of the client authentication.

use std::collections::BTreeMap;

use aws_lc_rs::encoding::Pkcs8V1Der;
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};
use rcgen::PublicKeyData as _;
use serde_json::Value;

use super::*;
use crate::provider::token::TokenRequest;

const SECRET: &str = "i0p6Sah1joLy8P1gwkP6ldBQiQZKbcewi9nPEUMp";

/// An RSA key that is valid, but has only 1024 bits. The key was made for this test and is used
/// nowhere else.
const SHORT_KEY: &str = include_str!("../../../tests/data/keys/rsa-1024.pem");

fn rsa_key() -> String {
    let der: Pkcs8V1Der<'_> = KEY.as_der().unwrap();
    pem("PRIVATE KEY", der.as_ref())
}

/// Returns settings with the required keys and the keys in `further`.
fn set(further: Value) -> Settings {
    let mut settings = serde_json::json!({ "client_id": "3", "issuer": "https://id.example" });
    let Value::Object(further) = further else {
        panic!("not an object");
    };
    settings.as_object_mut().unwrap().extend(further);
    serde_json::from_value(settings).unwrap()
}

fn client(settings: &Settings, supported: Option<&[&str]>) -> Result<ClientAuth, SetupError> {
    let supported = supported.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
    let supported: Option<Vec<String>> = supported;
    ClientAuth::new(
        settings,
        supported.as_deref(),
        &Credentials::read(settings, &Environment::default())?,
    )
}

/// Returns the names and values of the sent parameters, and the `Authorization` field.
fn sent(client: &ClientAuth) -> BTreeMap<String, String> {
    let request = TokenRequest::new("authorization_code", client, NOW).unwrap();
    let mut sent: BTreeMap<String, String> = request
        .parameters()
        .filter(|(name, _value)| *name != "grant_type")
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    if let Some(value) = &request.authorization {
        assert!(value.is_sensitive());
        sent.insert(
            "authorization".to_owned(),
            value.to_str().unwrap().to_owned(),
        );
    }
    sent
}

/// Returns the authentication method of a client.
fn method(client: &ClientAuth) -> &'static str {
    let sent = sent(client);
    match (sent.get("client_assertion"), sent.get("client_secret")) {
        (Some(jwt), None) if decoded(jwt, 0)["alg"] == "HS256" => "client_secret_jwt",
        (Some(_), None) => "private_key_jwt",
        (None, Some(_)) => "client_secret_post",
        (None, None) if sent.contains_key("authorization") => "client_secret_basic",
        (None, None) => "none",
        (Some(_), Some(_)) => "two",
    }
}

/// Returns a decoded part of a compact JWS.
fn decoded(jwt: &str, part: usize) -> Value {
    let part = jwt.split('.').nth(part).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn is_signed_by(jwt: &str, how: &'static dyn VerificationAlgorithm, key: &[u8]) -> bool {
    let (message, signature) = jwt.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let key = UnparsedPublicKey::new(how, key);
    key.verify(message.as_bytes(), &signature).is_ok()
}

#[test]
fn the_method_is_chosen_from_the_metadata_and_our_credentials() {
    let files = Files::new();
    let (secret, key) = (files.write("s", SECRET), files.write("k.pem", &rsa_key()));
    let with_secret = set(value(&[("client_secret_file", &secret)], None));
    let with_key = set(value(&[], Some(&key)));
    let with_both = set(value(&[("client_secret_file", &secret)], Some(&key)));
    let with_nothing = set(value(&[], None));
    let all = [
        "none",
        "tls_client_auth",
        "client_secret_jwt",
        "client_secret_post",
        "client_secret_basic",
        "private_key_jwt",
    ];
    for (settings, supported, expected) in [
        (&with_secret, None, "client_secret_basic"),
        (&with_secret, Some(&[][..]), "client_secret_basic"),
        (&with_secret, Some(&all), "client_secret_basic"),
        (&with_secret, Some(&all[..4]), "client_secret_post"),
        (&with_secret, Some(&all[..3]), "client_secret_jwt"),
        (&with_key, None, "private_key_jwt"),
        (&with_key, Some(&all), "private_key_jwt"),
        (&with_both, None, "private_key_jwt"),
        (&with_both, Some(&all), "private_key_jwt"),
        (&with_both, Some(&all[..5]), "client_secret_basic"),
    ] {
        let client = client(settings, supported).unwrap();
        assert_eq!(method(&client), expected, "{supported:?}");
    }
    for (settings, supported, key) in [
        // If the secret is missing, the client does not become a public client.
        (&with_nothing, Some(&all[..]), "client_authentication"),
        (&with_secret, Some(&all[..2]), "client_authentication"),
        (&with_secret, Some(&all[5..]), "client_authentication"),
        (&with_key, Some(&all[..5]), "client_authentication"),
        (
            &with_secret,
            Some(&["CLIENT_SECRET_BASIC"][..]),
            "client_authentication",
        ),
        (&with_nothing, Some(&all[1..]), "client_authentication"),
        // If the secret is missing, the client does not become a public client.
        (&with_nothing, None, "client_secret_file"),
    ] {
        let error = client(settings, supported).unwrap_err();
        assert!(error.to_string().contains(key), "{supported:?}: {error}");
    }
}

fn value(files: &[(&str, &PathBuf)], key: Option<&PathBuf>) -> Value {
    let mut value = serde_json::json!({});
    for (name, path) in files {
        value[*name] = serde_json::json!(path);
    }
    if let Some(path) = key {
        value["client_assertion"] = serde_json::json!({ "private_key_file": path });
    }
    value
}

#[test]
fn a_configured_method_is_used_whatever_the_metadata_lists() {
    let files = Files::new();
    let (secret, key) = (files.write("s", SECRET), files.write("k.pem", &rsa_key()));
    let with_secret = value(&[("client_secret_file", &secret)], None);
    let with_key = value(&[], Some(&key));
    for (name, mut settings) in [
        ("client_secret_basic", with_secret.clone()),
        ("client_secret_post", with_secret.clone()),
        ("client_secret_jwt", with_secret),
        ("private_key_jwt", with_key),
    ] {
        settings["client_authentication"] = serde_json::json!(name);
        let client = client(&set(settings), Some(&["none"])).unwrap();
        assert_eq!(method(&client), name);
    }
}

#[test]
fn an_assertion_has_the_claims_of_rfc_7523() {
    let files = Files::new();
    let key = files.write("k.pem", &rsa_key());
    let mut settings = value(&[], Some(&key));
    settings["client_assertion"]["key_id"] = serde_json::json!("ours");
    let client = client(&set(settings), None).unwrap();
    let said = sent(&client);
    assert_eq!(said["client_id"], "3");
    assert_eq!(
        said["client_assertion_type"],
        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    );
    assert_eq!(said.len(), 3);
    let jwt = &said["client_assertion"];
    let header = serde_json::json!({ "typ": "JWT", "alg": "RS256", "kid": "ours" });
    assert_eq!(decoded(jwt, 0), header);
    let mut claims = decoded(jwt, 1);
    let id = claims["jti"].take();
    let id = URL_SAFE_NO_PAD.decode(id.as_str().unwrap()).unwrap();
    assert_eq!(id.len(), 16);
    let expected = serde_json::json!({
        "iss": "3", "sub": "3", "aud": "https://id.example", "jti": null,
        "iat": NOW.as_secs(), "exp": NOW.as_secs() + 60,
    });
    assert_eq!(claims, expected);
    let public = KEY.public_key().as_ref();
    assert!(is_signed_by(jwt, &RSA_PKCS1_2048_8192_SHA256, public));
    let again = sent(&client);
    assert_ne!(
        decoded(&again["client_assertion"], 1)["jti"],
        decoded(jwt, 1)["jti"]
    );
}

#[test]
fn an_assertion_signed_with_the_secret_has_no_key_id() {
    let files = Files::new();
    let settings = serde_json::json!({
        "client_authentication": "client_secret_jwt",
        "client_secret_file": files.write("s", &format!("{SECRET}\n")),
    });
    let said = sent(&client(&set(settings), None).unwrap());
    let jwt = &said["client_assertion"];
    let header = serde_json::json!({ "typ": "JWT", "alg": "HS256" });
    assert_eq!(decoded(jwt, 0), header);
    let (message, tag) = jwt.rsplit_once('.').unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = URL_SAFE_NO_PAD.decode(tag).unwrap();
    assert!(hmac::verify(&key, message.as_bytes(), &tag).is_ok());
    assert!(!said.values().any(|value| value.contains(SECRET)));
}

#[test]
fn adv_cve_2025_27370_an_assertion_is_for_the_configured_issuer() {
    let files = Files::new();
    let key = files.write("k.pem", &rsa_key());
    let audience = |further: Value| {
        let mut settings = value(&[], Some(&key));
        for (name, value) in further.as_object().unwrap() {
            match name.as_str() {
                "audience" => settings["client_assertion"]["audience"] = value.clone(),
                name => settings[name] = value.clone(),
            }
        }
        // The metadata cannot set the audience, because `ClientAuth` receives only the list of
        // methods from the metadata.
        let client = client(&set(settings), Some(&["private_key_jwt"]))?;
        Ok::<_, SetupError>(decoded(&sent(&client)["client_assertion"], 1)["aud"].take())
    };
    let endpoint = "https://id.example/token";
    let named = serde_json::json!({ "token_endpoint": "https://evil.example/token" });
    assert_eq!(audience(named).unwrap(), "https://id.example");
    assert_eq!(
        audience(serde_json::json!({ "audience": endpoint })).unwrap(),
        endpoint
    );
    for none in [
        serde_json::json!({ "issuer": null }),
        serde_json::json!({ "audience": "" }),
        serde_json::json!({ "issuer": "https://id.example/{tenantid}", "tenants": ["one"] }),
    ] {
        let error = audience(none).unwrap_err();
        assert!(
            error.to_string().contains("`client_assertion.audience`"),
            "{error}"
        );
    }
}

#[test]
fn every_kind_of_key_signs_with_its_algorithm() {
    let files = Files::new();
    let signs = |text: &str, algorithm: Option<&str>, name: &str| {
        let mut settings = value(&[], Some(&files.write("k.pem", text)));
        settings["client_assertion"]["algorithm"] = serde_json::json!(algorithm);
        let client = client(&set(settings), None).unwrap();
        let jwt = sent(&client).remove("client_assertion").unwrap();
        let header = serde_json::json!({ "typ": "JWT", "alg": name });
        assert_eq!(decoded(&jwt, 0), header);
        jwt
    };
    let rsa = KEY.public_key().as_ref();
    let jwt = signs(&rsa_key(), None, "RS256");
    assert!(is_signed_by(&jwt, &RSA_PKCS1_2048_8192_SHA256, rsa));
    let jwt = signs(&rsa_key(), Some("PS512"), "PS512");
    assert!(is_signed_by(&jwt, &RSA_PSS_2048_8192_SHA512, rsa));
    let p256 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let jwt = signs(&p256.serialize_pem(), None, "ES256");
    assert!(is_signed_by(
        &jwt,
        &ECDSA_P256_SHA256_FIXED,
        p256.der_bytes()
    ));
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let jwt = signs(&p384.serialize_pem(), Some("ES384"), "ES384");
    assert!(is_signed_by(
        &jwt,
        &ECDSA_P384_SHA384_FIXED,
        p384.der_bytes()
    ));
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let jwt = signs(&ed.serialize_pem(), None, "EdDSA");
    assert!(is_signed_by(&jwt, &ED25519, ed.der_bytes()));
    assert!(!is_signed_by(&jwt, &ED25519, &[0; 32]));
}

#[test]
fn a_private_key_that_cannot_sign_is_named() {
    let files = Files::new();
    let ec = rcgen::KeyPair::generate().unwrap();
    let garbled = rsa_key().replace("MII", "MIJ");
    let encrypted = pem("ENCRYPTED PRIVATE KEY", b"x");
    for (text, algorithm, reason) in [
        (SHORT_KEY, None, "too short"),
        (&*public_pem(&KEY), None, "a public key"),
        (&pem("CERTIFICATE", b"x"), None, "a public key"),
        (&encrypted, None, "encrypted"),
        (
            &pem("EC PRIVATE KEY", b"x"),
            None,
            "openssl pkcs8 -topk8 -nocrypt",
        ),
        (&garbled, None, "PKCS#8"),
        (&rsa_key().repeat(2), None, "not one private key"),
        (SECRET, None, "not one private key"),
        ("\n", None, "is empty"),
        (&rsa_key(), Some("ES256"), "client_assertion.algorithm"),
        (
            &ec.serialize_pem(),
            Some("ES384"),
            "client_assertion.algorithm",
        ),
        (
            &ec.serialize_pem(),
            Some("RS256"),
            "client_assertion.algorithm",
        ),
    ] {
        let path = files.write("k.pem", text);
        let mut settings = value(&[], Some(&path));
        settings["client_assertion"]["algorithm"] = serde_json::json!(algorithm);
        let error = client(&set(settings), None).unwrap_err();
        let shown = chain(&error);
        assert_eq!(
            (error.reason(), error.class().actor),
            ("provider_settings", Actor::Operator)
        );
        assert!(shown.contains(reason), "{reason}: {shown}");
        let key = "client_assertion.private_key_file";
        assert!(
            shown.contains(key) && shown.contains(path.to_str().unwrap()),
            "{shown}"
        );
        assert!(!shown.contains(SECRET), "{shown}");
    }
    let missing = value(&[], Some(&files.0.path().join("nowhere.pem")));
    let shown = client(&set(missing), None).unwrap_err().to_string();
    assert!(
        shown.contains("private_key_file") && shown.contains("nowhere.pem"),
        "{shown}"
    );
}

#[test]
fn credentials_that_do_not_fit_the_method_are_named() {
    let files = Files::new();
    let (secret, key) = (files.write("s", SECRET), files.write("k.pem", &rsa_key()));
    let short = files.write("short", "0123456789012345678901234567890");
    for (name, files, key, expected) in [
        (
            "client_secret_basic",
            &[][..],
            Some(&key),
            "`client_assertion.private_key_file` is given",
        ),
        ("client_secret_post", &[], None, "`client_secret_file`"),
        ("client_secret_jwt", &[], None, "`client_secret_file`"),
        (
            "client_secret_jwt",
            &[("client_secret_file", &short)],
            None,
            "32 bytes",
        ),
        (
            "private_key_jwt",
            &[],
            None,
            "`client_assertion.private_key_file` is missing",
        ),
        (
            "private_key_jwt",
            &[("client_secret_file", &secret)],
            Some(&key),
            "`client_secret_file` is given",
        ),
        (
            "none",
            &[("client_secret_file", &secret)],
            None,
            "`client_secret_file`",
        ),
        (
            "none",
            &[],
            Some(&key),
            "`client_assertion.private_key_file`",
        ),
    ] {
        let mut settings = value(files, key);
        settings["client_authentication"] = serde_json::json!(name);
        let shown = client(&set(settings), None).unwrap_err().to_string();
        assert!(shown.contains(expected), "{name}: {shown}");
    }
}

#[test]
fn changed_credentials_are_noticed() {
    let files = Files::new();
    let secret = files.write("s", SECRET);
    let key = files.write("k.pem", &rsa_key());
    let settings = set(value(&[("client_secret_file", &secret)], Some(&key)));
    let first = Credentials::read(&settings, &Environment::default()).unwrap();
    // The newline at the end of the file is not part of the secret.
    files.write("s", &format!("{SECRET}\n"));
    assert!(!first.differs(&Credentials::read(&settings, &Environment::default()).unwrap()));
    files.write("s", &SECRET.replace('i', "j"));
    let second = Credentials::read(&settings, &Environment::default()).unwrap();
    assert!(first.differs(&second) && second.differs(&first));
    files.write("k.pem", &public_pem(&OTHER_KEY));
    assert!(second.differs(&Credentials::read(&settings, &Environment::default()).unwrap()));
    let less = set(value(&[("client_secret_file", &secret)], None));
    let less = Credentials::read(&less, &Environment::default()).unwrap();
    assert!(second.differs(&less) && less.differs(&second));
    assert!(!format!("{first:?} {:?}", client(&settings, None)).contains(SECRET));
    fs::remove_file(secret).unwrap();
    assert!(Credentials::read(&settings, &Environment::default()).is_err());
}

#[tokio::test]
async fn a_10_an_assertion_is_a_parameter_of_the_body() {
    let files = Files::new();
    let key = files.write("k.pem", &rsa_key());
    for body in ["form", "json"] {
        let mut server = Server::start([answer("400 Bad Request", "application/json", "{}")]).await;
        let text = format!(
            "url = \"{}\"\nclient_id = \"3\"\nissuer = \"https://id.example\"\n\
             client_authentication = \"private_key_jwt\"\nidentity.source = \"none\"\n\
             client_assertion.private_key_file = \"{}\"\ntoken_request.body = \"{body}\"",
            server.url,
            key.display()
        );
        let provider = Provider::new(
            "op",
            &settings("laravel-passport-13", &text),
            &Environment::default(),
        )
        .unwrap();
        assert!(redeem(&provider).await.is_err());
        let request = server.next();
        assert!(request.field("authorization").is_empty());
        let sent: BTreeMap<String, String> = match body {
            "json" => serde_json::from_str(&request.body).unwrap(),
            _ => url::form_urlencoded::parse(request.body.as_bytes())
                .into_owned()
                .collect(),
        };
        assert_eq!(decoded(&sent["client_assertion"], 1)["iss"], "3");
        assert_eq!(sent["client_id"], "3");
        assert!(!sent.contains_key("client_secret") && !request.head.contains("assertion"));
        assert!(server.has_no_more());
    }
}

#[test]
fn a_refused_client_names_its_method_and_the_methods_of_the_metadata() {
    let settings = set(serde_json::json!({ "client_authentication": "none" }));
    for (listed, expected) in [
        (
            Some(&["client_secret_post", "private_key_jwt"][..]),
            "which authenticates with none (the metadata lists client_secret_post, \
             private_key_jwt)",
        ),
        (None, "which authenticates with none: status"),
    ] {
        let refusal = Refusal {
            status: 401,
            code: Some(ErrorCode::InvalidClient),
            description: None,
            hint: None,
        };
        let client = client(&settings, listed).unwrap();
        let error = client.explain(TokenCallError::Misconfigured(refusal));
        assert!(chain(&error).contains(expected), "{}", chain(&error));
    }
}
