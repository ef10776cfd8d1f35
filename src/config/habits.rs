//! The keys that operators know from other gateways, with advice for the operator.

/// Each entry contains unknown keys, and the advice for these keys.
const ADVICE: &[(&[&str], &str)] = &[
    (
        &["client_secret"],
        "a secret must not be in the settings; name a file with client_secret_file, or a variable \
         with client_secret_env",
    ),
    (
        &["cookie_secret", "session_secret"],
        "a secret must not be in the settings; name a file with login.state_key_file, or a \
         variable with login.state_key_env",
    ),
    (
        &[
            "allowed_groups",
            "allowed_group",
            "groups",
            "roles",
            "allowed_roles",
        ],
        "write access = { any_of = { groups = [\"...\"] } } in the route",
    ),
    (
        &[
            "allowed_emails",
            "emails",
            "authenticated_emails",
            "allowed_users",
        ],
        "write access = { any_of = { emails = [\"...\"] } } in the route",
    ),
    (
        &[
            "email_domain",
            "email_domains",
            "allowed_domains",
            "domain",
            "domains",
        ],
        "write access = { any_of = { email_domains = [\"...\"] } } in the route",
    ),
    (
        &["pass_basic_auth", "basic_auth_password", "set_basic_auth"],
        "write basic = { user = { claim = \"preferred_username\" }, password_file = \"...\" } in \
         the upstream",
    ),
    (
        &[
            "pass_access_token",
            "pass_authorization_header",
            "set_authorization_header",
        ],
        "write bearer = \"access_token\" or \"id_token\" in the upstream, and token_field for \
         another field than Authorization",
    ),
    (
        &[
            "inject_request_headers",
            "injectrequestheaders",
            "set_request_headers",
        ],
        "write assertions.fields.NAME = { claim = \"...\" }",
    ),
    (
        &[
            "skip_auth",
            "skip_auth_routes",
            "skip_auth_regex",
            "public",
            "auth",
            "anonymous",
        ],
        "write access = \"public\" in a route with the path as `prefix`",
    ),
    (
        &["path", "paths", "location", "match", "regex", "pattern"],
        "write the path of the route as `prefix`; patterns have no meaning",
    ),
    (
        &["methods", "method"],
        "a route is for all methods, because rules do not depend on the method",
    ),
    (
        &[
            "strip_prefix",
            "strip_path",
            "prefix_rewrite",
            "replace_prefix",
            "rewrite_target",
            "app_prefix",
        ],
        "write rewrite.app_prefix = \"/\" in the route, if the app does not know the prefix",
    ),
    (
        &["proxy_redirect", "proxy_pass_reverse"],
        "write rewrite.locations = true in the route",
    ),
    (
        &["proxy_cookie_path", "proxy_cookie_domain"],
        "write rewrite.cookies = true in the route",
    ),
    (
        &["redirect", "body_file", "return", "static_response"],
        "write answer = { redirect = \"...\" } or answer = { body_file = \"...\", content_type = \"...\" } \
         in the route",
    ),
    (
        &[
            "allow_encoded_slashes",
            "allowencodedslashes",
            "encoded_slashes",
            "merge_slashes",
            "lax_paths",
        ],
        "write allow_in_path in the route: a list of \"encoded_slash\", \"empty_segment\", \
         \"backslash\" and \"non_utf8\"",
    ),
    (
        &["proxy_request_buffering", "request_buffering"],
        "write buffers.whole_request in the route",
    ),
    (
        &["client_body_temp_path", "proxy_temp_path"],
        "write server.spill_dir",
    ),
    (
        &["proxy_max_temp_file_size"],
        "write buffers.answer_spill_mib in the route",
    ),
    (
        &["websocket", "websockets", "proxy_websockets"],
        "routes forward WebSockets by default; `streams` limits them",
    ),
    (
        &["redirect_url", "redirect_uri", "callback_url"],
        "the redirect URI is public_url + login.callback_path",
    ),
    (
        &["cookie_domain", "cookie_domains", "whitelist_domains"],
        "write login.host: all hosts of public_url then have one sign-in, without a cookie that \
         several hosts can read",
    ),
    (&["callback", "redirect_path"], "write login.callback_path"),
    (
        &["proxy_prefix", "base_path"],
        "write login.own_prefix, which begins and ends with `/`",
    ),
    (
        &[
            "insecure_skip_verify",
            "ssl_insecure_skip_verify",
            "skip_verify",
            "verify",
            "tls_skip_verify",
            "proxy_ssl_verify",
        ],
        "certificates are always checked; name the certificate of the server's authority, or its own \
         self-signed certificate, with ca_file",
    ),
    (
        &[
            "issuer_url",
            "oidc_issuer_url",
            "oidc_issuer",
            "discovery_url",
        ],
        "write the provider's issuer as `issuer`",
    ),
    (&["scope"], "write scopes = [\"openid\", \"...\"]"),
    (
        &["port", "http_address", "bind", "address", "listen"],
        "write server.listen = \"127.0.0.1:4180\"",
    ),
    (
        &["tls_cert_file", "cert_file", "tls_cert", "ssl_certificate"],
        "write server.certificate_file and server.key_file",
    ),
    (&["log_level"], "write log.level"),
    (
        &[
            "timeout",
            "proxy_read_timeout",
            "upstream_timeout",
            "read_timeout",
        ],
        "write response_timeout_secs or connect_timeout_secs of the upstream",
    ),
    (
        &["cookie_expire", "cookie_refresh", "session_lifetime"],
        "write session.idle_secs and session.absolute_secs",
    ),
    (
        &[
            "trusted_ips",
            "reverse_proxy",
            "real_client_ip_header",
            "trusted_ip",
        ],
        "write server.trusted_proxies with the networks of the proxies in front",
    ),
    (
        &["provider", "oidc"],
        "write each provider as [providers.NAME]",
    ),
    (
        &["upstream", "backend", "backends"],
        "write each upstream as [upstreams.NAME]",
    ),
    (&["route", "rules"], "write each route as [[routes]]"),
];

/// Returns the advice for the unknown key `name`, if another gateway has a key with this name.
pub(super) fn advice(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let found = ADVICE.iter().find(|(names, _)| names.contains(&&*name));
    found.map(|(_, advice)| *advice)
}
