"""Signs in like a user with a browser: follows redirects, stores cookies, fills in the form."""

import html
import http.client
import re
import urllib.parse

from .stage import Wrong

REDIRECTS = {301, 302, 303, 307, 308}
LONGEST = 15

# The fields that a browser sends besides its cookies.
FIELDS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.5",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "same-origin",
    "Priority": "u=0, i",
}


class Browser:
    """Uses `host` as the proxy's site, and connects to `port` for it."""

    def __init__(self, host, port, tls=None):
        self.host = host
        self.port = port
        self.tls = tls
        self.jars = {}

    def cookie(self):
        """The `Cookie` field for the proxy's site."""
        jar = self.jars.get(self.host, {})
        return "; ".join(f"{name}={value}" for name, value in jar.items())

    def ask(self, url, form=None):
        """Sends one request and follows no redirect. Returns status, location and body."""
        parts = urllib.parse.urlsplit(url)
        if parts.netloc != self.host:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
        elif self.tls:
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=30, context=self.tls
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        fields = {**FIELDS, "Host": parts.netloc}
        jar = self.jars.setdefault(parts.netloc, {})
        if jar:
            fields["Cookie"] = "; ".join(f"{name}={value}" for name, value in jar.items())
        body = None
        if form is not None:
            body = urllib.parse.urlencode(form)
            fields["Content-Type"] = "application/x-www-form-urlencoded"
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        connection.request("GET" if form is None else "POST", target, body, fields)
        response = connection.getresponse()
        text = response.read()
        for field in response.headers.get_all("Set-Cookie") or []:
            self.keep(jar, field)
        connection.close()
        location = response.headers.get("Location")
        return response.status, location and urllib.parse.urljoin(url, location), text

    @staticmethod
    def keep(jar, field):
        """Stores a cookie, or deletes it if the field says so."""
        pair, _, attributes = field.partition(";")
        name, _, value = pair.strip().partition("=")
        gone = re.search(r"max-age=0\b|01[ -]jan[ -]1970", attributes, re.IGNORECASE)
        if gone or not value:
            jar.pop(name, None)
        else:
            jar[name] = value

    def sign_in(self, path, user="alice"):
        """Opens `path` of the site and signs in as `user` if required. Returns the last answer."""
        url = f"http://{self.host}{path}"
        form = None
        for _ in range(LONGEST):
            status, location, body = self.ask(url, form)
            form = None
            if status in REDIRECTS and location:
                url = location
                continue
            page = body.decode("utf-8", "replace")
            if status == 200 and 'name="_token"' in page:
                url = urllib.parse.urljoin(url, html.unescape(attribute(page, r'action="([^"]*)"')))
                token = attribute(page, r'name="_token" value="([^"]*)"')
                form = {"_token": token, "user": user, "password": "password"}
                continue
            return status, body
        raise Wrong(f"signing in at port {self.port} leads round in circles: {url}")


def session_cookie(stage, peer, tls):
    """Creates a session at a proxy. Returns the `Cookie` field of the session."""
    browser = Browser(stage.provider.host, peer.port, tls if peer.tls_port else None)
    status, _ = browser.sign_in("/dashboard")
    if status != 200:
        raise Wrong(f"{peer.name}: the sign-in ends with {status}")
    return browser.cookie()


def attribute(page, pattern):
    found = re.search(pattern, page)
    if not found:
        raise Wrong("the provider's login form is not as expected")
    return found.group(1)
