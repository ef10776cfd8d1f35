//! Tests the authorization request and the token request.

use std::collections::BTreeMap;

use http_body_util::BodyExt as _;
use url::form_urlencoded;

use super::*;

/// Returns the fields and the body of a token request, and the reference request from the test
/// data. The argument `further` contains more settings of the provider, as TOML.
async fn reference_request(further: &str) -> (http::request::Parts, String, serde_json::Value) {
    let files = Files::new();
    let reference = json(&data("reference-request.json"))["request"].take();
    let text = |name: &str| reference["parameters"][name].as_str().unwrap();
    assert_eq!(
        text("client_secret"),
        fs::read_to_string(files.0.path().join("secret"))
            .unwrap()
            .trim()
    );
    let provider = files.provider("laravel-passport-12", "https://id.example", further);
    let code = Secret::new(text("code").to_owned());
    let grant = CodeGrant {
        code: &code,
        code_verifier: None,
        redirect_uri: text("redirect_uri"),
    };
    let info = provider.info().unwrap();
    let uri = info.token.uri();
    let request = provider
        .format
        .redemption(uri, &info.client_auth, &grant, NOW);
    let (parts, body) = request.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts, String::from_utf8(body.to_vec()).unwrap(), reference)
}

#[tokio::test]
async fn the_json_token_request_equals_the_reference() {
    let (parts, body, reference) = reference_request("").await;
    assert_eq!(parts.method.as_str(), reference["method"]);
    assert_eq!(parts.uri.path(), reference["path"]);
    let fields = reference["fields"].as_object().unwrap();
    assert_eq!(parts.headers.len(), fields.len());
    for (name, text) in fields {
        assert_eq!(parts.headers[name], text.as_str().unwrap(), "{name}");
    }
    assert_eq!(json(&body), reference["parameters"]);
}

#[tokio::test]
async fn the_form_token_request_equals_the_reference() {
    let (parts, body, reference) = reference_request("token_request.body = \"form\"").await;
    assert_eq!(
        parts.headers["content-type"],
        "application/x-www-form-urlencoded"
    );
    assert_eq!(parts.headers["accept"], "application/json");
    let sent: Vec<(String, String)> = form_urlencoded::parse(body.as_bytes())
        .into_owned()
        .collect();
    let parameters = reference["parameters"].as_object().unwrap();
    assert_eq!(sent.len(), parameters.len());
    for (name, text) in sent {
        assert_eq!(parameters[&name], text, "{name}");
    }
}

#[tokio::test]
async fn parameters_can_be_renamed_and_added() {
    let further = "token_request.rename = { redirect_uri = \"redirect_url\" }\n\
                   token_request.parameters = { audience = \"https://api.example\" }";
    let (_parts, body, reference) = reference_request(further).await;
    let sent = json(&body);
    assert_eq!(
        sent["redirect_url"],
        reference["parameters"]["redirect_uri"]
    );
    assert_eq!(sent["audience"], "https://api.example");
    assert!(sent.get("redirect_uri").is_none());
}

#[tokio::test]
async fn the_resources_are_repeated_at_the_token_endpoint() {
    let (one, two) = ("https://api.example", "urn:example:b");
    let further = |resources: &str| {
        format!("authorization_request.resource = {resources}\ntoken_request.body = \"form\"")
    };
    let (_parts, body, _reference) =
        reference_request(&further("[\"https://api.example\", \"urn:example:b\"]")).await;
    let sent = form_urlencoded::parse(body.as_bytes()).into_owned();
    let resources = sent.filter(|(name, _value)| name == "resource");
    let resources: Vec<String> = resources.map(|(_name, value)| value).collect();
    assert_eq!(resources, [one, two]);
    for (resources, expected) in [
        (
            "[\"https://api.example\", \"urn:example:b\"]",
            serde_json::json!([one, two]),
        ),
        ("[\"https://api.example\"]", serde_json::json!(one)),
    ] {
        let further = format!(
            "authorization_request.resource = {resources}\n\
             token_request.rename = {{ resource = \"for\" }}"
        );
        let (_parts, body, _reference) = reference_request(&further).await;
        assert_eq!(json(&body)["for"], expected);
    }
}

