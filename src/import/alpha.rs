//! The alpha configuration of oauth2-proxy, which is YAML.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::alpha_keys;

/// The parts of the alpha configuration that no flag has.
#[derive(Debug, Default)]
pub(super) struct Alpha {
    pub(super) upstreams: Vec<Upstream>,
    /// `None` if the configuration does not contain the list.
    pub(super) request_headers: Option<Vec<Header>>,
    pub(super) response_headers: Vec<Header>,
    pub(super) login_parameters: Vec<LoginParameter>,
    /// Parts that the import cannot read.
    pub(super) unreadable: Vec<String>,
    /// Keys that the import does not know.
    pub(super) unknown: Vec<String>,
    /// Values that contain a variable.
    pub(super) with_variables: Vec<String>,
}

/// An entry of `upstreamConfig.upstreams`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of the configuration"
)]
pub(super) struct Upstream {
    pub(super) id: String,
    pub(super) path: String,
    pub(super) rewrite_target: String,
    pub(super) uri: String,
    #[serde(rename = "insecureSkipTLSVerify")]
    pub(super) insecure_skip_tls_verify: bool,
    #[serde(rename = "static")]
    pub(super) is_static: bool,
    pub(super) static_code: Option<u16>,
    pub(super) pass_host_header: Option<bool>,
    #[serde(rename = "proxyWebSockets")]
    pub(super) proxy_web_sockets: Option<bool>,
    pub(super) timeout: Option<String>,
    pub(super) disable_keep_alives: bool,
}

/// An entry of `injectRequestHeaders` or `injectResponseHeaders`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Header {
    pub(super) name: String,
    #[serde(default)]
    pub(super) insecure_skip_header_normalization: bool,
    #[serde(default)]
    pub(super) preserve_request_value: bool,
    #[serde(default)]
    pub(super) values: Vec<HeaderValue>,
}

/// A value of a header: a claim, or a constant, which can be a secret.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct HeaderValue {
    pub(super) claim: String,
    pub(super) prefix: String,
    pub(super) basic_auth_password: Option<SecretSource>,
    claim_source: Option<Box<Self>>,
}

/// The place of a secret. A secret in the configuration itself is not read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SecretSource {
    pub(super) from_env: String,
    pub(super) from_file: String,
}

/// An entry of `loginURLParameters`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct LoginParameter {
    pub(super) name: String,
    #[serde(default)]
    pub(super) default: Vec<String>,
    #[serde(default)]
    pub(super) allow: Vec<Map<String, Value>>,
}

impl HeaderValue {
    /// Returns the claim of the value. In some versions of oauth2-proxy, the claim is below
    /// `claimSource`.
    pub(super) fn source(&self) -> &Self {
        self.claim_source.as_deref().unwrap_or(self)
    }
}

/// Parses YAML. The error is the place of the mistake, without any text of the file.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str(text).map_err(|error| {
        let place = error.location();
        place.map_or_else(
            || "unknown line".to_owned(),
            |place| format!("line {}", place.line()),
        )
    })
}

/// A value of the alpha configuration: the path in the table of options, the path in the file, and
/// the value.
pub(super) type Leaf = (String, String, Value);

/// Returns the values that have a path in the table of options. The function stores the other known
/// parts in `alpha`.
pub(super) fn leaves(mut read: Value, alpha: &mut Alpha) -> Vec<Leaf> {
    alpha_keys::normalize(&mut read, &alpha_keys::ROOT, "", &mut alpha.unknown);
    alpha_keys::find_variables(&read, "", &mut alpha.with_variables);
    let mut leaves = Vec::new();
    let Value::Object(root) = &read else {
        alpha.unreadable.push("the alpha configuration".to_owned());
        return leaves;
    };
    for (name, value) in root {
        match (&**name, value) {
            ("injectRequestHeaders", list) => {
                alpha.request_headers = Some(entries(name, list, &mut alpha.unreadable));
            }
            ("injectResponseHeaders", list) => {
                alpha.response_headers = entries(name, list, &mut alpha.unreadable);
            }
            ("providers", Value::Array(list)) => {
                match list.first() {
                    Some(Value::Object(provider)) => of_provider(provider, alpha, &mut leaves),
                    Some(_) => alpha.unreadable.push("providers[0]".to_owned()),
                    None => {}
                }
                if list.len() > 1 {
                    alpha.unreadable.push("providers[1]".to_owned());
                }
            }
            ("upstreamConfig", Value::Object(config)) => {
                for (name, value) in config {
                    let written = format!("upstreamConfig.{name}");
                    if name == "upstreams" {
                        alpha.upstreams = entries(&written, value, &mut alpha.unreadable);
                    } else {
                        add(&mut leaves, written.clone(), written, value);
                    }
                }
            }
            (_, value) => add(&mut leaves, name.clone(), name.clone(), value),
        }
    }
    leaves
}

fn of_provider(provider: &Map<String, Value>, alpha: &mut Alpha, leaves: &mut Vec<Leaf>) {
    for (name, value) in provider {
        let written = format!("providers[0].{name}");
        match &**name {
            // The id is only a name inside oauth2-proxy, and Sidegate keeps every claim that the
            // settings name.
            "id" | "additionalClaims" => {}
            "loginURLParameters" => {
                alpha.login_parameters = entries(&written, value, &mut alpha.unreadable);
            }
            _ => add(leaves, format!("provider.{name}"), written, value),
        }
    }
}

/// Adds a value, or all values below it.
fn add(leaves: &mut Vec<Leaf>, path: String, written: String, value: &Value) {
    if let Value::Object(members) = value {
        for (name, value) in members {
            add(
                leaves,
                format!("{path}.{name}"),
                format!("{written}.{name}"),
                value,
            );
        }
    } else {
        leaves.push((path, written, value.clone()));
    }
}

/// Reads a list whose entries have members. An entry that cannot be read is named in `unreadable`.
fn entries<T: for<'de> Deserialize<'de>>(
    written: &str,
    list: &Value,
    unreadable: &mut Vec<String>,
) -> Vec<T> {
    let mut read = Vec::new();
    let list = match list {
        Value::Array(list) => list.as_slice(),
        Value::Null => &[],
        Value::Bool(_) | Value::Number(_) | Value::Object(_) | Value::String(_) => {
            unreadable.push(written.to_owned());
            &[]
        }
    };
    for (index, entry) in list.iter().enumerate() {
        match T::deserialize(entry) {
            Ok(entry) => read.push(entry),
            Err(_wrong_form) => unreadable.push(format!("{written}[{index}]")),
        }
    }
    read
}
