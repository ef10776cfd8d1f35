//! Converts the fields that an app gets: assertion fields, tokens and passwords.

use super::Grade;
use super::alpha::{Header, HeaderValue, SecretSource};
use super::app::Apps;
use super::convert::Import;
use super::document::{self, Value};
use super::provider;

/// The keys of an upstream, each with the name of its option.
type Keys = Vec<(String, Value, String)>;

/// The assertion fields with their default names.
const FIELDS: [(&str, &str); 4] = [
    ("user", "User"),
    ("email", "Email"),
    ("preferred_username", "Preferred-Username"),
    ("groups", "Groups"),
];

/// Converts the fields. A route for auth checks has no upstream, so its keys are in the route.
pub(super) fn convert(import: &mut Import, apps: &mut Apps) {
    let request = import.given.alpha.request_headers.take();
    let response = std::mem::take(&mut import.given.alpha.response_headers);
    let keys = match (request, apps.only_checks) {
        (_, true) if !response.is_empty() => of_alpha(import, &response),
        (Some(headers), _) => {
            if !response.is_empty() {
                let text = "The answers of Sidegate to the browser contain no fields about the \
                            user.";
                import.remark("injectResponseHeaders", Grade::Lost, text);
            }
            of_alpha(import, &headers)
        }
        (None, _) => of_flags(import, apps),
    };
    for app in &mut apps.list {
        app.keys.extend(keys.iter().cloned());
        if !apps.only_checks {
            let header = format!("upstreams.{}", app.name);
            import.document.add_table(&header, app.keys.clone());
        }
    }
}

/// Names an assertion field. An empty name turns the field off.
fn name_field(import: &mut Import, key: &str, name: &str, from: &str) {
    import.set(&format!("assertions.{key}"), Value::text(name), from);
}

fn of_flags(import: &mut Import, apps: &Apps) -> Keys {
    let only_checks = apps.only_checks;
    let pass_basic = import.flag("pass-basic-auth", true);
    let set_basic = import.flag("set-basic-auth", false);
    let sets_fields = import.flag("set-xauthrequest", false);
    if apps.keeps_auth_path {
        // The endpoint has fixed names for its fields.
    } else if only_checks && sets_fields {
        let from = import.written("set-xauthrequest");
        for (key, name) in FIELDS {
            name_field(import, key, &format!("X-Auth-Request-{name}"), &from);
        }
    } else if !pass_basic && !import.flag("pass-user-headers", true) {
        let from = import.written("pass-user-headers");
        for (key, _) in FIELDS {
            name_field(import, key, "", &from);
        }
    } else {
        convert_user(import);
    }
    if sets_fields && !only_checks {
        let text = "The answers of Sidegate to the browser contain no fields about the user. The \
                    app gets the fields of the section `assertions`.";
        import.remark(import.written("set-xauthrequest"), Grade::Lost, text);
    }
    let mut keys = Keys::new();
    let wants_basic = if only_checks { set_basic } else { pass_basic };
    let basic = wants_basic && import.setting("basic-auth-password").is_some();
    if basic {
        keys.push(basic_of_flags(import));
    }
    convert_token(import, only_checks, &mut keys);
    keys
}

/// Converts the names of the fields with the user.
fn convert_user(import: &mut Import) {
    if import.flag("prefer-email-to-user", false) {
        let from = import.written("prefer-email-to-user");
        name_field(import, "user", "", &from);
        name_field(import, "email", "X-Forwarded-User", &from);
    } else if provider::profile(import) == "github" {
        let text = "X-Forwarded-User contains the number of the user, because a user can change the \
                    login name and another user can take the old name. \
                    X-Forwarded-Preferred-Username contains the login name.";
        import.remark(import.written("provider"), Grade::Safe, text);
    }
}

fn basic_of_flags(import: &mut Import) -> (String, Value, String) {
    let claim = if import.flag("prefer-email-to-user", false) {
        "email"
    } else {
        "subject"
    };
    let from = import.written("basic-auth-password");
    let password = import.set_secret("basic-auth-password", "password", "app_password");
    basic(claim, password, from)
}

/// Returns the key `basic` of an upstream.
fn basic(
    claim: &'static str,
    password: Option<(String, Value)>,
    from: String,
) -> (String, Value, String) {
    let user = Value::Table(vec![("claim", Value::text(claim))]);
    let (key, place) = password.unwrap_or_else(|| {
        let path = Value::text("/run/secrets/sidegate/app_password");
        ("password_file".to_owned(), path)
    });
    let key = if key == "password_env" {
        "password_env"
    } else {
        "password_file"
    };
    let table = Value::Table(vec![("user", user), (key, place)]);
    ("basic".to_owned(), table, from)
}

