"""Frames, declarations and time packets as bytes: `format-spec/frame.md`, `types.md` and `clock.md`.

Pure: no sockets, no files, no clocks.
"""
from __future__ import annotations

import hashlib
import hmac
import json
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DATA, DECLARE, EVENT, STATE, PROBES, END = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
LANE_DATA, LANE_LIVE = 0, 1
LANES = ("data", "live")
FRAME_BYTES_MAX = 1 << 20
SAMPLES_MAX = 131_072

HEADER = struct.Struct("<4sIIBBBBIIQQq")
MARK = b"\xf5MF1"
CODES = {"i8": "b", "i16": "h", "i32": "i", "i64": "q", "u8": "B", "u16": "H", "u32": "I", "u64": "Q", "f32": "f",
         "f64": "d", "bool": "?"}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TAKEN = {"time", "device_time_ns", "epoch", "time_err_us", "seq", "session", "stream", "device", "nan", "inf", "infinity",
          "true", "false", "null", "none"}


@dataclass(frozen=True)
class Field:
    """A channel: `type` is one of `i8` to `u64`, `f32`, `f64`, `bool`, `utf8`, `binary`; `unit` a UCUM code; `length` the
    elements of a fixed-size list. Physical value = stored x scale + offset."""

    name: str
    type: str = "f32"
    unit: str | None = None
    length: int | None = None
    scale: float | None = None
    offset: float | None = None
    description: str | None = None

    def said(self) -> dict[str, Any]:
        if self.type not in CODES and self.type not in ("utf8", "binary"):
            raise ValueError(f"field {self.name!r} has the type {self.type!r}; there are: {', '.join(CODES)}, utf8, binary")
        if self.length is not None and (self.type not in CODES or self.type == "bool" or not 1 <= self.length <= 65536):
            raise ValueError(f"field {self.name!r}: a list has 1 to 65536 numbers, and nothing else")
        check_name(self.name)
        return {key: value for key, value in vars(self).items() if value is not None}


def check_name(name: str) -> str:
    """A name of a stream or field, or ValueError."""
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise ValueError(f"{name!r} is no name for a stream or field: a small letter, then at most 31 small letters, digits "
                         f"and underscores, and none of {', '.join(sorted(_TAKEN))}")
    return name


def declaration(name: str, fields: Sequence[Field], rate_hz: float | None, more: Mapping[str, Any]) -> bytes:
    """The JSON that declares a stream."""
    said: dict[str, Any] = {"name": check_name(name), "fields": [field.said() for field in fields]}
    if not fields or len({field.name for field in fields}) != len(fields):
        raise ValueError(f"stream {name!r} needs at least one field, and no two of one name")
    if rate_hz is not None:
        if not 0 < rate_hz < float("inf"):
            raise ValueError(f"stream {name!r}: a rate of {rate_hz} Hz is none; leave it out where samples are irregular")
        said["rate_hz"] = rate_hz
    said |= {key: value for key, value in more.items() if value is not None}
    return json.dumps(said, separators=(",", ":")).encode()


