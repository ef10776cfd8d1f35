"""The compared proxies, each configured as in its manual: one worker, keep-alive on both sides, no access log,
forwarding fields. A proxy with sign-in injects the bearer token. oauth2-proxy as a proxy has no such option and sends
the token as `X-Forwarded-Access-Token`."""

import dataclasses
import json
import os
import pathlib
import shutil
import sys
import urllib.request
from collections.abc import Callable

from . import machine
from .stage import Wrong, free_port

BODY = "x" * 1024
LARGE = 100 * 1024
# The required length of the key that seals cookies.
SEALING = "0123456789abcdef0123456789abcdef"


@dataclasses.dataclass
class Peer:
    """A running proxy: its address, the processes that handle a request, its features."""

    name: str
    port: int
    processes: list
    # Whether users sign in at this proxy, and the field in which the app gets the token.
    signs_in: bool = False
    token_field: str | None = None
    tls_port: int | None = None
    cookie: str = ""
    version: str = ""

    def pids(self):
        return [pid for process in self.processes for pid in process.pids()]


@dataclasses.dataclass
class Setting:
    """The input for the setup of a proxy."""

    stage: object
    app: str
    certificate: pathlib.Path
    key: pathlib.Path
    started: dict = dataclasses.field(default_factory=dict)

    @property
    def folder(self):
        return self.stage.folder

    def start(self, name, command, port, environment=None):
        if name not in self.started:
            cores = machine.PROXY_CORES
            self.started[name] = self.stage.start(name, command, port, cores, environment)
        return self.started[name]


# nginx


def nginx_main(folder, name, servers):
    """A complete nginx configuration for one process. It has no limits on connection reuse, like the others."""
    return (
        f"daemon off; master_process off; worker_processes 1; pid {folder}/{name}.pid;\n"
        f"error_log {folder}/{name}.error;\n"
        "events { worker_connections 21000; }\n"
        "http {\n"
        "access_log off; server_tokens off; tcp_nodelay on; sendfile on; absolute_redirect off;\n"
        "keepalive_requests 1000000000; keepalive_timeout 600s;\n"
        "client_header_buffer_size 8k; large_client_header_buffers 8 32k;\n"
        f"client_body_temp_path {folder}/{name}.body; proxy_temp_path {folder}/{name}.proxy;\n"
        f"fastcgi_temp_path {folder}/{name}.fastcgi; uwsgi_temp_path {folder}/{name}.uwsgi;\n"
        f"scgi_temp_path {folder}/{name}.scgi;\n"
        f"{servers}\n}}\n"
    )


def start_nginx(setting, name, servers, port, cores=None):
    folder = setting.folder
    file = setting.stage.write(f"{name}.conf", nginx_main(folder, name, servers))
    command = ["nginx", "-p", folder, "-c", file, "-e", folder / f"{name}.error"]
    if cores:
        return setting.stage.start(name, command, port, cores)
    return setting.start(name, command, port)


FIELDS = (
    "proxy_set_header Host $http_host;\n"
    "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n"
    "proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host;\n"
)
# The request of the client, for an auth check.
ORIGINAL = (
    "proxy_set_header X-Original-URI $request_uri;\n"
    "proxy_set_header X-Original-Method $request_method;\n"
)
FORWARDED = f'proxy_http_version 1.1; proxy_set_header Connection ""; {FIELDS}'


def upstream(name, address):
    return (
        f"upstream {name} {{ server {address}; keepalive 1024; keepalive_requests 1000000000;"
        " keepalive_timeout 600s; }\n"
    )


