"""Compares Sidegate with other proxies: rounds, ratios, report. Started by `benches/side-by-side`."""

import dataclasses
import json
import random
import statistics
import subprocess
import sys
import time

from . import machine, options, peers, plots, report
from .browser import session_cookie
from .load import FIGURES, MOST_FOREIGN, Load
from .places import DRIVE, PROGRAM, TARGET
from .stage import Stage, Wrong

RULE = (
    "A window counts only if the generator got only 2xx answers, the app got as many requests as were "
    "answered, the proxy's answer just before equalled the app's byte for byte, and its token reached the "
    "app. Otherwise it is wrong. A window also does not count if all other work on the machine took more "
    f"than {MOST_FOREIGN:.0%} of a core. Then it is disturbed. A ratio compares two windows of one round that "
    "both count. The cores of app and load are kept awake."
)
# The proxies that also listen with TLS.
BY_TLS = ("nginx", "haproxy", "sidegate")
RATE = 1000


def main():
    arguments = parse()
    wanted = arguments.peers.split(",") if arguments.peers else list(peers.KINDS)
    present = [name for name in wanted if peers.available(name)]
    for name in wanted:
        if name not in present:
            print(f"{name}: not on this machine, left out")
    began = time.time()
    with Stage(PROGRAM) as stage:
        run = Run(stage, present, arguments)
        run.prepare()
        for number in range(arguments.rounds):
            run.round(number)
            spent = time.time() - began
            print(f"round {number + 1} of {arguments.rounds}: {spent:.0f} s", flush=True)
        results = run.results(began)
    (TARGET / "bench/windows.json").write_text(json.dumps(run.raw()), encoding="utf-8")
    report.write(results, arguments.output)
    plots.side_by_side(results, arguments.output / "side-by-side.svg")
    print((arguments.output / "side-by-side.md").read_text(encoding="utf-8"))


def parse():
    parser = options.parser("side-by-side", "less than ten minutes")
    parser.add_argument("--peers", help=",".join(peers.KINDS))
    return options.read(parser, (3, 1), (11, 2))


