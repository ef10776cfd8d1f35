"""The cost of slow clients for other users, beside nginx. Started by `benches/slow-clients`."""

import asyncio
import json
import os
import random
import ssl
import statistics
import subprocess
import sys
import time

from . import machine, options, peers, stream_peers
from .browser import session_cookie
from .compare import medians, spread
from .peers import Peer
from .places import PROGRAM
from .report import table
from .stage import Stage, Wrong, free_port

ATTACKS = {
    "none": ("no attack", []),
    "uploads": ("300 uploads, HTTP/2", ["uploads"]),
    "readers": ("300 readers, HTTP/1.1", ["readers"]),
    "both": ("both at once", ["uploads", "readers"]),
}
# The limit and the goal of the ratio of the 99th percentiles.
GOAL = (2.0, 1.0)
# The requests of the other users: their rate, their connections, and the longest wait for an answer.
RATE, CONNECTIONS, LONGEST = 200, 32, 10
# The time for the first effects of an attack, before the measurement.
WARM_UP = 2
SHORT = 0.2


def main():
    arguments = parse()
    machine.allow_many_files()
    os.sched_setaffinity(0, machine.OTHER_CORES)
    began = time.time()
    with Stage(PROGRAM) as stage:
        run = Run(stage, arguments)
        for number in range(arguments.rounds):
            run.round(number)
            print(f"round {number + 1} of {arguments.rounds}: {time.time() - began:.0f} s", flush=True)
        results = run.results(began)
    text = json.dumps(results, indent=1)
    (arguments.output / "slow-clients.json").write_text(text + "\n", encoding="utf-8")
    (arguments.output / "slow-clients.md").write_text(markdown(results), encoding="utf-8")
    print(markdown(results))


def parse():
    return options.read(options.parser("slow-clients", "about one minute"), (1, 4), (5, 10))


