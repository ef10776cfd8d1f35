"""Servers for the apps of `path_apps.py` and `spelled_apps.py`.

Each server listens on a free port of 127.0.0.1 and prints `ready URL`.
"""
import os
import pathlib
import socket
import tempfile
import time
import wsgiref.simple_server


class Quiet:
    """A handler that logs no request."""

    def log_message(self, *_):
        pass


class WsgiHandler(Quiet, wsgiref.simple_server.WSGIRequestHandler):
    pass


def ready(port):
    print(f"ready http://127.0.0.1:{port}", flush=True)


def serve(app):
    """Serves a WSGI app."""
    server = wsgiref.simple_server.make_server("127.0.0.1", 0, app, handler_class=WsgiHandler)
    ready(server.server_port)
    server.serve_forever()


def serve_django(pattern, text):
    """Serves a Django app that answers `text` for the paths of a pattern, and `other` for all other paths."""
    import types

    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import re_path

    urls = types.ModuleType("urls")
    urls.urlpatterns = [
        re_path(pattern, lambda _: HttpResponse(text)),
        re_path("", lambda _: HttpResponse("other")),
    ]
    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=urls, SECRET_KEY="-", DEBUG=False)
    serve(get_wsgi_application())


def serve_starlette(routes):
    """Serves a Starlette app with uvicorn."""
    import uvicorn
    from starlette.applications import Starlette

    app = Starlette(routes=routes)
    listener = socket.create_server(("127.0.0.1", 0))
    ready(listener.getsockname()[1])
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run([listener])


def serve_nginx(locations):
    """Runs nginx with these locations, and answers `other` for all other paths."""
    folder = tempfile.mkdtemp()
    # nginx does not accept port 0. If another program takes the port in the meantime, nginx ends.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    folders = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in kinds)
    settings = pathlib.Path(folder, "nginx.conf")
    settings.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/log; events {{}}\n"
        f"http {{ access_log off; {folders} server {{ listen 127.0.0.1:{port};\n"
        f"{locations}"
        "  location / { return 200 other; }\n"
        "} }\n",
        encoding="utf-8",
    )
    program = "/usr/sbin/nginx"
    arguments = [program, "-p", folder, "-e", f"{folder}/log", "-c", str(settings)]
    if os.fork() != 0:
        os.execv(program, arguments)
    for _ in range(1000):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            ready(port)
            return
