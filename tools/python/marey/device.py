"""A laboratory's own script as a device: samples go into a buffer, and from there into a hub, exactly once.

    with marey.Device("board.bundle", buffer="board.buffer") as board:
        ecg = board.stream("ecg", [marey.Field("mv", "f32", "mV")], rate_hz=250)
        board.wait_recording()
        while board.recording:
            ecg.push(read_sensor())

Nothing but the standard library is needed. A sample counts as captured while the hub records a session that this device takes
part in, also while the network is away. What :meth:`Device.flush` returned True for is synced on the hub's disk.
"""
from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import frames
from .base import DeviceError, Refused, now_ns
from .buffer import Buffer, Epoch
from .frames import Field
from .link import Link

FRAME_S = 0.1
FRAME_SAMPLES_MAX = 1000
WAIT_MAX_S = 5.0

__all__ = ["Device", "DeviceError", "Field", "Refused", "Writer"]


class Device:
    """One device and its connection, which a thread of its own keeps up.

    `bundle` is the folder that `marey device enroll` made. `buffer` is a file that outlives the process; without one the buffer
    is in memory. `buffer_bytes_max` bounds what may wait: samples beyond it are counted as lost, and leave a hole in the index.
    What a session refused is kept beside that (:meth:`kept`), until :meth:`discard`. A buffer belongs to one process at a time.

    After a crash the frames that were left are handed in under their old epoch, whose totals stay unknown; what is captured
    from then on belongs to a new one.
    """

    def __init__(self, bundle: str | os.PathLike[str], *, buffer: str | os.PathLike[str] | None = None,
                 buffer_bytes_max: int = 1 << 30, probe_s: float = 1.0) -> None:
        folder = Path(bundle)
        try:
            said = json.loads((folder / "hub.json").read_text())
            self.name, self.hub_name, addresses = said["device"], said["hub_name"], list(said["addresses"])
        except FileNotFoundError:
            raise DeviceError(f"{folder} is no bundle: there is no hub.json in it; `marey device enroll` makes one") from None
        except (ValueError, KeyError, TypeError) as error:
            raise DeviceError(f"{folder / 'hub.json'} is damaged: {error}") from None
        self._buffer = Buffer(buffer, buffer_bytes_max)
        self._boot = _boot()
        self._old = [epoch for epoch in self._buffer.epochs() if not epoch.refused]  # of processes before this one
        self._given_up: list[Epoch] = []  # refused since this object was made
        self._live: Epoch | None = None
        self._handing_in: list[Epoch] = []
        self._streams: dict[str, Writer] = {}
        self._changed = threading.Condition(threading.RLock())
        self._failed: DeviceError | None = None
        self._closing = self._finished = False
        self._sessions_over: set[str] = set()
        self.acknowledged = 0  #: samples that were told to be durable since this object was made
        self.connections = 0  #: how often a connection came so far that the hub took frames, since this object was made
        self._link = Link(self, folder, addresses, probe_s)
        self._thread = threading.Thread(target=self._run, name=f"marey {self.name}", daemon=True)
        self._thread.start()

    # What a script calls

    @property
    def recording(self) -> str | None:
        """The session that is being recorded, if this device takes part in one. Raises what ended the connection for good."""
        with self._changed:
            self._check()
            return self._live.session if self._live else None

    def stream(self, name: str, fields: Sequence[Field] | Mapping[str, str], *, rate_hz: float | None = None,
               sensor: str | None = None, description: str | None = None, latency_us: float | None = None,
               latency_tolerance_us: float | None = None) -> Writer:
        """Declares a stream. `fields` are :class:`Field`, or names with types. Without a rate it is irregular."""
        listed = [Field(n, t) for n, t in fields.items()] if isinstance(fields, Mapping) else list(fields)
        more = {"sensor": sensor, "description": description, "latency_us": latency_us,
                "latency_tolerance_us": latency_tolerance_us}
        declared = frames.declaration(name, listed, rate_hz, more)
        with self._changed:
            if name in self._streams:
                raise ValueError(f"stream {name!r} is declared already")
            writer = Writer(self, name, listed, declared, rate_hz)
            self._streams[name] = writer
            if self._live:
                writer._declare(self._live)
            return writer

    def event(self, kind: str, text: str | None = None, *, duration_ns: int | None = None, time_ns: int | None = None) -> bool:
        """Marks a moment, now or at a device time; False if nothing is being recorded."""
        said = {k: v for k, v in {"kind": kind, "text": text, "duration_ns": duration_ns}.items() if v is not None}
        with self._changed:
            self._check()
            return self._live is not None and self._add(self._live, frames.EVENT, json.dumps(said).encode(), time_ns)

    def wait_recording(self, timeout: float | None = None) -> str | None:
        """Waits until the hub records a session with this device; its name, None if the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._live is not None or self._failed is not None, timeout)
            return self.recording

    def wait_stopped(self, timeout: float | None = None) -> bool:
        """Waits until nothing is being recorded."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._live is None or self._failed is not None, timeout)
            self._check()
            return done

    def flush(self, timeout: float | None = None) -> bool:
        """Cuts what is pending into frames, and waits until the hub has all of it on disk.

        False if the time is over, or if a session refused some of it: :meth:`kept` says which, and why.
        """
        with self._changed:
            self._check()
            self._cut(force=True)
            done = self._changed.wait_for(lambda: self.pending == 0 or self._failed is not None, timeout)
            self._check()
            return done and not self._was_refused()

    @property
    def pending(self) -> int:
        """Frames that the hub has not acknowledged, and may still take."""
        with self._changed:
            return sum(epoch.waiting for epoch in self._epochs())

    def kept(self) -> dict[str, str]:
        """Sessions that took no more, and why; what they did not take stays in the buffer's file."""
        with self._changed:
            return {epoch.session: epoch.refused for epoch in self._buffer.epochs() if epoch.refused}

    def discard(self, session: str) -> int:
        """Throws away what a session refused for good; how many samples that were.

        Raises ValueError where :meth:`kept` names no such session.
        """
        with self._changed:
            chosen = [epoch for epoch in self._buffer.epochs() if epoch.refused and epoch.session == session]
            if not chosen:
                raise ValueError(f"nothing is kept that session {session!r} refused; kept: {', '.join(self.kept()) or 'nothing'}")
            self._given_up = [epoch for epoch in self._given_up if epoch not in chosen]
            return sum(self._buffer.discard(epoch) for epoch in chosen)

    def close(self, timeout: float | None = 30.0) -> bool:
        """States the totals of what is being recorded, hands everything in, and says goodbye.

        False if the time ran out first: then what is left stays in the buffer's file, and goes out with the next device that is
        opened on it. False as well if a session refused some of it (:meth:`kept`).
        """
        with self._changed:
            if not self._closing:
                self._closing = True
                self._stop(self._live)
            done = self._changed.wait_for(lambda: self._finished, timeout)
        self._link.stop()
        self._thread.join(10)
        self._buffer.close()
        return done and self._failed is None and not self._was_refused()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *what: object) -> None:
        self.close()

    # What the link's thread calls

    def _run(self) -> None:
        wait = 0.1
        try:
            while not self._link.stopped:
                try:
                    self._link.talk()
                    break
                except (OSError, EOFError) as error:
                    wait = 0.1 if self._link.was_opened else min(2 * wait, WAIT_MAX_S)
                    self._link.note(error)
                self._link.rest(wait)
        except DeviceError as error:
            self._failed = error
        except Exception as error:  # a bug here must not look like silence
            self._failed = DeviceError(f"the sender broke: {error!r}")
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def _epochs(self) -> list[Epoch]:
        """Those that are to be open on a connection: the live one first, since there are only so many channels."""
        return [*([self._live] if self._live else []), *self._handing_in, *self._old]

    def _was_refused(self) -> bool:
        return any(epoch.waiting for epoch in self._given_up)

    def _join(self, session: str) -> Epoch | None:
        """The hub asks for a session; a new epoch, unless there is one of this process."""
        with self._changed:
            if self._closing or session in self._sessions_over or self._live:
                return None
            epoch = self._buffer.begin(session, self._boot)
            for writer in self._streams.values():
                writer._declare(epoch)
            self._live = epoch
            self._changed.notify_all()
            return epoch

    def _stop(self, epoch: Epoch | None) -> None:
        """Nothing more is captured for an epoch."""
        with self._changed:
            if epoch is None or epoch is not self._live:
                return
            self._cut(force=True)
            self._live = None
            self._handing_in.append(epoch)
            self._sessions_over.add(epoch.session)
            self._changed.notify_all()

    def _end(self, epoch: Epoch) -> None:
        """States an epoch's totals, once all of its data has been sent."""
        with self._changed:
            for number, of in sorted(epoch.streams.items()):
                said = {"stream": number, "captured": str(of["captured"] + of["lost"]), "next_index": str(of["next_index"]),
                        "frames": str(of["frames"]), "digest": of["digest"]}
                self._add(epoch, frames.END, json.dumps(said).encode(), None, stream=number)
            epoch.ended = True
            self._buffer.keep(epoch)

    def _over(self, epoch: Epoch) -> None:
        """Everything of an epoch that will ever be is durable."""
        with self._changed:
            self._buffer.drop(epoch)
            self._remove(epoch)
            self._changed.notify_all()

    def _give_up(self, epoch: Epoch, why: str) -> None:
        """The hub takes no more of an epoch. What was captured until now is kept with the rest."""
        with self._changed:
            self._stop(epoch)
            self._buffer.refuse(epoch, why)
            self._remove(epoch)
            self._given_up.append(epoch)
            self._changed.notify_all()

    def _remove(self, epoch: Epoch) -> None:
        for among in (self._old, self._handing_in):
            if epoch in among:
                among.remove(epoch)

    def _acked(self, epoch: Epoch, durable: Sequence[int], holes: Sequence[list[tuple[int, int]]] | None = None) -> None:
        """The hub has what is below these sequences, except for what lies in holes. Without a word of them there are none,
        and what was durable before is forgotten."""
        with self._changed:
            with self._buffer.together():
                samples = sum(self._buffer.forget(epoch, lane, durable[lane], holes[lane] if holes else [])
                              for lane in range(len(frames.LANES)) if holes is not None or durable[lane] > epoch.durable[lane])
            self.acknowledged += samples
            self._changed.notify_all()

    def _add(self, epoch: Epoch, kind: int, payload: bytes, time_ns: int | None, *, lane: int = frames.LANE_LIVE,
             stream: int = 0, count: int = 0, index: int = 0) -> bool:
        seed = frames.identity(self.name, epoch.session, bytes.fromhex(epoch.epoch))
        at = now_ns() if time_ns is None else time_ns
        return self._buffer.add(epoch, seed, kind, lane, payload, at, stream=stream, count=count, index=index)

    def _cut(self, force: bool = False) -> None:
        with self._changed:
            try:
                with self._buffer.together():
                    for writer in self._streams.values():
                        writer._cut(force)
            except sqlite3.Error as error:
                self._failed = DeviceError(f"the buffer can't be written, so nothing more is captured: {error}")
                raise self._failed from error

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed


