"""Slow clients as one process: uploads over HTTP/2, and readers over HTTP/1.1, both with TLS.

    python -m measure.slow_attack PORT HOST KIND...

A kind is `uploads` or `readers`. The process prints a line when all requests are sent. It prints the result when its
input ends."""

import json
import os
import select
import socket
import ssl
import sys
import time

CONNECTIONS, STREAMS, READERS = 3, 100, 300
SIZE = 1_000_000
# The receive buffer of a reader, and the bytes that a reader takes in a second.
SMALL, PER_SECOND = 4096, 1024
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
ACK, END_HEADERS = 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def main():
    port, host, *kinds = sys.argv[1:]
    clients = []
    if "uploads" in kinds:
        clients += [Uploads(int(port), host) for _ in range(CONNECTIONS)]
    if "readers" in kinds:
        clients += [Reader(int(port), host) for _ in range(READERS)]
    print("begun", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        begun = time.monotonic()
        for client in clients:
            client.second()
        # Not a pause of a second between two rounds, but one round in a second.
        rest = max(0, 1 - (time.monotonic() - begun))
        select.select([sys.stdin], [], [], rest)
    total = sum(client.total for client in clients)
    print(json.dumps({"requests": total, "ended": sum(client.ended for client in clients)}))


def connect(port, protocol, buffer=None):
    plain = socket.socket()
    if buffer:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    plain.connect(("127.0.0.1", port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    connection = context.wrap_socket(plain, server_hostname="localhost")
    if connection.selected_alpn_protocol() != protocol:
        sys.exit(f"the proxy does not speak {protocol}")
    return connection


class Reader:
    """A client that takes a long answer slowly."""

    total = 1

    def __init__(self, port, host):
        self.ended = 0
        self.connection = connect(port, "http/1.1", SMALL)
        request = f"GET /download?{SIZE} HTTP/1.1\r\nHost: {host}\r\n\r\n"
        self.connection.sendall(request.encode())
        self.connection.setblocking(False)

    def second(self):
        """Reads the bytes of the TLS connection, because the content does not matter."""
        try:
            if not os.read(self.connection.fileno(), PER_SECOND):
                self.ended = 1
        except BlockingIOError:
            pass
        except OSError:
            self.ended = 1


class Uploads:
    """An HTTP/2 connection on which every stream sends one byte a second."""

    total = STREAMS

    def __init__(self, port, host):
        self.open = set(range(1, 2 * STREAMS, 2))
        self.received = b""
        self.connection = connect(port, "h2")
        sent = PREFACE + frame(SETTINGS, 0, 0, b"")
        for stream in sorted(self.open):
            fields = [
                (":method", "POST"),
                (":scheme", "https"),
                (":authority", host),
                (":path", "/upload"),
                ("content-length", str(SIZE)),
            ]
            block = b"".join(b"\x10" + text(name) + text(value) for name, value in fields)
            sent += frame(HEADERS, END_HEADERS, stream, block)
        self.connection.sendall(sent)

    @property
    def ended(self):
        return STREAMS - len(self.open)

    def second(self):
        self.receive()
        try:
            self.connection.setblocking(True)
            self.connection.sendall(b"".join(frame(DATA, 0, stream, b"a") for stream in self.open))
        except OSError:
            self.open.clear()

    def receive(self):
        """An answer or a reset ends a stream."""
        self.connection.setblocking(False)
        try:
            while piece := self.connection.recv(65536):
                self.received += piece
            self.open.clear()
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        except OSError:
            self.open.clear()
        while len(self.received) >= 9:
            length = int.from_bytes(self.received[:3])
            if len(self.received) < 9 + length:
                return
            kind, flags = self.received[3], self.received[4]
            stream = int.from_bytes(self.received[5:9])
            payload = self.received[9 : 9 + length]
            self.received = self.received[9 + length :]
            self.take(kind, flags, stream, payload)

    def take(self, kind, flags, stream, payload):
        self.connection.setblocking(True)
        if kind == SETTINGS and not flags & ACK:
            self.connection.sendall(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.connection.sendall(frame(PING, ACK, 0, payload))
        elif kind in {HEADERS, RST_STREAM}:
            self.open.discard(stream)
        elif kind == GOAWAY:
            self.open.clear()


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def text(value):
    """A string without Huffman coding (RFC 7541 section 5.2). Every string here is short."""
    return bytes([len(value)]) + value.encode()


if __name__ == "__main__":
    main()
