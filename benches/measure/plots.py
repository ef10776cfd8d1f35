"""Plots as SVG, for the README."""

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt  # noqa: E402

from .peers import KINDS  # noqa: E402

OURS, THEIRS, FAINT, INK, GRID = "#0b7a75", "#9fb1bd", "#d3dce2", "#22303a", "#e6ebef"
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#b8c4cc",
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Text is stored as text, for small files and the fonts of the reader.
    "svg.fonttype": "none",
    # The same data gives the same file.
    "svg.hashsalt": "sidegate",
}


def save(figure, path):
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def bars(axes, results, figure, names, title):
    """One bar for each proxy: median ratio to nginx on a logarithmic axis, with its quartiles."""
    ratios, spreads = results["ratios"], results["spread"]
    found = [name for name in names if name == "nginx" or f"{figure}.{name}_vs_nginx" in ratios]
    found.sort(key=lambda name: 1 if name == "nginx" else ratios[f"{figure}.{name}_vs_nginx"])
    for place, name in enumerate(reversed(found)):
        key = f"{figure}.{name}_vs_nginx"
        value = ratios.get(key, 1.0)
        low, high = spreads[key]["quartiles"] if key in spreads else (1.0, 1.0)
        ours = name == "sidegate"
        axes.barh(place, value - 0.5, left=0.5, height=0.62, color=OURS if ours else THEIRS)
        axes.plot([low, high], [place, place], color=INK, linewidth=1.2, alpha=0.55)
        text = f"{value:.2f}" if value < 10 else f"{value:.1f}"
        axes.annotate(
            text,
            (max(value, high), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontweight="bold" if ours else "normal",
            color=OURS if ours else INK,
        )
    axes.set_yticks(range(len(found)), [KINDS[name].label for name in reversed(found)])
    for label, name in zip(axes.get_yticklabels(), reversed(found)):
        if name == "sidegate":
            label.set_color(OURS)
            label.set_fontweight("bold")
    axes.set_xscale("log")
    axes.set_xlim(0.5, 40)
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 40], ["0.5", "1", "2", "5", "10", "20", "40"])
    axes.minorticks_off()
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11)


def side_by_side(results, path):
    """CPU per request and added latency of all proxies, as ratio to nginx."""
    names = [name for name in KINDS if name in results["versions"]]
    panels = [
        ("cpu_32", "CPU per signed-in request, 32 connections"),
        ("cpu_128", "CPU per signed-in request, 128 connections"),
        ("added_p50", "Added latency (median) at 1,000 requests a second"),
    ]
    with plt.rc_context(STYLE):
        figure, rows = plt.subplots(len(panels), 1, figsize=(8.4, 2.9 * len(panels)))
        for axes, (name, title) in zip(rows, panels):
            bars(axes, results, name, names, title)
        rows[-1].set_xlabel("ratio to nginx without authentication (logarithmic; lines are quartiles)")
        figure.tight_layout(h_pad=2.2)
        save(figure, path)


def scaling(results, path):
    """Cost per request by connections, sessions, routes and workers."""
    panels = [
        ("connections", "Connections"),
        ("sessions", "Live sessions"),
        ("routes", "Routes"),
        ("workers", "Workers"),
    ]
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(2, 2, figsize=(8.4, 5.6))
        for axes, (name, title) in zip(grid.flat, panels):
            points = results["scaling"][name]
            steps = [point["step"] for point in points]
            axes.plot(steps, [point["cpu_us"] for point in points], color=OURS, marker="o")
            axes.fill_between(
                steps,
                [point["quartiles"][0] for point in points],
                [point["quartiles"][1] for point in points],
                color=OURS,
                alpha=0.18,
                linewidth=0,
            )
            if name == "connections":
                others = [point["cpu_us"] for point in results["scaling"]["connections of nginx"]]
                axes.plot(steps, others, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
                axes.annotate("nginx", (steps[0], others[0]), (0, -12), textcoords="offset points")
            if name != "workers":
                axes.set_xscale("log")
            axes.set_xticks(steps, [short(step) for step in steps])
            axes.minorticks_off()
            axes.set_ylim(0, 1.25 * max(point["quartiles"][1] for point in points))
            axes.grid(color=GRID)
            axes.set_axisbelow(True)
            axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
            axes.set_ylabel("CPU per request, us")
        figure.tight_layout(h_pad=2)
        save(figure, path)


def short(number):
    """A rounded number with enough distance to its neighbours."""
    for size, unit in ((1_000_000, "M"), (1000, "k")):
        if number >= size:
            return f"{number // size}{unit}"
    return str(number)