class Run:
    """One comparison, from the start of the proxies to the results."""

    def __init__(self, stage, present, arguments):
        self.stage = stage
        self.present = present
        self.arguments = arguments
        self.plain = {}
        self.by_tls = {}
        self.load = None
        self.windows = []
        self.latencies = []
        self.idle = {}
        self.loaded = {}

    def prepare(self):
        """Starts all proxies and signs in at each."""
        stage = self.stage
        stage.start_provider()
        folder = stage.folder / "certificates"
        subprocess.run([stage.program, "dev-certs", folder], check=True, capture_output=True)
        setting = peers.Setting(stage, "", folder / "localhost.pem", folder / "localhost-key.pem")
        app = peers.App(setting, stage)
        setting.app = f"127.0.0.1:{app.port}"
        self.load = Load(stage, app, self.arguments.seconds)
        for name in self.present:
            self.plain[name] = peers.start(name, setting)
        self.by_tls = {name: self.plain[name] for name in BY_TLS if name in self.plain}
        if "sidegate" in self.by_tls:
            self.by_tls["sidegate"] = peers.sidegate_tls(setting)
        self.idle = {
            name: machine.resident_bytes(peer.pids()) for name, peer in self.plain.items()
        }
        for peer in [*self.plain.values(), *self.by_tls.values()]:
            self.sign_in(peer)

    def sign_in(self, peer):
        """Creates a session at a proxy with sign-in. The others get the same cookie as Sidegate."""
        if not peer.signs_in or peer.cookie:
            return
        peer.cookie = session_cookie(self.stage, peer, self.load.tls)
        if peer.name == "sidegate":
            for other in [*self.plain.values(), *self.by_tls.values()]:
                if not other.signs_in:
                    other.cookie = peer.cookie

    def round(self, number):
        """Measures every figure of every proxy once, in a random order for the round."""
        shuffled = random.Random(number)
        for figure in FIGURES:
            taking = self.by_tls if figure.tls else self.plain
            for name in shuffled.sample(list(taking), len(taking)):
                window = self.load.window(taking[name], figure, number)
                self.windows.append(window)
                if window.wrong:
                    print(f"{name} {figure.name}: {'; '.join(window.wrong)}", flush=True)
        order = shuffled.sample(list(self.plain), len(self.plain))
        slices = 2 * self.arguments.seconds
        shown = self.load.latencies(DRIVE, {name: self.plain[name] for name in order}, slices, RATE)
        self.latencies.append(shown)
        for name, peer in self.plain.items():
            self.loaded[name] = machine.resident_bytes(peer.pids())

    # Results

    def pairs(self, disturbed_too=False):
        """Ratios by name: one for each round in which both windows are valid."""
        ratios = {}
        counting = {
            (window.figure, window.peer, window.round): window.cpu
            for window in self.windows
            if window.counts or (disturbed_too and not window.wrong)
        }
        rounds = range(self.arguments.rounds)
        for figure in FIGURES:
            names = {window.peer for window in self.windows if window.figure == figure.name}
            for above, below in compared(names):
                found = [
                    counting[figure.name, above, number] / counting[figure.name, below, number]
                    for number in rounds
                    if (figure.name, above, number) in counting
                    and (figure.name, below, number) in counting
                ]
                ratios[f"{figure.name}.{above}_vs_{below}"] = found
        for above, below in compared(set(self.plain)):
            found = []
            for shown in self.latencies:
                direct = median_of(shown["direct"])
                added = {name: median_of(slices) - direct for name, slices in shown.items()}
                # If a proxy seems to add no latency, the machine was busy with other work.
                if added[below] > 0 and added[above] > 0:
                    found.append(added[above] / added[below])
            ratios[f"added_p50.{above}_vs_{below}"] = found
        return {name: found for name, found in ratios.items() if found}

    def results(self, began):
        program = self.stage.program
        pairs = self.pairs()
        described = machine.description()
        return {
            "what": "CPU of a proxy per request (and added latency) as ratio to another's, medians",
            "command": " ".join(["benches/side-by-side", *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(began)),
            "seconds": round(time.time() - began),
            "machine": described,
            "versions": {name: peers.version(name, program) for name in self.present},
            "rule": RULE,
            "ratios": medians(pairs),
            "ratios_with_disturbed_windows": medians(self.pairs(disturbed_too=True)),
            "spread": {name: spread(found) for name, found in pairs.items()},
            "microseconds": self.microseconds(),
            "latency_microseconds": self.latency_microseconds(),
            "resident_mib": {
                name: {
                    "idle": round(self.idle[name] / 2**20, 1),
                    "after": round(self.loaded.get(name, 0) / 2**20, 1),
                }
                for name in self.plain
            },
            "windows": {
                "all": len(self.windows),
                "disturbed": sum(window.disturbed for window in self.windows),
                "wrong": sum(bool(window.wrong) for window in self.windows),
            },
        }

    def raw(self):
        """Every window and slice, to check a result in detail."""
        windows = [dataclasses.asdict(window) for window in self.windows]
        return {"windows": windows, "latencies": self.latencies}

    def microseconds(self):
        """CPU per request in absolute values, which depend on the machine."""
        found = {}
        for window in self.windows:
            if window.counts:
                found.setdefault(f"{window.figure}.{window.peer}", []).append(window.cpu)
        return {name: round(statistics.median(costs), 2) for name, costs in found.items()}

    def latency_microseconds(self):
        """Medians over all slices of the median and the 99th percentile of each slice."""
        found = {}
        for shown in self.latencies:
            for name, slices in shown.items():
                found.setdefault(name, []).extend(slices)
        return {
            name: {
                "p50": round(statistics.median(one[0] for one in slices), 1),
                "p99": round(statistics.median(one[2] for one in slices), 1),
            }
            for name, slices in found.items()
        }


def medians(pairs):
    return {name: round(statistics.median(found), 4) for name, found in pairs.items()}


def compared(names):
    """All proxies compared with nginx, Sidegate compared with all proxies, and the proxies that ask Sidegate and the
    proxies with sessions in Redis compared with their alternatives."""
    others = sorted(names - {"nginx"})
    if "nginx" in names:
        yield from ((name, "nginx") for name in others)
    if "sidegate" in names:
        yield from (("sidegate", name) for name in others if name != "sidegate")
    pairs = peers.AUTH_CHECKS + peers.STORES
    yield from (pair for pair in pairs if names.issuperset(pair))


def median_of(slices):
    return statistics.median(one[0] for one in slices)


def spread(found):
    quartiles = statistics.quantiles(found, n=4) if len(found) > 1 else [found[0]] * 3
    return {
        "quartiles": [round(quartiles[0], 4), round(quartiles[2], 4)],
        "range": [round(min(found), 4), round(max(found), 4)],
        "rounds": len(found),
    }


if __name__ == "__main__":
    try:
        main()
    except (Wrong, OSError, subprocess.CalledProcessError, json.JSONDecodeError) as wrong:
        sys.exit(f"side-by-side: {wrong}")
