//! The configurations of docs/auth-check.md are the texts that `sidegate snippet` prints.

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
