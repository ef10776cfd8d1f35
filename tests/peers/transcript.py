"""What one side of a WebSocket has seen, as lines of text."""
import hashlib

from websockets.frames import Frame, Opcode

# At most this many frames of a connection are described one by one.
FEW = 12


class Recorder:
    """Records the frames that arrive, and a hash of all bytes that arrive after the head of the handshake."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.frames = []
        self.head = b""
        self.bytes = 0
        self.hash = hashlib.sha256()

    def process_event(self, event):
        if isinstance(event, Frame):
            self.frames.append(frame(event))
        super().process_event(event)

    def data_received(self, data):
        if b"\r\n\r\n" not in self.head:
            self.head += data
            _, _, rest = self.head.partition(b"\r\n\r\n")
        else:
            rest = data
        self.bytes += len(rest)
        self.hash.update(rest)
        super().data_received(data)


def digest(data):
    return hashlib.sha256(data).hexdigest()[:12]


def frame(event):
    data = bytes(event.data)
    kind = event.opcode.name.lower() + ("" if event.fin else "+")
    if event.opcode is Opcode.CLOSE:
        return f"{kind} {int.from_bytes(data[:2], 'big')} {data[2:].decode()}".strip()
    return f"{kind} {len(data)} {data.decode() if data.isascii() and len(data) < 20 else digest(data)}".strip()


def described(connection, side, fields):
    """The lines for a connection that has ended. `fields` are those of the handshake that this side has got."""
    for name in ["Origin", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"]:
        for value in fields.get_all(name):
            yield f"{side}: {name}: {value}"
    frames = connection.frames
    if len(frames) > FEW:
        everything = "\n".join(frames).encode()
        frames = [*frames[:4], f"... {len(frames)} frames {digest(everything)} ...", *frames[-2:]]
    for line in frames:
        yield f"{side}: {line}"
    yield f"{side}: ended {connection.close_code} {connection.close_reason}".rstrip()
