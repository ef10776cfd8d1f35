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
import posixpath
import re
import sys
import unicodedata
import urllib.parse

from serving import serve, serve_django, serve_nginx, serve_starlette

NAMES = ["kiosk", "caf\u00e9"]
ONE_OF = "|".join(NAMES)


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
    serve_django(f"^(?i:{ONE_OF})(?:/|$)", "protected")


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
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    names = [name.upper() for name in NAMES]

    async def view(request):
        first = request.path_params["rest"].split("/")[0]
        return PlainTextResponse(answer(first.strip().upper() in names))

    serve_starlette([Route("/{rest:path}", view)])


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
    serve_nginx(f'location ~* "(*UTF8)^/({ONE_OF})(/|$)" {{ return 200 protected; }}\n')


if __name__ == "__main__":
    apps = [django, flask, flask_exact, starlette, hfs, decoding, normalizing, nginx]
    {app.__name__.replace("_", "-"): app for app in apps}[sys.argv[1]]()