/// Converts the tokens that the app gets. By default, oauth2-proxy sends no token.
fn convert_token(import: &mut Import, only_checks: bool, keys: &mut Keys) {
    let sends_basic = !keys.is_empty();
    let id_token = if only_checks {
        "set-authorization-header"
    } else {
        "pass-authorization-header"
    };
    let (sends_id_token, id_token) = (import.flag(id_token, false), import.written(id_token));
    let access_token = import.written("pass-access-token");
    let sends_access_token = import.flag("pass-access-token", false);
    if sends_id_token && sends_basic {
        let text = "The app gets the user name and the password in Authorization, so it cannot get \
                    the ID token there.";
        import.remark(&id_token, Grade::Lost, text);
    }
    if sends_id_token && !sends_basic {
        keys.push(("bearer".to_owned(), Value::text("id_token"), id_token));
        if sends_access_token {
            let text = "An app gets one token. The app gets the ID token in Authorization.";
            import.remark(access_token, Grade::Lost, text);
        }
    } else if sends_access_token {
        let name = if only_checks {
            "X-Auth-Request-Access-Token"
        } else {
            "X-Forwarded-Access-Token"
        };
        keys.push(("token_field".to_owned(), Value::text(name), access_token));
    } else if !sends_basic {
        let from = "oauth2-proxy sends no token by default".to_owned();
        keys.push(("bearer".to_owned(), Value::text("none"), from));
    }
    let ignored = if only_checks {
        "pass-authorization-header"
    } else {
        "set-authorization-header"
    };
    for name in [ignored, "set-basic-auth"] {
        if import.flag(name, false) && (name == ignored || !only_checks) {
            let text = "Sidegate sends credentials only to the app of a route, or to the proxy that \
                        asks for an auth check.";
            import.remark(import.written(name), Grade::Lost, text);
        }
    }
}

/// Converts the headers of the alpha configuration. An app gets only the fields of this list.
fn of_alpha(import: &mut Import, headers: &[Header]) -> Keys {
    let mut keys = Keys::new();
    let mut named: Vec<&str> = Vec::new();
    for header in headers {
        let from = format!("header {}", header.name);
        if header.insecure_skip_header_normalization {
            let text = "Sidegate treats all spellings of a name as the same field.";
            import.remark(&from, Grade::Safe, text);
        }
        if header.preserve_request_value {
            let text = "Sidegate always removes the fields that only Sidegate may write.";
            import.remark(&from, Grade::Safe, text);
        }
        let [value] = &*header.values else {
            let text = "A field of Sidegate has one value.";
            import.remark(from, Grade::Lost, text);
            continue;
        };
        let value = value.source();
        if let Some(key) = of_claim(import, &header.name, value, &from, &named) {
            match key {
                Converted::Assertion(key) => named.push(key),
                Converted::Credential(key) => keys.push(key),
                Converted::Other => {}
            }
        }
    }
    for (key, _) in FIELDS {
        if !named.contains(&key) {
            name_field(import, key, "", "not in the list of headers");
        }
    }
    if keys.is_empty() {
        let from = "not in the list of headers".to_owned();
        keys.push(("bearer".to_owned(), Value::text("none"), from));
    }
    keys
}

/// What a header of the alpha configuration becomes.
enum Converted {
    /// A key of the section `assertions`.
    Assertion(&'static str),
    /// A key of the upstream.
    Credential((String, Value, String)),
    /// An additional field.
    Other,
}

/// Converts a header with a user name and a password.
fn basic_of_alpha(
    import: &mut Import,
    claim: &str,
    password: &SecretSource,
    from: &str,
) -> (String, Value, String) {
    let claim = if claim == "email" { "email" } else { "subject" };
    let (key, place) = match (&*password.from_env, &*password.from_file) {
        ("", "") => {
            let path = "/run/secrets/sidegate/app_password";
            let text = format!(
                "Settings of Sidegate contain no secrets. Write the value into the file {path}."
            );
            import.remark(from, Grade::ToDo, &text);
            ("password_file", path)
        }
        ("", file) => ("password_file", file),
        (variable, _) => ("password_env", variable),
    };
    let place = (key.to_owned(), Value::text(place));
    basic(claim, Some(place), from.to_owned())
}

/// Converts a header. `named` has the assertion fields that already have a name.
fn of_claim(
    import: &mut Import,
    name: &str,
    value: &HeaderValue,
    from: &str,
    named: &[&str],
) -> Option<Converted> {
    let is_authorization = name.eq_ignore_ascii_case("Authorization");
    let claim = match &*value.claim {
        "user" => "subject",
        other => other,
    };
    let credential = |key: &str, text: &str| {
        Some(Converted::Credential((
            key.to_owned(),
            Value::text(text),
            from.to_owned(),
        )))
    };
    if let Some(password) = &value.basic_auth_password {
        return Some(Converted::Credential(basic_of_alpha(
            import, claim, password, from,
        )));
    }
    match claim {
        "" => {
            let text = "The import does not read a fixed value, because the value can be a secret. \
                        If the value is no secret, write it as { constant = \"...\" } into \
                        assertions.fields.";
            import.remark(from, Grade::Lost, text);
            None
        }
        "access_token" if is_authorization => credential("bearer", "access_token"),
        "id_token" if is_authorization => credential("bearer", "id_token"),
        "access_token" => credential("token_field", name),
        "id_token" | "refresh_token" | "created_at" | "expires_on" => {
            let text = "Sidegate sends an ID token only in Authorization, and never sends a refresh \
                        token or the times of a session.";
            import.remark(from, Grade::Lost, text);
            None
        }
        claim => {
            let keys = FIELDS.iter().map(|(key, _)| *key);
            let standard = if claim == "subject" { "user" } else { claim };
            let found = keys.into_iter().find(|key| *key == standard);
            let found = found.filter(|key| !named.contains(key) && value.prefix.is_empty());
            if let Some(key) = found {
                name_field(import, key, name, from);
                return Some(Converted::Assertion(key));
            }
            let mut table = vec![("claim", Value::text(claim))];
            if !value.prefix.is_empty() {
                table.push(("prefix", Value::text(&value.prefix)));
            }
            let key = format!("assertions.fields.{}", document::key(name));
            import.set(&key, Value::Table(table), from);
            Some(Converted::Other)
        }
    }
}
