"""One window: a generator loads a proxy, and the CPU time is read before and after."""

import dataclasses
import hashlib
import http.client
import json
import re
import resource
import ssl
import subprocess
import time

from . import machine
from .browser import FIELDS
from .peers import BODY
from .stage import Wrong

POSTED = "note=" + "n" * 4091

# These limits were fixed before the measurements. A window counts if
# - the generator got only 2xx answers and no error,
# - the app got as many requests as the generator counted, except those in progress at the end,
# - before the window, the proxy's answer equalled the app's byte for byte, and its token reached the app,
# - all other work on the machine took at most this share of one core.
MOST_FOREIGN = 0.10


@dataclasses.dataclass(frozen=True)
class Figure:
    """A measured quantity: one kind of request at one number of connections."""

    name: str
    title: str
    connections: int
    path: str = "/dashboard/items?page=3&sort=name"
    posted: bool = False
    generator: str = "wrk"
    tls: bool = False
    # One connection for each request.
    each_connects: bool = False
    # The bytes of a message or of a body.
    size: int = 0


FIGURES = [
    Figure("cpu_1", "GET, 1 connection", 1),
    Figure("cpu_32", "GET, 32 connections", 32),
    Figure("cpu_128", "GET, 128 connections", 128),
    Figure("response_100k", "100 KB response, 8 connections", 8, path="/large.bin"),
    Figure("post_4k", "POST of 4 KB, 32 connections", 32, posted=True),
    Figure(
        "tls_handshake",
        "TLS 1.3 connection with one request",
        6,
        generator="h2load",
        tls=True,
        each_connects=True,
    ),
    Figure("tls_request", "GET by TLS, 32 connections", 32, tls=True),
    Figure("http2_request", "GET by HTTP/2, 8 connections", 8, generator="h2load", tls=True),
]


@dataclasses.dataclass
class Window:
    """The result of one window. `wrong` says why it never counts. A disturbed window is correct, but shows the cost
    of requests on a busy machine."""

    peer: str
    figure: str
    round: int
    requests: int
    # Microseconds of CPU per request: of the proxy and of the app.
    cpu: float
    app_cpu: float
    # Shares of one core during the window: other processes, the hypervisor, the proxy.
    foreign: float
    steal: float
    used: float
    wrong: list

    @property
    def disturbed(self):
        return self.foreign > MOST_FOREIGN

    @property
    def counts(self):
        return not self.wrong and not self.disturbed


@dataclasses.dataclass
class Seen:
    """The counts of a generator."""

    requests: int
    problems: list


