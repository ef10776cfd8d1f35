//! The known keys of the alpha configuration of oauth2-proxy.
//!
//! oauth2-proxy ignores the case of a key, and refuses an unknown key. The import writes each known
//! key in its usual spelling, and reports each unknown key, so that no part of the configuration gets
//! lost without a remark.

use serde_json::Value;

/// The known keys of a table, each with the known keys of the tables below it.
pub(super) struct Known {
    keys: &'static [(&'static str, Option<&'static Self>)],
    /// Whether the list contains all keys. The other keys of the table are in the table of options.
    is_complete: bool,
}

/// The keys of the whole configuration.
pub(super) static ROOT: Known = Known {
    keys: &[
        ("injectRequestHeaders", Some(&HEADER)),
        ("injectResponseHeaders", Some(&HEADER)),
        ("providers", Some(&PROVIDER)),
        ("upstreamConfig", Some(&UPSTREAM_CONFIG)),
    ],
    is_complete: false,
};

static PROVIDER: Known = Known {
    keys: &[
        ("additionalClaims", None),
        ("id", None),
        ("loginURLParameters", Some(&PARAMETER)),
    ],
    is_complete: false,
};

static PARAMETER: Known = Known {
    keys: &[
        ("allow", Some(&ALLOWED_VALUE)),
        ("default", None),
        ("name", None),
    ],
    is_complete: true,
};

static ALLOWED_VALUE: Known = Known {
    keys: &[("pattern", None), ("value", None)],
    is_complete: true,
};

static UPSTREAM_CONFIG: Known = Known {
    keys: &[("upstreams", Some(&UPSTREAM))],
    is_complete: false,
};

static UPSTREAM: Known = Known {
    keys: &[
        ("disableKeepAlives", None),
        // Sidegate forwards each part of an answer at once.
        ("flushInterval", None),
        ("id", None),
        ("insecureSkipTLSVerify", None),
        ("passHostHeader", None),
        ("path", None),
        ("proxyWebSockets", None),
        ("rewriteTarget", None),
        ("static", None),
        ("staticCode", None),
        ("timeout", None),
        ("uri", None),
    ],
    is_complete: true,
};

static HEADER: Known = Known {
    keys: &[
        ("insecureSkipHeaderNormalization", None),
        ("name", None),
        ("preserveRequestValue", None),
        ("values", Some(&HEADER_VALUE)),
    ],
    is_complete: true,
};

/// Older versions of oauth2-proxy have the keys of `claimSource` and `secretSource` in the value
/// itself.
static HEADER_VALUE: Known = Known {
    keys: &[
        ("basicAuthPassword", Some(&SECRET)),
        ("claim", None),
        ("claimSource", Some(&CLAIM)),
        ("fromEnv", None),
        ("fromFile", None),
        ("prefix", None),
        ("secretSource", Some(&SECRET)),
        ("value", None),
    ],
    is_complete: true,
};

static CLAIM: Known = Known {
    keys: &[
        ("basicAuthPassword", Some(&SECRET)),
        ("claim", None),
        ("prefix", None),
    ],
    is_complete: true,
};

static SECRET: Known = Known {
    keys: &[("fromEnv", None), ("fromFile", None), ("value", None)],
    is_complete: true,
};

/// Writes the known keys in their usual spelling. Removes the unknown keys of complete tables, and
/// adds the path of each removed key to `unknown`.
pub(super) fn normalize(
    value: &mut Value,
    known: &Known,
    written: &str,
    unknown: &mut Vec<String>,
) {
    match value {
        Value::Array(list) => {
            for (index, entry) in list.iter_mut().enumerate() {
                normalize(entry, known, &format!("{written}[{index}]"), unknown);
            }
        }
        Value::Object(members) => {
            for (name, mut value) in std::mem::take(members) {
                let below = below(written, &name);
                let mut keys = known.keys.iter();
                match keys.find(|(key, _)| key.eq_ignore_ascii_case(&name)) {
                    Some((key, next)) => {
                        if let Some(next) = next {
                            normalize(&mut value, next, &below, unknown);
                        }
                        members.insert((*key).to_owned(), value);
                    }
                    None if known.is_complete => unknown.push(below),
                    None => {
                        members.insert(name, value);
                    }
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Adds the path of each text with a variable to `found`. oauth2-proxy replaces `${NAME}` by the
/// value of the variable.
pub(super) fn find_variables(value: &Value, written: &str, found: &mut Vec<String>) {
    match value {
        Value::Array(list) => {
            for (index, entry) in list.iter().enumerate() {
                find_variables(entry, &format!("{written}[{index}]"), found);
            }
        }
        Value::Object(members) => {
            for (name, value) in members {
                find_variables(value, &below(written, name), found);
            }
        }
        Value::String(text) if text.contains("${") => found.push(written.to_owned()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Returns the path of a key in the table at `written`.
fn below(written: &str, name: &str) -> String {
    if written.is_empty() {
        name.to_owned()
    } else {
        format!("{written}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_found_in_every_case_and_unknown_keys_are_named() {
        let mut value = json!({
            "UpstreamConfig": {"proxyRawPath": true, "UPSTREAMS": [
                {"ID": "a", "rewritetarget": "/b", "rewriteTargets": "/c"},
            ]},
            "injectRequestHeaders": [{"Name": "X-A", "values": [
                {"claimSource": {"Claim": "email", "suffix": "x"}, "odd": 1},
            ]}],
            "server": {"BindAddress": ":80"},
        });
        let mut unknown = Vec::new();
        normalize(&mut value, &ROOT, "", &mut unknown);
        let expected = json!({
            "upstreamConfig": {"proxyRawPath": true, "upstreams": [
                {"id": "a", "rewriteTarget": "/b"},
            ]},
            "injectRequestHeaders": [{"name": "X-A", "values": [
                {"claimSource": {"claim": "email"}},
            ]}],
            "server": {"BindAddress": ":80"},
        });
        assert_eq!(value, expected);
        unknown.sort();
        assert_eq!(
            unknown,
            [
                "UpstreamConfig.UPSTREAMS[0].rewriteTargets",
                "injectRequestHeaders[0].values[0].claimSource.suffix",
                "injectRequestHeaders[0].values[0].odd",
            ]
        );
    }

    #[test]
    fn values_with_variables_are_named() {
        let value = json!({"providers": [{"clientID": "${ID}", "name": "$5"}], "a": "x ${B} y"});
        let mut found = Vec::new();
        find_variables(&value, "", &mut found);
        found.sort();
        assert_eq!(found, ["a", "providers[0].clientID"]);
    }
}
