"""What was said of a session, as people find it: SESSION EVENTS WANTED. In EVENTS, a Parquet file, stand exactly the annotations of
WANTED, each as the hub answered when it was made, and at least its other rows (source, kind, text). The Python package gives the
same for SESSION."""
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools/python"))
import marey

folder, file, wanted = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
table = pq.read_table(file)
for field, column in zip(table.schema, table.columns):
    assert not pa.types.is_integer(field.type) or column.null_count == 0, field
frame = pd.read_parquet(file)
assert str(frame.index.tz) == "UTC" and frame.index.name == "time" and frame.index.is_monotonic_increasing
assert all(str(kind) in ("int32", "int64") for name, kind in frame.dtypes.items() if name in ("epoch", "seq", "stamp_ns", "version"))

people = frame[frame["source"] == "person"]
expected = sorted(wanted["annotations"], key=lambda said: (int(said["time_ns"]) // 1000, said.get("device") or "", said.get("corrects") or said["n"]))
assert len(people) == len(expected), people.to_string()
for (time, row), said in zip(people.iterrows(), expected):
    ns = int(said["time_ns"])
    assert time == pd.Timestamp(ns // 1000, unit="us", tz="UTC") and row["stamp_ns"] == ns, (row, said)
    for column, value in {"device": said.get("device") or "", "stream": said.get("stream") or "", "kind": said["kind"],
                          "text": said["text"], "author": said["by"], "version": said.get("version", 1),
                          "seq": said.get("corrects") or said["n"], "epoch": -1}.items():
        assert row[column] == value, (column, row, said)
    lasted = said.get("duration_s")
    assert math.isnan(row["duration_s"]) if lasted is None else row["duration_s"] == lasted, (row, said)
    assert math.isnan(row["time_err_us"]), row
others = frame[frame["source"] != "person"]
assert (others["author"] == "").all() and (others["version"] == 0).all() and others["time_err_us"].notna().all()
for row in wanted["others"]:
    assert row in others[["source", "kind", "text"]].values.tolist(), (row, others.to_string())

session = marey.open(folder).session()
assert session.events().equals(frame)
assert session.is_live or session.receipt().check().ok, str(session.receipt().check())
if not session.is_live:
    # A changed byte of what was published is named: in a copy, for a hub may be at work here.
    with tempfile.TemporaryDirectory() as aside:
        copy = Path(shutil.copytree(session.path, Path(aside) / session.path.name))
        path = copy / "annotations.jsonl"
        whole = path.read_bytes()
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        assert str(path) in str(marey.open(copy).session().receipt().check())
