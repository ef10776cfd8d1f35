"""An app with gRPC, made with the package `grpcio`.

    python grpc_server.py

Listens with HTTP/2 on a free port of 127.0.0.1 and prints `ready URL`. Messages are bytes. The last part of the
method's path says what happens:

- `Unary`, `Upload`, `Download`, `Both`: one method of each kind. They return what came, and count it in the trailing
  metadata.
- `First`: answers before the client sends a message, and goes on after the client has sent its last message.
- `Fail`: ends with a status after some messages. The metadata of the call says what they are.
- `Refuse`: ends with a status after the first message, while the client is still sending.
- `Wait`: sends one message, and then nothing until the client has gone.
- `Gone`: waits until the call of `Wait` with the same name has ended.
- `Deadline`: returns whether the call has a deadline, and whether this is within the next minute.
- `Metadata`: returns the metadata of the call.
"""
import hashlib
import threading
from concurrent import futures

import grpc

CODES = {code.name: code for code in grpc.StatusCode}

# For each call of `Wait`, by its name: it has ended.
waits = {}
lock = threading.Lock()


def ended(name):
    with lock:
        return waits.setdefault(name, threading.Event())


def asked(context):
    return dict(context.invocation_metadata())


def count(context, messages):
    """Writes what came into the trailing metadata."""
    total = hashlib.sha256(b"".join(messages)).digest()
    context.set_trailing_metadata([
        ("messages", str(len(messages))),
        ("bytes", str(sum(map(len, messages)))),
        ("hash-bin", total[:6]),
    ])


def greet(context):
    """Sends back the metadata whose names begin with `my-`."""
    context.send_initial_metadata([pair for pair in context.invocation_metadata() if pair[0].startswith("my-")])


def unary(message, context):
    greet(context)
    count(context, [message])
    return message


def upload(messages, context):
    greet(context)
    messages = list(messages)
    count(context, messages)
    return b"".join(messages)


def download(message, context):
    greet(context)
    for start in range(0, len(message), 1_000):
        yield message[start:start + 1_000]
    count(context, [message])


def both(messages, context):
    greet(context)
    came = []
    for message in messages:
        came.append(message)
        yield message
    count(context, came)


def first(messages, context):
    yield b"before the first"
    came = [*messages]
    yield b"after the last"
    count(context, came)


def fail(_, context):
    wanted = asked(context)
    for number in range(int(wanted["messages"])):
        yield f"message {number}".encode()
    context.set_trailing_metadata([("grpc-status-details-bin", bytes(range(256))), ("why", "asked to")])
    context.abort(CODES[wanted["code"]], wanted["details-bin"].decode())


def refuse(messages, context):
    next(messages)
    context.set_trailing_metadata([("why", "too much")])
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "one message is enough")


def wait(_, context):
    gone = ended(asked(context).get("name", ""))
    context.add_callback(gone.set)
    yield b"waiting"
    gone.wait()


def gone(_, context):
    name = asked(context).get("name", "")
    if not ended(name).wait(context.time_remaining()):
        return b"continues"
    with lock:
        # Another client may use the name again.
        del waits[name]
    return b"ended"


def deadline(_, context):
    left = context.time_remaining()
    if left is None or left > 1_000_000:
        return b"none"
    # The client may round its deadline up.
    return b"within a minute" if 0 < left < 61 else f"in {left} seconds".encode()


def metadata(_, context):
    return "\n".join(f"{name}: {value}" for name, value in context.invocation_metadata()).encode()


class Methods(grpc.GenericRpcHandler):
    METHODS = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Upload": grpc.stream_unary_rpc_method_handler(upload),
        "Download": grpc.unary_stream_rpc_method_handler(download),
        "Both": grpc.stream_stream_rpc_method_handler(both),
        "First": grpc.stream_stream_rpc_method_handler(first),
        "Fail": grpc.unary_stream_rpc_method_handler(fail),
        "Refuse": grpc.stream_unary_rpc_method_handler(refuse),
        "Wait": grpc.unary_stream_rpc_method_handler(wait),
        "Gone": grpc.unary_unary_rpc_method_handler(gone),
        "Deadline": grpc.unary_unary_rpc_method_handler(deadline),
        "Metadata": grpc.unary_unary_rpc_method_handler(metadata),
    }

    def service(self, details):
        return self.METHODS.get(details.method.rsplit("/", 1)[-1])


def main():
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=80),
        handlers=[Methods()],
        options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)],
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"ready http://127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
