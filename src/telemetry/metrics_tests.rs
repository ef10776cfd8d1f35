use super::*;
use crate::telemetry::DecisionLabel;

/// Returns the names of all metrics, as the `OpenMetrics` text contains them.
fn names(text: &str) -> Vec<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let named = types.map(|line| {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        format!("{name}{suffix}")
    });
    named.collect()
}

#[test]
fn the_documentation_lists_every_metric() {
    let page = include_str!("../../docs/operations.md");
    let (_, section) = page.split_once("## Metrics\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut listed: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    let metrics = Metrics::default();
    // A metric appears in the text only after it has a value.
    let routes = metrics.request_counters(["app".into()]);
    let (decided, status) = (DecisionLabel::Permit, StatusCode::OK);
    routes.count(Some(0), decided, status, Duration::ZERO);
    metrics.login("ok", "signed_in");
    metrics.token_call("main", TokenCall::Code, "ok", Duration::ZERO);
    metrics.refresh("main", "renewed", "renewed");
    metrics.refused_token("app", "passed");
    metrics.informational("app", StatusCode::EARLY_HINTS);
    metrics.groups_left_out("main", 1);
    metrics.broken_answer("app", "client_gone");
    metrics.evicted("app", "request", "slow_client");
    metrics.refused_spill("full");
    metrics.refusal("malformed");
    metrics.shed_connection("idle");
    metrics.unreadable_sessions([("damaged", 1), ("newer", 1), ("unknown_key", 1)]);
    metrics.stream("app", "response").count_end("complete");
    metrics.reload(Reload::Applied);
    let mut names = names(&metrics.encode());
    let registered = include_str!("metrics.rs")
        .matches("registry.register(")
        .count();
    let ours = names.iter().filter(|name| name.starts_with("sidegate_"));
    assert_eq!(
        ours.count(),
        registered,
        "this test has to count every metric"
    );
    listed.sort_unstable();
    names.sort_unstable();
    assert_eq!(listed, names);
}

#[test]
fn names_follow_the_conventions_of_prometheus() {
    let text = Metrics::default().encode();
    for name in names(&text) {
        let has_prefix = name.starts_with("sidegate_") || name.starts_with("process_");
        assert!(has_prefix, "{name}");
        for unit in ["milliseconds", "_ms", "minutes", "kilobytes", "percent"] {
            assert!(!name.contains(unit), "{name}");
        }
    }
    let value = |name: &str| {
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map(|value| value.parse::<f64>().unwrap())
    };
    // On Linux, the process can read all values that are listed here.
    for (name, least) in [
        ("process_cpu_seconds_total", 0.0),
        ("process_start_time_seconds", 1.6e9),
        ("process_resident_memory_bytes", 1e6),
        ("process_open_fds", 3.0),
        ("process_max_fds", 3.0),
    ] {
        let value = value(name);
        assert!(
            value.is_some_and(|value| value >= least),
            "{name}: {value:?}"
        );
    }
}

#[test]
fn logins_sessions_and_token_calls_are_shown() {
    let metrics = Metrics::default();
    metrics.login("failed", "state_expired");
    metrics.token_call("main", TokenCall::Code, "ok", Duration::from_millis(20));
    metrics.refresh("main", "ended", "refresh_refused");
    metrics.refused_token("app", "retried");
    metrics.groups_left_out("main", 3);
    metrics.evicted("app", "request", "slow_client");
    metrics.sessions(7, 2);
    metrics.unreadable_sessions([("damaged", 4), ("newer", 0), ("unknown_key", 0)]);
    let lasting = (metrics.waiting(), metrics.refreshing());
    assert!(metrics.encode().contains("sidegate_waiting_requests 1"));
    assert!(metrics.encode().contains("sidegate_refreshes_under_way 1"));
    drop(lasting);
    let text = metrics.encode();
    for line in [
        "sidegate_logins_total{result=\"failed\",reason=\"state_expired\"} 1",
        "sidegate_token_calls_total{provider=\"main\",grant=\"authorization_code\",result=\"ok\"} 1",
        "sidegate_refreshes_total{provider=\"main\",result=\"ended\",reason=\"refresh_refused\"} 1",
        "sidegate_refused_tokens_total{route=\"app\",outcome=\"retried\"} 1",
        "sidegate_groups_left_out_total{provider=\"main\"} 3",
        "sidegate_evictions_total{route=\"app\",kind=\"request\",reason=\"slow_client\"} 1",
        "sidegate_waiting_requests 0",
        "sidegate_refreshes_under_way 0",
        "sidegate_sessions 7",
        "sidegate_sessions_pushed_out_total 2",
        "sidegate_unreadable_sessions_total{reason=\"damaged\"} 4",
        "sidegate_unreadable_sessions_total{reason=\"newer\"} 0",
        concat!(
            "sidegate_build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1"
        ),
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
