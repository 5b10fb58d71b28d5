"""A stream seen from afar: least, greatest, mean and count in buckets of time, so that hours are drawn without being read.

Owns: choosing the level of `overview.parquet` (`format-spec/parquet.md`) that is fine enough, and making buckets of the samples
where none is. Nothing here writes.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import pandas as pd

    from .recording import Moment, Stream

#: What each channel has in each bucket.
TOLD = ("min", "max", "mean", "count")


def overview(stream: Stream, points: int, start: Moment | None, end: Moment | None) -> pd.DataFrame:
    """See :meth:`marey.recording.Stream.overview`."""
    if points < 1:
        raise ValueError(f"{points} points are no picture: ask for one at least")
    rows = _stored(stream, start, end)
    if rows is not None and len(rows):
        buckets = rows.reset_index().groupby("width_us")["time"].nunique()
        fine = buckets[buckets <= points]
        # Where the narrowest buckets are wide for what is asked, the samples are few enough to be read.
        if len(fine) and (fine.index[0] > buckets.index[0] or fine.iloc[0] * 4 > points):
            width = int(fine.index[0])
            return _wide(stream, rows[rows["width_us"] == width], width)
    return _made(stream, points, start, end)


def statistics(stream: Stream) -> pd.DataFrame:
    """See :meth:`marey.recording.Stream.statistics`."""
    import pandas as pd

    rows = _stored(stream, None, None)
    if rows is None or not len(rows):
        made = _made(stream, 16, None, None)
        told = {channel: made[channel] for channel in made.columns.unique(0)}
    else:
        top = rows[rows["width_us"] == rows["width_us"].max()]
        told = {channel: top[top["channel"] == channel] for channel in dict.fromkeys(top["channel"])}
    found = {}
    for channel, buckets in told.items():
        count = int(buckets["count"].sum())
        total = (buckets["mean"] * buckets["count"])[buckets["count"] > 0].sum()
        found[channel] = {"count": count, "min": buckets["min"].min(), "max": buckets["max"].max(),
                          "mean": total / count if count else float("nan")}
    frame = pd.DataFrame.from_dict(found, orient="index", columns=["count", "min", "max", "mean"])
    frame.index.name = "channel"
    return frame


def _stored(stream: Stream, start: Moment | None, end: Moment | None) -> pd.DataFrame | None:
    """Its rows of the table, of all levels, that have a part in the span; None where there is no table."""
    from .recording import _utc

    import pandas as pd

    path = stream.session.beside("overview")
    if not path.is_file():
        return None
    filters: list[Any] = [("device", "=", stream.device), ("stream", "=", stream.label)]
    if end is not None:
        filters.append(("time", "<", _utc(end)))
    rows = pq.read_table(path, filters=filters, partitioning=None).to_pandas()
    if start is not None:
        rows = rows[rows.index + pd.to_timedelta(rows["width_us"], unit="us").to_numpy() > _utc(start)]
    return rows


def _wide(stream: Stream, rows: pd.DataFrame, width_us: int) -> pd.DataFrame:
    import pandas as pd

    channels = {channel: rows[rows["channel"] == channel][list(TOLD)] for channel in dict.fromkeys(rows["channel"])}
    return _told(stream, pd.concat(channels, axis=1), width_us)


def _told(stream: Stream, frame: pd.DataFrame, width_us: int) -> pd.DataFrame:
    frame.columns.names = ["channel", None]
    frame.attrs = {"width_us": width_us, "units": stream.units()}
    return frame


def _made(stream: Stream, points: int, start: Moment | None, end: Moment | None) -> pd.DataFrame:
    """The same of the samples: the narrowest buckets of which there are no more than points."""
    import numpy as np
    import pandas as pd

    names = [field.name for field in stream.schema() if field.name in stream.channels() and _is_number(field.type)]
    table = stream.table(columns=names, start=start, end=end)
    times = table["time"].cast(pa.int64()).to_numpy()
    level = 0
    while len(times) and (len(_begins(times >> 2 * level)) > points) and level < 31:
        level += 1
    begins = _begins(times >> 2 * level)
    index = pd.DatetimeIndex((times[begins] >> 2 * level << 2 * level).astype("M8[us]"), name="time").tz_localize("UTC")
    channels = {}
    for name in names:
        values = table[name].to_numpy().astype("float64")
        numbers = ~np.isnan(values)
        count = np.add.reduceat(numbers.astype("int64"), begins) if len(begins) else np.zeros(0, "int64")
        total = np.add.reduceat(np.where(numbers, values, 0.0), begins) if len(begins) else np.zeros(0)
        mean = np.divide(total, count, out=np.full(len(begins), np.nan), where=count > 0)
        least, most = (how.reduceat(values, begins) if len(begins) else np.zeros(0) for how in (np.fmin, np.fmax))
        channels[name] = pd.DataFrame(dict(zip(TOLD, (least, most, mean, count))), index=index)
    frame = pd.concat(channels, axis=1) if channels else pd.DataFrame(index=index, columns=pd.MultiIndex.from_tuples([], names=["channel", None]))
    return _told(stream, frame, 4 ** level)


def _begins(buckets: Any) -> Any:
    """Where each bucket begins, of the bucket of each sample in order."""
    import numpy as np

    return np.flatnonzero(np.diff(buckets, prepend=buckets[:1] - 1)) if len(buckets) else np.zeros(0, "int64")


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