class Load:
    """Loads the proxies of a stage."""

    def __init__(self, stage, app, seconds):
        self.stage = stage
        self.app = app
        self.seconds = seconds
        self.awake = stage.keep("awake", machine.Awake())
        # The certificate is self-made, and nothing secret is sent over this connection.
        self.tls = ssl.create_default_context()
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE
        self.bodies = {}

    def fields(self, peer):
        host = self.stage.provider.host
        fields = {"Host": host, **FIELDS, "Referer": f"http://{host}/list?page=2"}
        fields["Cookie"] = f"lang=en; {peer.cookie}; theme=dark"
        return fields

    # Before a window

    def get(self, peer, path, tls):
        if tls:
            connection = http.client.HTTPSConnection(
                "127.0.0.1", peer.tls_port, timeout=20, context=self.tls
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=20)
        connection.request("GET", path, headers=self.fields(peer))
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, body

    def canary(self, peer, figure):
        """The current problems of this proxy."""
        wrong = []
        status, body = self.get(peer, figure.path, figure.tls)
        if status != 200 or hashlib.sha256(body).digest() != self.expected(figure.path):
            wrong.append(f"the body is not the app's ({status})")
        status, seen = self.get(peer, "/seen", figure.tls)
        arrived = dict(pair.partition("=")[::2] for pair in seen.decode().split("|"))
        if peer.token_field and "ey" not in arrived.get(peer.token_field, "") and peer.signs_in:
            wrong.append(f"no token reached the app ({status})")
        return wrong

    def expected(self, path):
        """The app's own answer, as a hash."""
        if path not in self.bodies:
            connection = http.client.HTTPConnection("127.0.0.1", self.app.port, timeout=20)
            connection.request("GET", path)
            body = connection.getresponse().read()
            connection.close()
            if path.startswith("/dashboard") and body.decode() != BODY:
                raise Wrong("the app does not answer as it should")
            self.bodies[path] = hashlib.sha256(body).digest()
        return self.bodies[path]

    # The window

    def window(self, peer, figure, number):
        """Loads a proxy for a moment to warm it up, and then for the measured time."""
        wrong = self.canary(peer, figure)
        generate = getattr(self, figure.generator)
        generate(peer, figure, self.seconds / 3)
        proxy, app = peer.pids(), self.app.process.pids()
        requests = self.app.requests()
        before = self.accounts(proxy, app)
        seen = generate(peer, figure, self.seconds)
        spent = [now - then for now, then in zip(self.accounts(proxy, app), before)]
        proxy_cpu, app_cpu, generator_cpu, awake_cpu, busy, steal, wall = spent
        # One of them is the request for the count itself.
        reached = self.app.requests() - requests - 1
        known_cpu = proxy_cpu + app_cpu + generator_cpu + awake_cpu
        foreign = max(0.0, busy - known_cpu) / wall
        wrong += seen.problems
        if not 0 <= reached - seen.requests <= 2 * figure.connections:
            wrong.append(f"{reached} requests reached the app, {seen.requests} were answered")
        each = 1e6 / max(seen.requests, 1)
        return Window(
            peer.name,
            figure.name,
            number,
            seen.requests,
            proxy_cpu * each,
            app_cpu * each,
            foreign,
            steal / wall,
            proxy_cpu / wall,
            wrong,
        )

    def accounts(self, proxy, app):
        generators = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (
            machine.cpu_seconds(proxy),
            machine.cpu_seconds(app),
            generators.ru_utime + generators.ru_stime,
            machine.cpu_seconds(self.awake.pids()),
            *machine.busy_seconds(),
            time.monotonic(),
        )

    # The generators

    def generated(self, command):
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=machine.place(machine.OTHER_CORES),
        )
        return done.stdout + done.stderr

    @staticmethod
    def url(peer, figure):
        if figure.tls:
            return f"https://127.0.0.1:{peer.tls_port}{figure.path}"
        return f"http://127.0.0.1:{peer.port}{figure.path}"

    def wrk(self, peer, figure, seconds):
        script = self.stage.write(f"{peer.name}.lua", wrk_script(self.fields(peer), figure.posted))
        # Only its own unit allows tenths of a second.
        command = ["wrk", "-t1", f"-c{figure.connections}", f"-d{max(1, round(seconds))}s"]
        said = self.generated([*command, "-s", script, self.url(peer, figure)])
        found = re.search(r"^counted (.*)$", said, re.MULTILINE)
        if not found:
            return Seen(0, [f"wrk failed: {said[-200:]}"])
        requests, *errors = map(int, found.group(1).split())
        kinds = ("connect", "read", "write", "status", "timeout")
        problems = [f"{count} {kind} errors" for count, kind in zip(errors, kinds) if count]
        return Seen(requests, problems)

    def header_options(self, peer):
        """The fields of the request, without `Host`, which the tools send themselves."""
        for name, value in self.fields(peer).items():
            yield from ("-H", f"{name}: {value}")

    def h2load(self, peer, figure, seconds, more=None, body=None):
        """Many requests over few connections, or one connection for each request with HTTP/1.1. `more` are further
        fields, and `body` is a file."""
        if figure.each_connects:
            count = max(40, int(300 * seconds))
            many = ["--h1", f"-c{count}", f"-n{count}", "-r6", "--rate-period=20ms"]
            protocol = "http/1.1"
        else:
            count = max(1000, int(12000 * seconds))
            many = [f"-c{figure.connections}", "-m10", f"-n{count}"]
            protocol = "h2"
        command = ["h2load", "-t1", *many]
        for name, value in {**self.fields(peer), **(more or {})}.items():
            command += ["-H", f"{':authority' if name == 'Host' else name}: {value}"]
        if body:
            command += ["-d", body]
        said = self.generated([*command, self.url(peer, figure)])
        codes = re.search(r"status codes: (\d+) 2xx", said)
        if not codes or f"Application protocol: {protocol}" not in said:
            return Seen(0, [f"h2load failed: {said[-200:]}"])
        problems = []
        if figure.tls and "TLS Protocol: TLSv1.3" not in said:
            problems.append("not TLS 1.3")
        good = int(codes.group(1))
        if good != count:
            problems.append(f"{count - good} answers are not 2xx")
        return Seen(good, problems)

    # Latency

    def latencies(self, drive, peers, slices, rate):
        """Latency in microseconds from the scheduled time of a request: the median, the 90th and the 99th percentile for
        each target and slice. `direct` is the app without a proxy."""
        targets = []
        for name, peer in {"direct": None, **peers}.items():
            port = peer.port if peer else self.app.port
            fields = self.fields(peer or next(iter(peers.values())))
            lines = "".join(f"{field}: {value}\r\n" for field, value in fields.items())
            request = self.stage.write(
                f"{name}.request", f"GET {FIGURES[0].path} HTTP/1.1\r\n{lines}\r\n"
            )
            targets.append(f"{name}={port}={request}")
        command = [drive, "open", "--rate", rate, "--slices", slices, *targets]
        said = self.generated(command)
        try:
            return json.loads(said)
        except ValueError as error:
            raise Wrong(f"the open loop failed: {said[-500:]}") from error


def wrk_script(fields, posted):
    lines = [f"wrk.headers[{json.dumps(name)}] = {json.dumps(fields[name])}" for name in fields]
    if posted:
        lines += [
            'wrk.method = "POST"',
            f"wrk.body = {json.dumps(POSTED)}",
            'wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"',
        ]
    lines += [
        "done = function(summary)",
        "  local errors = summary.errors",
        '  io.write(string.format("\\ncounted %d %d %d %d %d %d\\n", summary.requests,',
        "    errors.connect, errors.read, errors.write, errors.status, errors.timeout))",
        "end",
    ]
    return "\n".join(lines) + "\n"