class Writer:
    """Takes the samples of one stream. May be used from any thread."""

    def __init__(self, device: Device, name: str, fields: list[Field], declared: bytes, rate_hz: float | None) -> None:
        self.name, self._device, self._fields, self._declared = name, device, fields, declared
        self._most = FRAME_SAMPLES_MAX if rate_hz is None else int(min(max(rate_hz * FRAME_S, 1), FRAME_SAMPLES_MAX))
        self._times: list[int] = []
        self._values: list[list[Any]] = [[] for _ in fields]
        self._last_ns = -(1 << 63)
        self._began = 0.0
        self.lost = 0  #: samples for which the buffer had no room, since this object was made

    def push(self, *values: Any, time_ns: int | None = None) -> bool:
        """One sample, of now or of a device time.

        False if nothing is being recorded, or where the buffer turned out to be full: what was captured since the last frame is
        then lost, and counted as that (:attr:`lost`). Raises ValueError where the number of values is not that of the fields, the
        time is before the last one, or the sample is longer than a frame may be.
        """
        return self.extend([now_ns() if time_ns is None else time_ns], *([value] for value in values))

    def extend(self, times_ns: Sequence[int], *columns: Sequence[Any]) -> bool:
        """Many samples: their device times in ns (never falling), and for each field as many values."""
        if len(columns) != len(self._fields) or any(len(column) != len(times_ns) for column in columns):
            raise ValueError(f"{self.name} has {len(self._fields)} fields; give each as many values as there are times")
        with self._device._changed:
            self._device._check()
            if self._device._live is None:
                return False
            # Judged before it counts: a value that does not fit must not spoil the frame that others are in.
            frames.check_lengths(self._fields, times_ns, columns)
            times = [self._last_ns, *times_ns]
            if any(a > b for a, b in zip(times, times[1:])):
                raise ValueError(f"{self.name}: device times may not fall (the last one was {self._last_ns} ns)")
            if not times_ns:
                return True
            self._began = self._began or time.monotonic()
            self._last_ns = times_ns[-1]
            self._times += times_ns
            for kept, column in zip(self._values, columns):
                kept += column
            lost = self.lost
            self._device._cut()
            return self.lost == lost

    def _declare(self, epoch: Epoch) -> None:
        number = len(epoch.streams) + 1
        epoch.streams[number] = {"name": self.name, "captured": 0, "lost": 0, "next_index": 0, "frames": 0, "digest": "00" * 32}
        self._device._add(epoch, frames.DECLARE, self._declared, None, stream=number)
        self._last_ns, self._began = -(1 << 63), 0.0
        self._times, self._values = [], [[] for _ in self._fields]

    def _cut(self, force: bool) -> None:
        """Makes frames of what is pending, where they are long or old enough."""
        epoch = self._device._live
        if epoch is None:
            return
        number = next(n for n, of in epoch.streams.items() if of["name"] == self.name)
        while len(self._times) >= self._most or (self._times and (force or time.monotonic() - self._began > FRAME_S)):
            count = min(len(self._times), self._most)
            while True:
                times, columns = self._times[:count], [column[:count] for column in self._values]
                payload = frames.columns(self._fields, times, columns)
                if frames.fits(payload):
                    break
                count = count // 2  # one alone fits, or would not be here
            taken = self._device._add(epoch, frames.DATA, payload, times[0], lane=frames.LANE_DATA, stream=number,
                                      count=count, index=epoch.streams[number]["next_index"])
            # Those for which there was no room were captured all the same.
            epoch.streams[number]["next_index"] += count
            epoch.streams[number]["lost"] += 0 if taken else count
            self.lost += 0 if taken else count
            del self._times[:count]
            for column in self._values:
                del column[:count]
            self._began = time.monotonic() if self._times else 0.0


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    except OSError:
        return "00" * 16
