"""What a device must keep: the frames that are not durable on the hub, and where the counters of each epoch stand.

SQLite is the file, since it is in the standard library and keeps what it said that it kept. A frame and the counters after it
go in by one transaction, so that no crash can number two frames alike.
"""
from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import frames

SCHEMA = """
CREATE TABLE IF NOT EXISTS epochs(id INTEGER PRIMARY KEY, session TEXT NOT NULL, epoch TEXT NOT NULL UNIQUE, said TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS frames(epoch INTEGER NOT NULL, lane INTEGER NOT NULL, sequence INTEGER NOT NULL,
  samples INTEGER NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY(epoch, lane, sequence)) WITHOUT ROWID;
"""


class Epoch:
    """One life of the counters in one session. Its frames are in the buffer; what is here is small."""

    def __init__(self, row: int, session: str, epoch: str, said: dict[str, Any]) -> None:
        self.row, self.session, self.epoch = row, session, epoch
        #: Frames that the hub does not have, and their bytes.
        self.waiting = self.bytes = 0
        self.take(said)

    def take(self, said: dict[str, Any]) -> None:
        """The counters as they were written."""
        self.boot: str = said["boot"]
        self.next: list[int] = said["next"]
        self.durable: list[int] = said["durable"]
        #: By stream number: name, declaration, captured, next_index, frames, digest.
        self.streams: dict[int, dict[str, Any]] = {int(k): v for k, v in said["streams"].items()}
        self.ended: bool = said["ended"]
        #: Why the hub takes no more of it, if it does not.
        self.refused: str | None = said["refused"]

    def said(self) -> str:
        keys = ("boot", "next", "durable", "streams", "ended", "refused")
        return json.dumps({key: getattr(self, key) for key in keys})


