"""Compares imported settings with oauth2-proxy itself.

For each file of config/examples/oauth2-proxy whose provider is an OpenID Provider, the script starts oauth2-proxy with the
flags in the comment of the file, and Sidegate with the settings that `sidegate import oauth2-proxy` prints for the same
flags. Both get the same requests, with and without a session at the provider of `sidegate demo`, in front of the same app.
The script compares the decisions and the fields that the app gets. tests/data/oauth2_proxy_differences.txt contains the
differences that are intended.

    PATH=FOLDER-WITH-OAUTH2-PROXY:$PATH tests/.cache/venv/bin/python tests/oauth2_proxy.py

Needs a build of Sidegate for tests (`cargo build`), and the program oauth2-proxy, which tests/run installs.
"""

import fnmatch
import http.client
import http.server
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import threading

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "benches"))

from measure.browser import REDIRECTS, Browser  # noqa: E402
from measure.stage import Stage, Wrong, free_port  # noqa: E402

EXAMPLES = TOP / "config/examples/oauth2-proxy"
DIFFERENCES = TOP / "tests/data/oauth2_proxy_differences.txt"
SECRETS = "/run/secrets/sidegate/"
# The examples that the script does not compare, each with the reason.
LEFT_OUT = {"github-team": "GitHub is no OpenID Provider"}
# Flags with a value of the test instead of the value of the example.
REPLACED = {
    *("--provider", "--oidc-issuer-url", "--upstream", "--redirect-url", "--http-address", "--client-id"),
    *("--client-secret-file", "--cookie-secret", "--cookie-domain", "--whitelist-domain", "--metrics-address"),
    *("--basic-auth-password", "--allowed-group", "--email-domain", "--scope"),
}
# The examples with a rule, and the flags that admit alice, a user of the demo, or refuse her.
RULES = {
    "entra-groups": (["--allowed-group=admins", "--allowed-group=nobody"], ["--allowed-group=nobody"]),
    "groups": (["--allowed-group=admins", "--allowed-group=nobody"], ["--allowed-group=nobody"]),
    "one-app": (["--email-domain=example.com"], ["--email-domain=other.test"]),
}
PATHS = ("/", "/data", "/api/v1", "/api", "/healthz", "/apidocs", "/static/site.css", "/assets/logo.png", "/favicon.ico",
         "/staticfiles", "/ping", "/ready", "/oauth2/auth", "/oauth2/auth?allowed_groups=staff",
         "/oauth2/auth?allowed_groups=nobody", "/oauth2/auth?allowed_email_domains=example.com",
         "/oauth2/auth?allowed_emails=alice@example.com", "/oauth2/userinfo")
FIELDS = ("authorization", "x-forwarded-user", "x-forwarded-email", "x-forwarded-groups",
          "x-forwarded-preferred-username", "x-forwarded-access-token")
ANSWER_FIELDS = ("x-auth-request-user", "x-auth-request-email", "x-auth-request-groups",
                 "x-auth-request-preferred-username")


class App(http.server.BaseHTTPRequestHandler):
    """Answers with the fields of the request."""

    def do_GET(self):
        body = json.dumps({name: self.headers.get(name) for name in FIELDS}).encode()
        self.send_response(200)
        self.send_header("X-App", "seen")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


def start_app():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), App)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def flags_of(example):
    """The flags in the comment of a file."""
    lines = [line for line in example.read_text(encoding="utf-8").splitlines() if line.startswith("#   --")]
    return shlex.split(" ".join(line.removeprefix("#   ") for line in lines))


def flags_for_test(example, rule, stage, app, port):
    """The flags of an example, with the provider, the app, the rule and the addresses of the test."""
    provider = stage.provider
    own = [flag for flag in flags_of(example) if flag.split("=")[0] not in REPLACED]
    names = [flag.split("=")[0] for flag in flags_of(example)]
    values = [flag for flag in flags_of(example) if flag.startswith("--upstream=static:")]
    flags = own + [
        "--provider=oidc",
        f"--oidc-issuer-url={provider.issuer}",
        values[0] if values else f"--upstream=http://127.0.0.1:{app}/",
        f"--redirect-url={provider.callback}",
        f"--http-address=127.0.0.1:{port}",
        f"--client-id={provider.client_id}",
        f"--client-secret-file={provider.secret_file}",
        "--cookie-secret=0123456789abcdef0123456789abcdef",
        "--cookie-secure=false",
        "--code-challenge-method=S256",
        "--skip-provider-button=true",
        # The provider of the demo does not know the scope that oauth2-proxy adds for groups.
        "--scope=openid email profile",
    ]
    flags += rule
    if not any(flag.startswith("--email-domain=") for flag in rule):
        flags.append("--email-domain=*")
    if "--basic-auth-password" in names:
        flags.append("--basic-auth-password=s3cret")
    # The test already has these flags.
    return list(dict.fromkeys(flags))


def imported(stage, name, flags):
    """The settings that the import prints, with the files that an operator writes."""
    command = [stage.program, "import", "oauth2-proxy", "--", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 2):
        raise Wrong(f"{name}: the import ends with {done.returncode}: {done.stderr}")
    folder = stage.folder / f"{name}-secrets"
    folder.mkdir()
    (folder / "app_password").write_text("s3cret\n", encoding="utf-8")
    text = done.stdout.replace(SECRETS, f"{folder}/")
    if "[auth_check]" in text:
        return text
    # oauth2-proxy answers auth checks of everybody. Sidegate answers only those of listed networks.
    return f'{text}\n[auth_check]\noauth2_proxy = ["127.0.0.1"]\n'


