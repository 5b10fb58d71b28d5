#!/usr/bin/env python3
"""Reads Marey device logs with nothing but the standard library of Python 3.8 or later.

    read_log.py PATH [--frames] [--samples]

PATH is a session's folder, a log's folder (NNNNNN.mlog), or one .mlog file. It prints JSON lines: the frames that count
(--frames, the default), their samples (--samples; floats and binary in hexadecimal), then every fault. It exits 1 if it
found damage, else 0: a torn tail was never acknowledged and is no damage. It writes nothing and trusts no byte.
Written from types.md, frame.md, log.md and recovery.md; numbers in comments are the steps of "Reading a log" there.
"""
import argparse, itertools, json, re, struct, sys, zlib
from collections import namedtuple
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Set, Tuple

MARK, INDEX_MARK, NO_EPOCH, NO_ORDINAL = re.compile(b"\xf5MF1"), b"MAREYIDX", bytes(16), 0xFFFFFFFF
FRAME = struct.Struct("<4sIIBBBBIIQQq")             # the header of a frame
SEGMENT = struct.Struct("<8sHHI16s64s32sIIQ16sII")  # the header of a segment, up to `superseded`
SEGMENT_BYTES, ENTRY_BYTES, TRAILER_BYTES, FRAME_BYTES_MAX, SAMPLES_MAX = 256, 64, 64, 1 << 20, 131072
DATA, EPOCH, ASSIGN, CHECKPOINT, LANE_HUB, REGULAR = 0x01, 0x80, 0x82, 0x84, 2, 0x01
FIXED = {"i8": "b", "i16": "h", "i32": "i", "i64": "q", "u8": "B", "u16": "H", "u32": "I", "u64": "Q",
         "f32": "f", "f64": "d", "bool": "B"}       # types of fixed width, as letters of the struct module
Fields = List[Tuple[str, Optional[int]]]            # type, and length where it is a list
# Where a frame stands, what its header says, its epoch's ordinal (None: the hub's). Payloads are kept where they steer.
Frame = namedtuple("Frame", "segment offset length kind lane epoch stream count sequence first_index first_time_ns crc "
                   "flags payload")
# Why nothing of a segment's header can be believed, or what it says. `identity` is device 00 session 00: with the id of
# an epoch it makes the seed of a crc. The predecessor (1 sealed, 2 cut, 3 copied) counts up to `predecessor_end`.
Header = namedtuple("Header", "fault identity predecessor predecessor_end epoch ordinal superseded",
                    defaults=(b"", 0, 0, NO_EPOCH, NO_ORDINAL, 0))


