#!/usr/bin/env python3
"""A whole Marey sender in the standard library of Python 3.8 or later, written from sender.md and wire.md alone.

    send.py BUNDLE --stream NAME --samples N --rate HZ [--session S] [--state FILE] [--acked FILE]

It captures N samples that follow from their index (`sample_values`) for session S, or for one that the hub asks it to
join, and ends when the hub holds all. A hub that is killed, full or away delays it and loses nothing; with --state nor
does a restart. It prints what was captured and acknowledged, at each ack to --acked; exit 1: the hub takes no more.
"""
import argparse
import hashlib
import itertools
import json
import os
import pickle
import socket
import ssl
import struct
import sys
import time
import zlib
from pathlib import Path

HELLO, OPEN, HEARTBEAT, BYE, FRAME, SENT = 0x01, 0x02, 0x03, 0x04, 0x10, 0x11
WELCOME, JOIN, OPENED, REFUSED, STOP, CLOSED, ACK = 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x90
DATA, DECLARE, END, LANE_DATA, LANE_LIVE, LANES, CHANNEL, STREAM = 0x01, 0x02, 0x06, 0, 1, ("data", "live"), 1, 1
MESSAGE, HEADER = struct.Struct("<BBHI"), struct.Struct("<4sIIBBBBIIQQq")       # of a message, of a frame
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)   # goes on while the machine sleeps, until its next boot
BOOT = "".join(f.read_text()[:36] for f in Path("/proc/sys/kernel/random").glob("boot_id")).replace("-", "").zfill(32)


def sample_values(index: int) -> tuple:
    """Level (exact as f32) and code of a sample."""
    return index * 7919 % 65536 / 256 - 128, (index * 2654435761 + 12345) % 2**32 - 2**31


class Epoch:
    """One life of the counters, and every frame of it that is not durable on the hub: what a device must keep."""

    def __init__(self, device: str, session: str):
        self.device, self.session, self.epoch, self.boot = device, session, os.urandom(16).hex(), BOOT
        self.began_ns, self.captured, self.frames, self.digest = time.clock_gettime_ns(CLOCK), 0, 0, "00" * 32
        self.ended, self.acknowledged, self.next, self.durable, self.safe = False, 0, [0, 0], [0, 0], [0, 0]
        self.waiting, self.sent = [[], []], [0, 0]      # of each lane (sequence, samples, frame); how many were sent

    def add(self, kind: int, lane: int, payload: bytes, time_ns: int, count: int = 0, index: int = 0) -> None:
        head = HEADER.pack(b"\xf5MF1", 0, HEADER.size + (len(payload) + 7) // 8 * 8, kind, 0, lane, -len(payload) % 8,
                           STREAM, count, self.next[lane], index, time_ns)
        body = head[8:] + payload + bytes(-len(payload) % 8)
        identity = b"%s\0%s\0%s" % (self.device.encode(), self.session.encode(), bytes.fromhex(self.epoch))
        crc = struct.pack("<I", zlib.crc32(body, zlib.crc32(identity)))
        if kind == DATA:
            link = bytes.fromhex(self.digest) + crc + struct.pack("<Q", self.next[lane])
            self.digest = hashlib.sha256(link).hexdigest()
            self.captured, self.frames = self.captured + count, self.frames + 1
        self.waiting[lane].append((self.next[lane], count, head[:4] + crc + body))
        self.next[lane] += 1

    def capture(self, name: str, rate: float, samples: int, stop: bool) -> None:
        """Declares the stream, makes frames of a tenth of a second and, when the last one was sent, ends the stream."""
        now, most = time.clock_gettime_ns(CLOCK), int(min(max(rate / 10, 1), 1000))
        if self.next[LANE_LIVE] == 0:
            self.add(DECLARE, LANE_LIVE, json.dumps({"name": name, "rate_hz": rate, "fields": [
                {"name": "level", "type": "f32", "unit": "V"}, {"name": "code", "type": "i32"}]}).encode(), now)
        due = max(self.captured, min(samples, int((now - self.began_ns) * rate / 1e9) + 1))
        stop = stop or due >= samples
        while not self.ended and due - self.captured >= (1 if stop else most):
            rows = range(self.captured, min(due, self.captured + most))
            times = [self.began_ns + round(i * 1e9 / rate) for i in rows]
            levels, codes = zip(*map(sample_values, rows))
            columns = struct.pack("<%dq%df" % (len(rows), len(rows)), *times, *levels)
            columns += bytes(-len(columns) % 8) + struct.pack("<%di" % len(rows), *codes)
            self.add(DATA, LANE_DATA, columns, times[0], len(rows), rows[0])
        if stop and not self.ended and self.sent[LANE_DATA] == len(self.waiting[LANE_DATA]):
            said, self.ended = {"stream": STREAM, "captured": str(self.captured), "next_index": str(self.captured),
                                "frames": str(self.frames), "digest": self.digest}, True
            self.add(END, LANE_LIVE, json.dumps(said).encode(), now)

    def forget(self, lane: int, among: int, durable: int, holes: list) -> None:
        """Of the first `among` frames of a lane drops those that are durable and in no hole."""
        for frame in self.waiting[lane][:among]:
            if frame[0] < durable and not any(int(first) <= frame[0] < int(end) for first, end in holes):
                self.waiting[lane].remove(frame)
                self.sent[lane], self.acknowledged = max(0, self.sent[lane] - 1), self.acknowledged + frame[1]

    def summary(self) -> str:
        return json.dumps({name: value for name, value in vars(self).items() if name not in ("waiting", "sent")})


