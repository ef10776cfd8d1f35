"""django-oauth-toolkit as an OpenID Provider in one file, with its own database.

    python django_provider.py FOLDER [oauth2]

Listens on a free port of 127.0.0.1 and prints `ready ISSUER`. With `oauth2` it is a plain OAuth 2 server:
no ID token, no metadata. User alice with the password alice-password; clients `basic` (with the secret
`secret-basic`) and `public`. Access tokens live for ACCESS_TTL seconds, where the environment has that. A refresh
kills the old access token, and a refresh token that comes back ends everything. `GET /_ctl/hits` counts the
requests for each path so far.
"""
import collections
import os
import sys
from pathlib import Path

import django
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.conf import settings

FOLDER = Path(sys.argv[1]).resolve()
OPENID = "oauth2" not in sys.argv[2:]
REDIRECT_URI = "http://localhost/oauth2/callback"
SIGNED_OUT = "http://localhost/oauth2/signed_out"
KEY = rsa.generate_private_key(65537, 2048).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)

settings.configure(
    SECRET_KEY="signs the sessions of one test run and of nothing else",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF="__main__",
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    LOGIN_URL="/accounts/login/",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(FOLDER / "db.sqlite3")}},
    INSTALLED_APPS=[
        "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "django.contrib.messages",
        "oauth2_provider",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    TEMPLATES=[{
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": [
            "django.template.context_processors.request", "django.contrib.auth.context_processors.auth",
        ]},
    }],
    OAUTH2_PROVIDER={
        "OIDC_ENABLED": OPENID,
        "OIDC_RSA_PRIVATE_KEY": KEY.decode(),
        "OIDC_RP_INITIATED_LOGOUT_ENABLED": OPENID,
        "OIDC_RP_INITIATED_LOGOUT_ALWAYS_PROMPT": False,
        "PKCE_REQUIRED": True,
        "SCOPES": {"openid": "OpenID", "profile": "Profile", "email": "E-mail", "read": "Read"},
        "DEFAULT_SCOPES": ["openid"] if OPENID else ["read"],
        "ACCESS_TOKEN_EXPIRE_SECONDS": int(os.environ.get("ACCESS_TTL", 3600)),
        "ROTATE_REFRESH_TOKEN": True,
        "REFRESH_TOKEN_REUSE_PROTECTION": True,
        "REQUEST_APPROVAL_PROMPT": "auto",
        "OAUTH2_VALIDATOR_CLASS": "__main__.Validator",
    },
)
django.setup()

from django.contrib.auth import views
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, JsonResponse
from django.middleware.csrf import get_token
from django.urls import include, path
from django.utils.html import escape
from oauth2_provider.decorators import protected_resource
from oauth2_provider.models import get_application_model
from oauth2_provider.oauth2_validators import OAuth2Validator


class Validator(OAuth2Validator):
    oidc_claim_scope = None

    def get_additional_claims(self, request):
        return claims(request.user)


def claims(user):
    return {
        "preferred_username": user.username, "email": user.email, "email_verified": True,
        "name": user.get_full_name(), "groups": [group.name for group in user.groups.all()],
    }


class Login(views.LoginView):
    def render_to_response(self, context, **_):
        target = self.request.GET.get("next", self.request.POST.get("next", ""))
        return HttpResponse(f"""<!doctype html><title>Log in</title><form method="post">
<input type="hidden" name="csrfmiddlewaretoken" value="{get_token(self.request)}">
<input type="hidden" name="next" value="{escape(target)}">
{context["form"].as_p()}<button type="submit">Log in</button></form>""")


@protected_resource(scopes=["read"])
def user(request):
    """The userinfo of an app without OpenID: the owner of the token."""
    owner = request.resource_owner
    return JsonResponse({"id": owner.pk, **claims(owner)})


hits = collections.Counter()


def count(application):
    def counting(environ, start_response):
        hits[environ["PATH_INFO"]] += 1
        return application(environ, start_response)
    return counting


urlpatterns = [
    path("_ctl/hits", lambda _: JsonResponse(hits)),
    path("accounts/login/", Login.as_view(), name="login"),
    path("api/user", user),
    path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
]


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


def fill():
    call_command("migrate", verbosity=0)
    alice = User.objects.create_user(
        "alice", "alice@example.test", "alice-password", first_name="User", last_name="alice"
    )
    alice.groups.add(Group.objects.create(name="staff"))
    for name, kind in (("basic", "confidential"), ("public", "public")):
        get_application_model().objects.create(
            client_id=name, client_secret=f"secret-{name}", name=name, client_type=kind,
            authorization_grant_type="authorization-code", redirect_uris=REDIRECT_URI, post_logout_redirect_uris=SIGNED_OUT,
            algorithm="RS256" if OPENID else "",
        )


fill()
server = ThreadedWSGIServer(("127.0.0.1", 0), Quiet)
server.set_app(count(get_wsgi_application()))
print(f"ready http://127.0.0.1:{server.server_port}/o", flush=True)
server.serve_forever()