#[tokio::test]
async fn a_10_the_token_request_has_one_method_of_authentication_and_nothing_in_its_url() {
    let secret = "i0p6Sah1joLy8P1gwkP6ldBQiQZKbcewi9nPEUMp";
    for (method, in_field, in_body) in [
        ("client_secret_post", false, true),
        ("client_secret_basic", true, false),
    ] {
        for body in ["json", "form"] {
            let mut server =
                Server::start([answer("400 Bad Request", "application/json", "{}")]).await;
            let further =
                format!("client_authentication = \"{method}\"\ntoken_request.body = \"{body}\"\n");
            let provider = Files::new().provider("laravel-passport-13", &server.url, &further);
            assert!(redeem(&provider).await.is_err());
            let request = server.next();
            assert_eq!(request.line(), "POST /oauth/token HTTP/1.1");
            assert_eq!(request.field("accept"), ["application/json"]);
            assert_eq!(request.field("accept-encoding"), ["identity"]);
            let name = concat!("sidegate/", env!("CARGO_PKG_VERSION"));
            assert_eq!(request.field("user-agent"), [name]);
            let media_type = match body {
                "json" => "application/json",
                _ => "application/x-www-form-urlencoded",
            };
            assert_eq!(request.field("content-type"), [media_type]);
            assert_eq!(request.field("authorization").len(), usize::from(in_field));
            assert_eq!(request.body.contains(secret), in_body);
            assert!(!request.head.contains(secret));
            assert!(request.body.contains(VERIFIER) && request.body.contains(CODE));
            assert!((43..=128).contains(&VERIFIER.len()));
            assert!(server.has_no_more());
        }
    }
}

#[tokio::test]
async fn a_public_client_sends_its_identifier_and_no_secret() {
    let mut server = Server::start([answer("400 Bad Request", "application/json", "{}")]).await;
    let text = format!(
        "url = \"{}\"\nclient_id = \"3\"\nclient_authentication = \"none\"\n\
         identity.source = \"none\"",
        server.url
    );
    let provider = Provider::new(
        "op",
        &settings("laravel-passport-13", &text),
        &Environment::default(),
    )
    .unwrap();
    assert!(redeem(&provider).await.is_err());
    let sent = json(&server.next().body);
    assert_eq!(
        sent,
        serde_json::json!({
            "grant_type": "authorization_code", "client_id": "3", "code": CODE,
            "code_verifier": VERIFIER, "redirect_uri": REDIRECT_URI,
        })
    );
}

#[tokio::test]
async fn without_pkce_neither_challenge_nor_verifier_is_sent() {
    let mut server = Server::start([answer("400 Bad Request", "application/json", "{}")]).await;
    let provider = Files::new().provider("laravel-passport-13", &server.url, "pkce = false");
    assert!(redeem(&provider).await.is_err());
    assert!(!server.next().body.contains("code_verifier"));
    let url = provider.authorization_url(&REQUEST).unwrap();
    assert!(!url.contains("code_challenge"));
}

const REQUEST: AuthorizationRequest<'_> = AuthorizationRequest {
    redirect_uri: REDIRECT_URI,
    state: "st&te",
    code_challenge: "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
    nonce: "n-0S6_WzA2Mj",
    passed: &[],
    prompt: Prompt::AsNeeded,
};

