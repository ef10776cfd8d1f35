//! Tests that dangerous settings are refused. With dangerous settings, an operator could make a
//! route public, hide an endpoint or trust a peer by mistake.

use super::tests::{SMALL, TestSettings, keys_of, two_providers};

#[test]
fn x_17_an_address_with_a_zone_is_no_trusted_proxy() {
    let with = |proxy: &str| format!("{SMALL}\n[server]\ntrusted_proxies = [\"{proxy}\"]\n");
    for proxy in [
        "fe80::1%eth0",
        "fe80::1%1",
        "fe80::%1/10",
        "fe80::1%1/128",
        "[fe80::1]",
        "10.0.0.7:80",
        "10.0.0.7/33",
        "10.0/8",
        "localhost",
        "*",
        "",
    ] {
        let problems = TestSettings::new(&with(proxy)).problems();
        assert!(
            problems[0].starts_with("server.trusted_proxies.0"),
            "{problems:#?}"
        );
    }
    for proxy in [
        "fe80::1",
        "fe80::/10",
        "10.0.0.7",
        "::ffff:10.0.0.7",
        "::ffff:10.0.0.0/104",
    ] {
        assert!(TestSettings::new(&with(proxy)).load().is_ok(), "{proxy}");
    }
}

#[test]
fn x_05_the_operations_listener_has_an_address_of_its_own() {
    let with = |public: &str, operations: &str| {
        TestSettings::new(&format!(
            "{SMALL}\n[server]\nlisten = \"{public}\"\n[operations]\nlisten = \"{operations}\"\n"
        ))
    };
    for (public, operations) in [
        ("127.0.0.1:4180", "127.0.0.1:4180"),
        ("127.0.0.1:4180", "0.0.0.0:4180"),
        ("127.0.0.1:4180", "[::]:4180"),
    ] {
        let problems = with(public, operations).problems();
        assert_eq!(keys_of(&problems), ["operations.listen"], "{problems:#?}");
    }
    assert!(with("127.0.0.1:4180", "0.0.0.0:9180").load().is_ok());
    assert!(
        TestSettings::new(SMALL)
            .load()
            .unwrap()
            .operations
            .is_none()
    );
}

#[test]
fn x_09_an_open_route_is_written_with_the_word_public_alone() {
    let with = |access: &str| TestSettings::new(&format!("{SMALL}\n[[routes]]\n{access}\n"));
    for access in [
        "\"open\"",
        "\"Public\"",
        "\"PUBLIC\"",
        "\" public\"",
        "\"none\"",
        "\"anonymous\"",
        "\"everybody\"",
        "\"*\"",
        "\"\"",
        "true",
        "false",
        "0",
        "[]",
        "[\"public\"]",
        "{}",
        "{ public = true }",
        "{ any_of = {} }",
        "{ any_of = { groups = [] } }",
    ] {
        let problems = with(&format!("access = {access}")).problems();
        assert!(
            problems[0].starts_with("routes.0"),
            "{access}: {problems:#?}"
        );
    }
    for key in ["public = true", "auth = false", "skip_auth = true"] {
        assert_eq!(with(key).problems().len(), 1, "{key}");
    }
    for (access, open) in [
        ("", false),
        ("access = \"signed-in\"", false),
        ("access = \"public\"", true),
    ] {
        let config = with(access).load().unwrap();
        assert!(
            config
                .site
                .routes
                .iter()
                .all(|route| route.is_public() == open),
            "{access}"
        );
    }
}

#[test]
fn g_11_a_callback_path_neither_is_nor_hides_an_endpoint_of_ours() {
    let with = |path: &str| {
        TestSettings::new(&format!(
            "{}\n[login]\ncallback_path = \"{path}\"\n",
            two_providers()
        ))
    };
    for taken in [
        "/",
        "/x/",
        "/oauth2",
        "/oauth2/sign_in",
        "/oauth2/sign_out",
        "/oauth2/signed_out",
    ] {
        let problems = with(taken).problems();
        assert_eq!(
            keys_of(&problems),
            ["login.callback_path"],
            "{taken}: {problems:#?}"
        );
    }
    for free in ["/oauth2/callback", "/oauth2/sign", "/auth", "/login/oauth2"] {
        assert!(with(free).load().is_ok(), "{free}");
    }
}

