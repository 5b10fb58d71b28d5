"""One connection of a device: messages, credit, probes (`format-spec/wire.md`).

Owns the socket. Does not own what is sent: that is the buffer's, and stays there until the hub has it.
"""
from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import struct
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import frames
from .base import DeviceError, Refused, now_ns

if TYPE_CHECKING:
    from .buffer import Epoch
    from .device import Device

HELLO, OPEN, HEARTBEAT, BYE, FRAME, SENT, PROBE = 0x01, 0x02, 0x03, 0x04, 0x10, 0x11, 0x12
WELCOME, JOIN, OPENED, REFUSED_, STOP, CLOSED, ACK, REPLY = 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x90, 0x91
MESSAGE = struct.Struct("<BBHI")
ACKED = struct.Struct("<QQQQQQq8s")
MESSAGE_BYTES_MAX = 64 << 10
CHANNELS_MAX = 16
ROWS_MAX = 32
TICK_S = 0.02
FRAMES_AT_ONCE = 64

log = logging.getLogger("marey")


class Channel:
    """An epoch that is open, or asked to be, on this connection."""

    def __init__(self, number: int, epoch: Epoch) -> None:
        self.number, self.epoch, self.is_open = number, epoch, False
        self.sent = [0, 0]  # next sequence of each lane to go out
        self.next = [0, 0]  # what was durable when it was opened, but for holes
        self.again = [0, 0]  # end of what is held below that, which the hub asked for again; 0: nothing


