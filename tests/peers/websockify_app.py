"""WebSockets in front of a TCP server, with the package `websockify`.

    python websockify_app.py PORT

Listens on a free port of 127.0.0.1 and prints `ready URL`. Connects each WebSocket to the TCP server at PORT.
"""
import socket
import sys

from websockify.websocketproxy import WebSocketProxy


def main():
    # websockify does not accept port 0.
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    WebSocketProxy(
        listen_fd=listener.fileno(),
        target_host="127.0.0.1",
        target_port=int(sys.argv[1]),
    ).start_server()


if __name__ == "__main__":
    main()
