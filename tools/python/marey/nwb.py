"""A published session as one NWB file (Neurodata Without Borders), written with pynwb.

Owns: what of a recording stands where in the file, which `docs/nwb.md` describes. Does not own: what is read (`recording`), and
NWB's own layout (pynwb). pynwb makes each dataset with its size and nothing in it; the rows follow, a batch at a time.
"""
from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .export import CHUNK_BYTES, ROWS, aside, batches
from .recording import COMMON, NotFound, Session, Stream

#: Who took part, by the first of these that the metadata have.
SUBJECT = ("participant_id", "participant", "subject_id", "subject")
#: Metadata that NWB has a field of the same name for.
GENERAL = ("experiment_description", "institution", "lab", "protocol")
OF_SUBJECT = ("age", "sex", "species", "strain", "genotype")

COLUMNS = {
    "time": "Moment on the session's clock, in seconds from the session's start.",
    "until": "Time of the first sample after the gap, in seconds from the session's start.",
    "duration_s": "How long it lasted, in seconds; NaN for a moment.",
    "device": "The device; empty: none.",
    "stream": "The stream and its version; empty: none.",
    "source": "Who says so: the device, the hub, or a person.",
    "epoch": "Which life of the device's counters, counted in the device's log; -1: none.",
    "seq": "Its number among the events of its source.",
    "stamp_ns": "The stamp of its source's own clock, in nanoseconds.",
    "kind": "What kind of event it is.",
    "text": "What it says.",
    "author": "Who remarked it; empty: no person did.",
    "version": "How often the remark was written, 1 unless it was corrected; 0: it is none.",
    "time_err_us": "Half-width of the interval around the time that holds the truth, in microseconds.",
    "first_seq": "Index of the first sample that is missing.",
    "last_seq": "Index of the last sample that is missing.",
    "samples": "How many samples are missing.",
    "cause": "Why they are missing.",
    "position": "The channel's place among those of its stream, from 0.",
    "channel": "The channel's name.",
    "type": "The type that the device declared.",
    "length": "Elements of a list; 0: no list.",
    "unit": "UCUM code; empty: none was declared.",
    "scale": "What to multiply a stored value with.",
    "offset": "What to add then.",
    "rate_hz": "Declared samples a second; NaN: irregular.",
    "latency_us": "What the sensor is declared to lag behind, in microseconds; it is not in the times.",
    "latency_tolerance_us": "How far that may be off, in microseconds.",
    "sensor": "What measured it.",
    "about": "What the device says of the channel.",
    "clock": "Which clock of the device.",
    "epochs": "Which epochs were stamped by it.",
    "segment": "Counts standstills and jumps of the clock.",
    "device_time_ns": "Device time at which the piece begins, in nanoseconds.",
    "session_time_ns": "Session time there, in nanoseconds since 1970-01-01T00:00:00Z.",
    "rate": "Session nanoseconds for each of the device, until the next piece.",
    "err_us": "Half-width of the interval there, in microseconds.",
    "detectable_us": "The standstill that the evidence could not have missed, in microseconds.",
}
#: A table's columns that are called otherwise in NWB; what NWB calls `description` is the table's own.
TO_EVENTS = {"time": "timestamp", "duration_s": "duration"}
TO_INTERVALS = {"time": "start_time", "until": "stop_time"}
TO_TABLE = {"description": "about"}


def export(session: Session, out: str | os.PathLike[str]) -> dict[str, int]:
    """Writes the session's newest generation to a new file, and tells how many rows each stream has.

    Raises :class:`FileExistsError` if something stands there, :class:`NotFound` if nothing is published.
    """
    try:
        import h5py
        import pynwb.event
        from pynwb import NWBHDF5IO
    except ImportError:
        raise ModuleNotFoundError("an NWB file is written with pynwb 4.2 or later: pip install 'pynwb>=4.2'") from None
    if session.is_live:
        raise NotFound(f"session {session.name} has nothing published yet; `marey compact {session.name}` publishes it")
    before = (session.path / "manifest.json").read_bytes()
    with aside(Path(out)) as name:
        plan = _Plan(session, before)
        # Chunks are written whole, so that a dataset needs no more of a cache than one; HDF5 would keep 8 MiB for each, and a session
        # may have hundreds.
        cache = max((filling.chunk_bytes for filling in plan.fillings), default=CHUNK_BYTES)
        with h5py.File(name, "w", rdcc_nbytes=cache) as raw, NWBHDF5IO(file=raw, mode="w") as io:
            io.write(plan.file)
            for filling in plan.fillings:
                filling.fill()
        if (session.path / "manifest.json").read_bytes() != before:
            raise NotFound(f"session {session.name} was published anew meanwhile; export it again")
    return plan.rows


