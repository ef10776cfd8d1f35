"""Web servers and frameworks that read different spellings of a path as one path.

    python spelled_apps.py NAME

Listens on a free port of 127.0.0.1 and prints `ready URL`. The answer to a request for `/kiosk` or `/café`, or for a path
below them, is `protected`. The answer to every other request is `other` or an error.

- `django`: Django, whose routes ignore case (`(?i)`).
- `flask`: Flask, whose routes have no option for case. Its own routes, and a view that folds the case of the path.
- `flask-exact`: Flask, with its own routes only.
- `starlette`: Starlette with uvicorn, and a view that removes white space and compares in upper case.
- `hfs`: an app that finds names as HFS+ does: decomposed, without case, and without characters that Unicode ignores.
- `decoding`: an app that decodes a path two times, and then looks for the query.
- `normalizing`: an app that normalizes a path (NFKC), and then removes dot segments and empty segments.
- `nginx`: nginx, whose locations ignore case (`~*`, in UTF-8).
"""
import os
import pathlib
import posixpath
import re
import socket
import sys
import tempfile
import time
import unicodedata
import urllib.parse
import wsgiref.simple_server

NAMES = ["kiosk", "caf\u00e9"]
ONE_OF = "|".join(NAMES)


class Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_):
        pass


def ready(port):
    print(f"ready http://127.0.0.1:{port}", flush=True)


def serve(app):
    server = wsgiref.simple_server.make_server("127.0.0.1", 0, app, handler_class=Handler)
    ready(server.server_port)
    server.serve_forever()


def answer(is_protected):
    return "protected" if is_protected else "other"


def compared(convert):
    """An app that compares the first segment of a path. `convert` gets a text and returns the compared text."""
    names = [convert(name) for name in NAMES]

    def app(environment, start):
        path = convert(environment["PATH_INFO"].encode("latin-1").decode("utf-8", "replace"))
        start("200 OK", [("Content-Type", "text/plain")])
        first = path.lstrip("/").split("/")[0].split(";")[0]
        return [answer(first.strip() in names).encode()]

    return app


def django():
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import re_path

    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="-", DEBUG=False)
    global urlpatterns
    urlpatterns = [
        re_path(f"^(?i:{ONE_OF})(?:/|$)", lambda _: HttpResponse("protected")),
        re_path("", lambda _: HttpResponse("other")),
    ]
    serve(get_wsgi_application())


def flask(folds=True):
    import flask as library

    app = library.Flask(__name__)
    folded = [name.casefold() for name in NAMES]

    def protected(**_):
        return "protected"

    def other(rest=""):
        first = unicodedata.normalize("NFC", rest.split("/")[0].casefold())
        return answer(folds and first in folded)

    for name in NAMES:
        for number, end in enumerate(["", "/", "/<path:rest>"]):
            app.add_url_rule(f"/{name}{end}", f"{name}{number}", protected)
    app.add_url_rule("/", "root", other)
    app.add_url_rule("/<path:rest>", "other", other)
    serve(app)


def flask_exact():
    flask(folds=False)


def starlette():
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    names = [name.upper() for name in NAMES]

    async def view(request):
        first = request.path_params["rest"].split("/")[0]
        return PlainTextResponse(answer(first.strip().upper() in names))

    app = Starlette(routes=[Route("/{rest:path}", view)])
    listener = socket.create_server(("127.0.0.1", 0))
    ready(listener.getsockname()[1])
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run([listener])


def hfs():
    ignored = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")
    serve(compared(lambda text: unicodedata.normalize("NFD", ignored.sub("", text)).casefold()))


def decoding():
    serve(compared(lambda text: re.split("[?#]", urllib.parse.unquote(text))[0]))


def normalizing():
    def convert(text):
        path = posixpath.normpath("/" + unicodedata.normalize("NFKC", text))
        return re.sub("[. ]+(?=/|$)", "", path.replace("\\", "/").lower()).strip("/")

    serve(compared(convert))


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
        f'  location ~* "(*UTF8)^/({ONE_OF})(/|$)" {{ return 200 protected; }}\n'
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


if __name__ == "__main__":
    apps = [django, flask, flask_exact, starlette, hfs, decoding, normalizing, nginx]
    {app.__name__.replace("_", "-"): app for app in apps}[sys.argv[1]]()