class App:
    """The app behind all proxies, also an nginx: 1 KB for any path, a large file, a record of received requests, and a
    count of requests."""

    def __init__(self, setting, stage):
        self.port, self.status_port = free_port(), free_port()
        site = stage.folder / "site"
        site.mkdir()
        (site / "large.bin").write_bytes(os.urandom(LARGE // 2).hex().encode())
        site.chmod(0o755)
        seen = "|".join(
            f"{name}=$http_{name}"
            for name in ("authorization", "x_forwarded_access_token", "x_forwarded_for", "cookie")
        )
        servers = (
            f"server {{ listen 127.0.0.1:{self.port} backlog=8192; root {site};\n"
            f'location = /seen {{ default_type text/plain; return 200 "{seen}"; }}\n'
            "location = /large.bin { }\n"
            "location / { default_type application/json; add_header Cache-Control no-store;"
            f' add_header X-Request-Id $request_id; return 200 "{BODY}"; }}\n}}\n'
            f"server {{ listen 127.0.0.1:{self.status_port};"
            " location / { stub_status; } }\n"
        )
        self.process = start_nginx(setting, "app", servers, self.port, machine.OTHER_CORES)

    def requests(self):
        """The number of requests that the app has got, including this one."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.status_port}/", timeout=20) as answer:
            return int(answer.read().decode().splitlines()[2].split()[2])


def nginx(setting):
    """Plain `proxy_pass` without authentication: the reference."""
    port, tls_port = free_port(), free_port()
    location = f"location / {{ proxy_pass http://app;\n{FORWARDED} }}\n"
    servers = (
        upstream("app", setting.app)
        + f"server {{ listen 127.0.0.1:{port} backlog=8192;\n{location} }}\n"
        + f"server {{ listen 127.0.0.1:{tls_port} ssl http2 backlog=8192;\n"
        f"ssl_certificate {setting.certificate}; ssl_certificate_key {setting.key};\n"
        f"ssl_protocols TLSv1.2 TLSv1.3;\n{location} }}\n"
    )
    process = start_nginx(setting, "nginx", servers, port)
    return Peer("nginx", port, [process], tls_port=tls_port)


def nginx_auth_request(setting):
    """nginx sends an auth subrequest for each request to an empty responder, which is faster than any real one."""
    port, responder_port = free_port(), free_port()
    token = "Bearer " + "e" * 800
    responder = start_nginx(
        setting,
        "responder",
        f"server {{ listen 127.0.0.1:{responder_port} backlog=8192; location / {{\n"
        f'add_header X-User 17 always; add_header X-Token "{token}" always; return 202 ""; }} }}\n',
        responder_port,
    )
    servers = asking(
        setting,
        port,
        f"127.0.0.1:{responder_port}",
        "/auth",
        "auth_request_set $user $upstream_http_x_user;"
        " auth_request_set $token $upstream_http_x_token;",
        "$token",
    )
    process = start_nginx(setting, "nginx_auth_request", servers, port)
    return Peer("nginx_auth_request", port, [process, responder], token_field="authorization")


def asking(setting, port, responder, path, taken, bearer, more="", copied=""):
    """An nginx that asks a responder with `auth_request` and injects the token from its answer. `copied` has the
    directives for other fields of the answer."""
    return (
        upstream("app", setting.app)
        + upstream("responder", responder)
        + f"server {{ listen 127.0.0.1:{port} backlog=8192;\n{more}"
        f"location = /_auth {{ internal; proxy_pass http://responder{path};\n"
        'proxy_pass_request_body off; proxy_set_header Content-Length "";\n'
        f"{ORIGINAL}{FORWARDED} }}\n"
        f"location / {{ auth_request /_auth; {taken}\nproxy_pass http://app;\n"
        f'proxy_set_header Authorization "{bearer}"; proxy_set_header X-User $user;\n'
        f"{copied}{FORWARDED} }}\n"
        "}\n"
    )


# haproxy


def haproxy(setting):
    port, tls_port = free_port(), free_port()
    both = setting.stage.write(
        "haproxy.pem", setting.certificate.read_text() + setting.key.read_text()
    )
    fields = (
        "option forwardfor\nhttp-request set-header X-Forwarded-Host %[req.hdr(host)]\n"
        "default_backend app\n"
    )
    file = setting.stage.write(
        "haproxy.cfg",
        "global\nnbthread 1\nmaxconn 4000\ntune.bufsize 32768\n"
        "defaults\nmode http\ntimeout client 600s\ntimeout server 600s\ntimeout connect 5s\n"
        "option http-keep-alive\nhttp-reuse always\n"
        f"frontend plain\nbind 127.0.0.1:{port}\n"
        f"http-request set-header X-Forwarded-Proto http\n{fields}"
        f"frontend tls\nbind 127.0.0.1:{tls_port} ssl crt {both} alpn h2,http/1.1\n"
        f"http-request set-header X-Forwarded-Proto https\n{fields}"
        f"backend app\nserver app {setting.app} pool-max-conn 1024\n",
    )
    process = setting.start("haproxy", ["haproxy", "-f", file, "-db", "-q"], port)
    return Peer("haproxy", port, [process], tls_port=tls_port)


# Sidegate


def sidegate(setting):
    """Two processes, because each listens either with or without TLS. Each has its own session."""
    stage, port = setting.stage, free_port()
    file = stage.write("sidegate.toml", stage.settings(port, f"http://{setting.app}"))
    process = setting.start("sidegate", [stage.program, "run", "--config", file], port)
    return Peer("sidegate", port, [process], signs_in=True, token_field="authorization")


def start_redis(setting, name):
    """A server without persistence. Returns the process and its port."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1"]
    return setting.start(name, [*command, "--save", "", "--appendonly", "no"], port), port


def sidegate_redis(setting):
    """Sidegate with the sessions in Redis on this machine."""
    stage, port = setting.stage, free_port()
    redis, redis_port = start_redis(setting, "redis_of_sidegate")
    keys = stage.write("sidegate-keys", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n")
    store = (
        f'[session.store.redis]\nurls = ["redis://127.0.0.1:{redis_port}"]\n'
        f'[login]\nstate_key_file = "{keys}"\n'
    )
    settings = stage.settings(port, f"http://{setting.app}") + store
    file = stage.write("sidegate-redis.toml", settings)
    process = setting.start("sidegate_redis", [stage.program, "run", "--config", file], port)
    return Peer(
        "sidegate_redis", port, [process, redis], signs_in=True, token_field="authorization"
    )


def sidegate_tls(setting):
    stage, port = setting.stage, free_port()
    tls = f'certificate_file = "{setting.certificate}"\nkey_file = "{setting.key}"\n'
    file = stage.write("sidegate-tls.toml", stage.settings(port, f"http://{setting.app}", tls))
    process = setting.start("sidegate_tls", [stage.program, "run", "--config", file], port)
    return Peer(
        "sidegate", port, [process], signs_in=True, token_field="authorization", tls_port=port
    )


def asked_sidegate(setting, name, kind):
    """A process of Sidegate that answers the auth checks of another proxy. The other proxy forwards the requests."""
    stage, port = setting.stage, free_port()
    settings = stage.settings(port, f"http://{setting.app}", 'trusted_proxies = ["127.0.0.1"]\n')
    check = f'[[auth_check.proxies]]\nnetworks = ["127.0.0.1"]\nkind = "{kind}"\n'
    file = stage.write(f"{name}.toml", settings + check)
    return setting.start(name, [stage.program, "run", "--config", file], port), port


def nginx_sidegate(setting):
    """nginx asks Sidegate with `auth_request`, and replaces the fields that the configuration of `sidegate snippet`
    replaces."""
    responder, responder_port = asked_sidegate(setting, "sidegate_nginx", "nginx")
    names = ("Cookie", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Forwarded-Preferred-Username")
    taken = (
        "auth_request_set $user $upstream_http_x_forwarded_user;\n"
        "auth_request_set $token $upstream_http_authorization;"
    )
    copied = ""
    for name in names:
        variable = name.lower().replace("-", "_")
        taken += f"\nauth_request_set $taken_{variable} $upstream_http_{variable};"
        copied += f"proxy_set_header {name} $taken_{variable};\n"
    own = (
        f"location /oauth2/ {{ proxy_pass http://responder;\n{FORWARDED} }}\n"
        "location @sidegate { rewrite ^ /_sidegate/auth/answer break; proxy_pass http://responder;\n"
        'proxy_pass_request_body off; proxy_set_header Content-Length "";\n'
        f"{ORIGINAL}{FORWARDED} }}\n"
        "error_page 401 403 = @sidegate;\n"
    )
    port = free_port()
    servers = asking(
        setting,
        port,
        f"127.0.0.1:{responder_port}",
        "/_sidegate/auth",
        taken,
        "$token",
        own,
        copied,
    )
    process = start_nginx(setting, "nginx_sidegate", servers, port)
    return Peer(
        "nginx_sidegate", port, [process, responder], signs_in=True, token_field="authorization"
    )


# Apache with mod_auth_openidc


def mod_auth_openidc(setting):
    """Sessions in shared memory, which is the default store and the fastest one."""
    folder, provider, port = setting.folder, setting.stage.provider, free_port()
    modules = "/usr/lib/apache2/modules"
    loaded = "".join(
        f"LoadModule {name}_module {modules}/mod_{name}.so\n"
        for name in (
            *("mpm_event", "authn_core", "authz_core", "authz_user", "headers", "proxy"),
            *("proxy_http", "auth_openidc"),
        )
    )
    file = setting.stage.write(
        "apache.conf",
        f"ServerRoot {folder}\nServerName 127.0.0.1\nPidFile {folder}/apache.pid\n"
        f"ErrorLog {folder}/apache.error\nLogLevel warn\nDefaultRuntimeDir {folder}\n"
        f"Mutex file:{folder}\n{loaded}User www-data\nGroup www-data\n"
        "StartServers 1\nServerLimit 1\nThreadLimit 160\nThreadsPerChild 160\n"
        "MaxRequestWorkers 160\nMinSpareThreads 1\nMaxSpareThreads 160\n"
        "MaxKeepAliveRequests 0\nKeepAlive On\nKeepAliveTimeout 600\nTimeout 600\n"
        f"LimitRequestFieldSize 32768\nListen 127.0.0.1:{port}\nProxyPreserveHost On\n"
        f"ProxyPass /oauth2/callback !\n"
        f"ProxyPass / http://{setting.app}/ keepalive=On max=256 ttl=600\n"
        f"OIDCProviderMetadataURL {provider.issuer}/.well-known/openid-configuration\n"
        f"OIDCClientID {provider.client_id}\nOIDCClientSecret {provider.client_secret}\n"
        f"OIDCCryptoPassphrase {SEALING}\nOIDCRedirectURI {provider.callback}\n"
        'OIDCScope "openid email profile"\nOIDCPKCEMethod S256\nOIDCCacheType shm\n'
        "OIDCSessionInactivityTimeout 86400\nOIDCSessionMaxDuration 86400\n"
        "<Location />\nAuthType openid-connect\nRequire valid-user\n"
        'RequestHeader set Authorization "Bearer %{OIDC_access_token}e"\n</Location>\n',
    )
    process = setting.start("mod_auth_openidc", ["apache2", "-f", file, "-DFOREGROUND"], port)
    return Peer(
        "mod_auth_openidc", port, [process], signs_in=True, token_field="authorization"
    )


# Envoy


def envoy_program():
    """The program inside the wheel."""
    found = list(pathlib.Path(sys.prefix).glob("lib/python*/site-packages/envoy/_bin/envoy"))
    return found[0] if found else None


FILTERS = "type.googleapis.com/envoy.extensions.filters"


def envoy_address(number):
    return {"socket_address": {"address": "127.0.0.1", "port_value": number}}


def envoy_cluster(name, number, more=None):
    endpoint = {"endpoint": {"address": envoy_address(number)}}
    many = {"max_connections": 4096, "max_requests": 4096, "max_pending_requests": 4096}
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
        "circuit_breakers": {"thresholds": [many]},
        **(more or {}),
    }


def start_envoy(setting, name, signing_in, routes, clusters):
    """Starts an Envoy with one worker, the filter `signing_in` and these routes. Returns the process and its port."""
    port = free_port()
    router = {"name": "router", "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"}}
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "proxy",
        "use_remote_address": True,
        "route_config": {
            "virtual_hosts": [{"name": "app", "domains": ["*"], "routes": routes}]
        },
        "http_filters": [signing_in, router],
    }
    listener = {
        "address": envoy_address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    resources = {"static_resources": {"listeners": [listener], "clusters": clusters}}
    file = setting.stage.write(f"{name}.json", json.dumps(resources))
    command = [envoy_program(), "-c", file, "--concurrency", "1", "--disable-hot-restart"]
    command += ["--service-node", "bench", "--service-cluster", "bench", "-l", "error"]
    return setting.start(name, command, port), port


def envoy_app(setting):
    """The cluster of the app, and the route to it."""
    cluster = envoy_cluster("app", int(setting.app.rpartition(":")[2]))
    return cluster, {"match": {"prefix": "/"}, "route": {"cluster": "app"}}


def envoy_oauth2(setting):
    """The OAuth2 filter with its defaults: encrypted tokens in cookies."""
    provider = setting.stage.provider
    issuer_port = int(provider.issuer.rpartition(":")[2])

    def secret(name, value):
        resource = {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": name,
            "generic_secret": {"secret": {"inline_string": value}},
        }
        path = setting.stage.write(f"envoy-{name}.yaml", json.dumps({"resources": [resource]}))
        return {"name": name, "sds_config": {"path_config_source": {"path": str(path)}}}

    oauth2 = {
        "token_endpoint": {
            "cluster": "provider",
            "uri": f"{provider.issuer}/oauth/token",
            "timeout": "5s",
        },
        "authorization_endpoint": f"{provider.issuer}/oauth/authorize",
        "redirect_uri": provider.callback,
        "redirect_path_matcher": {"path": {"exact": "/oauth2/callback"}},
        "signout_path": {"path": {"exact": "/signout"}},
        "forward_bearer_token": True,
        "auth_scopes": ["openid", "email"],
        "use_refresh_token": True,
        "credentials": {
            "client_id": provider.client_id,
            "token_secret": secret("token", provider.client_secret),
            "hmac_secret": secret("hmac", SEALING),
        },
    }
    signing_in = {
        "name": "oauth2",
        "typed_config": {"@type": f"{FILTERS}.http.oauth2.v3.OAuth2", "config": oauth2},
    }
    app, route = envoy_app(setting)
    clusters = [app, envoy_cluster("provider", issuer_port)]
    process, port = start_envoy(setting, "envoy_oauth2", signing_in, [route], clusters)
    return Peer("envoy_oauth2", port, [process], signs_in=True, token_field="authorization")


def envoy_sidegate(setting):
    """Envoy asks Sidegate with `ext_authz` over gRPC, as in the configuration of `sidegate snippet`."""
    asked, asked_port = asked_sidegate(setting, "sidegate_envoy", "envoy")
    check = f"{FILTERS}.http.ext_authz.v3.ExtAuthz"
    signing_in = {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": check,
            "transport_api_version": "V3",
            "status_on_error": {"code": "ServiceUnavailable"},
            "grpc_service": {"envoy_grpc": {"cluster_name": "sidegate"}, "timeout": "30s"},
            "encode_raw_headers": True,
        },
    }
    own = {
        "match": {"prefix": "/oauth2/"},
        "route": {"cluster": "sidegate"},
        "typed_per_filter_config": {
            "envoy.filters.http.ext_authz": {"@type": f"{check}PerRoute", "disabled": True}
        },
    }
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    http2 = {
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    }
    app, route = envoy_app(setting)
    clusters = [app, envoy_cluster("sidegate", asked_port, http2)]
    process, port = start_envoy(setting, "envoy_sidegate", signing_in, [own, route], clusters)
    return Peer(
        "envoy_sidegate", port, [process, asked], signs_in=True, token_field="authorization"
    )