@dataclass
class _Filling:
    """Datasets of as many rows, and the files whose rows go there."""

    files: list[Path]
    #: Reads nothing of other columns.
    columns: list[str]
    rows: int
    #: Of a table, its columns in order.
    names: list[str] = field(default_factory=list)
    #: What reads the files, if not :func:`batches`.
    read: Callable[[Path], Iterator[pa.RecordBatch]] | None = None
    into: list[tuple[Any, Callable[[pa.RecordBatch], Any]]] = field(default_factory=list)
    #: Of the largest chunk.
    chunk_bytes: int = 0

    def data(self, dtype: Any, shape: tuple[int, ...], values: Callable[[pa.RecordBatch], Any]) -> Any:
        """A dataset, empty until :meth:`fill`."""
        from hdmf.backends.hdf5 import H5DataIO

        dtype = np.dtype(dtype)
        width = int(dtype.itemsize * np.prod(shape, dtype=np.int64))
        # A power of two divides a batch, so that no chunk is packed twice.
        chunk = 1 << (min(ROWS, max(1, CHUNK_BYTES // max(1, width))).bit_length() - 1)
        self.chunk_bytes = max(self.chunk_bytes, chunk * width)
        data = H5DataIO(shape=(self.rows, *shape), maxshape=(None, *shape), dtype=dtype, chunks=(min(chunk, max(1, self.rows)), *shape),
                        compression="gzip", shuffle=dtype.kind in "iuf")
        self.into.append((data, values))
        return data

    def fill(self) -> None:
        import h5py

        if self.names:
            # hdmf takes a table whose columns are still empty for one without columns.
            self.into[0][0].dataset.parent.attrs.create("colnames", self.names, dtype=h5py.string_dtype())
        at = 0
        for batch in batches(self.files, self.columns) if self.read is None else self.read(self.files[0]):
            for data, values in self.into:
                data.dataset[at:at + len(batch)] = values(batch)
            at += len(batch)
        if at != self.rows:
            raise ValueError(f"{self.files[0].parent} has {at} rows, its files say {self.rows}: `marey verify` says more")


class _Plan:
    """The file as pynwb has it before a row is read, and what is to be filled in."""

    def __init__(self, session: Session, manifest: bytes) -> None:
        from pynwb import NWBFile
        from pynwb.file import Subject

        self.session, self.fillings, self.rows = session, list[_Filling](), dict[str, int]()
        info, said = session.info(), json.loads(manifest)
        if not info.get("anchor"):
            raise ValueError(f"{session.path / 'session.json'} has no anchor, which says when the session began: it was never started")
        self.start_ns = int(info["anchor"]["utc_ns"]) // 1000 * 1000
        metadata: dict[str, str] = info.get("metadata", {})
        general: dict[str, Any] = {key: metadata[key] for key in GENERAL if metadata.get(key)}
        if metadata.get("experimenter"):
            general["experimenter"] = [name.strip() for name in metadata["experimenter"].split(";")]
        if metadata.get("keywords"):
            general["keywords"] = [word.strip() for word in metadata["keywords"].split(",")]
        start = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(microseconds=self.start_ns // 1000)
        self.file = NWBFile(
            session_description=metadata.get("description") or f"Recording {session.name}, made with Marey",
            identifier=f"{session.name}-g{said['generation']}-{hashlib.sha256(manifest).hexdigest()}", session_id=session.name,
            session_start_time=start, notes=json.dumps(self._notes(info, said["generation"]), sort_keys=True), **general)
        if subject := next((metadata[key] for key in SUBJECT if metadata.get(key)), None):
            self.file.subject = Subject(subject_id=subject, **{key: metadata[key] for key in OF_SUBJECT if metadata.get(key)})
        for name in session.devices():
            self.file.create_device(name=name, description="; ".join(self._sensors(name)) or "a device of the session")
        parts = {(s["stream"], s["device"]): [session.path / part["path"] for part in s["parts"]] for s in said["streams"]}
        for stream in session.streams():
            self._stream(stream, parts.get((stream.label, stream.device), []), info)
        self._tables()

    def _notes(self, info: dict[str, Any], generation: int) -> dict[str, Any]:
        """What NWB has no field for."""
        receipt = self.session.receipt()
        return {"made_of": "a recording of Marey", "session": self.session.name, "generation": generation,
                "state": info.get("state"), "metadata": info.get("metadata", {}), "anchor": info["anchor"],
                "max_drift_ppm": info.get("max_drift_ppm"),
                "receipt": {"file": receipt.path.name, "sha256": receipt.sha256, "complete": receipt.complete}}

    def _sensors(self, device: str) -> list[str]:
        """What the streams of a device say of their sensors, each once."""
        said = [_metadata(column).get("sensor") for stream in self.session.streams(device=device) for column in stream.schema()]
        return list(dict.fromkeys(sensor for sensor in said if sensor))

    def _stream(self, stream: Stream, files: list[Path], info: dict[str, Any]) -> None:
        from pynwb import TimeSeries
        from pynwb.behavior import BehavioralTimeSeries

        rows = sum(pq.read_metadata(path).num_rows for path in files)
        self.rows[f"{stream.device}/{stream.label}"] = rows
        if not rows:
            return
        schema = pq.read_schema(files[0])
        filling = _Filling(files, schema.names, rows)
        series = BehavioralTimeSeries(name=f"{stream.label}.{stream.device}")
        # Every series of the stream has the timestamps of the first, by a link.
        times: Any = filling.data("f8", (), self._seconds("time"))
        for name, columns in [*_channels(schema), *((name, [name]) for name in COMMON[1:])]:
            one = schema.field(columns[0])
            dtype, shape = _stored(one.type)
            shape = shape if len(columns) == 1 else (len(columns),)
            data = filling.data(dtype, shape, _values(columns))
            how = _own(one, info) if one.name in COMMON else _declared(one, columns)
            made = TimeSeries(name=name, data=data, timestamps=times, **how)
            times = times if isinstance(times, TimeSeries) else made
            series.add_timeseries(made)
        self.file.add_acquisition(series)
        self.fillings.append(filling)

    def _tables(self) -> None:
        from hdmf.common import DynamicTable
        from pynwb.epoch import TimeIntervals
        from pynwb.event import EventsTable

        def table(name: str, kind: Any, described: str, names: dict[str, str], add: Callable[[Any], Any]) -> None:
            if made := self._table(name, kind, described, names):
                add(made)

        table("events", EventsTable, "What devices and hub said while it was recorded, and what people remarked on it, on the session's clock.", TO_EVENTS,
              self.file.add_events_table)
        table("gaps", TimeIntervals, "Samples that are missing: from the time of the last one before to that of the first one after.",
              TO_INTERVALS, self.file.add_time_intervals)

        module: list[Any] = []
        table("channels", DynamicTable, "What the devices declared of each channel.", TO_TABLE, module.append)
        table("clock_map", DynamicTable, "How device time was put on the session's clock: session_time_ns + (device time - "
              "device_time_ns) * rate.", TO_TABLE, module.append)
        if module:
            self.file.create_processing_module("misc", "What the recording says of its channels and clocks.", module)

    def _table(self, name: str, kind: Any, described: str, names: dict[str, str]) -> Any:
        """One of the tables beside the streams; None where it has no row."""
        from hdmf.common import VectorData
        from pynwb.event import DurationVectorData, TimestampVectorData

        path = self.session.path / f"{name}.parquet"
        schema, rows = pq.read_schema(path), pq.read_metadata(path).num_rows
        if not rows:
            return None
        filling, columns = _Filling([path], schema.names, rows, read=_gaps if name == "gaps" else None), []
        for column in schema:
            called = names.get(column.name, column.name)
            is_time = pa.types.is_timestamp(column.type)
            dtype, shape = ("f8", ()) if is_time else _stored(column.type)
            data = filling.data(dtype, shape, self._seconds(column.name) if is_time else _values([column.name]))
            of = {"timestamp": TimestampVectorData, "duration": DurationVectorData}.get(called, VectorData)
            columns.append(of(name=called, description=COLUMNS.get(called) or COLUMNS[column.name], data=data))
        filling.names = [column.name for column in columns]
        self.fillings.append(filling)
        return kind(name=name, description=described, columns=columns, colnames=filling.names, id=_ids(rows))

    def _seconds(self, column: str) -> Callable[[pa.RecordBatch], Any]:
        """Whole microseconds as seconds from the session's start: as doubles they name each microsecond of 285 years."""
        start_us = self.start_ns // 1000

        def values(batch: pa.RecordBatch) -> Any:
            # A null, of a gap whose time nobody knows, is NaN.
            return (batch.column(column).cast(pa.int64()).to_numpy(zero_copy_only=False) - start_us) / 1e6

        return values


def _channels(schema: pa.Schema) -> list[tuple[str, list[str]]]:
    """The channels in declared order, each a series of its own; `acc_x`, `acc_y`, `acc_z` of one kind are the series `acc`."""
    names = [name for name in schema.names if name not in COMMON]

    def alike(group: Sequence[str]) -> bool:
        kinds = {(schema.field(n).type, tuple(sorted(_metadata(schema.field(n)).items()))) for n in group}
        return len(kinds) == 1 and _stored(schema.field(group[0]).type)[0] != "b1" and _is_number(schema.field(group[0]).type)

    out, at = list[tuple[str, list[str]]](), 0
    while at < len(names):
        head, group = names[at][:-2], names[at:at + 3]
        if head and head not in names and group == [f"{head}_{axis}" for axis in "xyz"] and alike(group):
            out.append((head, group))
            at += 3
        else:
            out.append((names[at], [names[at]]))
            at += 1
    return out


def _declared(column: pa.Field, columns: list[str]) -> dict[str, Any]:
    """What a series of a channel says of itself: `data * conversion + offset` is the value in `unit`."""
    said = _metadata(column)
    about = said.get("description") or f"Channel {column.name} as the device sent it."
    if len(columns) > 1:
        about = f"Columns {', '.join(columns)}. " + (said.get("description") or "As the device sent them.")
    if pa.types.is_binary(column.type):
        about += " Bytes, in hexadecimal."
    comments = {key: said[key] for key in ("sensor", "latency_us", "latency_tolerance_us") if key in said}
    is_number = _is_number(column.type) or pa.types.is_fixed_size_list(column.type)
    return {"unit": said.get("unit") or ("not declared" if is_number else "n/a"), "conversion": float(said.get("scale") or 1),
            "offset": float(said.get("offset") or 0), "description": about,
            "comments": "; ".join(f"{key}: {value}" for key, value in comments.items()) or "no comments"}


def _own(column: pa.Field, info: dict[str, Any]) -> dict[str, Any]:
    """The same of the columns that every stream has."""
    said: dict[str, dict[str, Any]] = {
        "time_err_us": {"unit": "seconds", "conversion": 1e-6, "description":
                        "Half-width of the interval around each timestamp that holds the true time on the session's clock, in "
                        "microseconds; infinite: one side is unknown. It holds where the device's clock keeps its rate within "
                        f"{info.get('max_drift_ppm')} ppm and neither stops nor jumps unseen. It does not bound the sensor's latency."},
        "device_time_ns": {"unit": "seconds", "conversion": 1e-9, "description": "The device's own stamp, in nanoseconds of its clock."},
        "epoch": {"unit": "1", "description": "Which life of the device's counters and clock, counted in the device's log."},
        "seq": {"unit": "1", "description": "Index of the sample within its epoch; where it leaps, samples are missing."},
    }
    return said[column.name]


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _stored(kind: pa.DataType) -> tuple[Any, tuple[int, ...]]:
    """The type of a column in the file, and the shape of a value."""
    import h5py

    if pa.types.is_fixed_size_list(kind):
        return _stored(kind.value_type)[0], (kind.list_size,)
    if pa.types.is_boolean(kind):
        return np.dtype("b1"), ()
    if _is_number(kind):
        return np.dtype(kind.to_pandas_dtype()), ()
    return h5py.string_dtype(), ()


def _values(columns: list[str]) -> Callable[[pa.RecordBatch], Any]:
    def values(batch: pa.RecordBatch) -> Any:
        arrays = [_array(batch.column(name)) for name in columns]
        return arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=1)

    return values


def _array(column: pa.Array) -> Any:
    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), kind.list_size)
    if pa.types.is_boolean(kind) or _is_number(kind):
        return column.to_numpy(zero_copy_only=False)
    # HDF5 has no null: what was not said is empty.
    cells = [cell.hex() if isinstance(cell, bytes) else cell or "" for cell in column.to_pylist()]
    return np.array(cells, dtype=object)


def _gaps(path: Path) -> Iterator[pa.RecordBatch]:
    """The gaps in order of time, which takes memory for all of them. Those whose stream nothing came of have no time (1970, and no
    bound, in Parquet), and come last."""
    table = pq.read_table(path, partitioning=None)
    unknown = pc.and_(pc.equal(table["time"].cast(pa.int64()), 0), pc.is_inf(table["time_err_us"]))
    for name in ("time", "until"):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, pc.if_else(unknown, pa.scalar(None, table[name].type), table[name]))
    yield from table.sort_by("time").combine_chunks().to_batches(max_chunksize=ROWS)


def _ids(rows: int) -> Any:
    from hdmf.common import ElementIdentifiers

    return ElementIdentifiers(name="id", data=np.arange(rows))


def _metadata(column: pa.Field) -> dict[str, str]:
    return {k.decode(): v.decode() for k, v in (column.metadata or {}).items() if not k.startswith(b"PARQUET:")}
