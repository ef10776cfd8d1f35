"""A client with the package `websockets`: many conversations with websocket_server.py.

    python websocket_client.py ADDRESS PATH [COOKIE]

Connects to ADDRESS as to `ws://localhost`, and sends the cookie. PATH is the folder of the app's WebSockets. Prints
what both sides have seen. This must not depend on what is between them. Lines that begin with `wire` have the number
and a hash of all bytes from the app.

This replaces Autobahn's test suite, which needs Python 2.
"""
import asyncio
import contextlib
import random
import sys
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from transcript import Recorder, described

HOST, PORT = sys.argv[1].rsplit(":", 1)
PATH = sys.argv[2]
COOKIE = sys.argv[3:]

SIZES = [0, 1, 125, 126, 127, 1_000, 65_535, 65_536, 1_000_000, 10_000_000]
MASK = b"\x37\xfa\x21\x3d"
# The longest time for one conversation on a busy machine.
PATIENCE = 120


class Recording(Recorder, ClientConnection):
    """A connection that records its frames."""


def opening(what, **options):
    query = options.pop("query", {})
    return connect(
        f"ws://localhost{PATH}/{what}?{urlencode(query)}",
        host=HOST,
        port=int(PORT),
        origin="http://localhost",
        additional_headers={"Cookie": value for value in COOKIE},
        create_connection=Recording,
        proxy=None,
        max_size=16 * 1024 * 1024,
        ping_interval=None,
        **{"compression": None, **options},
    )


async def converse(case, talk=None, what="echo", query=None, **options):
    """Runs one conversation and prints what both sides have seen."""
    print(f"case: {case}")
    async with asyncio.timeout(PATIENCE):
        connection = await opening(what, query={"case": case, **(query or {})}, **options)
        with contextlib.suppress(ConnectionClosed):
            if talk:
                await talk(connection)
            else:
                await connection.recv()
                await connection.close()
        await connection.wait_closed()
        async with opening("report", query={"case": case}) as report:
            app = await report.recv()
    print("\n".join(described(connection, "client", connection.response.headers)))
    print(app)
    print(f"wire: {connection.bytes} bytes {connection.hash.hexdigest()}", flush=True)


def frame(opcode, data=b"", *, fin=True, rsv=0, mask=True, length=None):
    """The bytes of one frame, which may violate the protocol. `length` replaces the stated length."""
    size = len(data) if length is None else length
    head = bytes([fin << 7 | rsv << 4 | opcode])
    bit = mask << 7
    if size < 126:
        head += bytes([bit | size])
    elif size < 65_536:
        head += bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + size.to_bytes(8, "big")
    if mask:
        head += MASK
        data = bytes(byte ^ MASK[index % 4] for index, byte in enumerate(data))
    return head + data


def violations(mask):
    """What RFC 6455 forbids, by name. `mask` is what the sender has to do."""

    def make(*arguments, **keywords):
        return frame(*arguments, **{"mask": mask, **keywords})

    for rsv in [1, 2, 4, 7]:
        yield f"reserved bits {rsv}", make(1, b"text", rsv=rsv)
    yield "reserved bits of a ping", make(9, b"ping", rsv=4)
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]:
        yield f"opcode {opcode}", make(opcode, b"data")
    yield "a fragmented ping", make(9, b"ping", fin=False)
    yield "a fragmented close", make(8, b"\x03\xe8", fin=False)
    yield "a ping of 126 bytes", make(9, b"x" * 126)
    yield "a close of 126 bytes", make(8, b"\x03\xe8" + b"x" * 124)
    yield "a continuation of nothing", make(0, b"data")
    yield "a last continuation of nothing", make(0, b"data", fin=False)
    yield "a message in a message", make(1, b"first", fin=False) + make(1, b"second")
    yield "the wrong mask", make(1, b"text", mask=not mask)
    for name, text in [("cut", b"\xe2\x82"), ("surrogate", b"\xed\xa0\x80"), ("overlong", b"\xc0\xaf"),
                       ("too high", b"\xf4\x90\x80\x80"), ("Latin-1", b"caf\xe9")]:
        yield f"no UTF-8: {name}", make(1, text)
    yield "no UTF-8 in a fragment", make(1, b"good", fin=False) + make(0, b"\xff")
    yield "a good message first", make(1, b"good") + make(3, b"bad")
    yield "a close of one byte", make(8, b"\x03")
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535]:
        yield f"close code {code}", make(8, code.to_bytes(2, "big"))
    yield "a close reason without UTF-8", make(8, b"\x03\xe8\xff")
    yield "a length with the highest bit", make(2, length=1 << 63)
    yield "a length that is too large", make(2, length=1 << 40)
    yield "data after a close", make(8, b"\x03\xe8") + make(1, b"late")
    yield "plain HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield "a close frame in the data", make(2, make(8, b"\x03\xe8")) + make(8, b"\x03\xe9")