# oauth2-proxy


def oauth2_proxy_file(setting, name, port, app, more):
    provider = setting.stage.provider
    return setting.stage.write(
        f"{name}.cfg",
        f'http_address = "127.0.0.1:{port}"\nprovider = "oidc"\n'
        f'oidc_issuer_url = "{provider.issuer}"\nclient_id = "{provider.client_id}"\n'
        f'client_secret = "{provider.client_secret}"\nredirect_url = "{provider.callback}"\n'
        f'cookie_secret = "{SEALING}"\ncookie_secure = false\nemail_domains = ["*"]\n'
        f'upstreams = ["{app}"]\nskip_provider_button = true\npass_access_token = true\n'
        "pass_host_header = true\ncode_challenge_method = \"S256\"\n"
        "insecure_oidc_allow_unverified_email = true\n"
        "request_logging = false\nauth_logging = false\nstandard_logging = false\n"
        f'cookie_expire = "168h"\n{more}',
    )


# Go uses as many threads as there are cores in its affinity, which is one.
GO = {"GOMAXPROCS": "1"}


def oauth2_proxy(setting):
    """oauth2-proxy as the proxy, with the session in cookies."""
    port = free_port()
    file = oauth2_proxy_file(setting, "oauth2_proxy", port, f"http://{setting.app}/", "")
    process = setting.start("oauth2_proxy", ["oauth2-proxy", "--config", file], port, GO)
    return Peer(
        "oauth2_proxy", port, [process], signs_in=True, token_field="x_forwarded_access_token"
    )