#[test]
fn buffers_that_mean_nothing_are_problems() {
    let with = |route: &str| TestSettings::new(&format!("{SMALL}\n[[routes]]\n{route}\n"));
    for (route, key) in [
        (
            "stream = true\nbuffers.request_kib = 16",
            "routes.0.buffers.request_kib",
        ),
        (
            "buffers.request_kib = 65537",
            "routes.0.buffers.request_kib",
        ),
        ("buffers.answer_kib = -1", "routes.0.buffers.answer_kib"),
        ("buffers.answer_kib = 32769", "routes.0.buffers.answer_kib"),
        (
            "stream = true\nbuffers.whole_request = true",
            "routes.0.buffers.whole_request",
        ),
        (
            "buffers = { whole_request = true, request_kib = 0 }",
            "routes.0.buffers.request_kib",
        ),
        (
            "buffers = { whole_request = true, request_kib = 16385 }",
            "routes.0.buffers.request_kib",
        ),
        (
            "buffers.request_spill_mib = 16",
            "routes.0.buffers.request_spill_mib",
        ),
        (
            "buffers.answer_spill_mib = 16",
            "routes.0.buffers.answer_spill_mib",
        ),
        (
            "buffers.request_spill_mib = 1048577",
            "routes.0.buffers.request_spill_mib",
        ),
        ("buffers.kib = 5", "routes.0.buffers"),
    ] {
        let problems = with(route).problems();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert!(problems[0].starts_with(key), "{route}: {problems:#?}");
    }
    for route in [
        "stream = true",
        "stream = true\nbuffers.answer_kib = 0",
        "buffers.whole_request = true",
        "buffers = { whole_request = true, request_kib = 16384 }",
        "buffers = { request_kib = 32768, answer_kib = 32768 }",
    ] {
        assert!(with(route).load().is_ok(), "{route}");
    }
}

#[test]
fn files_that_no_body_can_use_are_problems() {
    let folder = tempfile::tempdir().unwrap();
    let with = |server: &str, route: &str| {
        let server = format!("{server}\nspill_dir = {:?}", folder.path());
        TestSettings::new(&format!(
            "{SMALL}\n[server]\n{server}\n[[routes]]\n{route}\n"
        ))
    };
    for (server, route, key) in [
        ("", "", "server.spill_dir"),
        (
            "spill_mib = 10",
            "buffers.request_spill_mib = 6",
            "routes.0.buffers.request_spill_mib",
        ),
        (
            "",
            "buffers.answer_spill_mib = 513",
            "routes.0.buffers.answer_spill_mib",
        ),
        (
            "",
            "buffers = { request_kib = 2048, request_spill_mib = 2 }",
            "routes.0.buffers.request_spill_mib",
        ),
        (
            "",
            "buffers = { request_kib = 0, request_spill_mib = 2 }",
            "routes.0.buffers.request_kib",
        ),
        (
            "",
            "buffers = { answer_kib = 0, answer_spill_mib = 2 }",
            "routes.0.buffers.answer_kib",
        ),
        (
            "",
            "stream = true\nbuffers.request_spill_mib = 2",
            "routes.0.buffers.request_spill_mib",
        ),
    ] {
        let problems = with(server, route).problems();
        assert_eq!(keys_of(&problems), [key], "{server} {route}: {problems:#?}");
    }
    for route in [
        "buffers = { whole_request = true, request_spill_mib = 512 }",
        "stream = true\nbuffers.answer_spill_mib = 2",
    ] {
        assert!(with("", route).load().is_ok(), "{route}");
    }
}

