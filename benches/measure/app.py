"""An app that gives every request the same answer, so that counts do not vary."""

import json
import socketserver
import threading

BODY = json.dumps({"items": [{"id": number, "name": "x" * 40} for number in range(16)]}).encode()
HEAD = (
    "HTTP/1.1 200 OK\r\n"
    "Server: app\r\n"
    "Date: Mon, 02 Mar 2026 09:00:00 GMT\r\n"
    "Content-Type: application/json\r\n"
    f"Content-Length: {len(BODY)}\r\n"
    "Cache-Control: no-store\r\n"
    "X-Frame-Options: DENY\r\n"
    "\r\n"
).encode()


REFUSAL = b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer error="invalid_token"\r\nContent-Length: 0\r\n\r\n'


class Visit(socketserver.BaseRequestHandler):
    """One connection."""

    def handle(self):
        received = b""
        while piece := self.request.recv(65536):
            received += piece
            while b"\r\n\r\n" in received:
                head, _, received = received.partition(b"\r\n\r\n")
                self.server.heads.append(head)
                refuses, self.server.refuse = self.server.refuse > 0, max(self.server.refuse - 1, 0)
                self.request.sendall(REFUSAL if refuses else HEAD + BODY)


class App(socketserver.ThreadingTCPServer):
    """Listens on a free loopback port and stores the heads of requests."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Visit)
        self.heads = []
        # The number of requests that the app refuses next.
        self.refuse = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self):
        return self.server_address[1]
