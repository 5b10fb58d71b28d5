"""Every bucket of a session's overview.parquet, made again of its samples by numpy: SESSION [FEWEST], the fewest buckets that there must
be. Then what the Python package makes of it."""
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools/python"))
import marey

folder, fewest = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
table = pq.read_table(folder / "overview.parquet", partitioning=None)
assert all(column.null_count == 0 for column in table.columns), table.schema
seen = table.to_pandas()
assert str(seen.index.tz) == "UTC" and len(seen) >= fewest, (len(seen), fewest)
session = marey.open(folder).session()


def alike(found, wanted):
    """To the last digits that a sum in another order leaves, whatever cancels."""
    return (math.isnan(found) and math.isnan(wanted)) or found == wanted or abs(found - wanted) <= 1e-12 * largest


numeric = 0
for stream in session.streams():
    # Parts in the order of their names are in order of time.
    samples = pa.concat_tables(pq.read_table(path, partitioning=None) for path in stream.files())
    times = samples["time"].cast(pa.int64()).to_numpy()
    assert (np.diff(times) >= 0).all()
    rows = seen[(seen["device"] == stream.device) & (seen["stream"] == stream.label)]
    names = [f.name for f in samples.schema if f.name not in marey.recording.COMMON
             and (pa.types.is_integer(f.type) or pa.types.is_floating(f.type) or pa.types.is_boolean(f.type))]
    assert sorted(set(rows["channel"])) == sorted(names), (stream, names)
    widths = sorted(set(rows["width_us"]))
    assert all(math.log(width, 4) % 1 == 0 for width in widths) and all(b == 4 * a for a, b in zip(widths, widths[1:])), widths
    for width in widths if names else []:
        ids = times // width
        starts = np.flatnonzero(np.diff(ids, prepend=ids[0] - 1))
        ends = np.append(starts[1:], len(ids))
        for name in names:
            numeric += 1
            level = rows[(rows["width_us"] == width) & (rows["channel"] == name)]
            assert (level.index.as_unit("us").asi8 == ids[starts] * width).all(), (stream, name, width)
            values = samples[name].to_numpy().astype("float64")
            finite = np.abs(values[np.isfinite(values)])
            largest = finite.max() if len(finite) else 0.0
            for row, begin, end in zip(level.itertuples(), starts, ends):
                part = values[begin:end]
                part = part[~np.isnan(part)]
                assert row.count == len(part), (stream, name, width, row)
                if not len(part):
                    assert all(map(math.isnan, (row.min, row.max, row.mean))), row
                    continue
                assert (row.min, row.max) == (part.min(), part.max()), (stream, name, row)
                mean = math.fsum(part) / len(part) if np.isfinite(part).all() else part.sum() / len(part)
                assert alike(row.mean, mean), (stream, name, row, mean)
    if not names:
        continue
    finest = rows[rows["width_us"] == widths[0]]
    assert len(finest) // len(names) <= len(times) // 512 + 2, "a bucket of the narrowest level has 512 samples on the average"
    top = rows[rows["width_us"] == widths[-1]]
    assert len(top) // len(names) <= 16 and (rows.groupby("channel")["count"].sum() == len(widths) * top.groupby("channel")["count"].sum()).all()

    # The package: whole streams by levels, short spans by samples, both the same form.
    for points in (2000, 100, 16, 1):
        picture = stream.overview(points)
        assert len(picture) <= max(points, 2) and set(picture.columns.unique(0)) == set(names), (stream, points, picture)
        for name in names:
            values = samples[name].to_numpy().astype("float64")
            here = picture[name]
            assert here["count"].sum() == (~np.isnan(values)).sum(), (stream, name, points)
            if not np.isnan(values).all():
                assert (here["min"].min(), here["max"].max()) == (np.nanmin(values), np.nanmax(values)), (stream, name, points)
    begin, end = (pd.Timestamp(int(times[len(times) * i // 8]), unit="us", tz="UTC") for i in (3, 5))
    within = stream.overview(200, start=begin, end=end)
    inside = samples.filter(pa.compute.and_(pa.compute.greater_equal(samples["time"], begin), pa.compute.less(samples["time"], end)))
    width = pd.Timedelta(microseconds=within.attrs["width_us"])
    assert len(within) and within.index[0] > begin - width and within.index[-1] < end, (within, begin, end)
    assert within[names[0]]["count"].sum() >= np.count_nonzero(~np.isnan(inside[names[0]].to_numpy().astype("float64")))
    told = stream.statistics()
    assert list(told.index) == names and told.attrs["rows"] == len(times), told
    assert told.attrs["first"] == pd.Timestamp(int(times[0]), unit="us", tz="UTC") and told.attrs["last"] == pd.Timestamp(int(times[-1]), unit="us", tz="UTC")
    for name in names:
        values = samples[name].to_numpy().astype("float64")
        numbers = values[~np.isnan(values)]
        largest = np.abs(numbers[np.isfinite(numbers)]).max(initial=0.0)
        assert told.loc[name, "count"] == len(numbers), told
        if len(numbers) and np.isfinite(numbers).all():
            assert (told.loc[name, "min"], told.loc[name, "max"]) == (numbers.min(), numbers.max()), told
            assert alike(told.loc[name, "mean"], math.fsum(numbers) / len(numbers)), (name, told)
assert numeric, "no channel was checked"
print(f"{len(seen)} buckets of {numeric} levels of channels are those of the samples")
