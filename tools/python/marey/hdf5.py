"""A published session as one HDF5 file.

Owns: the layout, which `docs/formats.md` describes. Does not own: what is read (`recording`), and how the file is made
(`export`).
"""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .export import CHUNK_BYTES, ROWS, aside, batches
from .recording import COMMON, NotFound, Session, Stream

#: What is said of a channel in numbers.
NUMBERS = ("scale", "offset", "latency_us", "latency_tolerance_us")

TABLES = ("events", "gaps", "channels", "clock_map")


def export(session: Session, out: str | os.PathLike[str]) -> dict[str, int]:
    """Writes the session's newest generation to a new file, and tells how many rows each stream has.

    Raises :class:`FileExistsError` if something stands there, :class:`NotFound` if nothing is published.
    """
    import h5py

    if session.is_live:
        raise NotFound(f"session {session.name} has nothing published yet; `marey compact {session.name}` publishes it")
    before = (session.path / "manifest.json").read_bytes()
    with aside(Path(out)) as name:
        with h5py.File(name, "w") as file:
            _facts(session, file)
            rows = {f"{s.device}/{s.label}": _stream(s, file) for s in session.streams()}
            for table in TABLES:
                _table(session.path / f"{table}.parquet", file.create_group(table))
        if (session.path / "manifest.json").read_bytes() != before:
            raise NotFound(f"session {session.name} was published anew meanwhile; export it again")
    return rows


def _facts(session: Session, file: Any) -> None:
    info = session.info()
    file.attrs["format"] = "marey 1"
    file.attrs["session"] = session.name
    for key in ("state", "generation"):
        file.attrs[key] = info[key]
    for key, value in sorted(info.get("metadata", {}).items()):
        file.attrs[f"metadata.{key}"] = value
    if info.get("anchor"):
        file.attrs["start_utc_ns"] = int(info["anchor"]["utc_ns"])


def _stream(stream: Stream, file: Any) -> int:
    group = file.create_group(f"streams/{stream.label}/{stream.device}")
    group.attrs["device"], group.attrs["stream"] = stream.device, stream.label
    files = stream.files()
    if not files:
        return 0
    schema = stream.schema()
    rows = 0
    for batch in batches(files, schema.names):
        rows += len(batch)
        _append(group, batch)
    for field in schema:
        if field.name in group and field.name not in COMMON:
            for key, value in (field.metadata or {}).items():
                if not key.startswith(b"PARQUET:"):
                    said = value.decode()
                    group[field.name].attrs[key.decode()] = float(said) if key.decode() in NUMBERS else said
    if "time" in group:
        group["time"].attrs["unit"] = "us"
        group["time"].attrs["description"] = "microseconds since 1970-01-01T00:00:00Z on the session's clock"
    return rows


def _append(group: Any, batch: pa.RecordBatch) -> None:
    for name, column in zip(batch.schema.names, batch.columns):
        values, kind = _values(column)
        shape = values.shape[1:]
        if name not in group:
            width = max(1, values.itemsize * int(max(1, values[:1].size)))
            chunk = int(min(ROWS, max(1, CHUNK_BYTES // width)))
            group.create_dataset(name, shape=(0, *shape), maxshape=(None, *shape), dtype=kind, chunks=(chunk, *shape),
                                 compression="gzip", shuffle=values.dtype.kind in "iuf")
        data = group[name]
        data.resize(len(data) + len(values), axis=0)
        data[len(data) - len(values):] = values


def _values(column: pa.Array) -> tuple[Any, Any]:
    """A column as an array of numpy, and the type that it has in the file."""
    import h5py
    import numpy as np

    kind = column.type
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.int64())
    if pa.types.is_fixed_size_list(kind):
        flat = column.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(column), kind.list_size), flat.dtype
    if pa.types.is_string(kind):
        # HDF5 has no null: what was not said is empty. A text of it ends at a NUL, so that its picture stands there.
        texts = np.empty(len(column), dtype=object)
        texts[:] = [(text or "").replace("\0", "\u2400") for text in column.to_pylist()]
        return texts, h5py.string_dtype()
    if pa.types.is_binary(kind):
        blobs = np.empty(len(column), dtype=object)
        for at, blob in enumerate(column.to_pylist()):
            blobs[at] = np.frombuffer(blob, dtype="u1")
        return blobs, h5py.vlen_dtype(np.dtype("u1"))
    values = column.to_numpy(zero_copy_only=False)
    return values, values.dtype


def _table(path: Path, group: Any) -> None:
    file = pq.ParquetFile(path)
    for batch in file.iter_batches(batch_size=ROWS):
        _append(group, batch)
    if file.metadata.num_rows == 0:
        _append(group, pa.RecordBatch.from_pylist([], schema=file.schema_arrow))
