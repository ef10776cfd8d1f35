"""An app with WebSockets, made with the package `websockets`.

    python websocket_server.py

Listens on a free port of 127.0.0.1 and prints `ready URL`. The last part of the path says what happens:

- `echo`: every message comes back.
- `ticks`: a number comes ten times a second.
- `do`: what the query says: `close=CODE` with `reason=TEXT`, `fragments=N`, `ping=TEXT`, `raw=HEX` (bytes that
  need not be WebSocket frames) or `drop=1` (the connection ends without a close frame).
- `report`: one message with what the app has seen on the connection with the same `case=NAME`, once that has ended.
"""
import asyncio
import contextlib
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from transcript import Recorder, described

# The report of each connection, by its case.
reports = {}


class Recording(Recorder, ServerConnection):
    """A connection that records its frames."""


async def fragments(count):
    for number in range(count):
        yield f"piece {number} "


async def ticks(connection):
    number = 0
    while True:
        number += 1
        await connection.send(f"tick {number}")
        await asyncio.sleep(0.1)


async def act(connection, query):
    if "ping" in query:
        await (await connection.ping(query["ping"]))
    if "fragments" in query:
        await connection.send(fragments(int(query["fragments"])))
    if "raw" in query:
        connection.transport.write(bytes.fromhex(query["raw"]))
        await connection.wait_closed()
    if "drop" in query:
        connection.transport.abort()
        await connection.wait_closed()
    if "close" in query:
        await connection.close(int(query["close"]), query.get("reason", ""))
    else:
        await connection.close()


async def handle(connection):
    parts = urlsplit(connection.request.path)
    query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    case = query.get("case", "")
    what = parts.path.rsplit("/", 1)[-1]
    if what == "report":
        await connection.send(await reports.setdefault(case, asyncio.get_running_loop().create_future()))
        reports.pop(case)
        return
    with contextlib.suppress(ConnectionClosed):
        if what == "ticks":
            await ticks(connection)
        elif what == "do":
            await act(connection, query)
        else:
            async for message in connection:
                await connection.send(message)
    await connection.wait_closed()
    if case:
        report = "\n".join(described(connection, "app", connection.request.headers))
        reports.setdefault(case, asyncio.get_running_loop().create_future()).set_result(report)


async def main():
    server = await serve(
        handle,
        "127.0.0.1",
        0,
        create_connection=Recording,
        select_subprotocol=lambda _, offered: "second" if "second" in offered else None,
        max_size=16 * 1024 * 1024,
        ping_interval=None,
    )
    host, port = server.sockets[0].getsockname()
    print(f"ready http://{host}:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
