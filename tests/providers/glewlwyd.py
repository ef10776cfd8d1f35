"""Debian's glewlwyd as an OpenID Provider, with an empty database, configured with its own admin API.

    python glewlwyd.py FOLDER

Listens on a free port of 127.0.0.1 and prints `ready ISSUER`. The process becomes the server; a child of
it does the set-up and ends. User alice with the password alice-password; the clients are in CLIENTS, the
secret of a client is `secret-` and its name. Needs the packages glewlwyd, sqlite3 and openssl. Access tokens
live for ACCESS_TTL seconds, where the environment has that; refresh tokens are good for one use.
"""
import http.cookiejar
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

CLIENTS = [("basic", "client_secret_basic"), ("post", "client_secret_post"), ("public", "none")]
REDIRECT_URI = "http://localhost/oauth2/callback"
SIGNED_OUT = "http://localhost/oauth2/signed_out"
SCHEMA = "/usr/share/dbconfig-common/data/glewlwyd/install/sqlite3"
# The packaged settings that have to change here.
OURS = (
    "@include", "bind_address", "external_url", "log_file", "log_level", "log_mode", "port", "static_files_path",
)


def configure(folder, port):
    """Writes database, login page and settings. Returns the path of the settings."""
    database = folder / "glewlwyd.db"
    subprocess.run(["sqlite3", database], input=Path(SCHEMA).read_bytes(), check=True)
    # The page's own settings are a broken symbolic link in the package.
    pages = folder / "webapp"
    shutil.copytree("/usr/share/glewlwyd/webapp", pages, ignore=shutil.ignore_patterns("config.json"))
    shutil.copy("/usr/share/glewlwyd/templates/config.json", pages / "config.json")
    lines = Path("/etc/glewlwyd/glewlwyd.conf").read_text().splitlines()
    lines = [line for line in lines if not line.startswith(OURS)]
    lines += [
        f"port={port}",
        'bind_address="127.0.0.1"',
        f'external_url="http://127.0.0.1:{port}/"',
        'log_mode="file"',
        f'log_file="{folder}/glewlwyd.log"',
        'log_level="INFO"',
        f'static_files_path="{pages}/"',
        f'database = {{ type = "sqlite3"; path = "{database}"; }};',
    ]
    settings = folder / "glewlwyd.conf"
    settings.write_text("\n".join(lines) + "\n")
    return settings


class Admin:
    """The admin API, with a signed-in administrator."""

    def __init__(self, base, server):
        self.base = base
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies)
        for _ in range(600):
            try:
                self.call("POST", "auth/", {"username": "admin", "password": "password"})
                return
            except urllib.error.HTTPError:
                raise
            except urllib.error.URLError:
                if os.getppid() != server:
                    raise
                time.sleep(0.05)
        raise TimeoutError("glewlwyd does not answer")

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.base}/api/{path}", data, headers, method=method)
        with self.opener.open(request, timeout=20) as answer:
            text = answer.read()
        return json.loads(text) if text else None


def plugin(issuer):
    """The plug-in's settings. The API requires each of them, even with its default."""
    key = subprocess.run(["openssl", "genrsa", "2048"], capture_output=True, check=True).stdout
    public = subprocess.run(["openssl", "rsa", "-pubout"], input=key, capture_output=True, check=True).stdout
    parameters = {
        "iss": issuer, "jwt-type": "rsa", "jwt-key-size": "256", "key": key.decode(), "cert": public.decode(),
        "access-token-duration": int(os.environ.get("ACCESS_TTL", 3600)), "refresh-token-duration": 3600, "code-duration": 60,
        "refresh-token-rolling": True, "refresh-token-one-use": "always", "allow-non-oidc": True,
        "auth-type-code-enabled": True, "auth-type-code-revoke-replayed": True, "auth-type-token-enabled": False,
        "auth-type-id-token-enabled": True, "auth-type-password-enabled": False, "auth-type-client-enabled": False,
        "auth-type-refresh-enabled": True, "auth-type-none-enabled": False,
        "jwks-show": True, "subject-type": "public", "oauth-as-iss-id": True,
        "name-claim": "mandatory", "name-claim-scope": [], "email-claim": "mandatory", "email-claim-scope": [],
        "scope-claim": "no", "scope-claim-scope": [], "allowed-scope": ["openid", "profile", "email"],
        "claims": [], "address-claim": {"type": "no"}, "additional-parameters": [],
        "pkce-allowed": True, "pkce-method-plain-allowed": False, "pkce-required": True,
        "introspection-revocation-allowed": False,
        "session-management-allowed": True, "session-cookie-name": "GLEWLWYD2_OIDC_SID",
        "session-cookie-expiration": 3600,
        "back-channel-logout-allowed": True, "front-channel-logout-allowed": False,
        "oauth-par-allowed": False, "oauth-dpop-allowed": False, "request-parameter-allow": False,
    }
    return {"module": "oidc", "name": "oidc", "display_name": "OIDC", "parameters": parameters}


def scope(name):
    return {
        "name": name, "display_name": name, "description": name,
        "password_required": True, "password_max_age": 0, "scheme": {},
    }


def set_up(base, server):
    issuer = f"{base}/api/oidc"
    admin = Admin(base, server)
    admin.call("POST", "mod/plugin/", plugin(issuer))
    for name in ("profile", "email"):
        admin.call("POST", "scope/", scope(name))
    admin.call("PUT", "scope/openid", scope("openid"))
    admin.call("POST", "user/", {
        "username": "alice", "name": "User alice", "email": "alice@example.test", "password": "alice-password",
        "enabled": True, "scope": ["openid", "profile", "email", "g_profile"],
    })
    # The packaged data format of clients has no list of addresses after a sign-out.
    clients = admin.call("GET", "mod/client/database")
    kind = {"multiple": True, "read": True, "write": True}
    clients["parameters"]["data-format"]["post_logout_redirect_uris"] = kind
    admin.call("PUT", "mod/client/database", clients)
    admin.call("PUT", "mod/client/database/reset", {})
    for name, method in CLIENTS:
        admin.call("POST", "client/", {
            "client_id": name, "name": name, "confidential": method != "none", "enabled": True,
            "client_secret": f"secret-{name}", "redirect_uri": [REDIRECT_URI],
            "authorization_type": ["code", "refresh_token"], "token_endpoint_auth_method": [method], "scope": [],
            "post_logout_redirect_uris": [SIGNED_OUT],
        })
    print(f"ready {issuer}", flush=True)


def main():
    folder = Path(sys.argv[1]).resolve()
    # It does not accept port 0, so this is a port that was free a moment ago.
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = configure(folder, port)
    server = os.getpid()
    if os.fork() == 0:
        set_up(f"http://127.0.0.1:{port}", server)
        return
    os.execvp("glewlwyd", ["glewlwyd", f"--config-file={settings}"])


main()
