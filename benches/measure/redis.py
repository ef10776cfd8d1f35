"""A redis-server of a measurement, with a client that counts the commands of other clients."""

import secrets
import socket
import statistics
import threading

from .stage import Wrong, free_port

# Parts of commands that no request waits for: heartbeats, the clock, the sweep of unused sessions, the report of last
# uses (GT). ZSCORE is in one write with the GET of the same session.
BACKGROUND = ("heartbeat:", "sidegate:{r", "MONITOR", '"ZCARD"', '"TIME"', "ZRANGEBYSCORE", "'GT'", '"PUBSUB"', '"ZSCORE"')


class Client:
    """One connection. Bytes in, bytes out (RESP2)."""

    def __init__(self, port):
        self.stream = socket.create_connection(("127.0.0.1", port), 10)
        self.reader = self.stream.makefile("rb")

    def call(self, *words):
        """Sends a command and returns its answer."""
        return self.call_all([words])[0]

    def call_all(self, commands):
        """Sends several commands in one write."""
        data = []
        for words in commands:
            words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
            data.append(b"*%d\r\n" % len(words))
            data += [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        self.stream.sendall(b"".join(data))
        return [self.answer() for _ in commands]

    def answer(self):
        line = self.reader.readline().rstrip(b"\r\n")
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise Wrong(f"redis: {rest.decode()}")
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.reader.read(int(rest) + 2)[:-2]
        return [self.answer() for _ in range(int(rest))]


class Redis:
    """A server without persistence, on a free port."""

    def __init__(self, stage):
        self.port = free_port()
        command = ["redis-server", "--bind", "127.0.0.1", "--port", self.port, "--save", ""]
        command += ["--appendonly", "no", "--dir", stage.folder]
        stage.start("redis", command, self.port)
        self.client = Client(self.port)

    def settings(self, stage):
        """The settings of a gateway that uses this store. The long coherence time keeps heartbeats out of the
        measurement."""
        keys = stage.folder / "state_keys"
        if not keys.exists():
            stage.write("state_keys", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n")
        return (
            f'[login]\nstate_key_file = "{keys}"\n'
            f'[session.store.redis]\nurls = ["redis://127.0.0.1:{self.port}"]\ncoherence_secs = 60\n'
        )

    def used_memory(self):
        lines = self.client.call("INFO", "memory").decode().splitlines()
        return int(next(line for line in lines if line.startswith("used_memory:")).split(":")[1])

    def keys(self, pattern):
        return self.client.call("KEYS", pattern)

    def bytes_of_session(self, copies):
        """The memory of a session beyond its record: copies all keys of the only session many times, each with the
        names of another session. The allocator of the server rounds the length of a record up to one of few sizes, so
        the copies have records of different lengths. The server doubles its tables from time to time, so the result is
        the mean from half of the copies to all copies."""
        (record,) = self.keys("*{1}s*")
        (index,) = self.keys("*{1}i1")
        length = self.client.call("STRLEN", record)
        dumps = [(key, self.client.call("DUMP", key)) for key in (*self.keys("*{1}u*"), *self.keys("*{1}p*"))]
        before, lengths, found = self.used_memory(), 0, []
        for number in range(copies):
            # From three quarters of the length to five quarters.
            other = length * 3 // 4 + secrets.randbelow(length // 2)
            lengths += other
            commands = [("SET", self.another(record), secrets.token_bytes(other), "PX", 86_400_000)]
            commands += [("RESTORE", self.another(key), 86_400_000, dump) for key, dump in dumps]
            commands.append(("ZADD", index, 1_800_000_000_000 + number, secrets.token_bytes(16)))
            self.client.call_all(commands)
            if number >= copies // 2 and (number + 1) % (copies // 16) == 0:
                found.append((self.used_memory() - before - lengths) / (number + 1))
        return statistics.mean(found)

    @staticmethod
    def another(key):
        """The key for another session, user or session at the provider."""
        name = key[: key.index(b"{1}") + 4] + secrets.token_bytes(16)
        if len(name) != len(key):
            raise Wrong(f"an unexpected key: {key!r}")
        return name


class Watch:
    """Notes the commands of other clients while the context is open, without BACKGROUND and without the commands that
    scripts run."""

    def __init__(self, redis):
        self.stream = socket.create_connection(("127.0.0.1", redis.port), 10)
        self.redis = redis
        self.commands = []

    def __enter__(self):
        self.stream.sendall(b"MONITOR\r\n")
        self.reader = self.stream.makefile("rb")
        self.reader.readline()
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()
        return self

    def read(self):
        for line in self.reader:
            text = line.decode("latin-1").rstrip()
            if "the-watch-ends" in text:
                return
            command = text.split("] ", 1)[-1]
            is_own = any(word in command for word in BACKGROUND)
            if " lua] " not in text and not is_own:
                self.commands.append(command)

    def __exit__(self, *_failure):
        self.redis.client.call("ECHO", "the-watch-ends")
        self.thread.join(10)
        self.reader.close()
        self.stream.close()
