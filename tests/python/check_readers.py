#!/usr/bin/env python3
"""Opens what Marey wrote with the readers that people use, and compares every value with the device logs.

    check_readers.py SESSION [--hub HUB]    exit 0 and one line of counts, or exit 1 and one sentence
    check_readers.py SESSION --digest       a digest of each stream of each device, as one line of JSON

SESSION is a sealed session's folder, HUB the folder above `sessions/` (found by itself where SESSION lies in one).

What is held against what:
- each file against `manifest.json`: it is named there, and so are its length, its SHA-256 and its rows;
- each file, read by pandas, pyarrow, polars and DuckDB, against the others: types, rows and bits;
- the files of each stream and device against the logs, as `format-spec/reference/read_log.py` reads them: each sample
  that counts stands in Parquet exactly once, with the device's time and values bit for bit, and nothing else does;
- what a person writes first: `read_parquet`, `sort_index`, `merge_asof`, a scan of a folder, a query over all sessions.

The digest of a stream of a device is SHA-256 over its rows in order of (epoch, seq), each as seq and device_time_ns
(i64), then the channels in declared order: numbers as they are (bool one byte, lists element by element), texts and
binaries with their length (u32) before them. Everything is little-endian.
"""
import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from columns import cells, columns_of_arrow, columns_of_pandas
from device_logs import Declared, cells_of_arrow, cells_of_log, read_logs
from mismatch import Mismatch, require

FIXED_COLUMNS = {"time": pa.timestamp("us", "UTC"), "device_time_ns": pa.int64(), "epoch": pa.int32(),
                 "time_err_us": pa.float32(), "seq": pa.int64()}


def main() -> int:
    parser = argparse.ArgumentParser(description="Opens a session with the readers that people use.")
    parser.add_argument("session", type=Path, help="a sealed session's folder")
    parser.add_argument("--hub", type=Path, help="the hub's folder, for queries over all its sessions")
    parser.add_argument("--digest", action="store_true", help="print a digest of each stream of each device")
    args = parser.parse_args()
    try:
        if args.digest:
            print(json.dumps(digests(args.session)))
        else:
            print(check_session(args.session.resolve(), args.hub))
    except Mismatch as mismatch:
        print("check_readers: %s" % mismatch, file=sys.stderr)
        return 1
    return 0


def check_session(session: Path, hub: Optional[Path]) -> str:
    """Everything; gives the line of counts."""
    manifest = read_manifest(session)
    logs = read_logs(session, manifest)
    check_listed(session, manifest)
    rows = 0
    for stream in manifest["streams"]:
        where = "%s of %s" % (stream["stream"], stream["device"])
        declared = logs.declared.get((stream["device"], stream["stream"]))
        require(declared is not None, "%s stands in the manifest, and no log declares it", where)
        parts = [check_part(session, stream, part, declared) for part in stream["parts"]]
        rows += int(stream["rows"])
        if parts:
            check_order(where, parts, int(stream["rows"]))
            check_samples(where, parts, declared, logs.samples.pop((stream["device"], stream["stream"]), []))
            check_map(session, stream, where)
    for (device, name), samples in logs.samples.items():
        require(not samples, "%s of %s has %d samples in its log and no Parquet", name, device, len(samples))
    for table in manifest["tables"] + manifest.get("earlier_maps", []):
        check_table(session, table)
    check_folders(session, manifest)
    check_first_lines(session, manifest)
    asof = check_merge_asof(session, manifest)
    hub = hub or (session.parent.parent if session.parent.name == "sessions" else None)
    sessions = check_hub(hub) if hub else 0
    return ("session %s: %d streams, %d parts, %d rows, equal in pandas, pyarrow, polars, DuckDB and the logs; "
            "%d quarantined frames left out; %d tables; %d rows joined by time; %d session(s) queried"
            % (manifest["session"], len(manifest["streams"]), sum(len(s["parts"]) for s in manifest["streams"]), rows,
               logs.quarantined, len(manifest["tables"]), asof, sessions))


# What the session says of itself


