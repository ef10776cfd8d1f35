//! Converts the options of the provider.

use url::Url;

use super::Grade;
use super::convert::{Import, words};
use super::document::Value;

/// A provider of oauth2-proxy, and the profile of Sidegate.
struct Known {
    name: &'static str,
    profile: &'static str,
    /// The issuer that oauth2-proxy uses by default, or an empty text.
    issuer: &'static str,
}

const fn known(name: &'static str, profile: &'static str, issuer: &'static str) -> Known {
    Known {
        name,
        profile,
        issuer,
    }
}

const PROVIDERS: [Known; 11] = [
    known("google", "google", ""),
    known("github", "github", ""),
    known("gitlab", "gitlab", "https://gitlab.com"),
    known("oidc", "oidc", ""),
    known("keycloak-oidc", "keycloak", ""),
    known("keycloak", "keycloak", ""),
    known("azure", "entra", ""),
    known("entra-id", "entra", ""),
    known("adfs", "oidc", ""),
    known("cidaas", "oidc", ""),
    known("login.gov", "oidc", "https://secure.login.gov"),
];

/// The issuer that the settings get if the import does not know the issuer.
const NO_ISSUER: &str = "https://id.example.com";
/// A tenant that does not exist.
const NO_TENANT: &str = "00000000-0000-0000-0000-000000000000";
/// The name of the table of the provider.
const TABLE: &str = "providers.main";

/// Returns the name of the provider of the settings.
pub(super) fn name(import: &Import) -> String {
    let name = import.text("provider");
    name.map_or_else(|| "google".to_owned(), |(name, _)| name)
}

/// Returns the profile for the provider of the settings.
pub(super) fn profile(import: &Import) -> &'static str {
    let name = name(import);
    let mut providers = PROVIDERS.iter();
    let found = providers.find(|known| known.name == name);
    found.map_or("oauth2", |known| known.profile)
}

/// The hosts of the OpenID Providers at which anybody can create an account.
const OPEN_HOSTS: [&str; 3] = ["accounts.google.com", "gitlab.com", "secure.login.gov"];

/// Returns true if anybody can create an account at the provider. The providers without a profile
/// of their own, such as Facebook, count as open.
pub(super) fn is_open(import: &Import) -> bool {
    let issuer = import.text("oidc-issuer-url");
    let issuer = issuer.and_then(|(issuer, _)| Url::parse(&issuer).ok());
    let host = issuer.as_ref().and_then(Url::host_str);
    let has_open_host = host.is_some_and(|host| OPEN_HOSTS.contains(&host));
    let is_open = matches!(profile(import), "google" | "github" | "gitlab" | "oauth2");
    is_open || has_open_host || name(import) == "login.gov"
}

/// Sets the profile, so that the profile is the first line of its table.
pub(super) fn set_profile(import: &mut Import) {
    let from = match import.text("provider") {
        Some((_, from)) => from,
        None => "the default of oauth2-proxy".to_owned(),
    };
    let profile = profile(import);
    set(import, "profile", Value::text(profile), from);
}

pub(super) fn convert(import: &mut Import) {
    let profile = profile(import);
    if profile == "oauth2" {
        convert_plain(import);
    } else {
        convert_issuer(import, profile);
    }
    convert_secrets(import);
    convert_discovery(import);
    convert_request(import, profile);
    convert_login_parameters(import);
    convert_groups(import, profile);
}

fn set(import: &mut Import, key: &str, value: Value, from: impl Into<String>) {
    import.set(&format!("{TABLE}.{key}"), value, from);
}

/// Converts a provider without a profile.
fn convert_plain(import: &mut Import) {
    let from = import.written("provider");
    let text = "Sidegate has no profile for this provider. The settings use the profile `oauth2`. \
                Write the endpoints, and the names of the claims in identity.claims.";
    import.remark(&from, Grade::Lost, text);
    let placeholder = "CHANGE THIS: the endpoint of the provider";
    for (key, path) in [
        ("authorization_endpoint", "authorize"),
        ("token_endpoint", "token"),
        ("userinfo_endpoint", "userinfo"),
    ] {
        let value = Value::Text(format!("{NO_ISSUER}/{path}"));
        import.set_default(&format!("{TABLE}.{key}"), value, placeholder);
    }
    set(import, "identity.source", Value::text("userinfo"), from);
}

