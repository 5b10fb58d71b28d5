"""Hubs, sessions and streams as they stand in folders.

Owns: what a researcher asks of a recording. Does not own: the layout, which `format-spec/parquet.md` and
`format-spec/catalog.md` describe. Nothing here writes.
"""
from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import datetime

    from typing import TypeAlias

    import pandas as pd

    from .receipt import Receipt

    #: A point in time; without a zone it is UTC.
    Moment: TypeAlias = str | datetime.datetime | pd.Timestamp

#: Columns that every stream has; what follows them are its channels.
COMMON = ("time", "device_time_ns", "epoch", "time_err_us", "seq")

_STREAM = re.compile(r"stream=([a-z][a-z0-9_]{0,31})@([0-9]+)")
_DEVICE = re.compile(r"device=([A-Za-z][A-Za-z0-9_-]{0,31})")


class NotFound(LookupError):
    """There is no such session, stream or file; the message says what there is."""


def open(path: str | os.PathLike[str]) -> Hub:
    """Opens the folder of a hub, or of one session that was copied out of it.

    Raises :class:`NotFound` where neither is.
    """
    folder = Path(path)
    if (folder / "session.json").is_file():
        return Hub(folder, alone=True)
    if (folder / "sessions").is_dir():
        return Hub(folder)
    raise NotFound(f"{folder} is no hub and no session: there is neither a folder sessions/ nor a session.json in it")


class Hub:
    """A folder of sessions. :attr:`path` is where it stands."""

    def __init__(self, path: Path, *, alone: bool = False) -> None:
        self.path = path
        self._alone = alone

    def sessions(self) -> list[str]:
        """Names of all sessions, sorted."""
        if self._alone:
            return [_said(self.path / "session.json")["session"]]
        folders = (self.path / "sessions").glob("session=*")
        return sorted(f.name.removeprefix("session=") for f in folders if (f / "session.json").is_file())

    def session(self, name: str | None = None) -> Session:
        """A session by its name; without a name the only one."""
        names = self.sessions()
        if name is None and len(names) == 1:
            name = names[0]
        if name not in names:
            which = "no session was named" if name is None else f"there is no session {name!r}"
            raise NotFound(f"{which} in {self.path}; there are: {', '.join(names) or 'none'}")
        return Session(self.path if self._alone else self.path / "sessions" / f"session={name}")

    def __repr__(self) -> str:
        return f"<marey.Hub {self.path} with {len(self.sessions())} sessions>"


