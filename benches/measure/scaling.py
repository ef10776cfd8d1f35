"""The growth of the cost of a request, and the memory of a session and of an idle connection. Started by
`benches/scaling`."""

import base64
import json
import pathlib
import random
import statistics
import subprocess
import sys
import time

from . import idle, machine, options, peers, plots
from .browser import FIELDS
from .places import DRIVE, PROGRAM, RESULTS
from .report import table
from .stage import Stage, Wrong, free_port

HOST = "app.example.test"


def token(length):
    """Random bytes as base64url, like most tokens."""
    return base64.urlsafe_b64encode(random.Random(length).randbytes(length * 3 // 4)).decode()


# A typical length of tokens.
ACCESS_TOKEN, REFRESH_TOKEN = token(1100), token(900)
PAYLOAD = len(ACCESS_TOKEN) + len(REFRESH_TOKEN)
# The defaults: one worker, this number of sessions and connections, one route. At most this number of connections
# have a request in progress.
SESSIONS, CONNECTIONS, AT_ONCE = 1000, 64, 128
# The number of connections for nginx, which does no authentication.
NGINX = "connections of nginx"
STEPS = {
    "connections": [10, 100, 1000, 10_000],
    "sessions": [1, 100, 10_000, 100_000, 1_000_000],
    "routes": [1, 10, 100, 1000],
    "workers": [1, 2],
}
# With --quick, these axes end at a hundredth.
SHORTENED = ("connections", "sessions")


def main():
    arguments = parse()
    machine.allow_many_files()
    began = time.time()
    with Stage(PROGRAM) as stage:
        scaling = Scaling(stage, arguments)
        scaling.prepare()
        if arguments.only in (None, "connections"):
            scaling.measure_idle()
        for number in range(arguments.rounds):
            scaling.round(number)
            print(f"round {number + 1}: {time.time() - began:.0f} s", flush=True)
        results = scaling.results(began)
    text = json.dumps(results, indent=1)
    (arguments.output / "scaling.json").write_text(text + "\n", encoding="utf-8")
    (arguments.output / "scaling.md").write_text(markdown(results), encoding="utf-8")
    if not arguments.only:
        plots.scaling(results, arguments.output / "scaling.svg")
    print(markdown(results))


def parse():
    parser = options.parser("scaling", "up to a hundredth of everything", seconds=float)
    parser.add_argument("--only", choices=STEPS, help="measures only this axis, and draws no plot")
    arguments = options.read(parser, (3, 1), (7, 3))
    if arguments.only and arguments.output == RESULTS:
        parser.error("--only: needs --output, because benches/results contains all axes")
    if arguments.rounds < 2:
        parser.error("--rounds: quartiles are of two rounds or more")
    arguments.share = 100 if arguments.quick else 1
    return arguments


class Point:
    """One gateway with signed-in users, and its load."""

    def __init__(self, of, step, port, process, cookies, connections, path):
        self.of = of
        # When the number of connections grows, each connection uses one session, like a browser.
        self.own = of in ("connections", NGINX)
        self.step = step
        self.port = port
        self.process = process
        self.cookies = cookies
        self.connections = connections
        self.path = path
        self.costs = []


class Scaling:
    """One run, from the start of the gateways to the results."""

    def __init__(self, stage, arguments):
        self.stage = stage
        self.arguments = arguments
        self.points = []
        self.app = None
        self.memory = []
        self.idle = {}
        self.token_port = None

    def prepare(self):
        self.stage.keep("awake", machine.Awake())
        self.app, self.token_port = free_port(), free_port()
        answer = json.dumps(
            {
                "token_type": "Bearer",
                "expires_in": 86400,
                "access_token": ACCESS_TOKEN,
                "refresh_token": REFRESH_TOKEN,
            }
        )
        servers = (
            f"server {{ listen 127.0.0.1:{self.app} backlog=16384;"
            f' location / {{ default_type application/json; return 200 "{peers.BODY}"; }} }}\n'
            f"server {{ listen 127.0.0.1:{self.token_port} backlog=16384; location / {{"
            f" default_type application/json; add_header Cache-Control no-store;"
            f" return 200 '{answer}'; }} }}\n"
        )
        setting = peers.Setting(self.stage, "", pathlib.Path(), pathlib.Path())
        peers.start_nginx(setting, "app", servers, self.app, machine.OTHER_CORES)
        self.stage.write("client_secret", "never-shown")
        # Several points use the same gateway. An axis has its own gateway if it needs one.
        common = self.gateway("common", SESSIONS)
        nginx = self.nginx(setting, common[-1])
        for step in self.steps("connections"):
            self.points.append(Point("connections", step, *common, step, "/"))
            self.points.append(Point(NGINX, step, *nginx, step, "/"))
        for step in self.steps("sessions"):
            started = self.gateway(f"sessions-{step}", step)
            self.points.append(Point("sessions", step, *started, CONNECTIONS, "/"))
        for step in self.steps("routes"):
            started = self.gateway(f"routes-{step}", SESSIONS, routes=step)
            path = f"/part-{step // 2}/items"
            self.points.append(Point("routes", step, *started, CONNECTIONS, path))
        for step in self.steps("workers"):
            started = self.gateway(f"workers-{step}", SESSIONS, workers=step)
            self.points.append(Point("workers", step, *started, CONNECTIONS, "/"))

    def nginx(self, setting, cookies, name="nginx", tls=""):
        """Starts an nginx that forwards every request. Returns its port, its process and the cookies."""
        port = free_port()
        servers = peers.upstream("app", f"127.0.0.1:{self.app}") + (
            f"server {{ listen 127.0.0.1:{port} backlog=16384{' ssl' if tls else ''};\n{tls}"
            f"location / {{ proxy_pass http://app;\n{peers.FORWARDED} }} }}\n"
        )
        process = peers.start_nginx(setting, name, servers, port, machine.PROXY_CORES)
        return port, process, cookies

    def measure_idle(self):
        """Measures the memory of an idle connection in new processes, because a process keeps freed memory."""
        folder = self.stage.folder / "certificates"
        subprocess.run([self.stage.program, "dev-certs", folder], check=True, capture_output=True)
        certificate, key = folder / "localhost.pem", folder / "localhost-key.pem"
        ours = f'certificate_file = "{certificate}"\nkey_file = "{key}"\n'
        theirs = f"ssl_certificate {certificate};\nssl_certificate_key {key};\n"
        setting = peers.Setting(self.stage, "", certificate, key)
        count = max(STEPS["connections"]) // self.arguments.share
        for kind, context in (("without TLS", None), ("with TLS", idle.client_context())):
            name = "idle-tls" if context else "idle"
            port, process = self.start(name, ours if context else "")
            head = request("/", idle.session_cookie(port, context, HOST))
            nginx = self.nginx(setting, None, f"nginx-{name}", theirs if context else "")
            taken = {
                "Sidegate": idle.memory(process, port, context, head, count),
                "nginx": idle.memory(nginx[1], nginx[0], context, head, count),
            }
            for proxy, size in taken.items():
                print(f"{proxy}: an idle connection {kind} takes {size:.0f} bytes", flush=True)
                self.idle.setdefault(proxy, {})[kind] = round(size)
            self.stage.stop(name)
            self.stage.stop(f"nginx-{name}")

    def steps(self, axis):
        if self.arguments.only not in (None, axis):
            return []
        most = max(STEPS[axis])
        if axis in SHORTENED:
            most //= self.arguments.share
        return [step for step in STEPS[axis] if step <= most]

    def gateway(self, name, people, workers=1, routes=1):
        """Starts a gateway and signs users in. Returns its port, its process and the file with the cookies."""
        port, process = self.start(name, "", workers, routes)
        cookies = self.stage.folder / f"{name}.cookies"
        before = machine.resident_bytes(process.pids())
        signing_in = [DRIVE, "sign-in", "--people", people, "--cookies", cookies, "--host", HOST]
        subprocess.run([str(part) for part in [*signing_in, port]], check=True, capture_output=True)
        added = machine.resident_bytes(process.pids()) - before
        print(f"{name}: {people} users signed in, {added / people:.0f} bytes each", flush=True)
        self.memory.append((people, added / people - PAYLOAD))
        return port, process, cookies

    def start(self, name, server, workers=1, routes=1):
        """Starts a gateway. Returns its port and its process. `server` contains more settings of the server."""
        stage, port = self.stage, free_port()
        written = "".join(
            f'[[routes]]\nname = "part-{number}"\nprefix = "/part-{number}"\n'
            for number in range(routes)
        )
        file = stage.write(
            f"{name}.toml",
            f'public_url = "https://{HOST}"\n'
            f'[server]\nlisten = "127.0.0.1:{port}"\nworkers = {workers}\nconnections = 12000\n{server}'
            '[log]\nlevel = "error"\naccess = false\n[session]\ncapacity_mib = 16384\n'
            '[providers.main]\nprofile = "oauth2"\nclient_id = "bench"\n'
            f'url = "http://127.0.0.1:{self.token_port}"\n'
            'authorization_endpoint = "/authorize"\ntoken_endpoint = "/token"\n'
            f'client_secret_file = "{stage.folder}/client_secret"\n'
            "token_calls_per_minute = 100000000\nconcurrent_calls = 64\n"
            f'[upstreams.app]\nurl = "http://127.0.0.1:{self.app}"\nconnections = 7000\n'
            f'[[routes]]\nname = "rest"\n{written}',
        )
        cores = machine.PROXY_CORES if workers == 1 else set(range(workers))
        command = [stage.program, "run", "--config", file]
        return port, stage.start(name, command, port, cores)

    def round(self, number):
        for point in random.Random(number).sample(self.points, len(self.points)):
            point.costs.append(self.cost(point))

    def cost(self, point):
        """Microseconds of the gateway's CPU per request."""
        head = self.stage.write("request", request(point.path, "{cookie}"))
        warm_up = 1 + point.connections / 2000
        command = [DRIVE, "closed", "--connections", point.connections, "--at-once", AT_ONCE]
        command += ["--warm-up", warm_up, "--seconds", self.arguments.seconds]
        command += ["--cookies", point.cookies, *(["--own"] if point.own else [])]
        pids = point.process.pids()
        with subprocess.Popen(
            [str(part) for part in [*command, point.port, head]],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=machine.place(machine.OTHER_CORES),
        ) as running:
            accounts = []
            for line in running.stdout:
                said = json.loads(line)
                if "requests" not in said:
                    accounts.append(machine.cpu_seconds(pids))
        if running.returncode != 0 or len(accounts) != 2:
            raise Wrong(f"{point.of} {point.step}: the load failed")
        return (accounts[1] - accounts[0]) * 1e6 / said["requests"]

    def results(self, began):
        scaling = {}
        for point in self.points:
            low, _, high = statistics.quantiles(point.costs, n=4)
            scaling.setdefault(point.of, []).append(
                {
                    "step": point.step,
                    "cpu_us": round(statistics.median(point.costs), 2),
                    "quartiles": [round(low, 2), round(high, 2)],
                    "rounds": len(point.costs),
                }
            )
        people, beyond = max(self.memory)
        return {
            "what": "CPU of Sidegate per request, and memory of a session",
            "command": " ".join(["benches/scaling", *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(began)),
            "machine": machine.description(),
            "version": machine.said(PROGRAM, "--version"),
            "scaling": scaling,
            "ratios": {f"{axis}.last_vs_first": self.growth(axis) for axis in scaling},
            "memory": {
                "sessions": people,
                "payload_bytes": PAYLOAD,
                "resident_bytes_beyond_payload": round(beyond),
            },
            "idle_connection": self.idle,
        }

    def growth(self, axis):
        """The quartiles of the cost of the last step over the cost of the first step of the same round."""
        points = [point for point in self.points if point.of == axis]
        ratios = [last / first for first, last in zip(points[0].costs, points[-1].costs)]
        return [round(quartile, 3) for quartile in statistics.quantiles(ratios, n=4)]


def request(path, cookie):
    """The head of a request. `drive` replaces the text `{cookie}`."""
    fields = {"Host": HOST, **FIELDS, "Cookie": f"lang=en; {cookie}; theme=dark"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"GET {path} HTTP/1.1\r\n{lines}\r\n"


def markdown(results):
    memory, measured = results["memory"], results["machine"]
    parts = [
        "# Scaling",
        f"`{results['command']}`, {results['date']}, commit {measured['commit']}; "
        f"{measured['processor']}, {measured['cores']} cores, kernel {measured['kernel']}.",
        f"Each request uses another session than the previous one. Only in the tables of connections, each "
        f"connection uses one session, like a browser. The defaults are one worker, {CONNECTIONS} "
        f"connections, {SESSIONS} sessions and one route. At most {AT_ONCE} connections have a request in "
        f"progress, and all take turns. nginx forwards the same requests without authentication.",
    ]
    for axis, points in results["scaling"].items():
        head = [axis, *(f"{point['step']:,}" for point in points)]
        cells = [
            f"**{point['cpu_us']:.1f}** [{point['quartiles'][0]:.1f}-{point['quartiles'][1]:.1f}]"
            for point in points
        ]
        parts.append(table(head, [["CPU per request, us", *cells]]))
    # Few sessions take less memory than the process has reserved for them.
    if "sessions" in results["scaling"]:
        parts.append(
            f"A session with {memory['payload_bytes']:,} bytes of tokens takes "
            f"{memory['resident_bytes_beyond_payload']:,} more resident bytes than its tokens, at "
            f"{memory['sessions']:,} sessions."
        )
    for proxy, taken in results["idle_connection"].items():
        each = ", ".join(f"{size:,} bytes {kind}" for kind, size in taken.items())
        parts.append(f"An idle connection of {proxy} takes {each}.")
    head = ["CPU per request of the last step over that of the first step", "median", "quartiles"]
    rows = [
        [ratio.removesuffix(".last_vs_first"), f"**{middle:.2f}**", f"{low:.2f}-{high:.2f}"]
        for ratio, (low, middle, high) in results["ratios"].items()
    ]
    parts.append(table(head, rows))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    try:
        main()
    except (Wrong, OSError, subprocess.CalledProcessError) as wrong:
        sys.exit(f"scaling: {wrong}")