def binary(size):
    return random.Random(size).randbytes(size)


def text(size):
    """A text of `size` bytes, with characters of one to four bytes."""
    letters = "a\u00e4\u20ac\U0001f600" * (size // 10)
    return letters + "b" * (size - len(letters.encode()))


async def sizes(connection):
    for size in SIZES:
        for message in [text(size), binary(size)]:
            await connection.send(message)
            assert await connection.recv() == message, size
    await connection.close()


async def fragmented(connection):
    async def pieces():
        for number in range(1_000):
            yield "" if number % 7 == 0 else "x"
            if number % 100 == 0:
                await (await connection.ping(f"between {number}"))

    await connection.send(pieces())
    assert len(await connection.recv()) == 857
    await connection.send([binary(70_000), b"", binary(1)])
    await connection.recv()
    await connection.close()


async def pings(connection):
    for data in [b"", b"x", "\u00e4\u20ac".encode(), b"y" * 125]:
        await (await connection.ping(data))
        await connection.pong(b"unasked " + data[:100])
    await connection.close()


async def pipelined(connection):
    async def send():
        for number in range(2_000):
            await connection.send(f"message {number}")

    sending = asyncio.create_task(send())
    for number in range(2_000):
        assert await connection.recv() == f"message {number}"
    await sending
    await connection.close()


async def byte_by_byte(connection):
    for byte in frame(1, b"hello") + frame(9, b"ping") + frame(1, b"hel", fin=False) + frame(0, b"lo"):
        connection.transport.write(bytes([byte]))
        await asyncio.sleep(0.002)
    assert await connection.recv() == "hello" and await connection.recv() == "hello"
    await connection.close()


async def half_a_frame(connection):
    connection.transport.write(frame(1, b"hel", length=5))
    await asyncio.sleep(0.05)
    connection.transport.close()


async def no_close_frame(connection):
    await connection.send("last")
    await connection.recv()
    connection.transport.close()


def closing(*arguments):
    async def close(connection):
        await connection.close(*arguments)

    return close


def sending(data):
    async def send(connection):
        connection.transport.write(data)
        await connection.wait_closed()

    return send


async def main():
    for compression in [None, "deflate"]:
        options = {"compression": compression}
        await converse(f"sizes, {compression}", sizes, **options)
        await converse(f"fragmented, {compression}", fragmented, **options)
        await converse(f"fragments of the app, {compression}", what="do", query={"fragments": 500}, **options)
    await converse("no data is compressed", sending(frame(1, b"\x07\xff\xff", rsv=4)), compression="deflate")
    await converse("subprotocols", closing(), subprotocols=["first", "second", "third"])
    await converse("pings", pings)
    await converse("a ping of the app", what="do", query={"ping": "are you there"})
    await converse("2000 messages at once", pipelined)
    await converse("byte by byte", byte_by_byte)
    await converse("half a frame and the end", half_a_frame)
    await converse("the end without a close frame", no_close_frame)
    await converse("the app's end without a close frame", what="do", query={"drop": 1})
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4000, 4999]:
        reason = "r" * (code % 124)
        await converse(f"close {code}", closing(code, reason))
        await converse(f"the app's close {code}", what="do", query={"close": code, "reason": reason})
    await converse("a close without a code", sending(frame(8)))
    for name, data in violations(mask=True):
        await converse(f"of the client: {name}", sending(data))
    for name, data in violations(mask=False):
        await converse(f"of the app: {name}", what="do", query={"raw": data.hex()})


if __name__ == "__main__":
    asyncio.run(main())
