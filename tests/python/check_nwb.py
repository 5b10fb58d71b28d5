"""An NWB file that the Python package made of a published session, opened with pynwb and held against Parquet, cell for cell."""
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mismatch import require

#: What NWB's inspector may miss where nobody told the hub of it: who took part, who did it, where and why.
NOT_TOLD = {"check_subject_exists", "check_experimenter_exists", "check_experiment_description", "check_institution", "check_keywords"}
#: It would leave out a column that says nothing in this session, and a time of samples that were taken before the session began;
#: and a gap with one neighbour has one time, and a stream whose stamps happen to be equidistant keeps them: they were measured.
NOT_OURS = {"check_col_not_nan", "check_time_intervals_stop_after_start", "check_single_row", "check_regular_timestamps",
            "check_timestamp_of_the_first_sample_is_not_negative", "check_table_time_columns_are_not_negative",
            # What the file of another recorder had: no date, texts in JSON; and two epochs are no yes or no.
            "check_session_start_time_old_date", "check_table_values_for_dict", "check_column_binary_capability"}
OWN = ("device_time_ns", "epoch", "time_err_us", "seq")


def check_nwb(session, out):
    """Writes SESSION (as `marey.open` gives it) to OUT and reads it back; gives the cells that were held."""
    from pynwb import NWBHDF5IO, validate

    from marey.nwb import export

    rows = export(session, out)
    faults = validate(path=str(out))
    require(not faults, "pynwb finds %s", faults)
    inspected = inspect(out)
    require(not inspected, "NWB's inspector says %s", inspected)
    info, manifest = session.info(), json.loads((session.path / "manifest.json").read_text())
    with NWBHDF5IO(str(out), "r") as io:
        file = io.read()
        start_us = int(info["anchor"]["utc_ns"]) // 1000
        found = int(np.datetime64(file.session_start_time.replace(tzinfo=None), "us").astype("int64"))
        require(found == start_us, "the session starts at %d us, its anchor says %d", found, start_us)
        require(file.session_start_time.utcoffset().total_seconds() == 0, "%s is not UTC", file.session_start_time)
        cells = 0
        for stream in manifest["streams"]:
            where = "%s/%s" % (stream["device"], stream["stream"])
            require(rows.get(where, 0) == int(stream["rows"]), "%s has %d rows, the manifest says %s", where, rows.get(where, 0), stream["rows"])
            if stream["parts"]:
                table = pa.concat_tables([pq.ParquetFile(session.path / part["path"]).read() for part in stream["parts"]])
                cells += hold_stream(where, file.acquisition["%s.%s" % (stream["stream"], stream["device"])], table, start_us)
        hold_table(file.events, "events", session.path, {"timestamp": "time", "duration": "duration_s"}, start_us)
        hold_table(file.intervals or {}, "gaps", session.path, {"start_time": "time", "stop_time": "until"}, start_us)
        for name in ("channels", "clock_map"):
            hold_table(file.processing["misc"].data_interfaces, name, session.path, {"about": "description"}, start_us)
    return cells


def inspect(out):
    from nwbinspector import inspect_nwbfile

    told = inspect_nwbfile(nwbfile_path=str(out))
    return [(m.check_function_name, m.location, m.message) for m in told if m.check_function_name not in NOT_TOLD | NOT_OURS]


def hold_stream(where, series, table, start_us):
    times = micros(table["time"])
    left = [name for name in table.column_names if name not in ("time", *OWN)]
    cells = 0
    for name, one in series.time_series.items():
        stamps = np.round(one.timestamps[:] * 1e6).astype("int64") + start_us
        require(np.array_equal(stamps, times), "%s: the times of %s are not those of Parquet", where, name)
        names = [name] if name in table.column_names else ["%s_%s" % (name, axis) for axis in "xyz"]
        for at, column in enumerate(names):
            left = [other for other in left if other != column]
            values = one.data[:] if len(names) == 1 else one.data[:][:, at]
            same("%s: %s" % (where, column), values, table[column])
            declared = {k.decode(): v.decode() for k, v in (table.schema.field(column).metadata or {}).items()}
            if column not in OWN:
                require(one.unit == declared.get("unit", one.unit), "%s: %s is in %s", where, column, one.unit)
                require((one.conversion, one.offset) == (float(declared.get("scale", 1)), float(declared.get("offset", 0))),
                        "%s: %s has scale %s and offset %s", where, column, one.conversion, one.offset)
            cells += len(values)
    require(not left, "%s: there is no series for %s", where, left)
    require(set(OWN) <= set(series.time_series), "%s has the series %s", where, sorted(series.time_series))
    return cells


def hold_table(tables, name, folder, names, start_us):
    expected = pq.read_table(folder / ("%s.parquet" % name))
    if expected.num_rows == 0:
        require(name not in tables, "%s has rows that Parquet does not have", name)
        return
    timeless = np.zeros(expected.num_rows, dtype=bool)
    if name == "gaps":
        timeless = (micros(expected["time"]) == 0) & np.isinf(expected["time_err_us"].to_numpy())
        order = np.lexsort((np.arange(len(timeless)), micros(expected["time"]), timeless))
        expected, timeless = expected.take(order), timeless[order]
    table = tables[name]
    originals = [names.get(column, column) for column in table.colnames]
    require(originals == expected.column_names, "%s has the columns %s", name, originals)
    for column, original in zip(table.colnames, originals):
        values, cells = table[column][:], expected[original]
        if pa.types.is_timestamp(cells.type):
            known = np.round(values[~timeless] * 1e6).astype("int64") + start_us
            require(np.array_equal(known, micros(cells)[~timeless]) and np.isnan(values[timeless]).all(), "%s of %s differs", column, name)
        else:
            same("%s of %s" % (column, name), values, cells)


def same(what, values, column):
    kind = column.type
    if pa.types.is_string(kind):
        fact = list(values) == [text or "" for text in column.to_pylist()]
    elif pa.types.is_binary(kind):
        fact = list(values) == [blob.hex() for blob in column.to_pylist()]
    else:
        flat = column.combine_chunks().flatten() if pa.types.is_fixed_size_list(kind) else column
        expected = flat.to_numpy().reshape(values.shape)
        # Bit for bit, so that NaN is NaN and no number was rounded.
        fact = values.dtype == expected.dtype and values.tobytes() == expected.tobytes()
    require(fact, "%s is not what Parquet has", what)


def micros(column):
    return column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools/python"))
    import marey

    print(check_nwb(marey.open(sys.argv[1]).session(), Path(sys.argv[2])), "cells are what Parquet has")