#[test]
fn settings_of_streams_that_mean_nothing_are_problems() {
    let with =
        |streams: &str| TestSettings::new(&format!("{SMALL}\n[[routes]]\nstreams = {streams}\n"));
    for (streams, key) in [
        (
            "{ upgrades = false, origins = [\"https://a.test\"] }",
            "routes.0.streams.origins",
        ),
        (
            "{ upgrades = false, per_client = 9 }",
            "routes.0.streams.per_client",
        ),
        (
            "{ upgrades = false, max_lag_kib = 16 }",
            "routes.0.streams.max_lag_kib",
        ),
        ("{ max_lag_kib = 0 }", "routes.0.streams.max_lag_kib"),
        ("{ origins = [\"*\"] }", "routes.0.streams.origins"),
        ("{ idle_secs = 99999999 }", "routes.0.streams.idle_secs"),
        ("{ grace_secs = 604801 }", "routes.0.streams.grace_secs"),
        ("{ grace_secs = -1 }", "routes.0.streams.grace_secs"),
        ("{ timeout = 5 }", "routes.0.streams"),
    ] {
        let problems = with(streams).problems();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert!(problems[0].starts_with(key), "{streams}: {problems:#?}");
    }
    for streams in [
        "{}",
        "{ upgrades = false }",
        // `idle_secs`, `total_secs`, `counts_as_use` and `grace_secs` also apply to long answers,
        // such as event streams.
        "{ upgrades = false, idle_secs = 0, total_secs = 60, counts_as_use = false, grace_secs = 9 }",
        "{ origins = [\"https://a.test\"], total_secs = 60 }",
    ] {
        with(streams).load().unwrap();
    }
}

#[test]
fn c_23_a_wrong_value_of_the_guard_against_other_sites_is_a_problem() {
    let with = |route: &str| TestSettings::new(&format!("{SMALL}\n[[routes]]\n{route}\n"));
    for cross_site in ["\"refuse\"", "\"allow\"", "[\"https://a.test\"]"] {
        for access in ["", "access = \"public\"\n"] {
            let route = format!("{access}cross_site = {cross_site}");
            with(&route).load().unwrap();
        }
    }
    for cross_site in ["true", "\"off\"", "[]", "[\"*\"]", "\"https://a.test\""] {
        let problems = with(&format!("cross_site = {cross_site}")).problems();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        let key = "routes.0.cross_site";
        assert!(problems[0].starts_with(key), "{cross_site}: {problems:#?}");
    }
}

#[test]
fn settings_of_upgrades_mean_nothing_for_an_app_that_speaks_http_2() {
    let upstream = "url = \"http://127.0.0.1:8080\"";
    assert!(SMALL.contains(upstream), "{SMALL}");
    let with = |more: &str, routes: &str| {
        let http2 = format!("{upstream}\nprotocol = \"http2\"\n{more}");
        TestSettings::new(&format!("{}\n{routes}\n", SMALL.replace(upstream, &http2)))
    };
    for (more, routes, key) in [
        ("tunnels = 10000", "", "upstreams.app.tunnels"),
        (
            "title_case_fields = true",
            "",
            "upstreams.app.title_case_fields",
        ),
        (
            "",
            "[[routes]]\nstreams = { per_client = 5 }",
            "routes.0.streams.per_client",
        ),
        (
            "",
            "[[routes]]\nbuffers.whole_request = true",
            "routes.0.buffers.whole_request",
        ),
    ] {
        let problems = with(more, routes).problems();
        assert_eq!(keys_of(&problems), [key], "{problems:#?}");
    }
    for routes in ["", "[[routes]]\nstreams = { upgrades = false }"] {
        with("", routes).load().unwrap();
    }
}

#[test]
fn a_proxy_that_asks_and_is_not_trusted_causes_a_warning() {
    let warnings = |server: &str| {
        let asking = "[[auth_check.proxies]]\nnetworks = ['10.0.0.0/24']\nkind = 'haproxy'\n";
        let settings = TestSettings::new(&format!("{SMALL}\n{server}\n{asking}"));
        settings.load().unwrap().warnings
    };
    let trusted = |network: &str| format!("[server]\ntrusted_proxies = ['{network}']\n");
    assert_eq!(warnings(&trusted("10.0.0.0/8")), [""; 0]);
    for server in [String::new(), trusted("10.0.0.0/25"), trusted("10.0.0.1")] {
        let said = warnings(&server);
        assert_eq!(said.len(), 1, "{server}: {said:?}");
        let start = "auth_check.proxies: `10.0.0.0/24` is not in server.trusted_proxies";
        assert!(said[0].starts_with(start), "{server}: {said:?}");
    }
}
