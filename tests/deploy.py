"""Starts Sidegate as described in deploy/, without a container runtime and without a cluster.

The image: tests/image.py creates its files in an empty directory.

The pods: the script reads deploy/kubernetes/sidecar.yaml, and the sidecar form of the chart in deploy/chart. The
directory becomes the read-only root of the Sidegate container, in separate mount, network and process namespaces.
Settings, variables and secrets are as in the manifest. User, group, arguments and probes also come from the manifest. A
stand-in for the legacy app listens on the address in the settings. With the chart, a real Redis runs in the network
namespace. The script also checks the README's settings there.

    tests/.cache/venv/bin/python tests/deploy.py

Needs Linux, cargo, helm, redis-server, and root or sudo for the namespaces.
"""

import fcntl
import http.client
import http.server
import json
import os
import pathlib
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.parse

import yaml

from image import Wrong, assemble, inspect, require, say

TOP = pathlib.Path(__file__).resolve().parent.parent
MANIFEST = TOP / "deploy/kubernetes/sidecar.yaml"
CHART = TOP / "deploy/chart"
HELM = TOP / "tests/.cache/bin/helm"
README = TOP / "README.md"
PUBLIC_KEY = TOP / "tests/data/deploy/oauth-public.key"
POD_ADDRESS = "10.42.0.7"
CLIENT_SECRET = "never-shown-8d1f0c"
STORE_PASSWORD = "never-shown-41b7e2"
STORE_HOST = "redis.databases"
STATE_KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
START_DEADLINE_S = 30
STOP_DEADLINE_S = 10
PROGRAMS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def manifests():
    """The manifests by name: their text, and their number of replicas."""
    values = CHART / "ci/sidecar-values.yaml"
    command = [HELM, "template", "legacy-app", CHART, "--values", values]
    chart = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"manifest": (MANIFEST.read_text(), 1), "chart": (chart, 3)}


def documents(text):
    """The manifest's documents by kind."""
    return {document["kind"]: document for document in yaml.safe_load_all(text) if document}


def sidecar(pod):
    """The Sidegate container, after checking that it is a sidecar without privileges."""
    container = next(each for each in pod["initContainers"] if each["name"] == "sidegate")
    security = container["securityContext"]
    require(container.get("restartPolicy") == "Always", "not a native sidecar")
    require(security.get("readOnlyRootFilesystem") is True, "the root is writable")
    require(security.get("allowPrivilegeEscalation") is False, "may gain privileges")
    require(security["capabilities"]["drop"] == ["ALL"], "keeps capabilities")
    require(security.get("runAsNonRoot") is True, "may run as root")
    require(pod.get("enableServiceLinks") is False, "Services become variables")
    require(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "no seccomp")
    return container