class Session:
    """A recording. :attr:`path` is its folder, :attr:`name` its name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name: str = self.info()["session"]

    def info(self) -> dict[str, Any]:
        """What `session.json` says: state, roster, anchor, metadata. Integers beyond 2^53 are strings there."""
        return _said(self.path / "session.json")

    @property
    def is_live(self) -> bool:
        """Whether nothing is published yet, so that rolling parts are read, whose times are provisional."""
        return not (self.path / "streams").is_dir() and not self._receipts()

    def streams(self, name: str | None = None, *, device: str | None = None) -> list[Stream]:
        """All streams, sorted by name, version and device; of this name (`imu` or `imu@1`) and device only, if given."""
        root = self.path / ("live" if self.is_live else "streams")
        found = []
        for folder in root.glob("stream=*@*/device=*"):
            stream, of = _STREAM.fullmatch(folder.parent.name), _DEVICE.fullmatch(folder.name)
            if stream and of:
                found.append(Stream(self, stream[1], int(stream[2]), of[1], folder))
        found.sort(key=lambda s: (s.name, s.version, s.device))
        return [s for s in found if name in (None, s.name, s.label) and device in (None, s.device)]

    def stream(self, name: str, *, device: str | None = None) -> Stream:
        """The one stream that is meant: `imu`, `imu@1`, `phone/imu` or `phone/imu@1`.

        Raises :class:`NotFound` where there is none, or more than one: several devices may have one of the same name, and a
        device whose declaration changed has a second version.
        """
        head, _, tail = name.rpartition("/")
        found = self.streams(tail, device=device or head or None)
        if len(found) == 1:
            return found[0]
        there = ", ".join(f"{s.device}/{s.label}" for s in (found or self.streams())) or "none"
        what = "is more than one stream: say which" if found else "is no stream of this session"
        raise NotFound(f"{name!r} {what}; there are: {there}")

    def devices(self) -> list[str]:
        """Devices of which there is a stream."""
        return sorted({stream.device for stream in self.streams()})

    def gaps(self) -> pd.DataFrame:
        """Ranges of samples that are missing, with their causes: `gaps.parquet`."""
        return self._beside("gaps")

    def events(self) -> pd.DataFrame:
        """Events of devices, notes of the hub and annotations by time: `events.parquet`, also while it is recorded.

        An annotation has the source `person`, its author, and which version of it this is; `seq` is its number. All versions
        stand in `annotations.jsonl`.
        """
        return self._beside("events")

    def channels(self) -> pd.DataFrame:
        """A row for each channel with unit, scale, rate and sensor: `channels.parquet`."""
        return self._beside("channels")

    def clock_map(self) -> pd.DataFrame:
        """The pieces of the clocks' map: `clock_map.parquet`."""
        return self._beside("clock_map")

    def clock_probes(self) -> pd.DataFrame:
        """The evidence that the map rests on: `clock_probes.parquet`."""
        return self._beside("clock_probes")

    def receipt(self, number: int | None = None) -> Receipt:
        """The newest receipt, or the one of a generation."""
        from .receipt import Receipt

        there = self._receipts()
        chosen = [path for path in there if number in (None, _number(path))]
        if not chosen:
            numbers = ", ".join(str(_number(path)) for path in there) or "none: the session is not sealed yet"
            raise NotFound(f"no receipt {'' if number is None else number} in {self.path}; there are: {numbers}")
        return Receipt(chosen[-1])

    def align(self, streams: Sequence[str | Stream], *, hz: float, max_gap: str | float = "200ms",
              method: str | None = None, start: Moment | None = None, end: Moment | None = None) -> pd.DataFrame:
        """Streams on one regular grid: see :func:`marey.align.align`."""
        from .align import align

        def named(s: Stream) -> str:
            alike = sum(not isinstance(other, str) and (other.device, other.name) == (s.device, s.name) for other in streams)
            return f"{s.device}/{s.name if alike == 1 else s.label}"

        chosen = [(s, self.stream(s)) if isinstance(s, str) else (named(s), s) for s in streams]
        return align(chosen, hz=hz, max_gap=max_gap, method=method, start=start, end=end)

    def beside(self, table: str, suffix: str = "parquet") -> Path:
        """Where a table beside the streams stands, such as `events`; while it is recorded there are `events` and `overview`."""
        return (self.path / "live" if self.is_live else self.path) / f"{table}.{suffix}"

    def _receipts(self) -> list[Path]:
        return sorted(self.path.glob("receipt-[0-9]*.json"), key=_number)

    def _beside(self, table: str) -> pd.DataFrame:
        path = self.beside(table)
        if not path.is_file():
            raise NotFound(f"{path} does not exist: a session has it once it is sealed")
        return pq.read_table(path, partitioning=None).to_pandas()

    def __repr__(self) -> str:
        return f"<marey.Session {self.name}: {', '.join(f'{s.device}/{s.label}' for s in self.streams())}>"