class Sender:
    def __init__(self, args: argparse.Namespace):
        self.args, self.stop, self.log = args, False, open(str(args.acked or os.devnull), "a", buffering=1)
        self.bundle = json.loads((args.bundle / "hub.json").read_text())
        self.epoch = pickle.loads(args.state.read_bytes()) if args.state and args.state.exists() else None
        self.session = self.epoch.session if self.epoch else args.session

    def run(self) -> None:
        wait, context = 0.1, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)        # which checks certificate and name
        context.load_verify_locations(str(self.args.bundle / "ca.pem"))
        context.load_cert_chain(str(self.args.bundle / "cert.pem"), str(self.args.bundle / "key.pem"))
        context.set_alpn_protocols(["marey/1"])
        for address in itertools.cycle(self.bundle["addresses"]):
            self.asked, self.opened, self.inbox, self.credit, self.spent, self.spoke = False, False, b"", 0, 0, 0.0
            try:
                with socket.create_connection(address.strip("[").replace("]", "").rsplit(":", 1), 10) as plain:
                    with context.wrap_socket(plain, server_hostname=self.bundle["hub_name"]) as self.tls:
                        return self.talk()
            except OSError as error:                                        # refused, broken, timed out, no such hub
                print("%s; trying again" % error, file=sys.stderr)
            wait = 0.1 if self.opened else min(2 * wait, 5)
            time.sleep(wait)

    def talk(self) -> None:
        self.say(HELLO, b'{"v":1}')
        while True:
            self.listen()
            if self.opened:
                self.epoch.capture(self.args.stream, self.args.rate, self.args.samples, self.stop)
                if self.args.state and self.epoch.sent != list(map(len, self.epoch.waiting)):
                    Path("%s.new" % self.args.state).write_bytes(pickle.dumps(self.epoch))    # before it leaves
                    os.replace("%s.new" % self.args.state, self.args.state)
                self.flush(self.epoch.waiting, self.epoch.sent)
                if self.epoch.ended and not any(self.epoch.waiting):
                    return self.say(BYE, b"{}")
            if time.monotonic() > self.spoke + 1:
                self.say(HEARTBEAT, b'{"timestamp_ms":%d,"device_info":{}}' % (time.time() * 1000))

    def say(self, kind: int, body: bytes, channel: int = 0, more: bytes = b"") -> None:
        self.tls.settimeout(30)
        self.tls.sendall(MESSAGE.pack(kind, 0, channel, len(body)) + body + more)
        self.spoke = time.monotonic()

    def listen(self) -> None:
        self.tls.settimeout(0.02)
        try:
            data = self.tls.recv(1 << 16)
        except (socket.timeout, ssl.SSLWantReadError):
            return
        if not data:
            raise ConnectionError("the hub closed the connection")
        self.inbox += data
        while len(self.inbox) >= 8 and len(self.inbox) >= 8 + MESSAGE.unpack_from(self.inbox)[3]:
            kind, _, _, size = MESSAGE.unpack_from(self.inbox)
            body, self.inbox = self.inbox[8:8 + size], self.inbox[8 + size:]
            self.acked(body) if kind == ACK else self.told(kind, json.loads(body))

    def flush(self, waiting: list, sent: list) -> None:
        data, numbers = b"", []                 # live frames first, oldest first, as far as the credit goes
        for lane, (number, _, frame) in [(i, f) for i in (LANE_LIVE, LANE_DATA) for f in waiting[i][sent[i]:][:64]]:
            if self.spent + len(frame) > self.credit:
                break
            data += MESSAGE.pack(FRAME, 0, CHANNEL, len(frame)) + frame
            self.spent, sent[lane] = self.spent + len(frame), sent[lane] + 1
            numbers += [number] if lane == LANE_DATA else []
        if data:
            sent_at, span = time.clock_gettime_ns(CLOCK), numbers[:1] + numbers[-1:] or [1, 0]
            self.say(SENT, struct.pack("<qQQ", sent_at, *span), CHANNEL, data)

    def acked(self, body: bytes) -> None:
        *marks, self.credit, _, _, _ = struct.unpack("<QQQQQQq8s", body)
        self.epoch.durable, self.epoch.safe = list(map(max, marks, self.epoch.durable)), marks[2:]
        for lane in (LANE_DATA, LANE_LIVE):
            self.epoch.forget(lane, self.epoch.sent[lane], marks[lane], [])
        print(self.epoch.summary(), file=self.log)

    def told(self, kind: int, said: dict) -> None:
        self.session, self.stop = self.session or said.get("session"), self.stop or kind == STOP
        self.credit = int(said.get("credit", self.credit))
        if kind in (WELCOME, JOIN) and self.session and not self.asked:
            self.epoch, self.asked = self.epoch or Epoch(self.bundle["device"], self.session), True
            self.say(OPEN, json.dumps({"session": self.session, "epoch": self.epoch.epoch, "boot": self.epoch.boot,
                     "highest_ack": dict(zip(LANES, map(str, self.epoch.durable)))}).encode(), CHANNEL)
        elif kind == OPENED:
            for lane, name in enumerate(LANES):
                self.epoch.forget(lane, sys.maxsize, int(said["next"][name]), said.get("holes", {}).get(name, []))
                self.epoch.sent[lane] = 0
            self.opened, self.stop = True, self.stop or not said.get("recording", True) or self.epoch.boot != BOOT
        elif kind == REFUSED and said["code"] == "not_started":
            self.asked = False                  # the join will come
        elif kind in (REFUSED, CLOSED):         # what was refused is kept and goes again through the next connection
            retry_ms, code = said.get("retry_after_ms"), said.get("code", said.get("reason"))
            time.sleep((retry_ms or 0) / 1000)
            again = retry_ms is not None or code in ("undeclared_stream", "shutting_down")
            raise (ConnectionError if again else SystemExit)("the hub says: %s" % said)


def main() -> None:
    parser = argparse.ArgumentParser(description="Records a stream into a Marey hub.")
    parser.add_argument("bundle", type=Path)
    for name, kind in dict(stream=str, samples=int, rate=float, session=str, state=Path, acked=Path).items():
        parser.add_argument("--" + name, type=kind, required=name in ("stream", "samples", "rate"))
    sender = Sender(parser.parse_args())
    try:
        sender.run()
    finally:
        print(sender.epoch.summary() if sender.epoch else "{}")


if __name__ == "__main__":
    main()
