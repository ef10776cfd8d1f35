//! The configurations of docs/auth-check.md are the texts that `sidegate snippet` prints.

use serde_json::Value;

use super::fronts::snippet;
use crate::support::gateway::Settings;

const DOCS: &str = include_str!("../../../docs/auth-check.md");

/// Each printed text, with its heading and its position among the code blocks below the heading.
const BLOCKS: [(&str, &str, usize); 9] = [
    ("nginx", "\n## nginx\n", 0),
    ("ingress-nginx", "\n## ingress-nginx\n", 0),
    ("caddy", "\n## Caddy\n", 0),
    ("traefik", "\n## Traefik\n", 0),
    ("haproxy", "\n## HAProxy\n", 0),
    ("haproxy-lua", "\n## HAProxy\n", 1),
    ("envoy", "\n## Envoy\n", 0),
    ("istio", "\n## Istio\n", 0),
    ("envoy-http", "\n## Envoy with ext_authz over HTTP\n", 0),
];

/// Settings with one network for each kind of proxy, and with a signed assertion.
fn settings() -> Settings {
    let kinds = [
        "nginx",
        "ingress_nginx",
        "caddy",
        "traefik",
        "haproxy",
        "envoy",
    ];
    let proxies = kinds.iter().enumerate().map(|(index, kind)| {
        format!("[[auth_check.proxies]]\nnetworks = [\"10.0.0.{index}\"]\nkind = \"{kind}\"\n")
    });
    let settings = Settings::new(
        "https://app.example.com",
        "https://id.example.com",
        "http://127.0.0.1:8080",
    );
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let key = settings.file("signing.pem", &key);
    let signing = format!("[assertions]\nsigned = {{}}\n[signing]\nkey_files = [\"{key}\"]\n");
    let settings = settings.with("[[routes]]\nprefix = \"/\"\n");
    settings.with(&signing).with(&proxies.collect::<String>())
}

/// The code block at this position below a heading.
fn documented(heading: &str, position: usize) -> &'static str {
    let (_, below) = DOCS.split_once(heading).expect(heading);
    let block = below.split("```").nth(2 * position + 1).expect(heading);
    let (_language, text) = block.split_once('\n').unwrap();
    text
}

#[test]
fn the_documentation_shows_the_printed_texts() {
    let settings = settings();
    let path = settings.write();
    let mut differences = Vec::new();
    for (name, heading, position) in BLOCKS {
        let printed = snippet(name, &path, "127.0.0.1:4180");
        if printed != documented(heading, position) {
            differences.push(format!("sidegate snippet {name} prints:\n{printed}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The objects that a snippet prints, each with its `apiVersion` and its `kind`.
fn objects(name: &str, settings: &Settings) -> Vec<(String, Value)> {
    let printed = snippet(name, &settings.write(), "127.0.0.1:4180");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&printed)
        .unwrap_or_else(|error| panic!("{name}: {error}\n{printed}"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let named = objects.into_iter().map(|object| {
        let kind = [text(&object["apiVersion"]), text(&object["kind"])].join(" ");
        assert!(object["metadata"]["name"].is_string(), "{object}");
        (kind, object)
    });
    named.collect()
}

fn kinds(objects: &[(String, Value)]) -> Vec<&str> {
    objects.iter().map(|(kind, _)| kind.as_str()).collect()
}

#[test]
fn the_objects_for_ingress_nginx_are_valid_yaml() {
    let objects = objects("ingress-nginx", &settings());
    assert_eq!(
        kinds(&objects),
        [
            "networking.k8s.io/v1 Ingress",
            "networking.k8s.io/v1 Ingress",
            "v1 ConfigMap"
        ]
    );
    let [(_, app), (_, own), (_, removed)] = &objects[..] else {
        unreachable!()
    };
    let annotations = app["metadata"]["annotations"].as_object().unwrap();
    let names: Vec<_> = annotations.keys().map(String::as_str).collect();
    let expected = [
        "auth-response-headers",
        "auth-signin",
        "auth-signin-redirect-param",
        "auth-url",
        "proxy-buffer-size",
    ];
    let expected = expected.map(|name| format!("nginx.ingress.kubernetes.io/{name}"));
    assert_eq!(names, expected);
    for (name, value) in annotations {
        assert!(value.is_string(), "{name}: {value}");
    }
    // Otherwise, the sign-in itself would need a session.
    assert_eq!(own["metadata"]["annotations"], Value::Null);
    for (ingress, path, port) in [(app, "/", 8080), (own, "/oauth2/", 4180)] {
        let rule = &ingress["spec"]["rules"][0];
        assert_eq!(rule["host"], "app.example.com");
        let served = &rule["http"]["paths"][0];
        assert_eq!(served["path"], path);
        assert_eq!(served["backend"]["service"]["port"]["number"], port);
    }
    let removed = removed["data"].as_object().unwrap();
    assert!(removed.contains_key("X-Original-URL"), "{removed:?}");
    assert!(removed.values().all(|value| value == ""), "{removed:?}");
}

#[test]
fn the_objects_for_istio_are_valid_yaml() {
    let objects = objects("istio", &settings());
    assert_eq!(
        kinds(&objects),
        [
            "security.istio.io/v1 AuthorizationPolicy",
            "networking.istio.io/v1 VirtualService"
        ]
    );
    let [(_, policy), (_, service)] = &objects[..] else {
        unreachable!()
    };
    assert_eq!(policy["spec"]["action"], "CUSTOM");
    assert_eq!(policy["spec"]["provider"]["name"], "sidegate");
    // Each of the two operations alone is enough for an auth check.
    let operations = serde_json::json!([
        { "operation": { "notHosts": ["app.example.com"] } },
        { "operation": { "notPaths": ["/oauth2/*"] } },
    ]);
    assert_eq!(policy["spec"]["rules"][0]["to"], operations);
    let route = &service["spec"]["http"][0];
    assert_eq!(route["match"][0]["uri"]["prefix"], "/oauth2/");
    assert_eq!(route["route"][0]["destination"]["port"]["number"], 4180);
}

#[test]
fn a_snippet_contains_the_paths_and_the_fields_of_the_settings() {
    let settings = Settings::new(
        "https://app.example.com",
        "https://id.example.com",
        "http://127.0.0.1:8080",
    );
    let settings = settings.with(
        "[login]\ncallback_path = \"/cb\"\n[assertions]\nuser = \"X-Who\"\n[auth_check]\n\
         path = \"/check\"\n[[auth_check.proxies]]\nnetworks = [\"10.0.0.5\"]\nkind = \"caddy\"\n\
         [[routes]]\nprefix = \"/\"\n",
    );
    let settings = settings.server("trusted_proxies = [\"10.0.0.5\"]");
    let printed = snippet("caddy", &settings.write(), "0.0.0.0:4000");
    for part in [
        "@sidegate path /oauth2/* /cb*\n",
        "forward_auth 127.0.0.1:4000 {\n",
        "uri /check\n",
        "copy_headers Cookie Authorization ",
        " X-Who",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
}

#[test]
fn a_snippet_for_a_proxy_that_may_not_ask_is_refused() {
    let settings = Settings::new(
        "https://app.example.com",
        "https://id.example.com",
        "http://127.0.0.1:8080",
    );
    let settings = settings.with("[[routes]]\nprefix = \"/\"\n");
    let output = std::process::Command::new(crate::support::gateway::PROGRAM)
        .args(["snippet", "nginx", "--config"])
        .arg(settings.write())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("auth_check.proxies has no entry with kind = \"nginx\""),
        "{error}"
    );
}