class Stream:
    """A series of one device in one session.

    :attr:`name`, :attr:`version` (of its declaration), :attr:`device`, :attr:`session`, :attr:`path` (its folder).
    """

    def __init__(self, session: Session, name: str, version: int, device: str, path: Path) -> None:
        self.session, self.name, self.version, self.device, self.path = session, name, version, device, path

    @property
    def label(self) -> str:
        """`NAME@VERSION`."""
        return f"{self.name}@{self.version}"

    def files(self) -> list[Path]:
        """Its Parquet files, in the order of their generations."""
        return sorted(self.path.glob("*.parquet"))

    def schema(self) -> pa.Schema:
        """Arrow's schema; a field's metadata has unit, scale, offset, sensor."""
        return pq.read_schema(self._some_files()[0])

    def channels(self) -> list[str]:
        """Names of the channels in declared order."""
        return [name for name in self.schema().names if name not in COMMON]

    def units(self) -> dict[str, str]:
        """UCUM code of each channel that has one."""
        return {name: unit for name, unit in ((n, self._of(n, "unit")) for n in self.channels()) if unit}

    @property
    def rows(self) -> int:
        """Samples in Parquet; nothing but the files' ends is read."""
        return sum(pq.read_metadata(path).num_rows for path in self._some_files())

    def table(self, *, columns: Iterable[str] | None = None, start: Moment | None = None,
              end: Moment | None = None) -> pa.Table:
        """The samples as an Arrow table, by (time, epoch, seq).

        `columns` are channels; the columns that every stream has come along. `start` and `end` (half-open, UTC where no
        zone is given) keep the row groups outside from being read.
        """
        names = None if columns is None else [*COMMON, *(c for c in columns if c not in COMMON)]
        unknown = [] if names is None else [n for n in names if n not in self.schema().names]
        if unknown:
            raise NotFound(f"{self.device}/{self.label} has no channel {unknown[0]!r}; it has: {', '.join(self.channels())}")
        filters = [("time", sign, _utc(at)) for sign, at in ((">=", start), ("<", end)) if at is not None] or None
        parts = [pq.read_table(path, columns=names, filters=filters, partitioning=None) for path in self._some_files()]
        whole = pa.concat_tables(parts) if len(parts) > 1 else parts[0]
        if len(parts) > 1:
            whole = whole.sort_by([("time", "ascending"), ("epoch", "ascending"), ("seq", "ascending")])
        return whole

    def df(self, *, columns: Iterable[str] | None = None, start: Moment | None = None, end: Moment | None = None,
           scaled: bool = False) -> pd.DataFrame:
        """The samples as a DataFrame with a DatetimeIndex in UTC, sorted; `df.attrs["units"]` has the units.

        With `scaled` a channel that was declared with scale and offset is `value * scale + offset` in float64; without it
        the numbers are those that the sensor gave. Rows that are missing are not there, and are not made up:
        :meth:`Session.gaps` lists them.
        """
        frame = self.table(columns=columns, start=start, end=end).to_pandas()
        frame.attrs = {"units": {k: v for k, v in self.units().items() if k in frame.columns}}
        if scaled:
            for name in (n for n in self.channels() if n in frame.columns):
                scale, offset = self._of(name, "scale"), self._of(name, "offset")
                if scale or offset:
                    frame[name] = _scaled(frame[name], float(scale or 1), float(offset or 0))
        return frame

    def overview(self, points: int = 2000, *, start: Moment | None = None, end: Moment | None = None) -> pd.DataFrame:
        """At most so many buckets of time with `min`, `max`, `mean` and `count` of each channel of numbers, as stored.

        The index is where a bucket begins, columns are (channel, what), `attrs["width_us"]` is how wide it is; buckets without a
        sample are not there. Made from `overview.parquet`, however long the stream; from the samples of a span that is too short for
        it. Buckets at both ends of a span may reach beyond it.
        """
        from .overview import overview

        return overview(self, points, start, end)

    def statistics(self) -> pd.DataFrame:
        """A row for each channel of numbers: `count`, `min`, `max`, `mean` of the values as stored, from `overview.parquet`.

        `attrs` has `rows`, `rate_hz` between the first sample and the last, `first`, `last`, and `missing`, which is None where
        nobody knows how many were captured.
        """
        from .overview import statistics

        frame = statistics(self)
        frame.attrs = self._facts()
        return frame

    def _facts(self) -> dict[str, Any]:
        import pandas as pd

        of = (self.device, self.label)
        said = _said(self.session.beside("manifest", "json"))["streams"]
        parts = [part for stream in said if (stream["device"], stream["stream"]) == of for part in stream["parts"]]
        rows = sum(int(part["rows"]) for part in parts)
        first = pd.Timestamp(parts[0]["first_time"]) if parts else None
        last = pd.Timestamp(parts[-1]["last_time"]) if parts else None
        lasted = (last - first).total_seconds() if first and last else 0
        counted = [] if self.session.is_live else self.session.receipt().streams()
        missing = [row["missing"] for row in counted if (row["device"], row["stream"]) == of]
        return {"rows": rows, "rate_hz": (rows - 1) / lasted if lasted else None, "first": first, "last": last,
                "missing": missing[0] if missing else None}

    def quantities(self, **how: Any) -> dict[str, Any]:
        """Scaled channels that have a unit as arrays of `pint`, which must be installed. Takes what :meth:`df` takes.

        A channel of lists is one array with a row for each sample.
        """
        from .units import quantity

        frame = self.df(scaled=True, **how)
        return {name: quantity(_array(frame[name], self.schema().field(name).type), unit)
                for name, unit in frame.attrs["units"].items()}

    def gaps(self) -> pd.DataFrame:
        """The rows of :meth:`Session.gaps` that are this stream's."""
        gaps = self.session.gaps()
        return gaps[(gaps["device"] == self.device) & (gaps["stream"] == self.label)]

    def _of(self, channel: str, key: str) -> str | None:
        metadata = self.schema().field(channel).metadata or {}
        value = metadata.get(key.encode())
        return None if value is None else value.decode()

    def _some_files(self) -> list[Path]:
        files = self.files()
        if not files:
            raise NotFound(f"there is no Parquet in {self.path}: the session was published anew; open it again")
        return files

    def __repr__(self) -> str:
        return f"<marey.Stream {self.device}/{self.label}: {', '.join(self.channels())}>"


def _scaled(values: pd.Series, scale: float, offset: float) -> Any:
    if values.dtype != object:
        return values.astype("float64") * scale + offset
    return values.map(lambda each: each.astype("float64") * scale + offset)  # a list for each sample


def _array(values: pd.Series, type_: pa.DataType) -> Any:
    import numpy as np

    if pa.types.is_fixed_size_list(type_):
        return np.array(values.to_list()).reshape(-1, type_.list_size)
    return values.to_numpy()


def _said(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; `marey verify` says more") from None
    if not isinstance(said, dict):
        raise ValueError(f"{path} is damaged: it is no JSON object; `marey verify` says more")
    return said


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _utc(at: Moment) -> Any:
    import pandas as pd

    moment = pd.Timestamp(at)
    return moment.tz_localize("UTC") if moment.tzinfo is None else moment.tz_convert("UTC")