def oauth2_proxy_redis(setting):
    """oauth2-proxy as the proxy, with the session in Redis on this machine."""
    port = free_port()
    redis, redis_port = start_redis(setting, "redis")
    more = (
        'session_store_type = "redis"\n'
        f'redis_connection_url = "redis://127.0.0.1:{redis_port}"\n'
    )
    file = oauth2_proxy_file(setting, "oauth2_proxy_redis", port, f"http://{setting.app}/", more)
    process = setting.start("oauth2_proxy_redis", ["oauth2-proxy", "--config", file], port, GO)
    return Peer(
        "oauth2_proxy_redis",
        port,
        [process, redis],
        signs_in=True,
        token_field="x_forwarded_access_token",
    )


def nginx_oauth2_proxy(setting):
    """oauth2-proxy behind nginx's `auth_request`, with the session in cookies."""
    port, responder_port = free_port(), free_port()
    more = "reverse_proxy = true\nset_xauthrequest = true\nset_authorization_header = true\n"
    file = oauth2_proxy_file(
        setting, "oauth2_proxy_auth", responder_port, "static://202", more
    )
    command = ["oauth2-proxy", "--config", file]
    responder = setting.start("oauth2_proxy_auth", command, responder_port, GO)
    own = (
        f"location /oauth2/ {{ proxy_pass http://responder;\n{FORWARDED} }}\n"
        "location @sign_in { return 302 /oauth2/start?rd=$request_uri; }\n"
        "error_page 401 = @sign_in;\n"
    )
    servers = asking(
        setting,
        port,
        f"127.0.0.1:{responder_port}",
        "/oauth2/auth",
        "auth_request_set $user $upstream_http_x_auth_request_user;\n"
        "auth_request_set $token $upstream_http_x_auth_request_access_token;",
        "Bearer $token",
        own,
    )
    process = start_nginx(setting, "nginx_oauth2_proxy", servers, port)
    return Peer(
        "nginx_oauth2_proxy",
        port,
        [process, responder],
        signs_in=True,
        token_field="authorization",
    )