def columns(fields: Sequence[Field], times_ns: Sequence[int], values: Sequence[Sequence[Any]]) -> bytes:
    """The payload of a data frame: the times, then each field's values.

    Raises ValueError with field and reason where a value does not fit.
    """
    count = len(times_ns)
    out = [struct.pack(f"<{count}q", *times_ns)]
    for field, column in zip(fields, values, strict=True):
        try:
            out.append(_column(field, column, count))
        except (struct.error, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise ValueError(f"field {field.name!r} ({field.type}): {error}") from None
    return b"".join(out[:1] + [_filled(column) for column in out[1:]])


def fits(payload: bytes) -> bool:
    """Whether a frame can hold it."""
    return HEADER.size + len(payload) + -len(payload) % 8 <= FRAME_BYTES_MAX


def check_lengths(fields: Sequence[Field], times_ns: Sequence[int], values: Sequence[Sequence[Any]]) -> None:
    """Raises ValueError where a value does not fit its field, or one sample no frame."""
    payload = columns(fields, times_ns, values)
    if fits(payload):
        return
    count = len(times_ns)
    if count == 1:
        raise ValueError(f"a sample of {len(payload)} bytes is longer than a frame, which has {FRAME_BYTES_MAX} at most: "
                         "cut it into several, or send it as a file")
    for part in (slice(count // 2), slice(count // 2, count)):
        check_lengths(fields, times_ns[part], [column[part] for column in values])


def _column(field: Field, column: Sequence[Any], count: int) -> bytes:
    if len(column) != count:
        raise ValueError(f"{len(column)} values for {count} times")
    if field.type in CODES:
        if field.length is not None:
            if any(len(row) != field.length for row in column):
                raise ValueError(f"each sample has {field.length} elements")
            column = [element for row in column for element in row]
        elif field.type == "bool":
            column = [bool(value) for value in column]
        return struct.pack(f"<{len(column)}{CODES[field.type]}", *column)
    pieces = [value.encode() if field.type == "utf8" else bytes(value) for value in column]
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    return _filled(struct.pack(f"<{count + 1}I", *ends)) + b"".join(pieces)


def _filled(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def identity(device: str, session: str, epoch: bytes) -> int:
    """What a frame's checksum goes on from."""
    return zlib.crc32(b"%s\0%s\0%s" % (device.encode(), session.encode(), epoch))


def frame(seed: int, kind: int, lane: int, sequence: int, payload: bytes, time_ns: int, *, stream: int = 0, count: int = 0,
          index: int = 0) -> tuple[bytes, int]:
    """A frame and its checksum."""
    padding = -len(payload) % 8
    length = HEADER.size + len(payload) + padding
    if length > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {length} bytes is longer than {FRAME_BYTES_MAX}: send fewer samples at once")
    head = HEADER.pack(MARK, 0, length, kind, 0, lane, padding, stream, count, sequence, index, time_ns)
    body = head[8:] + payload + bytes(padding)
    crc = zlib.crc32(body, seed)
    return head[:4] + struct.pack("<I", crc) + body, crc


def chained(digest: str, crc: int, sequence: int) -> str:
    """The next link of a stream's digest."""
    return hashlib.sha256(bytes.fromhex(digest) + struct.pack("<IQ", crc, sequence)).hexdigest()


class TimeKey:
    """Makes time packets and checks their answers; the key is good for one connection."""

    _PACKET = struct.Struct("<4sB3xQQqQqq8s")

    def __init__(self, key_id: str, key: str) -> None:
        self._id, self._key = int(key_id, 16), bytes.fromhex(key)

    def request(self, nonce: int, dev_send: int) -> bytes:
        head = self._PACKET.pack(b"MTP1", 1, self._id, nonce, dev_send, 0, 0, 0, bytes(8))
        return head + self._mac(head)

    def answer(self, packet: bytes) -> tuple[int, int, int, int, int, bytes] | None:
        """nonce, dev_send, hub epoch, hub_recv, hub_send and tag; None if the hub did not write it."""
        if len(packet) != 80 or not hmac.compare_digest(self._mac(packet[:64]), packet[64:]):
            return None
        mark, direction, key_id, nonce, dev_send, hub_epoch, hub_recv, hub_send, tag = self._PACKET.unpack(packet[:64])
        if (mark, direction, key_id) != (b"MTP1", 2, self._id):
            return None
        return nonce, dev_send, hub_epoch, hub_recv, hub_send, tag

    def _mac(self, head: bytes) -> bytes:
        return hmac.digest(self._key, head, "sha256")[:16]


def probe_row(kind: int, hub_epoch: int, nonce: int, dev_send: int, hub_recv: int, hub_send: int, dev_recv: int,
              tag: bytes) -> bytes:
    """A row of a probes frame: kind 2 is an exchange in-band, 3 the arrival of an ack."""
    return struct.pack("<B7xQQqqqq8s", kind, hub_epoch, nonce, dev_send, hub_recv, hub_send, dev_recv, tag)
