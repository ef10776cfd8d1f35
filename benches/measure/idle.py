"""The memory of an idle connection, without and with TLS."""

import socket
import ssl
import time

from . import machine
from .stage import Wrong

# Sidegate frees a part of the memory of a connection when the connection has been idle for a second.
SETTLE = 4


def memory(process, port, context, request, count):
    """The resident bytes of each of `count` idle connections. Each connection has got one answer."""
    before = machine.resident_bytes(process.pids())
    connections = []
    for _ in range(count):
        connection = Connection(port, context)
        if connection.ask(request)[0] != 200:
            raise Wrong("a connection did not get the page")
        connections.append(connection)
    time.sleep(SETTLE)
    after = machine.resident_bytes(process.pids())
    for connection in connections:
        connection.socket.close()
    return (after - before) / count


def session_cookie(port, context, host):
    """Signs a user in at a provider that accepts any code. Returns the cookies of the session."""
    connection = Connection(port, context)
    page = f"Host: {host}\r\nAccept: text/html\r\n"
    _status, fields = connection.ask(f"GET / HTTP/1.1\r\n{page}\r\n")
    location = next(value for name, value in fields if name == "location")
    state = location.split("state=")[1].split("&")[0]
    callback = f"GET /oauth2/callback?code=any&state={state} HTTP/1.1\r\n"
    _status, fields = connection.ask(f"{callback}{page}Cookie: {cookies(fields)}\r\n\r\n")
    connection.socket.close()
    return cookies(fields)


def cookies(fields):
    pairs = [value.split(";")[0] for name, value in fields if name == "set-cookie"]
    return "; ".join(pair for pair in pairs if not pair.endswith("="))


def client_context():
    """Does not check the certificate, because it is a development certificate of this run."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Connection:
    """A keep-alive connection. Each answer must have a `Content-Length`."""

    def __init__(self, port, context):
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        if context:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")

    def ask(self, request):
        """Sends a request. Returns the status and the fields of the answer."""
        self.socket.sendall(request.encode())
        answer = self.received()
        while b"\r\n\r\n" not in answer:
            answer += self.received()
        head, _, content = answer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        fields = [(name.lower(), value) for name, value in pairs]
        left = int(dict(fields)["content-length"]) - len(content)
        while left > 0:
            left -= len(self.received())
        return int(first.split(" ")[1]), fields

    def received(self):
        part = self.socket.recv(65536)
        if not part:
            raise Wrong("a connection was closed before its answer")
        return part