class Log:
    """The log of one device and session, read: the frames that count, in order, and the faults."""

    def __init__(self, paths: Dict[int, Path]):
        self.paths = dict(sorted(paths.items()))
        self.headers = {n: read_header(path, n if len(paths) > 1 else None) for n, path in self.paths.items()}
        self.identity = min(self.headers.values(), key=lambda header: header.fault != "").identity
        self.epochs: Dict[bytes, Optional[int]] = {NO_EPOCH: None}      # ordinals of those that the log named so far
        self.frames: Dict[Tuple[Any, int, int], Frame] = {}             # by epoch, lane, sequence
        self.top: Dict[Tuple[Any, int], int] = {}                       # the highest sequence of each epoch and lane
        self.faults: List[Dict[str, Any]] = []
        copies, self.said = list(self.paths), {}        # 1: a copy counts, and what it says of others, once sealed
        while copies and (self.headers[copies[-1]].fault or self.headers[copies[-1]].predecessor == 3) and (
                read_footer(self.paths[copies[-1]].read_bytes())[0] is None):
            copies.pop()
        for number, header in ((n, self.headers[n]) for n in reversed(copies)):     # the later has the last word
            if not header.fault and self.said.get(number) != (2, 0):
                self.said.setdefault(number - 1 - header.superseded, (header.predecessor, header.predecessor_end))
                self.said.update((n, (2, 0)) for n in range(number - header.superseded, number))
        for before, number in zip([0, *self.paths], self.paths):
            if number > before + 1 and len(self.paths) > 1:
                self.fault("damage", before + 1, 0, 0, "segments up to %d are missing" % (number - 1))
            if self.said.get(number) != (2, 0):         # a copy that was made again does not count
                self.read_segment(number, self.paths[number].read_bytes())

    def fault(self, fault: str, segment: int, offset: int, size: int, why: str, **more: Any) -> None:
        self.faults.append({"fault": fault, "segment": segment, "offset": offset, "bytes": size, "why": why, **more})

    def read_segment(self, number: int, data: bytes) -> None:
        """Finds how far the segment counts and what was on the disk for sure, then takes its frames one by one."""
        header, (said, said_end) = self.headers[number], self.said.get(number, (0, 0))
        if header.fault.startswith("read version"):
            return self.fault("damage", number, 0, len(data), header.fault)
        end, starts, footer_fault = read_footer(data)   # 1: it counts up to its index if it is sealed,
        if said > 1 or end is None and said == 1:       # or up to where its successor says, if that cut it,
            end, footer_fault = said_end, "the footer is damaged" if said == 1 else ""
        proven, end = end or 0, len(data) if end is None else end       # else to where its frames stop
        limit, covered = min(end, len(data)), [range(end)] if starts else []    # where `starts` names every frame
        for frame in [] if starts else self.checkpoints(number, data, limit):
            _, begin, size, _, _, synced, *units = struct.unpack_from("<QQQIIQ%dI" % frame.count, frame.payload)
            if begin + size == frame.offset and not (covered and frame.offset in covered[-1]):
                covered.append(range(begin, frame.offset + 1))
                starts.update([frame.offset], (begin + 8 * unit for unit in units))
                proven = max(proven, min(synced, frame.offset))
        if header.fault:
            proven = max(proven, SEGMENT_BYTES if MARK.match(data, SEGMENT_BYTES) else 0)
            self.fault("damage" if proven else "torn", number, 0, min(SEGMENT_BYTES, len(data)), header.fault)
        elif header.ordinal != NO_ORDINAL:
            self.epochs.setdefault(header.epoch, header.ordinal)
        at = behind = inside = SEGMENT_BYTES            # behind what was taken; where the broken frame ends, if known
        current, damaged, why = header.epoch, header.fault != "", "no whole frame of this log stands here"
        while at < limit:
            seeds = itertools.chain([current], self.epochs if damaged else [])          # 5
            frame = self.frame_at(number, data, at, limit, seeds)
            if frame and (at == behind or at in starts or not any(at in part for part in covered)
                          and at >= inside and frame.sequence > self.top.get((frame.epoch, frame.lane), -1)):
                if at > behind:                         # 3: damage is stepped over
                    self.fault("damage", number, behind, at - behind, why)
                at = behind = at + frame.length         # 6: the first of its sequence counts
                self.frames.setdefault((frame.epoch, frame.lane, frame.sequence), frame)
                self.top[frame.epoch, frame.lane] = max(self.top.get((frame.epoch, frame.lane), -1), frame.sequence)
                if frame.kind == EPOCH:
                    current, damaged = frame.payload[:16], False
                    self.epochs.setdefault(current, struct.unpack_from("<I", frame.payload, 32)[0])
                elif frame.epoch not in (None, self.epochs.get(current)):
                    current = next(epoch for epoch in self.epochs if self.epochs[epoch] == frame.epoch)
            elif behind >= proven:                      # 4: the log ends here, whatever follows (a torn footer, say)
                return self.fault("torn", number, behind, len(data) - behind, why)
            else:
                stop = at + int.from_bytes(data[at + 8:at + 12], "little") if at == behind else at
                if stop % 8 == 0 and FRAME.size <= stop - at <= min(FRAME_BYTES_MAX, end - at) and (
                        MARK.match(data, at) or stop == end or self.frame_at(number, data, stop, limit, self.epochs)):
                    inside = stop
                marks = (mark.start() for mark in MARK.finditer(data, at + 8, limit))
                damaged, at = True, next((mark for mark in marks if mark % 8 == 0), limit)
        if behind < end:
            self.fault("damage", number, behind, end - behind, why)
        if footer_fault and len(data) > end:
            self.fault("damage" if end <= proven else "torn", number, end, len(data) - end, footer_fault)

    def checkpoints(self, number: int, data: bytes, end: int) -> Iterator[Frame]:
        """From the last to the first, wherever they stand."""
        marks = reversed([mark.start() for mark in MARK.finditer(data, SEGMENT_BYTES, end)])
        found = (self.frame_at(number, data, at, end, []) for at in marks if at % 8 == 0)
        return (frame for frame in found if frame and frame.kind == CHECKPOINT)

    def frame_at(self, number: int, data: bytes, at: int, end: int, epochs: Iterable[bytes]) -> Optional[Frame]:
        """What stands at an offset, if it is whole under the seed of one of the epochs or, if the hub's, of none."""
        if at + FRAME.size > end or not MARK.match(data, at):
            return None
        _, crc, size, kind, flags, lane, padding, stream, count, *rest = FRAME.unpack_from(data, at)
        least = FRAME.size + padding + {EPOCH: 40, CHECKPOINT: 40 + 4 * count}.get(kind, 0)
        if size % 8 or not least <= size <= min(FRAME_BYTES_MAX, end - at) or lane > LANE_HUB or (
                lane == LANE_HUB) != (kind >= EPOCH):
            return None
        for epoch in [NO_EPOCH] if lane == LANE_HUB else (e for e in epochs if self.epochs.get(e) is not None):
            if zlib.crc32(memoryview(data)[at + 8:at + size], zlib.crc32(self.identity + epoch)) == crc:
                kept = data[at + FRAME.size:at + size - padding] if kind in (EPOCH, ASSIGN, CHECKPOINT) else b""
                return Frame(number, at, size, kind, lane, self.epochs[epoch], stream, count, *rest, crc, flags, kept)
        return None

    def samples(self) -> Iterator[Dict[str, Any]]:
        """Every sample by epoch and sequence. Frames whose times or indices go back are left out and reported."""
        streams = dict(filter(None, (read_assign(f.payload) for f in self.frames.values() if f.kind == ASSIGN)))
        reached: Dict[Tuple[int, str], Tuple[int, int]] = {}            # next index and last time of epoch and stream
        for (_, _, sequence), frame in sorted(item for item in self.frames.items() if item[1].kind == DATA):
            label, fields = streams.get((frame.epoch, frame.stream), ("", []))
            index, time_ns = reached.get((frame.epoch, label), (0, -1 << 63))
            with open(self.paths[frame.segment], "rb") as file:
                file.seek(frame.offset + FRAME.size)
                payload = file.read(frame.length - FRAME.size)
            try:
                times, rows = read_columns(payload, frame, fields)
                if not index <= frame.first_index < 2**63 - frame.count or sorted(marks := [time_ns, *times]) != marks:
                    raise ValueError("its sample indices or its device times go back, or out of range")
            except (ValueError, LookupError, struct.error) as error:
                self.fault("quarantined", *frame[:3], str(error), stream=label, epoch=frame.epoch, sequence=sequence)
                continue
            reached[frame.epoch, label] = (frame.first_index + frame.count, times[-1] if times else time_ns)
            for seq, (time_ns, row) in enumerate(zip(times, rows), frame.first_index):
                yield {"stream": label, "epoch": frame.epoch, "seq": seq, "device_time_ns": time_ns, "values": row}