class Client(Browser):
    """A browser that also knows the fields of the answer."""

    def look(self, path, is_page):
        """Sends a request, follows no redirect. Returns the decision and the fields."""
        fields = {"Host": self.host}
        if is_page:
            fields.update({"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"})
        else:
            fields.update({"Accept": "application/json", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"})
        fields["Sec-Fetch-Site"] = "same-origin"
        cookie = self.cookie()
        if cookie:
            fields["Cookie"] = cookie
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path, None, fields)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        shown = {name: answer.getheader(name) for name in ANSWER_FIELDS}
        if answer.getheader("X-App") == "seen":
            return "app", {name: token(value) for name, value in json.loads(body).items() if value}
        if answer.status in REDIRECTS:
            location = answer.getheader("Location") or ""
            is_sign_in = location.startswith("/oauth2/") or "/oauth/authorize?" in location
            return "sign-in" if is_sign_in else f"redirect to {location}", {}
        if path.startswith("/oauth2/userinfo") and answer.status == 200:
            members = json.loads(body)
            return "userinfo", {name: members.get(name) for name in ("user", "email", "groups", "preferredUsername")}
        return str(answer.status), {name: value for name, value in shown.items() if value}


def token(value):
    """Returns the kind of a credential, because tokens are random and differ between the two proxies."""
    if value.startswith("Bearer eyJ"):
        return "Bearer JWT"
    if value.startswith("Bearer "):
        return "Bearer token"
    return value if len(value) < 100 else "token"


def compare(stage, example, app, is_refused=False):
    """Returns the rows of an example: request, and the results of oauth2-proxy and of Sidegate. `is_refused` selects the
    rule that refuses all users."""
    name, port = example.stem + ("-refused" if is_refused else ""), free_port()
    rule = RULES.get(example.stem, ([], []))[is_refused]
    flags = flags_for_test(example, rule, stage, app, port)
    stage.start(f"{name}-oauth2-proxy", ["oauth2-proxy", *flags], port)
    other = free_port()
    flags = [flag.replace(f"127.0.0.1:{port}", f"127.0.0.1:{other}") for flag in flags]
    file = stage.write(f"{name}.toml", imported(stage, name, flags))
    stage.start(f"{name}-sidegate", [stage.program, "run", "--config", file], other)
    rows = []
    for user in ("anonymous", "alice", "bob"):
        clients = [Client(stage.provider.host, at) for at in (port, other)]
        if user != "anonymous":
            for client in clients:
                client.sign_in("/", user)
        if user == "alice" and not is_refused:
            for client in clients:
                decision, _fields = client.look("/oauth2/userinfo", False)
                if decision != "userinfo":
                    raise Wrong(f"{name}: alice is not signed in at port {client.port}: {decision}")
        for path in PATHS:
            for kind in ("page", "fetch"):
                seen = [client.look(path, kind == "page") for client in clients]
                rows.append((f"{name} {user} {kind} {path}", *seen))
    stage.stop(f"{name}-oauth2-proxy")
    stage.stop(f"{name}-sidegate")
    return rows


def text(seen):
    decision, fields = seen
    return "; ".join([decision, *(f"{name}: {value}" for name, value in sorted(fields.items()))])


def matches(row, known):
    """Whether an intended difference describes a row."""
    examples, _, request = known[0].partition(" ")
    example, _, asked = row[0].partition(" ")
    is_example = examples == "*" or example in examples.split("|")
    return is_example and all(map(fnmatch.fnmatchcase, (asked, *row[1:]), (request, *known[1:])))


def differences():
    """The intended differences: patterns of requests and of both results. The fourth column is the reason."""
    lines = DIFFERENCES.read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("\t")[:3]) for line in lines if line and not line.startswith("#")]


def main():
    if shutil.which("oauth2-proxy") is None:
        raise Wrong("oauth2-proxy is not on PATH: run tests/run")
    program = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target")) / "debug/sidegate"
    app, wrong, intended = start_app(), [], differences()
    used = set()
    with Stage(program) as stage:
        stage.start_provider()
        for example in sorted(EXAMPLES.glob("*.toml")):
            if example.stem in LEFT_OUT:
                continue
            rows = compare(stage, example, app)
            if example.stem in RULES:
                rows += compare(stage, example, app, is_refused=True)
            same = 0
            for request, theirs, ours in rows:
                if theirs == ours:
                    same += 1
                    continue
                row = (request, text(theirs), text(ours))
                found = [known for known in intended if matches(row, known)]
                used.update(found)
                if not found:
                    wrong.append("\t".join(row))
            print(f"{example.stem}: {same} of {len(rows)} requests have the same result", flush=True)
    wrong += [f"no such difference: {known[0]}" for known in intended if known not in used]
    if wrong:
        raise Wrong("\n".join(wrong))
    version = subprocess.run(["oauth2-proxy", "--version"], capture_output=True, text=True, check=True)
    print(f"all other results differ as {DIFFERENCES.name} states ({version.stdout.split(' (')[0].strip()})")


if __name__ == "__main__":
    try:
        main()
    except (Wrong, OSError) as wrong:
        sys.exit(f"oauth2_proxy: {wrong}")
