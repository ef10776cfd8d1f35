//! Tests of credentials in environment variables.

use serde_json::{Value, json};

use super::*;

const SECRET: &str = "s3cret-canary";

fn environment() -> Environment {
    let variables = [
        ("SECRET", "s3cret-canary\n"),
        ("KEY", "canary key"),
        ("EMPTY", ""),
        ("BLANK", " \n"),
        ("TWO", "canary a\ncanary b"),
    ];
    variables.into_iter().collect()
}

fn set(mut further: Value) -> Settings {
    further["client_id"] = json!("3");
    further["issuer"] = json!("https://id.example");
    serde_json::from_value(further).unwrap()
}

#[test]
fn credentials_in_variables_are_the_same_as_in_files() {
    let files = Files::new();
    let named = json!({
        "client_secret_env": "SECRET", "client_assertion": { "private_key_env": "KEY" },
    });
    let in_files = json!({
        "client_secret_file": files.write("s", SECRET),
        "client_assertion": { "private_key_file": files.write("k", "canary key") },
    });
    let read = Credentials::read(&set(named), &environment()).unwrap();
    let same = Credentials::read(&set(in_files), &Environment::default()).unwrap();
    assert!(!read.differs(&same));
}

#[test]
fn an_unusable_variable_is_named_without_its_value() {
    let secret = |name: &str| json!({ "client_secret_env": name });
    let twice = json!({ "client_secret_env": "SECRET", "client_secret_file": "/secret" });
    let key = json!({ "client_assertion": { "private_key_env": "GONE" } });
    for (settings, key, variable) in [
        (secret("GONE"), "client_secret_env", "GONE"),
        (secret("EMPTY"), "client_secret_env", "EMPTY"),
        (secret("BLANK"), "client_secret_env", "BLANK"),
        (secret("TWO"), "client_secret_env", "TWO"),
        (twice, "client_secret_env", "SECRET"),
        (key, "client_assertion.private_key_env", "GONE"),
    ] {
        let error = Credentials::read(&set(settings), &environment()).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert_eq!(error.key(), key, "{shown}");
        assert!(shown.contains(variable), "{shown}");
        assert!(!shown.contains("canary"), "{shown}");
    }
}

#[test]
fn an_invalid_private_key_names_its_variable() {
    let settings = set(json!({ "client_assertion": { "private_key_env": "TWO" } }));
    let credentials = Credentials::read(&settings, &environment()).unwrap();
    let error = ClientAuth::new(&settings, None, &credentials).unwrap_err();
    let shown = format!("{error} {error:?}");
    assert_eq!(error.key(), "client_assertion.private_key_env");
    assert!(shown.contains("the variable TWO"), "{shown}");
    assert!(!shown.contains("canary"), "{shown}");
}