class Run:
    """All windows, and their results."""

    def __init__(self, stage, arguments):
        self.stage = stage
        self.arguments = arguments
        self.windows = []
        stage.start_provider()
        folder = stage.folder / "certificates"
        subprocess.run([stage.program, "dev-certs", folder], check=True, capture_output=True)
        self.certificate = folder / "localhost.pem"
        self.key = folder / "localhost-key.pem"
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE
        self.app = stream_peers.App(stage)

    def round(self, number):
        """Measures each attack on both proxies, in a random order for the round."""
        shuffled = random.Random(number)
        for attack in shuffled.sample(list(ATTACKS), len(ATTACKS)):
            for start in shuffled.sample([self.nginx, self.sidegate], 2):
                window = self.window(start, attack, number)
                self.windows.append(window)
                print(json.dumps(window), flush=True)

    # The proxies

    def nginx(self, name):
        """nginx with its own defaults for buffers, and TLS."""
        port = free_port()
        servers = peers.upstream("app", f"127.0.0.1:{self.app.port}") + (
            f"server {{ listen 127.0.0.1:{port} ssl http2 backlog=8192; {stream_peers.SIZES}\n"
            f"ssl_certificate {self.certificate}; ssl_certificate_key {self.key};\n"
            "ssl_protocols TLSv1.2 TLSv1.3;\n"
            f"location / {{ proxy_pass http://app;\n{peers.FORWARDED} }} }}\n"
        )
        setting = peers.Setting(self.stage, "", self.certificate, self.key)
        process = peers.start_nginx(setting, name, servers, port)
        return Peer("nginx", port, [process], tls_port=port)

    def sidegate(self, name):
        """Sidegate with its own defaults for buffers and connections, and TLS."""
        stage, port = self.stage, free_port()
        tls = f'certificate_file = "{self.certificate}"\nkey_file = "{self.key}"\n'
        settings = stage.settings(port, f"http://127.0.0.1:{self.app.port}", tls, "") + ROUTES
        file = stage.write(f"{name}.toml", settings)
        command = [stage.program, "run", "--config", file]
        process = stage.start(name, command, port, machine.PROXY_CORES)
        return Peer("sidegate", port, [process], signs_in=True, tls_port=port)

    # One window

    def window(self, start, attack, number):
        """The other users' requests during an attack on a new process, because a process keeps freed memory."""
        name = f"{start.__name__}-{attack}-{number}"
        peer = start(name)
        if peer.signs_in:
            peer.cookie = session_cookie(self.stage, peer, self.tls)
        others = Others(peer, self.stage.provider.host, self.tls)
        asyncio.run(others.run(SHORT))
        before = machine.resident_bytes(peer.pids())
        host = self.stage.provider.host
        command = [sys.executable, "-m", "measure.slow_attack", peer.port, host, *ATTACKS[attack][1]]
        with subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=machine.place(machine.OTHER_CORES),
        ) as attacker:
            if attacker.stdout.readline() != "begun\n":
                raise Wrong(f"{name}: the attack could not begin")
            time.sleep(WARM_UP)
            ours = [*peer.pids(), *self.app.process.pids(), attacker.pid, os.getpid()]
            begun, before_work = time.monotonic(), foreign(ours)
            seen = asyncio.run(others.run(self.arguments.seconds))
            other_work = (foreign(ours) - before_work) / (time.monotonic() - begun)
            under = machine.resident_bytes(peer.pids())
            said, _ = attacker.communicate("")
        self.stage.stop(name)
        attacked = json.loads(said)
        return {
            "peer": peer.name,
            "attack": attack,
            "round": number,
            **seen,
            "memory_before": before,
            "memory_under": under,
            "attack_requests": attacked["requests"],
            "attack_requests_ended": attacked["ended"],
            "foreign": round(other_work, 4),
        }

    # Results

    def results(self, began):
        by = {(window["attack"], window["peer"], window["round"]): window for window in self.windows}
        ratios = {}
        for attack in ATTACKS:
            ratios[attack] = [
                by[attack, "sidegate", number]["p99_ms"] / by[attack, "nginx", number]["p99_ms"]
                for number in range(self.arguments.rounds)
            ]
        return {
            "what": "requests of other users during an attack by slow clients, beside nginx",
            "command": " ".join(["benches/slow-clients", *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(began)),
            "seconds": round(time.time() - began),
            "machine": machine.description(),
            "versions": {name: peers.version(name, PROGRAM) for name in ("nginx", "sidegate")},
            "ratios": medians(ratios),
            "spread": {name: spread(found) for name, found in ratios.items()},
            "summary": {
                attack: {peer: self.summary(attack, peer) for peer in ("sidegate", "nginx")}
                for attack in ATTACKS
            },
            "foreign": round(statistics.median(window["foreign"] for window in self.windows), 4),
            "windows": self.windows,
        }

    def summary(self, attack, peer):
        """Sums of requests, and medians of everything else."""
        found = [
            window
            for window in self.windows
            if (window["attack"], window["peer"]) == (attack, peer)
        ]
        medians_of = ("p50_ms", "p99_ms", "memory_before", "memory_under")
        sums_of = ("served", "failed", "attack_requests", "attack_requests_ended")
        return {
            **{name: sum(window[name] for window in found) for name in sums_of},
            **{name: statistics.median(window[name] for window in found) for name in medians_of},
        }


ROUTES = (
    '[[routes]]\nprefix = "/"\n'
    '[[routes]]\nprefix = "/download"\naccess = "public"\n'
    '[[routes]]\nprefix = "/upload"\naccess = "public"\n'
)


class Others:
    """Other users, who send requests on a schedule. The time of a request begins at its scheduled time."""

    def __init__(self, peer, host, tls):
        self.peer = peer
        self.tls = tls
        cookie = f"Cookie: {peer.cookie}\r\n" if peer.cookie else ""
        self.request = f"GET /seen HTTP/1.1\r\nHost: {host}\r\n{cookie}\r\n".encode()

    async def run(self, seconds):
        free = asyncio.Queue()
        for _ in range(CONNECTIONS):
            free.put_nowait(None)
        times, failures = [], []
        begun = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number in range(max(1, int(seconds * RATE))):
                scheduled = begun + number / RATE
                await asyncio.sleep(max(0, scheduled - time.monotonic()))
                tasks.create_task(self.one(free, scheduled, times, failures))
        while not free.empty():
            if connection := free.get_nowait():
                connection[1].close()
        for failure in sorted(set(failures)):
            print(f"{self.peer.name}: {failure}", flush=True)
        times.sort()
        return {
            "served": len(times),
            "failed": len(failures),
            "p50_ms": quantile(times, 0.50),
            "p99_ms": quantile(times, 0.99),
        }

    async def one(self, free, scheduled, times, failures):
        """A request that fails counts as a failure, and its connection is closed."""
        connection = await free.get()
        try:
            async with asyncio.timeout(LONGEST):
                if connection is None:
                    connection = await asyncio.open_connection("127.0.0.1", self.peer.port, ssl=self.tls)
                await self.ask(*connection)
            times.append(time.monotonic() - scheduled)
        except (OSError, EOFError, TimeoutError, ValueError) as failure:
            failures.append(f"{type(failure).__name__} {failure}")
            if connection:
                connection[1].close()
            connection = None
        free.put_nowait(connection)

    async def ask(self, reader, writer):
        writer.write(self.request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        body = await reader.readexactly(length)
        if not head.startswith("http/1.1 200 "):
            raise ValueError(head.partition("\r\n")[0])
        if self.peer.signs_in and not body.startswith(b"authorization=Bearer ey"):
            raise ValueError("no token reached the app")


def foreign(ours):
    """The CPU time of all other work on the machine, with the time that the hypervisor took."""
    return sum(machine.busy_seconds()) - machine.cpu_seconds(ours)


def quantile(times, part):
    """In milliseconds."""
    if not times:
        return LONGEST * 1000
    return round(times[min(len(times) - 1, int(part * len(times)))] * 1000, 3)


def markdown(results):
    measured = results["machine"]
    rows = []
    for attack, (title, _) in ATTACKS.items():
        ours, theirs = (results["summary"][attack][peer] for peer in ("sidegate", "nginx"))
        found = results["spread"][attack]
        low, high = found["quartiles"]
        row = [title, f"**{results['ratios'][attack]:.2f}** [{low:.2f}-{high:.2f}] of {found['rounds']}"]
        for side in (ours, theirs):
            row += [
                f"{side['served']:,}",
                f"{side['failed']:,}",
                f"{side['p50_ms']:.1f} / {side['p99_ms']:.1f}",
                f"{side['memory_before'] / 2**20:.1f} / {side['memory_under'] / 2**20:.1f}",
            ]
        rows.append(row)
    head = ["attack", "p99, ratio to nginx"]
    for name in ("Sidegate", "nginx"):
        head += [f"{name}: served", "failed", "p50 / p99, ms", "memory before / during, MiB"]
    parts = [
        "# Slow clients",
        f"`{results['command']}`, {results['date']}, commit {measured['commit']}; "
        f"{measured['processor']}, {measured['cores']} cores, {measured['system']}, kernel {measured['kernel']}; "
        f"{results['versions']['sidegate']}, {results['versions']['nginx']}.",
        f"Other users send {RATE} requests a second on {CONNECTIONS} connections with TLS while slow clients attack. "
        "The uploads are 100 HTTP/2 streams on each of 3 connections, and each stream sends one byte a second. The "
        "readers are 300 HTTP/1.1 connections, and each takes 1 KB a second of a 1 MB answer. nginx uses its default "
        "buffering and no authentication. Sidegate uses its default buffers and limits; the other users are signed "
        "in, and the slow clients are not. Each window uses a new process. A request fails if its answer is not 200 "
        f"or takes more than {LONGEST} s.",
        "The ratio is the **median** [quartiles] of Sidegate's 99th percentile divided by that of nginx in the same "
        f"round; the limit is {GOAL[0]:.1f}, and the goal is {GOAL[1]:.1f}. "
        "Times and memory are medians of all rounds. "
        f"Other work took {results['foreign']:.1%} of a core (median of all windows).",
        table(head, rows),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    try:
        main()
    except (Wrong, OSError, subprocess.CalledProcessError) as wrong:
        sys.exit(f"slow-clients: {wrong}")
