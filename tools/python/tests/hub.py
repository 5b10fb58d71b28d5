"""A hub that says what a test wants it to say: the messages of `format-spec/wire.md` over a plain socket of loopback."""
import json
import socket
import struct
from pathlib import Path
from unittest import mock

from marey import frames, link
from marey.device import Device

CREDIT = 8 << 20


class Hub:
    """The test itself is the hub's thread: it accepts, expects and says."""

    def __init__(self, folder):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(20)
        self._bundle = Path(folder) / "board.bundle"
        self._bundle.mkdir()
        address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        (self._bundle / "hub.json").write_text(json.dumps({"device": "board", "hub_name": "hub", "addresses": [address]}))
        self._socket = None

    def device(self, **how):
        """A device whose connections are not encrypted, and nothing else about it is different."""
        with mock.patch("marey.link.ssl.SSLContext") as context:
            context.return_value.wrap_socket = lambda plain, server_hostname: plain
            return Device(self._bundle, probe_s=0, **how)

    def welcome(self):
        """The next connection, up to its welcome."""
        self.hang_up()
        self._socket, _ = self._listener.accept()
        self._socket.settimeout(20)
        self._read = self._socket.makefile("rb")
        self.bytes = 0
        self.expect(link.HELLO)
        self.say(link.WELCOME, {"credit": str(CREDIT), "heartbeat_ms": 600_000})

    def hang_up(self):
        if self._socket:
            self._read.close()
            self._socket.close()
            self._socket = None

    def close(self):
        self.hang_up()
        self._listener.close()

    def next(self):
        """The next message: kind, channel, body."""
        kind, _, channel, size = link.MESSAGE.unpack(self._read.read(link.MESSAGE.size))
        body = self._read.read(size)
        self.bytes += size if kind == link.FRAME else 0
        return kind, channel, body

    def expect(self, kind):
        """The next message of a kind, whatever comes before: its channel, and what it says."""
        while (message := self.next())[0] != kind:
            pass
        return message[1], message[2] if kind == link.FRAME else json.loads(message[2])

    def frame(self, kind=frames.DATA):
        """The next frame of a kind: its sequence and payload."""
        while True:
            body = self.expect(link.FRAME)[1]
            head = frames.HEADER.unpack_from(body)
            if head[3] == kind:
                return head[9], body[frames.HEADER.size:]

    def say(self, kind, said, channel=0):
        body = json.dumps(said).encode()
        self._socket.sendall(link.MESSAGE.pack(kind, 0, channel, len(body)) + body)

    def opened(self, channel, data=0, live=0, **more):
        self.say(link.OPENED, {"next": {"data": str(data), "live": str(live)}, **more}, channel)

    def ack(self, channel, data, live, resolved=0):
        body = struct.pack("<QQQQQQq8s", data, live, 0, 0, CREDIT + resolved, 1, 0, bytes(8))
        self._socket.sendall(link.MESSAGE.pack(link.ACK, 0, channel, len(body)) + body)

    def record(self, session="walk"):
        """Asks the device into a session; the channel."""
        self.say(link.JOIN, {"session": session})
        channel, said = self.expect(link.OPEN)
        assert said["session"] == session, said
        self.opened(channel)
        return channel