fn convert_issuer(import: &mut Import, profile: &str) {
    let given = import.text("oidc-issuer-url");
    if profile == "github" {
        if let Some((_, from)) = given {
            let text = "GitHub has no issuer for users.";
            import.remark(from, Grade::Covered, text);
        }
        return;
    }
    if profile == "entra" {
        return convert_tenants(import, given);
    }
    if profile == "google" && given.is_none() {
        return;
    }
    let name = import
        .text("provider")
        .map(|(name, _)| name)
        .unwrap_or_default();
    // The old provider `keycloak` has no issuer, but its endpoints are below the issuer.
    let login = import.text("login-url").and_then(|(url, from)| {
        let (issuer, _) = url.split_once("/protocol/openid-connect/")?;
        Some((issuer.to_owned(), from))
    });
    let default = PROVIDERS
        .iter()
        .find(|known| known.name == name && !known.issuer.is_empty());
    let default = default.map(|known| (known.issuer.to_owned(), import.written("provider")));
    if let Some((issuer, from)) = given.or(login).or(default) {
        set(import, "issuer", Value::Text(issuer), from);
    } else {
        let text = "The settings do not contain the issuer. Write the issuer of the provider.";
        import.remark("--oidc-issuer-url", Grade::Lost, text);
        let value = Value::text(NO_ISSUER);
        set(
            import,
            "issuer",
            value,
            "CHANGE THIS: the issuer of the provider",
        );
    }
}

/// Converts the tenants of Microsoft Entra ID.
fn convert_tenants(import: &mut Import, issuer: Option<(String, String)>) {
    let (issuer, from) = issuer.unwrap_or_else(|| {
        let tenant = import.text("azure-tenant");
        let (tenant, from) =
            tenant.unwrap_or_else(|| ("common".to_owned(), import.written("azure-tenant")));
        (
            format!("https://login.microsoftonline.com/{tenant}/v2.0"),
            from,
        )
    });
    let is_common = ["/common/", "/organizations/", "/consumers/"]
        .into_iter()
        .any(|tenant| issuer.contains(tenant));
    let tenants = import.list("entra-id-allowed-tenant");
    let written = import.written("entra-id-allowed-tenant");
    if !is_common {
        set(import, "issuer", Value::Text(issuer), from);
        if !tenants.is_empty() {
            let text = "The issuer already names the only tenant.";
            import.remark(written, Grade::Covered, text);
        }
        return;
    }
    let template = "https://login.microsoftonline.com/{tenantid}/v2.0";
    set(import, "issuer", Value::text(template), &from);
    let metadata = "https://login.microsoftonline.com/organizations/v2.0/.well-known/\
                    openid-configuration";
    set(import, "metadata_url", Value::text(metadata), &from);
    if tenants.is_empty() {
        let text = "oauth2-proxy admits the users of every organization. Write the identifiers of \
                    your tenants into `tenants` of the provider. Until then, nobody can sign in.";
        import.remark(&from, Grade::Safe, text);
        let value = Value::List(vec![NO_TENANT.to_owned()]);
        set(
            import,
            "tenants",
            value,
            "CHANGE THIS: the identifiers of your tenants",
        );
    } else {
        set(import, "tenants", Value::List(tenants), written);
    }
}

fn convert_secrets(import: &mut Import) {
    if let Some((path, from)) = import.text("jwt-key-file") {
        let value = Value::Text(path);
        set(import, "client_assertion.private_key_file", value, &from);
        use_key(import, from);
        return;
    }
    if let Some((key, value)) =
        import.set_secret("jwt-key", "client_assertion.private_key", "client_key.pem")
    {
        let from = import.written("jwt-key");
        set(import, &key, value, &from);
        use_key(import, from);
        return;
    }
    if let Some((path, from)) = import.text("client-secret-file") {
        set(import, "client_secret_file", Value::Text(path), from);
        return;
    }
    if let Some((key, value)) = import.set_secret("client-secret", "client_secret", "client_secret")
    {
        let from = import.written("client-secret");
        set(import, &key, value, from);
        return;
    }
    let text = "The settings do not contain the secret of the client. Write the path of a file with \
                the secret. If the client is public, set client_authentication = \"none\".";
    import.remark("--client-secret", Grade::Lost, text);
    let value = Value::text("/run/secrets/sidegate/client_secret");
    set(
        import,
        "client_secret_file",
        value,
        "CHANGE THIS: the file with the secret",
    );
}

fn use_key(import: &mut Import, from: String) {
    let text = "The key has to be in PEM with the words BEGIN PRIVATE KEY (PKCS#8).";
    import.remark(&from, Grade::ToDo, text);
    set(
        import,
        "client_authentication",
        Value::text("private_key_jwt"),
        from,
    );
}

