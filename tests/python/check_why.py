#!/usr/bin/env python3
"""Recomputes every figure of `marey why --json` from the files of the session, with nothing of Marey's.

    check_why.py SESSION WHY.json           exit 0 and one line, or exit 1 and what differs

Parquet is read by pyarrow; the frame by its own header, where it is said to stand; the map and the facts that bind are found
once more in clock_map.parquet and clock_probes.parquet.
"""
import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

session = Path(sys.argv[1])
why = json.loads(Path(sys.argv[2]).read_text())
manifest = json.loads((session / "manifest.json").read_text())
sample, place = why["sample"], why["parquet"]


def same(what, found, said):
    if found != said:
        sys.exit(f"{what}: the files say {found!r}, why says {said!r}")


def ns(column):
    return column.cast("int64").to_numpy()


# The row: where it is said to stand, and that no other is nearer.
file = pq.ParquetFile(session / place["file"])
group = file.read_row_group(place["row_group"])
at = place["row_in_group"]
same("time", int(ns(group["time"])[at]), sample["time_us"])
for name in ("device_time_ns", "epoch", "seq"):
    same(name, group[name][at].as_py(), sample[name])
error = group["time_err_us"][at].as_py()
same("time_err_us", None if math.isinf(error) else error, None if sample["time_err_us"] is None else float(np.float32(sample["time_err_us"])))
before = sum(file.metadata.row_group(i).num_rows for i in range(place["row_group"]))
same("row", before + at, place["row"])
same("generation", manifest["generation"], place["generation"])
parts = next(s["parts"] for s in manifest["streams"] if s["stream"] == why["stream"] and s["device"] == why["device"])
same("the file is a part", place["file"] in [part["path"] for part in parts], True)
away = np.concatenate([np.abs(ns(pq.read_table(session / p["path"], columns=["time"])["time"]) - why["asked_us"]) for p in parts])
same("the nearest", int(away.min()), abs(sample["time_us"] - why["asked_us"]))
first = int(np.argmin(away))
rows_before = 0
for part in parts:
    if part["path"] == place["file"]:
        break
    rows_before += int(part["rows"])
same("the first of the nearest", first, rows_before + place["row"])

# The frame, by the bytes that stand there.
frame = why["log"]
head = (session / frame["file"]).read_bytes()[frame["offset"] : frame["offset"] + frame["bytes"]]
mark, crc, length, kind = struct.unpack_from("<4sIIB", head)
same("mark and kind", (mark, kind), (b"\xf5MF1", 1))
same("crc", f"{crc:08x}", frame["crc"])
same("length", length, frame["bytes"])
count, sequence, index = struct.unpack_from("<IQQ", head, 20)
same("count, sequence, first index", (count, sequence, index), (frame["samples"], frame["sequence"], frame["first_seq"]))
same("row in the frame", sample["seq"] - index, frame["row"])

# The piece of the map.
table = pq.read_table(session / "clock_map.parquet").to_pylist()


def has(ranges, epoch):
    ends = [r.split("-") for r in ranges.split(",")]
    return any(int(e[0]) <= epoch <= int(e[-1]) for e in ends)


pieces = [row for row in table if row["device"] == why["device"] and has(row["epochs"], sample["epoch"])]
piece, stamp = why["map"], sample["device_time_ns"]
number = max((i for i, row in enumerate(pieces) if row["device_time_ns"] <= stamp), default=0)
same("piece", number, piece["piece"])
for name in ("clock", "segment", "device_time_ns", "session_time_ns", "rate"):
    same(name, pieces[number][name], piece[name])
for name in ("err_us", "detectable_us"):
    found = pieces[number][name]
    same(name, None if math.isinf(found) else round(found, 6), None if piece[name] is None else round(piece[name], 6))
