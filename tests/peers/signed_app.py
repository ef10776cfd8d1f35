"""An app that verifies signed assertions with the package PyJWT.

    python signed_app.py FILE

Listens on a free port of 127.0.0.1 and prints `ready ADDRESS`. FILE is Python code with the function `user_of`, which
the app calls for each request. The app reads FILE at its first request. The answer is a JSON object: the claims and the
token, or status 403 with the error.
"""
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

verifier = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        if not verifier:
            exec(Path(sys.argv[1]).read_text(), verifier)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        tokens = self.headers.get_all("X-Sidegate-Assertion", [])
        try:
            (token,) = tokens or [""]
            claims = verifier["user_of"](token, self.command)
            status, content = 200, {"claims": claims, "token": token, "host": self.headers["Host"]}
        except (ValueError, verifier["jwt"].PyJWTError) as error:
            status, content = 403, {"error": f"{type(error).__name__}: {error}"}
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"ready 127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
