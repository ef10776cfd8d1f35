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
import pathlib
import sys
import tempfile

from serving import Quiet, ready, serve, serve_django, serve_nginx, serve_starlette


class FileHandler(Quiet, http.server.SimpleHTTPRequestHandler):
    pass


def lossy():
    def app(environment, start):
        path = environment["PATH_INFO"].encode("latin-1").decode("utf-8", "ignore")
        start("200 OK", [("Content-Type", "text/plain")])
        return [b"admin" if f"{path}/".startswith("/admin/") else b"other"]

    serve(app)


def django():
    serve_django("^admin(?:/|$)", "admin")


def starlette():
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    async def admin(_):
        return PlainTextResponse("admin")

    async def other(_):
        return PlainTextResponse("other")

    admins = [Route("/", admin), Route("/{rest:path}", admin)]
    serve_starlette([
        Route("/admin", admin),
        Mount("/admin", routes=admins),
        Route("/{rest:path}", other),
    ])


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
    serve_nginx("location = /admin { return 200 admin; }\nlocation /admin/ { return 200 admin; }\n")


if __name__ == "__main__":
    apps = [django, starlette, lossy, files, nginx]
    {app.__name__: app for app in apps}[sys.argv[1]]()