class Buffer:
    """All epochs and frames. Every method is one transaction, unless it is called :meth:`together` with others, and may be called
    from any thread. What a transaction that fails had changed is as it was, on the disk and in memory."""

    def __init__(self, path: str | os.PathLike[str] | None, bytes_max: int) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._epochs: dict[int, Epoch] = {}
        #: What the transaction changes, as it was: what was said, frames, bytes.
        self._before: dict[int, tuple[str, int, int]] = {}
        self.bytes = 0  #: of what is to go to the hub; what a session refused does not count
        self._base = sqlite3.connect(":memory:" if path is None else Path(path), check_same_thread=False)
        try:
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=FULL")
            self._base.executescript(SCHEMA)
            for row, session, epoch, said in self._base.execute("SELECT id, session, epoch, said FROM epochs ORDER BY id"):
                self._epochs[row] = Epoch(row, session, epoch, json.loads(said))
            counts = "SELECT epoch, count(*), sum(length(bytes)) FROM frames GROUP BY epoch"
            for row, waiting, bytes_ in self._base.execute(counts).fetchall():
                self._count(self._epochs[row], waiting, bytes_)
        except (sqlite3.DatabaseError, ValueError, KeyError, TypeError) as error:
            self._base.close()
            raise OSError(f"{path} is no buffer of a device: {error}; what it held can't be read, begin with another file") from None
        self._bytes_max = bytes_max

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is done inside becomes durable by one commit, all of it or nothing."""
        with self._lock:
            bytes_ = self.bytes
            self._depth += 1
            try:
                yield
                if self._depth == 1:
                    self._base.commit()
            except BaseException:
                if self._depth == 1:
                    self._base.rollback()
                    self.bytes = bytes_
                    for row, (said, waiting, held) in self._before.items():
                        epoch = self._epochs[row]
                        epoch.take(json.loads(said))
                        epoch.waiting, epoch.bytes = waiting, held
                raise
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._before.clear()

    def epochs(self) -> list[Epoch]:
        with self._lock:
            return list(self._epochs.values())

    def begin(self, session: str, boot: str) -> Epoch:
        """A new epoch; all its counters stand at 0."""
        said = {"boot": boot, "next": [0, 0], "durable": [0, 0], "streams": {}, "ended": False, "refused": None}
        name = os.urandom(16).hex()
        with self.together():
            row = self._base.execute("INSERT INTO epochs(session, epoch, said) VALUES(?, ?, ?)",
                                     (session, name, json.dumps(said))).lastrowid
        assert row is not None
        epoch = self._epochs[row] = Epoch(row, session, name, said)
        return epoch

    def add(self, epoch: Epoch, seed: int, kind: int, lane: int, payload: bytes, time_ns: int, *, stream: int = 0,
            count: int = 0, index: int = 0) -> bool:
        """Makes the next frame of a lane; False if there is no room."""
        with self.together():
            sequence = epoch.next[lane]
            made, crc = frames.frame(seed, kind, lane, sequence, payload, time_ns, stream=stream, count=count, index=index)
            if lane == frames.LANE_DATA and self.bytes + len(made) > self._bytes_max:
                return False
            self._change(epoch)
            epoch.next[lane] += 1
            if kind == frames.DATA:
                of = epoch.streams[stream]
                of["captured"], of["frames"] = of["captured"] + count, of["frames"] + 1
                of["digest"] = frames.chained(of["digest"], crc, sequence)
            samples = count if kind == frames.DATA else 0
            self._base.execute("INSERT INTO frames VALUES(?, ?, ?, ?, ?)", (epoch.row, lane, sequence, samples, made))
            self._keep(epoch)
            self._count(epoch, 1, len(made))
            return True

    def keep(self, epoch: Epoch) -> None:
        """Writes what is known of an epoch."""
        with self.together():
            self._keep(epoch)

    def refuse(self, epoch: Epoch, why: str) -> None:
        """The hub takes no more of an epoch: what waits stays, and takes nobody's room."""
        with self.together():
            self._change(epoch)
            self.bytes -= epoch.bytes
            epoch.refused = why
            self._keep(epoch)

    def _change(self, epoch: Epoch) -> None:
        self._before.setdefault(epoch.row, (epoch.said(), epoch.waiting, epoch.bytes))

    def _count(self, epoch: Epoch, frames_: int, bytes_: int) -> None:
        epoch.waiting, epoch.bytes = epoch.waiting + frames_, epoch.bytes + bytes_
        self.bytes += 0 if epoch.refused else bytes_

    def _keep(self, epoch: Epoch) -> None:
        self._base.execute("UPDATE epochs SET said = ? WHERE id = ?", (epoch.said(), epoch.row))

    def after(self, epoch: Epoch, lane: int, sequence: int, limit: int) -> list[tuple[int, int, bytes]]:
        """The next frames of a lane from a sequence on: sequence, samples, bytes."""
        with self._lock:
            return self._base.execute(
                "SELECT sequence, samples, bytes FROM frames WHERE epoch = ? AND lane = ? AND sequence >= ? "
                "ORDER BY sequence LIMIT ?", (epoch.row, lane, sequence, limit)).fetchall()

    def forget(self, epoch: Epoch, lane: int, durable: int, holes: list[tuple[int, int]]) -> int:
        """Drops what is durable and in no hole; how many samples that were."""
        with self.together():
            self._change(epoch)
            epoch.durable[lane] = max(epoch.durable[lane], durable)
            samples = 0
            where = "epoch = ? AND lane = ? AND sequence >= ? AND sequence < ?"
            at = 0
            for first, end in [*sorted(holes), (durable, durable)]:
                part = (epoch.row, lane, at, min(first, durable))
                sums = "count(*), coalesce(sum(samples), 0), coalesce(sum(length(bytes)), 0)"
                count, of, bytes_ = self._base.execute(f"SELECT {sums} FROM frames WHERE {where}", part).fetchone()
                self._base.execute(f"DELETE FROM frames WHERE {where}", part)
                self._count(epoch, -count, -bytes_)
                samples, at = samples + of, max(at, end)
            self._keep(epoch)
            return samples

    def below(self, epoch: Epoch, lane: int, sequence: int) -> tuple[int, int] | None:
        """First and last of the frames of a lane that are held below a sequence."""
        with self._lock:
            first, last = self._base.execute("SELECT min(sequence), max(sequence) FROM frames WHERE epoch = ? AND lane = ? "
                                             "AND sequence < ?", (epoch.row, lane, sequence)).fetchone()
            return None if first is None else (first, last)

    def drop(self, epoch: Epoch) -> None:
        """Removes an epoch of which nothing waits."""
        if not epoch.waiting:
            self.discard(epoch)

    def discard(self, epoch: Epoch) -> int:
        """Removes an epoch with all that waits of it; how many samples that were."""
        with self.together():
            sum_ = "SELECT coalesce(sum(samples), 0) FROM frames WHERE epoch = ?"
            [samples] = self._base.execute(sum_, (epoch.row,)).fetchone()
            self._base.execute("DELETE FROM frames WHERE epoch = ?", (epoch.row,))
            self._base.execute("DELETE FROM epochs WHERE id = ?", (epoch.row,))
            self._change(epoch)
            self._count(epoch, -epoch.waiting, -epoch.bytes)
        del self._epochs[epoch.row]
        return int(samples)

    def close(self) -> None:
        with self._lock:
            self._base.close()