def read_header(path: Path, number: Optional[int]) -> Header:
    with open(path, "rb") as file:
        raw = file.read(SEGMENT_BYTES)
    if len(raw) < SEGMENT_BYTES or raw[:8] != b"MAREYLOG" or zlib.crc32(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        session, _, device = ("", "", "", *path.resolve().parts)[-4:-1]         # session=ID/logs/DEVICE/NNNNNN.mlog
        return Header("the header is not whole", ("%s\0%s\0" % (device, session[8:])).encode("utf-8", "replace"))
    _, version, _, _, _, session, device, own, *rest = SEGMENT.unpack_from(raw)
    fault = "" if number in (None, own) else "the header is segment %d's" % own
    fault = fault if version == 1 else "read version %d is not known" % version
    return Header(fault, b"%s\0%s\0" % (device.rstrip(b"\0"), session.rstrip(b"\0")), *rest)


def read_footer(data: bytes) -> Tuple[Optional[int], Set[int], str]:
    """Of a sealed segment: the end of its data, the offsets of its frames if the index is whole, and its fault."""
    trailer = data[-TRAILER_BYTES:]
    if trailer[:8] != b"MAREYEND" or zlib.crc32(trailer[:60]) != int.from_bytes(trailer[60:], "little"):
        return None, set(), ""
    end, _, _, crc = struct.unpack_from("<QQQI", trailer, 8)
    index = data[end:-TRAILER_BYTES]
    if index[:8] != INDEX_MARK or len(index) % ENTRY_BYTES != 8 or zlib.crc32(index) != crc:
        return end, set(), "the index is damaged"
    return end, {struct.unpack_from("<I", index, at)[0] for at in range(8, len(index), ENTRY_BYTES)}, ""


def read_assign(payload: bytes) -> Optional[Tuple[Tuple[int, int], Tuple[str, Fields]]]:
    """(epoch, stream number), (NAME@N, fields); None if it is not of its form."""
    try:
        said = json.loads(payload)
        fields = [(str(f["type"]), f.get("length") and int(f["length"])) for f in said["declaration"]["fields"]]
        label = "%s@%d" % (said["declaration"]["name"], int(said["version"]))
        return (int(said["epoch"]), int(said["stream"])), (label, fields)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def read_columns(payload: bytes, frame: Frame, fields: Fields) -> Tuple[List[int], List[List[Any]]]:
    """The device times and the rows of a data frame; an error where they are not of their form."""
    at, count, regular = 0, frame.count, frame.flags == REGULAR

    def column(letter: str, number: int) -> Tuple[Any, ...]:
        nonlocal at
        start, size = at, struct.calcsize("<" + letter) * number
        at += (size + 7) // 8 * 8                   # each column is filled to a multiple of 8
        if size < 0 or at > len(payload):
            raise ValueError("its payload ends inside a column")
        return struct.unpack_from("<%d%s" % (number, letter), payload, start)

    if not fields or count > SAMPLES_MAX or frame.flags not in (0, REGULAR):
        raise ValueError("its flags or its count are not known" if fields else "no assign frame names its stream")
    numerator, denominator = column("Q", 2) if regular else (0, 1)
    times, columns = list(column("q", 0 if regular else count)), []
    if denominator == 0 or times[:1] not in ([], [frame.first_time_ns]):
        raise ValueError("its times are not of their form")
    for kind, length in fields:
        if kind in ("utf8", "binary"):
            cuts = column("I", count + 1)
            text, = column("s", cuts[-1])
            if cuts[0] != 0 or any(b < a for a, b in zip(cuts, cuts[1:])):
                raise ValueError("its offsets fall")
            parts = [text[a:b] for a, b in zip(cuts, cuts[1:])]
            flat: List[Any] = [part.decode() if kind == "utf8" else part.hex() for part in parts]
        else:
            flat = [[False, True][v] if kind == "bool" else v.hex() if kind in ("f32", "f64") else v
                    for v in column(FIXED[kind], count * (length or 1))]    # an error if a bool is neither
        columns.append([flat[i:i + length] for i in range(0, len(flat), length)] if length else flat)
    if at != len(payload):
        raise ValueError("its payload is longer than its columns")
    times = [frame.first_time_ns + i * numerator // denominator for i in range(count)] if regular else times
    return times, [list(row) for row in zip(*columns)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Reads Marey device logs.")
    parser.add_argument("path", type=Path, help="a session's folder, a log's folder, or one .mlog file")
    parser.add_argument("--frames", action="store_true", help="print the frames (what it does if not told otherwise)")
    parser.add_argument("--samples", action="store_true", help="print the samples")
    args = parser.parse_args()
    session, status = (args.path / "logs").is_dir(), 2
    for folder in sorted((args.path / "logs").iterdir()) if session else [args.path]:
        files = [folder] if folder.is_file() else [f for f in folder.glob("*.mlog") if f.stem.isdecimal()]
        if not files:
            continue
        log = Log({int(f.stem) if f.stem.isdecimal() else 1: f for f in files})
        frames = (dict(zip(Frame._fields[:12], frame)) for frame in log.frames.values())
        wanted = [frames] * (args.frames or not args.samples) + [log.samples()] * args.samples
        for line in itertools.chain(*wanted, log.faults):
            print(json.dumps({"device": folder.name, **line} if session else line))
        status = max(status % 2, int(any(fault["fault"] == "damage" for fault in log.faults)))
    if status == 2:
        print("no device log here: %s" % args.path, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
