"""A client with the package `grpcio` for grpc_server.py.

    python grpc_client.py ADDRESS SERVICE CA COOKIE [METHOD]

Connects to ADDRESS as to `localhost`: with TLS if CA is the path of a certificate, without TLS if CA is `-`. Each call
has the cookie, unless COOKIE is `-`. SERVICE is the first part of the path of a method.

Without METHOD, makes many calls and prints what both sides have seen. This must not depend on what is between them.
With METHOD, makes one call with one empty message, and prints its status or what it returned.
"""
import contextlib
import hashlib
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

ADDRESS, SERVICE, CA, COOKIE = sys.argv[1:5]
# The longest time for one call on a busy machine.
PATIENCE = 50
SIZES = [0, 1, 16_379, 16_384, 65_535, 1_000_000, 50_000_000]
# All characters that need an encoding in a status message, and some that do not.
DETAILS = "50 % of \u00e4 \u20ac \U0001f600, \ttab\r\n%41"

# How the names of the app's metadata begin.
OF_THE_APP = ("my-", "messages", "bytes", "hash", "why", "grpc-status-details-bin")


def channel():
    options = [
        ("grpc.default_authority", "localhost"),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
        ("grpc.max_receive_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if CA == "-":
        return grpc.insecure_channel(ADDRESS, options)
    credentials = grpc.ssl_channel_credentials(Path(CA).read_bytes())
    return grpc.secure_channel(ADDRESS, credentials, [*options, ("grpc.ssl_target_name_override", "localhost")])


CHANNEL = channel()


def call(kind, method, message, timeout=PATIENCE, metadata=(), **options):
    """Starts a call. `kind` is `unary_unary`, `stream_unary`, `unary_stream` or `stream_stream`."""
    if COOKIE != "-":
        metadata = [*metadata, ("cookie", COOKIE)]
    callable = getattr(CHANNEL, kind)(f"/{SERVICE}/{method}")
    start = callable if kind.endswith("_stream") else callable.future
    return start(message, timeout=timeout, metadata=metadata, **options)


def shown(pairs):
    """The metadata of the app as one line, without the fields of what is between the client and the app."""
    pairs = [(name, value) for name, value in pairs or () if name.startswith(OF_THE_APP)]
    return " ".join(f"{name}={value if isinstance(value, str) else digest(value)}" for name, value in pairs)


def digest(data):
    return f"{len(data)}:{hashlib.sha256(data).hexdigest()[:12]}"


def said(message):
    return message.decode() if len(message) < 50 and message.isascii() else digest(message)


def finish(started, expected=grpc.StatusCode.OK):
    """Prints how a call has ended."""
    assert started.code() is expected, (started.code(), started.details())
    print("status:", started.code().name, repr(started.details()))
    if initial := shown(started.initial_metadata()):
        print("initial:", initial)
    print("trailing:", shown(started.trailing_metadata()))


def collect(started, expected=grpc.StatusCode.OK):
    """Prints and returns the messages of a call, and prints how it has ended."""
    messages = []
    with contextlib.suppress(grpc.RpcError):
        messages.extend(started)
    print("messages:", len(messages), digest(b"".join(messages)))
    finish(started, expected)
    return messages


def refused(started, expected):
    """Waits until a call has failed, and prints how."""
    started.exception()
    finish(started, expected)


def case(name):
    print(f"case: {name}", flush=True)


def data(size):
    return random.Random(size).randbytes(size)


def every_kind():
    metadata = [("my-text", "a b, c"), ("my-text", "twice"), ("my-data-bin", bytes(range(256)))]
    for size in SIZES:
        case(f"unary, {size} bytes")
        started = call("unary_unary", "Unary", data(size), metadata=metadata)
        assert started.result() == data(size)
        finish(started)
    pieces = [data(size) for size in [0, 10, 100_000, 1, 16_384] * 20]
    case("upload")
    started = call("stream_unary", "Upload", iter(pieces), metadata=metadata)
    assert started.result() == b"".join(pieces)
    finish(started)
    case("download")
    messages = collect(call("unary_stream", "Download", data(500_000), metadata=metadata))
    assert b"".join(messages) == data(500_000)
    case("both")
    assert collect(call("stream_stream", "Both", iter(pieces), metadata=metadata)) == pieces
    case("compressed")
    started = call("unary_unary", "Unary", b"0" * 1_000_000, compression=grpc.Compression.Gzip)
    assert started.result() == b"0" * 1_000_000
    finish(started)


def question_and_answer():
    """Each message is sent when the answer to the one before has come. A proxy that waits for more data fails here."""
    case("question and answer")
    answers = threading.Semaphore()

    def questions():
        for number in range(300):
            answers.acquire()
            yield f"question {number}".encode()

    started = call("stream_stream", "Both", questions())
    for number, message in enumerate(started):
        assert message == f"question {number}".encode()
        answers.release()
    finish(started)
    case("the app begins, and goes on after the client's end")
    begun = threading.Event()

    def after_the_first():
        begun.wait()
        yield b"the only message"

    started = call("stream_stream", "First", after_the_first())
    print("message:", said(next(started)))
    begun.set()
    print("message:", said(next(started)))
    assert not list(started)
    finish(started)


def failures():
    codes = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
    for number, code in enumerate(codes):
        # Without a message, the trailing metadata comes in the head of the response.
        messages = 3 * (number % 2)
        case(f"{code.name} after {messages} messages")
        metadata = [("code", code.name), ("messages", str(messages)), ("details-bin", DETAILS.encode())]
        started = call("unary_stream", "Fail", b"", metadata=metadata)
        assert len(collect(started, code)) == messages
        assert started.details() == DETAILS
    case("refused while it sends")
    pieces = (data(100_000) for _ in range(2_000))
    refused(call("stream_unary", "Refuse", pieces), grpc.StatusCode.RESOURCE_EXHAUSTED)
    case("no such method")
    refused(call("unary_unary", "Missing", b""), grpc.StatusCode.UNIMPLEMENTED)


def ends():
    for code, timeout in [(grpc.StatusCode.CANCELLED, PATIENCE), (grpc.StatusCode.DEADLINE_EXCEEDED, 4)]:
        case(f"the client ends with {code.name}")
        started = call("unary_stream", "Wait", b"", timeout, [("name", code.name)])
        print("message:", said(next(started)))
        if code is grpc.StatusCode.CANCELLED:
            started.cancel()
        with contextlib.suppress(grpc.RpcError):
            next(started)
        assert started.code() is code
        gone = call("unary_unary", "Gone", b"", metadata=[("name", code.name)])
        assert gone.result() == b"ended"
    for timeout, expected in [(None, b"none"), (60, b"within a minute")]:
        case(f"a deadline of {timeout} seconds")
        assert call("unary_unary", "Deadline", b"", timeout).result() == expected


def at_once():
    case("200 calls on one connection")
    with ThreadPoolExecutor(40) as threads:
        sizes = [number * 97 for number in range(200)]
        assert all(threads.map(lambda size: call("unary_unary", "Unary", data(size)).result() == data(size), sizes))


def one(method):
    started = call("unary_unary", method, b"")
    if started.exception():
        print(started.code().name, started.details())
    else:
        print(started.result().decode())


if __name__ == "__main__":
    if sys.argv[5:]:
        one(sys.argv[5])
    else:
        every_kind()
        question_and_answer()
        failures()
        ends()
        at_once()
