"""What `marey export` wrote, opened with the field's own tools and held against the session's Parquet, value for value:
`csv SESSION FOLDER`, `mcap SESSION FILE` and so on. With `--only` the export is of a part: `from_us until_us device stream`."""
import base64
import json
import math
import struct
import sys
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq

OWN = ["time", "device_time_ns", "epoch", "time_err_us", "seq"]


def parquet(session, only=None):
    """Rows of every stream and device, as dicts; times in whole microseconds."""
    found = {}
    for folder in sorted((session / "streams").glob("stream=*/device=*")):
        stream, device = folder.parent.name.split("=", 1)[1], folder.name.split("=", 1)[1]
        rows = []
        for part in sorted(folder.glob("*.parquet")):
            whole = pq.ParquetFile(part).read()
            whole = whole.set_column(0, "time", whole["time"].cast("int64"))
            rows += whole.to_pylist()
        if only:
            begin, end, of_device, of_stream = only
            if (of_device and of_device != device) or (of_stream and of_stream != stream):
                continue
            rows = [row for row in rows if begin <= row["time"] < end]
        found[stream, device] = rows
    for row in table(session, "channels"):
        if not only or (only[2] in ("", row["device"]) and only[3] in ("", row["stream"])):
            # Of which nothing came.
            found.setdefault((row["stream"], row["device"]), [])
    return found


def table(session, name):
    return pq.read_table(session / f"{name}.parquet").to_pylist()


