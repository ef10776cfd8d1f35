"""A Django app that does not know the prefix of its route.

    python prefix_app.py

Listens on a free port of 127.0.0.1 and prints `ready ADDRESS`. The app redirects to its paths and to its complete
URLs, its cookies have the path `/`, and the links of its pages are relative. `POST notes` needs the session and the
CSRF token.
"""
import django
from django.conf import settings

settings.configure(
    SECRET_KEY="signs the sessions of one test run and of nothing else",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="__main__",
    USE_TZ=True,
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
)
django.setup()

from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, HttpResponseRedirect
from django.middleware.csrf import get_token
from django.urls import path
from django.utils.html import escape


def start(request):
    """The start page needs a session. A user without a session gets one at `/begin`."""
    if "notes" not in request.session:
        return HttpResponseRedirect("/begin")
    token = get_token(request)
    return HttpResponse(
        f"<!doctype html><title>Notes</title><p>{len(request.session['notes'])} notes at {escape(request.path)}"
        f"<form method=post action=notes><input type=hidden name=csrfmiddlewaretoken value={token}>"
        "<input name=text value=milk><button>Save</button></form><a id=first href=notes/0>first note</a>"
    )


def begin(request):
    request.session["notes"] = []
    return HttpResponseRedirect(request.build_absolute_uri("/"))


def save(request):
    notes = [*request.session["notes"], request.POST["text"]]
    request.session["notes"] = notes
    return HttpResponseRedirect(request.build_absolute_uri(f"/notes/{len(notes) - 1}"))


def note(request, number):
    text = request.session["notes"][number]
    return HttpResponse(f"<!doctype html><p>{escape(text)} at {escape(request.path)}<a id=back href=../>back</a>")


urlpatterns = [path("", start), path("begin", begin), path("notes", save), path("notes/<int:number>", note)]


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


server = ThreadedWSGIServer(("127.0.0.1", 0), Quiet)
server.set_app(get_wsgi_application())
print(f"ready 127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