fn convert_discovery(import: &mut Import) {
    if import.flag("skip-oidc-discovery", false) {
        let from = import.written("skip-oidc-discovery");
        set(import, "discovery", Value::text("none"), from);
    }
    if import.flag("skip-claims-from-profile-url", false) {
        let from = import.written("skip-claims-from-profile-url");
        set(import, "identity.userinfo", Value::Flag(false), from);
    }
}

/// Converts the parameters of the authorization request.
fn convert_request(import: &mut Import, profile: &str) {
    if let Some((text, from)) = import.text("scope") {
        let mut scopes = words(&text);
        if !matches!(profile, "github" | "oauth2") && !scopes.iter().any(|scope| scope == "openid")
        {
            scopes.insert(0, "openid".to_owned());
            let text = "An OpenID Provider needs the scope openid, so the settings contain it.";
            import.remark(&from, Grade::Changed, text);
        }
        set(import, "scopes", Value::List(scopes), from);
    }
    if let Some((text, from)) = import.text("auth-request-response-mode") {
        if matches!(&*text, "query" | "form_post") {
            set(
                import,
                "authorization_request.response_mode",
                Value::Text(text),
                from,
            );
        } else {
            let text = "Sidegate supports the response modes query and form_post.";
            import.remark(from, Grade::Lost, text);
        }
    }
    if let Some((text, from)) = import.text("prompt") {
        convert_prompt(import, text, from);
    }
    for name in ["force-code-challenge-method", "code-challenge-method"] {
        if let Some((text, from)) = import.text(name) {
            if text != "S256" {
                let text = "Sidegate sends only the method S256, because the method plain does not \
                            protect the code.";
                import.remark(&from, Grade::Safe, text);
            }
            set(import, "pkce", Value::Flag(true), from);
        }
    }
}

fn convert_prompt(import: &mut Import, text: String, from: String) {
    if words(&text).iter().any(|word| word == "none") {
        let text = "With the prompt none, only users with a session at the provider could sign in.";
        import.remark(from, Grade::Lost, text);
    } else {
        set(
            import,
            "authorization_request.prompt",
            Value::Text(text),
            from,
        );
    }
}

/// Converts `loginURLParameters` of the alpha configuration.
fn convert_login_parameters(import: &mut Import) {
    let mut passed = Vec::new();
    let from = "loginURLParameters";
    for parameter in std::mem::take(&mut import.given.alpha.login_parameters) {
        let (name, values) = (parameter.name, parameter.default);
        let text = values.join(" ");
        match &*name {
            "approval_prompt" => {}
            "prompt" if !text.is_empty() => convert_prompt(import, text, from.to_owned()),
            "acr_values" | "resource" if !values.is_empty() => {
                set(
                    import,
                    &format!("authorization_request.{name}"),
                    Value::List(values),
                    from,
                );
            }
            _ if !text.is_empty() => {
                let key = super::document::key(&name);
                let key = format!("authorization_request.parameters.{key}");
                set(import, &key, Value::Text(text), from);
            }
            _ => {}
        }
        if !parameter.allow.is_empty() {
            let text = "A request to /oauth2/sign_in can contain any value of at most 256 \
                        characters for this parameter. Sidegate does not compare the value with a \
                        list or a pattern.";
            import.remark(format!("{from}: {name}"), Grade::Changed, text);
            passed.push(name);
        }
    }
    if !passed.is_empty() {
        let value = Value::List(passed);
        set(import, "authorization_request.pass_parameters", value, from);
    }
}

/// Names the claim with the roles of Keycloak, if a rule needs the roles.
fn convert_groups(import: &mut Import, profile: &str) {
    if import.list("allowed-role").is_empty() {
        return;
    }
    let from = import.written("allowed-role");
    if profile != "keycloak" {
        let text = "Only the provider keycloak-oidc has roles.";
        import.remark(from, Grade::Lost, text);
        return;
    }
    let text = "The client at Keycloak needs a mapper \"User Realm Role\" with the claim name \
                realm_access.roles and \"Add to ID token\".";
    import.remark(&from, Grade::ToDo, text);
    if import.text("oidc-groups-claim").is_some() {
        let text = "A provider has one claim for groups, which now contains the roles.";
        import.remark(&from, Grade::Lost, text);
    }
    set(
        import,
        "identity.claims.groups",
        Value::text("realm_access.roles"),
        from,
    );
}