def same(a, b):
    if isinstance(a, float) and isinstance(b, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def hold(what, found, expected):
    assert len(found) == len(expected), (what, len(found), len(expected))
    for number, (a, b) in enumerate(zip(found, expected)):
        assert list(a) == list(b), (what, number, list(a), list(b))
        for name in b:
            assert same(a[name], b[name]), (what, number, name, a[name], b[name])


def f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def parsed(text, like, is_f32):
    """A cell of text as a value of the type that Parquet has."""
    if isinstance(like, bool):
        return {"true": True, "false": False}[text]
    if isinstance(like, int):
        return int(text)
    if isinstance(like, float):
        return f32(float(text)) if is_f32 else float(text)
    if isinstance(like, bytes):
        return bytes.fromhex(text)
    if isinstance(like, list):
        return json.loads(text)
    return text


def is_f32(session, stream, device, name):
    if name == "time_err_us":
        return True
    rows = [row for row in table(session, "channels") if (row["stream"], row["device"], row["channel"]) == (stream, device, name)]
    return bool(rows) and rows[0]["type"] == "f32"


def check_csv(session, folder, only=None):
    import csv

    import pandas as pd

    expected = parquet(session, only)
    assert {path.name for path in folder.iterdir()} == {f"{s}.{d}.csv" for s, d in expected} | {
        "events.csv", "gaps.csv", "channels.csv", "clock_map.csv", "session.json"}
    for (stream, device), rows in expected.items():
        path = folder / f"{stream}.{device}.csv"
        with path.open(newline="", encoding="utf-8") as file:
            cells = list(csv.reader(file, strict=True))
        head, cells = cells[0], cells[1:]
        assert head[:5] == OWN
        if not rows:
            assert not cells and len(head) > 5
            continue
        # As the standard library reads it, and pandas.
        frame = pd.read_csv(path, parse_dates=["time"], keep_default_na=False, float_precision="round_trip")
        assert str(frame["time"].dtype).endswith("UTC]"), frame["time"].dtype
        assert list(frame["time"].astype("datetime64[us, UTC]").astype("int64")) == [row["time"] for row in rows]
        times = pd.to_datetime([row[0] for row in cells], format="ISO8601", utc=True)
        found = []
        small = {name: is_f32(session, stream, device, name) for name in head}
        for time, row, like in zip(times, cells, rows):
            assert len(row) == len(head)
            values = {"time": time.value // 1000}
            values |= {name: parsed(cell, like[name], small[name]) for name, cell in zip(head[1:], row[1:])}
            found.append(values)
        hold((stream, device), found, rows)
    units = pd.read_csv(folder / "channels.csv", keep_default_na=False)
    known = {(r["stream"], r["device"], r["channel"]): r["unit"] or "" for r in table(session, "channels")}
    for row in units.to_dict("records"):
        assert known[row["stream"], row["device"], row["channel"]] == row["unit"]
    facts = json.loads((folder / "session.json").read_text())
    assert facts["metadata.place"] == 'room "4", <left>' and facts["start"].endswith("Z"), facts
    gaps, events = pd.read_csv(folder / "gaps.csv"), pd.read_csv(folder / "events.csv")
    if not only:
        assert list(gaps["samples"]) == [row["samples"] for row in table(session, "gaps")] and len(gaps) >= 3
        silent = gaps[gaps["stream"] == "silent@1"]
        assert silent["time"].tolist() == ["1970-01-01T00:00:00.000000Z"] and silent["samples"].tolist() == [5], silent
        assert list(events["kind"]) == [row["kind"] for row in table(session, "events")] and len(events) >= 2
    said = [row for row in table(session, "events") if row["source"] == "person"]
    assert {row["author"] for row in said} == {"Dr. Weiss"} and len(said) == 2, said
    if only:
        # What is said of all of the session is said of each of its devices.
        begin, end, device, stream = only
        said = [row for row in said if begin <= row["time"].timestamp() * 1e6 < end
                and (not device or row["device"] in ("", device)) and (not stream or row["stream"] in ("", stream))]
        assert [row["kind"] for row in said] == ["note"], said
    people = events[events["source"] == "person"]
    assert people["text"].tolist() == [row["text"] for row in said] and set(people["author"]) == {"Dr. Weiss"}, people
    return sum(map(len, expected.values()))


def from_json(value, like):
    if isinstance(like, float):
        return float(value)
    if isinstance(like, bytes):
        return base64.b64decode(value, validate=True)
    if isinstance(like, list):
        return [from_json(a, b) for a, b in zip(value, like)] if len(value) == len(like) else value
    return value


def check_mcap(session, path, only=None):
    from mcap.reader import make_reader

    expected = parquet(session, only)
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        assert summary.statistics.message_count >= sum(map(len, expected.values()))
        assert {m.name for m in reader.iter_metadata()} == {"marey.session"}
        facts = next(reader.iter_metadata()).metadata
        assert facts["metadata.participant"] == "P-07 Ö", facts
        found, last, others = {}, 0, {}
        for schema, channel, message in reader.iter_messages(log_time_order=True):
            assert message.log_time >= last, "in order of time through the index"
            last = message.log_time
            value = json.loads(message.data)
            properties = json.loads(schema.data)["properties"]
            assert schema.encoding == "jsonschema" and set(value) == set(properties), (value, properties)
            if "stream" not in channel.metadata:
                others.setdefault(channel.topic, []).append((message, value))
                continue
            key = channel.metadata["stream"], channel.metadata["device"]
            found.setdefault(key, []).append((message, value))
        channels = {c.metadata["stream"]: c for c in summary.channels.values() if "stream" in c.metadata}
        assert {(c.metadata["stream"], c.metadata["device"]) for c in summary.channels.values() if "stream" in c.metadata} == set(expected)
        for (stream, device), rows in expected.items():
            small = {name: is_f32(session, stream, device, name) for name in (rows[0] if rows else [])}
            got = []
            # Of equal times the order is the reader's.
            messages = sorted(found.get((stream, device), []), key=lambda m: (m[0].log_time, m[1]["epoch"], m[1]["seq"]))
            assert len(messages) == len(rows), (stream, device, len(messages), len(rows))
            for (message, value), like in zip(messages, rows):
                assert message.log_time % 1000 == 0 and message.sequence == value["seq"] & 0xFFFFFFFF
                row = {"time": message.log_time // 1000}
                for name in list(like)[1:]:
                    row[name] = from_json(value[name], like[name])
                    if small[name]:
                        row[name] = f32(row[name])
                got.append(row)
            hold((stream, device), got, rows)
        if not only:
            units = json.loads(summary.schemas[channels["gsr@1"].schema_id].data)["properties"]
            assert units["odd_unit"]["unit"] == '<k&m>/"h", [µ]' and units["raw"]["scale"] == 0.001, units
            assert [v["samples"] for _, v in others["/gaps"]] == [row["samples"] for row in sorted(table(session, "gaps"), key=lambda r: r["time"])]
            events = table(session, "events")
            assert [v["kind"] for _, v in others["/events"]] == [row["kind"] for row in events]
            assert [m.log_time // 1000 for m, _ in others["/events"]] == [int(row["time"].timestamp() * 1e6 + 0.5) for row in events]
    return sum(map(len, expected.values()))


def check_xdf(session, path, only=None):
    import datetime

    import pyxdf

    expected = parquet(session, only)
    streams, header = pyxdf.load_xdf(str(path), dejitter_timestamps=False, verbose=False)
    facts = {fact["name"][0]: fact["value"][0] for fact in header["info"]["marey"][0]["fact"] if fact["value"][0]}
    assert facts["metadata.place"] == 'room "4", <left>', facts
    utc = datetime.timezone.utc
    start_us = round(datetime.datetime.fromisoformat(facts["start"]).astimezone(utc).timestamp() * 1e6)
    named = {stream["info"]["name"][0]: stream for stream in streams}
    assert len(named) == len(streams)

    def micros(stream):
        return [round(stamp * 1e6) + start_us for stamp in stream["time_stamps"]]

    def labels(stream):
        return [channel["label"][0] for channel in stream["info"]["desc"][0]["channels"][0]["channel"]]

    first = None
    for (stream, device), rows in expected.items():
        parts = [named.pop(f"{device}/{stream}{suffix}") for suffix in ("", " whole", " text", " clock") if f"{device}/{stream}{suffix}" in named]
        got = [{} for _ in rows]
        for part in parts:
            assert int(part["footer"]["info"]["sample_count"][0]) == len(rows) == len(part["time_stamps"])
            for row, time, values in zip(got, micros(part), part["time_series"]):
                assert row.setdefault("time", time) == time
                row |= zip(labels(part), values)
        small = {name: is_f32(session, stream, device, name) for name in (rows[0] if rows else [])}
        whole = []
        for row, like in zip(got, rows):
            values = {}
            for name, value in like.items():
                if name == "time_err_us":
                    bound = int(row["time_err_ns"])
                    if bound < 0:
                        assert math.isinf(value)
                    else:
                        assert value * 1000 <= bound < value * 1000 + 1.001, (value, bound)
                    values[name] = value
                elif isinstance(value, list):
                    values[name] = [int(row[f"{name}[{at}]"]) for at in range(len(value))]
                elif isinstance(value, bool):
                    values[name] = bool(row[name])
                elif isinstance(value, int):
                    values[name] = int(row[name])
                elif isinstance(value, float):
                    values[name] = f32(float(row[name])) if small[name] else float(row[name])
                elif isinstance(value, bytes):
                    values[name] = bytes.fromhex(row[name])
                else:
                    values[name] = row[name]
            whole.append(values)
        hold((stream, device), whole, rows)
        if rows:
            first = min(first or rows[0]["time"], rows[0]["time"])
    assert set(named) == {"events", "gaps"}, named.keys()
    if not only:
        events, gaps = table(session, "events"), table(session, "gaps")
        assert [row[0] for row in named["events"]["time_series"]] == [row["text"] or row["kind"] for row in events]
        assert micros(named["events"]) == [round(row["time"].timestamp() * 1e6) for row in events]
        at = labels(named["gaps"]).index("samples")
        assert [int(row[at]) for row in named["gaps"]["time_series"]] == [row["samples"] for row in gaps]
        begun = datetime.datetime.fromisoformat(header["info"]["datetime"][0])
        # A gap of a stream of which nothing came lies at the start.
        assert round(begun.timestamp() * 1e6) == min([first, start_us] + [round(row["time"].timestamp() * 1e6) for row in events])
    return sum(map(len, expected.values()))


def check_bids(session, folder, only=None):
    import pandas as pd
    from bids_validator import BIDSValidator

    expected = {key: rows for key, rows in parquet(session, only).items() if rows}
    validator = BIDSValidator()
    paths = [path for path in folder.rglob("*") if path.is_file()]
    for path in paths:
        assert validator.is_bids("/" + path.relative_to(folder).as_posix()), path
    assert json.loads((folder / "dataset_description.json").read_text())["BIDSVersion"]
    assert pd.read_csv(folder / "participants.tsv", sep="\t")["participant_id"].tolist() == ["sub-P07"]
    start_us = 1_795_248_000_000_000
    scans = pd.read_csv(next(folder.rglob("*_scans.tsv")), sep="\t", parse_dates=["acq_time"])
    assert (scans["acq_time"].astype("datetime64[us, UTC]").astype("int64") == start_us).all()
    root = next(folder.rglob("*_scans.tsv")).parent
    assert all((root / name).is_file() for name in scans["filename"]) and len(scans) == len(expected)
    seen = {}
    for sidecar in [path for path in paths if path.name.endswith(("_motion.json", "_physio.json"))]:
        facts = json.loads(sidecar.read_text())
        key = facts["MareyStream"], facts["MareyDevice"]
        rows, channels = expected[key], [r for r in table(session, "channels") if (r["stream"], r["device"]) == key]
        if sidecar.name.endswith("_motion.json"):
            described = pd.read_csv(str(sidecar).replace("_motion.json", "_channels.tsv"), sep="\t", keep_default_na=False)
            names, units = described["name"].tolist(), dict(zip(described["name"], described["units"]))
            assert set(described["type"]) <= {"ACCEL", "GYRO", "MAGN", "MISC", "LATENCY"}
            assert facts["MotionChannelCount"] == len(described) and facts["TaskName"] == "walk"
            path, kind = str(sidecar).replace(".json", ".tsv"), "motion"
        else:
            names, kind = facts["Columns"], "physio"
            units = {name: facts[name]["Units"] for name in names}
            path = str(sidecar).replace(".json", ".tsv.gz")
            assert abs(facts["StartTime"] * 1e6 + start_us - rows[0]["time"]) < 1
        assert kind == ("motion" if key[0].startswith("imu") else "physio"), key
        frame = pd.read_csv(path, sep="\t", header=None, names=names, dtype=str, keep_default_na=False, quoting=3)
        rate = channels[0]["rate_hz"]
        assert facts["SamplingFrequency"] == rate or (math.isnan(rate) and facts["SamplingFrequency"] > 0), facts
        assert [round(float(at) * 1e6) + start_us for at in frame["latency"]] == [row["time"] for row in rows]
        assert frame["seq"].astype("int64").tolist() == [row["seq"] for row in rows]
        for channel in channels:
            name = channel["channel"]
            columns = [f"{name}_{at}" for at in range(channel["length"])] or [name]
            # A column of Marey's own is called so.
            columns = [column + "_" * (column == "latency") for column in columns]
            for at, column in enumerate(columns):
                assert units[column] == (channel["unit"] or "n/a"), (column, units[column])
                for cell, row in zip(frame[column], rows, strict=True):
                    value = row[name][at] if channel["length"] else row[name]
                    assert bids_cell(cell, value, channel), (key, column, cell, value)
        seen[key] = len(frame)
    assert set(seen) == set(expected), (seen, expected.keys())
    events = pd.read_csv(next(folder.rglob("*_events.tsv")), sep="\t")
    assert list(events.columns[:2]) == ["onset", "duration"]
    if not only:
        known = table(session, "events")
        gaps = events[events["trial_type"] == "gap"]
        assert events["trial_type"].tolist()[: len(known)] == [row["kind"] for row in known] and len(events) == len(known) + len(gaps)
        assert gaps["value"].tolist() == [row["cause"] for row in table(session, "gaps")]
        assert 0.25 in events["duration"].tolist()
    return sum(seen.values())


def bids_cell(cell, value, channel):
    if isinstance(value, bool):
        return cell == str(int(value))
    if isinstance(value, bytes):
        return cell == value.hex()
    if isinstance(value, str):
        return cell == ("".join(" " if unicodedata.category(c) == "Cc" else c for c in value) or "n/a")
    if channel["scale"] != 1.0 or channel["offset"] != 0.0:
        value = value * channel["scale"] + channel["offset"]
    if isinstance(value, float) and not math.isfinite(value):
        return cell == "n/a"
    found = f32(float(cell)) if channel["type"] == "f32" else type(value)(cell)
    return same(found, value)


def check_hdf5(session, path, only=None):
    """What `python3 -m marey export-hdf5` writes, by h5py alone; and what it says where it can't."""
    import subprocess

    import h5py

    package = Path(__file__).resolve().parents[2] / "tools/python"

    def export(*arguments):
        call = [sys.executable, "-B", "-m", "marey", "export-hdf5", *map(str, arguments)]
        return subprocess.run(call, cwd=package, capture_output=True, text=True)

    ran = export(session, path)
    assert ran.returncode == 0, ran.stderr
    again = export(session, path)
    assert again.returncode == 2 and "there already" in again.stderr and again.stderr.count("\n") == 1, again
    assert export(path, path.with_suffix(".never")).returncode == 2 and not list(path.parent.glob(".*"))
    expected = {key: rows for key, rows in parquet(session).items() if rows}
    with h5py.File(path) as file:
        assert file.attrs["metadata.participant"] == "P-07 Ö" and file.attrs["start_utc_ns"] == 1_795_248_000_000_000_000
        assert {(s, d) for s in file["streams"] for d in file["streams"][s]} == set(expected)
        for (stream, device), rows in expected.items():
            group = file["streams"][stream][device]
            columns = {name: group[name][:] for name in rows[0]}
            assert [*rows[0]] and set(group) == set(rows[0])
            got = []
            for at, like in enumerate(rows):
                got.append({name: from_hdf5(columns[name][at], value) for name, value in like.items()})
            hold((stream, device), got, rows)
        odd = file["streams/gsr@1/Watch-2/odd_unit"].attrs["unit"]
        assert odd == '<k&m>/"h", [µ]' and file["streams/gsr@1/Watch-2/raw"].attrs["scale"] == 0.001, odd
        assert [int(n) for n in file["gaps/samples"][:]] == [row["samples"] for row in table(session, "gaps")]
        texts = [text.decode() for text in file["events/text"][:]]
        assert texts == [row["text"] or "" for row in table(session, "events")], texts
    return sum(map(len, expected.values()))


def from_hdf5(value, like):
    if isinstance(like, bytes):
        return value.tobytes()
    if isinstance(like, str):
        assert "\0" not in like or "\u2400" in value.decode()
        return value.decode().replace("\u2400", "\0")
    if isinstance(like, list):
        return value.tolist()
    return value.item()


def check_again(session, again, only=None):
    """A session that was exported to MCAP and imported: the same times, values, units, gaps and events, and bounds that hold."""
    before, after = parquet(session), parquet(again)
    assert set(before) == set(after), (set(before), set(after))
    assert not before.pop(("silent@1", "Watch-2")) and not after["silent@1", "Watch-2"]
    for key, rows in before.items():
        order = lambda row: (row["time"], row["epoch"], row["seq"])
        # Two epochs became one: of equal times the order is that of the file.
        names = [name for name in rows[0] if name not in OWN[1:]]
        strip = lambda rows: sorted(([row[name] for name in names] for row in rows), key=repr)
        a, b = strip(rows), strip(after[key])
        assert len(a) == len(b) and all(map(same, a, b)), key
        seqs = [row["seq"] for row in sorted(after[key], key=order)]
        assert all(x < y for x, y in zip(seqs, seqs[1:])), key
        widest = max(row["time_err_us"] for row in rows)
        assert all(widest <= row["time_err_us"] < widest + 5_000 for row in after[key]), (key, widest, after[key][0]["time_err_us"])
    # Of a stream of which nothing came the file has no index that could be missing.
    missing = lambda of: sorted((row["device"], row["stream"], row["samples"]) for row in table(of, "gaps") if row["stream"] != "silent@1")
    assert missing(session) == missing(again) and len(missing(again)) >= 2, (missing(session), missing(again))
    said = lambda of: [(row["time"], row["kind"], row["text"]) for row in table(of, "events") if row["source"] == "device"]
    assert said(session) == said(again) and said(again), (said(session), said(again))
    described = lambda of: [{k: v for k, v in row.items() if v == v} for row in table(of, "channels")]
    assert described(session) == described(again)
    info = json.loads((again / "session.json").read_text())["metadata"]
    assert info["participant"] == "P-07 Ö" and info["imported_from"].endswith(".mcap"), info
    return sum(map(len, before.values()))


def check_table(session, again, only=None):
    """A stream that was exported to CSV and imported."""
    before = parquet(session)["imu@1", "phone_1"]
    ((stream, device), after), = parquet(again).items()
    assert stream == "imu@1" and [row["time"] for row in after] == [row["time"] for row in before]
    for a, b in zip(after, before):
        assert same(f32(a["acc_x"]), b["acc_x"]) and same(a["acc_y"], b["acc_y"]), (a, b)
        assert (a["n"], a["big"], a["ok"]) == (b["n"], b["big"], b["ok"]) and json.loads(a["spectrum"]) == b["spectrum"], (a, b)
    return len(after)


def check_hidden(session, path, only=None):
    """An export under pseudonyms: nothing of what was hidden is anywhere in it, and times have moved by so many days."""
    import csv
    import gzip

    hidden = ["phone_1", "Watch-2", "P-07", "odd-1", "room", "2026-11-21", "stand, then", "1795248", "thumb", "Weiss", "she stands"]
    if path.is_dir():
        contents = {}
        for file in [file for file in path.rglob("*") if file.is_file()]:
            data = file.read_bytes()
            contents[file.relative_to(path).as_posix()] = gzip.decompress(data) if file.suffix == ".gz" else data
    elif path.suffix == ".mcap":
        from mcap.reader import make_reader

        with path.open("rb") as file:
            reader = make_reader(file)
            summary = reader.get_summary()
            contents = {"metadata": repr([m for m in reader.iter_metadata()]).encode(), "summary": repr(summary).encode()}
            for _, channel, message in reader.iter_messages():
                contents[channel.topic] = contents.get(channel.topic, b"") + repr(message.log_time).encode() + message.data
    else:
        contents = {"file": path.read_bytes()}
    whole = 0
    for name, content in contents.items():
        whole += len(content)
        text = name + "\n" + content.decode("utf-8", "replace")
        for word in hidden:
            assert word not in text, (word, name, text[max(0, text.find(word) - 80):][:200])
    if path.is_dir() and (path / "channels.csv").is_file():
        rows = parquet(session)["imu@1", "phone_1"]
        shift_us = -40 * 86_400_000_000
        import pandas as pd

        frame = pd.read_csv(path / "imu@1.dev-a.csv", parse_dates=["time"])
        assert frame["time"].astype("datetime64[us, UTC]").astype("int64").tolist() == [row["time"] + shift_us for row in rows]
        assert frame["device_time_ns"].tolist() == [row["device_time_ns"] + 1000 * shift_us for row in rows]
        facts = json.loads((path / "session.json").read_text())
        assert facts["metadata.participant"] == "A1" and facts["metadata.task"] == "walk" and "metadata.place" not in facts, facts
        with (path / "events.csv").open(newline="") as file:
            events = list(csv.DictReader(file))
        assert events and all(row["device"] in ("dev-a", "") and row["text"] == row["author"] == "" for row in events), events
        assert [row["kind"] for row in events if row["source"] == "person"] == ["artefact", "note"], events
    return whole


def check_plot(session, path, only=None):
    import re
    import xml.etree.ElementTree as xml

    page = xml.parse(path).getroot()
    space = "{http://www.w3.org/2000/svg}"
    panels = page.findall(f"{space}g")
    gaps = [rect for rect in page.iter(f"{space}rect") if rect.get("class") == "gap"]
    text = path.read_text()
    assert "NaN" not in text and "inf" not in text.replace("information", ""), "no number that is none"
    for panel in panels:
        lines = panel.findall(f"{space}polyline")
        assert lines and panel.findall(f"{space}rect")
        for line in lines:
            assert line.get("stroke-linecap") == "round", "one sample by itself is a dot"
            points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
            assert all(0 <= x <= 890 and 0 <= y <= 150 for x, y in points) and points == sorted(points, key=lambda p: p[0])
    titles = [panel.find(f"{space}text").text for panel in panels]
    assert any(re.match("acc_x of imu@1 of phone_1", title) for title in titles), titles
    print(f"{len(panels)} panels, {len(gaps)} gaps", file=sys.stderr)
    return len(gaps) * 1000 + len(panels)


CHECKS = {"again": check_again, "table": check_table, "hidden": check_hidden, "plot": check_plot, "hdf5": check_hdf5, "bids": check_bids, "csv": check_csv, "mcap": check_mcap, "xdf": check_xdf}

if __name__ == "__main__":
    kind, session, path, *only = sys.argv[1:]
    if only:
        only = int(only[0]), int(only[1]), only[2], only[3]
    rows = CHECKS[kind](Path(session), Path(path), only or None)
    print(f"{rows} rows held")
