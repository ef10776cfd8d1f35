"""An app with server-sent events, made with the packages `sse-starlette`, `starlette` and `uvicorn`.

    python events_app.py

Listens on a free port of 127.0.0.1 and prints `ready URL`. The last part of the path says what happens:

- the empty part: a page that shows the events, and counts them in `seen`.
- `stream`: the events after the one that the page has seen last. Each event waits until the page asks for it, so the
  page gets no more events if something between the page and the app holds an event back. After each tenth event the
  answer ends, and the browser connects again.
- `next`: asks for one more event.
- `open`: returns the number of answers that have not ended.
"""
import asyncio
import json
import socket
import time

import uvicorn
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route

PAGE = """<p id=shown></p><script>
window.seen = { numbers: [], delays: [], user: '', opened: 0, cut: [], refused: 0 };
window.wanted = 25;
const next = () => fetch('next', { method: 'POST' });
function connect() {
  const source = new EventSource('stream?after=' + seen.numbers.length);
  let open = false;
  source.onopen = () => { seen.opened += 1; open = true; };
  source.onmessage = message => {
    const event = JSON.parse(message.data);
    seen.numbers.push(event.number);
    seen.delays.push(Date.now() - event.at);
    seen.user = shown.textContent = event.user;
    if (event.number < wanted) next();
  };
  source.onerror = () => {
    if (open) seen.cut.push(Date.now());
    open = false;
    // After a 401 the browser does not connect again.
    if (source.readyState !== EventSource.CLOSED) return;
    seen.refused += 1;
    setTimeout(connect, 100);
  };
}
connect();
next();
</script>"""

asked = 0
open_answers = 0
more = asyncio.Condition()


async def page(_):
    return HTMLResponse(PAGE)


async def ask(_):
    global asked
    async with more:
        asked += 1
        more.notify_all()
    return PlainTextResponse("asked")


async def events(number, user):
    global open_answers
    open_answers += 1
    try:
        while True:
            number += 1
            async with more:
                await more.wait_for(lambda: asked >= number)
            event = {"number": number, "at": time.time() * 1000, "user": user}
            yield {"id": str(number), "retry": 50, "data": json.dumps(event)}
            if number % 10 == 0:
                return
    finally:
        open_answers -= 1


async def stream(request):
    last = request.headers.get("last-event-id", request.query_params["after"])
    return EventSourceResponse(events(int(last), request.headers.get("x-forwarded-user")))


async def count(_):
    return PlainTextResponse(str(open_answers))


def main():
    app = Starlette(routes=[
        Route("/events/", page),
        Route("/events/stream", stream),
        Route("/events/next", ask, methods=["POST"]),
        Route("/events/open", count),
    ])
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app)).run([listener])


if __name__ == "__main__":
    main()
