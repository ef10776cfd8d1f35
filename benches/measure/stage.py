"""A folder with processes: an app, a provider, and Sidegate between them.

The identity provider is the one of `sidegate demo`. Every proxy that is measured is the client that
the demo has registered, and is reached under the demo's own public name; only the address that a
connection goes to differs. So each signs in by the same code flow at the same provider.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time
import tomllib

from . import machine

START_DEADLINE = 60


LOG_OFF = 'level = "error"\naccess = false\n'


class Wrong(Exception):
    """A condition of the measurement is not met."""


def free_port():
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A running program with its child processes."""

    def __init__(self, name, command, log, cores=None, environment=None):
        self.name = name
        self.log = log
        with open(log, "wb") as output:
            self.running = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                preexec_fn=machine.place(cores) if cores else None,
            )

    def pids(self):
        return machine.tree(self.running.pid)

    def listens(self, port):
        """Waits until the program accepts connections."""
        end = time.monotonic() + START_DEADLINE
        while time.monotonic() < end:
            if self.running.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return self
            except OSError:
                time.sleep(0.05)
        said = pathlib.Path(self.log).read_text(errors="replace")[-2000:]
        raise Wrong(f"{self.name} does not listen on port {port}:\n{said}")

    def says(self, beginning):
        """Waits until the program prints a line that begins with this text. Returns the rest of the line."""
        end = time.monotonic() + START_DEADLINE
        while time.monotonic() < end and self.running.poll() is None:
            for line in pathlib.Path(self.log).read_text(encoding="utf-8").splitlines(True):
                if line.strip().startswith(beginning) and line.endswith("\n"):
                    return line.strip().removeprefix(beginning)
            time.sleep(0.05)
        raise Wrong(f"{self.name} does not say: {beginning}")

    def stop(self):
        """Asks the program to end, and kills it after a timeout. Returns its exit code."""
        pids = self.pids()
        if self.running.poll() is None:
            self.running.send_signal(signal.SIGTERM)
        try:
            code = self.running.wait(20)
        except subprocess.TimeoutExpired:
            code = None
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return self.running.wait() if code is None else code


class Stage:
    """The folder and its processes. Leaving the context stops all of them."""

    def __init__(self, program):
        self.program = program
        self._folder = tempfile.TemporaryDirectory(prefix="sidegate-bench-")
        self.folder = pathlib.Path(self._folder.name)
        # Some proxies drop their privileges and still have to read their files.
        self.folder.chmod(0o755)
        self.processes = {}
        self.provider = None

    def __enter__(self):
        return self

    def __exit__(self, *_failure):
        for process in reversed(list(self.processes.values())):
            process.stop()
        self._folder.cleanup()

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def start(self, name, command, port, cores=None, environment=None):
        """Starts a program and waits until it listens on `port`."""
        log = self.folder / f"{name}.log"
        process = Process(name, command, log, cores, environment)
        self.processes[name] = process
        return process.listens(port)

    def stop(self, name):
        """Stops a process before the end."""
        self.processes.pop(name).stop()

    def keep(self, name, process):
        """Also stops this process at the end."""
        self.processes[name] = process
        return process

    def start_provider(self):
        """Starts `sidegate demo` and reads the provider's settings from the settings of its gateway."""
        port = free_port()
        listen = f"127.0.0.1:{port}"
        demo = [self.program, "demo", "--provider", "oidc", "--listen", listen]
        process = self.start("provider", demo, port, machine.OTHER_CORES)
        settings = process.says("The gateway runs on ")
        with open(settings, "rb") as file:
            settings = tomllib.load(file)
        self.provider = Provider(settings)
        return self.provider

    def settings(self, port, app, extra="", app_keys="connections = 400\n", access_log=False):
        """Settings of a gateway on `port` in front of `app`: one worker, all checks, and by default no access log, like
        the other proxies."""
        provider = self.provider
        return (
            f"public_url = {json.dumps(provider.public_url)}\n"
            f'[server]\nlisten = "127.0.0.1:{port}"\nworkers = 1\nconnections = 12000\n{extra}\n'
            f"[log]\n{'' if access_log else LOG_OFF}"
            "[session]\ncapacity_mib = 8192\n"
            '[providers.demo]\nprofile = "oidc"\n'
            f"issuer = {json.dumps(provider.issuer)}\n"
            f"client_id = {json.dumps(provider.client_id)}\n"
            f"client_secret_file = {json.dumps(provider.secret_file)}\n"
            f'[upstreams.app]\nurl = "{app}"\n{app_keys}'
        )


class Provider:
    """The data that a client of the demo's provider needs."""

    def __init__(self, settings):
        section = settings["providers"]["demo"]
        self.public_url = settings["public_url"]
        self.host = self.public_url.removeprefix("http://")
        self.callback = f"{self.public_url}/oauth2/callback"
        self.issuer = section["issuer"]
        self.client_id = section["client_id"]
        self.secret_file = section["client_secret_file"]
        self.client_secret = pathlib.Path(self.secret_file).read_text(encoding="utf-8").strip()