#[test]
fn a_prompt_for_the_password_replaces_the_configured_one() {
    let further = "authorization_request.prompt = \"consent\"";
    let files = Files::new();
    let provider = files.provider("laravel-passport-13", "https://id.example", further);
    let prompts = |prompt| {
        let url = provider.authorization_url(&AuthorizationRequest { prompt, ..REQUEST });
        let pairs = Url::parse(&url.unwrap()).unwrap();
        let named = pairs.query_pairs().filter(|(name, _)| name == "prompt");
        named
            .map(|(_, value)| value.into_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(prompts(Prompt::AsNeeded), ["consent"]);
    assert_eq!(prompts(Prompt::Login), ["login"]);
}

#[test]
fn a_08_the_authorization_request_has_every_parameter_once() {
    let further = "authorization_endpoint = \"/oauth/authorize?tenant=a%20b\"\n\
                   scopes = [\"read\", \"write\"]\n\
                   authorization_request.prompt = \"consent\"";
    let files = Files::new();
    let provider = files.provider("laravel-passport-13", "https://id.example/sso", further);
    let url = Url::parse(&provider.authorization_url(&REQUEST).unwrap()).unwrap();
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let parameters: BTreeMap<&str, &str> = pairs
        .iter()
        .map(|(name, text)| (&**name, &**text))
        .collect();
    assert_eq!(pairs.len(), parameters.len());
    assert_eq!(
        url.as_str().split('?').next(),
        Some("https://id.example/sso/oauth/authorize")
    );
    let expected = [
        ("client_id", "99adb0aa-17fc-4578-8226-e45e4d3e9156"),
        ("code_challenge", REQUEST.code_challenge),
        ("code_challenge_method", "S256"),
        ("prompt", "consent"),
        ("redirect_uri", REDIRECT_URI),
        ("response_type", "code"),
        ("scope", "read write"),
        ("state", "st&te"),
        ("tenant", "a b"),
    ];
    assert_eq!(parameters, expected.into());
}

/// Returns the parameters of the authorization request to a provider with the settings in
/// `further`.
fn asked(further: &str, request: &AuthorizationRequest<'_>) -> Vec<(String, String)> {
    let files = Files::new();
    let settings = settings(
        "laravel-passport-13",
        &files.operator("https://id.example", further),
    );
    let place = Url::parse("http://id.example//auth?x=%20").unwrap();
    let endpoint = AuthorizationEndpoint::new(&settings, &place).unwrap();
    let url = endpoint.url(request);
    assert!(url.starts_with("http://id.example//auth?x=%20&"), "{url}");
    let url = Url::parse(&url).unwrap();
    url.query_pairs().into_owned().collect()
}

fn named<'a>(asked: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    let of = asked.iter().filter(|(other, _value)| other == name);
    of.map(|(_name, value)| &**value).collect()
}

const OPENID: &str = "identity.source = \"id_token\"\nscopes = [\"openid\", \"email\"]\n";

#[test]
fn a_08_the_nonce_is_sent_if_an_id_token_is_requested() {
    assert_eq!(named(&asked(OPENID, &REQUEST), "nonce"), [REQUEST.nonce]);
    let userinfo = "scopes = [\"openid\"]";
    assert_eq!(named(&asked(userinfo, &REQUEST), "nonce"), [REQUEST.nonce]);
    assert!(named(&asked("scopes = [\"read\"]", &REQUEST), "nonce").is_empty());
}

#[test]
fn a_08_configured_parameters_are_sent_once() {
    let further = format!(
        "{OPENID}[authorization_request]\nresponse_mode = \"form_post\"\nmax_age_secs = 0\n\
         prompt = \"consent\"\nacr_values = [\"gold\", \"urn:silver\"]\n\
         resource = [\"https://a.example\", \"https://b.example/?x=1\"]\n\
         parameters = {{ audience = \"a&b\" }}\n"
    );
    let folder = Files::new();
    let text = folder.operator("https://id.example", "") + &further;
    let settings = settings("laravel-passport-13", &text);
    let place = Url::parse("https://id.example/auth").unwrap();
    let endpoint = AuthorizationEndpoint::new(&settings, &place).unwrap();
    let asked = |request| {
        let url = Url::parse(&endpoint.url(request)).unwrap();
        url.query_pairs().into_owned().collect::<Vec<_>>()
    };
    let first = asked(&REQUEST);
    for (name, expected) in [
        ("scope", "openid email"),
        ("response_mode", "form_post"),
        ("max_age", "0"),
        ("prompt", "consent"),
        ("acr_values", "gold urn:silver"),
        ("audience", "a&b"),
        ("nonce", REQUEST.nonce),
    ] {
        assert_eq!(named(&first, name), [expected], "{name}");
    }
    let resources = ["https://a.example", "https://b.example/?x=1"];
    assert_eq!(named(&first, "resource"), resources);
    let anew = AuthorizationRequest {
        prompt: Prompt::Login,
        ..REQUEST
    };
    assert_eq!(named(&asked(&anew), "prompt"), ["login"]);
    assert_eq!(named(&asked(&anew), "resource"), resources);
}

#[test]
fn a_08_parameters_that_are_not_configured_are_not_sent() {
    let sent = asked("", &REQUEST);
    for name in [
        "acr_values",
        "login_hint",
        "max_age",
        "nonce",
        "prompt",
        "resource",
        "response_mode",
        "scope",
    ] {
        assert!(named(&sent, name).is_empty(), "{name}");
    }
}

#[test]
fn a_11_the_challenge_is_sent_whatever_the_metadata_says() {
    // The gateway does not read the list of PKCE methods in the metadata, so the metadata cannot
    // cause a downgrade.
    let sent = asked("", &REQUEST);
    assert_eq!(named(&sent, "code_challenge"), [REQUEST.code_challenge]);
    assert_eq!(named(&sent, "code_challenge_method"), ["S256"]);
}

/// Returns the values of the parameter `name` in an authorization request. The link to the sign-in
/// endpoint contains the parameter `name` with the value `value`.
fn passed(further: &str, name: &str, value: &str) -> Vec<String> {
    let request = AuthorizationRequest {
        passed: &[(name.to_owned(), value.to_owned())],
        ..REQUEST
    };
    let sent = asked(further, &request);
    let values = named(&sent, name);
    values.into_iter().map(str::to_owned).collect()
}

#[test]
fn a_36_a_passed_parameter_is_short_and_has_no_control_character() {
    let configured = "authorization_request.parameters = { login_hint = \"configured\" }";
    for hint in [
        "alice@example.com",
        "a&state=x#y",
        "fr-CA fr",
        "Zoë",
        &"ü".repeat(256),
    ] {
        assert_eq!(passed("", "login_hint", hint), [hint]);
        assert_eq!(passed(configured, "login_hint", hint), [hint]);
    }
    for bad in [
        "",
        "a\nb",
        "a\0",
        "a\u{85}",
        &"x".repeat(257),
        &"x".repeat(100_000),
    ] {
        assert!(passed("", "login_hint", bad).is_empty(), "{bad:?}");
        assert_eq!(
            passed(configured, "login_hint", bad),
            ["configured"],
            "{bad:?}"
        );
    }
    assert_eq!(passed(configured, "ui_locales", "fr"), [""; 0]);
}

#[test]
fn a_36_only_the_listed_parameters_are_passed_on() {
    let listed = "authorization_request.pass_parameters = [\"ui_locales\", \"kc_idp_hint\"]";
    assert_eq!(passed(listed, "ui_locales", "fr-CA fr"), ["fr-CA fr"]);
    assert_eq!(passed(listed, "kc_idp_hint", "github"), ["github"]);
    for other in ["login_hint", "UI_LOCALES", "ui_locales[]", "claims"] {
        assert!(passed(listed, other, "x").is_empty(), "{other}");
    }
    let none = "authorization_request.pass_parameters = []";
    assert!(passed(none, "login_hint", "alice").is_empty());
    assert_eq!(passed(listed, "state", "x"), [REQUEST.state]);
}