def read_manifest(session: Path) -> Dict[str, Any]:
    path = session / "manifest.json"
    require(path.exists(), "%s is missing: is this a sealed session?", path)
    manifest = json.loads(path.read_text(encoding="utf-8"))
    require(manifest["v"] == 1, "%s has version %s, which is not known here", path, manifest["v"])
    return manifest


def check_listed(session: Path, manifest: Dict[str, Any]) -> None:
    """Nothing stands below `streams/` but what the manifest names, and it is the file that the manifest means."""
    files = [part for stream in manifest["streams"] for part in stream["parts"]]
    named = {part["path"] for part in files}
    found = {path.relative_to(session).as_posix() for path in (session / "streams").rglob("*") if path.is_file()}
    require(found == named, "below streams/ stand %s, the manifest names %s", sorted(found - named) or "too few files",
            sorted(named - found) or "no others")
    for file in files + manifest["tables"]:
        path = session / file["path"]
        require(path.exists(), "%s is missing", file["path"])
        data = path.read_bytes()
        require(len(data) == int(file["bytes"]), "%s has %d bytes, the manifest says %s", file["path"], len(data),
                file["bytes"])
        digest = hashlib.sha256(data).hexdigest()
        require(digest == file["sha256"], "%s has SHA-256 %s, the manifest says %s", file["path"], digest,
                file["sha256"])


# One file in all readers


def check_part(session: Path, stream: Dict[str, Any], part: Dict[str, Any], fields: List[Declared]) -> pa.Table:
    """A part of a stream in every reader; gives pyarrow's table of it."""
    name, path = part["path"], str(session / part["path"])
    require("/stream=%s/device=%s/" % (stream["stream"], stream["device"]) in name, "%s is not of %s and %s", name,
            stream["stream"], stream["device"])
    schema = pq.read_schema(path)
    expected = {**FIXED_COLUMNS, **{field.name: field.kind for field in fields}}
    require(schema.names == list(expected), "%s has the columns %s, not %s", name, schema.names, list(expected))
    for column in schema:
        require(same_type(column.type, expected[column.name]), "%s of %s is %s, not %s", column.name, name, column.type,
                expected[column.name])
        require(not column.nullable, "%s of %s may be null", column.name, name)
    units = {field.name: field.unit for field in fields if field.unit is not None}
    in_metadata = {c.name: c.metadata[b"unit"].decode() for c in schema if c.metadata and b"unit" in c.metadata}
    require(in_metadata == units, "%s has the units %s in its fields, declared were %s", name, in_metadata, units)

    table = pq.ParquetFile(path).read()
    frame = pd.read_parquet(path)
    check_frame(name, frame, units)
    readers = {
        "pyarrow": columns_of_arrow(table),
        "pandas": columns_of_pandas(frame.reset_index()),
        "polars": columns_of_arrow(pl.read_parquet(path).to_arrow()),
        "DuckDB": columns_of_arrow(query("SELECT * FROM read_parquet(?, hive_partitioning = false)", path)),
    }
    for reader, columns in readers.items():
        require(list(columns) == list(expected), "%s finds the columns %s in %s", reader, list(columns), name)
        for column, (rows, kind, values) in columns.items():
            require(rows == int(part["rows"]), "%s finds %d rows in %s, the manifest says %s", reader, rows, name,
                    part["rows"])
            _, arrow_kind, arrow_values = readers["pyarrow"][column]
            require(kind == arrow_kind, "%s of %s is %s in %s, %s in pyarrow", column, name, kind, reader, arrow_kind)
            require(values == arrow_values, "%s of %s differs between %s and pyarrow", column, name, reader)
    check_span(part, frame.index)
    return table


def check_frame(name: str, frame: pd.DataFrame, units: Dict[str, str]) -> None:
    """What `pd.read_parquet(file)` alone gives."""
    index = frame.index
    require(isinstance(index, pd.DatetimeIndex), "pandas gives %s a %s as its index", name, type(index).__name__)
    require(str(index.tz) == "UTC", "pandas gives the index of %s the zone %s", name, index.tz)
    require(index.name == "time", "pandas calls the index of %s %s", name, index.name)
    require(index.is_monotonic_increasing, "the index of %s goes back", name)
    attrs = {"units": units} if units else {}
    require(frame.attrs == attrs, "pandas gives %s the attrs %s, not %s", name, frame.attrs, attrs)
    require(not frame.select_dtypes("integer").isna().any(axis=None), "%s has null integers in pandas", name)