def readme_settings():
    """The settings file of the README for a Laravel Passport server, whose secrets the pod has."""
    found = re.findall(r"^```toml\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    found = [text for text in found if "laravel-passport" in text]
    require(len(found) == 1, f"{len(found)} settings files for Passport in the README")
    return found[0]


def volumes(pod, kinds):
    """The files of each volume and their mode, by the volume's name."""
    config = kinds["ConfigMap"]
    secret = {
        "client_secret": CLIENT_SECRET + "\n",
        "oauth-public.key": PUBLIC_KEY.read_text(),
        "password": STORE_PASSWORD + "\n",
        "state_keys": STATE_KEY + "\n",
    }
    found = {}
    for volume in pod["volumes"]:
        if "configMap" in volume:
            require(volume["configMap"]["name"] == config["metadata"]["name"], "which ConfigMap?")
            files = config["data"] | {"readme.toml": readme_settings()}
            found[volume["name"]] = (files, volume["configMap"].get("defaultMode", 0o644))
        else:
            found[volume["name"]] = (secret, volume["secret"].get("defaultMode", 0o644))
    return found


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


def fill(directory, files, mode, group):
    """A memory file system with the volume's files, owned by root and the pod's group."""
    mount("-t", "tmpfs", "-o", "mode=0755,nosuid,nodev,noexec", "volume", str(directory))
    for name, text in files.items():
        path = directory / name
        path.write_text(text)
        os.chown(path, 0, group)
        path.chmod(mode)
    mount("-o", "remount,ro,mode=0755", str(directory))


def enter(root, container, pod, kinds):
    """Mounts the file systems of the container, with a read-only root."""
    mount("--make-rprivate", "/")
    mount("--bind", str(root), str(root))
    mounted = volumes(pod, kinds)
    inside = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    for path in ["/proc", "/dev", *inside]:
        (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost {STORE_HOST}\n::1 localhost\n")
    (root / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    mount("-o", "remount,bind,ro", str(root))
    mount("-t", "proc", "-o", "nosuid,nodev,noexec", "proc", str(root / "proc"))
    for path, name in inside.items():
        files, mode = mounted[name]
        fill(root / path.lstrip("/"), files, mode, pod["securityContext"]["fsGroup"])
    try:
        (root / "probe").write_text("")
    except OSError:
        return
    raise Wrong("the root is not read-only")


def interface_up(name, address):
    """Enables a loopback interface with an address, without the program `ip`."""
    set_address, set_flags, up = 0x8916, 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        packed = socket.inet_aton(address)
        request = struct.pack("16sHH4s8x", name.encode(), socket.AF_INET, 0, packed)
        fcntl.ioctl(control, set_address, request)
        fcntl.ioctl(control, set_flags, struct.pack("16sh14x", name.encode(), up))


class LegacyApp(http.server.BaseHTTPRequestHandler):
    """Counts the requests that reach the app. There must be none, because no user has signed in."""

    reached = []

    def do_GET(self):
        LegacyApp.reached.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def get(port, path, **fields):
    """Sends a request to the pod's address. Returns status, fields and body of the answer."""
    connection = http.client.HTTPConnection(POD_ADDRESS, port, timeout=5)
    try:
        connection.request("GET", path, headers=fields)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def command(container, image):
    """The command line in the container, as its user and without a way to gain privileges."""
    security = container["securityContext"]
    user = [security["runAsUser"], security["runAsGroup"]]
    require(user == image["user"], f"the image's user {image['user']} is not the manifest's {user}")

    def line(*arguments):
        chroot = ["chroot", f"--userspec={user[0]}:{user[1]}", f"--groups={user[1]}"]
        return ["setpriv", "--no-new-privs", *chroot, "ROOT", *image["entrypoint"], *arguments]

    return line


def await_started(process, container, ports):
    """Calls the startup probe until it succeeds."""
    probe = container["startupProbe"]["httpGet"]
    deadline = time.monotonic() + START_DEADLINE_S
    while True:
        require(process.poll() is None, f"ended at once with exit code {process.returncode}")
        try:
            status, _, _ = get(ports[probe["port"]], probe["path"])
            if status == 200:
                return
        except OSError:
            status = "no connection"
        require(time.monotonic() < deadline, f"startup probe: {status} for {START_DEADLINE_S} s")
        time.sleep(0.05)


def check_process(process, user):
    """Checks that the running process has the right user and no privileges."""
    lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    require(status["Uid"].split() == [str(user[0])] * 4, f"runs as {status['Uid']}")
    require(status["Gid"].split() == [str(user[1])] * 4, f"runs with group {status['Gid']}")
    require(int(status["CapEff"], 16) == 0, f"has capabilities {status['CapEff']}")
    require(status["NoNewPrivs"] == "1", "may gain privileges")


def check_answers(container, ports, settings):
    """Checks that the probes succeed, and that a visitor is sent to the provider and not to the app."""
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container[kind]["httpGet"]
        status, _, _ = get(ports[probe["port"]], probe["path"])
        require(status == 200, f"{kind} {probe['path']}: {status}")
        status, _, _ = get(ports["http"], probe["path"], Host="elsewhere.example.com")
        require(status != 200, f"{probe['path']} answers on the public port")
    public = urllib.parse.urlsplit(settings["public_url"])
    provider = settings["providers"]["main"]
    fields = {
        "Host": public.hostname,
        "X-Forwarded-Proto": public.scheme,
        "Accept": "text/html",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    status, answer, _ = get(ports["http"], "/reports?year=2026", **fields)
    location = answer.get("Location", "")
    require(status == 303, f"a visitor gets {status}, not a redirect")
    require(location.startswith(provider["url"] + "/"), f"a visitor is sent to {location!r}")
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(location).query)
    require(query.get("client_id") == [provider["client_id"]], f"client_id in {location!r}")
    callback = query.get("redirect_uri", [""])[0]
    require(callback.startswith(settings["public_url"] + "/"), f"redirect_uri is {callback!r}")
    fields |= {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "Accept": "application/json"}
    status, answer, body = get(ports["http"], "/reports", **fields)
    require(status == 401, f"a script's request gets {status}")
    require("login_url" in json.loads(body), "the 401 names no login_url")
    require(not LegacyApp.reached, f"the app was reached without a sign-in: {LegacyApp.reached}")


def start_store(scratch, environment):
    """Starts a real Redis at the address in the container's variables. Returns the process, or None without a store."""
    urls = environment.get("SIDEGATE__SESSION__STORE__REDIS__URLS")
    if urls is None:
        return None
    at = urllib.parse.urlsplit(json.loads(urls)[0])
    require(at.hostname == STORE_HOST, f"the store is at {at.hostname}")
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(at.port), "--save", ""]
    command += ["--requirepass", STORE_PASSWORD, "--dir", str(scratch)]
    return subprocess.Popen(command, env={"PATH": PROGRAMS}, stdout=subprocess.DEVNULL)


def check_store(store, settings_port=6379):
    """Checks that Sidegate has written to the store, and that the store has none of its secrets."""
    require(store.poll() is None, "the store has ended")
    with socket.create_connection(("127.0.0.1", settings_port), 5) as client:
        client.sendall(f"AUTH {STORE_PASSWORD}\r\nKEYS *\r\n".encode())
        answer = b""
        while b"sidegate:" not in answer:
            piece = client.recv(4096)
            require(piece, f"the store has no keys of Sidegate: {answer!r}")
            answer += piece
    require(CLIENT_SECRET.encode() not in answer, "the store has the client secret")


def run_pod(scratch, name):
    """The part that runs in separate namespaces."""
    root = scratch / "root"
    image = json.loads((scratch / "image.json").read_text())
    text, replicas = json.loads((scratch / f"{name}.json").read_text())
    kinds = documents(text)
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    require(kinds["Deployment"]["spec"]["replicas"] == replicas, f"not {replicas} replicas")
    container = sidecar(pod)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    settings = tomllib.loads(kinds["ConfigMap"]["data"]["sidegate.toml"])
    interface_up("lo", "127.0.0.1")
    interface_up("lo:0", POD_ADDRESS)
    enter(root, container, pod, kinds)
    line = command(container, image)

    # Users are sent only to a provider that accepts connections.
    provider = socket.create_server(("127.0.0.1", 0))
    token_endpoint = f"http://127.0.0.1:{provider.getsockname()[1]}/token"
    environment = {
        **{each["name"]: each["value"] for each in container.get("env", [])},
        "PATH": PROGRAMS,
        "SIDEGATE__PROVIDERS__MAIN__TOKEN_ENDPOINT": token_endpoint,
    }
    store = start_store(scratch, environment)

    def started(*arguments, **options):
        words = [str(root) if word == "ROOT" else word for word in line(*arguments)]
        return subprocess.Popen(words, env=environment, cwd="/", **options)

    arguments = container["args"]
    shown = ["--config", os.path.join(os.path.dirname(arguments[-1]), "readme.toml")]
    for what, config in (("ConfigMap", arguments[1:]), ("README", shown)):
        code = started("check", *config).wait(START_DEADLINE_S)
        require(code == 0, f"sidegate check of the {what}'s settings: exit code {code}")
    say("sidegate check accepts the settings of the ConfigMap and of the README")

    at = urllib.parse.urlsplit(settings["upstreams"]["app"]["url"])
    app = http.server.ThreadingHTTPServer((at.hostname, at.port), LegacyApp)
    threading.Thread(target=app.serve_forever, daemon=True).start()
    log = scratch / f"{name}.log"
    with log.open("wb") as output:
        process = started(*arguments, stdout=output, stderr=output)
    try:
        await_started(process, container, ports)
        check_process(process, image["user"])
        check_answers(container, ports, settings)
        if store:
            check_store(store)
        process.terminate()
        code = process.wait(STOP_DEADLINE_S)
        require(code == 0, f"SIGTERM: exit code {code}")
        for secret in (CLIENT_SECRET, STORE_PASSWORD):
            require(secret not in log.read_text(), "a secret is in the log")
    except (Wrong, OSError, subprocess.TimeoutExpired, http.client.HTTPException):
        sys.stdout.write(log.read_text())
        raise
    finally:
        process.kill()
        if store:
            store.kill()
    say(f"{name}: started as {image['user'][0]} on a read-only root, probed, redirected, stopped with 0")


def main():
    if sys.argv[1:2] == ["--pod"]:
        run_pod(pathlib.Path(sys.argv[2]), sys.argv[3])
        return
    with tempfile.TemporaryDirectory(prefix="sidegate-deploy-") as name:
        scratch = pathlib.Path(name)
        scratch.chmod(0o755)
        root, image = assemble(scratch)
        inspect(root)
        (scratch / "image.json").write_text(json.dumps(image))
        for pod, manifest in manifests().items():
            (scratch / f"{pod}.json").write_text(json.dumps(manifest))
            start_pod(name, pod)


def start_pod(folder, pod):
    """Runs the pod in separate namespaces."""
    privileged = [] if os.geteuid() == 0 else ["sudo", "--"]
    namespaces = ["unshare", "--mount", "--net", "--pid", "--mount-proc"]
    namespaces += ["--fork", "--kill-child"]
    again = [sys.executable, str(pathlib.Path(__file__).resolve()), "--pod", folder, pod]
    outcome = subprocess.run([*privileged, *namespaces, *again], check=False)
    if privileged:
        # The pod has left files of root in the temporary folder.
        subprocess.run(["sudo", "--", "chown", "-R", str(os.geteuid()), folder], check=True)
    require(outcome.returncode == 0, f"the pod of the {pod} did not hold (see above)")


if __name__ == "__main__":
    try:
        main()
    except (Wrong, subprocess.CalledProcessError) as wrong:
        sys.exit(f"deploy: FAILED: {wrong}")
