"""The app, nginx and Sidegate for the measurement of streams."""

import urllib.request

from . import machine, peers
from .peers import Peer
from .places import DRIVE
from .stage import free_port


class App:
    """The app of `drive`: HTTP/1.1 on one port, HTTP/2 without TLS on another."""

    def __init__(self, stage):
        self.port, self.http2_port = free_port(), free_port()
        command = [DRIVE, "app", self.port, self.http2_port]
        self.process = stage.start("app", command, self.port, machine.OTHER_CORES)

    def requests(self):
        """The number of messages, bodies and calls that are complete, including this request."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/count", timeout=20) as answer:
            return int(answer.read()) + 1


def nginx(setting, app, name="nginx"):
    """nginx without buffering, with the sizes of its buffers unchanged."""
    port = free_port()
    servers = peers.upstream("app", f"127.0.0.1:{app.port}") + (
        'map $http_upgrade $upgrading { default upgrade; "" ""; }\n'
        f"server {{ listen 127.0.0.1:{port} backlog=8192; {SIZES}\n"
        "location / { proxy_pass http://app; proxy_buffering off; proxy_request_buffering off;\n"
        f"client_max_body_size 0; proxy_read_timeout 600s; proxy_http_version 1.1;\n{peers.FIELDS}"
        "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $upgrading; } }\n"
    )
    process = peers.start_nginx(setting, name, servers, port)
    return Peer("nginx", port, [process])


def nginx_grpc(setting, app):
    port = free_port()
    fields = peers.FIELDS.replace("proxy_set", "grpc_set")
    servers = peers.upstream("app", f"127.0.0.1:{app.http2_port}") + (
        f"server {{ listen 127.0.0.1:{port} ssl http2 backlog=8192; {SIZES}\n"
        f"ssl_certificate {setting.certificate}; ssl_certificate_key {setting.key};\n"
        "ssl_protocols TLSv1.2 TLSv1.3;\n"
        f"location / {{ grpc_pass grpc://app;\n{fields} }} }}\n"
    )
    process = peers.start_nginx(setting, "nginx_grpc", servers, port)
    return Peer("nginx", port, [process], tls_port=port)


# The defaults of nginx. They are smaller than those of the other measurements, so an idle connection needs less memory.
SIZES = "client_header_buffer_size 1k; large_client_header_buffers 4 8k;"


def sidegate(setting, app, name="sidegate"):
    """One user opens all streams, so the limits of one user and of one app are raised."""
    streams = 'tunnels = 20000\n[[routes]]\nname = "all"\n[routes.streams]\nper_client = 20000\n'
    return started(setting, name, f"http://127.0.0.1:{app.port}", streams)


def sidegate_grpc(setting, app):
    tls = f'certificate_file = "{setting.certificate}"\nkey_file = "{setting.key}"\n'
    url = f"http://127.0.0.1:{app.http2_port}"
    peer = started(setting, "sidegate_grpc", url, 'protocol = "http2"\n', tls)
    peer.tls_port = peer.port
    return peer


def started(setting, name, url, more, tls=""):
    stage, port = setting.stage, free_port()
    file = stage.write(f"{name}.toml", stage.settings(port, url, tls) + more)
    process = setting.start(name, [stage.program, "run", "--config", file], port)
    return Peer("sidegate", port, [process], signs_in=True)
