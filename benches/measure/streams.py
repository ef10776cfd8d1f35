"""The cost of streams compared with nginx. Started by `benches/streams`."""

import dataclasses
import json
import random
import resource
import statistics
import subprocess
import sys
import time

from . import machine, options, peers, stream_peers
from .browser import session_cookie
from .compare import medians, spread
from .load import MOST_FOREIGN, Figure, Load, Seen
from .places import DRIVE, PROGRAM, TARGET
from .report import table
from .stage import Stage, Wrong

GB = 1_000_000_000
CALL = "/bench.Echo/Unary"
FIGURES = [
    Figure("websocket_64", "WebSocket message of 64 bytes, 32 connections", 32, "/socket",
           generator="messages", size=64),
    Figure("websocket_64k", "WebSocket message of 64 KB, 8 connections", 8, "/socket",
           generator="messages", size=64 * 1024),
    Figure("grpc_unary", "gRPC unary call, 8 connections with 10 calls each", 8, CALL,
           generator="calls", tls=True, size=64),
    Figure("download", "1 GB download", 1, f"/download?{GB}", generator="transfer", size=GB),
    Figure("upload", "1 GB upload", 1, "/upload", posted=True, generator="transfer", size=GB),
]
IDLE = "idle_websocket"
# The limit and the goal of each ratio to nginx.
GOALS = {
    "websocket_64": (1.3, 1.0),
    "websocket_64k": (1.0, 0.8),
    IDLE: (1.2, 0.8),
    "grpc_unary": (1.5, 1.1),
    "download": (1.0, 0.8),
    "upload": (1.1, 0.9),
}
# The number of idle WebSockets. Each needs two open files of the proxy, and the process needs some more.
SOCKETS, OTHER_FILES = 10_000, 600
RULE = (
    "A window counts only if the generator got each echo and each answer complete, and the app completed as many "
    "messages, calls or bodies as the generator counted. Otherwise it is wrong. A window also does not count if all "
    f"other work on the machine took more than {MOST_FOREIGN:.0%} of a core. Then it is disturbed. A ratio compares "
    "two windows of one round that both count. The cores of app and load are kept awake."
)


def main():
    arguments = parse()
    machine.allow_many_files()
    began = time.time()
    with Stage(PROGRAM) as stage:
        run = Run(stage, arguments)
        for number in range(arguments.rounds):
            run.round(number)
            print(f"round {number + 1} of {arguments.rounds}: {time.time() - began:.0f} s", flush=True)
        results = run.results(began)
    raw = [dataclasses.asdict(window) for window in run.windows]
    (TARGET / "bench/stream_windows.json").write_text(json.dumps(raw), encoding="utf-8")
    text = json.dumps(results, indent=1)
    (arguments.output / "streams.json").write_text(text + "\n", encoding="utf-8")
    (arguments.output / "streams.md").write_text(markdown(results), encoding="utf-8")
    print(markdown(results))


def parse():
    return options.read(options.parser("streams", "about two minutes"), (3, 1), (11, 2))


class StreamLoad(Load):
    """The load of streams."""

    def fields(self, peer):
        host = self.stage.provider.host
        agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
        origin = f"http://{host}"
        return {"Host": host, "User-Agent": agent, "Origin": origin, "Cookie": peer.cookie}

    def canary(self, peer, figure):
        status, seen = self.get(peer, "/seen", figure.tls)
        if status != 200 or (peer.signs_in and b"=Bearer ey" not in seen):
            return [f"no token reached the app ({status})"]
        return []

    # The generators

    def driven(self, subcommand, options):
        said = self.generated([DRIVE, subcommand, *options])
        try:
            return Seen(json.loads(said)["requests"], [])
        except ValueError:
            return Seen(0, [f"{subcommand} failed: {said[-300:]}"])

    def request(self, peer, path, more, method="GET"):
        fields = {**self.fields(peer), **more}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return self.stage.write(f"{peer.name}.request", f"{method} {path} HTTP/1.1\r\n{lines}\r\n")

    def messages(self, peer, figure, seconds):
        options = ["--connections", figure.connections, "--size", figure.size, "--seconds", seconds]
        head = self.request(peer, figure.path, HANDSHAKE)
        return self.driven("messages", [*options, peer.port, head])

    def transfer(self, peer, figure, seconds):
        """The measured time does not depend on `seconds`, so the body of the warm-up is as large."""
        del seconds
        if figure.posted:
            head = self.request(peer, figure.path, {"Content-Length": figure.size}, "POST")
            options = ["--upload", figure.size]
        else:
            head = self.request(peer, figure.path, {})
            options = ["--download", figure.size]
        return self.driven("transfer", [*options, peer.port, head])

    def calls(self, peer, figure, seconds):
        """The message follows a byte for its compression and four for its length."""
        call = self.stage.folder / "call"
        call.write_bytes(bytes(1) + figure.size.to_bytes(4) + bytes(figure.size))
        more = {"Content-Type": "application/grpc", "TE": "trailers"}
        return self.h2load(peer, figure, seconds, more, call)


HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    # The example of RFC 6455.
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class Run:
    """One comparison, from the start of the proxies to the results."""

    def __init__(self, stage, arguments):
        self.stage = stage
        self.arguments = arguments
        self.windows = []
        self.memory = []
        stage.start_provider()
        folder = stage.folder / "certificates"
        subprocess.run([stage.program, "dev-certs", folder], check=True, capture_output=True)
        self.app = stream_peers.App(stage)
        self.setting = peers.Setting(
            stage, "", folder / "localhost.pem", folder / "localhost-key.pem"
        )
        self.load = StreamLoad(stage, self.app, arguments.seconds)
        setting, app = self.setting, self.app
        self.plain = [stream_peers.nginx(setting, app), stream_peers.sidegate(setting, app)]
        self.by_tls = [stream_peers.nginx_grpc(setting, app), stream_peers.sidegate_grpc(setting, app)]
        self.sign_in(self.plain)
        self.sign_in(self.by_tls)
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.sockets = min(SOCKETS, (files - OTHER_FILES) // 2)

    def sign_in(self, pair):
        """nginx gets the same cookie as Sidegate."""
        cookie = session_cookie(self.stage, pair[-1], self.load.tls)
        for peer in pair:
            peer.cookie = cookie

    def round(self, number):
        """Measures every figure of both proxies once, in a random order for the round."""
        shuffled = random.Random(number)
        for figure in shuffled.sample(FIGURES, len(FIGURES)):
            for peer in shuffled.sample(self.by_tls if figure.tls else self.plain, 2):
                window = self.load.window(peer, figure, number)
                self.windows.append(window)
                if window.wrong:
                    print(f"{peer.name} {figure.name}: {'; '.join(window.wrong)}", flush=True)
        kinds = [stream_peers.nginx, stream_peers.sidegate]
        cost = {kind.__name__: self.idle(kind, number) for kind in shuffled.sample(kinds, 2)}
        self.memory.append(cost)

    def idle(self, kind, number):
        """The bytes of an idle WebSocket, in a new process, because a process keeps freed memory."""
        name = f"{kind.__name__}-idle-{number}"
        peer = kind(self.setting, self.app, name)
        peer.cookie = self.plain[0].cookie
        if peer.signs_in:
            peer.cookie = session_cookie(self.stage, peer, None)
        handshake = self.load.request(peer, "/socket", HANDSHAKE)
        command = [DRIVE, "sockets", "--count", self.sockets, peer.port, handshake]
        before = machine.resident_bytes(peer.pids())
        with subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=machine.place(machine.OTHER_CORES),
        ) as running:
            if not running.stdout.readline():
                raise Wrong(f"{name}: the WebSockets could not be opened")
            after = machine.resident_bytes(peer.pids())
            running.communicate("")
        self.stage.stop(name)
        return (after - before) / self.sockets

    # Results

    def values(self, disturbed_too=False):
        """The valid values of each figure: by figure, proxy and round."""
        found = {
            (window.figure, window.peer, window.round): window.cpu
            for window in self.windows
            if window.counts or (disturbed_too and not window.wrong)
        }
        for number, costs in enumerate(self.memory):
            found |= {(IDLE, name, number): cost for name, cost in costs.items()}
        return found

    def ratios(self, values):
        """Ratios to nginx: one for each round in which both windows are valid."""
        found = {}
        for name in GOALS:
            pairs = [
                (values.get((name, "sidegate", number)), values.get((name, "nginx", number)))
                for number in range(self.arguments.rounds)
            ]
            found[name] = [ours / theirs for ours, theirs in pairs if ours and theirs]
        return {name: ratios for name, ratios in found.items() if ratios}

    def results(self, began):
        ratios = self.ratios(self.values())
        every = self.values(disturbed_too=True)
        with_disturbed = self.ratios(every)
        costs = {}
        for (figure, peer, _), cost in every.items():
            costs.setdefault(f"{figure}.{peer}", []).append(cost)
        absolute = {name: round(statistics.median(found), 2) for name, found in costs.items()}
        return {
            "what": "CPU of Sidegate for streams, and memory of an idle WebSocket, as ratios to nginx",
            "command": " ".join(["benches/streams", *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(began)),
            "seconds": round(time.time() - began),
            "machine": machine.description(),
            "versions": {name: peers.version(name, PROGRAM) for name in ("nginx", "sidegate")},
            "rule": RULE,
            "sockets": self.sockets,
            "ratios": medians(ratios),
            "spread": {name: spread(found) for name, found in ratios.items()},
            "ratios_with_disturbed_windows": medians(with_disturbed),
            "spread_with_disturbed_windows": {
                name: spread(found) for name, found in with_disturbed.items()
            },
            "absolute": absolute,
            "foreign": round(statistics.median(window.foreign for window in self.windows), 4),
            "windows": {
                "all": len(self.windows),
                "disturbed": sum(window.disturbed for window in self.windows),
                "wrong": sum(bool(window.wrong) for window in self.windows),
            },
        }


def cell(results, name, which):
    """A median with its quartiles and the number of rounds."""
    if name not in results[f"ratios{which}"]:
        return "-"
    median, found = results[f"ratios{which}"][name], results[f"spread{which}"][name]
    low, high = found["quartiles"]
    return f"**{median:.2f}** [{low:.2f}-{high:.2f}] of {found['rounds']}"


def markdown(results):
    measured, windows = results["machine"], results["windows"]
    titles = {figure.name: f"{figure.title}: CPU, us" for figure in FIGURES}
    titles[IDLE] = f"idle WebSocket, {results['sockets']:,} of them: resident memory, bytes"
    rows = []
    for name, (must, aim) in GOALS.items():
        ours, theirs = (results["absolute"].get(f"{name}.{peer}", 0) for peer in ("sidegate", "nginx"))
        rows.append(
            [
                titles[name],
                cell(results, name, ""),
                cell(results, name, "_with_disturbed_windows"),
                f"{must:.2f}",
                f"{aim:.2f}",
                f"{ours:,.1f}",
                f"{theirs:,.1f}",
            ]
        )
    head = ["", "ratio", "with disturbed windows", "limit", "goal", "Sidegate", "nginx"]
    parts = [
        "# Streams compared with nginx",
        f"`{results['command']}`, {results['date']}, commit {measured['commit']}; "
        f"{measured['processor']}, {measured['cores']} cores, {measured['system']}, kernel {measured['kernel']}; "
        f"{results['versions']['sidegate']}, {results['versions']['nginx']}.",
        "The cost is the CPU time of the proxy's processes for one message and its echo, for one call, or for one "
        "body. Ratios are **medians** [quartiles] of the ratio to nginx in the same round, with the number of rounds. "
        "The last two columns are medians of all windows that are not wrong. nginx forwards without "
        "buffering and without authentication. gRPC comes over TLS and goes to the app without TLS; all other "
        "rows are without TLS.",
        f"{results['rule']} Of {windows['all']} windows, {windows['disturbed']} were disturbed and "
        f"{windows['wrong']} wrong. Other work took {results['foreign']:.1%} of a core (median of all windows).",
        table(head, rows),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    try:
        main()
    except (Wrong, OSError, subprocess.CalledProcessError) as wrong:
        sys.exit(f"streams: {wrong}")