offset = pieces[number]["session_time_ns"] - stamp + round((stamp - pieces[number]["device_time_ns"]) * pieces[number]["rate"])
if abs(offset - piece["offset_ns"]) > 1:
    sys.exit(f"offset: {offset} against {piece['offset_ns']}")
if abs(stamp + offset - sample["time_us"] * 1000) > 1000:
    sys.exit("the map does not lead to the published time")

# The bound, and the two facts that it rests on.
bound = why["bound"]
same("rounding", sample["time_us"] * 1000 - bound["estimate_ns"], bound["rounding_ns"])
reach = max(bound["high_ns"] - sample["time_us"] * 1000, sample["time_us"] * 1000 - bound["low_ns"])
same("reach", reach, bound["reach_ns"])
if not reach / 1e3 <= sample["time_err_us"] <= reach / 1e3 * 1.2 + 0.01:
    sys.exit(f"the bound of {sample['time_err_us']} us is none of a reach of {reach} ns")
same("agrees", bound["agrees"], True)
lives = {life["hub_epoch"]: int(life["offset_ns"]) for life in manifest["hub_epochs"]}
receipt = json.loads((session / f"receipt-{manifest['generation']:04}.json").read_text())
same("drift", receipt["time"]["max_drift_ppm"], bound["max_drift_ppm"])
rho = bound["max_drift_ppm"] / 1e6
begins = [row["device_time_ns"] for row in pieces]


def segment_of(device_ns):
    return pieces[max((i for i, begin in enumerate(begins) if begin <= device_ns), default=0)]["segment"]


probes = pq.read_table(session / "clock_probes.parquet").to_pylist()
probes = [p for p in probes if p["device"] == why["device"] and has(pieces[0]["epochs"], p["epoch"]) and p["kind"] != "told"]
checked = 0
for side, up in (("upper", True), ("lower", False)):
    best = None
    for probe in probes:
        if up and probe["kind"] == "ack" or not up and probe["kind"] in ("arrival", "samples"):
            continue
        device = probe["dev_send_ns"] if up else probe["dev_recv_ns"]
        hub = probe["hub_recv_ns"] if up else probe["hub_send_ns"]
        if segment_of(device) != piece["segment"]:
            continue
        distance = abs(stamp - device)
        drift = math.ceil(distance * rho / (1.0 - rho))
        said = bound[side]
        more = drift + said["step_ns"]
        fact_offset = hub + lives[probe["hub_epoch"]] - device
        limit = fact_offset + more if up else fact_offset - more
        if best is None or (limit < best["limit_ns"] if up else limit > best["limit_ns"]):
            best = dict(offset_ns=fact_offset, distance_ns=distance, drift_ns=drift, limit_ns=limit)
    same(f"{side} limit", best["limit_ns"], bound[side]["limit_ns"])
    said = bound[side]
    known = [p for p in probes if p["kind"] == said["kind"] and p["epoch"] == said["epoch"]
             and (p["dev_send_ns"], p["hub_recv_ns"]) == (said["device_ns"], said["hub_ns"])
             or (p["dev_recv_ns"], p["hub_send_ns"]) == (said["device_ns"], said["hub_ns"])]
    same(f"{side}: the packet is known", bool(known), True)
    same(f"{side} offset", said["hub_ns"] + lives[said["hub_epoch"]] - said["device_ns"], said["offset_ns"])
    same(f"{side} distance", abs(stamp - said["device_ns"]), said["distance_ns"])
    same(f"{side} drift", math.ceil(said["distance_ns"] * rho / (1.0 - rho)), said["drift_ns"])
    end = bound["high_ns" if up else "low_ns"] - stamp
    # Rounding widens, by nanoseconds.
    if abs(end - said["limit_ns"]) > 100:
        sys.exit(f"{side}: the interval ends at {end}, the fact that binds gives {said['limit_ns']}")
    checked += 1
same("sides", checked, 2)
print(f"sample {sample['seq']} of {why['stream']} of {why['device']}: every figure is in the files")