class Link:
    def __init__(self, device: Device, bundle: Path, addresses: list[str], probe_s: float) -> None:
        self.device, self._addresses, self._turn, self._probe_s = device, addresses, 0, probe_s
        try:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which checks certificate and name
            self._context.load_verify_locations(str(bundle / "ca.pem"))
            self._context.load_cert_chain(str(bundle / "cert.pem"), str(bundle / "key.pem"))
        except OSError as error:
            raise DeviceError(f"the bundle {bundle} can't be used: {error}") from None
        self._context.set_alpn_protocols(["marey/1"])
        self._stopped = threading.Event()
        self.was_opened = False

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        self._stopped.set()

    def rest(self, seconds: float) -> None:
        self._stopped.wait(seconds)

    def note(self, error: BaseException) -> None:
        log.info("%s: %s; trying again", self.device.name, error)

    def talk(self) -> None:
        """One connection, until the device is done with all (returns), the connection breaks (OSError), or the hub takes no
        more (Refused)."""
        self.was_opened = False
        address = self._addresses[self._turn % len(self._addresses)]
        self._turn += 1
        host, _, port = address.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), 10) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._context.wrap_socket(plain, server_hostname=self.device.hub_name) as self._tls:
                self._begin()
                while not self.stopped:
                    self._listen()
                    if self._welcomed:
                        self.device._cut()
                        self._open_all()
                        self._probe()
                        self._send_waiting()
                        if self.device._closing and not self._channels and not self.device._epochs():
                            return self._say(BYE, b"{}")
                    if time.monotonic() > self._spoke + self._heartbeat_s:
                        self._say(HEARTBEAT, b'{"timestamp_ms":%d,"device_info":{}}' % (time.time() * 1000))

    def _begin(self) -> None:
        self._inbox, self._credit, self._granted, self._spent, self._heartbeat_s = bytearray(), 0, 0, 0, 1.0
        self._channels: dict[int, Channel] = {}
        self._numbers, self._welcomed, self._refused = 0, False, set[int]()
        self._key: frames.TimeKey | None = None
        self._asked: dict[int, int] = {}
        self._rows: list[bytes] = []
        self._next_probe = self._rows_since = self._last_row = 0.0
        self._spoke = time.monotonic()
        self._say(HELLO, b'{"v":1,"agent":"marey-python"}')

    # Down

    def _listen(self) -> None:
        self._tls.settimeout(TICK_S)
        try:
            data = self._tls.recv(1 << 16)
        except (TimeoutError, ssl.SSLWantReadError):
            return
        if not data:
            raise EOFError("the hub closed the connection")
        at = now_ns()
        self._inbox += data
        while len(self._inbox) >= MESSAGE.size:
            kind, _, channel, size = MESSAGE.unpack_from(self._inbox)
            if size > MESSAGE_BYTES_MAX:
                raise OSError(f"a message of {size} bytes, which no hub sends")
            if len(self._inbox) < MESSAGE.size + size:
                return
            body = bytes(self._inbox[MESSAGE.size:MESSAGE.size + size])
            del self._inbox[:MESSAGE.size + size]
            try:
                self._told(kind, channel, body, at)
            except (ValueError, KeyError, TypeError, struct.error) as error:
                raise OSError(f"a message of type {kind:#x} that does not hold: {error!r}") from error

    def _told(self, kind: int, number: int, body: bytes, at: int) -> None:
        channel = self._channels.get(number)
        if kind == ACK:
            *marks, self._credit, hub_epoch, hub_send, tag = ACKED.unpack(body)
            if channel:
                self._acked(channel, marks[:2])
                if time.monotonic() > self._last_row + self._probe_s:
                    self._last_row = time.monotonic()
                    self._row(frames.probe_row(3, hub_epoch, 0, 0, 0, hub_send, at, tag))
        elif kind == REPLY:
            answer = self._key.answer(body) if self._key else None
            if answer and self._asked.pop(answer[0], None) == answer[1]:
                nonce, dev_send, hub_epoch, hub_recv, hub_send, tag = answer
                self._row(frames.probe_row(2, hub_epoch, nonce, dev_send, hub_recv, hub_send, at, tag))
        else:
            self._said(kind, channel, json.loads(body))

    def _said(self, kind: int, channel: Channel | None, said: dict[str, Any]) -> None:
        device = self.device
        if kind == WELCOME:
            self._welcomed, self._credit = True, int(said["credit"])
            self._granted = self._credit
            self._heartbeat_s = float(said["heartbeat_ms"]) / 1000
            if key := said.get("time"):
                self._key = frames.TimeKey(key["key_id"], key["key"])
        elif kind == JOIN:
            self._refused.clear()
            device._join(said["session"])
        elif kind == OPENED and channel:
            self._opened(channel, said)
            if not said.get("recording", True):
                device._stop(channel.epoch)
        elif kind == STOP:
            for open_ in self._channels.values():
                if open_.epoch.session == said["session"]:
                    device._stop(open_.epoch)
        elif kind == CLOSED:
            if channel is None:
                if said["reason"] == "replaced":
                    raise Refused("replaced", "another connection of this device took its place; is it running twice?")
                raise OSError(f"the hub closed the connection: {said['reason']}")
            self._channels.pop(channel.number)
            device._give_up(channel.epoch, said["reason"])
        elif kind == REFUSED_:
            self._take_refusal(channel, said)

    def _opened(self, channel: Channel, said: dict[str, Any]) -> None:
        holes = [[(int(a), int(b)) for a, b in said.get("holes", {}).get(lane, [])] for lane in frames.LANES]
        channel.next = [int(said["next"][lane]) for lane in frames.LANES]
        self.device._acked(channel.epoch, channel.next, holes)
        for lane, next_ in enumerate(channel.next):
            asked = self.device._buffer.below(channel.epoch, lane, next_)
            channel.sent[lane], channel.again[lane] = (asked[0], asked[1] + 1) if asked else (next_, 0)
        self.device.connections += 0 if self.was_opened else 1
        channel.is_open = self.was_opened = True

    def _acked(self, channel: Channel, durable: list[int]) -> None:
        if not any(channel.again):
            return self.device._acked(channel.epoch, durable)
        # A mark stays where it is while holes are filled. They are if it moves on, since frames go in order, or if the credit
        # says that the hub is done with all that was sent.
        all_done = self._credit - self._granted >= self._spent
        holes: list[list[tuple[int, int]]] = [[], []]
        for lane, again in enumerate(channel.again):
            if durable[lane] > channel.next[lane] or (all_done and channel.sent[lane] >= again):
                channel.again[lane] = 0
            elif again:
                holes[lane] = [(0, again)]
        self.device._acked(channel.epoch, durable, holes)

    def _take_refusal(self, channel: Channel | None, said: dict[str, Any]) -> None:
        code, message, retry_ms = said["code"], said.get("message", ""), said.get("retry_after_ms")
        if code == "bad_probe":
            return
        if channel and code in ("not_started", "recorded_elsewhere"):
            self._channels.pop(channel.number)
            self._refused.add(channel.epoch.row)  # until the connection is new, or a join comes
            return
        if channel and code in ("session_closed", "unknown_session", "not_in_session", "schema_mismatch", "sequence_reused",
                                "sequence_backward", "too_many"):
            self._channels.pop(channel.number)
            self.device._give_up(channel.epoch, f"{code}: {message}")
            return
        if retry_ms is None and code not in ("undeclared_stream", "shutting_down", "bad_crc"):
            raise Refused(code, message)
        # Frames behind a refused one are dropped until it comes again: a new connection begins at what is durable.
        self.rest(min((retry_ms or 0) / 1000, 30))
        raise OSError(f"the hub refused ({code}): {message}")

    # Up

    def _say(self, kind: int, body: bytes, channel: int = 0, more: bytes = b"") -> None:
        self._tls.settimeout(30)
        self._tls.sendall(MESSAGE.pack(kind, 0, channel, len(body)) + body + more)
        self._spoke = time.monotonic()

    def _open_all(self) -> None:
        known = {channel.epoch.row for channel in self._channels.values()} | self._refused
        for epoch in self.device._epochs():
            places = CHANNELS_MAX if epoch is self.device._live else CHANNELS_MAX - 1  # one is kept for what is recorded
            if epoch.row in known or len(self._channels) >= places:
                continue
            self._numbers += 1
            channel = self._channels[self._numbers] = Channel(self._numbers, epoch)
            said = {"session": epoch.session, "epoch": epoch.epoch, "boot": epoch.boot,
                    "highest_ack": {lane: str(n) for lane, n in zip(frames.LANES, epoch.durable)}}
            self._say(OPEN, json.dumps(said).encode(), channel.number)

    def _send_waiting(self) -> None:
        for channel in list(self._channels.values()):
            if not channel.is_open:
                continue
            self._flush(channel)
            epoch, device = channel.epoch, self.device
            if epoch is device._live:
                continue
            all_sent = not device._buffer.after(epoch, frames.LANE_DATA, channel.sent[frames.LANE_DATA], 1)
            if not epoch.ended and epoch in device._handing_in and all_sent:
                device._end(epoch)
            elif not epoch.waiting:
                self._channels.pop(channel.number)
                device._over(epoch)

    def _flush(self, channel: Channel) -> None:
        """Live frames first, oldest first, as far as the credit goes."""
        data, numbers = b"", []
        for lane in (frames.LANE_LIVE, frames.LANE_DATA):
            for sequence, _, frame in self.device._buffer.after(channel.epoch, lane, channel.sent[lane], FRAMES_AT_ONCE):
                if self._spent + len(frame) > self._credit:
                    break
                data += MESSAGE.pack(FRAME, 0, channel.number, len(frame)) + frame
                self._spent, channel.sent[lane] = self._spent + len(frame), sequence + 1
                if lane == frames.LANE_DATA:
                    numbers.append(sequence)
        if data:
            span = (numbers[0], numbers[-1]) if numbers else (1, 0)
            self._say(SENT, struct.pack("<qQQ", now_ns(), *span), channel.number, data)

    # Clock

    def _probe(self) -> None:
        now = time.monotonic()
        if self._key and self._probe_s > 0 and now >= self._next_probe:
            self._next_probe = now + self._probe_s
            if len(self._asked) > 16:
                self._asked.clear()  # what was not answered by now never is
            nonce = int.from_bytes(os.urandom(8), "little")
            dev_send = now_ns()
            self._asked[nonce] = dev_send
            self._say(PROBE, self._key.request(nonce, dev_send))
        with self.device._changed:  # a stream may be declared meanwhile, in the same counters
            live = self.device._live
            if self._rows and live and (len(self._rows) >= ROWS_MAX or now > self._rows_since + 2):
                rows, self._rows = self._rows, []
                self.device._add(live, frames.PROBES, b"".join(rows), None, count=len(rows))

    def _row(self, row: bytes) -> None:
        self._rows_since = self._rows_since if self._rows else time.monotonic()
        self._rows = [*self._rows, row][-ROWS_MAX:]