def check_span(part: Dict[str, Any], index: pd.DatetimeIndex) -> None:
    for key, at in (("first_time", 0), ("last_time", -1)):
        found = index[at].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        require(found == part[key], "%s of %s is %s, the manifest says %s", key, part["path"], found, part[key])


def check_table(session: Path, table: Dict[str, Any]) -> None:
    """A table beside the streams: as many rows in every reader, and no integer that is null."""
    name, path = table["path"], str(session / table["path"])
    arrow = pq.ParquetFile(path).read()
    rows = {"pyarrow": arrow.num_rows, "pandas": len(pd.read_parquet(path)), "polars": pl.read_parquet(path).height,
            "DuckDB": query("SELECT * FROM read_parquet(?, hive_partitioning = false)", path).num_rows}
    for reader, found in rows.items():
        require(found == int(table["rows"]), "%s finds %d rows in %s, the manifest says %s", reader, found, name,
                table["rows"])
    for column in arrow.schema:
        null = pa.types.is_integer(column.type) and arrow[column.name].null_count
        require(not null, "%s of %s has null integers", column.name, name)


def same_type(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whatever the element of a list is called."""
    if pa.types.is_fixed_size_list(expected):
        return pa.types.is_fixed_size_list(found) and found.list_size == expected.list_size \
            and found.value_type == expected.value_type and not found.value_field.nullable
    return found == expected


def query(sql: str, *values: Any) -> pa.Table:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    found = connection.sql(sql, params=list(values)).to_arrow_table()
    connection.close()
    return found


# A stream of a device, whole, against its log


def check_order(where: str, parts: List[pa.Table], rows: int) -> None:
    """Rows are sorted by (time, epoch, seq), from part to part too; every bound is a number."""
    columns = [whole(parts, name) for name in ("time", "epoch", "seq")]
    times, epochs, seqs = (column.cast(pa.int64()).to_numpy() for column in columns)
    require(len(times) == rows, "%s has %d rows in its parts, %d in the manifest", where, len(times), rows)
    order = np.lexsort((seqs, epochs, times))
    require(bool((order == np.arange(len(order))).all()), "%s is not sorted by time, epoch, seq", where)
    errors = whole(parts, "time_err_us").to_numpy()
    require(not np.isnan(errors).any() and not (errors < 0).any(), "%s has a time_err_us that is no bound", where)


def check_map(session: Path, stream: Dict[str, Any], where: str) -> None:
    """What docs/time.md shows: device stamps put on session time by clock_map.parquet are the published times, to the
    microsecond that those are rounded to."""
    df = pd.read_parquet(session / "streams" / ("stream=%s" % stream["stream"]) / ("device=%s" % stream["device"]))
    df = df.sort_values("device_time_ns").reset_index()
    maps = pd.read_parquet(session / "clock_map.parquet").query("device == %r" % stream["device"])
    for _, clock in maps.groupby("clock"):
        epochs = {ordinal for part in clock["epochs"].iloc[0].split(",")
                  for ordinal in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)}
        of_clock = df[df["epoch"].isin(epochs)]
        # The three lines of docs/time.md.
        piece = clock.iloc[(clock["device_time_ns"].searchsorted(of_clock["device_time_ns"], "right") - 1).clip(0)]
        since = of_clock["device_time_ns"].to_numpy() - piece["device_time_ns"].to_numpy()
        time_ns = piece["session_time_ns"].to_numpy() + (since * piece["rate"].to_numpy()).round().astype("int64")
        published = of_clock["time"].astype("datetime64[us, UTC]").astype("int64").to_numpy()
        far = np.abs(time_ns // 1000 - published).max(initial=0)
        require(bool(far <= 1), "%s: clock_map.parquet places a row %d us from its published time", where, far)


def whole(parts: List[pa.Table], name: str) -> pa.Array:
    return pa.concat_arrays([chunk for part in parts for chunk in part[name].chunks])


def check_samples(where: str, parts: List[pa.Table], fields: List[Declared], samples: List[Dict[str, Any]]) -> None:
    """Parquet has the log's samples, each once, with the same times and values."""
    samples.sort(key=lambda sample: (sample["epoch"], sample["seq"]))
    table = pa.concat_tables(parts)
    table = table.take(np.lexsort((whole(parts, "seq").to_numpy(), whole(parts, "epoch").to_numpy())))
    found = list(zip(table["epoch"].to_pylist(), table["seq"].to_pylist()))
    expected = [(sample["epoch"], sample["seq"]) for sample in samples]
    for keys, place in ((found, "Parquet"), (expected, "the log")):
        twice = [key for key, after in zip(keys, keys[1:]) if key == after]
        require(not twice, "%s: (epoch, seq) %s stands more than once in %s", where, twice[:1], place)
    lost, strange = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    require(not lost, "%s: %d samples of the log are not in Parquet, first (epoch, seq) %s", where, len(lost), lost[:1])
    require(not strange, "%s: %d samples in Parquet are not in the log, first (epoch, seq) %s", where, len(strange),
            strange[:1])
    times = np.array([sample["device_time_ns"] for sample in samples], dtype=np.int64)
    differing = np.flatnonzero(table["device_time_ns"].to_numpy() != times)
    require(len(differing) == 0, "%s: device_time_ns of %s is not that of the log", where,
            expected[differing[0]] if len(differing) else "")
    for position, field in enumerate(fields):
        logged = cells_of_log(field.kind, [sample["values"][position] for sample in samples])
        stored = cells_of_arrow(table[field.name])
        at = next((row for row, (a, b) in enumerate(zip(stored, logged)) if a != b), None)
        require(at is None, "%s: %s of (epoch, seq) %s is %r, in the log %r", where, field.name,
                *((expected[at], stored[at], logged[at]) if at is not None else ("", "", "")))


# What a person writes first


def check_folders(session: Path, manifest: Dict[str, Any]) -> None:
    """The folder of a stream, with all its devices, in each reader."""
    for name in sorted({stream["stream"] for stream in manifest["streams"] if stream["parts"]}):
        folder = session / "streams" / ("stream=%s" % name)
        expected = {s["device"]: int(s["rows"]) for s in manifest["streams"] if s["stream"] == name and s["parts"]}
        frame = pd.read_parquet(folder).sort_index()
        require(frame.index.is_monotonic_increasing and str(frame.index.tz) == "UTC",
                "pandas reads %s without its times", folder.name)
        arrow = ds.dataset(folder, format="parquet", partitioning="hive").to_table(columns=["device"])["device"]
        sql = "SELECT device FROM read_parquet(?, hive_partitioning = true)"
        duck = query(sql, str(folder / "*" / "*.parquet"))["device"]
        found = {
            "pandas": frame["device"].astype(str).value_counts().to_dict(),
            "polars": devices_in_polars(pl.scan_parquet(folder, hive_partitioning=True)),
            "pyarrow.dataset": pd.Series(arrow.to_pylist(), dtype=object).value_counts().to_dict(),
            "DuckDB": pd.Series(duck.to_pylist(), dtype=object).value_counts().to_dict(),
        }
        for reader, rows in found.items():
            require({device: count for device, count in rows.items() if count} == expected,
                    "%s finds the rows %s in %s, the manifest says %s", reader, rows, folder.name, expected)


def devices_in_polars(scan: pl.LazyFrame) -> Dict[str, int]:
    counts = scan.group_by("device").agg(pl.len().alias("rows")).collect()
    return dict(zip(counts["device"].cast(pl.String).to_list(), counts["rows"].to_list()))


def check_first_lines(session: Path, manifest: Dict[str, Any]) -> None:
    """The lines of pandas that the manifest proposes."""
    for line in manifest["open"]:
        form = re.fullmatch(r"pd\.read_parquet\('([^']+)'\)(\.sort_index\(\))?", line)
        require(form is not None, "the manifest proposes a line of another form: %s", line)
        frame = pd.read_parquet(session / form[1])
        frame = frame.sort_index() if form[2] else frame
        require(len(frame) > 0 and frame.index.is_monotonic_increasing, "%s gives no ordered rows", line)


def check_merge_asof(session: Path, manifest: Dict[str, Any]) -> int:
    """Joins the rows of the largest part with the latest ones of another stream's; gives the rows."""
    parts = [stream["parts"][0] for stream in manifest["streams"] if stream["parts"]]
    names = [part["path"] for part in sorted(parts, key=lambda part: -int(part["rows"]))]
    if len(names) < 2:
        return 0
    left, right = (pd.read_parquet(session / name) for name in names[:2])
    at = np.searchsorted(right.index.to_numpy(), left.index.to_numpy(), side="right") - 1
    expected = np.where(at >= 0, right["seq"].to_numpy()[np.maximum(at, 0)], -1)
    by_index = pd.merge_asof(left, right, left_index=True, right_index=True, suffixes=("", "_other"))
    by_column = pd.merge_asof(left.reset_index(), right.reset_index(), on="time", suffixes=("", "_other"))
    for joined in (by_index, by_column):
        found = joined["seq_other"].fillna(-1).astype(np.int64).to_numpy()
        require(len(joined) == len(left) and bool((found == expected).all()),
                "merge_asof of %s and %s finds other rows than a search by hand", *names[:2])
    return len(left)


def check_hub(hub: Path) -> int:
    """One query over all sessions by a glob, and what it must find; gives how many sessions there are."""
    expected: Dict[Tuple[str, str, str], int] = {}
    manifests = sorted(hub.glob("sessions/*/manifest.json"))
    require(bool(manifests), "%s has no sealed session", hub)
    for path in manifests:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for stream in manifest["streams"]:
            if int(stream["rows"]):
                expected[manifest["session"], stream["stream"], stream["device"]] = int(stream["rows"])
    sql = """SELECT session, stream, device, count(*), count(time), count(DISTINCT (epoch, seq))
             FROM read_parquet(?, hive_partitioning = true, union_by_name = true) GROUP BY ALL"""
    globs = [str(hub / "sessions" / "*" / "streams" / "*" / "*" / "*.parquet")]
    try:
        rows = query(sql, *globs).to_pylist() if expected else []
    except duckdb.Error:                # channels of one name with types that don't unite: a query for each stream
        globs = sorted({str(folder / "*" / "*.parquet") for folder in hub.glob("sessions/*/streams/*")})
        rows = [row for pattern in globs for row in query(sql, pattern).to_pylist()]
    found = {tuple(row.values())[:3]: tuple(row.values())[3:] for row in rows}
    require(found == {key: (count,) * 3 for key, count in expected.items()},
            "DuckDB finds %s (rows, rows with a time, different samples) over all sessions, the manifests say %s",
            found, expected)
    return len(manifests)


# Digests


def digests(session: Path) -> List[Dict[str, Any]]:
    return [{"device": stream["device"], "stream": stream["stream"], **digest(session, stream["parts"])}
            for stream in read_manifest(session)["streams"]]


def digest(session: Path, parts: List[Dict[str, Any]]) -> Dict[str, Any]:
    tables = [pq.ParquetFile(session / part["path"]).read() for part in parts]
    if not tables:
        return {"rows": 0, "sha256": hashlib.sha256().hexdigest()}
    table = pa.concat_tables(tables)
    table = table.take(np.lexsort((table["seq"].to_numpy(), table["epoch"].to_numpy())))
    channels = [name for name in table.column_names if name not in FIXED_COLUMNS]
    columns = [cells(table[name]) for name in ["seq", "device_time_ns", *channels]]
    sha = hashlib.sha256()
    for row in zip(*columns):
        sha.update(b"".join(row))
    return {"rows": table.num_rows, "sha256": sha.hexdigest()}


if __name__ == "__main__":
    sys.exit(main())
