"""Web servers and frameworks that read paths in their own ways.

    python path_apps.py NAME

Listens on a free port of 127.0.0.1 and prints `ready URL`. The answer to a request for `/admin`, or for a path below
`/admin`, is `admin`. The answer to every other request is another text or an error.

- `django`: Django with the web server of Python's `wsgiref`.
- `starlette`: Starlette with uvicorn.
- `lossy`: an app for `wsgiref` that leaves out the octets that are not UTF-8.
- `files`: the file server of Python's `http.server`, which decodes a path and removes empty segments.
- `nginx`: nginx with two locations. nginx decodes `%2F`, and merges slashes.
"""
import functools
import http.server
import os
import pathlib
import socket
import sys
import tempfile
import time
import wsgiref.simple_server


class Quiet:
    def log_message(self, *_):
        pass


class WsgiHandler(Quiet, wsgiref.simple_server.WSGIRequestHandler):
    pass


class FileHandler(Quiet, http.server.SimpleHTTPRequestHandler):
    pass


def ready(port):
    print(f"ready http://127.0.0.1:{port}", flush=True)


def serve(app):
    server = wsgiref.simple_server.make_server("127.0.0.1", 0, app, handler_class=WsgiHandler)
    ready(server.server_port)
    server.serve_forever()


def lossy():
    def app(environment, start):
        path = environment["PATH_INFO"].encode("latin-1").decode("utf-8", "ignore")
        start("200 OK", [("Content-Type", "text/plain")])
        return [b"admin" if f"{path}/".startswith("/admin/") else b"other"]

    serve(app)


def django():
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import re_path

    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="-", DEBUG=False)
    global urlpatterns
    urlpatterns = [
        re_path("^admin(?:/|$)", lambda _: HttpResponse("admin")),
        re_path("", lambda _: HttpResponse("other")),
    ]
    serve(get_wsgi_application())


def starlette():
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    async def admin(_):
        return PlainTextResponse("admin")

    async def other(_):
        return PlainTextResponse("other")

    admins = [Route("/", admin), Route("/{rest:path}", admin)]
    app = Starlette(routes=[
        Route("/admin", admin),
        Mount("/admin", routes=admins),
        Route("/{rest:path}", other),
    ])
    listener = socket.create_server(("127.0.0.1", 0))
    ready(listener.getsockname()[1])
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run([listener])


def files():
    folder = pathlib.Path(tempfile.mkdtemp())
    (folder / "admin").mkdir()
    for name in ["admin/x", "admin/index.html"]:
        (folder / name).write_text("admin")
    (folder / "public").mkdir()
    (folder / "public/index.html").write_text("other")
    handler = functools.partial(FileHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    ready(server.server_port)
    server.serve_forever()


def nginx():
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
        "  location = /admin { return 200 admin; }\n"
        "  location /admin/ { return 200 admin; }\n"
        "  location / { return 200 other; }\n"
        "} }\n"
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


if __name__ == "__main__":
    apps = [django, starlette, lossy, files, nginx]
    {app.__name__: app for app in apps}[sys.argv[1]]()
