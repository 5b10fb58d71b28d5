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
    from any thread."""

    def __init__(self, path: str | os.PathLike[str] | None, bytes_max: int) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._base = sqlite3.connect(":memory:" if path is None else Path(path), check_same_thread=False)
        try:
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=FULL")
            self._base.executescript(SCHEMA)
            self.bytes: int = self._base.execute("SELECT coalesce(sum(length(bytes)), 0) FROM frames").fetchone()[0]
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise OSError(f"{path} is no buffer of a device: {error}; what it held can't be read, begin with another file") from None
        self._bytes_max = bytes_max

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is done inside becomes durable by one commit."""
        with self._lock:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._base.commit()

    def epochs(self) -> list[Epoch]:
        with self._lock:
            rows = self._base.execute("SELECT id, session, epoch, said FROM epochs ORDER BY id").fetchall()
        return [Epoch(row, session, epoch, json.loads(said)) for row, session, epoch, said in rows]

    def begin(self, session: str, boot: str) -> Epoch:
        """A new epoch; all its counters stand at 0."""
        said = {"boot": boot, "next": [0, 0], "durable": [0, 0], "streams": {}, "ended": False, "refused": None}
        name = os.urandom(16).hex()
        with self.together():
            row = self._base.execute("INSERT INTO epochs(session, epoch, said) VALUES(?, ?, ?)",
                                     (session, name, json.dumps(said))).lastrowid
        assert row is not None
        return Epoch(row, session, name, said)

    def add(self, epoch: Epoch, seed: int, kind: int, lane: int, payload: bytes, time_ns: int, *, stream: int = 0,
            count: int = 0, index: int = 0) -> bool:
        """Makes the next frame of a lane; False if there is no room."""
        with self._lock:
            sequence = epoch.next[lane]
            made, crc = frames.frame(seed, kind, lane, sequence, payload, time_ns, stream=stream, count=count, index=index)
            if lane == frames.LANE_DATA and self.bytes + len(made) > self._bytes_max:
                return False
            said = json.loads(epoch.said())
            said["next"][lane] += 1
            if kind == frames.DATA:
                of = said["streams"][str(stream)]
                of["captured"], of["frames"] = of["captured"] + count, of["frames"] + 1
                of["digest"] = frames.chained(of["digest"], crc, sequence)
            after = Epoch(epoch.row, epoch.session, epoch.epoch, said)
            with self.together():
                self._base.execute("INSERT INTO frames VALUES(?, ?, ?, ?, ?)", (epoch.row, lane, sequence, count if kind == frames.DATA else 0, made))
                self._keep(after)
            # Only now: what the disk refused was never numbered.
            epoch.next, epoch.streams = after.next, after.streams
            self.bytes += len(made)
            return True

    def keep(self, epoch: Epoch) -> None:
        """Writes what is known of an epoch."""
        with self.together():
            self._keep(epoch)

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
            epoch.durable[lane] = max(epoch.durable[lane], durable)
            samples = 0
            where = "epoch = ? AND lane = ? AND sequence >= ? AND sequence < ?"
            at = 0
            for first, end in [*sorted(holes), (durable, durable)]:
                part = (epoch.row, lane, at, min(first, durable))
                dropped = self._base.execute(f"SELECT coalesce(sum(samples), 0), coalesce(sum(length(bytes)), 0) FROM frames "
                                             f"WHERE {where}", part).fetchone()
                self._base.execute(f"DELETE FROM frames WHERE {where}", part)
                samples, self.bytes, at = samples + dropped[0], self.bytes - dropped[1], max(at, end)
            self._keep(epoch)
            return samples

    def waiting(self, epoch: Epoch) -> int:
        """Frames of an epoch that the hub does not have."""
        with self._lock:
            return int(self._base.execute("SELECT count(*) FROM frames WHERE epoch = ?", (epoch.row,)).fetchone()[0])

    def drop(self, epoch: Epoch) -> None:
        """Removes an epoch of which nothing waits."""
        with self.together():
            self._base.execute("DELETE FROM epochs WHERE id = ? AND NOT EXISTS (SELECT 1 FROM frames WHERE epoch = ?)",
                               (epoch.row, epoch.row))

    def close(self) -> None:
        with self._lock:
            self._base.close()
