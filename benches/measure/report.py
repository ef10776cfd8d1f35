"""Results as a file for programs and as a table for people."""

import json

from .load import FIGURES
from .peers import AUTH_CHECKS, KINDS, STORES

# The targets for Sidegate, as ratios: the limit and the goal.
GOALS = {
    "cpu_32.sidegate_vs_nginx": (1.25, 1.05),
    "cpu_128.sidegate_vs_nginx": (1.30, 1.05),
    "cpu_32.sidegate_vs_envoy_oauth2": (0.25, 0.15),
    "cpu_32.sidegate_vs_mod_auth_openidc": (0.18, 0.10),
    "cpu_32.sidegate_vs_oauth2_proxy": (0.08, 0.05),
    "cpu_32.sidegate_vs_nginx_oauth2_proxy": (0.13, 0.09),
    "cpu_32.sidegate_vs_nginx_auth_request": (0.60, 0.40),
    "cpu_32.nginx_sidegate_vs_nginx_oauth2_proxy": (0.32, None),
    "cpu_32.nginx_sidegate_vs_nginx_auth_request": (None, 1.20),
    "added_p50.sidegate_vs_nginx": (1.15, 0.95),
    "cpu_32.sidegate_redis_vs_oauth2_proxy_redis": (0.07, 0.06),
    "response_100k.sidegate_vs_nginx": (0.65, 0.55),
    "post_4k.sidegate_vs_nginx": (1.30, 1.10),
    "tls_handshake.sidegate_vs_nginx": (0.65, 0.50),
    "tls_request.sidegate_vs_nginx": (1.20, 1.00),
    "http2_request.sidegate_vs_nginx": (1.20, 1.00),
}


def write(results, folder):
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (folder / "side-by-side.json").write_text(text + "\n", encoding="utf-8")
    (folder / "side-by-side.md").write_text(markdown(results), encoding="utf-8")


def ratio(results, name, bare=False):
    """A median, with its quartiles and rounds."""
    if name not in results["ratios"]:
        return "-"
    median, spread = results["ratios"][name], results["spread"][name]
    if bare:
        return f"{median:.2f}"
    low, high = spread["quartiles"]
    return f"**{median:.2f}** [{low:.2f}-{high:.2f}]"


def limit_text(limit):
    return "-" if limit is None else f"{limit:.2f}"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def markdown(results):
    measured = results["machine"]
    rounds = max((spread["rounds"] for spread in results["spread"].values()), default=0)
    names = [name for name in KINDS if name in results["versions"]]
    windows = results["windows"]
    parts = [
        "# Comparison with other proxies",
        f"`{results['command']}`, {results['date']}, commit {measured['commit']}; "
        f"{measured['processor']}, {measured['cores']} cores, {measured['system']}, "
        f"kernel {measured['kernel']}.",
        f"The cost of a request is the CPU time of the proxy's processes. Cells are **medians** "
        f"[quartiles] over {rounds} rounds of the ratio to nginx in the same round. nginx does no "
        f"authentication. Its row shows the value of 1.00 in microseconds on this machine.",
        results["rule"]
        + f" Of {windows['all']} windows, {windows['disturbed']} were disturbed and "
        f"{windows['wrong']} wrong.",
        "## CPU per request, ratio to nginx",
        figures_table(results, names, [figure for figure in FIGURES if not figure.tls]),
        "## TLS and HTTP/2, ratio to nginx",
        figures_table(
            results,
            [name for name in names if f"tls_request.{name}" in results["microseconds"]],
            [figure for figure in FIGURES if figure.tls],
        ),
        "## Latency at 1,000 requests a second",
        latency_table(results, names),
        "## Sidegate compared with each",
        table(
            ["GET, CPU per request", "1 connection", "32 connections", "128 connections"],
            [
                [KINDS[name].label]
                + [
                    ratio(results, f"cpu_{count}.sidegate_vs_{name}")
                    for count in (1, 32, 128)
                ]
                for name in names
                if name != "sidegate"
            ],
        ),
        "## Auth checks of other proxies",
        pairs_table(results, names, AUTH_CHECKS),
        "## Sessions in Redis",
        pairs_table(results, names, STORES),
        "## Goals",
        table(
            ["ratio", "limit", "goal", "measured"],
            [
                [f"`{name}`", limit_text(must), limit_text(aim), ratio(results, name)]
                for name, (must, aim) in GOALS.items()
            ],
        ),
        "## Versions and memory",
        table(
            ["", "version", "resident idle, MiB", "after the run, MiB"],
            [
                [
                    KINDS[name].label,
                    results["versions"][name],
                    str(results["resident_mib"][name]["idle"]),
                    str(results["resident_mib"][name]["after"]),
                ]
                for name in names
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def figures_table(results, names, figures):
    rows = []
    for name in names:
        if name == "nginx":
            costs = [results["microseconds"].get(f"{figure.name}.nginx") for figure in figures]
            cells = ["-" if cost is None else f"1.00 ({cost:.1f} us)" for cost in costs]
        else:
            cells = [ratio(results, f"{figure.name}.{name}_vs_nginx") for figure in figures]
        rows.append([KINDS[name].label, *cells])
    return table(["", *(figure.title for figure in figures)], rows)


def pairs_table(results, names, pairs):
    """The CPU of one proxy compared with another proxy."""
    head = ["GET, CPU per request", "compared with", "1 connection", "32 connections", "128 connections"]
    rows = [
        [KINDS[above].label, KINDS[below].label]
        + [ratio(results, f"cpu_{count}.{above}_vs_{below}") for count in (1, 32, 128)]
        for above, below in pairs
        if above in names and below in names
    ]
    return table(head, rows)


def latency_table(results, names):
    """Latency is measured from the scheduled time of a request."""
    shown = results["latency_microseconds"]
    direct = shown["direct"]["p50"]
    rows = [["no proxy", f"{direct:.0f}", "-", f"{shown['direct']['p99']:.0f}", "-"]]
    for name in names:
        added = shown[name]["p50"] - direct
        rows.append(
            [
                KINDS[name].label,
                f"{shown[name]['p50']:.0f}",
                f"{added:+.0f}",
                f"{shown[name]['p99']:.0f}",
                "1.00" if name == "nginx" else ratio(results, f"added_p50.{name}_vs_nginx"),
            ]
        )
    head = ["", "median, us", "added, us", "99th percentile, us", "added, ratio to nginx"]
    return table(head, rows)