@dataclasses.dataclass(frozen=True)
class Kind:
    """A proxy that can be measured: its programs, and the command that prints its version."""

    label: str
    start: Callable
    program: str
    version: tuple


KINDS = {
    "nginx": Kind("nginx without authentication", nginx, "nginx", ("nginx", "-v")),
    "sidegate": Kind("Sidegate", sidegate, "", ()),
    "sidegate_redis": Kind(
        "Sidegate, Redis session", sidegate_redis, "redis-server", ("redis-server", "--version")
    ),
    "haproxy": Kind("haproxy without authentication", haproxy, "haproxy", ("haproxy", "-v")),
    "nginx_auth_request": Kind(
        "nginx + auth_request, empty responder", nginx_auth_request, "nginx", ("nginx", "-v")
    ),
    "nginx_sidegate": Kind(
        "nginx + auth_request + Sidegate", nginx_sidegate, "nginx", ("nginx", "-v")
    ),
    "envoy_sidegate": Kind("Envoy + ext_authz over gRPC + Sidegate", envoy_sidegate, "", ()),
    "envoy_oauth2": Kind("Envoy OAuth2 filter", envoy_oauth2, "", ()),
    "mod_auth_openidc": Kind(
        "Apache mod_auth_openidc", mod_auth_openidc, "apache2", ("apache2", "-v")
    ),
    "oauth2_proxy": Kind(
        "oauth2-proxy, cookie session", oauth2_proxy, "oauth2-proxy", ("oauth2-proxy", "--version")
    ),
    "oauth2_proxy_redis": Kind(
        "oauth2-proxy, Redis session",
        oauth2_proxy_redis,
        "oauth2-proxy",
        ("redis-server", "--version"),
    ),
    "nginx_oauth2_proxy": Kind(
        "nginx + auth_request + oauth2-proxy",
        nginx_oauth2_proxy,
        "oauth2-proxy",
        ("oauth2-proxy", "--version"),
    ),
}


# The proxies that ask for auth checks, each with the proxies to which it is compared.
AUTH_CHECKS = (
    ("nginx_sidegate", "nginx_oauth2_proxy"),
    ("nginx_sidegate", "nginx_auth_request"),
    ("envoy_sidegate", "envoy_oauth2"),
)

# The proxies with sessions in Redis.
STORES = (("sidegate_redis", "oauth2_proxy_redis"),)

# The program of these proxies is in a package of Python.
ENVOYS = ("envoy_oauth2", "envoy_sidegate")


def available(name):
    """Whether the programs of a proxy are installed."""
    if name in ENVOYS:
        return envoy_program() is not None
    program = KINDS[name].program
    return not program or shutil.which(program) is not None


def version(name, program):
    if name == "sidegate":
        return machine.said(program, "--version")
    if name in ENVOYS:
        return "Envoy " + machine.said(envoy_program(), "--version").split("/")[-4]
    return machine.said(*KINDS[name].version)


def start(name, setting):
    if not available(name):
        raise Wrong(f"{name}: {KINDS[name].program or name} is not on this machine")
    return KINDS[name].start(setting)
